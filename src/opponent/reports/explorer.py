"""The explorer: energies, map and atlas of a feature as linked views of one page."""

import base64
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from bokeh.embed import components
from bokeh.models import ColumnDataSource, CustomJS, FixedTicker, Range1d
from bokeh.models.annotations import Slope
from bokeh.plotting import figure
from bokeh.resources import Resources
from jaxtyping import Float, Int, UInt8
from markupsafe import Markup
from PIL import Image

from opponent.atlas.atlas import Atlas, atlases
from opponent.core.colour import (
    activation_colours,
    category_colours,
    colour_square,
    hex_colours,
    on_white,
    tension_colours,
)
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.pictures import data_uri
from opponent.core.progress import Progress, displayed, silent
from opponent.explain.crops import Tile, map_scale, run_tiles
from opponent.reports.html import render
from opponent.reports.mosaic import mosaic_cells
from opponent.reports.plot import scatter_plot
from opponent.selection import select
from opponent.storage.columns import Columns, Indices
from opponent.storage.files import AnyPath, atomic_write, local, to_path, write_text
from opponent.storage.run import Run

# Images in the page: those on the map, and others up to this number.
POINTS = 20_000
# Thumbnails stand in sheets; one is a square crop and the same under its maps.
THUMB, ACROSS, DOWN = 64, 12, 24
# Sheets of more bytes than this lie in a folder beside the page.
INLINE = 24 * 1024**2
_CHUNK = ACROSS * DOWN
_GREY = "#808085"  # readable on white and on black
_MARK = "#e8a317"  # as the page frames what has the focus
# Images of a group that the page can mark by name.
_MARKED = 50


@dataclass(frozen=True, kw_only=True)
class _Points:
    """The images in the page: rows of the columns, places on the map or NaN, their cells."""

    rows: Indices
    places: Float[np.ndarray, "n 2"]
    cells: Int[np.ndarray, " n"]  # index among the atlas' cells, -1 for none


@displayed
def write_explorer(
    run: Run,
    out: str | AnyPath | None = None,
    *,
    feature: Feature | str | None = None,
    atlas: Atlas | None = None,
    progress: Progress | None = None,
) -> AnyPath:
    """Write the page in which a person walks around in a feature's atlas.

    Args:
        run: a finished run.
        out: the HTML file; default: explorer.html in the run folder. Thumbnails lie in it, or in a
            folder beside it where they are many.
        feature: one of the run's features; default: the only one that has an atlas.
        atlas: which of its atlases; default: the feature's newest.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The file's path.
    Raises:
        RunError: there is no atlas of the feature, or an icon of it is missing.
        ValueError: the run does not hold that feature, or no name where several have atlases.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figure 6; the page is ours.
    """
    if atlas is None:
        finished = atlases(run, feature)
        if not finished:
            what = "any feature" if feature is None else run.feature(feature).label
            raise RunError(f"{run.folder} has no atlas of {what}: `opponent atlas` makes one")
        labels = sorted({each.feature.label for each in finished})
        if len(labels) > 1:
            raise ValueError(
                f"{run.folder} has atlases of {', '.join(labels)}; name one of these features "
                "(--feature LABEL; in Python `feature=`)"
            )
        atlas = finished[0]
    path = to_path(out) if out is not None else run.folder / "explorer.html"
    columns = run.columns(atlas.feature)
    points = _choose(run, atlas, columns)
    sheets = _sheets(run, atlas, columns, points, progress or silent)
    colourings = _colourings(columns, points, run)
    scripts, plots = _plots(
        columns, points, colourings["activation"]["colours"], atlas.settings.grid
    )
    data = {
        "images": [columns.images[row] for row in points.rows],
        "cells": points.cells.tolist(),
        "numbers": {
            name: [float(f"{x:.5g}") for x in getattr(columns, name)[points.rows]]
            for name in ("activation", "excitation", "inhibition", "l2")
        },
        "deviation": float(columns.activation.std()),  # 0 where no image has a unit to be in
        "classes": _classes(columns, points) or None,
        "colourings": colourings,
        "groups": _groups(columns, points),
        "thumb": THUMB,
        "across": ACROSS,
        "down": DOWN,
        "sheets": _addresses(sheets, path),
    }
    page = render(
        "explore.html.j2",
        title=f"{atlas.feature.label}: what drives it",
        resources=Markup(Resources(mode="inline", components=["bokeh", "bokeh-gl"]).render()),
        label=atlas.feature.label,
        network=run.manifest.network.name,
        through=run.manifest.explained_by,
        count=f"{len(points.rows):,}",
        total=f"{len(columns.images):,}",
        on_map=f"{len(atlas.map):,}",
        grid=atlas.settings.grid,
        cells=mosaic_cells(atlas),
        colourings=list(colourings),
        groups=list(data["groups"]),
        plots=plots,
        script=scripts,
        data=_json(data),
    )
    write_text(path, page)
    return path


