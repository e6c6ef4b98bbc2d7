"""Inversions by latents: the decoded target, as loops write it; the identity is the channels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.dictionaries import made
from tests.support.scans import branched, paint_shapes
from tests.support.synthesis import QUICK, SIZE, Recorder, seeded, toy
from torch import Tensor, nn

import opponent
from opponent import Dictionary, EmptyTarget, Network, Synthesis, accentuate, attribute, invert
from opponent.core.side import SIDES, Side
from opponent.synthesis.cache import synthesise
from opponent.synthesis.inversion import invert_attribution
from opponent.synthesis.objectives import DotCosine
from opponent.synthesis.targets import decoded

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = [*SIDES, Side.BOTH]


def inputs(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=seeded())


def small(kind: str, **other: object) -> Dictionary:
    return made(kind, 9, 6, layer="relu", **other).to(torch.zeros(1))  # type: ignore[arg-type]


def slow_direction(s: Tensor, code: Tensor, side: Side, decoder: Tensor) -> Tensor:
    """Latent by latent, position by position: its part of a side, along its own direction."""
    direction = torch.zeros(len(s), decoder.shape[1], *s.shape[2:], dtype=torch.float64)
    for image, latent, row, column in np.ndindex(*s.shape):
        term = float(s[image, latent, row, column])
        part = {
            Side.EXCITATION: max(term, 0.0),
            Side.INHIBITION: max(-term, 0.0),
            Side.BOTH: abs(term),
        }[side]
        vector = decoder[latent].double()
        length = sum(float(x) ** 2 for x in vector) ** 0.5
        up = 1 if code[image, latent, row, column] > 0 else -1
        direction[image, :, row, column] += up * part * vector / length
    return direction


@pytest.mark.parametrize("side", ALL)
@pytest.mark.parametrize("kind", ["topk", "relu", "linear", "nonnegative"])
def test_the_target_is_what_the_latents_of_a_side_write(kind: str, side: Side) -> None:
    network, dictionary = toy(), small(kind)
    result = attribute(network, inputs(), "end:1", "relu", dictionary=dictionary)
    expected = slow_direction(result.window_attribution, result.hidden, side, dictionary.decoder)
    seen = Recorder(DotCosine())
    once = opponent.SynthesisSettings(steps=1, objective=seen, transforms=QUICK.transforms)
    invert(network, inputs(), "end:1", "relu", side=side, settings=once, dictionary=dictionary)
    [views] = seen.seen
    assert views.target is not None
    torch.testing.assert_close(views.target.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_layer_is_measured_from_the_dictionarys_bias() -> None:
    network, dictionary = toy(), small("topk")
    shifted = made("topk", 9, 6, layer="relu", bias=torch.zeros(6)).to(torch.zeros(1))
    found = []
    for each in (dictionary, shifted):
        seen = Recorder(DotCosine())
        once = opponent.SynthesisSettings(steps=1, objective=seen, transforms=QUICK.transforms)
        invert(network, inputs(), "end:1", "relu", side="both", settings=once, dictionary=each)
        found.append(seen.seen[0].hidden)
    bias = dictionary.bias.view(-1, 1, 1)
    torch.testing.assert_close(found[0], found[1] - bias)


def test_the_length_of_a_decoder_does_not_count() -> None:
    """Twice the decoder and half the code give the same S, and the same direction."""
    one = small("linear")
    factors = torch.linspace(0.5, 3, 9)[:, None]
    assert one.encoder is not None
    other = Dictionary(
        decoder=one.decoder * factors, encoder=one.encoder / factors, bias=one.bias,
        encoder_bias=one.encoder_bias / factors[:, 0], kind="linear",
    )  # fmt: skip
    weights = torch.randn(2, 9, 3, 3, generator=seeded())
    torch.testing.assert_close(decoded(weights, one), decoded(weights, other))


def test_a_dead_latent_has_no_direction() -> None:
    decoder = torch.eye(3)
    decoder[1] = 0
    dictionary = Dictionary(
        decoder=decoder, encoder=torch.eye(3), bias=torch.zeros(3), encoder_bias=torch.zeros(3),
        kind="linear",
    )  # fmt: skip
    assert decoded(torch.ones(1, 3, 1, 1), dictionary).flatten().tolist() == [1, 0, 1]


def same(one: Synthesis, other: Synthesis) -> None:
    for name in ("image", "opacity", "objective", "activation", "final"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("side", ALL)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_the_identity_inverts_as_channels_do(activation: type[nn.Module], side: Side) -> None:
    network = toy(activation=activation)
    dictionary = Dictionary.identity(6)
    results = [
        invert(network, inputs(), "end:1", "relu", side=side, settings=QUICK, dictionary=given)
        for given in (None, dictionary)
    ]
    same(*results)


def test_the_identity_accentuates_as_channels_do(tmp_path: Path) -> None:
    picture = paint_shapes(tmp_path / "in", 1)
    same(*[
        accentuate(toy(), picture, "end:1", "relu", side="inhibition", settings=QUICK,
                   dictionary=given)
        for given in (None, Dictionary.identity(6))
    ])  # fmt: skip


def test_given_attributions_are_decoded_as_those_of_images() -> None:
    network, dictionary = toy(), small("linear")
    result = attribute(network, inputs(), "end:1", "relu", dictionary=dictionary)
    asked = {"side": "inhibition", "settings": QUICK, "dictionary": dictionary}
    ours = invert_attribution(
        network, result.window_attribution, "end:1", "relu", hidden=result.hidden, **asked
    )  # type: ignore[arg-type]
    theirs = invert(network, inputs(), "end:1", "relu", **asked)  # type: ignore[arg-type]
    torch.testing.assert_close(ours.image, theirs.image)
    with pytest.raises(ValueError, match=r"takes \(n, 9, 3, 3\)"):
        invert_attribution(network, torch.ones(1, 6, 3, 3), "end:1", "relu", **asked)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of 5 channels, and 'relu' has 6"):
        invert(network, inputs(), "end:1", "relu", side="both", dictionary=made("relu", 9, 5))


def test_a_side_without_latents_is_refused() -> None:
    one = torch.zeros(1, 6)
    one[0, 2] = 1
    # Of one latent, whose drive has one sign at each place; at most one side is empty.
    dictionary = Dictionary(
        decoder=one, encoder=-one, bias=torch.zeros(6), encoder_bias=torch.zeros(1), kind="relu"
    )
    with pytest.raises(EmptyTarget, match="nothing excites end:1@10,8 through 'relu'"):
        invert(toy(), inputs(), "end:1", "relu", side="excitation", dictionary=dictionary)


def test_a_run_keeps_inversions_by_its_dictionary(tmp_path: Path) -> None:
    pictures, network = paint_shapes(tmp_path / "in", 4), branched()
    dictionary = made("topk", 9, 4, layer="early").to(torch.zeros(1))
    runs = [
        opponent.scan_images(
            network, pictures, "mixed:4", "early", out=tmp_path / str(number), dictionary=given
        )
        for number, given in enumerate((None, Dictionary.identity(4), dictionary))
    ]
    pixels = []
    for run in runs:
        made_ = synthesise(
            run, network, run.feature(), "001.png", "inversion", Side.INHIBITION, QUICK
        )
        pixels.append(made_.pixels())
        about = json.loads(made_.path.with_suffix(".json").read_text())
        record = run.manifest.dictionary
        assert about.get("dictionary_sha256") == (None if record is None else record.sha256)
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert (pixels[0] != pixels[2]).any()
    own = invert(
        network, pictures / "001.png", "mixed:4", "early", side="inhibition", settings=QUICK,
        dictionary=dictionary,
    )  # fmt: skip
    np.testing.assert_array_equal(pixels[2], own.rgba()[0])


def test_a_file_serves_as_dictionary(tmp_path: Path) -> None:
    network: Network = toy()
    dictionary = small("topk")
    dictionary.save(tmp_path / "d.safetensors")
    same(*[
        invert(network, inputs(), "end:1", "relu", side="both", settings=QUICK, dictionary=given)
        for given in (dictionary, tmp_path / "d.safetensors")
    ])  # fmt: skip
