"""Tiles, and the one scale of their maps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.support.figures import mapped, plain, tile

from opponent.core.colour import overlay, subdued
from opponent.explain.crops import Synthetic, map_scale, opaque, overlay_scale

MAPS = hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 100))


def test_tile_wants_both_maps_or_none() -> None:
    with pytest.raises(ValueError, match="both excitation and inhibition"):
        replace(tile(), inhibition=None)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_tile_refuses_maps_that_cannot_be_drawn(bad: float) -> None:
    with pytest.raises(ValueError, match="inhibition must be finite and >= 0"):
        replace(tile(), inhibition=np.full((12, 12), bad))


def test_tile_refuses_maps_of_another_size() -> None:
    one = tile()
    # Past the shape check under test, which would refuse it first.
    object.__setattr__(one, "excitation", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"excitation is \(3, 4\), the image \(12, 12\)"):
        one.__post_init__()


@given(st.lists(st.tuples(MAPS, MAPS), max_size=4), st.permutations(range(4)))
def test_scale_depends_on_the_images_alone(maps: list[tuple[Any, Any]], order: list[int]) -> None:
    tiles = [mapped(e, i) for e, i in maps]
    scale = overlay_scale(tiles)
    assert overlay_scale([tiles[k] for k in order if k < len(tiles)]) == scale
    assert overlay_scale([*tiles, plain(), tile(size=0.0)]) == scale
    assert overlay_scale([mapped(i, e) for e, i in maps]) == scale
    assert overlay_scale([mapped(4 * e, 4 * i) for e, i in maps]) == pytest.approx(4 * scale)
    highest = max((max(e.max(), i.max()) for e, i in maps), default=0.0)
    assert 0 <= scale <= highest
    assert (scale > 0) == (highest > 0)


def test_scale_of_small_cases() -> None:
    assert overlay_scale([]) == 0
    assert overlay_scale([plain()]) == 0
    steady = mapped(np.full((5, 5), 2.0), np.full((5, 5), 3.0))
    assert overlay_scale([steady]) == 3
    assert overlay_scale([steady, mapped(np.full((9, 2), 7.0), np.zeros((9, 2)))]) == pytest.approx(
        6.6
    )


def test_one_pixel_does_not_set_the_scale_unless_it_is_alone() -> None:
    spike = np.ones((40, 40))
    spike[0, 0] = 1000
    assert overlay_scale([mapped(spike, np.zeros((40, 40)))]) == 1
    alone = np.zeros((40, 40))
    alone[0, 0] = 1000
    assert overlay_scale([mapped(alone, np.zeros((40, 40)))]) == 1000


@given(st.lists(st.tuples(MAPS, MAPS), max_size=4))
def test_stacked_maps_have_the_scale_of_their_tiles(maps: list[tuple[Any, Any]]) -> None:
    plus, minus = (np.array([pair[k] for pair in maps]).reshape(-1, 3, 4) for k in (0, 1))
    assert map_scale(plus, minus) == overlay_scale([mapped(e, i) for e, i in maps])


def test_stacked_maps_in_single_precision() -> None:
    plus, minus = np.random.default_rng(0).gamma(1, 1, (2, 30, 7, 5))
    peaks = [np.quantile(np.maximum(e, i), 0.995) for e, i in zip(plus, minus, strict=True)]
    scale = map_scale(plus.astype(np.float32), minus.astype(np.float32))
    assert scale == pytest.approx(np.quantile(peaks, 0.9), rel=1e-6)


def test_a_tile_is_overlaid_by_both_maps_or_by_one_side() -> None:
    shown = tile()
    assert shown.excitation is not None
    assert shown.inhibition is not None
    blank = np.zeros((12, 12))
    expected = {
        "both": overlay(shown.image, shown.excitation, shown.inhibition, 0.5),
        "excitation": overlay(shown.image, shown.excitation, blank, 0.5),
        "inhibition": overlay(shown.image, blank, shown.inhibition, 0.5),
    }
    np.testing.assert_array_equal(shown.overlaid(0.5), expected["both"])
    for side, pixels in expected.items():
        np.testing.assert_array_equal(shown.overlaid(0.5, side), pixels)
    np.testing.assert_array_equal(plain().overlaid(0.5), subdued(plain().image))
    with pytest.raises(ValueError, match="a side is excitation, inhibition or both"):
        shown.overlaid(0.5, "left")


def test_synthesised_images_lie_on_white_whether_bytes_or_floats() -> None:
    half = np.full((2, 3, 4), 51, np.uint8)
    # 1 - 0.2 (1 - 0.2) = 0.84.
    for image in (half, half / 255):
        np.testing.assert_array_equal(opaque(Synthetic(image=image)), round(0.84 * 255))
    np.testing.assert_array_equal(opaque(tile()), tile().image)
