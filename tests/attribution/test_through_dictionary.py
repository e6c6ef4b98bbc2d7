"""S over a dictionary's latents: its terms, against slow twins and the unit basis."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.dictionaries import made
from tests.support.scans import branched, two_convolutions

import opponent
from opponent import Dictionary
from opponent.attribution import through_dictionary
from opponent.attribution.attribute import attribute_each

PAIRS = {"head:2": "mixed", "head:1": "early", "mixed:1": "early"}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["linear", "relu", "topk", "nonnegative"]), st.sampled_from([*PAIRS]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_all_terms_sum_to_the_gradient_times_h(kind: str, target: str, seed: int) -> None:
    network, through = branched().to(dtype=torch.float64), PAIRS[target]
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(seed)).double()
    channels = network.map_shape(through)[0]
    dictionary = made(kind, 9, channels, seed)
    units = opponent.attribute(network, images, target, through)
    found = opponent.attribute(network, images, target, through, dictionary=dictionary)
    assert found.bias is not None
    assert found.rest is not None
    total = found.excitation - found.inhibition + found.bias + found.rest
    expected = units.excitation - units.inhibition
    assert float((total - expected).abs().max()) < 1e-10
    assert torch.equal(found.activation, units.activation)
    assert found.window == units.window


def test_each_term_is_that_of_the_definition() -> None:
    """From the network itself: what one latent more adds, by differences, times its code."""
    network = two_convolutions().to(dtype=torch.float64)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    dictionary = made("topk", 6, 4)
    found = opponent.attribute(network, images, "two:3", "relu", dictionary=dictionary)
    hidden = network.activations(images, "relu")["relu"]
    read = found.feature
    assert read.position is not None

    @torch.no_grad()
    def activation(maps: torch.Tensor) -> float:
        return float(network.module.two(maps)[0, 3, *read.position])  # type: ignore[operator]

    box, step = found.window, 1e-4
    bias, rest = 0.0, 0.0
    for row, column in np.ndindex(box.height, box.width):
        at = (0, slice(None), box.top + row, box.left + column)
        codes = dictionary.encode(hidden)[at]
        left = hidden[at] - dictionary.bias - codes @ dictionary.decoder
        for total, direction in (("bias", dictionary.bias), ("rest", left)):
            moved = hidden.clone()
            moved[at] += direction
            # The convolution is linear.
            bias += (activation(moved) - activation(hidden)) * (total == "bias")
            rest += (activation(moved) - activation(hidden)) * (total == "rest")
        for latent in range(6):
            moved = hidden.clone()
            moved[at] += step * dictionary.decoder[latent]
            slope = (activation(moved) - activation(hidden)) / step
            term = float(found.window_attribution[0, latent, row, column])
            assert term == pytest.approx(slope * float(codes[latent]), abs=1e-8)
    assert float(found.bias[0]) == pytest.approx(bias, abs=1e-10)  # type: ignore[index]
    assert float(found.rest[0]) == pytest.approx(rest, abs=1e-10)  # type: ignore[index]


def test_the_identity_gives_the_unit_basis_to_the_byte() -> None:
    network = opponent.load()
    images = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    units = opponent.attribute(network, images, "mixed3b:189", "mixed3a")
    dictionary = Dictionary.identity(network.map_shape("mixed3a")[0], "mixed3a")
    found = opponent.attribute(network, images, "mixed3b:189", "mixed3a", dictionary=dictionary)
    for name in (
        "activation", "window_attribution", "hidden", "excitation", "inhibition", "l1", "l2",
        "excitation_map", "inhibition_map", "channels", "inhibition_channels", "tension",
    ):  # fmt: skip
        assert torch.equal(getattr(found, name), getattr(units, name)), name
    assert found.rest is not None
    assert not found.rest.any()
    assert not found.bias.any()  # type: ignore[union-attr]


def test_several_features_and_parts_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = branched()
    images = torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    dictionary = made("topk", 9, 4).to(images)
    features = [opponent.Feature.parse(name) for name in ("mixed:1", "mixed:4")]
    whole = attribute_each(network, images, features, "early", dictionary=dictionary)
    monkeypatch.setattr(through_dictionary, "_AT_ONCE", 1)
    parted = attribute_each(network, images, features, "early", dictionary=dictionary)
    for one, other, feature in zip(whole, parted, features, strict=True):
        torch.testing.assert_close(one.window_attribution, other.window_attribution)
        torch.testing.assert_close(one.rest, other.rest)
        alone = opponent.attribute(network, images, feature, "early", dictionary=dictionary)
        torch.testing.assert_close(one.attribution, alone.attribution)


def test_files_of_dictionaries_serve(tmp_path: Any) -> None:
    dictionary = made("relu", 9, 4).to(torch.zeros(1))
    dictionary.save(tmp_path / "d.safetensors")
    images = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    by_file = opponent.attribute(
        branched(), images, "mixed:1", "early", dictionary=tmp_path / "d.safetensors"
    )
    itself = opponent.attribute(branched(), images, "mixed:1", "early", dictionary=dictionary)
    assert torch.equal(by_file.window_attribution, itself.window_attribution)
    assert by_file.window_attribution.shape[1] == 9


def test_what_does_not_fit_is_refused() -> None:
    network = branched()
    images = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))

    def attribute(dictionary: Dictionary, **other: Any) -> object:
        return opponent.attribute(
            network, images, "mixed:1", "early", dictionary=dictionary, **other
        )

    with pytest.raises(ValueError, match="of 5 channels, and 'early' has 4"):
        attribute(made("relu", 9, 5))
    with pytest.raises(ValueError, match="is of 'mixed', not of 'early'"):
        attribute(made("relu", 9, 4, layer="mixed"))
    with pytest.raises(ValueError, match="takes the rule 'gradient', not 'integrated-zero/4'"):
        attribute(made("relu", 9, 4), rule="integrated-zero/4")
