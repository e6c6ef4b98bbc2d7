"""Scans: the numbers, the order, what cannot be read, and scans that stop and go on."""

import csv
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import opponent
from opponent import (
    Feature,
    Network,
    Preprocessing,
    Run,
    RunError,
    attribute,
    open_images,
    scan_images,
)
from opponent.attribution.attribute import attribute_each
from opponent.images.decode import load_image
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.models.registry import MINI_INPUT
from opponent.models.registry import load_image as load_network
from opponent.scan.local import _fitting, rounding
from opponent.storage.run import LISTS, SCALARS


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZE = (12, 10)


class Small(nn.Module):
    """One narrow and one wide branch, a global mean, logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.early = nn.ReLU()
            self.narrow = nn.Conv2d(4, 3, 1)
            self.wide = nn.Conv2d(4, 3, 5, padding=2)
            self.mixed = nn.ReLU()
            self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.early(self.stem(x))
        x = self.mixed(torch.cat([self.narrow(x), self.wide(x)], 1))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def small() -> Network:
    network = Network(Small(), preprocessing=Preprocessing(size=SIZE), name="small")
    _ = network.layers
    return network


@pytest.fixture(scope="module")
def mini() -> Network:
    """The embedded network on a smaller canvas, which is no square."""
    network = opponent.load()
    prepared = replace(network.preprocessing, size=(40, 48))
    return Network(network.module, preprocessing=prepared, name="mini at 40 x 48")


def paint(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Smooth pictures in many shapes."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blobs = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        width, height = generator.integers(20, 90, 2).tolist()
        picture = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("pictures"), 9)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# The numbers

DIRECTION = tuple(np.random.default_rng(5).normal(size=256).tolist())
MIXED = [
    Feature(layer="mixed4a", unit=3),  # of the 1x1 branch
    Feature(layer="mixed4a", unit=210, position=(0, 5)),  # of the 5x5 branch, in a corner
    Feature(layer="mixed4a", unit=130),  # of the 3x3 branch
    Feature(layer="mixed4a", vector=DIRECTION, name="mine"),
]


@pytest.fixture(scope="module")
def scanned(mini: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ImageSet]:
    """60 pictures and two that cannot be read, by four features, with uneven shards and batches."""
    folder = paint(tmp_path_factory.mktemp("many"), 60)
    (folder / "017-broken.png").write_bytes((folder / "017.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("no picture")
    images = open_images(folder)
    run = scan_images(
        mini,
        images,
        MIXED,
        "mixed3b",
        out=tmp_path_factory.mktemp("run") / "mini",
        batch_size=7,
        shard_size=25,
    )
    return run, images


@pytest.mark.parametrize("number", range(4))
def test_columns_are_what_attribute_gives_image_by_image(
    mini: Network, scanned: tuple[Run, ImageSet], number: int
) -> None:
    run, images = scanned
    feature = run.features[number]
    columns, channels = run.columns(feature), run.channels(feature)
    window = run.through_window(feature)
    for row in range(number, 60, 15):
        entry = images.find(columns.images[row])
        one = attribute(mini, [entry.path], MIXED[number], "mixed3b")
        assert one.feature == feature
        for name in SCALARS:
            np.testing.assert_allclose(
                getattr(columns, name)[row], getattr(one, name)[0], rtol=1e-4, atol=1e-5
            )
        np.testing.assert_allclose(channels[row], one.channels[0], rtol=1e-3, atol=1e-5)
        for name in ("excitation_map", "inhibition_map"):
            everywhere = np.zeros(one.excitation_map.shape[1:], np.float32)
            everywhere[window.slices] = getattr(columns, name)[row]
            np.testing.assert_allclose(everywhere, getattr(one, name)[0], rtol=1e-3, atol=1e-5)


def test_the_law_holds_in_every_row(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    for feature in run.features:
        columns, channels = run.columns(feature), run.channels(feature)
        assert channels.shape == (60, 240)
        close = {"rtol": 1e-4, "atol": 1e-4}
        difference = columns.excitation - columns.inhibition
        np.testing.assert_allclose(difference, channels.sum(1), **close)
        np.testing.assert_allclose(columns.excitation + columns.inhibition, columns.l1, **close)
        np.testing.assert_allclose(columns.excitation_map.sum((1, 2)), columns.excitation, **close)
        np.testing.assert_allclose(columns.inhibition_map.sum((1, 2)), columns.inhibition, **close)
        # No biases in the mixed blocks: S accounts for all of the activation.
        np.testing.assert_allclose(difference, columns.activation, **close)
        for name in (*SCALARS[1:], "excitation_map", "inhibition_map"):
            assert (getattr(columns, name) >= 0).all()
        assert (columns.l2 <= columns.l1 * (1 + 1e-5)).all()
        assert columns.excitation.any()
        assert columns.inhibition.any()
        plus, minus = run.channel_sides(feature)
        assert (plus >= 0).all()
        assert (minus >= 0).all()
        np.testing.assert_allclose(plus.sum(1), columns.excitation, **close)
        np.testing.assert_allclose(minus.sum(1), columns.inhibition, **close)
        np.testing.assert_allclose(plus - minus, channels, **close)


def test_exemplars_are_the_places_where_channels_are_most_active(
    mini: Network, scanned: tuple[Run, ImageSet]
) -> None:
    """Against all maps of all images at once, where the features look."""
    run, images = scanned
    boxes = [run.through_window(feature) for feature in run.features]
    top, left = min(x.top for x in boxes), min(x.left for x in boxes)
    bottom = max(x.top + x.height for x in boxes)
    right = max(x.left + x.width for x in boxes)
    readable = [entry for entry in images if entry.id not in run.unreadable()]
    pixels = [load_image(entry, size=mini.preprocessing.size) for entry in readable]
    hidden = mini.run(mini.inputs(np.stack(pixels)), "mixed4a", "mixed3b").through
    assert hidden is not None
    for channel in (0, 7, 100, 239):
        largest = hidden[:, channel, top:bottom, left:right].flatten(1).amax(1)
        best = largest.argsort(descending=True, stable=True)[:9]
        found = run.exemplars(channel)
        assert [each.image for each in found] == [readable[i].id for i in best if largest[i] > 0]
        for each, i in zip(found, best.tolist(), strict=False):
            assert top <= each.row < bottom
            assert left <= each.column < right
            np.testing.assert_allclose(each.activation, largest[i], rtol=1e-4)
            at = hidden[i, channel, each.row, each.column]
            np.testing.assert_allclose(each.activation, at, rtol=1e-4)
        assert run.exemplars(channel, 2) == found[:2]


def test_a_tie_between_exemplars_goes_to_the_first(tmp_path: Path) -> None:
    """Equal images, over several batches and shards."""
    for number in range(12):
        Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / f"{number:02d}.png")
    run = scan_images(
        "inceptionv1-mini",
        tmp_path,
        "mixed3b:1",
        "mixed3a",
        out=tmp_path / "run",
        batch_size=1,
        shard_size=5,
    )
    channels = [run.exemplars(channel) for channel in range(run.manifest.through_shape[0])]
    assert any(channels)
    for found in channels:
        images = [each.image for each in found]
        assert images == [f"{n:02d}.png" for n in range(9 if found else 0)]


def test_features_keep_their_own_windows(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    shapes = [run.columns(feature).excitation_map.shape[1:] for feature in run.features]
    # mixed3b is 10 x 12, pooled 3 x 3 by steps of 2 with the rim below and to the right. A 1x1
    # unit at 2, 3 of 5 x 6 sees 3 x 3; a 3x3 unit 7 x 7; a 5x5 unit at 0, 5 sees rows 0 to 6 and
    # columns 6 to 11. A direction sees what its widest unit does, rows 0 to 9, columns 2 to 11.
    assert shapes == [(3, 3), (7, 6), (7, 7), (10, 10)]
    corner = run.through_window(run.features[1])
    assert (corner.top, corner.left) == (0, 6)
    assert [feature.position for feature in run.features] == [(2, 3), (0, 5), (2, 3), (2, 3)]


def test_rows_follow_the_images(scanned: tuple[Run, ImageSet]) -> None:
    run, images = scanned
    bad = {"017-broken.png", "text.jpg"}
    expected = tuple(entry.id for entry in images if entry.id not in bad)
    assert len(expected) == 60
    for feature in run.features:
        assert run.columns(feature).images == expected
    assert [entry.id for entry in run.images] == [entry.id for entry in images]


def test_what_cannot_be_read_is_listed_with_its_reason(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    assert list(run.unreadable()) == ["017-broken.png", "text.jpg"]
    assert "truncated" in run.unreadable()["017-broken.png"]
    assert run.unreadable()["text.jpg"] == "not an image"
    with (run.folder / "unreadable.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["image", "reason"], *map(list, run.unreadable().items())]


def test_shards_are_plain_tables(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    shards = sorted((run.folder / "scan").iterdir())
    assert [shard.name for shard in shards] == [f"{n:06d}.parquet" for n in range(3)]
    tables = [pq.read_table(shard) for shard in shards]
    assert [len(table) for table in tables] == [4 * 24, 4 * 25, 4 * 11]
    for table in tables:
        assert table.column_names == ["image", "feature", *SCALARS, *LISTS]
        types = {name: str(table.schema.field(name).type) for name in table.column_names}
        assert types == (
            {"image": "string", "feature": "string"}
            | dict.fromkeys(SCALARS, "float")
            | {name: types[name] for name in LISTS}
        )
        assert all(types[name].startswith("list<") for name in LISTS)
        assert all("float" in types[name] for name in LISTS)
        assert sum(column.null_count for column in table.columns) == 0
        assert set(table["feature"].to_pylist()) == {
            "mixed4a:3@2,3", "mixed4a:210@0,5", "mixed4a:130@2,3", "mixed4a:mine@2,3",
        }  # fmt: skip
    first = tables[0].filter(np.array(tables[0]["feature"].to_pylist()) == "mixed4a:130@2,3")
    columns = run.columns("mixed4a:130")
    assert first["image"].to_pylist() == list(columns.images[:24])
    flat = np.array(first["inhibition_map"].to_pylist(), np.float32)
    np.testing.assert_array_equal(flat, columns.inhibition_map[:24].reshape(24, -1))


def test_the_run_says_what_was_scanned(mini: Network, scanned: tuple[Run, ImageSet]) -> None:
    run, images = scanned
    again = Run(run.folder)
    assert again.manifest == run.manifest
    assert again.features == tuple(mini.resolve(feature) for feature in MIXED)
    assert again.preprocessing == mini.preprocessing
    assert again.manifest.through_shape == [240, 10, 12]
    assert again.manifest.images["count"] == 62
    assert again.manifest.images["sha256"] == images.digest()
    assert [entry.path for entry in again.images] == [entry.path for entry in images]
    again.check_network(mini)
    with pytest.raises(RunError, match="'mini at 40 x 48', cannot be loaded: no model is called"):
        again.load_network()
    with pytest.raises(RunError, match=r"prepared otherwise .*40, 48.*, now .*64, 64"):
        again.check_network(Network(mini.module, preprocessing=MINI_INPUT))


def test_a_logit_through_a_mixed_layer_covers_the_whole_map(
    mini: Network, tmp_path: Path, pictures: Path
) -> None:
    run = scan_images(mini, pictures, "logits:7", "mixed5a", out=tmp_path / "run", batch_size=4)
    columns = run.columns()
    assert columns.excitation_map.shape == (9, 2, 3)
    assert run.channels().shape == (9, 416)
    one = attribute(mini, [pictures / "005.png"], "logits:7", "mixed5a")
    np.testing.assert_allclose(
        columns.inhibition_map[5], one.inhibition_map[0], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(columns.activation[5], one.activation[0], rtol=1e-4)
    assert run.features[0].position is None
    # A logit has a bias, which S does not hold.
    unit = mini.module.get_submodule("softmax2_pre_activation_matmul").bias[7].item()
    np.testing.assert_allclose(
        columns.excitation - columns.inhibition + unit, columns.activation, rtol=1e-3, atol=1e-3
    )


def test_features_may_be_explained_through_the_pixels(
    small: Network, tmp_path: Path, pictures: Path
) -> None:
    run = scan_images(small, pictures, "mixed:4", "pixels", out=tmp_path / "run")
    assert run.columns().excitation_map.shape == (9, 7, 7)
    assert run.channels().shape == (9, 3)
    assert run.manifest.placement == [0, 0, 1, 1]
    assert run.through_window(run.features[0]) == run.receptive_field(run.features[0])


def test_a_network_in_double_precision_gives_single_columns(tmp_path: Path, pictures: Path) -> None:
    network = Network(Small().double(), preprocessing=Preprocessing(size=SIZE), name="small")
    run = scan_images(network, pictures, "mixed:4", "early", out=tmp_path / "run")
    columns = run.columns()
    assert columns.activation.dtype == columns.excitation_map.dtype == np.float32
    one = attribute(network, [pictures / "002.png"], "mixed:4", "early")
    assert columns.l1[2] == np.float32(one.l1[0])


@given(count=st.integers(1, 9), batch=st.integers(1, 5), shard=st.integers(1, 6))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_columns_depend_on_no_batch_and_no_shard(
    tmp_path_factory: pytest.TempPathFactory,
    small: Network,
    pictures: Path,
    count: int,
    batch: int,
    shard: int,
) -> None:
    chosen = sorted(pictures.iterdir())[:count]
    # The fourth image, where there is one, cannot be read.
    chosen[3:4] = [pictures / "no.png" for _ in chosen[3:4]]
    calls: list[tuple[int, int]] = []
    run = scan_images(
        small,
        chosen,
        ["mixed:1", "mixed:4@0,9"],
        "early",
        out=tmp_path_factory.mktemp("run"),
        batch_size=batch,
        shard_size=shard,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, count) for done in range(count + 1)]
    readable = [path for path in chosen if path.name != "no.png"]
    assert run.shard_count == -(-count // shard)
    expected = attribute_each(
        small,
        small.inputs(
            np.stack([load_image(ImageEntry(id="x", path=path), size=SIZE) for path in readable])
        ),
        run.features,
        "early",
    )
    for result in expected:
        columns = run.columns(result.feature)
        assert columns.images == tuple(path.name for path in readable)
        np.testing.assert_allclose(columns.activation, result.activation, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(columns.l2, result.l2, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            columns.excitation_map,
            result.excitation_map[:, *run.through_window(result.feature).slices],
            rtol=1e-4,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            run.channels(result.feature), result.channels, rtol=1e-4, atol=1e-6
        )


# What comes in


def test_when_no_image_can_be_read_reading_says_so(small: Network, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.jpg"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("no picture")
    run = scan_images(
        small, tmp_path / "in", "mixed:1", "early", out=tmp_path / "run", shard_size=2
    )
    assert list(run.unreadable()) == ["a.png", "b.jpg", "c.jpg"]
    with pytest.raises(RunError, match=r"no image of .*run could be read; see unreadable\.csv"):
        run.columns()
    with pytest.raises(RunError, match=r"no image of .*run could be read"):
        run.channels()


def test_a_shard_without_readable_images_is_no_gap(
    small: Network, tmp_path: Path, pictures: Path
) -> None:
    chosen = [pictures / "000.png", tmp_path / "x.png", tmp_path / "y.png", pictures / "001.png"]
    run = scan_images(small, chosen, "mixed:1", "early", out=tmp_path / "run", shard_size=1)
    assert [Path(image).name for image in run.columns().images] == ["000.png", "001.png"]
    assert set(run.unreadable().values()) == {"no such file"}


def test_an_empty_list_is_refused(small: Network, tmp_path: Path) -> None:
    nothing = ImageSet(source="nothing", entries=())
    with pytest.raises(ValueError, match="'nothing' has no images"):
        scan_images(small, nothing, "mixed:1", "early", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_crops_come_back_with_their_boxes(small: Network, tmp_path: Path, pictures: Path) -> None:
    path = pictures / "000.png"
    entries = (
        ImageEntry(id="000@2,3+10x12", path=path, box=(2, 3, 10, 12)),
        ImageEntry(id="all", path=path),
        ImageEntry(id="000@0,0+9999", path=path, box=(0, 0, 9999, 9999)),
    )
    images = ImageSet(source="crops", entries=entries)
    run = scan_images(small, images, "mixed:1", "early", out=tmp_path / "run")
    assert Run(run.folder).images == images
    assert run.columns().images == ("000@2,3+10x12", "all")
    assert "is not inside the photograph" in run.unreadable()["000@0,0+9999"]
    table = pq.read_table(run.folder / "images.parquet")
    assert table.column_names == ["image", "path", "top", "left", "height", "width"]
    assert table["width"].to_pylist() == [12, None, 9999]


def test_file_names_that_are_no_text_are_scanned(small: Network, tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", 2)
    (folder / "001.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))
    (folder / "ü – 好.png").write_bytes((folder / "000.png").read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.png")).write_text("no picture")
    images = open_images(folder)
    run = scan_images(small, folder, "mixed:1", "early", out=tmp_path / "run")
    again = Run(run.folder)
    assert [entry.path for entry in again.images] == [entry.path for entry in images]
    assert again.columns().images == ("000.png", "\\udcff\\udcfe.png", "ü – 好.png")
    assert list(again.unreadable()) == ["bad\\udcff.png"]
    moved = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in\xff"))
    folder.rename(moved)
    scan_images(small, moved, "mixed:1", "early", out=tmp_path / "run2")
    assert Run(tmp_path / "run2").manifest.images["source"] == str(moved)


Broken = dict[str, object]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": []}, "at least one feature, such as"),
        ({"features": ["mixed:1", "mixed:1@6,5"]}, "given twice among mixed:1@6,5, mixed:1@6,5"),
        ({"features": ["mixed:1", "early:1"]}, "features of one layer, got early, mixed"),
        ({"features": "mixed:6"}, "'mixed' has 6 channels"),
        ({"features": "mixd:6"}, "no layer 'mixd'; did you mean mixed"),
        ({"features": "mixed:1@12,0"}, "outside the layer's map of 12 rows by 10 columns"),
        ({"through": "head"}, "'head' does not lie before the target 'mixed'"),
        ({"through": "mixed"}, "'mixed' does not lie before the target 'mixed'"),
        ({"batch_size": 0}, "positive, got 0 and 256"),
        ({"shard_size": -1}, "positive, got 32 and -1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    small: Network, tmp_path: Path, pictures: Path, given: Broken, message: str
) -> None:
    asked: Broken = {"features": "mixed:1", "through": "early", "images": pictures} | given
    with pytest.raises(ValueError, match=message):
        scan_images(small, **asked, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Scans that stop and go on


@pytest.fixture(scope="module")
def whole(
    small: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, dict[str, bytes]]:
    """A run of five shards, and all its bytes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return begin(small, pictures, folder), files(folder)


