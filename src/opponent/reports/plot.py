"""Scatter plots of pages; figure 4a as a linked plot: one dot an image, the image on hover."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import ColumnDataSource, CrosshairTool, HoverTool, Range1d
from bokeh.models.annotations import Label, Legend, LegendItem, Slope
from bokeh.plotting import figure
from markupsafe import Markup

from opponent.core.colour import activation_colours, hex_colours
from opponent.selection import Selected
from opponent.storage.columns import Columns

_SIDE = 430
_CARD = """
<div class="card">
  <img src="@picture" alt="">
  <b>@image</b>
  <table>
    <tr><td>activation</td><td>@activation{+0.000}</td><td>@sd{+0.0} sd</td></tr>
    <tr><td>excitation</td><td>@excitation{0.000}</td><td></td></tr>
    <tr><td>inhibition</td><td>@inhibition{0.000}</td><td>@group</td></tr>
  </table>
</div>
"""


def scatter_plot(
    source: ColumnDataSource,
    x: str,
    y: str,
    *,
    axes: Mapping[str, Any],
    dots: Mapping[str, Any],
    hover: Mapping[str, Any],
) -> figure:
    """A plot with one dot for each row of a source; what is selected in one shows in all of it.

    Args:
        source: the dots; its column 'colour' fills them.
        x, y: names of its columns.
        axes: further options of Bokeh's `figure`.
        dots: further options of its `scatter`.
        hover: options of its `HoverTool`.
    """
    plot = figure(
        tools="pan,wheel_zoom,box_select,lasso_select,reset", active_scroll="wheel_zoom", **axes
    )
    shown = plot.scatter(
        x, y, source=source, fill_color="colour", nonselection_fill_alpha=0.08, **dots
    )
    plot.add_tools(HoverTool(renderers=[shown], **hover))
    plot.toolbar.logo = None
    return plot


def energy_plot(
    columns: Columns,
    shown: Sequence[int],
    pictures: Sequence[str],
    selected: Mapping[str, Selected],
    label: str,
) -> tuple[Markup, list[Markup]]:
    """Two linked plots: inhibition against excitation, and tension against activation.

    Args:
        columns: the feature's columns.
        shown: rows of the columns that become dots.
        pictures: for each of them a data URI.
        selected: the chosen images by group; they are ringed.
        label: the feature's.
    Returns:
        The page's script and its two elements.
    Source: paper, figure 4a.
    """
    rows = np.asarray(shown, dtype=int)
    deviation = columns.deviation
    limit = 4 * deviation
    member = {
        row: name for name, group in reversed(list(selected.items())) for row in group.rows.tolist()
    }
    source = ColumnDataSource(
        {
            "image": [columns.images[i] for i in rows],
            "picture": list(pictures),
            "excitation": columns.excitation[rows],
            "inhibition": columns.inhibition[rows],
            "activation": columns.activation[rows],
            "tension": columns.tension[rows],
            "sd": columns.activation[rows] / deviation,
            "colour": hex_colours(activation_colours(columns.activation[rows], limit)),
            "group": [member.get(i, "").replace("_", " ") for i in rows],
        }
    )
    left = _plot(source, "excitation", "inhibition")
    right = _plot(source, "activation", "tension")
    end = 1.05 * float(max(columns.excitation[rows].max(), columns.inhibition[rows].max())) or 1.0
    left.x_range = Range1d(start=0, end=end)
    left.y_range = Range1d(start=0, end=end)
    for step in (-4, -2, 0, 2, 4):
        _contour(left, step, deviation, end)
    places = {row: place for place, row in enumerate(rows.tolist())}
    key = []
    for name, group in selected.items():
        within = [places[i] for i in group.rows.tolist() if i in places]
        ring = ColumnDataSource({k: np.asarray(v)[within] for k, v in source.data.items()})
        for axes, across, up in (
            (left, "excitation", "inhibition"),
            (right, "activation", "tension"),
        ):
            rings = axes.scatter(
                across,
                up,
                source=ring,
                size=12,
                fill_color=None,
                line_color=group.selection.colour,
                line_width=2.2,
            )
            if axes is left:
                key.append(LegendItem(label=name.replace("_", " "), renderers=[rings]))  # type: ignore[list-item]
    # Below, so that it hides no dot.
    left.add_layout(Legend(items=key, ncols=3, click_policy="hide"), "below")
    left.legend.label_text_font_size = "12px"
    left.legend.border_line_alpha = 0
    script, elements = components((left, right))
    return Markup(script), [Markup(element) for element in elements]


def _plot(source: ColumnDataSource, x: str, y: str) -> figure:
    plot = scatter_plot(
        source,
        x,
        y,
        axes={
            "width": _SIDE,
            "height": _SIDE,
            "sizing_mode": "scale_width",
            "toolbar_location": "above",
            "x_axis_label": x,
            "y_axis_label": y,
            "output_backend": "canvas",
        },
        dots={
            "size": 6,
            "line_color": "#444444",
            "line_width": 0.3,
            "nonselection_line_alpha": 0.08,
        },
        hover={"tooltips": _CARD},
    )
    plot.add_tools(CrosshairTool(line_alpha=0.2))
    plot.grid.grid_line_alpha = 0.3
    return plot


def _contour(axes: figure, step: int, deviation: float, end: float) -> None:
    """The line of one excitation - inhibition, labelled where it leaves the plot."""
    total = step * deviation
    [colour] = hex_colours(activation_colours(np.array([total]), 4 * deviation))
    dashes = "solid" if step else [4, 3]
    axes.add_layout(
        Slope(gradient=1, y_intercept=-total, line_color=colour, line_width=1.5, line_dash=dashes)
    )
    if abs(total) < end:
        axes.add_layout(
            Label(
                x=end + min(total, 0),
                y=end - max(total, 0),
                x_offset=-4 if step >= 0 else 0,
                y_offset=-14,
                text=f"{step:+d} sd".replace("-", "−") if step else "0",
                text_align="right" if step >= 0 else "center",
                text_font_size="11px",
                text_color="#55555a",
            )
        )
