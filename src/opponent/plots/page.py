"""What all figures share: sizes in inches, text that fits, pictures in cells, saving."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from opponent.core.colour import (
    colour_square,
    hex_colours,
    on_white,
    overlay,
    subdued,
    tension_colours,
)
from opponent.storage.files import AnyPath, to_path, whole

COLUMN, PAGE = 3.4, 7.0  # inches: one and two columns of most journals
_DPI = 300  # what journals ask of photographs
_MARGIN = 0.08
_LINE = 0.15  # inches that a line of text takes
_SMALL, _PLAIN, _TITLE, _LETTER = 7.0, 7.5, 8.0, 9.0  # points
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_INK, _FAINT, _HAIR = "#262626", "#757575", "#c8c8c8"
_STYLE: Any = [
    "default",
    {
        # It comes with matplotlib: the same glyphs, and so the same bytes, on every machine.
        "font.family": ["DejaVu Sans"],
        "font.size": _PLAIN,
        **dict.fromkeys(
            ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], _INK
        ),
        "axes.labelsize": _PLAIN,
        "axes.labelpad": 2,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.labelsize": _SMALL,
        "ytick.labelsize": _SMALL,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "pdf.fonttype": 42,  # journals refuse Type 3 fonts
        "svg.hashsalt": "opponent",  # its ids are random otherwise
    },
]
_styled = style.context(_STYLE)
# Dates and versions would make equal figures differ in their bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
_corners = tension_colours(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]))
_RED, _GREEN, _BLUE = hex_colours(np.c_[_corners[:, :3], np.ones(3)])
# The square's own hues where a group has one; green darkened, to be read as text on white.
_GROUPS = {
    "exciting": _RED,
    "inhibiting": _BLUE,
    "silent": "#6b6b6b",
    "tense": "#111111",
    "tense_apart": "#c2348f",
    "tense_together": "#1f9a3c",
}
_OTHERS = ("#0f8b8d", "#b7791f", "#5b3fa0", "#7a4b2a")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image as shown.

    Attributes:
        image: sRGB bytes, already cropped to the receptive field.
        excitation: phi+ at the image's own resolution, in units of activation; None for no map.
        inhibition: phi-, the same; there where excitation is.
        caption: a few words or a number, such as '+3.1'.
    """

    image: UInt8[np.ndarray, "h w 3"]
    excitation: Float[np.ndarray, "h w"] | None = None
    inhibition: Float[np.ndarray, "h w"] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse half a pair of maps, and maps that cannot be drawn."""
        if (self.excitation is None) != (self.inhibition is None):
            raise ValueError("Tile: give both excitation and inhibition, or neither")
        for name, values in (("excitation", self.excitation), ("inhibition", self.inhibition)):
            if values is None:
                continue
            if values.shape != self.image.shape[:2]:
                raise ValueError(
                    f"Tile: {name} is {values.shape}, the image {self.image.shape[:2]}; resize the "
                    "map to the image first"
                )
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise ValueError(f"Tile: {name} must be finite and >= 0; inhibition too is >= 0")


@dataclass(frozen=True, kw_only=True)
class ExemplarRow:
    """One feature in `exemplars_figure`: its label, its two series of images, its layer."""

    label: str
    exciting: Sequence[Tile]
    inhibiting: Sequence[Tile]
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A made image with its opacity: straight-alpha sRGB, bytes or floats in [0, 1]."""

    image: UInt8[np.ndarray, "h w 4"] | Float[np.ndarray, "h w 4"]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class InversionRow:
    """One tense photograph in `inversions_figure`, and what was made from it for either sign."""

    photo: Tile
    excitatory_accentuation: Synthetic | None = None
    excitatory_inversion: Synthetic | None = None
    inhibitory_accentuation: Synthetic | None = None
    inhibitory_inversion: Synthetic | None = None


def overlay_scale(tiles: Sequence[Tile]) -> float:
    """The value of phi that is drawn at full strength in all these images.

    Each image's own peak is its 99.5th percentile (of phi+ and phi- alike), so that a single pixel
    does not set it; the scale is the 90th percentile of those peaks, so that a single image does
    not pale all others. Blank images do not count.

    Args:
        tiles: the images shown together; those without maps do not count.
    Returns:
        In units of activation; 0 if every map is blank.
    Source: paper, section 3 ('normalized across images'); the percentiles are ours.
    """
    peaks = []
    for tile in tiles:
        if tile.excitation is not None and tile.inhibition is not None:
            values = np.maximum(tile.excitation, tile.inhibition)
            # Maps of a few pixels only: the percentile passes them by.
            peaks.append(float(np.quantile(values, 0.995)) or float(values.max()))
    peaks = [peak for peak in peaks if peak]
    return float(np.quantile(peaks, 0.9)) if peaks else 0.0


def _words(name: str) -> str:
    return name.replace("_", " ")


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


# ------------------------------------------------------------------------------------- drawing


class _Box(NamedTuple):
    """A rectangle in inches; `top` counts down from the upper edge of the figure."""

    left: float
    top: float
    width: float
    height: float


def _axes(figure: Figure, box: _Box) -> Axes:
    across, down = figure.get_size_inches()
    bottom = 1 - (box.top + box.height) / down
    return figure.add_axes((box.left / across, bottom, box.width / across, box.height / down))


