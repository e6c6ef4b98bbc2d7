"""Where channels are most active, as crops, and their visualisations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.drivers import DEAD, PLAIN, SIZE, WIDTH, speckle

from opponent import Feature, Network, Run, SynthesisSettings, Unreadable, scan_images
from opponent.core.errors import UnknownGeometry
from opponent.explain import places as places_module
from opponent.explain.channels import exemplar_tiles, who
from opponent.explain.crops import photograph, zoom_for
from opponent.explain.silencing import silence, silence_check
from opponent.geometry.receptive_field import receptive_field
from opponent.reports.explanations import write_who
from opponent.synthesis.transforms import Transforms

pytestmark = pytest.mark.usefixtures("one_thread")


def test_crops_are_what_the_place_sees_of_the_photograph(
    integer_run: Run, integer_network: Network
) -> None:
    """At one pixel a pixel: the file's own pixels around the place, 3 by 3 or less at a border."""
    shown = exemplar_tiles(integer_run, integer_network, range(WIDTH), 9, shown=1)
    assert list(shown) == list(range(WIDTH))
    sizes = set()
    for channel, tiles in shown.items():
        places = integer_run.exemplars(channel, 9)
        assert len(tiles) == len(places) == (0 if channel == DEAD else 9)
        for tile, place in zip(tiles, places, strict=True):
            pixels = np.asarray(Image.open(integer_run.images.find(place.image).path))
            rows = slice(max(0, place.row - 1), min(SIZE[0], place.row + 2))
            columns = slice(max(0, place.column - 1), min(SIZE[1], place.column + 2))
            np.testing.assert_array_equal(tile.image, pixels[rows, columns])
            assert tile.caption == f"{place.activation:.3g}"
            assert tile.excitation is None
            sizes.add(tile.image.shape[:2])
    assert (3, 3) in sizes
    assert sizes & {(2, 3), (3, 2), (2, 2)}


def test_crops_are_enlarged_with_the_photograph(integer_run: Run, integer_network: Network) -> None:
    """At 512 / 12 pixels a pixel, from the larger photograph."""
    [channel] = {0}
    tiles = exemplar_tiles(integer_run, integer_network, [channel], 4)[channel]
    for tile, place in zip(tiles, integer_run.exemplars(channel, 4), strict=True):
        feature = Feature(layer="early", unit=channel, position=(place.row, place.column))
        box = receptive_field(integer_network, feature)
        zoom = zoom_for(PLAIN, box)
        assert zoom == 512 // 12
        large = photograph(integer_run.images.find(place.image), PLAIN, zoom)
        top, left = box.top * zoom, box.left * zoom
        expected = large[top : top + box.height * zoom, left : left + box.width * zoom]
        np.testing.assert_array_equal(tile.image, expected)


@pytest.mark.parametrize("branch", [(0, 32), (32, 96), (96, 112), (112, 128)])
def test_crops_of_each_branch_see_as_far_as_it_does(
    run: Run, embedded: Network, branch: tuple[int, int]
) -> None:
    prepared = run.preprocessing
    channel = next(k for k in range(*branch) if run.exemplars(k))
    tiles = exemplar_tiles(run, embedded, [channel], 9)[channel]
    places = run.exemplars(channel)
    assert len(tiles) == len(places) > 0
    for tile, place in zip(tiles, places, strict=True):
        box = receptive_field(
            embedded, Feature(layer="mixed3a", unit=channel, position=(place.row, place.column))
        )
        zoom = zoom_for(prepared, box)
        large = photograph(run.images.find(place.image), prepared, zoom)
        top, left = box.top * zoom, box.left * zoom
        expected = large[top : top + box.height * zoom, left : left + box.width * zoom]
        np.testing.assert_array_equal(tile.image, expected)


def test_who_carries_the_crops_of_its_channels(integer_run: Run, integer_network: Network) -> None:
    answer = who(integer_run, "mixed:1", channels=4, crops=3, network=integer_network)
    bare = who(integer_run, "mixed:1", channels=4, crops=0)
    for side, without in ((answer.exciting, bare.exciting), (answer.inhibiting, bare.inhibiting)):
        assert [replace(driver, exemplars=()) for driver in side] == list(without)
        for driver in side:
            expected = exemplar_tiles(integer_run, integer_network, [driver.channel], 3)[
                driver.channel
            ]
            assert len(driver.exemplars) == 3
            for tile, other in zip(driver.exemplars, expected, strict=True):
                np.testing.assert_array_equal(tile.image, other.image)
                assert tile.caption == other.caption


