"""The atlas: its pure parts against slow twins, its stages, what it is resumed from, its errors."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn
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
    invert,
    scan_images,
)
from opponent.atlas import build as atlas_module
from opponent.atlas.atlas import Atlas, AtlasSettings, Cell, atlases
from opponent.atlas.build import (
    cells_of,
    largest,
    lay_out,
    make_atlas,
    occupied,
    to_square,
    trustworthiness,
)
from opponent.cli import app
from opponent.core.errors import EmptyTarget
from opponent.plots.files import write_atlas
from opponent.storage.run import SCALARS
from opponent.synthesis.inversion import invert_attribution
from opponent.synthesis.transforms import resize


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# A network, photographs, a run

SIZE = (12, 10)
CENTRE = "mixed:2@6,5"
QUICK = AtlasSettings(top=70, grid=3, min_images=3, neighbours=5, steps=3, batch=4)


class Small(nn.Module):
    """Two layers without biases, so that S sums to f."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
            self.early = activation()
            self.wide = nn.Conv2d(6, 5, 3, padding=1, bias=False)
            self.mixed = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(self.wide(self.early(self.stem(x))))


def network_of(module: nn.Module | None = None, **prepared: Any) -> Network:
    network = Network(
        module or Small(), preprocessing=Preprocessing(size=SIZE, **prepared), name="small"
    )
    _ = network.layers
    return network


@pytest.fixture(scope="module")
def small() -> Network:
    return network_of()


def paint(folder: Path, count: int) -> Path:
    """Waves of four colours, level and upright."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:24, :20]
    colours = np.array([[1, 0.2, 0.1], [0.1, 0.9, 0.3], [0.2, 0.3, 1], [1, 1, 1]])
    for number in range(count):
        across = rows if number % 2 else columns
        wave = np.sin(generator.uniform(0.3, 0.8) * across + generator.uniform(0, 6))
        colour = colours[number % 4] * generator.uniform(60, 100)
        pixels = 127 + wave[..., None] * colour + generator.normal(0, 10, (24, 20, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty pictures, and one that cannot be read."""
    folder = paint(tmp_path_factory.mktemp("pictures") / "in", 80)
    (folder / "030-broken.png").write_bytes((folder / "030.png").read_bytes()[:60])
    return folder


def scan_small(network: Network, images: Path, out: Path, through: str = "early") -> Run:
    return scan_images(
        network, images, ["mixed:2", "mixed:3"], through, out=out, batch_size=7, shard_size=25
    )


@pytest.fixture(scope="module")
def scanned(small: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of four shards, without an atlas."""
    return scan_small(small, pictures, tmp_path_factory.mktemp("scanned") / "run")


Call = tuple[str, int, int]


@pytest.fixture(scope="module")
def made(
    small: Network, scanned: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Atlas, list[Call]]:
    """An atlas in a run folder of its own, and what was told on the way; to be read only."""
    calls: list[Call] = []
    run = copy_of(scanned, tmp_path_factory.mktemp("made") / "run")
    atlas = make_atlas(
        run, network=small, settings=QUICK, progress=lambda *call: calls.append(call)
    )
    return atlas, calls


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.folder, folder)
    return Run(folder)


def with_map(run: Run, atlas: Atlas, folder: Path) -> Run:
    """A copy of a run with an atlas' map alone: UMAP takes longer than all that follows."""
    copy = copy_of(run, folder)
    place = copy.folder / "atlas" / atlas.folder.name
    place.mkdir(parents=True)
    shutil.copy(atlas.folder / "map.parquet", place)
    return copy


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain projection in UMAP's place, where the layout does not matter."""

    def project(vectors: np.ndarray, *, seed: int, **_: Any) -> np.ndarray:
        plane = np.random.default_rng(seed).normal(size=(vectors.shape[1], 2))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ plane).astype(np.float32)

    monkeypatch.setattr(atlas_module, "lay_out", project)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


# Which images


def slow_largest(norms: list[float], count: int) -> list[int]:
    """One after the other, the largest that is left; of equals the first."""
    left, chosen = [i for i, norm in enumerate(norms) if norm > 0], list[int]()
    while left and len(chosen) < count:
        best = left[0]
        for i in left:
            if norms[i] > norms[best]:
                best = i
        chosen.append(best)
        left.remove(best)
    return chosen


@given(
    norms=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3e9, math.inf, math.nan]), max_size=12),
    count=st.integers(0, 14),
)
def test_the_largest_norms_equal_their_slow_twin(norms: list[float], count: int) -> None:
    found = largest(np.array(norms, np.float32), count)
    assert found.tolist() == slow_largest(norms, count)


def test_images_that_nothing_drives_are_never_chosen() -> None:
    norms = np.array([0, 3, 0, 3, 1, math.nan])
    assert largest(norms, 9).tolist() == [1, 3, 4]
    assert largest(norms, 1).tolist() == [1]
    assert largest(np.zeros(4), 2).tolist() == []


# The map


def slow_percentile(values: list[float], percent: float) -> float:
    """By linear interpolation between ranks."""
    ordered = sorted(values)
    rank = percent / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def slow_square(layout: list[tuple[float, float]]) -> list[list[float]]:
    """Section 5's map: clipped at the 1st and 99th percentile, with a margin of a tenth."""
    axes = []
    for values in zip(*layout, strict=True):
        low, high = slow_percentile(values, 1), slow_percentile(values, 99)
        start, end = low - 0.1 * (high - low), high + 0.1 * (high - low)
        # An axis without any extent: what lies below it at 0, what lies above it at 1.
        length = end - start or 1.0
        axes.append([min(max((value - start) / length, 0.0), 1.0) for value in values])
    return [list(place) for place in zip(*axes, strict=True)]


@given(st.lists(st.tuples(*[st.integers(-50, 50).map(float)] * 2), min_size=1, max_size=40))
def test_the_square_equals_its_slow_twin(layout: list[tuple[float, float]]) -> None:
    found = to_square(np.array(layout, np.float32))
    np.testing.assert_allclose(found, slow_square(layout), rtol=1e-6, atol=1e-9)


def test_the_square_leaves_a_margin_and_moves_what_lies_far_out_to_its_border() -> None:
    line = np.arange(1001.0)
    layout = np.stack([line, -line], 1)
    layout[0], layout[1000] = (-1e6, 1e6), (1e6, -1e6)
    square = to_square(layout.astype(np.float32))
    # The percentiles lie at 10 and 990, margins of 98 around.
    np.testing.assert_allclose(square[10], [98 / 1176, 1 - 98 / 1176], rtol=1e-6)
    np.testing.assert_allclose(square[500], [0.5, 0.5], rtol=1e-6)
    assert square[0].tolist() == [0, 1]
    assert square[1000].tolist() == [1, 0]


def test_an_axis_without_extent_stays_in_the_square() -> None:
    layout = np.array([[3, 1], [3, 2], [3, 5]], np.float32)
    square = to_square(layout)
    assert square[:, 0].tolist() == [0, 0, 0]
    assert (np.diff(square[:, 1]) > 0).all()
    assert to_square(layout[:1]).tolist() == [[0, 0]]


def slow_cell(x: float, y: float, grid: int) -> tuple[int, int]:
    """Column from the left, row from the top; the last cells hold their far borders too."""
    column = next((c for c in range(grid) if x * grid < c + 1), grid - 1)
    up = next((r for r in range(grid) if y * grid < r + 1), grid - 1)
    return grid - 1 - up, column


