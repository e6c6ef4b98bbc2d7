"""Directions that are no units: their names, how they are spread, and in a scan."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float
from tests.support.directions import ROWS, UNREAD, before_relu, made, saved

from opponent import Directions, Network, Run, open_images, scan_images
from opponent.storage.run import SCALARS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_labels_are_as_many_as_rows_and_all_different() -> None:
    for labels in (("a",), ("a", "b", "c"), ("a", "a")):
        with pytest.raises(ValueError, match="2 directions need as many labels, all different"):
            made([[1.0, 0.0], [0.0, 1.0]], *labels)


@pytest.mark.parametrize("label", ["", "17", "0", "a:b", "a@1", "*", "a,b", "two words"])
def test_labels_that_mean_something_else_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match="cannot name a direction: a number names a unit") as found:
        made([[1.0, 0.0], [0.0, 1.0]], "fine", label)
    assert str(found.value).startswith(repr(label))


def test_rows_that_point_nowhere_are_refused() -> None:
    for row, match in (
        ([0.0, 0.0], r"direction 1 \('b'\) of 2 is zero; take it out"),
        ([math.inf, 0.0], r"direction 1 \('b'\) of 2 holds NaN or infinity; take it out"),
    ):
        with pytest.raises(ValueError, match=match):
            made([[1.0, 0.0], row], "a", "b")
    with pytest.raises(ValueError, match=r"no direction in an array of shape \(0, 4\)"):
        made(np.ones((0, 4)))


def test_names_of_features() -> None:
    directions = made(ROWS, "curve", "edge", layer="mixed4c")
    for name, label in (
        ("curve", "mixed4c:curve"),
        ("mixed4c:edge", "mixed4c:edge"),
        (" mixed4c:edge@7,3\n", "mixed4c:edge@7,3"),
        ("edge@0,11", "mixed4c:edge@0,11"),
    ):
        for power in (0, 2):
            feature = directions.feature(name, power=power)
            assert (feature.label, feature.power) == (label, power)
            assert feature.vector == tuple(ROWS[int("edge" in name)])
    assert made(ROWS, layer=None).feature("a.b:v1").label == "a.b:v1"
    assert len(directions) == 2


def test_units_and_directions_are_mixed_in_the_order_given() -> None:
    directions = made(np.eye(3), "kmeans0", "kmeans1", "kmeans17", layer="mixed4c")
    names = ["mixed4c:5", "mixed4c:kmeans17@7,3", "kmeans0", "mixed4c:2@1,1", "mixed4c:*"]
    features = directions.features(names, power=2)
    assert [x.label for x in features] == [
        "mixed4c:5", "mixed4c:kmeans17@7,3", "mixed4c:kmeans0", "mixed4c:2@1,1",
        "mixed4c:kmeans0", "mixed4c:kmeans1", "mixed4c:kmeans17",
    ]  # fmt: skip
    assert [x.power for x in features if x.vector is not None] == [2] * 5
    assert [x.unit for x in features] == [5, None, None, 2, None, None, None]
    assert features[1].vector == (0.0, 0.0, 1.0)
    assert features[1].position == (7, 3)
    assert {x.power for x in directions.features(names)} == {0}
    everywhere = directions.features(["*@2,4"])
    assert [x.label for x in everywhere] == [f"mixed4c:{x}@2,4" for x in directions.labels]
    assert directions.features([]) == []


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mixed4c:kmens17", r"no direction 'kmens17' among these 3; .*names: kmeans17, kmeans1"),
        ("mixed4c:zzz", r"no direction 'zzz' among these 3; .*names: kmeans0, kmeans1, kmeans17"),
        ("mixed4c:", r"no direction '' among these 3"),
        ("mixed4d:kmeans1", r"'mixed4d:kmeans1': these directions belong to layer 'mixed4c'"),
        ("mixed4d:*", r"these directions belong to layer 'mixed4c'"),
        ("mixed4c:kmeans1@7", r"@7' does not name a feature"),
        ("mixed4c:kmeans1@-1,2", r"@-1,2' does not name a feature"),
        ("mixed4c:5@7", r"'mixed4c:5@7' does not name a feature"),
        ("5", r"'5' does not name a feature"),
    ],
)
def test_names_that_name_nothing_are_refused(name: str, match: str) -> None:
    directions = made(np.eye(3), "kmeans0", "kmeans1", "kmeans17", layer="mixed4c")
    with pytest.raises(ValueError, match=match):
        directions.features([name])


def test_directions_of_no_layer_need_one() -> None:
    with pytest.raises(ValueError, match=r"names no layer, nor do these .*: write LAYER:v0$"):
        made(ROWS, layer=None).feature("v0")


def test_a_power_that_is_odd_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="even number, not 1"):
        made(ROWS).features(["v0"], power=1)


def test_a_wrong_length_is_told_where_it_is_used(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    feature = made(ROWS).feature("v1")
    match = r"mixed:v1: the direction has 3 weights, but layer 'mixed' has 6 channels"
    with pytest.raises(ValueError, match=match):
        small.resolve(feature)
    with pytest.raises(ValueError, match=match):
        scan_images(small, pictures, feature, "early", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_one_hot_direction_is_scanned_as_its_unit_is(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    directions = made(np.eye(6), *(f"e{i}" for i in range(6)))
    features = directions.features(["mixed:2", "e2", "mixed:4@0,3", "mixed:e4@0,3"])
    run = scan_images(small, pictures, features, "early", out=tmp_path / "run")
    assert [x.label for x in Run(run.folder).features] == [
        "mixed:2@3,2", "mixed:e2@3,2", "mixed:4@0,3", "mixed:e4@0,3",
    ]  # fmt: skip
    for unit, direction in (run.features[:2], run.features[2:]):
        assert run.through_window(unit) == run.through_window(direction)
        expected, columns = run.columns(unit), run.columns(direction)
        assert columns.images == expected.images
        assert len(columns.images) == 70 - len(UNREAD)
        for name in (*SCALARS, "excitation_map", "inhibition_map"):
            value = getattr(expected, name)
            assert value.any()
            np.testing.assert_allclose(getattr(columns, name), value, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(run.channels(direction), run.channels(unit), rtol=1e-6)


def test_a_power_lasts_through_a_scan(small: Network, pictures: Path, tmp_path: Path) -> None:
    vector = np.array([1.0, -0.5, 0.25, 2.0, -1.0, 0.0])
    features = made([vector], "mine").features(["mine"], power=2)
    scan_images(small, pictures, features, "early", out=tmp_path / "run")
    run = Run(tmp_path / "run")
    [feature] = run.features
    assert (feature.label, feature.power) == ("mixed:mine@3,2", 2)
    columns = run.columns(feature)
    by_id = {entry.id: entry for entry in open_images(pictures)}
    for image, activation in zip(columns.images[:6], columns.activation, strict=False):
        hidden = before_relu(small, by_id[image])[:, 3, 2].astype(np.float64)
        dot, lengths = hidden @ vector, np.linalg.norm(hidden) * np.linalg.norm(vector)
        cosine = dot / lengths if lengths else 0.0
        np.testing.assert_allclose(activation, dot * cosine**2, rtol=1e-4, atol=1e-6)


def bundles(seed: int = 0) -> Directions:
    """One bundle of 40 directions that nearly agree, and five of 4."""
    generator = np.random.default_rng(seed)
    centres = np.linalg.qr(generator.normal(size=(8, 8)))[0][:6]
    rows = np.repeat(centres, [40, 4, 4, 4, 4, 4], axis=0)
    rows = rows + 0.03 * generator.normal(size=rows.shape)
    return made(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def apart(rows: Float[np.ndarray, "n c"]) -> float:
    """The mean distance between two of these rows."""
    return float(np.mean([np.linalg.norm(a - b) for a, b in combinations(rows, 2)]))


@pytest.mark.parametrize("count", [1, 2, 6, 59, 60])
def test_spread_directions_are_as_many_as_asked_and_some_of_those_there_are(count: int) -> None:
    everything = bundles()
    chosen = everything.spread(count, seed=4)
    assert len(chosen) == len(set(chosen.labels)) == count
    for label, vector in zip(chosen.labels, chosen.vectors, strict=True):
        assert (everything.vectors[everything.labels.index(label)] == vector).all()
    assert list(chosen.labels) == sorted(chosen.labels, key=everything.labels.index)
    assert chosen.layer == "mixed"
    assert chosen.provenance == {"spread": {"count": count, "seed": 4}}


def test_spread_directions_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    everything = bundles()
    first = saved(everything.spread(6, seed=4), tmp_path / "a.safetensors")
    assert saved(bundles().spread(6, seed=4), tmp_path / "b.safetensors") == first
    assert len({everything.spread(6, seed=seed).labels for seed in range(5)}) == 5


def test_spread_directions_lie_farther_apart_than_random_ones() -> None:
    everything = bundles()
    spread = [apart(everything.spread(6, seed=seed).vectors) for seed in range(8)]
    generator = np.random.default_rng(0)
    random = [apart(everything.vectors[generator.choice(60, 6, replace=False)]) for _ in range(200)]
    assert min(spread) > np.mean(random) + np.std(random)
    # One of each bundle: at right angles, but for the noise.
    assert max(spread) == pytest.approx(math.sqrt(2), abs=0.05)


@pytest.mark.parametrize("count", [-1, 0, 61])
def test_more_than_there_are_cannot_be_spread(count: int) -> None:
    with pytest.raises(ValueError, match=f"^{count} of 60 directions cannot be spread"):
        bundles().spread(count)


def test_spread_tells_directions_not_lengths() -> None:
    directions = made([[1.0, 0.0], [100.0, 0.0], [0.0, 1.0]], "x", "long_x", "y")
    assert all("y" in directions.spread(2, seed=seed).labels for seed in range(5))
    with pytest.raises(ValueError, match="fewer than 3 directions that differ"):
        directions.spread(3)
