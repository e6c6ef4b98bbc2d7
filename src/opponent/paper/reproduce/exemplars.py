"""Figure 2: maximally exciting and inhibiting images."""

from opponent.core.text import file_name
from opponent.directions import Directions, load_or_find_directions
from opponent.explain.crops import run_tiles
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.reproduce.entries import Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.plots import ExemplarRow, exemplars_figure, save
from opponent.selection import exciting, inhibiting


def exemplar_entries(reproduction: Reproduction) -> list[Entry]:
    """Two units and a direction of an early, a middle and a late layer."""
    pairs = dict.fromkeys(reproduction.pair_at(depth) for depth in (0.0, 0.5, 1.0))
    rows = [row for pair in pairs for row in _rows(reproduction, pair)]
    path = reproduction.folder / "figure2.png"
    save(exemplars_figure(rows), path)
    return [
        Entry(
            figure="2",
            title="Maximally exciting and inhibiting images",
            caption="Two random units and a k-means direction in an early, a middle and a "
            "late layer, with the images that excite (MEIs) and inhibit (MIIs) them most. "
            "Whether the two relate is for people to judge.",
            pictures=(path,),
        )
    ]


def _rows(reproduction: Reproduction, pair: LayerPair) -> list[ExemplarRow]:
    features = reproduction.random_units(pair.target, 2)
    directions = _directions(reproduction, pair.target)
    features.append(directions.feature(directions.labels[0], power=2))
    run = reproduction.scan(f"scan-{file_name(pair.target)}", features, pair.through)
    rows = []
    for feature in run.features:
        columns = run.columns(feature)
        high, low = (
            run_tiles(run, feature, columns, choose(columns, 4).tolist())
            for choose in (exciting, inhibiting)
        )
        rows.append(
            ExemplarRow(label=feature.label, exciting=high, inhibiting=low, group=feature.layer)
        )
    return rows


def _directions(reproduction: Reproduction, layer: str) -> Directions:
    """A layer's k-means directions."""
    return load_or_find_directions(
        reproduction.network,
        reproduction.images,
        layer,
        reproduction.folder / f"{file_name(layer)}-directions.safetensors",
        count=min(reproduction.scale.centroids, len(reproduction.images) // 4),
        seed=reproduction.seed,
        progress=reproduction.progress,
    )