def begin(network: Network, images: Path, folder: Path, **other: object) -> Run:
    settings = {"features": ["mixed:1", "mixed:4"], "through": "early", "batch_size": 2}
    return scan_images(network, **(settings | {"shard_size": 2} | other), images=images, out=folder)


def test_a_run_folder_holds_nothing_else(whole: tuple[Run, dict[str, bytes]]) -> None:
    shards = {
        f"{kind}/{number:06d}.parquet" for kind in ("scan", "channels") for number in range(5)
    }
    assert set(whole[1]) == {"manifest.json", "images.parquet", "unreadable.csv", *shards}


def test_the_same_scan_gives_the_same_bytes(
    small: Network, pictures: Path, tmp_path: Path, whole: tuple[Run, dict[str, bytes]]
) -> None:
    begin(small, pictures, tmp_path / "run")
    assert files(tmp_path / "run") == whole[1]


@given(st.sets(st.sampled_from([*range(5), "unreadable.csv", "images.parquet"])))
@settings(max_examples=6, deadline=None)
def test_what_was_deleted_comes_back_to_the_byte(
    small: Network,
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
    whole: tuple[Run, dict[str, bytes]],
    lost: set[int | str],
) -> None:
    folder = tmp_path_factory.mktemp("again") / "run"
    shutil.copytree(whole[0].folder, folder)
    for name in lost:
        path = folder / (f"scan/{name:06d}.parquet" if isinstance(name, int) else name)
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "scan").iterdir()}
    calls: list[int] = []
    begin(small, pictures, folder, progress=lambda done, _: calls.append(done))
    assert files(folder) == whole[1]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    images = sum(min(2, 9 - 2 * n) for n in lost if isinstance(n, int))
    assert calls == [*range(9 - images, 10)]


