"""What every figure shares: sizes, areas in inches, text that fits, pictures in cells, saving.

Places are inches from the upper left corner, so that a panel comes out as large as it is meant to
be in one or two columns of a journal. matplotlib's global settings are left alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from opponent.explain.crops import Synthetic, Tile, opaque
from opponent.storage.files import AnyPath, atomic_write, to_path

COLUMN, PAGE = 3.4, 7.0  # inches: one and two columns of most journals
DPI = 300  # what journals ask of photographs
MARGIN = 0.08
LINE = 0.15  # inches that a line of text takes
SMALL, PLAIN, TITLE, LETTER = 7.0, 7.5, 8.0, 9.0  # points
INK, FAINT, HAIR = "#262626", "#757575", "#c8c8c8"
_STYLE: Any = [
    "default",
    {
        # It comes with matplotlib: the same glyphs, and so the same bytes, on every machine.
        "font.family": ["DejaVu Sans"],
        "font.size": PLAIN,
        **dict.fromkeys(
            ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK
        ),
        "axes.labelsize": PLAIN,
        "axes.labelpad": 2,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "pdf.fonttype": 42,  # journals refuse Type 3 fonts
        "svg.hashsalt": "opponent",  # its ids are random otherwise
    },
]
# Decorates each function that draws: its figure has this style, whatever the user's own is.
styled = style.context(_STYLE)
# Dates and versions would make equal figures differ in their bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
SUFFIXES = tuple(_METADATA)


class Area(NamedTuple):
    """A rectangle of a figure, in inches.

    Args:
        left: from the left edge of the figure.
        top: down from its upper edge.
        width: of the rectangle.
        height: of the rectangle.
    """

    left: float
    top: float
    width: float
    height: float


def add_axes(figure: Figure, area: Area) -> Axes:
    """Axes that fill an area."""
    across, down = figure.get_size_inches()
    bottom = 1 - (area.top + area.height) / down
    return figure.add_axes((area.left / across, bottom, area.width / across, area.height / down))


# Text


def format_number(value: float) -> str:
    """Three digits of a number, with a real minus sign."""
    return f"{value:.3g}".replace("-", "−")


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in inches.

    Args:
        text: the line.
        size: in points.
        weight: 'normal' or 'bold'.
    Returns:
        Inches.
    """
    font = FontProperties(family=["DejaVu Sans"], size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def fit_text(text: str, width: float, size: float, weight: str) -> str:
    """The text on one line, its middle left out where it would be too wide.

    The middle, since the name of a layer or a file says most at its ends.

    Args:
        text: the text.
        width: inches that there are.
        size: in points.
        weight: 'normal' or 'bold'.
    Returns:
        The line.
    """
    line = full = " ".join(text.split())
    for kept in range(len(full) - 1, 0, -1):
        if text_width(line, size, weight) <= width:
            break
        line = full[: (kept + 1) // 2] + "…" + full[len(full) - kept // 2 :]
    return line


def wrap_text(text: str, width: float) -> list[str]:
    """Lines of small print that are no wider, as far as words can be broken apart.

    Args:
        text: the text.
        width: inches that there are.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", SMALL) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def add_text(
    figure: Figure,
    left: float,
    top: float,
    text: str,
    *,
    width: float = PAGE,
    size: float = PLAIN,
    weight: str = "normal",
    **options: Any,
) -> None:
    """A line of text, shortened to fit.

    Args:
        figure: what to draw on.
        left, top: of the text, in inches; `ha` and `va` say of which of its points.
        text: the text.
        width: inches that there are.
        size: in points.
        weight: 'normal' or 'bold'.
        options: further options of matplotlib's text.
    """
    across, down = figure.get_size_inches()
    line = fit_text(text, width, size, weight)
    # A dollar in a file's name is no formula.
    options = {"va": "top", "parse_math": False, **options}
    figure.text(left / across, 1 - top / down, line, size=size, weight=weight, **options)


def add_heading(
    figure: Figure, left: float, top: float, width: float, text: str, colour: str
) -> None:
    """A centred heading over a line as wide as what it heads.

    Args:
        figure: what to draw on.
        left: of the line, in inches.
        top: of the text, in inches.
        width: of the line, in inches.
        text: the heading.
        colour: of text and line.
    """
    middle = left + width / 2
    add_text(figure, middle, top, text, width=width, ha="center", color=colour, weight="bold")
    across, down = figure.get_size_inches()
    ends, level = [left / across, (left + width) / across], 1 - (top + LINE) / down
    figure.add_artist(Line2D(ends, [level, level], color=colour, lw=0.8))


def add_caption(figure: Figure, area: Area, text: str) -> None:
    """A line of text under an area.

    Args:
        figure: what to draw on.
        area: what the line stands under.
        text: the line, shortened to fit.
    """
    middle, top = area.left + area.width / 2, area.top + area.height + 0.02
    add_text(figure, middle, top, text, width=area.width, size=SMALL, ha="center")


def add_note(figure: Figure, area: Area, text: str) -> None:
    """A faint line in the middle of an area that has no picture: why it has none.

    Args:
        figure: what to draw on.
        area: the area.
        text: the line, shortened to fit.
    """
    options: dict[str, Any] = {"ha": "center", "va": "center", "color": FAINT, "size": SMALL}
    middle = area.left + area.width / 2, area.top + area.height / 2
    add_text(figure, *middle, text, width=area.width, **options)


# Pictures


def cell_height(pictures: Sequence[Tile | Synthetic], width: float) -> float:
    """Height of a cell, at most square, in which all pictures are as large as its width allows."""
    shapes = [picture.image.shape for picture in pictures]
    return max((width * h / max(h, w) for h, w, _ in shapes), default=width)


def add_picture(
    figure: Figure, area: Area, image: UInt8[np.ndarray, "h w 3"], align: float = 0.5
) -> None:
    """An image with its own proportions, as large as its cell allows.

    Args:
        figure: what to draw on.
        area: the cell.
        image: sRGB bytes.
        align: 0 puts it at the cell's left, 0.5 in the middle, 1 at the right.
    """
    h, w = image.shape[:2]
    scale = min(area.width / w, area.height / h)
    left = area.left + align * (area.width - scale * w)
    top = area.top + (area.height - scale * h) / 2
    axes = add_axes(figure, Area(left, top, scale * w, scale * h))
    # A small crop drawn as blocks would show edges that the network never saw.
    axes.imshow(image, aspect="auto", interpolation="hanning")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.3, color=HAIR)


def add_captioned(figure: Figure, area: Area, picture: Tile | Synthetic | None) -> None:
    """A picture with its caption under it.

    Args:
        figure: what to draw on.
        area: the picture's cell.
        picture: the picture; None says that it was not made.
    """
    if picture is None:
        add_note(figure, area, "not made")
    else:
        add_picture(figure, area, opaque(picture))
        add_caption(figure, area, picture.caption)


def add_ring(figure: Figure, left: float, top: float, colour: str) -> None:
    """The ring around a group's dots, as the key to its colour.

    Args:
        figure: what to draw on.
        left: of the ring's centre, in inches.
        top: of the ring's centre, in inches.
        colour: of the ring.
    """
    across, down = figure.get_size_inches()
    ring = {"marker": "o", "ms": 4.5, "mfc": "none", "mec": colour, "mew": 1.1}
    figure.add_artist(Line2D([left / across], [1 - top / down], **ring))  # type: ignore[arg-type]


# Saving


def check_suffix(suffix: str) -> None:
    """Check that figures can be written in a format.

    Args:
        suffix: the format's, such as 'png'.
    Raises:
        ValueError: they cannot.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"figures are {', '.join(SUFFIXES)}, not {suffix!r}")


def save(figure: Figure, path: AnyPath | str) -> None:
    """Write a figure whole or not at all; equal figures give equal bytes.

    Args:
        figure: as one of this room's functions returns it.
        path: ends in .png (300 dpi), .pdf or .svg; missing folders are made.
    Raises:
        ValueError: another ending.
    """
    target = to_path(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind not in SUFFIXES:
        raise ValueError(f"save: '{target}' ends in '{target.suffix}', expected .png, .pdf or .svg")
    with atomic_write(target) as temporary, style.context(_STYLE), temporary.open("wb") as file:
        figure.savefig(file, format=kind, dpi=DPI, metadata=_METADATA[kind])