def _width(text: str, size: float, weight: str = "normal") -> float:
    font = FontProperties(family=["DejaVu Sans"], size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _fit(text: str, width: float, size: float, weight: str) -> str:
    """The text on one line, its middle left out where it is wider than `width` inches.

    A layer's name and a file's say most at their ends.
    """
    line = whole = " ".join(text.split())
    for kept in range(len(whole) - 1, 0, -1):
        if _width(line, size, weight) <= width:
            break
        line = whole[: (kept + 1) // 2] + "…" + whole[len(whole) - kept // 2 :]
    return line


def _text(
    figure: Figure,
    left: float,
    top: float,
    text: str,
    *,
    width: float = PAGE,
    size: float = _PLAIN,
    weight: str = "normal",
    **options: Any,
) -> None:
    across, down = figure.get_size_inches()
    line = _fit(text, width, size, weight)
    # A dollar in a file's name is no formula.
    options = {"va": "top", "parse_math": False, **options}
    figure.text(left / across, 1 - top / down, line, size=size, weight=weight, **options)


def _heading(figure: Figure, left: float, top: float, width: float, text: str, colour: str) -> None:
    """A heading in the middle over a rule as wide as what it heads."""
    middle = left + width / 2
    _text(figure, middle, top, text, width=width, ha="center", color=colour, weight="bold")
    across, down = figure.get_size_inches()
    ends, level = [left / across, (left + width) / across], 1 - (top + _LINE) / down
    figure.add_artist(Line2D(ends, [level, level], color=colour, lw=0.8))


def _ring(figure: Figure, left: float, top: float, colour: str) -> None:
    """The ring of a group's images, as a key."""
    across, down = figure.get_size_inches()
    ring = {"marker": "o", "ms": 4.5, "mfc": "none", "mec": colour, "mew": 1.1}
    figure.add_artist(Line2D([left / across], [1 - top / down], **ring))  # type: ignore[arg-type]


def _rgb(picture: Tile | Synthetic) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(picture, Tile):
        return picture.image
    image = picture.image
    scale = 255 if image.dtype == np.uint8 else 1
    return on_white(np.asarray(image, dtype=np.float64) / scale)


def _over(tile: Tile, scale: float, *, signs: str = "+-") -> UInt8[np.ndarray, "h w 3"]:
    if tile.excitation is None or tile.inhibition is None:
        return subdued(tile.image)
    excitation, inhibition = (
        values if sign in signs else np.zeros_like(values)
        for sign, values in (("+", tile.excitation), ("-", tile.inhibition))
    )
    return overlay(tile.image, excitation, inhibition, scale)


def _cell_height(pictures: Sequence[Tile | Synthetic], width: float) -> float:
    """Height of a cell, at most square, that shows the tallest of these as wide as may be."""
    shapes = [picture.image.shape for picture in pictures]
    return max((width * h / max(h, w) for h, w, _ in shapes), default=width)


def _picture(
    figure: Figure, box: _Box, image: UInt8[np.ndarray, "h w 3"], align: float = 0.5
) -> None:
    """The whole image, its shape kept, in a cell: at its left (0), middle or right (1)."""
    h, w = image.shape[:2]
    scale = min(box.width / w, box.height / h)
    left = box.left + align * (box.width - scale * w)
    top = box.top + (box.height - scale * h) / 2
    axes = _axes(figure, _Box(left, top, scale * w, scale * h))
    # A small crop drawn as blocks would show edges that the network never saw.
    axes.imshow(image, aspect="auto", interpolation="hanning")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.3, color=_HAIR)


def _nothing(figure: Figure, box: _Box, text: str) -> None:
    options: dict[str, Any] = {"ha": "center", "va": "center", "color": _FAINT, "size": _SMALL}
    middle = box.left + box.width / 2, box.top + box.height / 2
    _text(figure, *middle, text, width=box.width, **options)


def _caption(figure: Figure, box: _Box, text: str) -> None:
    """A line under the box."""
    middle, top = box.left + box.width / 2, box.top + box.height + 0.02
    _text(figure, middle, top, text, width=box.width, size=_SMALL, ha="center")


def _captioned(figure: Figure, box: _Box, picture: Tile | Synthetic | None) -> None:
    if picture is None:
        _nothing(figure, box, "not made")
    else:
        _picture(figure, box, _rgb(picture))
        _caption(figure, box, picture.caption)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _square(figure: Figure, left: float, top: float, side: float, limit: float | None) -> None:
    """The colour square, with the value at the end of its scale where there is one."""
    axes = _axes(figure, _Box(left, top, side, side))
    # One pixel of the print is the finest that can be seen.
    axes.imshow(colour_square(round(side * _DPI)), extent=(0, 1, 0, 1), interpolation="none")
    # Values beyond the end of the scale are drawn like the end.
    end = "strong" if limit is None else f"≥ {_number(limit)}" if limit else ""
    axes.set(xlabel="excitation φ⁺", ylabel="inhibition φ⁻", xticks=[0, 1], yticks=[0, 1])
    axes.yaxis.labelpad = 4
    axes.set_xticklabels(["0", end])
    axes.set_yticklabels(["0", end], rotation=90, va="center")
    # Inside its own side: in the middle, the end's label would stand out of the panel.
    axes.get_xticklabels()[1].set_horizontalalignment("right")
    axes.get_yticklabels()[1].set_verticalalignment("top")
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.6, color=_INK)


def save(figure: Figure, path: AnyPath | str) -> None:
    """Write a figure whole or not at all; equal figures give equal bytes.

    Args:
        figure: as one of the functions of this module returns it.
        path: ends in .png (300 dpi), .pdf or .svg; missing folders are made.
    Raises:
        ValueError: another ending.
    """
    target = to_path(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        raise ValueError(f"save: '{target}' ends in '{target.suffix}', expected .png, .pdf or .svg")
    with whole(target) as part, style.context(_STYLE), part.open("wb") as file:
        figure.savefig(file, format=kind, dpi=_DPI, metadata=_METADATA[kind])
