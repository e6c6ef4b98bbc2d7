"""Every static figure, for print: each function returns a `Figure`, shows nothing, changes nothing.

Sizes are inches from the top left corner, so that a panel comes out as large as it is meant to be
in one or two columns of a journal. matplotlib's global settings are left alone.
"""

from opponent.plots.atlas import atlas_figure, map_figure, selection_figure
from opponent.plots.completeness import Curve, completeness_figure
from opponent.plots.drivers import DriverRow, drivers_figure
from opponent.plots.objective import objective_figure
from opponent.plots.page import (
    COLUMN,
    PAGE,
    ExemplarRow,
    InversionRow,
    Synthetic,
    Tile,
    group_colours,
    overlay_scale,
    save,
)
from opponent.plots.panels import (
    energy_figure,
    exemplars_figure,
    groups_figure,
    inversions_figure,
    square_figure,
    why_figure,
)
from opponent.plots.toy import ToyWidth, toy_figure
from opponent.plots.traces import TracePanel, activation_trace_figure
from opponent.plots.uniqueness import (
    SharedRow,
    TenseRow,
    UniquenessLine,
    shared_figure,
    tense_rows_figure,
    uniqueness_figure,
)
from opponent.plots.weights import WeightPanel, weights_figure

__all__ = [
    "COLUMN",
    "PAGE",
    "Curve",
    "DriverRow",
    "ExemplarRow",
    "InversionRow",
    "SharedRow",
    "Synthetic",
    "TenseRow",
    "Tile",
    "ToyWidth",
    "TracePanel",
    "UniquenessLine",
    "WeightPanel",
    "activation_trace_figure",
    "atlas_figure",
    "completeness_figure",
    "drivers_figure",
    "energy_figure",
    "exemplars_figure",
    "group_colours",
    "groups_figure",
    "inversions_figure",
    "map_figure",
    "objective_figure",
    "overlay_scale",
    "save",
    "selection_figure",
    "shared_figure",
    "square_figure",
    "tense_rows_figure",
    "toy_figure",
    "uniqueness_figure",
    "weights_figure",
    "why_figure",
]