def _choose(run: Run, atlas: Atlas, columns: Columns) -> _Points:
    """The images on the map, and a seeded sample of the others."""
    places = {image: row for row, image in enumerate(columns.images)}
    names = atlas.map["image"].to_pylist()
    if strange := [name for name in names if name not in places]:
        raise RunError(
            f"{atlas.folder} is damaged (its map has {strange[0]!r}, which the scan has not); "
            "delete it and give the same `opponent atlas` again"
        )
    on_map = np.array([places[name] for name in names])
    off_map = np.setdiff1d(np.arange(len(columns.images)), on_map)
    room = max(0, POINTS - len(on_map))
    generator = np.random.default_rng(run.manifest.seed)
    others = np.sort(generator.permutation(off_map)[:room])
    at = np.stack([atlas.map["x"].to_numpy(), atlas.map["y"].to_numpy()], 1)
    numbers = {(cell.row, cell.column): number for number, cell in enumerate(atlas.cells)}
    rows, grid_columns = (atlas.map[name].to_pylist() for name in ("row", "column"))
    cells = [numbers.get(cell, -1) for cell in zip(rows, grid_columns, strict=True)]
    return _Points(
        rows=np.concatenate([on_map, others]),
        places=np.concatenate([at, np.full((len(others), 2), np.nan)]),
        cells=np.array([*cells, *[-1] * len(others)]),
    )


# Thumbnails


def _sheets(
    run: Run, atlas: Atlas, columns: Columns, points: _Points, progress: Progress
) -> list[AnyPath]:
    """Sheets of thumbnails in the run folder, made where they are missing."""
    ids = [columns.images[row] for row in points.rows]
    scale = map_scale(columns.excitation_map[points.rows], columns.inhibition_map[points.rows])
    key = json.dumps([atlas.feature.describe(), ids, scale, THUMB, ACROSS, DOWN])
    folder = run.folder / "explorer" / hashlib.sha256(key.encode()).hexdigest()[:12]
    paths = []
    for number, first in enumerate(range(0, len(ids), _CHUNK)):
        path = folder / f"{number:03d}.jpg"
        if not path.is_file():
            rows = points.rows[first : first + _CHUNK].tolist()
            tiles = run_tiles(run, atlas.feature, columns, rows, shown=THUMB)
            with atomic_write(path) as temporary:
                _sheet(tiles, scale).save(temporary, "jpeg", quality=78)
        paths.append(path)
        progress("thumbnails", min(first + _CHUNK, len(ids)), len(ids))
    return paths


def _sheet(tiles: Sequence[Tile], scale: float) -> Image.Image:
    sheet = Image.new("RGB", (2 * THUMB * ACROSS, THUMB * DOWN), "white")
    for place, tile in enumerate(tiles):
        left, top = place % ACROSS * 2 * THUMB, place // ACROSS * THUMB
        shown = [tile.image]
        if tile.excitation is not None:
            shown.append(tile.overlaid(scale))
        for k, pixels in enumerate(shown):
            image = Image.fromarray(pixels)
            image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
            inset = (THUMB - image.width) // 2, (THUMB - image.height) // 2
            sheet.paste(image, (left + k * THUMB + inset[0], top + inset[1]))
    return sheet


def _addresses(sheets: Sequence[AnyPath], page: AnyPath) -> list[str]:
    """What the page calls each sheet: its content, or a file in a folder beside the page."""
    if sum(path.stat().st_size for path in sheets) <= INLINE:
        contents = (base64.b64encode(path.read_bytes()).decode() for path in sheets)
        return [f"data:image/jpeg;base64,{content}" for content in contents]
    folder = page.with_name(f"{page.stem}_files")
    for path in sheets:
        with local(path) as sheet, atomic_write(folder / path.name) as temporary:
            shutil.copyfile(sheet, temporary)
    return [f"{quote(folder.name)}/{path.name}" for path in sheets]


# Colours and groups


