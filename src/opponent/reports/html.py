"""What every page shares: templates that escape, and pictures inside the file."""

import io
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

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


def drawing(figure: Figure) -> Markup:
    """A figure as SVG inside the page."""
    buffer = io.StringIO()
    # Elements are named by their content, not at random: the same page twice has the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "opponent"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