def test_crops_without_a_known_receptive_field_are_the_whole_image(
    integer_run: Run, integer_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise UnknownGeometry("cannot tell")

    monkeypatch.setattr(places_module, "receptive_fields", unknown)
    for tile, place in zip(
        exemplar_tiles(integer_run, integer_network, [0], 3, shown=1)[0],
        integer_run.exemplars(0, 3),
        strict=True,
    ):
        pixels = np.asarray(Image.open(integer_run.images.find(place.image).path))
        np.testing.assert_array_equal(tile.image, pixels)


def test_pixels_have_no_crops(integer_network: Network, tmp_path: Path) -> None:
    images = speckle(tmp_path / "in", 12)
    run = scan_images(integer_network, images, "mixed:1", "pixels", out=tmp_path / "run")
    assert exemplar_tiles(run, integer_network, [2, 0], 4) == {2: [], 0: []}
    answer = who(run, network=integer_network)
    assert answer.through == "pixels"
    assert len(answer.excitation) == 3
    assert answer.exciting or answer.inhibiting
    for driver in (*answer.exciting, *answer.inhibiting):
        assert driver.exemplars == ()
        assert driver.name in {"pixels:0", "pixels:1", "pixels:2"}
    assert write_who(answer, tmp_path / "who.svg").stat().st_size > 2000
    inputs = integer_network.inputs(np.asarray(Image.open(images / "03.png"))[None])
    [change] = silence(integer_network, inputs, "mixed:1", "pixels", [1]).tolist()
    without = inputs.clone()
    without[:, 1] = 0
    before, after = (integer_network.run(x, "mixed").target[0, 1, 6, 5] for x in (inputs, without))
    assert change == [float(after - before)]


def test_a_photograph_that_is_gone_is_left_out(integer_network: Network, tmp_path: Path) -> None:
    images = speckle(tmp_path / "in", 20)
    run = scan_images(integer_network, images, "mixed:1", "early", out=tmp_path / "run")
    places = run.exemplars(0, 4)
    before = exemplar_tiles(run, integer_network, [0], 4)[0]
    (images / places[1].image).unlink()
    after = exemplar_tiles(run, integer_network, [0], 4)[0]
    captions = [f"{place.activation:.3g}" for place in places]
    assert [tile.caption for tile in after] == [captions[k] for k in (0, 2, 3)]
    for tile, k in zip(after, (0, 2, 3), strict=True):
        np.testing.assert_array_equal(tile.image, before[k].image)
    # Numbers do not need it either, but silencing does.
    answer = who(run, images=[places[1].image], network=integer_network)
    with pytest.raises(
        Unreadable, match=rf"{places[1].image} was scanned but cannot be read now: no such"
    ):
        silence_check(run, integer_network, answer)


def test_channels_are_visualised_where_settings_are_given(run: Run, embedded: Network) -> None:
    quick = SynthesisSettings(steps=1, canvas=(48, 48), transforms=Transforms(draws=1))
    calls: list[tuple[str, int, int]] = []
    answer = who(
        run, "mixed3b:189", channels=3, crops=0, network=embedded, visualise=quick,
        progress=lambda *x: calls.append(x),
    )  # fmt: skip
    made: dict[int, bytes] = {}
    for driver in (*answer.exciting, *answer.inhibiting):
        assert driver.exemplars == ()
        assert driver.visualisation is not None
        assert driver.visualisation.image.shape[2] == 4
        assert np.isfinite(driver.visualisation.image).all()
        # A channel on both sides has one visualisation, and no two channels have the same.
        pixels = driver.visualisation.image.tobytes()
        assert made.setdefault(driver.channel, pixels) == pixels
    assert len(set(made.values())) == len(made) >= 3
    assert calls[-1][1:] == (len(made), len(made))
    assert all(done <= steps == len(made) for _, done, steps in calls)
