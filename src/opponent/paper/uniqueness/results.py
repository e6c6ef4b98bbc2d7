"""The results of `measure_features` and `assess`, as tables and as the paper's figures 8 and 16."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from opponent.core.box import Box, scale_box
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import file_name
from opponent.explain.crops import Tile, photographs, zoom_for
from opponent.geometry.receptive_field import receptive_field
from opponent.models.network import Network
from opponent.paper.uniqueness.assessment import SHARED, Assessment
from opponent.paper.uniqueness.comparisons import Contrasts
from opponent.paper.uniqueness.control_figures import controls_figure, dictionaries_figure, flat
from opponent.paper.uniqueness.measurements import KINDS, SELECTIONS, FeatureMeasurements
from opponent.paper.uniqueness.statistics import ranked
from opponent.plots import (
    SharedRow,
    TenseRow,
    UniquenessLine,
    save,
    shared_figure,
    tense_rows_figure,
    uniqueness_figure,
)
from opponent.selection import exciting, tense, top
from opponent.storage.files import AnyPath, atomic_write, write_text

# Features, and images a side of each, in figure 8b; its layer, mixed4d of the paper's, lies 0.7 of
# the way from the first to the last. Source: paper, figure 8; the number of features is ours.
ROWS, EXAMPLES, DEEP = 6, 3, 0.7
# Layers in figure 16, at most, and images of each: those that most features share. Ours, to fit a
# page; the results hold all.
LAYERS_SHARED, EXAMPLES_SHARED = 6, 6


@displayed
def write_uniqueness(
    network: Network,
    measurements: FeatureMeasurements,
    assessment: Assessment,
    contrasts: Contrasts,
    *,
    show: str | None = None,
    suffix: str = "png",
    progress: Progress | None = None,
) -> list[AnyPath]:
    """Write the results as JSON and as tables, and draw figures 8a, 8b and 16 and the controls.

    Args:
        network: the network.
        measurements: as `measure_features` returns them; their folder takes the files.
        assessment: as `assess` returns it.
        contrasts: as `contrast` returns them.
        show: figure 8b's layer; default: one as deep as the paper's.
        suffix: png, pdf or svg.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The files' paths, in this order.
    Raises:
        ValueError: another suffix, or a layer that was not measured.
        Unreadable: an image cannot be read any more.
    Source: paper, figures 8 and 16.
    """
    report = progress or silent
    layers = list(dict.fromkeys(group.pair.target for group in measurements.groups))
    shown = show or layers[round(DEEP * (len(layers) - 1))]
    if shown not in layers:
        raise ValueError(f"{shown!r} was not measured; there are {', '.join(layers)}")
    m, folder = assessment.table[0].top, measurements.folder
    paths = _write_tables(measurements, assessment, contrasts, m)
    steps: dict[str, Callable[[], Figure]] = {
        f"figure8a-m{m}": lambda: _figure8a(assessment, contrasts, layers),
        f"figure8b-{file_name(shown)}-m{m}": lambda: _figure8b(network, measurements, shown, m),
        f"figure16-m{m}": lambda: _figure16(network, measurements, assessment, layers),
    }
    if contrasts.sharing:
        steps[f"controls-m{m}"] = lambda: controls_figure(contrasts, layers)
        if contrasts.remaining:
            steps[f"dictionaries-m{m}"] = lambda: dictionaries_figure(contrasts, layers)
    for number, (name, draw) in enumerate(steps.items()):
        report("drawing", number, len(steps))
        paths.append(folder / f"{name}.{suffix}")
        save(draw(), paths[-1])
    report("drawing", len(steps), len(steps))
    return paths


def _write_tables(
    measurements: FeatureMeasurements, assessment: Assessment, contrasts: Contrasts, m: int
) -> list[AnyPath]:
    folder = measurements.folder
    about = {
        **measurements.question,
        "top": m,
        "features": [
            {
                "layer": group.pair.target,
                "kind": group.kind,
                "labels": [feature.label for feature in group.features],
            }
            for group in measurements.groups
        ],
        "read": len(measurements.images),
        "unreadable": dict(measurements.unreadable),
    }
    rows = [_finite(asdict(row)) for row in assessment.table]
    values = {**about, "table": rows, "shared": [asdict(image) for image in assessment.shared]}
    values |= {
        name: [flat(row) for row in getattr(contrasts, name)]
        for name in ("sharing", "remaining", "parallel")
    }
    paths = [folder / f"uniqueness-m{m}.json"]
    write_text(paths[0], json.dumps(values, indent=1, allow_nan=False) + "\n")
    tables = {"uniqueness": rows, "controls": values["sharing"], "remaining": values["remaining"]}
    for name, table_rows in tables.items():
        if table_rows:
            table = pa.Table.from_pylist(table_rows)
            table = table.replace_schema_metadata({"opponent": json.dumps(about)})
            paths.append(folder / f"{name}-m{m}.parquet")
            with atomic_write(paths[-1]) as file:
                pq.write_table(table, file)
    return paths


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for NaN, which JSON does not know."""
    return {k: None if isinstance(x, float) and math.isnan(x) else x for k, x in row.items()}


