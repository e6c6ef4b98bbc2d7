"""Uniqueness: the measure, chance, intervals; and the scan that it is taken from."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import t
from torch import nn
from typer.testing import CliRunner

import opponent
from opponent import Feature, Network, Preprocessing, RunError, attribute, open_images
from opponent.attribution.attribute import attribute_each
from opponent.cli import app
from opponent.core.box import Box
from opponent.explain.crops import Tile
from opponent.paper.inversion_check import Pair
from opponent.paper.uniqueness import measure as module
from opponent.paper.uniqueness.drawing import _finite, write_uniqueness
from opponent.paper.uniqueness.measure import (
    KINDS,
    SELECTIONS,
    Group,
    Measured,
    UniquenessSettings,
    assess,
    chance,
    choose_layers,
    interval,
    measure,
    measure_features,
    ranked,
    sensible_top,
    uniqueness,
)
from opponent.plots import (
    SharedRow,
    TenseRow,
    UniquenessLine,
    shared_figure,
    tense_rows_figure,
    uniqueness_figure,
)
from opponent.selection import top

SIZE = (12, 10)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Small(nn.Module):
    """Four activation functions that all goes through, one within a branch, pools, a dead unit."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.first = nn.ReLU()
            self.wide = nn.Conv2d(8, 6, 5, padding=2)
            self.within = nn.ReLU()
            self.deep = nn.Conv2d(6, 6, 3, padding=1)
            self.narrow = nn.Conv2d(8, 6, 1)
            self.second = nn.ReLU()
            self.pool = nn.MaxPool2d(3, 2, 1)
            self.third_conv = nn.Conv2d(12, 10, 3, stride=2, padding=1)
            self.third = nn.ReLU()
            self.fourth_conv = nn.Conv2d(10, 9, 1)
            self.fourth = nn.ReLU()
            self.head = nn.Linear(9, 5)
            with torch.no_grad():
                self.third_conv.weight[3] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.stem(x))
        x = self.second(torch.cat([self.deep(self.within(self.wide(x))), self.narrow(x)], 1))
        x = self.third(self.third_conv(self.pool(x)))
        x = self.fourth(self.fourth_conv(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def small() -> Network:
    network = Network(Small(), preprocessing=Preprocessing(size=SIZE), name="small")
    _ = network.layers
    return network


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty smooth pictures, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(60):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blobs.resize((30, 24), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


QUICK = UniquenessSettings(features=5, kmeans=12, batch_size=8, shard_size=20)


@pytest.fixture(scope="module")
def measured(small: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured") / "out"
    return measure_features(small, pictures, folder, settings=QUICK)


# The measure


def image_sets() -> st.SearchStrategy[list[list[int]]]:
    """For each of a few features as many images, all different."""
    return st.integers(1, 6).flatmap(
        lambda m: st.lists(
            st.lists(st.integers(0, 20), min_size=m, max_size=m, unique=True),
            min_size=1,
            max_size=8,
        )
    )


@given(image_sets())
def test_uniqueness_is_the_size_of_the_union(sets: list[list[int]]) -> None:
    n, m = len(sets), len(sets[0])
    value = uniqueness(np.array(sets))
    assert value == len(set(chain(*sets))) / (n * m)
    assert 1 / n <= value <= 1


def test_uniqueness_by_hand() -> None:
    assert uniqueness(np.array([[0, 1], [2, 3]])) == 1
    assert uniqueness(np.array([[0, 1], [1, 0]])) == 0.5
    assert uniqueness(np.array([[0, 1], [1, 2], [2, 3]])) == 4 / 6


@pytest.mark.parametrize(("n", "m", "images"), [(20, 10, 100), (5, 30, 60), (3, 1, 7)])
def test_chance_is_what_random_images_give(n: int, m: int, images: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [
        uniqueness(np.array([rng.permutation(images)[:m] for _ in range(n)])) for _ in range(2000)
    ]
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn) - chance(n, m, images)) < 4 * error


def test_chance_by_hand() -> None:
    # The papers' m of its N, and of the thousand images that a small set has.
    assert chance(20, 100, 50_000) == pytest.approx(0.981, abs=5e-4)
    assert chance(20, 100, 1000) == pytest.approx(0.439, abs=5e-4)
    assert chance(1, 3, 10) == pytest.approx(1)
    assert chance(4, 10, 10) == 0.25


@given(image_sets(), st.integers(0, 5))
def test_intervals_are_those_of_the_jackknife(sets: list[list[int]], more: int) -> None:
    n, members = len(sets), np.array(sets)
    low, high = interval(members, n + more)
    assert 1 / n <= low <= uniqueness(members) <= high <= 1
    if n == 1:
        return
    without = [uniqueness(np.delete(members, i, 0)) for i in range(n)]
    variance = (n - 1) ** 2 / n * np.var(without, ddof=1) * more / (n + more)
    half = t.ppf(0.975, n - 1) * math.sqrt(variance)
    assert low == pytest.approx(max(1 / n, uniqueness(members) - half))
    assert high == pytest.approx(min(1, uniqueness(members) + half))


def test_intervals_by_hand() -> None:
    # Three features; U without each is 3/4, 4/4, 3/4: the variance is 2/3 * (1/24) = 1/36.
    members = np.array([[0, 1], [1, 2], [2, 3]])
    low, high = interval(members, confidence=0.5)
    half = 0.816496580927726 / 6  # the quartile of Student's t with two degrees of freedom
    assert (low, high) == pytest.approx((4 / 6 - half, 4 / 6 + half))
    # The whole layer: no other choice is left.
    assert interval(members, 3) == (4 / 6, 4 / 6)
    assert interval(members[:1]) == (1, 1)


@pytest.mark.parametrize(("images", "taste"), [(200, 0.0), (200, 1.0), (200, 2.5), (1000, 1.5)])
def test_intervals_hold_what_another_choice_gives(images: int, taste: float) -> None:
    """Features drawn from a layer of 100, some more after what all like, some after their own."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=images)
    values = taste * rng.random((100, 1)) * common + rng.normal(size=(100, images))
    members = np.array([top(row, 20) for row in values])
    draws = [members[rng.permutation(100)[:20]] for _ in range(400)]
    true = np.array([uniqueness(each) for each in draws])
    ends = np.array([interval(each, 100) for each in draws])
    assert np.mean((ends[:, 0] <= true.mean()) & (true.mean() <= ends[:, 1])) > 0.93
    # Wider than need be, but not twice.
    half = np.sqrt(np.mean(((ends[:, 1] - ends[:, 0]) / 2) ** 2))
    assert 0.95 < half / (2.093 * true.std()) < 2


def test_a_bootstrap_would_put_it_too_low() -> None:
    rng = np.random.default_rng(0)
    members = np.array([rng.permutation(10_000)[:100] for _ in range(20)])
    again = [uniqueness(members[rng.integers(20, size=20)]) for _ in range(100)]
    low, high = interval(members)
    assert max(again) < low < chance(20, 100, 10_000) < high


def test_features_without_top_images_are_found() -> None:
    values = np.array([[0, 0, 3, 1.5, 2], [0, 1, 2, 1.5, 2], [0, 0, 1, 1.5, 2], [0, 0, 0, 1.5, 1]])
    assert ranked(values, 1).tolist() == [False, True, True, False, True]
    assert ranked(values, 3).tolist() == [False, False, True, False, True]
    assert ranked(values[:, :0], 3).tolist() == []


@pytest.mark.parametrize(("images", "m"), [(50_000, 100), (10_000, 100), (1000, 20), (40, 1)])
def test_few_images_ask_for_fewer(images: int, m: int) -> None:
    assert sensible_top(images) == m
    assert chance(20, m, images) > 0.8 or images < 50


# Layers


def test_the_papers_layers_are_the_default() -> None:
    pairs = choose_layers(opponent.load())
    blocks = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    names = ["conv2d0", "conv2d1", "conv2d2", *(f"mixed{x}" for x in blocks)]
    assert [pair.target for pair in pairs] == names[1:]
    assert [pair.through for pair in pairs] == names[:-1]


def test_layers_by_name(small: Network) -> None:
    assert [pair.target for pair in choose_layers(small)] == ["second", "third", "fourth"]
    [first, second] = choose_layers(small, ["first:pixels", " third"])
    assert (first.through, second.through) == ("pixels", "second")
    with pytest.raises(ValueError, match="layer is named twice among third, third"):
        choose_layers(small, ["third", "third:first"])
    with pytest.raises(ValueError, match="no layer before 'first'"):
        choose_layers(small, ["first"])
    with pytest.raises(ValueError, match="no layer 'tird'"):
        choose_layers(small, ["tird"])


def test_a_network_without_such_layers_says_so() -> None:
    plain = Network(nn.Sequential(nn.AvgPool2d(2)), preprocessing=Preprocessing(size=SIZE))
    with pytest.raises(ValueError, match="no two activation functions that all goes through"):
        choose_layers(plain)


# One pass


def equal(network: Network, pairs: Sequence[Pair], *, cropped: bool = True) -> None:
    """Measured at once, and feature by feature over the whole maps."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(5, 3, *network.preprocessing.size, generator=generator)
    features = {}
    for pair in pairs:
        channels = network.layer(pair.target).shape[0]
        vector = torch.randn(channels, generator=generator)
        features[pair] = [
            Feature(layer=pair.target, unit=unit) for unit in range(0, channels, channels // 3)
        ]
        features[pair] += [Feature.direction(pair.target, vector, power=p) for p in (0, 2)]
    windows = [module._near(network, pair).window for pair in pairs]
    assert all((window is not None) == cropped for window in windows)
    found = measure(network, inputs, features)
    for pair in pairs:
        for i, one in enumerate(attribute_each(network, inputs, features[pair], pair.through)):
            want = torch.stack([one.activation, one.excitation, one.inhibition, one.l2], 1)
            got = torch.from_numpy(found[pair.target][:, i])
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got[:, 1] + got[:, 2], one.l1, rtol=1e-4, atol=1e-5)


def test_measured_at_once_is_as_measured_one_by_one(small: Network) -> None:
    equal(small, choose_layers(small, ["first:pixels", "second", "third", "fourth"]))
    equal(small, choose_layers(small, ["fourth:first"]))


def test_windows_are_small(small: Network) -> None:
    [second, fourth] = choose_layers(small, ["second", "fourth"])
    assert module._near(small, second).window == Box(top=3, left=2, height=7, width=7)
    assert module._near(small, fourth).window == Box(top=1, left=1, height=1, width=1)


def test_the_embedded_network_too() -> None:
    network = opponent.load()
    equal(network, choose_layers(network, ["mixed3a", "mixed4d"]))


def test_a_layer_within_a_branch_runs_the_whole_network(small: Network) -> None:
    # What goes by beside 'within' comes from the image: a crop alone does not tell it.
    equal(small, choose_layers(small, ["second:within"]), cropped=False)


# A scan


def test_a_scan_holds_what_each_image_gives(
    small: Network, pictures: Path, measured: Measured
) -> None:
    assert measured.images == tuple(f"{i:02d}.png" for i in range(60))
    assert measured.unreadable == {"broken.jpg": measured.unreadable["broken.jpg"]}
    assert [(x.pair.target, x.kind) for x in measured.groups] == [
        (layer, kind) for layer in ("second", "third", "fourth") for kind in KINDS
    ]
    for group in measured.groups:
        assert group.values.shape == (60, 5, 4)
        files = [pictures / "07.png", pictures / "41.png"]
        for i, feature in enumerate(group.features):
            found = attribute(small, files, feature, group.pair.through)
            columns = measured.columns(group, i)
            for name in ("activation", "excitation", "inhibition", "l1", "l2"):
                want = getattr(found, name).numpy()
                assert getattr(columns, name)[[7, 41]] == pytest.approx(want, rel=1e-4, abs=1e-6)
                if name in SELECTIONS:
                    assert (group.by(name)[:, i] == getattr(columns, name)).all()
    assert {feature.power for feature in measured.group("third", "kmeans").features} == {2}
    assert len({feature.unit for feature in measured.group("third", "units").features}) == 5


class Stopped(Exception):
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_interrupted_scan_ends_with_the_same_bytes(
    small: Network, pictures: Path, measured: Measured, tmp_path: Path
) -> None:
    wanted = {
        name: x
        for name, x in contents(measured.folder).items()
        if name.startswith(("asked", "parts", "directions"))
    }
    assert len(wanted) == 1 + 4 + 3
    for what, after in (("third: hidden vectors", 32), ("measuring", 30), ("measuring", 61)):

        def stop(now: str, done: int, _: int, what: str = what, after: int = after) -> None:
            if now == what and done >= after:
                raise Stopped

        with pytest.raises(Stopped):
            measure_features(small, pictures, tmp_path / "out", settings=QUICK, progress=stop)
    again = measure_features(small, pictures, tmp_path / "out", settings=QUICK)
    assert contents(tmp_path / "out") == wanted
    for one, other in zip(again.groups, measured.groups, strict=True):
        assert one.features == other.features
        assert (one.values == other.values).all()


def test_another_question_is_refused(small: Network, pictures: Path, measured: Measured) -> None:
    for other in (
        {"settings": UniquenessSettings(features=4, kmeans=12)},
        {"settings": QUICK, "layers": ["third"]},
    ):
        with pytest.raises(RunError, match="another question"):
            measure_features(small, pictures, measured.folder, **other)


def test_settings_that_do_not_fit(small: Network, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features must be positive, got 0"):
        UniquenessSettings(features=0)
    with pytest.raises(ValueError, match="20 directions cannot be chosen from 10"):
        UniquenessSettings(kmeans=10)
    with pytest.raises(ValueError, match="61 images are too few for 20 k-means directions"):
        measure_features(small, pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_units_depend_on_the_seed_and_the_layer_alone(
    small: Network, pictures: Path, measured: Measured, tmp_path: Path
) -> None:
    images = open_images(pictures)
    alone = measure_features(small, images, tmp_path / "a", layers=["third"], settings=QUICK)
    assert alone.group("third", "units").features == measured.group("third", "units").features
    assert (alone.group("third", "kmeans").values == measured.group("third", "kmeans").values).all()


# Results


def made(values: dict[str, np.ndarray], population: int | None = None) -> Measured:
    """Measurements of one layer: images by features by numbers."""
    pair = Pair(target="b", through="a", whole=True)
    groups = [
        Group(
            pair=pair,
            kind=kind,
            features=tuple(Feature(layer="b", unit=i) for i in range(x.shape[1])),
            population=population,
            values=x.astype(np.float32),
        )
        for kind, x in values.items()
    ]
    images = tuple(f"image{i}" for i in range(len(groups[0].values)))
    return Measured(
        folder=Path(), asked={}, groups=tuple(groups), images=images, unreadable={},
        source=open_images(["image"]),
    )  # fmt: skip


def test_assessed_by_hand() -> None:
    # Four images, three features. By activation each its own image; by L1 all image 3; by L2 two.
    values = np.zeros((4, 3, 4))
    for i in range(3):
        values[i, i] = [1, 0, 0, 0]
        values[3, i] = [-1, 2, 3, 1]
    values[2, 1] = [0, 0.5, 0.5, 9]
    found = assess(made({"units": values, "kmeans": values}), 1)
    units = {x.by: x for x in found.table if x.kind == "units"}
    assert [units[by].value for by in SELECTIONS] == [1, 1 / 3, 2 / 3]
    assert {x.chance for x in found.table} == {chance(3, 1, 4)}
    assert {(x.features, x.top, x.images, x.skipped) for x in found.table} == {(3, 1, 4, 0)}
    assert (units["l1"].low, units["l1"].high) == (1 / 3, 1 / 3)
    assert [(x.kind, x.image, x.features, x.of) for x in found.shared] == [
        ("units", "image3", 3, 3),
        ("kmeans", "image3", 3, 3),
    ]


def test_an_image_is_shared_by_15_of_20() -> None:
    rng = np.random.default_rng(0)
    for count in (14, 15):
        values = rng.random((50, 20, 4))
        values[7, :count] = 2
        shared = assess(made({"units": values, "kmeans": values[:, :4]}), 1).shared
        assert [(x.image, x.features, x.of) for x in shared if x.kind == "units"] == (
            [("image7", 15, 20)] if count == 15 else []
        )


def test_dead_features_are_left_out_and_counted() -> None:
    values = np.random.default_rng(0).random((20, 4, 4))
    values[:, 1, 1:] = 0  # no attribution in any image
    values[3:, 2, 1:] = 0  # in three of them
    found = assess(made({"units": values, "kmeans": np.zeros((20, 4, 4))}), 4)
    assert [(x.features, x.skipped) for x in found.table] == [(2, 2)] * 3 + [(0, 4)] * 3
    assert all(math.isnan(x.value) and math.isnan(x.chance) for x in found.table[3:])
    one = assess(made({"units": values, "kmeans": values}), 3).table[0]
    assert (one.features, one.skipped) == (3, 1)
    kept = values[:, [0, 2, 3], 0].astype(np.float32)
    assert one.value == uniqueness(np.array([top(x, 3) for x in kept.T]))


def test_too_many_top_images() -> None:
    values = np.random.default_rng(0).random((9, 2, 4))
    for m in (0, 5):
        with pytest.raises(ValueError, match=f"the top {m} of 9 images: give 1 to 4"):
            assess(made({"units": values, "kmeans": values}), m)


def test_results_are_written(small: Network, measured: Measured) -> None:
    found = assess(measured, 6)
    # Unit 3 of 'third' has no weight, and may be among those drawn.
    dead = Feature(layer="third", unit=3) in measured.group("third", "units").features
    assert {x.skipped for x in found.table if (x.layer, x.kind) == ("third", "units")} == {dead}
    steps: list[tuple[str, int, int]] = []
    paths = write_uniqueness(measured, found, small, progress=lambda *step: steps.append(step))
    names = ["uniqueness-m6.json", "uniqueness-m6.parquet", "figure8a-m6.png"]
    names += ["figure8b-third-m6.png", "figure16-m6.png"]
    assert [path.name for path in paths] == names
    assert steps[-1] == ("drawing", 3, 3)
    text = paths[0].read_text(encoding="utf-8")
    values = json.loads(text, parse_constant=pytest.fail)
    assert values["weights_sha256"] == small.weights_sha256()
    assert values["versions"]["torch"] == torch.__version__
    assert (values["top"], values["read"], list(values["unreadable"])) == (6, 60, ["broken.jpg"])
    assert len(values["table"]) == 3 * 2 * 3
    assert values["table"][0]["value"] == found.table[0].value
    assert len(values["features"]) == 6
    assert pq.read_table(paths[1]).to_pylist() == values["table"]
    before = [path.read_bytes() for path in paths]
    assert [x.read_bytes() for x in write_uniqueness(measured, found, small)] == before
    with pytest.raises(ValueError, match="'first' was not measured; there are second, third"):
        write_uniqueness(measured, found, small, show="first")


def test_not_a_number_is_none_in_json() -> None:
    assert _finite({"a": math.nan, "b": 1.5, "c": "x"}) == {"a": None, "b": 1.5, "c": "x"}


# Figures


def line(kind: str, by: str, layers: int) -> UniquenessLine:
    value = np.linspace(0.9, 0.3, layers)
    return UniquenessLine(
        kind=kind, by=by, value=value, low=value - 0.1, high=value + 0.1, chance=value * 0 + 0.8
    )


def texts(figure: object) -> list[str]:
    return [text.get_text() for text in figure.texts]  # type: ignore[attr-defined]


def test_figure_8a() -> None:
    lines = [line(kind, by, 4) for kind in KINDS for by in SELECTIONS]
    figure = uniqueness_figure(["a", "b", "c", "x" * 60], lines, about="n = 20")
    [axes] = figure.axes
    # Two of chance, and for each line itself and its dots.
    assert len(axes.lines) == 2 + 2 * len(lines)
    assert len(axes.collections) == len(lines)
    colours = {x.get_color() for x in axes.lines[2:]}
    assert len(colours) == 3
    labels = [x.get_text() for x in axes.get_xticklabels()]
    assert labels[:3] == ["a", "b", "c"]
    assert "…" in labels[3]
    assert {"n = 20", "activation", "units", "k-means", "chance"} <= set(texts(figure))
    with pytest.raises(ValueError, match=r"2 layers and lines of \[3\] values"):
        uniqueness_figure(["a", "b"], [line("units", "l1", 3)], about="")
    with pytest.raises(ValueError, match="0 layers"):
        uniqueness_figure([], [], about="")


def photo(caption: str = "") -> Tile:
    return Tile(image=np.full((8, 8, 3), 128, np.uint8), caption=caption)


def test_figure_8b() -> None:
    rows = [
        TenseRow(label="7", exciting=[photo("1 of 20")] * 3, tense=[photo("9 of 20")] * 3),
        TenseRow(label="31", exciting=[photo("2 of 20")] * 3, tense=[]),
    ]
    figure = tense_rows_figure(rows, label="mixed4d", about="word " * 60)
    assert len(figure.axes) == 9
    found = texts(figure)
    assert found.count("9 of 20") == 3
    assert {"7", "31", "mixed4d", "none"} <= set(found)
    assert sum(text.startswith("word") for text in found) > 1
    with pytest.raises(ValueError, match="rows is empty"):
        tense_rows_figure([], label="")


def test_figure_16_says_what_is_empty() -> None:
    def row(layer: str, count: int = 0) -> SharedRow:
        return SharedRow(layer=layer, count=count, tiles=[photo("18 of 20")] * count)

    one = [row("a", 7), row("b"), row("c")]
    figure = shared_figure(
        {"units": one, "k-means": [row("a"), row("b", 1), row("c")]}, about="about", nothing="no"
    )
    assert len(figure.axes) == 6 + 1
    assert {"a: 7", "b: none", "a: none", "b: 1", "about"} <= set(texts(figure))
    assert not {"c: none", "no"} & set(texts(figure))
    figure = shared_figure(
        {"units": one, "k-means": [row(x) for x in "abc"]}, about="", nothing="no"
    )
    assert texts(figure).count("no") == 1
    figure = shared_figure({"units": [], "k-means": []}, about="", nothing="no")
    assert texts(figure).count("no") == 2
    for bad in ({}, {"units": one, "k-means": [row("a")]}):
        with pytest.raises(ValueError, match="expected panels, all with the same layers"):
            shared_figure(bad, about="", nothing="")


# The command


def test_the_command(pictures: Path, tmp_path: Path) -> None:
    words = ["uniqueness", "inceptionv1-mini", "--images", pictures, "--out", tmp_path / "out"]
    words += ["--layers", "conv2d1,conv2d2", "--features", 3, "--kmeans", 6]
    for more, m in (([], 1), (["--top", 5, "--format", "svg", "--show", "conv2d2"], 5)):
        result = CliRunner().invoke(app, [*map(str, (*words, *more))], catch_exceptions=False)
        assert result.exit_code == 0
        assert f"top m = {m} of N = 60 images" in result.output
        assert "1 images could not be read" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"figure8a-m1.png", "figure8a-m5.svg", "figure8b-conv2d2-m5.svg"} <= names
    values = json.loads((tmp_path / "out" / "uniqueness-m5.json").read_text())
    assert {x["layer"] for x in values["table"]} == {"conv2d1", "conv2d2"}


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_ties_are_broken_by_order_and_do_not_count_dead_features(seed: int) -> None:
    # As many features that are silent in nearly all images do not look as if they agreed.
    rng = np.random.default_rng(seed)
    values = rng.random((30, 6, 4))
    values[:, 3:, 1:] *= rng.random((30, 3, 1)) < 0.05
    found = assess(made({"units": values, "kmeans": values}), 8)
    assert {x.features for x in found.table} == {3}


def test_norms_of_whole_maps_lose_no_digits() -> None:
    maps = torch.randn(3, 64, 56, 56, generator=torch.Generator().manual_seed(0))
    plus, minus, l2 = module._norms(maps)
    exact = maps.double()
    for found, expected in (
        (plus, exact.clamp(min=0).sum((1, 2, 3))),
        (minus, (-exact).clamp(min=0).sum((1, 2, 3))),
        (l2, exact.square().sum((1, 2, 3)).sqrt()),
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