def test_a_finished_scan_computes_nothing_again(
    small: Network,
    pictures: Path,
    whole: tuple[Run, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image was attributed")

    monkeypatch.setattr(sys.modules["opponent.scan.local"], "attribute_each", refuse)
    run = begin(small, pictures, whole[0].folder)
    assert len(run.columns().images) == 9
    assert files(run.folder) == whole[1]


def other_weights() -> Network:
    network = Network(Small(), preprocessing=Preprocessing(size=SIZE), name="small")
    with torch.no_grad():
        network.module.get_submodule("head").bias[0] += 1
    return network


def other_range() -> Network:
    return Network(
        Small(), preprocessing=Preprocessing(size=SIZE, mean=(0.0, 0.0, 0.0)), name="small"
    )


def other_name() -> Network:
    return Network(Small(), preprocessing=Preprocessing(size=SIZE), name="tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["mixed:1", "mixed:5"]}, "features was .* is "),
        ({"features": ["mixed:4", "mixed:1"]}, "features was .* is "),
        ({"through": "pixels"}, "through was early, is pixels"),
        ({"seed": 3}, r"seed was 0, is 3\)"),
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"shard_size": 3}, "shard_size was 2, is 3"),
        ({"network": other_weights}, r"network\.weights_sha256 was \w+\.\.\., is \w+\.\.\."),
        ({"network": other_range}, r"network\.preprocessing was"),
        ({"network": other_name}, r"network\.name was small, is tiny"),
    ],
)
def test_another_scan_is_refused_by_name_of_the_difference(
    small: Network,
    pictures: Path,
    whole: tuple[Run, dict[str, bytes]],
    change: Broken,
    message: str,
) -> None:
    asked = dict(change)
    make: Callable[[], Network] = asked.pop("network", lambda: small)
    with pytest.raises(RunError, match=rf"holds another scan \(.*{message}.*into another folder"):
        begin(make(), pictures, whole[0].folder, **asked)
    assert files(whole[0].folder) == whole[1]


