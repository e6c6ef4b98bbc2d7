"""The excitation-inhibition colour square, the activation's colour scale, the groups' colours.

The square (paper, fig. 4g) is a scale with two inputs: its hue says *which* of excitation and
inhibition is there, its opacity says *how much*. Both scales are laid out in Oklab, where
distances are close to perceived ones.

Source: B. Ottosson, "A perceptual color space for image processing", 2020
(https://bottosson.github.io/posts/oklab), for Oklab and its matrices.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import Colormap, ListedColormap, to_hex

# Ottosson 2020: linear sRGB -> cone-like responses, and their cube roots -> Oklab.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def srgb_to_oklab(srgb: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Oklab coordinates of colours.

    Args:
        srgb: gamma-encoded sRGB in [0, 1].
    Returns:
        Lightness in [0, 1], then the green-red and the blue-yellow axis.
    Source: Ottosson 2020; the transfer curve is IEC 61966-2-1.
    """
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T)


def oklab_to_srgb(oklab: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Gamma-encoded sRGB of Oklab colours; what lies outside the gamut is clipped to [0, 1].

    Args:
        oklab: lightness, green-red axis, blue-yellow axis.
    Returns:
        sRGB in [0, 1].
    Source: Ottosson 2020; the transfer curve is IEC 61966-2-1.
    """
    cones = (oklab @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(cones @ np.linalg.inv(_TO_CONES).T, 0, 1)
    return np.asarray(
        np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    )


def _polar(nodes: Float[np.ndarray, "nodes 3"]) -> Float[np.ndarray, "nodes 3"]:
    """Oklab of lightness, chroma and hue in degrees."""
    lightness, chroma, degrees = nodes.T
    angle = np.deg2rad(degrees)
    return np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)


def _along(
    nodes: Float[np.ndarray, "nodes 3"], position: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape 3"]:
    """Oklab colours on the broken line through an odd number of nodes, at even speed.

    The middle node sits at 0.5, and each half is run through at one speed: equal steps of
    position are equal steps in Oklab.
    """
    middle = len(nodes) // 2
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))]
    first = length / length[middle]
    second = 1 + (length - length[middle]) / (length[-1] - length[middle])
    knots = np.where(np.arange(len(nodes)) <= middle, first, second) / 2
    return np.stack([np.interp(position, knots, nodes[:, axis]) for axis in range(3)], axis=-1)


# Red, amber, green, teal, blue. Chosen, inside the sRGB gamut, so that green is much lighter than
# red and blue (all three stay apart in the three kinds of colour-blindness), so that the way from
# one to the next keeps its chroma (amber and teal, never grey), and so that red to green is as long
# as green to blue. The tests measure all of this.
_SQUARE = _polar(
    np.array(
        [
            [0.560, 0.200, 26],
            [0.710, 0.145, 74],
            [0.780, 0.190, 145],
            [0.650, 0.110, 206],
            [0.488, 0.177, 262],
        ]
    )
)
# Purple, grey, brown: hues that the square does not use. The middle is a grey that can still be
# seen on white paper, and both ends are equally far from it.
_DIVERGING = _polar(np.array([[0.51, 0.150, 305], [0.87, 0, 0], [0.50, 0.112, 58]]))

# Less than 1, so that a photograph shows through the strongest colour too; below this value a
# linear ramp of opacity is also nearly even to the eye (steps within a factor of 1.35).
OPACITY = 0.85
# Rec. 601 luma, the grey that Pillow's "L" gives.
_LUMA = np.array([0.299, 0.587, 0.114])
# Under a map the photograph keeps this much of its contrast, towards white: dark places would
# swallow red and blue, and the square beside it stands on white too.
_CONTRAST = 0.6

ACTIVATION: Colormap = ListedColormap(
    # An odd number of colours, so that zero has one of its own.
    oklab_to_srgb(_along(_DIVERGING, np.linspace(0, 1, 511))),
    name="opponent-activation",
)
"""The activation's colours for matplotlib: purple below zero, grey at zero, brown above."""


# Steps of the square's angle.
_FINE = 8193
# How strong the colour of the least tense cell of an atlas is.
_WEAKEST = 0.3


def tension_colours(
    excitation: Float[np.ndarray, "*shape"], inhibition: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape 4"]:
    """Colours of the excitation-inhibition square.

    The angle atan2(inhibition, excitation) runs evenly from red (excitation only) through amber,
    green (both equal) and teal to blue (inhibition only). The larger of the two is the strength;
    opacity is proportional to it and ends at `OPACITY`.

    Args:
        excitation: as a fraction of the common scale; clipped to [0, 1].
        inhibition: the same.
    Returns:
        Straight-alpha sRGB RGBA in [0, 1], to be composited in gamma-encoded sRGB, as browsers do.
    Raises:
        ValueError: a value is not finite.
    Source: paper, fig. 4g; the colours are ours.
    """
    if not (np.isfinite(excitation).all() and np.isfinite(inhibition).all()):
        raise ValueError(
            "tension_colours: excitation and inhibition must be finite, but some values are NaN or "
            "infinite; divide by a positive scale, and leave blank maps at zero"
        )
    x = np.clip(np.asarray(excitation, dtype=np.float64), 0, 1)
    y = np.clip(np.asarray(inhibition, dtype=np.float64), 0, 1)
    place = np.rint(np.arctan2(y, x) / (np.pi / 2) * (_FINE - 1)).astype(np.int64)
    colour = _square_colours()[place]
    return np.concatenate([colour, OPACITY * np.maximum(x, y)[..., None]], axis=-1)


@cache
def _square_colours() -> Float[np.ndarray, "fine 3"]:
    """The colours of the square along its angle, in steps that eight bits cannot tell."""
    return oklab_to_srgb(_along(_SQUARE, np.linspace(0, 1, _FINE)))


def on_white(rgba: Float[np.ndarray, "*shape 4"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Composite straight-alpha sRGB on white paper.

    Args:
        rgba: in [0, 1]; clipped.
    Returns:
        sRGB bytes.
    """
    clipped = np.clip(rgba, 0, 1)
    return _bytes(1 - clipped[..., 3:] * (1 - clipped[..., :3]))


def subdued(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph as it is shown under a map: grey and pale, so that any hue is the map's.

    Args:
        image: sRGB bytes.
    Returns:
        sRGB bytes, all three channels equal.
    """
    grey = 1 - _CONTRAST * (1 - image @ _LUMA / 255)
    return _bytes(np.repeat(grey[..., None], 3, axis=-1))


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    excitation: Float[np.ndarray, "h w"],
    inhibition: Float[np.ndarray, "h w"],
    scale: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """An excitation and an inhibition map, laid over their photograph.

    Args:
        image: the photograph, sRGB bytes.
        excitation: phi+ at the image's resolution, >= 0, in units of activation.
        inhibition: phi-, the same.
        scale: the value drawn at full strength, one for all images shown together; 0 means that
            all maps are blank.
    Returns:
        sRGB bytes.
    Raises:
        ValueError: shapes differ, or the scale is negative or not finite.
    Source: paper, section 3.
    """
    if not image.shape[:2] == excitation.shape == inhibition.shape:
        raise ValueError(
            f"overlay: image {image.shape[:2]}, excitation {excitation.shape} and inhibition "
            f"{inhibition.shape} must have one height and width; resize the maps to the image first"
        )
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"overlay: scale is {scale}, expected a finite number >= 0")
    below = subdued(image)
    if scale == 0:
        return below
    colours = tension_colours(excitation / scale, inhibition / scale)
    alpha = colours[..., 3:]
    return _bytes(alpha * colours[..., :3] + (1 - alpha) * (below / 255))


def balance_colours(
    excitation: Float[np.ndarray, " n"], inhibition: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 4"], float, tuple[float, float]]:
    """Colours of places that hold both: the hue by their balance, the strength by their tension.

    Where all are about as tense, the square of `tension_colours` shows one green. Here the hue
    runs over the balances that there are, (excitation - inhibition) / (excitation + inhibition),
    the same way to either side, and the strength over the tensions that there are.

    Args:
        excitation, inhibition: any unit, >= 0.
    Returns:
        Straight-alpha sRGB RGBA in [0, 1], clear where there is neither; the balance at which the
        hue ends; the least and the largest tension, the smaller of the two.
    """
    total = excitation + inhibition
    balance = np.divide(excitation - inhibition, total, out=np.zeros_like(total), where=total > 0)
    tension = np.minimum(excitation, inhibition)
    limit = float(np.quantile(np.abs(balance), 0.95, method="higher")) or 1.0
    ends = float(tension.min()), float(tension.max())
    above = (tension - ends[0]) / ((ends[1] - ends[0]) or 1.0)
    colours = balance_square(balance / limit, above)
    colours[total <= 0, 3] = 0.0
    return colours, limit, ends


def balance_square(
    balance: Float[np.ndarray, "*shape"], tension: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape 4"]:
    """Colours of a balance from -1 to 1 and a tension from 0 to 1; see `balance_colours`.

    Args:
        balance: blue at -1, green at 0, red at 1; clipped.
        tension: weakest at 0; clipped.
    Returns:
        Straight-alpha sRGB RGBA in [0, 1].
    """
    strength = _WEAKEST + (1 - _WEAKEST) * np.clip(tension, 0, 1)
    angle = np.pi / 4 * (1 - np.clip(balance, -1, 1))
    largest = np.maximum(np.cos(angle), np.sin(angle))
    return tension_colours(strength * np.cos(angle) / largest, strength * np.sin(angle) / largest)


def colour_square(n: int) -> UInt8[np.ndarray, "n n 3"]:
    """The square itself, on white: excitation grows to the right, inhibition upward.

    Args:
        n: side in pixels, at least 2.
    Returns:
        sRGB bytes; row 0 is the strongest inhibition.
    Raises:
        ValueError: n is less than 2.
    Source: paper, fig. 4g.
    """
    if n < 2:
        raise ValueError(f"colour_square: n is {n}, expected at least 2 pixels")
    excitation, inhibition = np.meshgrid(np.linspace(0, 1, n), np.linspace(1, 0, n))
    return on_white(tension_colours(excitation, inhibition))


def activation_colours(
    values: Float[np.ndarray, "*shape"], limit: float
) -> Float[np.ndarray, "*shape 4"]:
    """Colours of activations: purple below zero, grey at zero, brown above.

    Args:
        values: activations, any unit.
        limit: where both ends of the scale lie, same unit; 0 colours everything as zero.
    Returns:
        Opaque sRGB RGBA in [0, 1].
    Raises:
        ValueError: the limit is negative or not finite, or a value is NaN.
    """
    if not (np.isfinite(limit) and limit >= 0):
        raise ValueError(f"activation_colours: limit is {limit}, expected a finite number >= 0")
    if np.isnan(values).any():
        raise ValueError("activation_colours: values hold NaN; leave those images out first")
    share = np.clip(values / limit, -1, 1) if limit > 0 else np.zeros_like(values)
    return np.asarray(ACTIVATION((1 + np.asarray(share, dtype=np.float64)) / 2), dtype=np.float64)


def category_colours(count: int) -> Float[np.ndarray, "n 4"]:
    """Colours for unordered categories: hues evenly around Oklab, in three lightnesses in turn.

    Neighbours differ in both. Beyond a dozen, no set of colours can be told apart by eye alone.

    Args:
        count: how many.
    Returns:
        Opaque sRGB RGBA in [0, 1].
    """
    number = np.arange(count)
    lightness = np.array([0.62, 0.74, 0.5])[number % 3]
    lab = _polar(np.stack([lightness, np.full(count, 0.13), 360 * number / max(count, 1)], 1))
    return np.concatenate([oklab_to_srgb(lab), np.ones((count, 1))], axis=1)


def hex_colours(rgba: Float[np.ndarray, "n 4"]) -> list[str]:
    """Colours as '#rrggbb', or '#rrggbbaa' where not opaque, as web pages and Bokeh read them.

    Args:
        rgba: straight-alpha sRGB in [0, 1].
    Returns:
        One string a row.
    """
    return [to_hex((r, g, b, a), keep_alpha=a < 1) for r, g, b, a in rgba.tolist()]


def group_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour for each group of images, the same in every figure and page.

    Args:
        names: the groups; those that the paper knows have colours of their own.
    Returns:
        '#rrggbb' by name.
    """
    others = [name for name in names if name not in _GROUPS]
    return {
        name: _GROUPS[name] if name in _GROUPS else _OTHERS[others.index(name) % len(_OTHERS)]
        for name in names
    }


def _bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


# The square's corners as '#rrggbb': excitation's colour and inhibition's, for text and bars.
RED, BLUE = hex_colours(
    np.c_[tension_colours(np.array([1.0, 0.0]), np.array([0.0, 1.0]))[:, :3], np.ones(2)]
)
# The square's own hues where a group has one; green darkened, to be read as text on white.
_GROUPS = {
    "exciting": RED,
    "inhibiting": BLUE,
    "silent": "#6b6b6b",
    "tense": "#111111",
    "tense_apart": "#c2348f",
    "tense_together": "#1f9a3c",
}
_OTHERS = ("#0f8b8d", "#b7791f", "#5b3fa0", "#7a4b2a")
