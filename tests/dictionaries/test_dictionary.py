"""Dictionaries: how vectors are written by them, and files of them, also damaged and others'."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.optimize import nnls
from tests.support.dictionaries import made
from torch import Tensor

from opponent import Dictionary


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def slow_codes(dictionary: Dictionary, vector: Tensor) -> list[float]:
    """One vector's code, written from the definition."""
    encoder = dictionary.encoder
    assert encoder is not None
    heard = []
    for latent in range(dictionary.latents):
        total = float(dictionary.encoder_bias[latent])
        for channel in range(dictionary.channels):
            total += float(vector[channel] - dictionary.bias[channel]) * float(
                encoder[latent, channel]
            )
        heard.append(total)
    if dictionary.kind == "linear":
        return heard
    heard = [max(0.0, each) for each in heard]
    if dictionary.active is not None:
        largest = sorted(heard, reverse=True)[: dictionary.active]
        heard = [each if each >= largest[-1] else 0.0 for each in heard]
    return heard


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["linear", "relu", "topk"]), st.integers(0, 10**6))
def test_codes_are_those_of_the_definition(kind: str, seed: int) -> None:
    dictionary = made(kind, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    codes = dictionary.encode(hidden)
    assert codes.shape == (2, 7, 3, 2)
    for image, row, column in np.ndindex(2, 3, 2):
        expected = slow_codes(dictionary, hidden[image, :, row, column])
        np.testing.assert_allclose(codes[image, :, row, column], expected, atol=1e-12)
    if kind == "topk":
        assert int((codes > 0).sum(1).max()) <= 3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_codes_that_are_not_negative_leave_the_smallest_rest(seed: int, latents: int) -> None:
    """Against SciPy's active-set solver."""
    decoder = torch.rand(
        latents, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    dictionary = made("nonnegative", latents, 9, seed, decoder=decoder)
    hidden = torch.rand(1, 9, 2, 1, generator=torch.Generator().manual_seed(seed + 1))
    hidden = hidden.double() + dictionary.bias.view(-1, 1, 1)
    codes = dictionary.encode(hidden)
    assert bool((codes >= 0).all())
    for row in range(2):
        vector = hidden[0, :, row, 0] - dictionary.bias
        best = nnls(decoder.T.numpy(), vector.numpy())[1]
        rest = float((vector - codes[0, :, row, 0] @ decoder).norm())
        assert rest <= best + 1e-3 * float(vector.norm())


def test_latents_add_up_to_what_they_are_decoded_to() -> None:
    dictionary = made("relu")
    codes = randn(2, 7, 3, 2).abs().double()
    decoded = dictionary.decode(codes)
    for image, row, column in np.ndindex(2, 3, 2):
        expected = sum(
            codes[image, latent, row, column] * dictionary.decoder[latent] for latent in range(7)
        )
        np.testing.assert_allclose(decoded[image, :, row, column], expected, atol=1e-12)


def test_the_identity_changes_nothing() -> None:
    hidden = randn(2, 5, 3, 4)
    dictionary = Dictionary.identity(5, "mixed3a")
    assert torch.equal(dictionary.encode(hidden), hidden)
    assert torch.equal(dictionary.decode(hidden), hidden)


def test_many_vectors_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary, hidden = made("topk"), randn(3, 4, 5, 6).double()
    whole = dictionary.encode(hidden)
    monkeypatch.setattr("opponent.dictionaries.dictionary._AT_ONCE", 40)
    torch.testing.assert_close(dictionary.encode(hidden), whole)


@pytest.mark.parametrize("kind", ["linear", "relu", "topk", "nonnegative"])
def test_files_come_back(tmp_path: Path, kind: str) -> None:
    dictionary = made(kind, layer="mixed4c", provenance={"steps": 800}).to(torch.zeros(1))
    dictionary.save(tmp_path / "d.safetensors")
    again = Dictionary.load(tmp_path / "d.safetensors")
    assert again.sha256() == dictionary.sha256()
    assert (again.kind, again.active) == (dictionary.kind, dictionary.active)
    assert (again.layer, again.provenance) == ("mixed4c", {"steps": 800})
    assert repr(again).startswith(f"Dictionary(7 latents, {kind}")
    other = made(kind, seed=1).to(torch.zeros(1))
    assert other.sha256() != dictionary.sha256()


def test_others_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"decoder": randn(6, 3).half(), "encoder": randn(6, 3)}, path)
    theirs = Dictionary.load(path)
    assert (theirs.kind, theirs.layer, theirs.latents, theirs.channels) == ("relu", None, 6, 3)
    assert not theirs.bias.any()
    save_file(
        {"decoder": randn(6, 3), "encoder": randn(6, 3), "bias": torch.ones(3)}, path,
        {"dictionary": json.dumps({"kind": "topk", "active": 2})},
    )  # fmt: skip
    assert Dictionary.load(path).active == 2


D, E = randn(6, 3), randn(6, 3)
WRONG: list[tuple[dict[str, Tensor], dict[str, Any], str]] = [
    ({}, {}, "no array 'decoder'"),
    ({"decoder": D}, {}, "has an encoder"),
    ({"decoder": D.int(), "encoder": E}, {}, "no array of numbers with 2 axes"),
    ({"decoder": D[0], "encoder": E}, {}, "no array of numbers with 2 axes"),
    ({"decoder": D, "encoder": E.T.contiguous()}, {}, r"encoder has shape \(3, 6\)"),
    ({"decoder": D, "encoder": E, "bias": torch.zeros(6)}, {}, r"bias has shape \(6,\)"),
    ({"decoder": D * torch.nan, "encoder": E}, {}, "decoder holds NaN"),
    ({"decoder": D, "encoder": E / 0}, {}, "encoder holds NaN or infinity"),
    ({"decoder": D * 0, "encoder": E}, {}, "all latents are dead"),
    ({"decoder": D[:0], "encoder": E[:0]}, {}, "has no latent"),
    ({"decoder": D, "encoder": E}, {"kind": "jump"}, "kind is one of topk"),
    ({"decoder": D, "encoder": E}, {"kind": "topk"}, "which needs it"),
    ({"decoder": D, "encoder": E}, {"kind": "topk", "active": 7}, "7 of 6 latents"),
    ({"decoder": D, "encoder": E}, {"kind": "topk", "active": "2"}, "other types"),
    ({"decoder": D, "encoder": E}, {"kind": 3}, "other types"),
    ({"decoder": D, "encoder": E}, {"kind": "relu", "active": 2}, "for the kind 'topk'"),
]


@pytest.mark.parametrize(("arrays", "about", "message"), WRONG)
def test_what_is_no_dictionary_is_refused(
    tmp_path: Path, arrays: dict[str, Tensor], about: dict[str, Any], message: str
) -> None:
    path = tmp_path / "d.safetensors"
    save_file(arrays, path, {"dictionary": json.dumps(about)})
    with pytest.raises(ValueError, match=rf"d\.safetensors holds no dictionary: .*{message}"):
        Dictionary.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no dictionary at"):
        Dictionary.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(OSError, match=r"d\.safetensors is no safetensors file"):
        Dictionary.load(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"ending \.safetensors"):
        made("relu").save(tmp_path / "d.pt")


def test_maps_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="of 4 channels does not fit maps of 5"):
        made("relu").encode(torch.zeros(1, 5, 2, 2, dtype=torch.float64))
