"""Uniqueness beside its controls, and what dictionaries leave, as tables and figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

from opponent.paper.uniqueness.comparisons import Contrast, Contrasts, Estimate, Parallel, Remaining
from opponent.paper.uniqueness.contrasts import GIVEN, GRADIENTS, NORMS
from opponent.plots.by_layer import LayerLine, LayerPanel, by_layer_figure
from opponent.plots.layout import FAINT, INK

_L = {"l1": "L¹", "l2": "L²"}
_TITLES = {
    "alone": "{} of S",
    "over h": "{0} of S over {0} of h",
    "matched": "{} of S, matched by h",
}
_KINDS = {"units": "units", "kmeans": "k-means"}
_LEARNT, _CONTROLS = "#0b6b34", {"permuted": "#b7791f", "random": "#5b3fa0"}
# Colours of bases: that of channels, then of dictionaries in order.
_BASES = (INK, "#0b6b34", "#0f8b8d", "#b7791f", "#b03a2e", "#5b3fa0", "#7a4b2a")
Row = TypeVar("Row", Contrast, Parallel, Remaining)


def flat(row: Contrast | Parallel | Remaining) -> dict[str, Any]:
    """A row of results for a table: an estimate becomes three columns; None for no number.

    Args:
        row: one of `Contrast`, `Remaining` or `Parallel`.
    """
    values: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Estimate):
            values[field.name] = value.value
            values[f"{field.name}_low"], values[f"{field.name}_high"] = value.low, value.high
        else:
            values[field.name] = value
    return {
        k: None if isinstance(x, float) and not math.isfinite(x) else x for k, x in values.items()
    }


def controls_figure(contrasts: Contrasts, layers: Sequence[str]) -> Figure:
    """U by the norm of S beside the controls, in channels: alone, over the norm of h, and matched.

    Args:
        contrasts: as `contrast` gives them.
        layers: names, in order.
    """
    rows = []
    for kind, name in _KINDS.items():
        for by in NORMS:
            panels = []
            for given in GIVEN:
                of_panel = [
                    x
                    for x in contrasts.sharing
                    if (x.kind, x.by, x.given, x.basis) == (kind, by, given, "channels")
                ]
                panels.append(
                    LayerPanel(
                        title=f"{name}: {_TITLES[given].format(_L[by])}",
                        ylabel="uniqueness U",
                        lines=_control_lines(of_panel, layers),
                        bounds=(0.0, 1.02),
                    )
                )
            rows.append(panels)
    rows.append([*_parallel_panels(contrasts.parallel, layers), _r_panel(contrasts, layers)])
    first = contrasts.sharing[0]
    about = (
        f"U of the top m = {first.top:,} of N = {first.images:,} images, of features and of "
        "controls: the same h, and each feature's gradient with the channels in another "
        "order, or random directions of its length. Matched: as many images of each part of them "
        "by the norm of h. Last row: mean squared cosine of two features' S in one image, and "
        "correlation of the norm of S with that of h. Bars: 95 % intervals over features, images "
        "and draws."
    )
    return by_layer_figure(layers, rows, about=about)


def _parallel_panels(rows: Sequence[Parallel], layers: Sequence[str]) -> list[LayerPanel]:
    """How far the S of two features are parallel, of either kind."""
    panels = []
    for kind, name in _KINDS.items():
        lines = [
            _line(
                gradient if gradient in _CONTROLS else "features",
                _CONTROLS.get(gradient, _LEARNT),
                "dashed" if gradient in _CONTROLS else "solid",
                [x for x in rows if (x.kind, x.gradient) == (kind, gradient)],
                layers,
                lambda x: x.squared_cosine,
            )
            for gradient in GRADIENTS
        ]
        panels.append(_panel(f"{name}: S parallel to S", "squared cosine", lines))
    return panels


def _r_panel(contrasts: Contrasts, layers: Sequence[str]) -> LayerPanel:
    """The correlation of the norm of S with that of h."""
    lines = []
    for kind, name in _KINDS.items():
        for by, colour in zip(NORMS, (INK, FAINT), strict=True):
            found = {
                x.layer: x.hidden_r
                for x in contrasts.sharing
                if (x.kind, x.by, x.basis) == (kind, by, "channels")
            }
            value = np.array([found.get(layer, math.nan) for layer in layers])
            dashes = "solid" if kind == "units" else "dotted"
            label = f"r, {_L[by]}, {name}"
            lines.append(LayerLine(name=label, colour=colour, dashes=dashes, value=value))
    return _panel("r of norms of S and h", "r", lines, (-0.3, 1.02))


def _control_lines(rows: Sequence[Contrast], layers: Sequence[str]) -> list[LayerLine]:
    permuted = [x for x in rows if x.control == "permuted"]
    lines = [_line("features", _LEARNT, "solid", permuted, layers, lambda x: x.learnt)]
    for control, colour in _CONTROLS.items():
        of_control = [x for x in rows if x.control == control]
        lines.append(_line(control, colour, "dashed", of_control, layers, lambda x: x.other))
    chance = {x.layer: x.chance for x in permuted}
    values = np.array([chance.get(layer, math.nan) for layer in layers])
    return [*lines, LayerLine(name="chance", colour=FAINT, dashes="dotted", value=values)]


def dictionaries_figure(contrasts: Contrasts, layers: Sequence[str]) -> Figure:
    """U in channels and in dictionaries, how far it lies below the control's, and what remains.

    Args:
        contrasts: as `contrast` gives them.
        layers: names, in order.
    """
    found = dict.fromkeys(x.basis for x in contrasts.sharing)
    bases = ["channels", *sorted(found.keys() - {"channels"}, key=str.lower)]
    rows = []
    for by in NORMS:
        sharing = [
            x for x in contrasts.sharing if (x.kind, x.by, x.control) == ("units", by, "permuted")
        ]
        alone, matched = ([x for x in sharing if x.given == y] for y in ("alone", "matched"))
        rows.append(
            [
                _panel(
                    f"U by {_L[by]} of S",
                    "uniqueness U",
                    _based(alone, bases, layers, "learnt"),
                    (0.0, 1.02),
                ),
                _panel(
                    f"permuted − features, {_L[by]}",
                    "difference of U",
                    _based(alone, bases, layers, "more"),
                    None,
                    0.0,
                ),
                _panel(
                    "the same, matched by h",
                    "difference of U",
                    _based(matched, bases, layers, "more"),
                    None,
                    0.0,
                ),
            ]
        )
    rows.append(_remaining_panels(contrasts.remaining, bases, layers))
    first = contrasts.sharing[0]
    about = (
        f"units, top m = {first.top:,} of N = {first.images:,} images. Above 0, features share "
        "more images than permuted weights would. Last row: what remains of norm and tension in "
        "a dictionary; solid: features, dashed: permuted weights. "
        "Bars: 95 % intervals over features, images and draws."
    )
    return by_layer_figure(layers, rows, about=about)


def _panel(
    title: str,
    ylabel: str,
    lines: Sequence[LayerLine],
    bounds: tuple[float, float] | None = None,
    level: float | None = None,
) -> LayerPanel:
    return LayerPanel(title=title, ylabel=ylabel, lines=lines, bounds=bounds, level=level)


def _based(
    rows: Sequence[Contrast], bases: Sequence[str], layers: Sequence[str], what: str
) -> list[LayerLine]:
    def estimate(row: Contrast) -> Estimate:
        found: Estimate = getattr(row, what)
        return found

    return [
        _line(basis, colour, "solid", [x for x in rows if x.basis == basis], layers, estimate)
        for basis, colour in _colours(bases).items()
    ]


def _remaining_panels(
    rows: Sequence[Remaining], bases: Sequence[str], layers: Sequence[str]
) -> list[LayerPanel]:
    panels = []
    for what, title in (
        ("tension", "tension in latents / in channels"),
        ("l1", "L¹ in latents / in channels"),
        ("l1_with_rest", "the same, with the rest in channels"),
    ):

        def estimate(row: Remaining, what: str = what) -> Estimate:
            found: Estimate = getattr(row, what)
            return found

        lines = [
            _line(
                basis if gradient == "learnt" else "",
                colour,
                "solid" if gradient == "learnt" else "dashed",
                [x for x in rows if (x.kind, x.basis, x.gradient) == ("units", basis, gradient)],
                layers,
                estimate,
            )
            for basis, colour in _colours(bases).items()
            for gradient in GRADIENTS[:2]
            if basis != "channels"
        ]
        panels.append(_panel(title, "share that remains", lines, None, 1.0))
    return panels


def _colours(bases: Iterable[str]) -> Mapping[str, str]:
    return {basis: _BASES[i % len(_BASES)] for i, basis in enumerate(bases)}


def _line(
    name: str,
    colour: str,
    dashes: str,
    rows: Sequence[Row],
    layers: Sequence[str],
    estimate: Callable[[Row], Estimate],
) -> LayerLine:
    of_layer = {row.layer: estimate(row) for row in rows}
    none = Estimate(value=math.nan, low=math.nan, high=math.nan)
    found = [of_layer.get(layer, none) for layer in layers]
    value, low, high = np.array([(x.value, x.low, x.high) for x in found]).T
    return LayerLine(name=name, colour=colour, dashes=dashes, value=value, low=low, high=high)
