"""What results show of themselves in notebooks: tables and pictures in HTML, by inline style.

No colour of a text or background is set, so that light and dark notebooks both stay readable.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup, escape
from PIL import Image, ImageDraw

from opponent.core.colour import activation_colours, on_white, tension_colours
from opponent.core.pictures import Pixels, data_uri

# Rows of a table, or pictures in a line, before the rest is only counted.
ROWS, PICTURES = 10, 8
_SIDE = 180


def section(title: str, *blocks: Markup) -> str:
    """A title with what stands under it."""
    return str(Markup("<div><b>{}</b>{}</div>").format(title, Markup("").join(blocks)))


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Names and their values, one a line."""
    row = Markup(
        '<tr><td style="text-align:left;opacity:.7">{}</td><td style="text-align:left">{}</td></tr>'
    )
    return Markup('<table style="margin:.4em 0">{}</table>').format(
        Markup("").join(row.format(name, value) for name, value in pairs)
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> Markup:
    """A table: the first column is of names, the others of numbers.

    Args:
        headings: of the columns.
        rows: of texts.
        total: how many rows there are, of which these are the first.
    """
    lines = [_row("th", headings), *(_row("td", row) for row in rows)]
    left = total - len(rows)
    more = Markup("<div>… and {:,} more</div>").format(left) if left else Markup("")
    return Markup('<table style="margin:.4em 0">{}</table>{}').format(Markup("").join(lines), more)


def beside(*blocks: Markup) -> Markup:
    """Several blocks side by side."""
    cell = Markup('<div style="display:inline-block;vertical-align:top;margin-right:2em">{}</div>')
    return Markup("<div>{}</div>").format(Markup("").join(cell.format(x) for x in blocks))


def _row(tag: str, cells: Sequence[str]) -> Markup:
    texts = Markup("").join(
        Markup(f'<{tag} style="text-align:{"right" if i else "left"}">{{}}</{tag}>').format(cell)
        for i, cell in enumerate(cells)
    )
    return Markup("<tr>{}</tr>").format(texts)


def pictures(shown: Sequence[tuple[Pixels, str]], *, side: int = _SIDE, total: int = 0) -> Markup:
    """Pictures in a line, each over its caption.

    Args:
        shown: pixels and captions.
        side: a picture's longer side in the notebook.
        total: how many there are, of which these are the first.
    """
    figure = Markup(
        '<figure style="display:inline-block;margin:.3em;vertical-align:top;width:{}px">'
        '<img src="{}" alt="{}" style="width:100%;image-rendering:auto">'
        '<figcaption style="font-size:85%;overflow-wrap:anywhere">{}</figcaption></figure>'
    )
    cells = [
        # Twice as fine as shown, for displays with small pixels.
        figure.format(
            round(side * min(1, pixels.shape[1] / pixels.shape[0])),
            data_uri(pixels, side=2 * side),
            caption,
            caption,
        )
        for pixels, caption in shown
    ]
    left = total - len(shown)
    more = Markup("<div>… and {:,} more</div>").format(left) if left > 0 else Markup("")
    return Markup("<div>{}</div>{}").format(Markup("").join(cells), more)


def sides_map(
    excitation: Float[np.ndarray, "h w"],
    inhibition: Float[np.ndarray, "h w"],
    scale: float,
    side: int = 2 * _SIDE,
) -> UInt8[np.ndarray, "y x 4"]:
    """An excitation and an inhibition map in the colours of the square, on white.

    Args:
        excitation: phi+.
        inhibition: phi-, same unit.
        scale: the value drawn at full strength.
        side: the longer side of the picture in pixels; positions are squares in it.
    """
    pixels = on_white(tension_colours(excitation / (scale or 1), inhibition / (scale or 1)))
    times = max(1, side // max(pixels.shape[:2]))
    enlarged = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return _lossless(np.pad(enlarged, ((1, 1), (1, 1), (0, 0)), constant_values=200))


def scatter(
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " n"],
    activation: Float[np.ndarray, " n"],
    side: int = 2 * _SIDE,
) -> UInt8[np.ndarray, "y x 4"]:
    """Figure 4a in small: excitation to the right, inhibition upward, coloured by activation.

    Args:
        excitation: E+ of each image.
        inhibition: E- of each image, same unit.
        activation: f, same unit; its colours end at 4 standard deviations.
        side: of the picture in pixels.
    Source: paper, figure 4a.
    """
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, side - 1, side - 1), outline=(200, 200, 200))
    draw.line((0, side - 1, side - 1, 0), fill=(200, 200, 200))
    end = 1.04 * float(max(excitation.max(), inhibition.max())) or 1.0
    limit = 4 * float(activation.std())
    colours = np.rint(activation_colours(activation.astype(np.float64), limit) * 255).astype(int)
    radius = float(np.clip(100 / np.sqrt(len(excitation)), 2, 6))
    places = zip(excitation / end * side, side - inhibition / end * side, strict=True)
    for (x, y), colour in zip(places, colours[:, :3].tolist(), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour))
    return _lossless(np.asarray(image))


def _lossless(pixels: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "y x 4"]:
    """The same with an opacity: such pictures become PNG, whose edges stay sharp."""
    return np.dstack([pixels, np.full_like(pixels[..., :1], 255)])


def text(words: str) -> Markup:
    """A line of text."""
    return Markup("<div>{}</div>").format(escape(words))