def _colourings(columns: Columns, points: _Points, run: Run) -> dict[str, dict[str, Any]]:
    """For each thing to colour by: a colour for each image, and what its scale shows."""
    limit = 4 * float(columns.activation.std())
    plus, minus = columns.excitation[points.rows], columns.inhibition[points.rows]
    end = float(np.quantile(np.concatenate([plus, minus]), 0.98)) or 1.0
    ends, steps, nothing = np.linspace(-1, 1, 9), np.linspace(0.08, 1, 9), np.zeros(9)

    def both(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> list[str]:
        return _hex(on_white(tension_colours(a / end, b / end)))

    def scale(colours: list[str], low: str, high: str) -> dict[str, Any]:
        return {"stops": colours, "low": low, "high": high}

    norm, tension = columns.l2[points.rows], np.minimum(plus, minus)
    top = float(np.quantile(norm, 0.98)) or 1.0
    zero = np.zeros_like(plus)
    colourings = {
        "activation": {
            "colours": hex_colours(
                activation_colours(columns.activation[points.rows].astype(np.float64), limit)
            ),
            **scale(hex_colours(activation_colours(ends, 1.0)), "−4 sd", "+4 sd"),
        },
        "excitation and inhibition": {
            "colours": both(plus, minus),
            "square": data_uri(np.asarray(Image.fromarray(colour_square(96)))),
            "high": f"{end:.3g}",
        },
        "excitation": {
            "colours": both(plus, zero),
            **scale(both(steps * end, nothing), "0", f"{end:.3g}"),
        },
        "inhibition": {
            "colours": both(zero, minus),
            **scale(both(nothing, steps * end), "0", f"{end:.3g}"),
        },
        "tension": {
            "colours": both(tension, tension),
            **scale(both(steps * end, steps * end), "0", f"{end:.3g}"),
        },
        "norm": {
            "colours": _grey(norm / top),
            **scale(_grey(np.linspace(0, 1, 9)), "0", f"{top:.3g}"),
        },
    }
    classes = _classes(columns, points)
    if classes:
        names = sorted(set(classes))
        places = {name: i for i, name in enumerate(names)}
        palette = hex_colours(category_colours(len(names)))
        colourings["class"] = {"colours": [palette[places[name]] for name in classes]}
    return colourings


def _hex(colours: UInt8[np.ndarray, "n 3"]) -> list[str]:
    return hex_colours(np.c_[colours / 255, np.ones(len(colours))])


def _grey(share: Float[np.ndarray, " n"]) -> list[str]:
    """From light to dark grey, with a shimmer of violet lest it seem to be missing."""
    light = 0.88 - 0.68 * np.clip(share, 0, 1)
    return hex_colours(np.stack([light, light * 0.94, light, np.ones_like(light)], 1))


def _classes(columns: Columns, points: _Points) -> list[str]:
    """Each image's class, its folder; nothing where all lie in one."""
    names = [columns.images[row].rpartition("/")[0] for row in points.rows]
    return names if len(set(names)) > 1 else []


def _groups(columns: Columns, points: _Points) -> dict[str, list[int]]:
    places = {row: place for place, row in enumerate(points.rows.tolist())}
    groups = {
        name.replace("_", " "): [places[row] for row in group.rows.tolist() if row in places]
        for name, group in select(columns, _MARKED).items()
    }
    return {name: rows for name, rows in groups.items() if rows}


# Plots


def _plots(
    columns: Columns, points: _Points, colours: list[str], cells: int
) -> tuple[Markup, dict[str, Markup]]:
    """The two scatter plots, which share one source and so their selection."""
    source = ColumnDataSource(
        {
            "excitation": columns.excitation[points.rows],
            "inhibition": columns.inhibition[points.rows],
            "x": points.places[:, 0],
            "y": points.places[:, 1],
            "colour": colours,
        },
        name="images",
    )
    # In the page's own script; what is typed or named never becomes code.
    source.selected.js_on_change("indices", CustomJS(code="window.explorer?.marked()"))
    end = 1.05 * float(max(columns.excitation.max(), columns.inhibition.max())) or 1.0
    energies = _plot(source, "excitation", "inhibition", end, "excitation", "inhibition")
    energies.add_layout(Slope(gradient=1, y_intercept=0, line_color=_GREY, line_alpha=0.6))
    on_map = _plot(source, "x", "y", 1.0, None, None)
    on_map.axis.visible = False
    on_map.grid.ticker = FixedTicker(ticks=[k / cells for k in range(cells + 1)])
    script, elements = components({"energies": energies, "map": on_map})
    return Markup(script), {name: Markup(element) for name, element in elements.items()}


def _plot(
    source: ColumnDataSource, x: str, y: str, end: float, across: str | None, up: str | None
) -> figure:
    plot = scatter_plot(
        source,
        x,
        y,
        axes={
            "x_range": Range1d(start=-0.02 * end, end=end),
            "y_range": Range1d(start=-0.02 * end, end=end),
            "x_axis_label": across,
            "y_axis_label": up,
            "active_drag": "lasso_select",
            "output_backend": "webgl",
            "sizing_mode": "scale_width",
            "width": 520,
            "height": 520,
            "background_fill_color": None,
            "border_fill_color": None,
            "outline_line_color": _GREY,
            "outline_line_alpha": 0.4,
        },
        dots={
            "size": float(np.clip(300 / np.sqrt(len(source.data["x"])), 3, 7)),
            "line_color": None,
            "fill_alpha": 0.9,
            # A ring, since a dot near zero is as pale as those that are not marked.
            "selection_line_color": _MARK,
            "nonselection_line_color": None,
        },
        hover={"tooltips": None, "callback": CustomJS(code="window.explorer?.pointed(cb_data)")},
    )
    for axis in plot.axis:
        axis.axis_label_text_color = axis.major_label_text_color = _GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _GREY
        axis.axis_label_text_font_style = "normal"
    plot.grid.grid_line_color = _GREY
    plot.grid.grid_line_alpha = 0.15
    return plot


def _json(data: Any) -> Markup:
    """JSON for a script element: no name in it can end the element."""
    return Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
