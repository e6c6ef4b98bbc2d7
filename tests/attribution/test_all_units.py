"""All units at once: their scores, summaries that merge, and scans of whole layers."""

import re
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import fields
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import opponent
from opponent import Feature, Network, Preprocessing, Run, RunError, attribute, load, scan_images
from opponent.attribution.all_units import (
    QUANTILES,
    SCORES,
    AllUnits,
    Summary,
    merge,
    rows,
    scores,
    scores_everywhere,
    summarise,
)
from opponent.attribution.attribute import attribute_each
from opponent.attribution.jacobian import jacobian_blocks
from opponent.attribution.jacobian_block import NoRule
from opponent.cli import app
from opponent.geometry.crop import plan_whole_image
from opponent.geometry.planning import plan_crop


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mini() -> Network:
    return opponent.load()


class Gated(nn.Module):
    """A gate from the whole map, for which the walk has no rule, before the target."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.gate = nn.Conv2d(4, 4, 1)
            self.last = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
            self.logits = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.logits(self.last(x).mean((2, 3)))


@pytest.fixture(scope="module")
def gated() -> Network:
    return Network(Gated(), preprocessing=Preprocessing(size=(10, 12)), name="gated")


# Scores


def slow_scores(
    network: Network, inputs: Tensor, asked: str, through: str, step: int = 1
) -> Tensor:
    """One unit after the other, by itself and in the whole image."""
    layer, _, place = asked.partition(":*")
    units = range(0, network.layer(layer).shape[0], step)
    features = [network.resolve(f"{layer}:{unit}{place}") for unit in units]
    found = []
    for one in attribute_each(network, inputs, features, through):
        plus, minus = one.excitation, one.inhibition
        columns = [one.activation, plus, minus, torch.minimum(plus, minus), one.l1, one.l2]
        found.append(torch.stack(columns, 1))
    return torch.stack(found, 1)


@pytest.mark.parametrize(
    ("asked", "through"),
    [
        ("mixed3b:*", "mixed3a"),
        ("mixed3a:*@0,15", "conv2d2"),
        ("mixed3a:*@15,7", "pixels"),
        ("logits:*", "mixed5a"),
    ],
)
def test_scores_are_those_of_one_unit_after_the_other(
    mini: Network, asked: str, through: str, generator: torch.Generator
) -> None:
    inputs = torch.randn(2, 3, *mini.preprocessing.size, generator=generator)
    units = AllUnits.parse(asked)
    assert units is not None
    widest = units.widest(mini)
    for part in (plan_crop(mini, [widest], through), plan_whole_image(mini, [widest], through, "")):
        found = scores(mini, inputs, part)
        assert found.shape == (2, mini.layer(units.layer).shape[0], len(SCORES))
        # Of each branch some.
        expected = slow_scores(mini, inputs, asked, through, step=9)
        torch.testing.assert_close(found[:, ::9], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("asked", ["last.0:*", "last.1:*@9,0", "logits:*"])
def test_scores_where_the_walk_has_no_rule(
    gated: Network, asked: str, generator: torch.Generator
) -> None:
    inputs = torch.randn(3, 3, 10, 12, generator=generator)
    units = AllUnits.parse(asked)
    assert units is not None
    widest = units.widest(gated)
    part = plan_crop(gated, [widest], "stem.1")
    reading = part.run(gated, inputs, differentiate="target")
    assert reading.through is not None
    with pytest.raises(NoRule, match="the walk has no rule"):
        jacobian_blocks(
            reading.target, reading.through, torch.eye(reading.target.shape[1]),
            part.feature.position or (0, 0),
        )  # fmt: skip
    expected = slow_scores(gated, inputs, asked, "stem.1")
    torch.testing.assert_close(scores(gated, inputs, part), expected, rtol=1e-5, atol=1e-6)


def test_scores_within_inference_mode(gated: Network, mini: Network) -> None:
    for network, asked, through in ((gated, "last.0:*", "stem.1"), (mini, "mixed3a:*", "conv2d2")):
        inputs = torch.zeros(1, 3, *network.preprocessing.size)
        units = AllUnits.parse(asked)
        assert units is not None
        part = plan_crop(network, [units.widest(network)], through)
        expected = scores(network, inputs, part)
        with torch.inference_mode():
            found = scores(network, inputs, part)
        assert torch.equal(found, expected)


def test_the_law_holds_for_all_units(mini: Network, generator: torch.Generator) -> None:
    """Excitation - inhibition is the sum of S, here all of the activation: there are no biases."""
    units = AllUnits(layer="mixed3b", position=(3, 15))
    inputs = torch.randn(3, 3, *mini.preprocessing.size, generator=generator)
    found = scores(mini, inputs, plan_crop(mini, [units.widest(mini)], "mixed3a"))
    activation, plus, minus, tension, l1, l2 = found.unbind(2)
    torch.testing.assert_close(plus - minus, activation, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.minimum(plus, minus), tension)
    assert torch.equal(plus + minus, l1)
    assert (found[:, :, 1:] >= 0).all()
    assert (l2 <= l1 * (1 + 1e-5)).all()
    assert l2.any()


@pytest.mark.parametrize(
    ("text", "layer", "position"),
    [
        ("mixed3b:*", "mixed3b", None),
        (" features.7.squeeze:*@3,10 ", "features.7.squeeze", (3, 10)),
    ],
)
def test_all_units_have_a_name(text: str, layer: str, position: tuple[int, int] | None) -> None:
    assert AllUnits.parse(text) == AllUnits(layer=layer, position=position)


def test_what_is_no_name_of_all_units() -> None:
    assert AllUnits.parse("mixed3b:7") is None
    assert AllUnits.parse("mixed3b") is None
    for wrong in ("mixed3b:**", "mixed3b:*@", "mixed3b:*@3", "mixed3b:*7", ":*"):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            AllUnits.parse(wrong)


# Summaries


def same(a: Summary, b: Summary) -> bool:
    return a.to_bytes() == b.to_bytes()


FLOATS = st.floats(width=32, allow_nan=False)
# Of few values, so that there are ties.
VALUES = st.one_of(FLOATS, st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]))


@st.composite
def columns(draw: st.DrawFn, images: int | None = None) -> Float[np.ndarray, "n u s"]:
    """Of a few images, units and scores."""
    n = draw(st.integers(0, 12)) if images is None else images
    values = draw(st.lists(VALUES, min_size=n * 4, max_size=n * 4))
    return np.array(values, np.float32).reshape(n, 2, 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_summaries_merge_in_any_order_and_grouping_to_the_same_bytes(data: st.DataObject) -> None:
    values = data.draw(columns())
    n, keep = len(values), data.draw(st.integers(1, 5))
    numbers = np.array(data.draw(st.permutations(range(n))), np.int64)
    parts = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    owner = np.array(parts, np.int64)
    a, b, c, d = (summarise(values[owner == k], numbers[owner == k], keep) for k in range(4))
    everything = summarise(values, numbers, keep)
    assert same(merge(a, b), merge(b, a))
    assert same(merge(merge(a, b), merge(c, d)), everything)
    assert same(merge(a, merge(b, merge(c, d))), everything)
    assert same(reduce(merge, data.draw(st.permutations([a, b, c, d]))), everything)
    # An order of the images of its own changes nothing either.
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    assert same(summarise(values[order], numbers[order], keep), everything)


@settings(max_examples=60, deadline=None)
@given(columns(), st.integers(1, 5))
def test_extremes_are_those_of_a_sorted_list(values: Float[np.ndarray, "n u s"], keep: int) -> None:
    numbers = np.arange(len(values)) * 3 + 100
    found = summarise(values, numbers, keep)
    for unit in range(2):
        for score in range(2):
            column = [
                (float(x), int(i)) for x, i in zip(values[:, unit, score], numbers, strict=True)
            ]
            for end, sign in enumerate((-1, 1)):
                best = sorted(column, key=lambda pair: (sign * pair[0], pair[1]))[:keep]
                missing = keep - len(best)
                expected = [x for x, _ in best] + [np.nan] * missing
                assert found.images[unit, score, end].tolist() == (
                    [i for _, i in best] + [-1] * missing
                )
                np.testing.assert_array_equal(found.values[unit, score, end], expected)


@settings(max_examples=40, deadline=None)
@given(columns(), st.integers(1, 3))
def test_a_summary_comes_back_from_its_bytes(values: Float[np.ndarray, "n u s"], keep: int) -> None:
    numbers = np.arange(len(values)) * 1000
    summary = summarise(values, numbers, keep)
    found = Summary.from_bytes(summary.to_bytes())
    for each in fields(Summary):
        np.testing.assert_array_equal(getattr(found, each.name), getattr(summary, each.name))
        assert np.asarray(getattr(found, each.name)).dtype == (
            np.asarray(getattr(summary, each.name)).dtype
        )
    assert same(found, summary)
    assert same(merge(found, summarise(values[:0], numbers[:0], keep)), summary)


DISTRIBUTIONS = {
    "positive": lambda rng: rng.lognormal(0, 3, 1000),
    "negative": lambda rng: -rng.lognormal(0, 3, 1000),
    "mixed": lambda rng: rng.normal(0, 5, 1001),
    "mostly zero": lambda rng: rng.normal(0, 1, 997).clip(0),
    "zero": lambda rng: np.zeros(10),
    "constant": lambda rng: np.full(17, 3.7),
    "negative constant": lambda rng: np.full(3, -1e-5),
    "one": lambda rng: np.array([-2.5]),
    "two": lambda rng: np.array([1.0, 100.0]),
    "far apart": lambda rng: np.array([-1e11, -1e-11, 0, 1e-11, 1e11]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_are_right_to_one_percent(name: str) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(0)).astype(np.float32)
    other = np.random.default_rng(1).normal(size=len(values)).astype(np.float32)
    both = np.stack([other, values], 1)[:, :, None]
    parts = np.array_split(np.arange(len(values)), 3)
    summary = reduce(merge, [summarise(both[some], some) for some in parts])
    for share in (*QUANTILES, 0.0, 1.0, 0.123):
        expected = np.quantile(both.astype(np.float64), share, axis=0, method="lower")
        np.testing.assert_allclose(summary.quantile(share), expected, rtol=0.01)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**39), 2.0**39, width=32), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_quantiles_of_any_values(values: list[float], share: float) -> None:
    column = np.array(values, np.float32)[:, None, None]
    [[found]] = summarise(column, np.arange(len(values))).quantile(share)
    expected = np.quantile(np.array(values, np.float64), share, method="lower")
    # Values under 1e-12 count as zero.
    assert found == pytest.approx(expected, rel=0.01, abs=1e-12)


def test_without_images_there_are_no_quantiles() -> None:
    summary = summarise(np.empty((0, 3, 2), np.float32), np.empty(0, np.int64), 4)
    assert summary.quantile(0.5).shape == (3, 2)
    assert np.isnan(summary.quantile(0.5)).all()
    assert (summary.images == -1).all()
    assert same(merge(summary, summary), summary)


def test_what_is_infinite_or_beyond_the_buckets_is_at_an_end() -> None:
    values = np.array([np.inf, 1e30, -1e30, -np.inf, 0, 1e-30], np.float32)[:, None, None]
    summary = summarise(values, np.arange(6), 2)
    assert summary.images.tolist() == [[[[0, 1], [3, 2]]]]
    assert summary.counts.tolist() == [2, 2, 2]
    assert summary.quantile(0.5)[0, 0] == 0
    assert summary.quantile(1.0)[0, 0] > 1e11


def test_what_is_not_a_number_is_refused() -> None:
    values = np.zeros((3, 4, 2), np.float32)
    values[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"unit 2 is not a number \(NaN\) in some image"):
        summarise(values, np.arange(3))


def test_a_table_has_one_row_a_unit_and_score() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2, len(SCORES))).astype(np.float32)
    table = rows(summarise(values, np.array([5, 0, 2]), 2), ["a", "b", "c", "d", "e", "f"])
    assert table["unit"] == [0] * 6 + [1] * 6
    assert table["score"] == [*SCORES, *SCORES]
    assert table["images"] == [3] * 12
    column = values[:, 1, 2].tolist()
    order = sorted(range(3), key=lambda i: -column[i])
    ids = ["f", "a", "c"]
    assert table["top_images"][8] == [ids[i] for i in order[:2]]
    assert table["bottom_images"][8] == [ids[i] for i in order[::-1][:2]]
    assert table["top_values"][8] == [column[i] for i in order[:2]]
    assert table["q50"][8] == pytest.approx(sorted(column)[1], rel=0.01)
    fewer = rows(summarise(values[:1], np.array([1]), 2), ["a", "b"])
    assert fewer["top_images"] == fewer["bottom_images"] == [["b"]] * 12


# Scans


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures and one file that is none."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(11):
        blobs = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size = (64, 64)
        Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.png"
        )
    (folder / "05-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


OPTIONS = {"batch_size": 3, "shard_size": 5}


@pytest.fixture(scope="module")
def scanned(mini: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All units of a layer, and two of them by themselves."""
    out = tmp_path_factory.mktemp("run") / "units"
    asked = ["mixed3a:*@4,4", "mixed3a:7@4,4", "mixed3a:100@4,4"]
    return scan_images(mini, pictures, asked, "conv2d2", out=out, **OPTIONS)


