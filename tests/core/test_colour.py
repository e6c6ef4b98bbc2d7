"""The colours: Oklab against published values, and what the colour square promises the eye."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, UInt8

from opponent.core.colour import (
    ACTIVATION,
    OPACITY,
    activation_colours,
    balance_colours,
    colour_square,
    group_colours,
    hex_colours,
    oklab_to_srgb,
    on_white,
    overlay,
    srgb_to_oklab,
    subdued,
    tension_colours,
)

Seen = Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 3"]]

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear sRGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen_with(kind: str) -> Seen:
    """The colours as an eye with this colour-blindness sees them."""

    def seen(srgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        mixed = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1)
        return np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)

    return seen


def fan(steps: int) -> Float[np.ndarray, "steps 4"]:
    """Full-strength colours at even angles from excitation only to inhibition only."""
    angle = np.linspace(0, np.pi / 2, steps)
    x, y = np.cos(angle), np.sin(angle)
    return tension_colours(x / np.maximum(x, y), y / np.maximum(x, y))


def corners() -> Float[np.ndarray, "3 4"]:
    return tension_colours(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]))


def distances(oklab: Float[np.ndarray, "n 3"]) -> list[float]:
    n = len(oklab)
    return [float(np.linalg.norm(oklab[i] - oklab[j])) for i in range(n) for j in range(i + 1, n)]


# ------------------------------------------------------------------------------------------ Oklab


@pytest.mark.parametrize(
    ("srgb", "oklab"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
        # CSS Color 4 gives these as oklab(62.796% 0.22486 0.12585) and so on.
        ((1.0, 0.0, 0.0), (0.62796, 0.22486, 0.12585)),
        ((0.0, 1.0, 0.0), (0.86644, -0.23389, 0.17950)),
        ((0.0, 0.0, 1.0), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_of_the_primaries(
    srgb: tuple[float, float, float], oklab: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(srgb_to_oklab(np.array(srgb)), oklab, atol=2e-5)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=5))
def test_oklab_and_back(colours: list[tuple[float, float, float]]) -> None:
    srgb = np.array(colours)
    np.testing.assert_allclose(oklab_to_srgb(srgb_to_oklab(srgb)), srgb, atol=1e-6)


def test_out_of_gamut_is_clipped() -> None:
    assert oklab_to_srgb(np.array([0.5, 0.4, 0.0])).min() == 0
    assert oklab_to_srgb(np.array([1.2, 0.0, 0.0])).max() == pytest.approx(1)


# ------------------------------------------------------------------------------------- the square


def test_hue_says_which() -> None:
    red, green, blue = corners()[:, :3]
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2
    amber, teal = fan(5)[[1, 3], :3]
    assert amber[0] > amber[1] > amber[2] + 0.3
    assert min(teal[1], teal[2]) > teal[0] + 0.3


@given(st.floats(0.01, 1), st.floats(0, 1))
def test_hue_does_not_depend_on_strength(strength: float, ratio: float) -> None:
    weak = tension_colours(np.array(strength), np.array(strength * ratio))
    full = tension_colours(np.array(1.0), np.array(ratio))
    np.testing.assert_allclose(weak[:3], full[:3], atol=1e-9)


def test_no_colour_is_clipped_and_none_is_grey() -> None:
    colours = fan(721)[:, :3]
    # A clipped channel would lie at exactly 0 or 1.
    assert colours.min() > 0
    assert colours.max() < 1
    lab = srgb_to_oklab(colours)
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 0.1


def test_equal_angles_are_equal_steps() -> None:
    steps = np.linalg.norm(np.diff(srgb_to_oklab(fan(361)[:, :3]), axis=0), axis=1)
    # Not quite 1: a step around the corner at amber or teal is measured along its chord.
    assert steps.max() / steps.min() < 1.1


@pytest.mark.parametrize("angle", range(0, 91, 15))
def test_equal_strengths_are_nearly_equal_steps_on_white(angle: int) -> None:
    x, y = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    strength = np.linspace(0, 1, 9) / max(x, y)
    rgba = tension_colours(strength * x, strength * y)
    shown = 1 - rgba[:, 3:] * (1 - rgba[:, :3])
    steps = np.linalg.norm(np.diff(srgb_to_oklab(shown), axis=0), axis=1)
    assert steps.max() / steps.min() < 1.35


@given(*[st.floats(0, 1)] * 4)
def test_opacity_says_how_much(e: float, i: float, more_e: float, more_i: float) -> None:
    less, more = tension_colours(np.array([e, max(e, more_e)]), np.array([i, max(i, more_i)]))[:, 3]
    assert less <= more
    assert less == pytest.approx(OPACITY * max(e, i))


def test_values_beyond_the_square_are_its_edge() -> None:
    np.testing.assert_array_equal(
        tension_colours(np.array([3.0, -1.0]), np.array([0.0, 7.0])),
        tension_colours(np.array([1.0, 0.0]), np.array([0.0, 1.0])),
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        tension_colours(np.array([bad]), np.array([0.0]))


@pytest.mark.parametrize("kind", BLINDNESS)
def test_corners_stay_apart_in_colour_blindness(kind: str) -> None:
    rgba = corners()
    for shown in (rgba[:, :3], 1 - rgba[:, 3:] * (1 - rgba[:, :3])):
        lab = srgb_to_oklab(seen_with(kind)(shown))
        assert min(distances(lab)) > 0.17
        # Lightness alone tells both signs at once from either alone.
        assert lab[1, 0] - max(lab[0, 0], lab[2, 0]) > 0.15


def test_the_square_lies_the_right_way_round() -> None:
    square = colour_square(65)
    top_left, top_right, bottom_left, bottom_right = (
        square[0, 0], square[0, -1], square[-1, 0], square[-1, -1]
    )  # fmt: skip
    assert bottom_left.tolist() == [255, 255, 255]
    assert [int(c.argmax()) for c in (bottom_right, top_right, top_left)] == [0, 1, 2]
    np.testing.assert_array_equal([bottom_right, top_right, top_left], on_white(corners()))


def test_a_square_of_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 1, expected at least 2"):
        colour_square(1)


# --------------------------------------------------------------------------------------- overlays


def photograph(h: int = 5, w: int = 7) -> UInt8[np.ndarray, "h w 3"]:
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_blank_maps_leave_no_tint(scale: float) -> None:
    image, blank = photograph(), np.zeros((5, 7))
    shown = overlay(image, blank, blank, scale)
    np.testing.assert_array_equal(shown, subdued(image))
    assert (np.ptp(shown, axis=-1) == 0).all()


def test_scale_zero_is_blank_whatever_the_maps() -> None:
    image = photograph()
    np.testing.assert_array_equal(
        overlay(image, np.ones((5, 7)), np.ones((5, 7)), 0.0), subdued(image)
    )


def test_a_subdued_photograph_is_recognisable() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    shown = subdued(ramp)[0, :, 0].astype(int)
    assert (np.diff(shown) >= 0).all()
    assert shown[-1] == 255
    assert np.ptp(shown) > 128


def test_overlay_is_the_colour_over_the_subdued_photograph() -> None:
    rng = np.random.default_rng(1)
    image, scale = photograph(), 3.0
    excitation, inhibition = rng.uniform(0, 4, (2, 5, 7))
    shown = overlay(image, excitation, inhibition, scale)
    for row in range(5):
        for column in range(7):
            r, g, b, a = tension_colours(
                np.array(min(1.0, excitation[row, column] / scale)),
                np.array(min(1.0, inhibition[row, column] / scale)),
            ).tolist()
            for channel, colour in enumerate((r, g, b)):
                below = subdued(image)[row, column, channel] / 255
                expected = round((a * colour + (1 - a) * below) * 255)
                assert abs(int(shown[row, column, channel]) - expected) <= 1


def test_one_value_has_one_colour_at_one_scale() -> None:
    white, one = np.full((2, 3, 3), 255, np.uint8), np.ones((2, 3))
    np.testing.assert_array_equal(
        overlay(white, 2 * one, 0.5 * one, 4.0)[0, 0],
        on_white(tension_colours(np.array(0.5), np.array(0.125))),
    )


def test_single_precision_maps() -> None:
    image, maps = photograph(), np.random.default_rng(2).uniform(0, 1, (2, 5, 7))
    exact = overlay(image, maps[0], maps[1], 1.0).astype(int)
    single = overlay(image, *maps.astype(np.float32), 1.0).astype(int)
    assert np.abs(exact - single).max() <= 1


def test_overlay_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"image \(5, 7\), excitation \(5, 6\)"):
        # Unwrapped: the shape check under test would refuse the call before the function.
        getattr(overlay, "__wrapped__", overlay)(
            photograph(), np.zeros((5, 6)), np.zeros((5, 6)), 1.0
        )


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
def test_overlay_refuses_a_scale_that_is_none(scale: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number >= 0"):
        overlay(photograph(), np.zeros((5, 7)), np.zeros((5, 7)), scale)


def test_on_white() -> None:
    rgba = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.4]])
    assert on_white(rgba).tolist() == [[255, 255, 255], [255, 0, 0], [153, 153, 153]]


# ------------------------------------------------------------------------------------- activation


def test_activation_is_symmetric_about_zero() -> None:
    low, middle, high = activation_colours(np.array([-3.0, 0.0, 3.0]), 3.0)
    assert np.ptp(middle[:3]) < 0.01
    assert low[2] > low[0] > low[1]
    assert high[0] > high[1] > high[2]
    lab = srgb_to_oklab(np.array([low, middle, high])[:, :3])
    down, up = (np.linalg.norm(lab[k] - lab[1]) for k in (0, 2))
    assert down == pytest.approx(up, rel=0.02)
    # A dot of activation zero must be seen on white paper.
    assert lab[1, 0] < 0.9


@given(st.floats(-10, 10), st.floats(0.1, 10))
def test_activation_colours_depend_on_the_ratio(value: float, limit: float) -> None:
    one, other = (
        activation_colours(np.array(v), m) for v, m in ((value, limit), (4 * value, 4 * limit))
    )
    np.testing.assert_array_equal(one, other)
    end = activation_colours(np.array(np.copysign(limit, value)), limit)
    if abs(value) >= limit:
        np.testing.assert_array_equal(one, end)


def test_activation_without_a_limit_is_neutral() -> None:
    np.testing.assert_array_equal(
        activation_colours(np.array([-1.0, 5.0]), 0.0), [ACTIVATION(0.5)] * 2
    )


def test_activation_is_not_taken_for_a_map() -> None:
    ends = srgb_to_oklab(np.array([ACTIVATION(0.0), ACTIVATION(1.0)])[:, :3])
    square = srgb_to_oklab(fan(91)[:, :3])
    assert np.linalg.norm(ends[:, None] - square[None], axis=-1).min() > 0.09


@pytest.mark.parametrize("kind", BLINDNESS)
def test_activation_ends_stay_apart_in_colour_blindness(kind: str) -> None:
    ends = np.array([ACTIVATION(0.0), ACTIVATION(1.0)])[:, :3]
    assert distances(srgb_to_oklab(seen_with(kind)(ends)))[0] > 0.1


def test_activation_refuses_what_has_no_colour() -> None:
    with pytest.raises(ValueError, match="limit is -1"):
        activation_colours(np.array([0.0]), -1.0)
    with pytest.raises(ValueError, match="values hold NaN"):
        activation_colours(np.array([np.nan]), 1.0)


def test_hex_colours() -> None:
    rgba = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.5, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    assert hex_colours(rgba) == ["#ff0000", "#0080ff80", "#00000000"]


def test_group_colours_are_fixed_and_distinct() -> None:
    known = ["exciting", "inhibiting", "silent", "tense", "tense_apart", "tense_together"]
    colours = group_colours([*known, "mine", "yours"])
    assert len(set(colours.values())) == 8
    assert group_colours(["tense_together"])["tense_together"] == colours["tense_together"]


def test_balance_has_the_hue_and_tension_the_strength() -> None:
    excitation = np.array([2.0, 1.0, 3.0, 0.0, 1.0])
    inhibition = np.array([1.0, 2.0, 3.0, 0.0, 1.0])
    colours, limit, ends = balance_colours(excitation, inhibition)
    # (2 - 1) / (2 + 1), and the least and the largest of the smaller ones.
    assert limit == pytest.approx(1 / 3)
    assert ends == (0, 3)
    # Red, blue and green at the ends and in the middle of the hues, whatever the strength.
    for k, (plus, minus) in enumerate([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]):
        expected = tension_colours(np.array(plus), np.array(minus))
        np.testing.assert_allclose(colours[k, :3], expected[:3], atol=1e-9)
    # The tensest is as strong as the square's corner, others in proportion; nothing is clear.
    strongest = tension_colours(np.array(1.0), np.array(1.0))[3]
    assert colours[2, 3] == pytest.approx(strongest)
    assert colours[4, 3] == pytest.approx(strongest * (0.3 + 0.7 / 3))
    assert colours[3, 3] == 0
