"""The part of one image where each channel adds most to a side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.drivers import SIZE, WIDTH, slow_attribution
from tests.support.plain import plain_network, write_noise
from torch import nn

from opponent import Network, Preprocessing, Run, attribute, open_images, why
from opponent.core.errors import UnknownGeometry
from opponent.explain import places as places_module
from opponent.explain.drivers import Drivers, rank_channels
from opponent.explain.places import crop_drivers

pytestmark = pytest.mark.usefixtures("one_thread")


def ranked(network: Network, path: Path, feature: str, through: str, shown: int = 1) -> Drivers:
    result = attribute(network, path, feature, through)
    sides = (result.excitation_channels.numpy(), result.inhibition_channels.numpy())
    drivers = rank_channels(*sides, through, 99)
    assert drivers.exciting
    assert drivers.inhibiting
    [entry] = open_images(path, size=network.preprocessing.size)
    return crop_drivers(network, drivers, result, entry, shown)


@pytest.mark.parametrize("feature", ["mixed:1@6,5", "mixed:2@0,9"])
def test_crops_are_what_the_channel_sees_where_it_adds_most(
    integer_run: Run, integer_network: Network, feature: str
) -> None:
    """At one pixel a pixel: the file's own pixels around the place, 3 by 3 or less at a border."""
    path = integer_run.images.find("03.png").path
    pixels = np.asarray(Image.open(path))
    placed = integer_network.resolve(feature)
    s = slow_attribution(integer_network.module, integer_run, "03.png", placed)
    drivers = ranked(integer_network, path, feature, "early")
    checked = set()
    for sign, listed in ((1, drivers.exciting), (-1, drivers.inhibiting)):
        for driver in listed:
            best, place = 0, (0, 0)
            for row in range(SIZE[0]):
                for column in range(SIZE[1]):
                    if sign * s[driver.channel, row, column] > best:
                        best, place = sign * s[driver.channel, row, column], (row, column)
            rows = slice(max(0, place[0] - 1), min(SIZE[0], place[0] + 2))
            columns = slice(max(0, place[1] - 1), min(SIZE[1], place[1] + 2))
            [tile] = driver.exemplars
            np.testing.assert_array_equal(tile.image, pixels[rows, columns])
            assert tile.caption == f"{float(sign * best):+.3g}"
            assert tile.excitation is None
            checked.add((sign, driver.channel, place))
    assert len({place for _, _, place in checked}) > 2
    # A channel that does both has two crops, of two places.
    both = {channel for sign, channel, _ in checked if sign > 0}
    assert both & {channel for sign, channel, _ in checked if sign < 0}
    assert max(channel for _, channel, _ in checked) < WIDTH


def test_the_answer_shows_them_enlarged(tmp_path: Path) -> None:
    """Input pixel (y, x) shows as 42 by 42: the file's noise, less the border that is cut off."""
    network, path = plain_network(), write_noise(tmp_path, 1) / "0.png"
    answer = why(network, path, "after:0", "relu")
    result = attribute(network, path, "after:0", "relu")
    picture = np.asarray(Image.open(path))[42 : 13 * 42, 5 * 42 : 15 * 42]
    for sign, listed in ((1, answer.drivers.exciting), (-1, answer.drivers.inhibiting)):
        for driver in listed:
            values = sign * result.attribution[0, driver.channel].numpy()
            row, column = divmod(int(values.argmax()), values.shape[1])
            # A kernel of 3 by 3 with a stride of 2 and one row and column of padding.
            top, left = max(0, 2 * row - 1), max(0, 2 * column - 1)
            crop = picture[42 * top : 42 * (2 * row + 2), 42 * left : 42 * (2 * column + 2)]
            [tile] = driver.exemplars
            np.testing.assert_array_equal(tile.image, crop)


def no_crops(drivers: Drivers) -> bool:
    return not any(x.exemplars for x in (*drivers.exciting, *drivers.inhibiting))


def test_there_is_no_crop_of_what_has_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, path = plain_network(), write_noise(tmp_path, 1) / "0.png"
    assert no_crops(ranked(network, path, "after:0", "pixels"))
    # The mean over the map sees the whole image, and has neither rows nor columns.
    pooled = why(network, path, "logits:0", "mean").drivers
    assert pooled.exciting or pooled.inhibiting
    assert no_crops(pooled)

    def unknown(*_: Any) -> None:
        raise UnknownGeometry("cannot tell")

    monkeypatch.setattr(places_module, "receptive_fields", unknown)
    assert no_crops(ranked(network, path, "after:0", "relu"))


def test_there_is_no_crop_of_the_whole_image(tmp_path: Path) -> None:
    """Of four rows and columns, the field of 5 by 5 leaves out some at the corners alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        early, late = nn.Conv2d(3, 6, 5, padding=2), nn.Conv2d(6, 1, 4)
    network = Network(
        nn.Sequential(early, nn.ReLU(), late), preprocessing=Preprocessing(size=(4, 4))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path = tmp_path / "4.png"
    Image.fromarray(pixels).save(path)
    result = attribute(network, path, "2:0", "1")
    drivers = ranked(network, path, "2:0", "1")
    seen = set()
    for sign, listed in ((1, drivers.exciting), (-1, drivers.inhibiting)):
        for driver in listed:
            values = sign * result.attribution[0, driver.channel].numpy()
            row, column = divmod(int(values.argmax()), 4)
            whole = row in (1, 2) and column in (1, 2)
            assert bool(driver.exemplars) != whole
            seen.add(whole)
    assert seen == {True, False}