def test_a_scan_keeps_what_single_features_give(mini: Network, scanned: Run) -> None:
    table = scanned.units()
    assert len(table) == mini.layer("mixed3a").shape[0] * len(SCORES)
    found = {(row["unit"], row["score"]): row for row in table.to_pylist()}
    assert [x.label for x in scanned.features] == ["mixed3a:7@4,4", "mixed3a:100@4,4"]
    for feature in scanned.features:
        one = scanned.columns(feature)
        columns = {name: getattr(one, name) for name in SCORES if name != "tension"}
        columns["tension"] = np.minimum(one.excitation, one.inhibition)
        for name, column in columns.items():
            row = found[feature.unit, name]
            assert row["images"] == 11
            best = np.sort(column)[::-1]
            np.testing.assert_allclose(row["top_values"], best, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(row["bottom_values"], best[::-1], rtol=1e-4, atol=1e-6)
            assert row["top_images"][0] == one.images[column.argmax()]
            assert row["bottom_images"][0] == one.images[column.argmin()]
            expected = np.quantile(column, 0.95, method="lower")
            np.testing.assert_allclose(row["q95"], expected, rtol=0.011, atol=1e-6)


def test_all_units_alone_give_the_same_summary(
    mini: Network, pictures: Path, scanned: Run, tmp_path: Path
) -> None:
    alone = scan_images(mini, pictures, "mixed3a:*@4,4", "conv2d2", out=tmp_path / "run", **OPTIONS)
    assert alone.features == ()
    assert alone.units().equals(scanned.units())
    assert alone.unreadable().keys() == {"05-broken.jpg"}


def test_a_scan_that_stops_goes_on_to_the_same_bytes(
    mini: Network, pictures: Path, scanned: Run, tmp_path: Path
) -> None:
    """It stops after each number of images, and then the same folder is scanned on."""
    asked = ["mixed3a:*@4,4", "mixed3a:7@4,4", "mixed3a:100@4,4"]
    folder = tmp_path / "run"

    for last in (1, 6, 11):

        def stop(done: int, _total: int, last: int = last) -> None:
            if done == last:
                raise KeyboardInterrupt("stop")

        with pytest.raises(KeyboardInterrupt, match="stop"):
            scan_images(
                mini, pictures, asked, "conv2d2", out=folder, progress=stop,
                **OPTIONS)  # fmt: skip
        with pytest.raises(RunError, match="is not finished"):
            Run(folder).units()
    scan_images(mini, pictures, asked, "conv2d2", out=folder, **OPTIONS)
    assert files(folder) == files(Path(str(scanned.folder)))


def test_shards_may_be_of_any_size(
    mini: Network, pictures: Path, scanned: Run, tmp_path: Path
) -> None:
    other = scan_images(
        mini, pictures, "mixed3a:*@4,4", "conv2d2", out=tmp_path / "run",
        batch_size=3, shard_size=3)  # fmt: skip
    a, b = other.summary(), scanned.summary()
    assert a.count == b.count == 11
    np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-6)


