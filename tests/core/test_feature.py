"""Features: their names, what they refuse, and what they read."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opponent import Feature

LAYERS = st.text("abcxyzABC0189._#-/ é", min_size=1, max_size=12).map(str.strip).filter(bool)
UNITS = st.integers(0, 10**6)
POSITIONS = st.none() | st.tuples(st.integers(0, 999), st.integers(0, 999))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VECTORS = st.lists(FLOATS, min_size=1, max_size=6).filter(any).map(tuple)
# Features are made in the tests, since their types are checked with random numbers.
ONE_HOT = st.fixed_dictionaries({"layer": LAYERS, "unit": UNITS, "position": POSITIONS})
DIRECTIONS = st.fixed_dictionaries(
    {"layer": LAYERS, "vector": VECTORS, "name": st.none() | st.text(), "position": POSITIONS}
)


@given(ONE_HOT)
def test_label_and_parse_are_inverse(parts: dict[str, Any]) -> None:
    feature = Feature(**parts)
    assert Feature.parse(feature.label) == feature
    assert Feature.parse(f"  {feature.label}\n") == feature
    assert Feature.of(feature.label) == Feature.of(feature) == feature
    assert repr(feature) == f"Feature({feature.label!r})"


@given(ONE_HOT | DIRECTIONS)
def test_describe_and_restore_are_inverse_through_json(parts: dict[str, Any]) -> None:
    feature = Feature(**parts)
    described = feature.describe()
    assert Feature.restore(json.loads(json.dumps(described))) == feature
    assert None not in described.values()
    assert hash(Feature.restore(described)) == hash(feature)


def test_parse_reads_each_part() -> None:
    feature = Feature.parse("layer1.0.relu#2:17@4,30")
    assert (feature.layer, feature.unit, feature.position) == ("layer1.0.relu#2", 17, (4, 30))
    assert (feature.vector, feature.name) == (None, None)
    assert Feature.parse("logits:0").position is None


def test_what_is_no_feature_is_refused_with_an_example() -> None:
    texts = ["", ":", "mixed3b", "mixed3b:", ":4", "a:4@", "a:4@1", "a:4@1,", "a:4@,1", "a:4@1,2,3"]
    for text in [*texts, "a:4@-1,2", "a:b:4", "a@1,2:4", "a:4 @1,2x", "a:4@1.5,2"]:
        with pytest.raises(ValueError, match="does not name a feature; write LAYER:UNIT") as caught:
            Feature.parse(text)
        assert repr(text) in str(caught.value)
        assert "'mixed3b:379@7,3'" in str(caught.value)


def test_a_unit_that_is_no_number_is_refused() -> None:
    for unit in ("-1", "1.5", "curve", "٣x", "²", "0x1", "1 2"):
        with pytest.raises(ValueError, match=r"is not a unit's number.*--directions") as caught:
            Feature.parse(f"mixed3b:{unit}")
        assert repr(unit) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "'a' needs either a unit or a vector, not both"),
        ({"unit": 1, "vector": (1.0,)}, "either a unit or a vector"),
        ({"unit": -1}, "unit -1 of 'a' is negative; units count from 0"),
        ({"unit": 1, "position": (0, -1)}, r"position \(0, -1\) is negative"),
        ({"unit": 1, "position": (-2, 0)}, r"position \(-2, 0\) is negative"),
        ({"vector": ()}, "None of 'a' is empty, zero or not finite"),
        ({"vector": (0.0, -0.0), "name": "curve"}, "'curve' of 'a' is empty, zero"),
        ({"vector": (1.0, math.nan)}, "not finite"),
        ({"vector": (1.0, -math.inf)}, "not finite"),
    ],
)
def test_what_makes_no_feature_is_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Feature(layer="a", **given)


def test_a_direction_from_tensors_and_lists() -> None:
    learned = torch.tensor([1.0, -2.0], requires_grad=True)
    feature = Feature.direction("a", learned, name="edge", position=(1, 2))
    assert feature == Feature(layer="a", vector=(1.0, -2.0), name="edge", position=(1, 2))
    assert feature.label == "a:edge@1,2"
    assert Feature.direction("a", [1.0, -2.0]).label == "a:direction"
    assert Feature(layer="a", vector=(1.0,)).label == "a:direction"
    with pytest.raises(ValueError, match=r"one axis, channels; got shape \(1, 2\)"):
        Feature.direction("a", torch.ones(1, 2))


@given(st.integers(1, 40), st.integers(1, 40))
def test_no_position_is_the_centre(height: int, width: int) -> None:
    assert Feature.parse("a:0").resolve(1, height, width) == (height // 2, width // 2)


@pytest.mark.parametrize(
    ("height", "width", "centre"), [(14, 28, (7, 14)), (5, 8, (2, 4)), (1, 3, (0, 1))]
)
def test_centres_by_hand(height: int, width: int, centre: tuple[int, int]) -> None:
    placed = Feature.parse("a:3").placed(4, height, width)
    assert placed == Feature(layer="a", unit=3, position=centre)


def test_the_first_position_is_not_the_centre() -> None:
    # (0, 0) is a position like any other, though each of its numbers counts as false.
    assert Feature.parse("a:0@0,0").resolve(1, 5, 9) == (0, 0)
    assert Feature.parse("a:0@0,8").placed(1, 5, 9).position == (0, 8)


def test_a_map_of_one_position_needs_none_written_out() -> None:
    assert Feature.parse("logits:3").placed(5, 1, 1).label == "logits:3"
    assert Feature.parse("logits:3@0,0").placed(5, 1, 1).label == "logits:3"
    assert Feature.parse("tokens:3").placed(5, 7, 1).label == "tokens:3@3,0"


@pytest.mark.parametrize(
    ("feature", "match"),
    [
        ("a:4", "a:4: layer 'a' has 4 channels, 0 to 3"),
        ("a:3@5,0", "a:3@5,0: position 5,0 lies outside the layer's map of 5 rows by 9 columns"),
        ("a:3@0,9", "position 0,9 lies outside .* 5 rows by 9 columns"),
        (Feature(layer="a", vector=(1.0, 2.0)), "direction has 2 weights.* 'a' has 4 channels"),
    ],
)
def test_a_feature_that_does_not_fit_its_map_is_refused(feature: object, match: str) -> None:
    for use in ("resolve", "placed"):
        with pytest.raises(ValueError, match=match):
            getattr(Feature.of(feature), use)(4, 5, 9)
    with pytest.raises(ValueError, match=match):
        Feature.of(feature).read(torch.zeros(1, 4, 5, 9))


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.data(),
)
def test_what_is_read_element_by_element(shape: tuple[int, int, int, int], data: object) -> None:
    n, c, h, w = shape
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    row, column = data.draw(st.tuples(st.integers(0, h - 1), st.integers(0, w - 1)))
    unit = data.draw(st.integers(0, c - 1))
    weights = data.draw(st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), min_size=c, max_size=c))
    weights[data.draw(st.integers(0, c - 1))] = 5.0
    read = Feature(layer="a", unit=unit, position=(row, column)).read(maps)
    assert read.tolist() == [maps[i, unit, row, column].item() for i in range(n)]
    read = Feature.direction("a", weights, position=(row, column)).read(maps)
    for i in range(n):
        by_hand = sum(weights[k] * maps[i, k, row, column].item() for k in range(c))
        assert read[i].item() == pytest.approx(by_hand, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_read_has_the_type_of_its_layer_and_its_gradient(dtype: torch.dtype) -> None:
    maps = torch.ones(2, 3, 4, 5, dtype=dtype, requires_grad=True)
    for feature, expected in (
        (Feature.parse("a:1@2,3"), [0, 1, 0]),
        (Feature.direction("a", [1.0, 0.0, -2.0], position=(2, 3)), [1, 0, -2]),
    ):
        read = feature.read(maps)
        assert read.dtype == dtype
        [gradient] = torch.autograd.grad(read.sum(), maps)
        assert gradient[:, :, 2, 3].tolist() == [expected, expected]
        assert gradient.count_nonzero() == 2 * sum(map(bool, expected))


def test_at_moves_a_feature_and_keeps_the_rest() -> None:
    feature = Feature.direction("a", [1.0, 2.0], name="edge", position=(1, 1))
    assert feature.at((3, 4)).label == "a:edge@3,4"
    assert feature.at(None).at((1, 1)) == feature
    assert feature.at(None).vector == (1.0, 2.0)