@pytest.mark.parametrize("name", ["torch", "opponent", "pillow"])
def test_another_version_is_another_scan(
    small: Network,
    pictures: Path,
    whole: tuple[Run, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    versions = dict(whole[0].manifest.versions)
    monkeypatch.setattr(
        sys.modules["opponent.scan.local"], "versions", lambda: versions | {name: "99.0"}
    )
    with pytest.raises(
        RunError, match=rf"versions\.{name} was {re.escape(versions[name])}, is 99\.0"
    ):
        begin(small, pictures, whole[0].folder)


def test_other_images_are_another_scan(small: Network, tmp_path: Path) -> None:
    folder, out = paint(tmp_path / "in", 3), tmp_path / "run"
    begin(small, folder, out)
    paint(folder, 4)
    with pytest.raises(RunError, match=r"images\.count was 3, is 4"):
        begin(small, folder, out)
    (folder / "003.png").unlink()
    begin(small, folder, out)
    with (folder / "001.png").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RunError, match=r"images\.sha256 was \w+\.\.\., is \w+\.\.\."):
        begin(small, folder, out)


def test_images_may_move_while_a_scan_rests(small: Network, tmp_path: Path) -> None:
    old, new = paint(tmp_path / "old", 5), tmp_path / "new"
    begin(small, old, tmp_path / "expected")
    begin(small, old, tmp_path / "run")
    (tmp_path / "run" / "scan" / "000001.parquet").unlink()
    old.rename(new)
    run = begin(small, new, tmp_path / "run")
    assert run.unreadable() == {}
    assert [entry.path.parent for entry in Run(run.folder).images] == [new] * 5
    assert Run(run.folder).manifest.images["source"] == str(new)
    expected = files(tmp_path / "expected")
    for name, content in files(run.folder).items():
        if name not in ("manifest.json", "images.parquet"):
            assert content == expected[name], name


def test_a_folder_of_something_else_is_refused(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        RunError, match="exists and is not a run folder; choose a folder of its own"
    ):
        begin(small, pictures, tmp_path)
    with pytest.raises(RunError, match="exists and is not a run folder"):
        begin(small, pictures, tmp_path / "thesis.tex")
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_empty_folder_is_taken(small: Network, pictures: Path, tmp_path: Path) -> None:
    begin(small, pictures, tmp_path, features="mixed:2")
    assert (tmp_path / "manifest.json").is_file()


def test_a_full_disk_breaks_nothing_and_the_scan_goes_on(
    small: Network,
    pictures: Path,
    tmp_path: Path,
    whole: tuple[Run, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Full again and again, at each file in turn, and always given a little more room."""
    fsync, out, left, failures = os.fsync, tmp_path / "run", 0, 0

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    while True:
        left = failures
        before = files(out)
        try:
            begin(small, pictures, out)
            break
        except OSError:
            pass
        failures += 1
        after = files(out)
        assert not [name for name in after if "tmp" in name]
        assert all(after[name] == content for name, content in before.items())
    assert failures > 5
    assert files(out) == whole[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_is_left_as_it_is(
    small: Network, pictures: Path, tmp_path: Path, whole: tuple[Run, dict[str, bytes]]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0].folder, folder)
    (folder / "scan" / "000001.parquet").unlink()
    before = files(folder)
    for path in (folder, folder / "scan"):
        path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="Permission denied"):
            begin(small, pictures, folder)
        assert files(folder) == before
    finally:
        for path in (folder, folder / "scan"):
            path.chmod(0o700)


def test_a_failing_network_leaves_whole_shards(
    small: Network, pictures: Path, tmp_path: Path, whole: tuple[Run, dict[str, bytes]]
) -> None:
    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        begin(small, pictures, tmp_path / "run", progress=stop)
    run = Run(tmp_path / "run")
    assert run.missing() == [2, 3, 4]
    with pytest.raises(RunError, match=r"not finished \(2 of 5 parts\).*it goes on"):
        run.columns()
    begin(small, pictures, tmp_path / "run")
    assert files(tmp_path / "run") == whole[1]


# Real processes, really killed

WORKER = '''
import os, random, signal, sys, time
from pathlib import Path
import torch
import opponent

images, out = Path(sys.argv[1]), Path(sys.argv[2])


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.two = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.relu = torch.nn.ReLU()

    def forward(self, x):
        return self.two(self.relu(self.one(x)))


size = opponent.Preprocessing(size=(32, 32))
network = opponent.Network(Small(), preprocessing=size, name="small")


def scan(name, progress=None, count=None):
    entries = opponent.open_images(images).entries[:count]
    opponent.scan_images(
        network, opponent.ImageSet(source="some", entries=entries), "two:3", "relu",
        out=out / name,
        batch_size=3, shard_size=4, progress=progress,
    )


def child(do, *arguments):
    """Run in a child that has all modules already, also those that torch imports when needed."""
    number = os.fork()
    if number:
        return number
    do(*arguments)
    sys.exit(0)


def end(number):
    """How a child ended: its exit code, or the signal as a negative number."""
    waited = time.monotonic() + 60
    while time.monotonic() < waited:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return "still there after a minute"


def stop(name, signal_number, choose):
    """Stop a scan some images and a moment after it began."""
    reading, writing = os.pipe()

    def progress(done, total):
        os.write(writing, b".")

    number = child(scan, name, progress)
    os.close(writing)
    count = choose.randrange(1, 7)
    while count and os.read(reading, 1):
        count -= 1
    time.sleep(choose.random() * 0.03)
    os.kill(number, signal_number)
    code = end(number)
    os.close(reading)
    print(name, code, flush=True)


def die_at(step):
    """Scan, and die as the step-th file or folder would be flushed, or renamed."""
    fsync, replace, count = os.fsync, Path.replace, 0

    def counted(do):
        def wrapper(*arguments):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*arguments)
        return wrapper

    os.fsync, Path.replace = counted(fsync), counted(replace)
    scan_images(f"step{step}", None, 7)


def main():
    scan_images("whole")
    scan_images("few", None, 7)
    for number in range(5):
        stop("killed", signal.SIGKILL, random.Random(number))
    stop("interrupted", signal.SIGINT, random.Random(9))
    for name in ("killed", "interrupted"):
        scan_images(name)
    step, code = 0, None
    while code != 0:
        step += 1
        code = end(child(die_at, step))
        print("step", step, code, flush=True)
        if code != 0:
            scan_images(f"step{step}", None, 7)


# Each child comes through here too, and ends as a program does.
main()
'''


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Many scans, stopped in many ways and ended, in one process that imports once."""
    folder = tmp_path_factory.mktemp("stopped")
    paint(folder / "images", 26)
    (folder / "images" / "011-bad.png").write_text("no picture")
    (folder / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [sys.executable, folder / "worker.py", folder / "images", folder / "out"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout.splitlines()


def test_a_scan_killed_five_times_ends_with_the_same_bytes(
    stopped: tuple[Path, list[str]],
) -> None:
    out, lines = stopped
    codes = [line.split()[1] for line in lines if line.startswith("killed")]
    assert len(codes) == 5
    # A scan that was quicker than the kill has ended well; some were not.
    assert set(codes) <= {"-9", "0"}
    assert "-9" in codes
    assert files(out / "killed") == files(out / "whole")


def test_an_interrupted_scan_ends_and_goes_on(stopped: tuple[Path, list[str]]) -> None:
    out, lines = stopped
    [code] = [line.split(maxsplit=1)[1] for line in lines if line.startswith("interrupted")]
    # By the signal, as Python does, or with an error's code; and soon.
    assert code in ("-2", "1", "130", "0")
    assert files(out / "interrupted") == files(out / "whole")


def test_a_scan_killed_at_any_step_of_any_file_goes_on(stopped: tuple[Path, list[str]]) -> None:
    out, lines = stopped
    steps = [line.split()[1:] for line in lines if line.startswith("step")]
    # Two files first, two shards of two, one last; each is flushed, renamed, its folder flushed.
    assert len(steps) == 3 * (2 + 2 * 2 + 1) + 1
    assert {code for _, code in steps[:-1]} == {"-9"}
    for number, _ in steps:
        assert files(out / f"step{number}") == files(out / "few"), f"killed at step {number}"


def test_weights_from_a_file_are_found_again(tmp_path: Path, pictures: Path, mini: Network) -> None:
    from safetensors.torch import save_file

    changed = {name: value.clone() for name, value in mini.module.state_dict().items()}
    changed["conv2d0_pre_relu_conv.bias"] += 0.01
    save_file(changed, tmp_path / "mine.safetensors")
    images = sorted(pictures.iterdir())[:2]
    asked = {"features": "conv2d1:3", "through": "conv2d0", "images": images}
    weights = tmp_path / "mine.safetensors"
    run = scan_images("inceptionv1-mini", **asked, weights=weights, out=tmp_path / "run")
    again = Run(run.folder).load_network()
    assert again.weights_sha256() != mini.weights_sha256()
    with pytest.raises(RunError, match=r"scanned with other weights of inceptionv1-mini"):
        run.check_network(mini)
    # The file is elsewhere now: the same scan goes on with it, and knows its place.
    weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(RunError, match=r"cannot be loaded: there is no file of weights.*mine"):
        Run(run.folder).load_network()
    scan_images("inceptionv1-mini", **asked, weights=tmp_path / "moved.safetensors", out=run.folder)
    assert Run(run.folder).load_network().weights_sha256() == again.weights_sha256()


def test_in_half_precision_the_error_is_told_and_the_run_knows_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    network = load_network("inceptionv1-mini")
    features = ["mixed3b:9", "mixed3b:*"]
    errors = rounding(network, torch.bfloat16, features, through="mixed3a", images=tmp_path)
    assert network.dtype == torch.bfloat16
    assert errors.keys() == {"activation", "excitation", "inhibition"}
    assert all(1e-4 < error < 0.1 for error in errors.values())
    run = scan_images(network, tmp_path, features, "mixed3a", out=tmp_path / "run")
    assert run.manifest.network["dtype"] == "bfloat16"
    assert run.load_network().dtype == torch.bfloat16
    exact = scan_images("inceptionv1-mini", tmp_path, features, "mixed3a", out=tmp_path / "exact")
    found, expected = run.columns().excitation, exact.columns().excitation
    np.testing.assert_allclose(found, expected, rtol=0.1)
    assert (found != expected).any()


def test_a_batch_that_memory_does_not_hold_is_halved() -> None:
    sizes = []

    def compute(inputs: torch.Tensor) -> int:
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(inputs)

    assert list(_fitting(compute, torch.zeros(10, 1))) == [3, 2, 3, 2]
    assert sizes == [10, 5, 3, 2, 5, 3, 2]

    def never(inputs: torch.Tensor) -> int:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(_fitting(never, torch.zeros(10, 1)))