def _figure8a(assessment: Assessment, contrasts: Contrasts, layers: Sequence[str]) -> Figure:
    lines = []
    for kind in KINDS:
        for by in SELECTIONS:
            rows = [x for x in assessment.table if (x.kind, x.by) == (kind, by)]
            columns = {
                name: np.array([getattr(row, name) for row in rows])
                for name in ("value", "low", "high", "chance")
            }
            lines.append(UniquenessLine(kind=kind, by=by, **columns))
    lines += _permuted_lines(contrasts, layers)
    first, counts = assessment.table[0], sorted({row.features for row in assessment.table})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    about = f"n = {n} features, m = {first.top:,} of N = {first.images:,} images"
    return uniqueness_figure(layers, lines, about=about)


def _permuted_lines(contrasts: Contrasts, layers: Sequence[str]) -> list[UniquenessLine]:
    """U of units by the L1 norm of S, if their weights were in another order."""
    wanted = "units", "channels", "l1", "alone", "permuted"
    rows = {
        x.layer: x
        for x in contrasts.sharing
        if (x.kind, x.basis, x.by, x.given, x.control) == wanted
    }
    if not rows:
        return []
    others = [rows[layer].other for layer in layers]
    value, low, high = np.array([(x.value, x.low, x.high) for x in others]).T
    chances = np.array([rows[layer].chance for layer in layers])
    return [
        UniquenessLine(kind="units", by="permuted", value=value, low=low, high=high, chance=chances)
    ]


def _figure8b(network: Network, measurements: FeatureMeasurements, layer: str, m: int) -> Figure:
    """Random units; how many of all have each image among their top m."""
    group = measurements.group(layer, "units")
    kept = np.flatnonzero(np.logical_and.reduce([ranked(group.by(x), m) for x in SELECTIONS]))
    rng = np.random.default_rng(measurements.question["settings"]["seed"])
    chosen = sorted(rng.permutation(kept)[:ROWS].tolist())
    images, rows = len(measurements.images), []
    if not chosen:
        raise ValueError(f"no unit of {layer!r} has {m} top images: show another layer")
    counts = {
        by: np.bincount(
            np.concatenate([top(group.by(by)[:, i], m) for i in kept]), minlength=images
        )
        for by in ("activation", "l1")
    }
    for i in chosen:
        columns, field = measurements.columns(group, i), receptive_field(network, group.features[i])
        sides = []
        for pick, by in ((exciting, "activation"), (tense, "l1")):
            indices = pick(columns, EXAMPLES)
            captions = [f"{counts[by][k]} of {len(kept)}" for k in indices]
            names = [measurements.images[k] for k in indices]
            sides.append(_crops(network, measurements, names, captions, field))
        label = str(group.features[i].unit)
        rows.append(TenseRow(label=label, exciting=sides[0], tense=sides[1]))
    about = (
        f"below an image: how many of {len(kept)} units have it among their top {m}, by activation "
        "(left) or L¹ norm of S (right)"
    )
    label = f"{layer} through {group.pair.through}"
    return tense_rows_figure(rows, label=label, about=about)


def _figure16(
    network: Network,
    measurements: FeatureMeasurements,
    assessment: Assessment,
    layers: Sequence[str],
) -> Figure:
    having = [layer for layer in layers if any(x.layer == layer for x in assessment.shared)]
    places = np.linspace(0, len(having) - 1, min(len(having), LAYERS_SHARED)).round().astype(int)
    panels: dict[str, list[SharedRow]] = {}
    for kind, name in (("units", "units"), ("kmeans", "k-means features")):
        panels[name] = []
        for layer in (having[place] for place in places):
            shared = [x for x in assessment.shared if (x.layer, x.kind) == (layer, kind)]
            examples = shared[:EXAMPLES_SHARED]
            # All that the layer's centre sees, whichever the feature.
            channels = network.layer(layer).shape[0]
            field = receptive_field(network, Feature.direction(layer, [1.0] * channels))
            captions = [f"{x.features} of {x.of}" for x in examples]
            tiles = _crops(network, measurements, [x.image for x in examples], captions, field)
            panels[name].append(SharedRow(layer=layer, count=len(shared), tiles=tiles))
    m, images = assessment.table[0].top, assessment.table[0].images
    about = (
        f"how many images are among the top {m:,} of {images:,}, by L¹ norm of S, for {SHARED:.0%} "
        "of a layer's features; below each: for how many"
    )
    if len(having) > len(places):
        about += f" ({len(places)} of {len(having)} layers)"
    nothing = f"no image is shared by {SHARED:.0%} of the features, in any layer"
    return shared_figure(panels, about=about, nothing=nothing, per_line=EXAMPLES_SHARED)


def _crops(
    network: Network,
    measurements: FeatureMeasurements,
    names: Sequence[str],
    captions: Sequence[str],
    field: Box,
) -> list[Tile]:
    """Photographs cropped to a receptive field."""
    prepared = network.preprocessing
    zoom = zoom_for(prepared, field)
    entries = [measurements.source.find(name) for name in names]
    size = prepared.size[0] * zoom, prepared.size[1] * zoom
    where = scale_box(field, prepared.size, size).slices
    images = photographs(entries, prepared, zoom)
    return [Tile(image=x[where], caption=c) for x, c in zip(images, captions, strict=True)]
