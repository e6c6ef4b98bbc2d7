"""Images from either end of what remains of their tension, and what drives them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.dictionaries import made
from tests.support.scans import paint_shapes, two_convolutions

import opponent
from opponent import Dictionary, Run
from opponent.attribution.attribute import attribute_each
from opponent.attribution.through_dictionary import in_channels
from opponent.explain.interference_images import InterferenceImages, _ends, interference_images
from opponent.scan.reopen import crop_plan_of

SIZES: Any = {"batch_size": 4, "shard_size": 8}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Dictionary], tuple[Run, Run]]:
    folder = tmp_path_factory.mktemp("ends")
    pictures = paint_shapes(folder / "in", 14)

    def scanned(dictionary: Dictionary) -> tuple[Run, Run]:
        name = dictionary.sha256()[:8]
        first, second = (
            opponent.scan_images(
                two_convolutions(),
                pictures,
                "two:3",
                "relu",
                out=folder / (name + which),
                dictionary=given,
                **SIZES,
            )
            for which, given in (("channels", None), ("latents", dictionary))
        )
        return first, second

    return scanned


@pytest.fixture(scope="module")
def runs(scans: Callable[[Dictionary], tuple[Run, Run]]) -> tuple[Run, Run]:
    return scans(made("topk", 9, 4, layer="relu").to(torch.zeros(1)))


def shown(runs: tuple[Run, Run], **other: int) -> InterferenceImages:
    return interference_images(*runs, network=two_convolutions(), **other)


def test_either_end_is_what_the_scans_say(runs: tuple[Run, Run]) -> None:
    found = opponent.interference(*runs)
    images = shown(runs, k=2, listed=2, crops=1)
    order = found.order(functional=False)
    assert [x.row for x in images.goes] == order[:2].tolist()
    assert [x.row for x in images.stays] == order[::-1][:2].tolist()
    assert images.notes == ()
    for image in (*images.goes, *images.stays):
        row = image.row
        assert image.image == found.images[row]
        assert image.remaining == pytest.approx(found.remaining[row])
        assert image.rest == found.latents.rest[row]  # type: ignore[index]
        assert image.bias == found.latents.bias[row]  # type: ignore[index]
        for run, drivers in zip(runs, (image.by_channels, image.by_latents), strict=True):
            plus, minus = run.channel_sides("two:3", rows=np.array([row]))
            assert drivers.exciting[0].excitation == pytest.approx(plus.max())
            assert drivers.exciting[0].channel == plus.argmax()
            assert drivers.inhibiting[0].channel == minus.argmax()
            assert len(drivers.exciting) <= 2
        assert image.by_latents.exciting[0].name.startswith("relu/latent:")
        window = runs[0].through_window(found.feature)
        assert image.channels.excitation is not None
        assert image.latents.excitation is not None
        assert window.height == 3
    assert images.scale > 0


def test_what_latents_leave_is_counted_in_channels(runs: tuple[Run, Run]) -> None:
    """Against the definition: the gradient of a linear map times the rest, and times D z."""
    images = shown(runs, k=1, listed=1, crops=0)
    network, dictionary = two_convolutions(), images.dictionary
    for image in (*images.goes, *images.stays):
        inputs, _ = network.load_inputs(runs[0].images.find(image.image))
        [units] = attribute_each(network, inputs, [images.found.feature], "relu")
        hidden = network.activations(inputs, "relu")["relu"]
        codes = dictionary.encode(hidden)
        written = dictionary.decode(codes)
        rest = hidden - written - dictionary.bias.view(-1, 1, 1)
        row, column = images.found.feature.position  # type: ignore[misc]
        weight = network.module.two.weight[3].detach()  # type: ignore[union-attr,index]
        around = (slice(None), slice(None), slice(row - 1, row + 2), slice(column - 1, column + 2))
        for part, sides in ((written, image.written_sides), (rest, image.rest_sides)):
            terms = weight * part[around]
            assert sides[0] == pytest.approx(float(terms.clamp(min=0).sum()), abs=1e-5)
            assert sides[1] == pytest.approx(float(-terms.clamp(max=0).sum()), abs=1e-5)
        assert image.rest_sides[0] - image.rest_sides[1] == pytest.approx(image.rest, abs=1e-5)
        assert image.left == pytest.approx(sum(image.rest_sides) / float(units.l1), rel=1e-4)
        least = min(image.written_sides)
        assert image.remaining_of_written == pytest.approx(image.tension[1] / least)


def test_parts_of_a_batch_give_the_same(
    runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = two_convolutions()
    feature = runs[0].features[0]
    plan = crop_plan_of(runs[0], network, [feature])
    inputs = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    dictionary = made("topk", 9, 4).to(inputs)
    whole = in_channels(network, inputs, feature, plan, dictionary)
    monkeypatch.setattr("opponent.attribution.through_dictionary._AT_ONCE", 1)
    parted = in_channels(network, inputs, feature, plan, dictionary)
    torch.testing.assert_close(whole, parted)


def test_no_image_is_at_both_ends(runs: tuple[Run, Run]) -> None:
    images = shown(runs, k=99, listed=1, crops=0)
    rows = [x.row for x in (*images.goes, *images.stays)]
    assert len(set(rows)) == len(rows) == 6
    [note] = images.notes
    assert note == "Only 7 images are among the tenser half of 14, too few for 99 at either end."


def test_few_tense_images_are_said_to_be_few(runs: tuple[Run, Run]) -> None:
    found = opponent.interference(*runs)
    channels, latents = found.channels, found.latents

    def only(tense: int, on: int = 14) -> tuple[list[int], list[int], tuple[str, ...]]:
        few = np.arange(14) < tense
        least = np.minimum(channels.excitation, channels.inhibition)
        changed = replace(
            found,
            channels=replace(channels, inhibition=np.where(few, channels.inhibition, 0 * least)),
            latents=replace(latents, l1=np.where(np.arange(14) < on, latents.l1, 0 * least)),
        )
        return _ends(changed, 2)

    assert only(0)[:2] == ([], [])
    assert only(0)[2][0].startswith("No image is tense: in none of the 14 does two:3@")
    one = only(1)
    assert sorted(one[0] + one[1]) == [0]
    assert one[2] == ("Only 1 image is among the tenser half of 14, too few for 2 at either end.",)
    off = only(1, on=0)
    assert off[:2] == ([], [])
    assert off[2][0].startswith("In 1 of the 14 images no latent is on")
    assert off[2][1] == "No other image is tense, so there is nothing to compare."


def test_a_silent_dictionary_is_refused(
    scans: Callable[[Dictionary], tuple[Run, Run]],
) -> None:
    one = torch.eye(4)
    deaf = Dictionary(
        decoder=one, encoder=one, bias=torch.zeros(4), encoder_bias=torch.full((4,), -1e6),
        kind="relu",
    )  # fmt: skip
    with pytest.raises(opponent.RunError, match=r"no latent .* is on where two:3.* in any of its"):
        opponent.interference(*scans(deaf))


def test_what_does_not_fit_is_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k must be positive, got 0"):
        shown(runs, k=0)
    with pytest.raises(ValueError, match="listed must be positive, got -1"):
        shown(runs, listed=-1)


def test_crops_of_latents_are_of_all_channels(runs: tuple[Run, Run]) -> None:
    """There are more latents than channels, and each listens to all of these."""
    images = shown(runs, k=2, listed=9, crops=9)
    drivers = [x for image in images.goes for x in image.by_latents.exciting]
    assert any(x.channel >= 4 for x in drivers)
    assert all(tile.image.size for x in drivers for tile in x.exemplars)