@given(
    places=st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=20),
    grid=st.integers(1, 25),
)
def test_cells_equal_their_slow_twin(places: list[tuple[float, float]], grid: int) -> None:
    found = cells_of(np.array(places), grid)
    assert found.tolist() == [list(slow_cell(x, y, grid)) for x, y in places]


def test_row_0_is_at_the_top_and_borders_stay_in_the_grid() -> None:
    places = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0.5, 0.5], [0.24, 0.76]])
    expected = [[0, 0], [0, 3], [3, 0], [3, 3], [1, 2], [0, 0]]
    assert cells_of(places, 4).tolist() == expected
    assert not cells_of(places, 1).any()


@given(
    cells=st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=40),
    least=st.integers(1, 6),
)
def test_occupied_cells_are_those_with_enough_images(
    cells: list[tuple[int, int]], least: int
) -> None:
    counts = Counter(cells)
    expected = [list(cell) for cell in sorted(counts) if counts[cell] >= least]
    if expected:
        assert occupied(np.array(cells), least).tolist() == expected
    else:
        fullest = max(counts.values())
        message = rf"holds {least} images \(the fullest holds {fullest} of {len(cells)}\)"
        with pytest.raises(ValueError, match=message):
            occupied(np.array(cells), least)


def test_a_hundred_thousand_images_are_put_into_cells() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(100_000, 8)).astype(np.float32)
    vectors[::3] = 0
    norms = np.linalg.norm(vectors, axis=1)
    chosen = largest(norms, 10_000)
    assert len(set(chosen.tolist())) == 10_000
    assert norms[chosen].min() >= np.sort(norms)[-10_000]
    layout = generator.normal(size=(10_000, 2)).astype(np.float32)
    cells = cells_of(to_square(layout), 20)
    assert cells.min() == 0
    assert cells.max() == 19
    counts = np.zeros((20, 20), int)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    assert counts.sum() == 10_000
    assert occupied(cells, 6).tolist() == np.argwhere(counts >= 6).tolist()


# How well the map holds


@pytest.mark.parametrize(("count", "neighbours"), [(60, 5), (21, 10), (20, 10), (7, 10), (3, 1)])
def test_trustworthiness_is_that_of_scikit_learn(count: int, neighbours: int) -> None:
    from sklearn.manifold import trustworthiness as measure

    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(count, 6)).astype(np.float32)
    square = generator.uniform(size=(count, 2))
    # It takes fewer than half as many neighbours as there are images.
    most = min(neighbours, next(k for k in range(count, 0, -1) if k < count / 2))
    expected = measure(vectors, square, n_neighbors=most, metric="cosine")
    assert trustworthiness(vectors, square, neighbours, 0) == pytest.approx(expected)


def test_a_map_of_directions_by_their_angle_is_trusted_and_a_random_one_is_not() -> None:
    generator = np.random.default_rng(0)
    angle = np.sort(generator.uniform(0, 3, 200))
    # Of any length: the distance is the cosine's.
    length = generator.uniform(0.01, 100, (200, 1))
    vectors = (length * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)
    along = np.stack([angle, np.zeros(200)], 1)
    assert trustworthiness(vectors, along, 10, 0) > 0.999
    assert trustworthiness(vectors, generator.uniform(size=(200, 2)), 10, 0) < 0.6


