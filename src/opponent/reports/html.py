"""What every page shares: templates that escape, and pictures inside the file."""

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

_TEMPLATES = Environment(
    loader=PackageLoader("opponent.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A template with its values; whatever is not Markup is escaped."""
    return _TEMPLATES.get_template(template).render(**values)


def picture(
    pixels: UInt8[np.ndarray, "h w c"], *, side: int | None = None, quality: int = 88
) -> str:
    """A picture as a data URI: JPEG, or PNG where it has an opacity.

    Args:
        pixels: RGB or RGBA.
        side: the longer side's largest length in the page, in pixels.
        quality: of the JPEG.
    """
    image = Image.fromarray(pixels)
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if pixels.shape[2] == 4 else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(figure: Figure) -> Markup:
    """A figure as SVG inside the page."""
    buffer = io.StringIO()
    # Elements are named by their content, not at random: the same page twice has the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "opponent"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