def test_logits_can_be_scanned(gated: Network, pictures: Path, tmp_path: Path) -> None:
    run = scan_images(gated, pictures, "logits:*", "last.1", out=tmp_path / "run")
    assert run.units().num_rows == 3 * len(SCORES)
    assert run.manifest.units is not None
    assert run.manifest.units["position"] is None


def test_no_readable_image_gives_an_empty_table(gated: Network, tmp_path: Path) -> None:
    (tmp_path / "none.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    run = scan_images(gated, tmp_path / "none.jpg", "last.1:*", "stem.1", out=tmp_path / "run")
    assert set(run.units()["images"].to_pylist()) == {0}
    assert run.units()["top_images"].to_pylist() == [[]] * 36
    assert "over 0 images" in printed("units", run.folder)


def test_what_cannot_be_asked(gated: Network, pictures: Path, tmp_path: Path) -> None:
    def ask(*features: str, message: str, **more: str) -> None:
        with pytest.raises(ValueError, match=message):
            scan_images(
                gated, pictures, list(features), "stem.1", out=tmp_path / "run",
                **more)  # fmt: skip

    ask("last.1:*", "last.1:*", message="one scan takes all units of one layer")
    ask("last.1:*", "last.1:*@0,0", message="one scan takes all units of one layer")
    ask("last.1:*", "logits:*", message="one scan takes all units of one layer")
    ask("last.1:*", "last.0:1", message=r"features of one layer, got last\.0, last\.1")
    ask("last.1:*@10,0", message="position 10,0 lies outside")
    ask("nothing:*", message="has no layer 'nothing'")
    ask("stem.1:*", message="does not lie before the target")
    ask("last.1:*", rule="integrated-zero", message="all units at once take the rule 'gradient'")
    assert not (tmp_path / "run").exists()


def test_a_network_that_gives_no_number_is_named(pictures: Path, tmp_path: Path) -> None:
    module = Gated()
    with torch.no_grad():
        module.last[0].bias[4] = torch.nan
    network = Network(module, preprocessing=Preprocessing(size=(10, 12)))
    with pytest.raises(ValueError, match=r"unit 4 is not a number \(NaN\) in some image"):
        scan_images(network, pictures, "last.1:*", "stem.1", out=tmp_path / "run")


# The command


def printed(*arguments: object, code: int = 0) -> str:
    """What the command prints, within this process."""
    result = CliRunner().invoke(app, [str(x) for x in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert code
        return f"{type(result.exception).__name__}: {result.exception}"
    assert result.exit_code == code
    return result.output


def test_units_are_listed_by_a_score(scanned: Run) -> None:
    text = printed("units", scanned.folder, "--score", "excitation", "--top", 3)
    table = [row for row in scanned.units().to_pylist() if row["score"] == "excitation"]
    best = sorted(table, key=lambda row: -row["q95"])[:3]
    found = [line.split()[0] for line in text.splitlines()[1:4]]
    assert found == [str(row["unit"]) for row in best]
    assert "excitation of mixed3a:*@4,4 through conv2d2 over 11 images" in text
    assert best[0]["top_images"][0] in text


def test_a_score_that_is_none_is_refused(scanned: Run) -> None:
    said = printed("units", scanned.folder, "--score", "loudness", code=1)
    assert "--score is one of activation, excitation" in said


@pytest.mark.parametrize("name", ["select", "report", "figures"])
def test_commands_on_features_say_that_there_are_none(
    mini: Network, pictures: Path, tmp_path: Path, name: str
) -> None:
    run = scan_images(mini, pictures, "mixed3a:*", "conv2d2", out=tmp_path / "run")
    said = printed(name, run.folder, code=1)
    assert said.startswith(("ValueError", "RunError"))
    assert "holds all units together and no feature's own rows" in said


def test_a_run_of_features_has_no_units(mini: Network, pictures: Path, tmp_path: Path) -> None:
    run = scan_images(mini, pictures, "mixed3a:3", "conv2d2", out=tmp_path / "run")
    with pytest.raises(RunError, match=r"is no scan of all units; scan 'LAYER:\*' for one"):
        run.units()
    assert "is no scan of all units" in printed("units", run.folder, code=1)


def test_a_damaged_or_missing_summary_is_told(scanned: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(str(scanned.folder), folder)
    path = folder / "units" / "000001.safetensors"
    (folder / "units.parquet").unlink()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"000001\.safetensors is damaged"):
        Run(folder).units()
    path.unlink()
    with pytest.raises(RunError, match=r"000001\.safetensors is damaged"):
        Run(folder).units()


def test_one_summary_is_held_at_a_time(scanned: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all are merged, none but the sum and the one that is read are alive."""
    made: list[weakref.ref[Summary]] = []
    alive = []
    read, initialise = Summary.from_bytes, Summary.__init__

    def watched(data: bytes) -> Summary:
        alive.append(sum(x() is not None for x in made))
        return read(data)

    def remember(self: Summary, **values: Any) -> None:
        initialise(self, **values)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Summary, "from_bytes", watched)
    monkeypatch.setattr(Summary, "__init__", remember)
    assert scanned.summary().count == 11
    # The first; then the sum, and what was read last.
    assert alive == [0, 1, 2]


@pytest.mark.parametrize("normed", [False, True])
def test_every_position_is_what_each_position_gives(normed: bool, tmp_path: Path) -> None:
    """One convolution, stride, padding, groups, an h that may be negative; place by place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 4, 3, padding=1), nn.GELU(),
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
        ]  # fmt: skip
        if normed:
            layers.append(nn.BatchNorm2d(6))
        module = nn.Sequential(*layers, nn.ReLU()).double()
        if normed:
            norm = module[3]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.normal_(norm.weight)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    network = Network(module, preprocessing=Preprocessing(size=(9, 11)))
    layer = "4" if normed else "3"
    inputs = torch.randn(
        3, 3, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    found = scores_everywhere(network, inputs, layer, "1")
    _, height, width = network.layer(layer).shape
    for unit in (0, 5):
        each = []
        for place in product(range(height), range(width)):
            feature = Feature(layer=layer, unit=unit, position=place)
            one = attribute(network, inputs, feature, "1")
            tension = torch.minimum(one.excitation, one.inhibition)
            each.append([one.activation, one.excitation, one.inhibition, tension, one.l1, one.l2])
        largest = torch.stack([torch.stack(x) for x in each]).amax(0)
        torch.testing.assert_close(found[:, unit], largest.T)
    with pytest.raises(ValueError, match="needs a layer that one convolution makes"):
        scores_everywhere(network, inputs, layer, "pixels")


def test_a_scan_of_every_position(tmp_path: Path) -> None:
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    network = load()
    run = scan_images(network, tmp_path, "conv2d2:*@*", "conv2d1", out=tmp_path / "run")
    here = scan_images(network, tmp_path, "conv2d2:*", "conv2d1", out=tmp_path / "here")
    assert run.manifest.units is not None
    assert run.manifest.units["position"] == "*"
    everywhere, centre = run.summary(), here.summary()
    assert (everywhere.values[:, :, 0, :3] >= centre.values[:, :, 0, :3] - 1e-4).all()
    with pytest.raises(ValueError, match="needs a layer that one convolution makes"):
        scan_images(network, tmp_path, "mixed3b:*@*", "mixed3a", out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


class _OwnWeights(nn.Module):
    """A convolution whose weights the image makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        weight = h.mean((0, 2, 3))[None, :, None, None].expand(5, 4, 1, 1)
        return self.last(torch.conv2d(h, weight))


def test_weights_that_the_image_makes_are_no_linear_map() -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network(_OwnWeights(), preprocessing=Preprocessing(size=(5, 6)))
    with pytest.raises(ValueError, match="needs a layer that one convolution makes"):
        scores_everywhere(network, torch.ones(1, 3, 5, 6), "last", "first")