def test_the_trust_in_a_large_map_is_that_of_a_seeded_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sklearn.manifold import trustworthiness as measure

    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 5)).astype(np.float32)
    square = generator.uniform(size=(300, 2))
    monkeypatch.setattr(atlas_module, "TRUSTED", 40)
    found = [trustworthiness(vectors, square, 6, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    rows = np.random.default_rng(1).permutation(300)[:40]
    expected = measure(vectors[rows], square[rows], n_neighbors=6, metric="cosine")
    assert found[2] == pytest.approx(expected)


# The layout


def test_a_layout_depends_on_its_seed_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    one, again, other = (lay_out(vectors, neighbours=5, seed=seed) for seed in (3, 3, 4))
    assert one.shape == (60, 2)
    assert np.isfinite(one).all()
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


def test_a_layout_leaves_the_number_of_threads_as_it_was() -> None:
    assert torch.get_num_threads() == 1  # of this module's tests
    lay_out(np.random.default_rng(0).random((30, 4), dtype=np.float32), neighbours=5)
    assert torch.get_num_threads() == 1


def test_vectors_of_like_direction_lie_together_whatever_their_length() -> None:
    generator = np.random.default_rng(0)
    kinds = np.repeat(np.arange(3), 30)
    vectors = np.eye(3)[kinds] + generator.normal(0, 0.05, (90, 3))
    vectors *= 10 ** generator.uniform(-2, 2, (90, 1))
    layout = lay_out(vectors.astype(np.float32), neighbours=8)
    distances = np.linalg.norm(layout[:, None] - layout[None], axis=2)
    nearest = distances.argsort(1)[:, 1:6]
    assert (kinds[nearest] == kinds[:, None]).all()


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_vectors_make_no_map(count: int) -> None:
    vectors = np.ones((count, 3), np.float32)
    message = f"a map of {count} images: UMAP with 5 neighbours needs at least 10 that drive the"
    with pytest.raises(ValueError, match=message):
        lay_out(vectors, neighbours=5)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
def test_vectors_without_a_direction_make_no_map(bad: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    vectors[7] = bad
    with pytest.raises(ValueError, match="vectors that are finite and not zero; scan again"):
        lay_out(vectors, neighbours=5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"grid": -1}, "grid must be at least 1, got -1"),
        ({"min_images": 0}, "min_images must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"neighbours": 1}, "neighbours must be at least 2, got 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtlasSettings(**given)


def test_the_papers_settings_are_the_usual_ones() -> None:
    assert AtlasSettings() == AtlasSettings(
        top=10_000, grid=20, min_images=6, neighbours=10, min_dist=0.1, space=False
    )
    made = AtlasSettings(seed=7, steps=120, batch=3).synthesis
    assert made == SynthesisSettings(steps=120, rate=0.06, power=2.0, seed=7, batch=3)


# An atlas, stage by stage


def test_the_map_holds_the_images_with_the_largest_norm(
    made: tuple[Atlas, list[Call]], scanned: Run
) -> None:
    table = made[0].map
    assert table.column_names == ["image", "x", "y", "row", "column", *SCALARS]
    columns = scanned.columns(CENTRE)
    chosen = slow_largest(columns.l2.tolist(), 70)
    assert len(columns.images) == 80
    assert table["image"].to_pylist() == [columns.images[i] for i in chosen]
    for name in SCALARS:
        assert table[name].to_pylist() == getattr(columns, name)[chosen].tolist()
    # The layout of S summed over space, in double steps of the paper's own order.
    vectors = scanned.channels(CENTRE)[chosen]
    square = to_square(lay_out(vectors, neighbours=5, min_dist=0.1, seed=0))
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    assert np.stack([x, y], 1).tolist() == square.tolist()
    at = zip(table["row"].to_pylist(), table["column"].to_pylist(), strict=True)
    assert list(at) == [slow_cell(*place, 3) for place in square]
    assert made[0].about["images"] == 70
    trust = trustworthiness(vectors, square, 5, 0)
    assert made[0].about["trustworthiness"] == pytest.approx(trust)


def inside(atlas: Atlas) -> dict[tuple[int, int], list[str]]:
    """The images of every cell with at least three, counted by hand."""
    cells: dict[tuple[int, int], list[str]] = {}
    for row in atlas.map.to_pylist():
        cells.setdefault((row["row"], row["column"]), []).append(row["image"])
    return {cell: images for cell, images in sorted(cells.items()) if len(images) >= 3}


def test_cells_hold_exactly_their_images_and_their_means(
    made: tuple[Atlas, list[Call]], small: Network, pictures: Path
) -> None:
    atlas, expected = made[0], inside(made[0])
    assert 3 <= len(expected) == atlas.about["cells"]
    assert {(cell.row, cell.column): list(cell.images) for cell in atlas.cells} == expected
    assert [(cell.row, cell.column) for cell in atlas.cells] == list(expected)
    table = pq.read_table(atlas.folder / "atlas.parquet")
    assert table["count"].to_pylist() == [len(images) for images in expected.values()]
    for cell in atlas.cells:
        each = [attribute(small, [pictures / x], CENTRE, "early") for x in cell.images]
        for name in ("activation", "excitation", "inhibition"):
            slow = sum(float(getattr(one, name)) for one in each) / len(each)
            assert getattr(cell, f"mean_{name}") == pytest.approx(slow, rel=1e-4, abs=1e-5)
        difference = cell.mean_excitation - cell.mean_inhibition
        assert cell.mean_activation == pytest.approx(difference, rel=1e-4, abs=1e-5)


def slow_means(
    atlas: Atlas, network: Network, pictures: Path, through: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean S and mean h of each cell, from one image at a time."""
    rows, columns = atlas.run.through_window(atlas.feature).slices
    found = []
    for cell in atlas.cells:
        each = [attribute(network, [pictures / x], atlas.feature, through) for x in cell.images]
        for one in each:
            beyond = one.attribution.clone()
            beyond[:, :, rows, columns] = 0
            assert not beyond.any()
        s, h = (
            sum(getattr(one, name)[0, :, rows, columns].double() for one in each) / len(each)
            for name in ("attribution", "hidden")
        )
        found.append((s, h))
    both = [torch.stack([pair[k] for pair in found]) for k in (0, 1)]
    return both[0], both[1]


def test_mean_attributions_equal_their_slow_twin(
    made: tuple[Atlas, list[Call]], small: Network, pictures: Path
) -> None:
    expected = slow_means(made[0], small, pictures, "early")
    cells = load_file(made[0].folder / "cells.safetensors")
    assert set(cells) == {"attribution", "hidden"}
    assert cells["attribution"].shape == (len(made[0].cells), 6, 3, 3)
    for name, slow in zip(("attribution", "hidden"), expected, strict=True):
        torch.testing.assert_close(cells[name].double(), slow, rtol=1e-4, atol=1e-6)


def test_icons_are_inversions_of_the_mean_cut_to_the_receptive_field(
    made: tuple[Atlas, list[Call]], small: Network
) -> None:
    atlas = made[0]
    means = load_file(atlas.folder / "cells.safetensors")["attribution"]
    how = SynthesisSettings(steps=3, rate=0.06, power=2.0, seed=0, batch=4)
    for first in range(0, len(means), 4):
        part = means[first : first + 4]
        unit = torch.stack([mean / mean.double().square().sum().sqrt().float() for mean in part])
        result = invert_attribution(small, unit, CENTRE, "early", sign=0, settings=how)
        inputs = small.preprocessing.normalise(resize(result.image, SIZE))
        activation = attribute(small, inputs, CENTRE, "early").activation
        for k, cell in enumerate(atlas.cells[first : first + 4]):
            expected = float(activation[k])
            assert cell.activations["both"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            # Rows 4 to 8 and columns 3 to 7 of 12 x 10 pixels, on a canvas of 27 x 23.
            icon = cell.pixels()
            assert icon is not None
            assert icon.shape == (11, 11, 4)
            whole = result.rgba()[k, 9:20, 7:18].astype(int)
            assert np.abs(icon.astype(int) - whole).max() <= 1
            assert 0 < icon[..., 3].max() <= 255


def test_the_correlation_is_spearmans(made: tuple[Atlas, list[Call]]) -> None:
    from scipy.stats import spearmanr

    cells = made[0].cells
    pairs = [(cell.activations["both"], cell.mean_activation) for cell in cells]
    found = made[0].about["icons_against_images"]
    expected = spearmanr(*zip(*pairs, strict=True))
    assert found["spearman"] == pytest.approx(expected.statistic)
    assert found["p"] == pytest.approx(expected.pvalue)
    ranks = [[sorted(side).index(value) for value in side] for side in zip(*pairs, strict=True)]
    assert found["spearman"] == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_an_atlas_says_what_was_asked(made: tuple[Atlas, list[Call]], scanned: Run) -> None:
    about = made[0].about
    assert Feature.restore(about["asked"]["feature"]) == scanned.feature(CENTRE)
    assert about["asked"]["through"] == "early"
    assert AtlasSettings(**about["asked"]["settings"]) == QUICK
    assert {"umap-learn", "torch", "numpy"} <= set(about["asked"]["versions"])
    deviation = scanned.columns(CENTRE).activation.astype(float).std()
    assert about["deviation"] == pytest.approx(deviation, rel=1e-5)


def test_an_atlas_leaves_nothing_but_its_files(
    made: tuple[Atlas, list[Call]], scanned: Run
) -> None:
    atlas = made[0]
    icons = {f"icons/{row:02d}-{column:02d}.png" for row, column in inside(atlas)}
    batches = {f"icons/both-{number:03d}.json" for number in range(-(-len(icons) // 4))}
    plain = {"atlas.json", "atlas.parquet", "cells.safetensors", "map.parquet"}
    found = files(atlas.folder)
    assert set(found) == plain | icons | batches
    assert atlas.folder.parent == atlas.run.folder / "atlas"
    assert atlas.folder.name.startswith("mixed-2-6-5-")
    for name in icons:
        with Image.open(atlas.folder / name) as image:
            assert image.mode == "RGBA"
    # The rest of the run folder stays as it was.
    rest = {name: x for name, x in files(atlas.run.folder).items() if not name.startswith("atlas/")}
    assert rest == files(scanned.folder)


def test_progress_runs_through_the_stages(made: tuple[Atlas, list[Call]]) -> None:
    atlas, calls = made
    count, batches = sum(len(cell.images) for cell in atlas.cells), -(-len(atlas.cells) // 4)
    assert calls == [
        *((f"{CENTRE}: map of 70 images", done, 1) for done in (0, 1)),
        *(
            (f"{CENTRE}: mean attributions", min(done, count), count)
            for done in range(7, count + 7, 7)
        ),
        *((f"{CENTRE}: icons", done, 3 * batches) for done in range(1, 3 * batches + 1)),
    ]


def test_an_atlas_is_opened_again(made: tuple[Atlas, list[Call]]) -> None:
    atlas = made[0]
    for again in (
        Atlas(Run(atlas.run.folder), atlas.folder),
        *atlases(Run(atlas.run.folder)),
        *atlases(atlas.run, CENTRE),
        *atlases(atlas.run, atlas.feature),
    ):
        assert again.folder == atlas.folder
        assert again.feature == atlas.feature
        assert again.settings == QUICK
        assert again.about == atlas.about
        assert again.map == atlas.map
        assert again.cells == atlas.cells
        assert not again.signed
    assert len(atlases(atlas.run)) == 1
    assert atlases(atlas.run, "mixed:3") == []
    with pytest.raises(ValueError, match=r"holds no 'mixed:4'; it holds mixed:2@6,5, mixed:3@6,5"):
        atlases(atlas.run, "mixed:4")


def test_atlases_come_newest_first(made: tuple[Atlas, list[Call]], tmp_path: Path) -> None:
    run = copy_of(made[0].run, tmp_path / "run")
    first = run.folder / "atlas" / made[0].folder.name
    for name in ("old", "older"):
        shutil.copytree(first, first.with_name(name))
    for name, age in (("old", 100), ("older", 200)):
        os.utime(first.with_name(name) / "atlas.json", (1e9 - age, 1e9 - age))
    os.utime(first / "atlas.json", (1e9, 1e9))
    assert [each.folder.name for each in atlases(run)] == [first.name, "old", "older"]


def test_a_finished_atlas_computes_nothing_again(
    made: tuple[Atlas, list[Call]], small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(made[0].run, tmp_path / "run")
    before, then = files(run.folder), times(run.folder)

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("computed again")

    for name in ("lay_out", "trustworthiness", "attribute_each", "invert_attribution"):
        monkeypatch.setattr(atlas_module, name, refuse)
    calls: list[Call] = []
    again = make_atlas(
        run, CENTRE, network=small, settings=QUICK, progress=lambda *call: calls.append(call)
    )
    assert not calls
    assert files(run.folder) == before
    after = times(run.folder)
    for name in then:
        if Path(name).name not in ("atlas.parquet", "atlas.json"):
            assert after[name] == then[name], name
    assert [replace(x, icon=Path()) for x in again.cells] == [
        replace(x, icon=Path()) for x in made[0].cells
    ]


def test_the_same_images_give_the_same_bytes_in_another_run(
    made: tuple[Atlas, list[Call]], small: Network, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "moved")
    run = scan_small(small, tmp_path / "moved", tmp_path / "run")
    again = make_atlas(run, network=small, settings=QUICK)
    assert again.folder.name == made[0].folder.name
    assert files(again.folder) == files(made[0].folder)


@pytest.mark.usefixtures("flat")
def test_all_that_differs_gets_a_folder_of_its_own(
    made: tuple[Atlas, list[Call]], small: Network, tmp_path: Path
) -> None:
    run, before = copy_of(made[0].run, tmp_path / "run"), files(made[0].run.folder)
    quick = replace(QUICK, steps=1)
    others = [
        make_atlas(run, feature, network=small, settings=given)
        for feature, given in [
            (None, quick),
            (None, replace(quick, seed=1)),
            (None, replace(quick, grid=2)),
            ("mixed:3", quick),
        ]
    ]
    names = {each.folder.name for each in others} | {made[0].folder.name}
    assert len(names) == 5
    assert len(atlases(run)) == 5
    assert [each.folder for each in atlases(run, "mixed:3")] == [others[-1].folder]
    assert others[0].map["image"] == made[0].map["image"]
    assert others[1].map["x"] != others[0].map["x"]
    assert others[2].map["x"] == others[0].map["x"]
    assert {name: files(run.folder)[name] for name in before} == before


def test_the_callers_grad_mode_changes_nothing(
    made: tuple[Atlas, list[Call]], small: Network, tmp_path: Path
) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        run = copy_of(made[0].run, tmp_path / mode.__name__)
        folder = run.folder / "atlas" / made[0].folder.name
        shutil.rmtree(folder / "icons")
        (folder / "cells.safetensors").unlink()
        with mode():
            make_atlas(run, network=small, settings=QUICK)
        assert files(run.folder) == files(made[0].run.folder)


@pytest.mark.usefixtures("flat")
def test_icons_turn_with_a_layer_that_can_be_negative(pictures: Path, tmp_path: Path) -> None:
    through, network = "stem", network_of(Small(nn.GELU))
    run = scan_small(network, pictures, tmp_path / "run", through)
    atlas = make_atlas(run, network=network, settings=replace(QUICK, batch=9, grid=2))
    expected = slow_means(atlas, network, pictures, through)
    means = load_file(atlas.folder / "cells.safetensors")
    torch.testing.assert_close(means["hidden"].double(), expected[1], rtol=1e-4, atol=1e-6)
    assert (means["hidden"] < 0).any()
    unit = means["attribution"]
    unit = unit / unit.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    # |S| in the direction of h itself, by hand: the same as its excitatory part with that sign.
    target = means["hidden"].sign() * unit.abs()
    how = SynthesisSettings(steps=3, rate=0.06, power=2.0, batch=9)
    ones = torch.ones_like(target)
    result = invert_attribution(
        network, target.abs(), CENTRE, through, sign=1, hidden=target.sign() * ones, settings=how
    )
    found = [cell.activations["both"] for cell in atlas.cells]
    np.testing.assert_allclose(found, result.final, rtol=1e-4, atol=1e-5)


# Made in steps


class Stop(KeyboardInterrupt):
    """As by Ctrl-C."""


def stop_at(count: int, seen: list[Call]) -> Callable[[str, int, int], None]:
    def progress(*call: Any) -> None:
        seen.append(call)
        if len(seen) == count:
            raise Stop("stop")

    return progress


def test_an_atlas_interrupted_anywhere_goes_on_to_the_same_bytes(
    made: tuple[Atlas, list[Call]],
    scanned: Run,
    small: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = files(made[0].run.folder)
    # Sums are kept every third batch of images.
    monkeypatch.setattr(atlas_module, "_SAVED", 20)
    means = [i for i, call in enumerate(made[1], 1) if "mean" in call[0]]
    icons = [i for i, call in enumerate(made[1], 1) if "icons" in call[0]]
    for count in (1, 2, means[3], icons[0], icons[2], icons[3]):
        what, done, total = made[1][count - 1]
        # Once the map is there, begin with it.
        skipped = 0 if "map" in what else 2
        folder = tmp_path / str(count)
        run = with_map(scanned, made[0], folder) if skipped else copy_of(scanned, folder)
        first: list[Call] = []
        with pytest.raises(Stop, match="stop"):
            make_atlas(run, network=small, settings=QUICK, progress=stop_at(count - skipped, first))
        assert first == made[1][skipped:count]
        assert not list(run.folder.rglob(".*"))
        assert atlases(run) == []
        second: list[Call] = []
        make_atlas(run, network=small, settings=QUICK, progress=lambda *x, to=second: to.append(x))
        assert files(run.folder) == expected, f"interrupted at {what}, {done} of {total}"
        # Stages and parts that were done are not done again.
        if "map" in what:
            again = made[1] if done == 0 else made[1][2:]
        elif "mean" in what:
            # What was computed since the last batch with 20 images more is computed again.
            kept = max((x for x in range(21, done + 1, 21)), default=0)
            kept = kept if done < total else total
            again = made[1][2 + kept // 7 :] if done < total else second
            assert all("map" not in call[0] for call in second)
        else:
            again = [call for call in made[1] if "icons" in call[0]][3 * ((done - 1) // 3) :]
        assert second == again


def test_an_atlas_interrupted_again_and_again_ends(
    made: tuple[Atlas, list[Call]],
    scanned: Run,
    small: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atlas_module, "_SAVED", 1)
    run, rounds = copy_of(scanned, tmp_path / "run"), 0
    while True:
        rounds += 1
        assert rounds < 60, "it never ends"
        with suppress(Stop):
            # At the fourth call of each round: a few batches of images, one batch of icons.
            make_atlas(run, network=small, settings=QUICK, progress=stop_at(4, []))
            break
    assert rounds > 4
    assert files(run.folder) == files(made[0].run.folder)


def test_damaged_sums_are_made_again(
    made: tuple[Atlas, list[Call]], small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(made[0].run, tmp_path / "run")
    folder = run.folder / "atlas" / made[0].folder.name
    shutil.rmtree(folder / "icons")
    (folder / "cells.safetensors").unlink()
    (folder / "cells.part.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    make_atlas(run, network=small, settings=QUICK)
    assert files(run.folder) == files(made[0].run.folder)


WORKER = """
import importlib.util, sys

spec = importlib.util.spec_from_file_location("tests_of_atlas", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.die(*sys.argv[2:])
"""
FEW = replace(QUICK, grid=2, steps=1, batch=2, min_images=15)


def die(template: str, out: str) -> None:
    """In a process of its own: at steps of its files be killed, then go on.

    A step is a file or folder that is flushed, or a file that gets its name.
    """
    torch.set_num_threads(1)
    network, step, code = network_of(), -1, None
    while code != 0:
        # Every other one: of three steps a file, that meets each kind and each file.
        step += 2
        run = copy_of(Run(template), Path(out) / str(step))
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _count_to(step)
            make_atlas(run, network=network, settings=FEW)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(step, code, len(list(run.folder.rglob(".*.tmp.*"))), flush=True)
        make_atlas(run, network=network, settings=FEW)


def _count_to(step: int) -> None:
    count = 0

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*arguments)

        return wrapper

    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]


def test_an_atlas_killed_at_steps_of_every_file_goes_on(
    scanned: Run, small: Network, tmp_path: Path
) -> None:
    whole = copy_of(scanned, tmp_path / "whole")
    atlas = make_atlas(whole, network=small, settings=FEW)
    # With its map, so that no child has to wait for UMAP.
    template = with_map(scanned, atlas, tmp_path / "template")
    done = subprocess.run(
        [sys.executable, "-c", WORKER, __file__, template.folder, tmp_path / "out"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines()]
    # Means, icons, a record a batch, the table, the description: flushed, named, folder flushed.
    written = 3 + len(atlas.cells) + -(-len(atlas.cells) // 2)
    assert len(steps) == -(-3 * written // 2) + 1
    assert {code for _, code, _ in steps[:-1]} == {"-9"}
    assert any(left == "1" for _, _, left in steps)
    for number, _, _ in steps:
        assert files(tmp_path / "out" / number) == files(whole.folder), f"killed at step {number}"


# Both sides


@pytest.fixture(scope="module")
def signed(
    made: tuple[Atlas, list[Call]], small: Network, tmp_path_factory: pytest.TempPathFactory
) -> Atlas:
    """The same atlas, to which both sides were added later."""
    run = copy_of(made[0].run, tmp_path_factory.mktemp("signed") / "run")
    return make_atlas(run, network=small, settings=QUICK, signed=True)


def test_sides_are_added_and_nothing_else_changes(
    made: tuple[Atlas, list[Call]], signed: Atlas
) -> None:
    before, after = files(made[0].run.folder), files(signed.run.folder)
    changed = {name for name in before if before[name] != after[name]}
    assert {Path(name).name for name in changed} <= {"atlas.parquet"}
    icons = {
        f"icons/{cell.row:02d}-{cell.column:02d}-{side}.png"
        for cell in signed.cells
        for side in ("excitation", "inhibition")
    }
    records = {
        f"icons/{side}-{number:03d}.json"
        for side in ("excitation", "inhibition")
        for number in range(-(-len(signed.cells) // 4))
    }
    new = {
        str(Path(name).relative_to(f"atlas/{signed.folder.name}")) for name in {*after} - {*before}
    }
    assert new == icons | records
    old, table = (pq.read_table(each.folder / "atlas.parquet") for each in (made[0], signed))
    assert table.select(old.column_names) == old
    assert set(table.column_names) - set(old.column_names) == {
        "activation_excitation", "activation_inhibition",
    }  # fmt: skip
    assert signed.signed


def test_each_side_is_an_inversion_of_that_side(signed: Atlas, small: Network) -> None:
    means = load_file(signed.folder / "cells.safetensors")["attribution"]
    unit = means / means.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    how = SynthesisSettings(steps=3, rate=0.06, power=2.0, seed=0, batch=4)
    for side, sign in (("excitation", 1), ("inhibition", -1)):
        result = invert_attribution(small, unit, CENTRE, "early", sign=sign, settings=how)
        found = [cell.activations[side] for cell in signed.cells]
        np.testing.assert_allclose(found, result.final, rtol=1e-4, atol=1e-5)
        for k, cell in enumerate(signed.cells):
            icon = cell.pixels(side)
            assert icon is not None
            whole = result.rgba()[k, 9:20, 7:18].astype(int)
            assert np.abs(icon.astype(int) - whole).max() <= 1


def test_both_sides_at_once_or_later_give_the_same_bytes(
    signed: Atlas, scanned: Run, small: Network, tmp_path: Path
) -> None:
    run = with_map(scanned, signed, tmp_path / "run")
    make_atlas(run, network=small, settings=QUICK, signed=True)
    assert files(run.folder) == files(signed.run.folder)
    # And a call that does not ask for them keeps them.
    again = make_atlas(run, network=small, settings=QUICK)
    assert again.signed
    assert files(run.folder) == files(signed.run.folder)


class Colours(nn.Module):
    """Red, green and blue as they are, then their weighted sums over 3 x 3 pixels."""

    def __init__(self, red: float, green: float, blue: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.stem = nn.Conv2d(3, 3, 1, bias=False)
            self.early = nn.ReLU()
            self.wide = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.mixed = nn.ReLU()
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(3)[..., None, None])
            near = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
            weights = torch.tensor([red, green, blue])
            self.wide.weight.copy_(weights[None, :, None, None] * near)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(self.wide(self.early(self.stem(x))))


BLACK = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.usefixtures("flat")
def test_a_side_that_is_nowhere_has_no_icon(pictures: Path, tmp_path: Path) -> None:
    network = network_of(Colours(1, 2, 0.5), **BLACK)
    run = scan_small(network, pictures, tmp_path / "run")
    assert not run.columns().inhibition.any()
    atlas = make_atlas(run, network=network, settings=QUICK, signed=True)
    assert atlas.signed
    for cell in atlas.cells:
        assert cell.activations["inhibition"] is None
        assert cell.pixels("inhibition") is None
        assert cell.activations["excitation"] is not None
        assert cell.pixels("excitation") is not None
        assert cell.mean_inhibition == 0
    assert not list(atlas.folder.glob("icons/*-inhibition.png"))
    record = json.loads((atlas.folder / "icons" / "inhibition-000.json").read_text())
    assert record == [None] * min(4, len(atlas.cells))
    # The two are one and the same target.
    for cell in atlas.cells:
        np.testing.assert_array_equal(cell.pixels("excitation"), cell.pixels())


def test_in_one_batch_cells_may_lack_a_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red excites, blue inhibits; a third of the pictures has both."""

    def by_colour(vectors: np.ndarray, **_: Any) -> np.ndarray:
        return vectors[:, [0, 2]] / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(atlas_module, "lay_out", by_colour)
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(90):
        pixels = generator.integers(20, 250, (12, 10, 3), dtype=np.uint8)
        pixels[..., 1] //= 50
        pixels[..., {0: [2], 1: [0, 1], 2: []}[number % 3]] = 0
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number:02d}.png")
    network = network_of(Colours(1, 0.5, -1), **BLACK)
    run = scan_small(network, tmp_path / "in", tmp_path / "run")
    given = replace(QUICK, top=90, grid=4, batch=50, neighbours=6)
    atlas = make_atlas(run, network=network, settings=given, signed=True)
    means = load_file(atlas.folder / "cells.safetensors")["attribution"]
    sides = []
    for cell, mean in zip(atlas.cells, means, strict=True):
        there = {"both": True, "excitation": (mean > 0).any(), "inhibition": (mean < 0).any()}
        for side, is_there in there.items():
            assert (cell.activations[side] is not None) == is_there
            assert (cell.pixels(side) is not None) == is_there
        sides.append(tuple(map(bool, there.values())))
    assert {(True, True, False), (True, False, True)} <= set(sides)
    # Each icon is its own cell's, also after one that was left out.
    unit = means / means.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for side, sign in (("excitation", 1), ("inhibition", -1)):
        made = [x for x, cell in enumerate(atlas.cells) if cell.activations[side] is not None]
        assert made != list(range(len(made))) or sign > 0
        part, how = unit[made[-1:]], SynthesisSettings(steps=3, rate=0.06, power=2.0)
        alone = invert_attribution(network, part, CENTRE, "early", sign=sign, settings=how)
        found = atlas.cells[made[-1]].activations[side]
        assert found == pytest.approx(float(alone.final), rel=1e-3)


# With space


def test_images_may_be_laid_out_with_space(
    made: tuple[Atlas, list[Call]],
    scanned: Run,
    small: Network,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []

    def spy(vectors: np.ndarray, **named: Any) -> np.ndarray:
        seen.append(vectors)
        return lay_out(vectors, **named)

    monkeypatch.setattr(atlas_module, "lay_out", spy)
    run = copy_of(scanned, tmp_path / "run")
    given = replace(QUICK, space=True)
    # As many bytes as there may be, and not one more.
    monkeypatch.setattr(atlas_module, "LARGEST", 4 * 6 * 3 * 3 * 70)
    atlas = make_atlas(run, network=small, settings=given)
    images = atlas.map["image"].to_pylist()
    assert images == made[0].map["image"].to_pylist()
    rows, columns = run.through_window(atlas.feature).slices
    slow = attribute(small, [pictures / image for image in images], CENTRE, "early").attribution
    np.testing.assert_allclose(
        seen[0], slow[:, :, rows, columns].flatten(1).numpy(), rtol=1e-3, atol=1e-6
    )
    assert atlas.folder.name != made[0].folder.name
    square = to_square(lay_out(seen[0], neighbours=5))
    assert atlas.map["x"].to_pylist() == square[:, 0].tolist()


def test_space_that_takes_too_much_memory_is_refused(
    scanned: Run, small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(scanned, tmp_path / "run")
    monkeypatch.setattr(atlas_module, "LARGEST", 4 * 6 * 3 * 3 * 70 - 1)
    message = r"takes 0\.0 GB for 70 images; lay out at most 69 \(--top\), or S summed over space"
    with pytest.raises(ValueError, match=message):
        make_atlas(run, network=small, settings=replace(QUICK, space=True))
    assert files(run.folder) == files(scanned.folder)


# What goes wrong


def test_too_few_images_make_no_atlas(scanned: Run, small: Network, tmp_path: Path) -> None:
    run = copy_of(scanned, tmp_path / "run")
    with pytest.raises(ValueError, match=r"a map of 9 images: UMAP with 5 neighbours needs at le"):
        make_atlas(run, network=small, settings=replace(QUICK, top=9))
    assert files(run.folder) == files(scanned.folder)
    assert atlases(run) == []


def test_a_grid_without_a_full_cell_makes_no_atlas(
    scanned: Run, small: Network, tmp_path: Path
) -> None:
    run = copy_of(scanned, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds 40 images .* of 70\); take a coarser grid"):
        make_atlas(run, network=small, settings=replace(QUICK, grid=9, min_images=40))
    left = set(files(run.folder)) - set(files(scanned.folder))
    assert {Path(name).name for name in left} <= {"map.parquet"}
    assert atlases(run) == []


def test_an_unfinished_run_makes_no_atlas(scanned: Run, small: Network, tmp_path: Path) -> None:
    run = copy_of(scanned, tmp_path / "run")
    run.shard(2).unlink()
    before = files(run.folder)
    with pytest.raises(RunError, match=r"not finished \(3 of 4 parts\).*opponent scan"):
        make_atlas(run, network=small, settings=QUICK)
    assert files(run.folder) == before


def test_another_network_makes_no_atlas(scanned: Run, tmp_path: Path) -> None:
    run = copy_of(scanned, tmp_path / "run")
    module = Small()
    with torch.no_grad():
        module.stem.weight.mul_(1.01)
    with pytest.raises(RunError, match="was scanned with other weights of small"):
        make_atlas(run, network=network_of(module), settings=QUICK)
    with pytest.raises(RunError, match="was scanned with images prepared otherwise"):
        make_atlas(run, network=network_of(**BLACK), settings=QUICK)
    with pytest.raises(RunError, match="cannot be loaded"):
        make_atlas(run, settings=QUICK)
    assert files(run.folder) == files(scanned.folder)


def test_a_feature_that_was_not_scanned_makes_no_atlas(scanned: Run, small: Network) -> None:
    with pytest.raises(ValueError, match=r"holds no 'mixed:1'; it holds mixed:2@6,5"):
        make_atlas(scanned, "mixed:1", network=small, settings=QUICK)
    assert not (scanned.folder / "atlas").exists()


def test_a_photograph_that_is_gone_is_named(
    made: tuple[Atlas, list[Call]], small: Network, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "in")
    bare = scan_small(small, tmp_path / "in", tmp_path / "bare")
    run = with_map(bare, made[0], tmp_path / "run")
    before = files(run.folder)
    # The last of a cell, so that others have been read before.
    name = max(made[0].cells, key=lambda cell: len(cell.images)).images[-1]
    gone = tmp_path / "in" / name
    content = gone.read_bytes()
    for damage, reason in ((None, "no such file"), (content[:80], "truncated")):
        if damage is None:
            gone.unlink()
        else:
            gone.write_bytes(damage)
        with pytest.raises(Unreadable, match=rf"{name} was scanned but cannot be read.*{reason}"):
            make_atlas(run, network=small, settings=QUICK)
        assert files(run.folder) == before
    gone.write_bytes(content)
    again = make_atlas(run, network=small, settings=QUICK)
    assert files(again.folder) == files(made[0].folder)


def halve(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage", [halve, lambda _: b"", lambda _: b"junk"], ids=["half", "empty", "junk"]
)
@pytest.mark.parametrize(
    "name", ["map.parquet", "cells.safetensors", "icons/both-000.json", "icons/both-001.json"]
)
def test_a_damaged_stage_is_named_and_made_again_once_deleted(
    made: tuple[Atlas, list[Call]],
    small: Network,
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes],
) -> None:
    run, expected = copy_of(made[0].run, tmp_path / "run"), files(made[0].run.folder)
    file = run.folder / "atlas" / made[0].folder.name / name
    file.write_bytes(damage(file.read_bytes()))
    before = files(run.folder)
    message = rf"{name} is damaged \(.+\); delete it and give the same `opponent atlas` again"
    with pytest.raises(RunError, match=message):
        make_atlas(run, network=small, settings=QUICK)
    assert files(run.folder) == before
    file.unlink()
    make_atlas(run, network=small, settings=QUICK)
    assert files(run.folder) == expected


def test_a_changed_byte_of_the_maps_values_is_told(
    made: tuple[Atlas, list[Call]], tmp_path: Path
) -> None:
    """In each column's pages; what follows them, Parquet leaves without a checksum."""
    run = copy_of(made[0].run, tmp_path / "run")
    file = run.folder / "atlas" / made[0].folder.name / "map.parquet"
    content, group = file.read_bytes(), pq.read_metadata(file).row_group(0)
    for column in range(group.num_columns):
        one = group.column(column)
        end = (one.dictionary_page_offset or one.data_page_offset) + one.total_compressed_size
        changed = bytearray(content)
        changed[end - 3] ^= 0x55
        file.write_bytes(changed)
        with pytest.raises(RunError, match=r"map\.parquet is damaged \(.+\); delete it"):
            _ = atlases(run)[0].map


def test_damage_is_told_on_reading_too(
    made: tuple[Atlas, list[Call]], small: Network, tmp_path: Path
) -> None:
    run = copy_of(made[0].run, tmp_path / "run")
    folder = run.folder / "atlas" / made[0].folder.name
    for name, read in (("map", lambda x: x.map), ("atlas", lambda x: x.cells)):
        file = folder / f"{name}.parquet"
        content = file.read_bytes()
        for damaged in (halve(content), b"", None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            [atlas] = atlases(run)
            with pytest.raises(RunError, match=rf"{name}\.parquet is damaged .*delete it and give"):
                read(atlas)
        file.write_bytes(content)
    # The table and the description are written each time anew.
    (folder / "atlas.parquet").write_bytes(b"")
    (folder / "atlas.json").write_bytes(b"{")
    make_atlas(run, network=small, settings=QUICK)
    assert files(run.folder) == files(made[0].run.folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"3",
        b"\xff",
        b'{"asked": {',
        b'{"asked": 3}',
        b'{"asked": {"feature": {"layer": "a", "unit": 1}, "settings": {"top": 0}}}',
        b'{"asked": {"feature": {"layer": "a", "unit": 1}, "settings": {"other": 1}}}',
    ],
)
def test_a_damaged_description_is_told(
    made: tuple[Atlas, list[Call]], tmp_path: Path, content: bytes
) -> None:
    run = copy_of(made[0].run, tmp_path / "run")
    folder = run.folder / "atlas" / made[0].folder.name
    (folder / "atlas.json").write_bytes(content)
    message = r"atlas\.json is damaged \(.+\); delete it and give the same `opponent atlas` again"
    with pytest.raises(RunError, match=message):
        atlases(run)
    with pytest.raises(RunError, match=message):
        Atlas(run, folder)
    (folder / "atlas.json").unlink()
    assert atlases(run) == []
    with pytest.raises(RunError, match=r"holds no finished atlas; give the same `opponent atlas`"):
        Atlas(run, folder)


# Reading a run


@given(rows=st.lists(st.integers(0, 79), min_size=1, max_size=100))
@settings(deadline=None, max_examples=40)
def test_rows_of_channels_come_in_the_order_asked(scanned: Run, rows: list[int]) -> None:
    wanted = np.array(rows)
    for feature in ("mixed:2", "mixed:3"):
        found = scanned.channels(feature, rows=wanted)
        np.testing.assert_array_equal(found, scanned.channels(feature)[wanted])
        some = scanned.channel_sides(feature, rows=wanted)
        for part, whole in zip(some, scanned.channel_sides(feature), strict=True):
            np.testing.assert_array_equal(part, whole[wanted])


def test_rows_may_all_lie_in_one_shard_or_turn_all_around(scanned: Run) -> None:
    channels = scanned.channels()
    for rows in ([3], [79], [24, 25], [25, 24], list(range(79, -1, -1)), [7] * 5, range(50, 60)):
        np.testing.assert_array_equal(scanned.channels(rows=np.array(rows)), channels[[*rows]])


def test_columns_without_maps_are_the_columns(scanned: Run) -> None:
    for feature in ("mixed:2", "mixed:3"):
        whole, plain = (scanned.columns(feature, maps=maps) for maps in (True, False))
        assert plain.images == whole.images
        for name in SCALARS:
            np.testing.assert_array_equal(getattr(plain, name), getattr(whole, name))
        assert plain.excitation_map.shape == plain.inhibition_map.shape == (80, 0, 0)
        assert whole.excitation_map.shape == (80, 3, 3)


# Inverting any attribution


BRISK = SynthesisSettings(steps=4, power=2.0, seed=3)


def windowed(network: Network, images: torch.Tensor, through: str = "early") -> tuple[Any, ...]:
    """S and h within the window, which for a 3 x 3 unit at 6, 5 are rows 5 to 7, columns 4 to 6."""
    one = attribute(network, images, CENTRE, through)
    return one.attribution[:, :, 5:8, 4:7], one.hidden[:, :, 5:8, 4:7]


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_images_own_attribution_gives_its_inversion(
    small: Network, inputs: torch.Tensor, sign: int
) -> None:
    attribution, _ = windowed(small, inputs)
    ours = invert_attribution(small, attribution, CENTRE, "early", sign=sign, settings=BRISK)
    theirs = invert(small, inputs, CENTRE, "early", sign=sign, settings=BRISK)
    for name in ("image", "opacity", "objective", "final"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-4)
    assert (ours.sign, ours.feature) == (sign, theirs.feature)
    # Its passes end at the through layer, so that nobody watches the activation.
    assert ours.activation.shape == (0, 3)
    assert theirs.activation.shape == (4, 3)


@pytest.mark.parametrize("through", ["early", "stem"])
@pytest.mark.parametrize("sign", [1, -1])
def test_where_the_layer_is_negative_the_target_is_too(
    inputs: torch.Tensor, through: str, sign: int
) -> None:
    network = network_of(Small(nn.GELU))
    attribution, hidden = windowed(network, inputs, through)
    assert (hidden < 0).any()
    asked = {"sign": sign, "settings": BRISK}
    ours = invert_attribution(network, attribution, CENTRE, through, hidden=hidden, **asked)
    theirs = invert(network, inputs, CENTRE, through, **asked)
    torch.testing.assert_close(ours.image, theirs.image, atol=1e-4, rtol=1e-4)
    other = invert_attribution(network, attribution, CENTRE, through, **asked)
    assert (other.image - theirs.image).abs().max() > 1e-3


def test_without_a_sign_both_sides_are_the_target(small: Network, inputs: torch.Tensor) -> None:
    attribution, _ = windowed(small, inputs)
    both = invert_attribution(small, attribution, CENTRE, "early", sign=0, settings=BRISK)
    size = invert_attribution(small, attribution.abs(), CENTRE, "early", sign=1, settings=BRISK)
    turned = invert_attribution(small, -attribution, CENTRE, "early", sign=0, settings=BRISK)
    for name in ("image", "opacity", "objective", "final"):
        assert torch.equal(getattr(both, name), getattr(size, name)), name
        assert torch.equal(getattr(both, name), getattr(turned, name)), name
    assert both.sign == 0
    one = invert_attribution(small, attribution, CENTRE, "early", sign=1, settings=BRISK)
    assert (one.image - both.image).abs().max() > 1e-3


def test_the_length_of_an_attribution_changes_no_image(
    small: Network, inputs: torch.Tensor
) -> None:
    """Adam's steps do not depend on the objective's size, and its cosine on no length."""
    attribution, _ = windowed(small, inputs)
    one, ten = (
        invert_attribution(small, k * attribution, CENTRE, "early", sign=0, settings=BRISK)
        for k in (1, 10)
    )
    torch.testing.assert_close(one.image, ten.image, atol=1e-3, rtol=0)
    torch.testing.assert_close(10 * one.objective, ten.objective, rtol=1e-2, atol=1e-4)


def test_an_attribution_of_another_shape_is_refused(small: Network) -> None:
    for shape in ((1, 6, 12, 10), (1, 5, 3, 3), (2, 6, 3, 2)):
        message = r"has shape .*; mixed:2@6,5 through 'early' takes \(n, 6, 3, 3\)"
        with pytest.raises(ValueError, match=message):
            invert_attribution(small, torch.ones(shape), CENTRE, "early", sign=0)


@pytest.mark.parametrize(
    ("sign", "value", "message"),
    [
        (1, -1.0, r"nothing excites mixed:2@6,5 through 'early' in image 1 of 2"),
        (-1, 1.0, r"nothing inhibits mixed:2@6,5 through 'early' in image 1 of 2"),
        (0, 0.0, r"nothing drives mixed:2@6,5 through 'early' in image 1 of 2"),
    ],
)
def test_an_empty_side_is_refused(small: Network, sign: int, value: float, message: str) -> None:
    attribution = torch.full((2, 6, 3, 3), value)
    attribution[0, 0, 0] = torch.tensor([-1.0, 1.0, 1.0])
    with pytest.raises(EmptyTarget, match=message):
        invert_attribution(small, attribution, CENTRE, "early", sign=sign)


def test_a_sign_is_one_of_three(small: Network) -> None:
    with pytest.raises(ValueError, match=r"sign is \+1 \(excitation\) or -1 .*got 2"):
        invert_attribution(small, torch.ones(1, 6, 3, 3), CENTRE, "early", sign=2)


class Counted(nn.ReLU):
    """A ReLU that counts its calls."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.calls += 1
        return super().forward(x)


def test_no_step_goes_beyond_the_through_layer(inputs: torch.Tensor) -> None:
    module = Small()
    module.wide = nn.Sequential(Counted(), module.wide)
    network = network_of(module)
    attribution, _ = windowed(network, inputs)

    def calls(make: Callable[..., Any], given: torch.Tensor, steps: int) -> int:
        Counted.calls = 0
        make(network, given, CENTRE, "early", sign=1, settings=replace(BRISK, steps=steps))
        return Counted.calls

    invert_attribution(network, attribution, CENTRE, "early", sign=1, settings=BRISK)
    few, many = (calls(invert_attribution, attribution, steps) for steps in (2, 9))
    assert few == many
    few, many = (calls(invert, inputs, steps) for steps in (2, 9))
    assert many - few == 7


def test_through_the_pixels_there_is_nothing_to_leave_out(
    small: Network, inputs: torch.Tensor
) -> None:
    one = attribute(small, inputs, CENTRE, "pixels")
    # A 5 x 5 field around 6, 5.
    part = one.attribution[:, :, 4:9, 3:8]
    hidden = one.hidden[:, :, 4:9, 3:8]
    asked = {"sign": 1, "settings": BRISK}
    ours = invert_attribution(small, part, CENTRE, "pixels", hidden=hidden, **asked)
    theirs = invert(small, inputs, CENTRE, "pixels", **asked)
    torch.testing.assert_close(ours.image, theirs.image, atol=1e-4, rtol=1e-4)
    assert ours.activation.shape == (0, 3)


def test_batches_of_attributions_follow_each_other(small: Network, inputs: torch.Tensor) -> None:
    attribution, _ = windowed(small, inputs)
    calls: list[tuple[int, int]] = []
    found = invert_attribution(
        small,
        attribution,
        CENTRE,
        "early",
        sign=0,
        settings=replace(BRISK, batch=2),
        progress=lambda done, of: calls.append((done, of)),
    )
    assert calls == [(step, 8) for step in range(1, 9)]
    whole = invert_attribution(small, attribution, CENTRE, "early", sign=0, settings=BRISK)
    torch.testing.assert_close(found.image, whole.image, atol=1e-4, rtol=1e-4)


# Figures of an atlas, and the command


def test_an_atlas_is_drawn_the_same_twice(signed: Atlas, tmp_path: Path) -> None:
    run = copy_of(signed.run, tmp_path / "run")
    [atlas] = atlases(run)
    before = files(run.folder)
    paths = write_atlas(atlas)
    names = ["figure6a", "figure6b", "atlas", "atlas-tension", "atlas-signed"]
    assert paths == [atlas.folder / f"{name}.png" for name in names]
    first = {path: path.read_bytes() for path in paths}
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert write_atlas(atlas) == paths
    assert {path: path.read_bytes() for path in paths} == first
    after = files(run.folder)
    assert {name: after[name] for name in before} == before
    with pytest.raises(ValueError, match="figures are png, pdf, svg, not 'gif'"):
        write_atlas(atlas, suffix="gif")


def test_an_atlas_without_sides_has_four_figures(
    made: tuple[Atlas, list[Call]], tmp_path: Path
) -> None:
    run = copy_of(made[0].run, tmp_path / "run")
    [atlas] = atlases(run)
    paths = write_atlas(atlas, suffix="svg")
    names = ["figure6a.svg", "figure6b.svg", "atlas.svg", "atlas-tension.svg"]
    assert [path.name for path in paths] == names
    assert all(b"<svg" in path.read_bytes()[:1000] for path in paths)


def test_a_cell_finds_the_icons_of_either_side(tmp_path: Path) -> None:
    icon = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    Image.fromarray(icon).save(tmp_path / "03-12-inhibition.png")
    cell = Cell(
        row=3,
        column=12,
        images=("a",),
        mean_activation=0.0,
        mean_excitation=1.0,
        mean_inhibition=1.0,
        activations={"both": None, "excitation": None, "inhibition": -1.0},
        icon=tmp_path / "03-12.png",
    )
    assert cell.pixels() is None
    assert cell.pixels("excitation") is None
    np.testing.assert_array_equal(cell.pixels("inhibition"), icon)


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def mini_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan of the embedded network, over a few of the pictures."""
    folder, images = tmp_path_factory.mktemp("mini") / "run", tmp_path_factory.mktemp("few")
    for path in sorted(pictures.glob("0??.png"))[:30]:
        shutil.copy(path, images)
    words = ("scan", "inceptionv1-mini", "conv2d1:3", "--through", "conv2d0")
    within(*words, "--images", images, "--out", folder)
    return folder


def test_the_command_prints_the_figures_paths(mini_run: Path) -> None:
    words = (
        "atlas",
        mini_run,
        "--top",
        25,
        "--grid",
        1,
        "--min-images",
        2,
        "--steps",
        1,
        "--signed",
    )
    text = within(*words)
    assert "25 images" in text
    assert "1 cells" in text
    paths = [Path(word) for word in text.split() if word.endswith(".png")]
    names = ["figure6a", "figure6b", "atlas", "atlas-tension", "atlas-signed"]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert all(path.stat().st_size > 5000 for path in paths)
    [atlas] = atlases(Run(mini_run))
    given = AtlasSettings(top=25, grid=1, min_images=2, steps=1)
    assert atlas.settings == given
    assert {path.parent for path in paths} == {atlas.folder}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", 9], r"a map of 9 images: UMAP with 10 neighbours needs at least 20"),
        (["--feature", "mixed3b:1"], r"holds no 'mixed3b:1'; it holds conv2d1:3"),
    ],
)
def test_a_commands_mistakes_are_explained(mini_run: Path, words: list[Any], message: str) -> None:
    before = set(files(mini_run))
    with pytest.raises(ValueError, match=message):
        within("atlas", mini_run, *words)
    assert set(files(mini_run)) == before


def test_a_commands_mistake_is_one_line_without_a_traceback(mini_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opponent", "atlas", str(mini_run), "--top", "9"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.strip().splitlines() if "needs at least 20" in line]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
