"""Who drives a feature: channel by channel against slow twins, their crops, and silencing them."""

import copy
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.figures import words
from torch import Tensor, nn
from typer.testing import CliRunner

from opponent import (
    Feature,
    Network,
    Preprocessing,
    Run,
    RunError,
    SynthesisSettings,
    Unreadable,
    attribute,
    load,
    scan_images,
    select,
)
from opponent.atlas.atlas import Cell
from opponent.cli import app
from opponent.core.errors import UnknownGeometry
from opponent.explain.channels import Silenced, Who, exemplar_tiles, silence, silence_check, who
from opponent.explain.crops import photograph, zoom_for
from opponent.geometry.receptive_field import receptive_field
from opponent.plots import plot_who
from opponent.reports.explanations import silence_facts, write_who
from opponent.selection import SELECTIONS
from opponent.synthesis.transforms import Transforms

# The package gives the function the name of its module.
MODULE = importlib.import_module("opponent.explain.channels")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# A network of whole numbers, in which all is exact


SIZE = (12, 10)
WIDTH = 14  # channels of the through layer
TWINS, DEAD = (2, 3), 5  # two channels that are alike, and one that is never active


class Whole(nn.Module):
    """Two convolutions with whole numbers, each before a ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.first, self.early = nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(inplace=True)
        self.second, self.mixed = nn.Conv2d(WIDTH, 4, 3, padding=1), nn.ReLU(inplace=True)
        for layer in (self.first, self.second):
            for values in (layer.weight, layer.bias):
                drawn = rng.integers(-3, 4, tuple(values.shape)).astype(np.float32)
                values.data = torch.from_numpy(drawn)
        with torch.no_grad():
            self.first.bias[DEAD] = -1000
            for values in (self.first.weight, self.first.bias):
                values[TWINS[1]] = values[TWINS[0]]
            self.second.weight[:, TWINS[1]] = self.second.weight[:, TWINS[0]]

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(self.second(self.early(self.first(x))))


PLAIN = Preprocessing(size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def whole() -> Network:
    with torch.random.fork_rng(devices=[]):
        network = Network(Whole(), preprocessing=PLAIN, name="whole")
    _ = network.layers
    return network


def speckle(folder: Path, count: int) -> Path:
    """Pictures as large as that network's input, of black and white in each colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    for number in range(count):
        pixels = 255 * (rng.random((*SIZE, 3)) < 0.4).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def exact(whole: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of 30 speckles by that network, in uneven shards and batches."""
    folder = tmp_path_factory.mktemp("exact")
    return scan_images(
        whole,
        speckle(folder / "in", 30),
        ["mixed:1", "mixed:2@0,9"],
        "early",
        out=folder / "run",
        batch_size=4,
        shard_size=11,
    )


def slow_attribution(module: Any, run: Run, image: str, feature: Feature) -> np.ndarray:
    """S of that network, one product after the other, in whole numbers."""
    x = np.asarray(Image.open(run.images.find(image).path)).transpose(2, 0, 1) // 255
    first = [t.detach().numpy().astype(int) for t in (module.first.weight, module.first.bias)]
    weight = module.second.weight.detach().numpy().astype(int)
    assert feature.position is not None
    s = np.zeros((WIDTH, *SIZE), dtype=int)
    padded = np.pad(x.astype(int), ((0, 0), (1, 1), (1, 1)))
    for k in range(WIDTH):
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                patch = padded[:, row : row + 3, column : column + 3]
                hidden = max(0, int((first[0][k] * patch).sum()) + int(first[1][k]))
                down, right = row - feature.position[0] + 1, column - feature.position[1] + 1
                if 0 <= down < 3 and 0 <= right < 3:
                    s[k, row, column] = hidden * weight[feature.unit or 0, k, down, right]
    return s


@pytest.mark.parametrize("name", ["mixed:1@6,5", "mixed:2@0,9"])
def test_every_number_by_hand(exact: Run, whole: Network, name: str) -> None:
    feature = exact.feature(name)
    images = ["03.png", "21.png", "11.png", "00.png"]
    found = who(exact, feature, images=images, channels=WIDTH, crops=0)
    s = np.stack([slow_attribution(whole.module, exact, image, feature) for image in images])
    assert found.feature == feature
    assert found.through == "early"
    assert found.images == tuple(images)
    assert found.about == "4 images"
    plus, minus = (np.maximum(side, 0).sum((2, 3)).mean(0) for side in (s, -s))
    np.testing.assert_array_equal(found.excitation, plus)
    np.testing.assert_array_equal(found.inhibition, minus)
    sums = s.sum((2, 3))
    mean, spread = sums.mean(0), sums.std(0)
    channels = range(WIDTH)
    up = sorted((k for k in channels if mean[k] > 0), key=lambda k: (-mean[k], k))
    down = sorted((k for k in channels if mean[k] < 0), key=lambda k: (mean[k], k))
    assert [driver.channel for driver in found.exciting] == up
    assert [driver.channel for driver in found.inhibiting] == down
    assert up
    assert down
    for driver in (*found.exciting, *found.inhibiting):
        assert driver.mean == mean[driver.channel]
        assert driver.spread == pytest.approx(spread[driver.channel], rel=1e-12)
        assert driver.name == f"early:{driver.channel}"
        assert driver.exemplars == ()
        assert driver.visualisation is None
    assert DEAD not in {*up, *down}
    assert found.deviation == pytest.approx(exact.columns(feature).activation.std())
    # Twin channels are a tie: the first comes first.
    side = up if TWINS[0] in up else down
    assert side.index(TWINS[1]) == side.index(TWINS[0]) + 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_more_channels_than_were_asked_for(exact: Run, count: int) -> None:
    everyone = who(exact, channels=WIDTH, crops=0)
    some = who(exact, channels=count, crops=0)
    assert some.exciting == everyone.exciting[:count]
    assert some.inhibiting == everyone.inhibiting[:count]
    np.testing.assert_array_equal(some.excitation, everyone.excitation)


def test_silencing_takes_away_what_a_channel_adds(exact: Run, whole: Network) -> None:
    """From the ReLU on that network is linear: the change is -S, to the last bit."""
    for feature in exact.features:
        found = who(exact, feature, channels=WIDTH, crops=0)
        chosen = [driver.channel for driver in (*found.inhibiting, *found.exciting)]
        pixels = [np.asarray(Image.open(exact.images.find(x).path)) for x in found.images]
        inputs = whole.inputs(np.stack(pixels))
        changes = silence(whole, inputs, feature, "early", chosen)
        rows = np.array([exact.columns(feature).images.index(x) for x in found.images])
        sums = exact.channels(feature, rows=rows)
        np.testing.assert_array_equal(changes.numpy(), -sums[:, chosen].T)
        assert changes[0].mean() == -found.inhibiting[0].mean
        assert changes[0].mean() > 0


# The embedded network


@pytest.fixture(scope="module")
def mini() -> Network:
    return load()


@pytest.fixture(scope="module")
def run(mini: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of 60 pictures in many shapes, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("who")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(7)
    for i in range(60):
        small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        width, height = rng.integers(50, 130, 2).tolist()
        small.resize((width, height), Image.Resampling.BICUBIC).save(pictures / f"{i:02d}.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    return scan_images(
        mini,
        pictures,
        ["mixed3b:168", "mixed3b:9@0,3"],
        "mixed3a",
        out=folder / "run",
        batch_size=16,
        shard_size=25,
    )


def slow_sides(
    network: Network, run: Run, feature: Feature, images: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative part of S summed over space, image by image, in double precision."""
    plus, minus = [], []
    for image in images:
        one = attribute(network, [run.images.find(image).path], feature, run.manifest.through)
        s = one.attribution[0].double().numpy()
        plus.append([sum(x for x in channel.ravel() if x > 0) for channel in s])
        minus.append([-sum(x for x in channel.ravel() if x < 0) for channel in s])
    return np.array(plus), np.array(minus)


@pytest.mark.parametrize("name", ["mixed3b:168", "mixed3b:9"])
def test_channels_are_what_attribute_gives_image_by_image(
    mini: Network, run: Run, name: str
) -> None:
    feature = run.feature(name)
    found = who(run, name, crops=0, group="exciting")
    assert len(found.images) == 20
    plus, minus = slow_sides(mini, run, feature, found.images)
    close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(found.excitation, plus.mean(0), **close)
    np.testing.assert_allclose(found.inhibition, minus.mean(0), **close)
    mean, spread = (plus - minus).mean(0), (plus - minus).std(0)
    for side, sign in ((found.exciting, 1), (found.inhibiting, -1)):
        assert len(side) == 8
        for driver in side:
            assert sign * driver.mean > 0
            np.testing.assert_allclose(driver.mean, mean[driver.channel], **close)
            np.testing.assert_allclose(driver.spread, spread[driver.channel], **close)
        # None that was left out matters more, and they come in order.
        matter = [sign * driver.mean for driver in side]
        assert matter == sorted(matter, reverse=True)
        others = np.delete(sign * mean, [driver.channel for driver in side])
        assert others.max() <= matter[-1] + 1e-3
    columns = run.columns(name)
    rows = [columns.images.index(image) for image in found.images]
    for side, energy in (
        (found.excitation, columns.excitation),
        (found.inhibition, columns.inhibition),
    ):
        assert np.isfinite(side).all()
        assert (side >= 0).all()
        assert side.sum() == pytest.approx(energy[rows].mean(), rel=1e-4)


# Which images


@pytest.mark.parametrize("group", SELECTIONS)
def test_groups_are_those_of_select(run: Run, group: str) -> None:
    columns = run.columns()
    rows = select(columns, 20)[group]
    if not len(rows):
        with pytest.raises(ValueError, match=rf"no image of .* is {group.replace('_', ' ')}"):
            who(run, group=group, crops=0)
        return
    found = who(run, group=group, crops=0)
    assert found.images == tuple(columns.images[row] for row in rows)
    assert found.about == f"the {len(rows)} most {group.replace('_', ' ')} images"


def test_without_a_choice_it_is_about_the_tensest(run: Run) -> None:
    found = who(run, crops=0)
    assert found.images == who(run, group="tense", crops=0).images
    assert found.about == f"the {len(found.images)} most tense images"
    assert found.feature == run.features[0]


def test_without_a_tense_image_it_is_about_all(exact: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_tense(columns: Any, k: int) -> dict[str, np.ndarray]:
        return {**select(columns, k), "tense": np.empty(0, dtype=np.intp)}

    monkeypatch.setattr(MODULE, "select", none_tense)
    found = who(exact, crops=0)
    assert found.about == "all 30 images"
    assert found.images == exact.columns().images
    with pytest.raises(ValueError, match=r"no image of .* is tense"):
        who(exact, group="tense", crops=0)


def test_images_are_those_that_were_named(run: Run) -> None:
    found = who(run, images=["41.png", "07.png"], crops=0)
    assert found.images == ("41.png", "07.png")
    assert found.about == "2 images"
    one = who(run, images=["41"[:2] + ".png"], crops=0)
    assert one.about == "41.png"
    assert [driver.spread for driver in one.exciting] == [0.0] * 8
    other = who(run, images=["07.png"], crops=0)
    np.testing.assert_allclose(
        found.excitation, (one.excitation + other.excitation) / 2, rtol=1e-5, atol=1e-6
    )


def cells(images: dict[tuple[int, int], tuple[str, ...]]) -> Callable[..., list[Any]]:
    """What stands for a run's atlases: one, with these cells."""

    class Atlas:
        def __init__(self) -> None:
            self.cells = tuple(
                Cell(
                    row=row, column=column, images=inside, mean_activation=0.0,
                    mean_excitation=0.0, mean_inhibition=0.0, activations={}, icon=Path("none"),
                )
                for (row, column), inside in images.items()
            )  # fmt: skip

    return lambda *_: [Atlas(), None]


CELLS = {(0, 4): ("05.png", "50.png"), (1, 1): ("30.png",), (3, 3): ("00.png", "01.png", "02.png")}


def test_a_cell_is_one_of_the_newest_atlas(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def atlases(*arguments: Any) -> list[Any]:
        asked.append(arguments)
        return cells(CELLS)(*arguments)

    monkeypatch.setattr(MODULE, "atlases", atlases)
    found = who(run, "mixed3b:9", cell=(0, 4), crops=0)
    assert found.images == ("05.png", "50.png")
    assert found.about == "the images of cell 0,4"
    assert asked == [(run, run.feature("mixed3b:9"))]
    same = who(run, "mixed3b:9", images=["05.png", "50.png"], crops=0)
    np.testing.assert_array_equal(found.inhibition, same.inhibition)
    assert found.exciting == same.exciting
    message = r"no images in cell 1,2; the nearest cells that have: 1,1; 0,4; 3,3"
    with pytest.raises(ValueError, match=message):
        who(run, cell=(1, 2), crops=0)


def test_a_cell_of_a_run_without_an_atlas(run: Run) -> None:
    message = "no atlas of mixed3b:168@8,8: `opponent atlas` makes one"
    with pytest.raises(RunError, match=message):
        who(run, cell=(0, 0), crops=0)


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [
        ({"group": "nonsense"}, ValueError, "no group 'nonsense'; there are exciting, inhibiting"),
        ({"images": ["zebra.png"]}, LookupError, "no image 'zebra.png' among its 61; the nearest"),
        ({"images": ["7.png"]}, LookupError, "'7.png' fits 6 images"),
        ({"images": ["broken.png"]}, ValueError, "broken.png: not among the images that the scan"),
        ({"images": []}, ValueError, "no image: not among the images that the scan could read"),
        ({"group": "tense", "images": ["01.png"]}, ValueError, "by a group, by their ids or by a"),
        ({"group": "tense", "cell": (0, 0)}, ValueError, "or by a cell, not by several"),
        ({"images": [], "cell": (0, 0)}, ValueError, "or by a cell, not by several"),
        ({"feature": "mixed3b:7"}, ValueError, "holds no 'mixed3b:7'; it holds mixed3b:168@8,8"),
    ],
)
def test_wrong_choices_are_told(
    run: Run, choice: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        who(run, **choice, crops=0)


def test_an_unfinished_scan_is_told(exact: Run, tmp_path: Path) -> None:
    shutil.copytree(exact.folder, tmp_path / "run")
    (tmp_path / "run" / "scan" / "000001.parquet").unlink()
    with pytest.raises(RunError, match=r"is not finished \(2 of 3 parts\)"):
        who(Run(tmp_path / "run"), crops=0)


# Crops


def test_crops_are_what_the_place_sees_of_the_photograph(exact: Run, whole: Network) -> None:
    """At one pixel a pixel: the file's own pixels around the place, 3 by 3 or less at a border."""
    shown = exemplar_tiles(exact, whole, range(WIDTH), 9, shown=1)
    assert list(shown) == list(range(WIDTH))
    sizes = set()
    for channel, tiles in shown.items():
        places = exact.exemplars(channel, 9)
        assert len(tiles) == len(places) == (0 if channel == DEAD else 9)
        for tile, place in zip(tiles, places, strict=True):
            pixels = np.asarray(Image.open(exact.images.find(place.image).path))
            rows = slice(max(0, place.row - 1), min(SIZE[0], place.row + 2))
            columns = slice(max(0, place.column - 1), min(SIZE[1], place.column + 2))
            np.testing.assert_array_equal(tile.image, pixels[rows, columns])
            assert tile.caption == f"{place.activation:.3g}"
            assert tile.excitation is None
            sizes.add(tile.image.shape[:2])
    assert (3, 3) in sizes
    assert sizes & {(2, 3), (3, 2), (2, 2)}


def test_crops_are_enlarged_with_the_photograph(exact: Run, whole: Network) -> None:
    """At 512 / 12 pixels a pixel, from the larger photograph."""
    [channel] = {0}
    tiles = exemplar_tiles(exact, whole, [channel], 4)[channel]
    for tile, place in zip(tiles, exact.exemplars(channel, 4), strict=True):
        feature = Feature(layer="early", unit=channel, position=(place.row, place.column))
        box = receptive_field(whole, feature)
        zoom = zoom_for(PLAIN, box)
        assert zoom == 512 // 12
        large = photograph(exact.images.find(place.image), PLAIN, zoom)
        top, left = box.top * zoom, box.left * zoom
        expected = large[top : top + box.height * zoom, left : left + box.width * zoom]
        np.testing.assert_array_equal(tile.image, expected)


@pytest.mark.parametrize("channel", [3, 40, 90, 120])
def test_crops_of_each_branch_see_as_far_as_it_does(run: Run, mini: Network, channel: int) -> None:
    prepared = run.preprocessing
    tiles = exemplar_tiles(run, mini, [channel], 9)[channel]
    places = run.exemplars(channel)
    assert len(tiles) == len(places) > 0
    for tile, place in zip(tiles, places, strict=True):
        box = receptive_field(
            mini, Feature(layer="mixed3a", unit=channel, position=(place.row, place.column))
        )
        zoom = zoom_for(prepared, box)
        large = photograph(run.images.find(place.image), prepared, zoom)
        top, left = box.top * zoom, box.left * zoom
        expected = large[top : top + box.height * zoom, left : left + box.width * zoom]
        np.testing.assert_array_equal(tile.image, expected)


def test_who_carries_the_crops_of_its_channels(exact: Run, whole: Network) -> None:
    found = who(exact, channels=4, crops=3, network=whole)
    bare = who(exact, channels=4, crops=0)
    for side, without in ((found.exciting, bare.exciting), (found.inhibiting, bare.inhibiting)):
        assert [replace(driver, exemplars=()) for driver in side] == list(without)
        for driver in side:
            expected = exemplar_tiles(exact, whole, [driver.channel], 3)[driver.channel]
            assert len(driver.exemplars) == 3
            for tile, other in zip(driver.exemplars, expected, strict=True):
                np.testing.assert_array_equal(tile.image, other.image)
                assert tile.caption == other.caption


def test_crops_where_the_reach_cannot_be_told_are_whole(
    exact: Run, whole: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise UnknownGeometry("cannot tell")

    monkeypatch.setattr(MODULE, "receptive_fields", unknown)
    for tile, place in zip(
        exemplar_tiles(exact, whole, [0], 3, shown=1)[0], exact.exemplars(0, 3), strict=True
    ):
        pixels = np.asarray(Image.open(exact.images.find(place.image).path))
        np.testing.assert_array_equal(tile.image, pixels)


def test_pixels_have_no_crops(whole: Network, tmp_path: Path) -> None:
    images = speckle(tmp_path / "in", 12)
    run = scan_images(whole, images, "mixed:1", "pixels", out=tmp_path / "run")
    assert exemplar_tiles(run, whole, [2, 0], 4) == {2: [], 0: []}
    found = who(run, network=whole)
    assert found.through == "pixels"
    assert len(found.excitation) == 3
    assert found.exciting or found.inhibiting
    for driver in (*found.exciting, *found.inhibiting):
        assert driver.exemplars == ()
        assert driver.name in {"pixels:0", "pixels:1", "pixels:2"}
    assert write_who(found, tmp_path / "who.svg").stat().st_size > 2000
    inputs = whole.inputs(np.asarray(Image.open(images / "03.png"))[None])
    [change] = silence(whole, inputs, "mixed:1", "pixels", [1]).tolist()
    without = inputs.clone()
    without[:, 1] = 0
    before, after = (whole.run(x, "mixed").target[0, 1, 6, 5] for x in (inputs, without))
    assert change == [float(after - before)]


def test_a_photograph_that_is_gone_is_left_out(whole: Network, tmp_path: Path) -> None:
    images = speckle(tmp_path / "in", 20)
    run = scan_images(whole, images, "mixed:1", "early", out=tmp_path / "run")
    places = run.exemplars(0, 4)
    before = exemplar_tiles(run, whole, [0], 4)[0]
    (images / places[1].image).unlink()
    after = exemplar_tiles(run, whole, [0], 4)[0]
    captions = [f"{place.activation:.3g}" for place in places]
    assert [tile.caption for tile in after] == [captions[k] for k in (0, 2, 3)]
    for tile, k in zip(after, (0, 2, 3), strict=True):
        np.testing.assert_array_equal(tile.image, before[k].image)
    # Numbers do not need it either, but silencing does.
    found = who(run, images=[places[1].image], network=whole)
    with pytest.raises(Unreadable, match=rf"{places[1].image} cannot be shown"):
        silence_check(run, whole, found)


def test_channels_are_visualised_if_that_is_asked_for(run: Run, mini: Network) -> None:
    quick = SynthesisSettings(steps=1, canvas=(48, 48), transforms=Transforms(draws=1))
    told: list[tuple[str, int, int]] = []
    found = who(
        run, channels=1, crops=0, network=mini, visualise=quick,
        progress=lambda *x: told.append(x),
    )  # fmt: skip
    for driver in (*found.exciting, *found.inhibiting):
        assert driver.exemplars == ()
        assert driver.visualisation is not None
        assert driver.visualisation.image.shape[2] == 4
        assert np.isfinite(driver.visualisation.image).all()
    one, other = (side[0].visualisation for side in (found.exciting, found.inhibiting))
    assert one is not None
    assert other is not None
    assert one.image.shape != other.image.shape or (one.image != other.image).any()
    assert told[-1][1:] == (2, 2)
    assert all(done <= steps == 2 for _, done, steps in told)


# Silencing


def doubled(network: Network) -> Network:
    return Network(
        copy.deepcopy(network.module).double(), preprocessing=network.preprocessing, name="double"
    )


def noise(network: Network, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (count, 3, *network.preprocessing.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(given: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-11)


def test_silence_is_a_network_without_the_channels_weights(whole: Network) -> None:
    network = doubled(whole)
    inputs = noise(network)
    feature = Feature.parse("mixed:3@4,0")
    before = network.run(inputs, "mixed").target[:, 3, 4, 0]
    changes = silence(network, inputs, feature, "early", range(WIDTH))
    assert changes.shape == (WIDTH, 3)
    assert changes.dtype == torch.float64
    assert not changes.requires_grad
    for channel in range(WIDTH):
        cut = copy.deepcopy(network.module)
        cut.second.weight.data[:, channel] = 0
        after = Network(cut, preprocessing=PLAIN).run(inputs, "mixed").target[:, 3, 4, 0]
        close(changes[channel], after - before)
    assert not changes[DEAD].any()
    assert changes.any(1).sum() >= WIDTH - 3


@pytest.mark.parametrize("channel", [0, 50, 127])
def test_silence_of_the_embedded_network(mini: Network, channel: int) -> None:
    """All four branches of the next block lose their weights of that channel."""
    network = doubled(mini)
    inputs = noise(network)
    before = network.run(inputs, "mixed4a").target[:, 7, 3, 4]
    [change] = silence(network, inputs, "mixed4a:7@3,4", "mixed3a", [channel])
    cut = copy.deepcopy(network.module)
    layers = ("1x1", "3x3_bottleneck", "5x5_bottleneck", "pool_reduce")
    for name in layers:
        convolution = cut.get_submodule(f"mixed3b_{name}_pre_relu_conv")
        convolution.weight.data[:, channel] = 0
    twin = Network(cut, preprocessing=network.preprocessing)
    close(change, twin.run(inputs, "mixed4a").target[:, 7, 3, 4] - before)
    assert change.abs().max() > 1e-3


def test_silence_before_a_relu_in_place(whole: Network) -> None:
    """The through layer's own output is written over by what follows it."""
    network = doubled(whole)
    inputs = noise(network)
    given = inputs.clone()
    state = {name: x.clone() for name, x in network.module.state_dict().items()}
    before = network.run(inputs, "mixed").target[:, 1, 6, 5]
    for channel in (0, 9):
        cut = copy.deepcopy(network.module)
        cut.first.weight.data[channel] = 0
        cut.first.bias.data[channel] = 0
        after = Network(cut, preprocessing=PLAIN).run(inputs, "mixed").target[:, 1, 6, 5]
        for _ in range(2):
            close(silence(network, inputs, "mixed:1", "first", [channel])[0], after - before)
    torch.testing.assert_close(inputs, given, rtol=0, atol=0)
    for name, values in network.module.state_dict().items():
        assert torch.equal(values, state[name])
    assert all(x.grad is None and x.requires_grad for x in network.module.parameters())


def test_silence_of_directions_and_logits(mini: Network) -> None:
    network = doubled(mini)
    inputs = noise(network, 2)
    both = [1.0, -2.0, *[0.0] * 238]
    feature = Feature.direction("mixed3b", both, position=(2, 2))
    found = silence(network, inputs, feature, "mixed3a", [5])
    parts = [silence(network, inputs, f"mixed3b:{k}@2,2", "mixed3a", [5]) for k in (0, 1)]
    close(found, parts[0] - 2 * parts[1])
    logit = silence(network, inputs, "logits:3", "avgpool0", [8])
    weight = network.module.get_submodule("softmax2_pre_activation_matmul").weight
    hidden = network.run(inputs, "logits", "avgpool0").through
    assert hidden is not None
    close(logit[0], -weight[3, 8].detach() * hidden[:, 8, 0, 0])


def test_silencing_nothing(whole: Network) -> None:
    changes = silence(whole, noise(whole, 2).float(), "mixed:1", "early", [])
    assert changes.shape == (0, 2)


@pytest.mark.parametrize(
    ("feature", "through", "channels", "message"),
    [
        ("mixed:1", "early", [0, WIDTH], r"'early' has 14 channels, 0 to 13; got \[14\]"),
        ("mixed:1", "early", [-1], r"'early' has 14 channels, 0 to 13; got \[-1\]"),
        ("mixed:1", "pixels", [3], r"'pixels' has 3 channels, 0 to 2; got \[3\]"),
        ("mixed:4", "early", [0], "has 4 channels, 0 to 3"),
        ("mixed:1@12,0", "early", [0], "outside the layer's map"),
        ("mixed:1", "erly", [0], "no layer 'erly'; did you mean early"),
        ("mixed:1", "mixed", [0], "does not lie before the target"),
    ],
)
def test_what_cannot_be_silenced_is_told(
    whole: Network, feature: str, through: str, channels: list[int], message: str
) -> None:
    """And no hook is left behind, as the fixture around every test sees."""
    with pytest.raises(ValueError, match=message):
        silence(whole, noise(whole, 1).float(), feature, through, channels)


def test_a_check_silences_the_tops_and_all_others(exact: Run, whole: Network) -> None:
    """Fewer others than asked for: each of them once, in some order."""
    found = who(exact, channels=2, crops=0)
    checked = silence_check(exact, whole, found, random=100)
    tops = found.exciting[0].channel, found.inhibiting[0].channel
    rows = np.array([exact.columns().images.index(x) for x in found.images])
    means = -exact.channels(rows=rows).astype(np.float64).mean(0)
    assert checked.exciting == pytest.approx(means[tops[0]], abs=1e-4)
    assert checked.inhibiting == pytest.approx(means[tops[1]], abs=1e-4)
    others = sorted(means[k] for k in range(WIDTH) if k not in tops)
    np.testing.assert_allclose(sorted(checked.random), others, atol=1e-4)
    assert checked.inhibiting > 0 > checked.exciting


def test_a_check_draws_from_its_seed(run: Run, mini: Network) -> None:
    found = who(run, images=["03.png", "33.png"], channels=1, crops=0)
    one = silence_check(run, mini, found)
    assert one == silence_check(run, mini, found, seed=0)
    assert len(one.random) == 8
    other = silence_check(run, mini, found, random=3, seed=1)
    assert len(other.random) == 3
    assert other.random != one.random[:3]
    assert (other.exciting, other.inhibiting) == (
        pytest.approx(one.exciting), pytest.approx(one.inhibiting),
    )  # fmt: skip
    none = silence_check(run, mini, found, random=0)
    assert none.random == ()
    # One image and one channel at a time, by another way than the check's.
    path = [run.images.find(image).path for image in found.images]
    feature, plain = run.features[0], []
    for channel in (found.exciting[0].channel, found.inhibiting[0].channel):
        changes = []
        for each in path:
            inputs = mini.inputs(photograph(run.images.find(each.name), run.preprocessing)[None])
            hidden = mini.run(inputs, feature.layer, "mixed3a").through
            assert hidden is not None
            hidden[:, channel] = 0
            with_it = mini.run(inputs, feature.layer).target
            without = mini.run(
                inputs, feature.layer, "mixed3a", substitute=lambda _, hidden=hidden: hidden
            )
            changes.append(float(feature.read(without.target) - feature.read(with_it)))
        plain.append(sum(changes) / len(changes))
    assert (one.exciting, one.inhibiting) == (
        pytest.approx(plain[0], rel=1e-3, abs=1e-4), pytest.approx(plain[1], rel=1e-3, abs=1e-4),
    )  # fmt: skip


def test_a_side_without_channels_is_not_silenced(exact: Run, whole: Network) -> None:
    found = who(exact, channels=1, crops=0)
    whole_check = silence_check(exact, whole, found, random=0)
    for side, other in (("exciting", "inhibiting"), ("inhibiting", "exciting")):
        checked = silence_check(exact, whole, replace(found, **{side: ()}), random=0)
        assert getattr(checked, side) is None
        assert getattr(checked, other) == pytest.approx(getattr(whole_check, other))
    neither = replace(found, exciting=(), inhibiting=())
    assert silence_check(exact, whole, neither, random=0).random == ()
    assert len(silence_check(exact, whole, neither).random) == 8


# The page and the command


@pytest.fixture(scope="module")
def answer(run: Run, mini: Network) -> Who:
    return who(run, images=["03.png", "33.png"], channels=2, crops=2, network=mini)


@pytest.mark.parametrize("suffix", [".html", ".png", ".pdf", ".svg"])
def test_an_answer_is_written_whole_and_alike(answer: Who, tmp_path: Path, suffix: str) -> None:
    checked = Silenced(exciting=-1.0, inhibiting=2.0, random=(0.5, -0.5))
    paths = [write_who(answer, tmp_path / f"{k}{suffix}", checked) for k in ("a", "b")]
    assert paths[0] == tmp_path / f"a{suffix}"
    assert paths[0].stat().st_size > 5000
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_page_tells_everything(answer: Who, tmp_path: Path) -> None:
    checked = Silenced(exciting=-1.0, inhibiting=2.0, random=(0.5, -0.5))
    hostile = replace(answer, about=HOSTILE, exciting=(replace(answer.exciting[0], name=HOSTILE),))
    text = write_who(hostile, tmp_path / "who.html", checked).read_text()
    assert "Who drives mixed3b:168@8,8?" in text
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert f"{answer.excitation.sum():.4g}" in text
    assert f"{answer.inhibition.sum():.4g}" in text
    for _, value in silence_facts(answer, checked):
        assert value in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)


def test_facts_of_silencing(answer: Who) -> None:
    assert silence_facts(answer, None) == []
    answer = replace(answer, deviation=2.0)
    facts = silence_facts(answer, Silenced(exciting=-3.0, inhibiting=1.0, random=(1.0, -0.5, 0.1)))
    assert facts == [
        (f"without {answer.inhibiting[0].name}", "+0.500 sd"),
        (f"without {answer.exciting[0].name}", "-1.500 sd"),
        ("without one of 3 others at random", "+0.100 sd (-0.250 to +0.500)"),
    ]
    none = Silenced(exciting=None, inhibiting=1.0, random=())
    assert silence_facts(replace(answer, exciting=()), none) == facts[:1]
    # No deviation: in units of the activation.
    still = replace(answer, deviation=0.0)
    assert silence_facts(still, none) == [(facts[0][0], "+1.000 sd")]


def test_an_answer_without_channels_is_drawn(answer: Who, tmp_path: Path) -> None:
    empty = replace(answer, exciting=(), inhibiting=())
    assert words(plot_who(empty)).splitlines().count("no channel does") == 2
    path = write_who(
        empty, tmp_path / "who.html", Silenced(exciting=None, inhibiting=None, random=())
    )
    assert "without" not in path.read_text().partition("In numbers")[2]


@pytest.mark.parametrize("name", ["who.docx", "who", "who.HTML.zip"])
def test_an_answer_to_nowhere(answer: Who, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"ends in none of \.html, \.png, \.pdf, \.svg"):
        write_who(answer, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_tells_silences_and_writes(run: Run, mini: Network, tmp_path: Path) -> None:
    page = tmp_path / "who.html"
    text = within("who", run.folder, "--silence", "--channels", "3", "--out", page)
    found = who(run, channels=3, crops=0)
    checked = silence_check(run, mini, found)
    plain = " ".join(text.split())
    assert plain.startswith(f"mixed3b:168@8,8 in {found.about}, by channels of mixed3a")
    for driver in (*found.exciting, *found.inhibiting):
        assert driver.name in plain
        assert f"{driver.mean:+.4g}" in plain
        assert f"{driver.spread:.4g}" in plain
    for name, value in silence_facts(found, checked):
        assert f"{name}: {value}" in plain
    assert plain.endswith("who.html")
    written = page.read_text()
    assert written.count("<image") >= 12
    assert f"without {found.inhibiting[0].name}" in written


def test_the_command_takes_a_cell_images_and_groups(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "atlases", cells(CELLS))
    assert "in the images of cell 0,4, by" in " ".join(
        within("who", run.folder, "--cell", "0,4").split()
    )
    text = within(
        "who", run.folder, "--image", "03.png", "--image", "33.png", "--feature", "mixed3b:9"
    )
    assert " ".join(text.split()).startswith("mixed3b:9@0,3 in 2 images, by channels of mixed3a")
    assert "most silent images" in within("who", run.folder, "--group", "silent")
    for cell, message in (("9,9", "no images in cell 9,9; the nearest"), ("9", "is ROW,COLUMN")):
        with pytest.raises(ValueError, match=message):
            within("who", run.folder, "--cell", cell)


def test_help_has_an_example() -> None:
    text = " ".join(within("who", "--help").split())
    assert "Usage" in text
    assert "opponent who run --out who.html" in text


def test_a_mistake_is_one_line_without_a_traceback(run: Run) -> None:
    given = [sys.executable, "-m", "opponent", "who", str(run.folder), "--group", "nonsense"]
    result = subprocess.run(given, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "there is no group 'nonsense'; there are exciting, inhibiting," in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
