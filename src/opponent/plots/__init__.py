"""Every static figure, for print: each function returns a `Figure`, shows nothing, changes nothing.

`plot_...` functions take a run, an atlas or an answer; `..._figure` functions take arrays and
pictures. `save` writes a figure to a file.
"""

from opponent.plots.atlas import (
    atlas_figure,
    map_figure,
    plot_atlas,
    plot_map,
    plot_selection,
    selection_figure,
)
from opponent.plots.completeness import Curve, completeness_figure, missing_figure
from opponent.plots.disinhibition import (
    Confusion,
    Ridge,
    confusion_figure,
    disinhibition_figure,
    plot_confusions,
    plot_disinhibition,
)
from opponent.plots.drivers import drivers_figure, plot_who
from opponent.plots.energies import energies_figure, plot_energies
from opponent.plots.exemplars import ExemplarRow, exemplars_figure, plot_exemplars
from opponent.plots.files import write_atlas, write_disinhibited, write_figures
from opponent.plots.groups import groups_figure, plot_groups
from opponent.plots.interference import (
    interference_figure,
    plot_interference,
    tensions_figure,
)
from opponent.plots.inversions import InversionRow, inversions_figure, plot_inversions
from opponent.plots.layout import COLUMN, PAGE, save
from opponent.plots.objective import objective_figure
from opponent.plots.square import square_figure
from opponent.plots.toy import ToyWidth, toy_figure
from opponent.plots.toy_interference import (
    RocPanel,
    TensionPanel,
    TermMatrix,
    toy_interference_figure,
)
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
from opponent.plots.why import plot_why, why_figure

__all__ = [
    "COLUMN",
    "PAGE",
    "Confusion",
    "Curve",
    "ExemplarRow",
    "InversionRow",
    "Ridge",
    "RocPanel",
    "SharedRow",
    "TenseRow",
    "TensionPanel",
    "TermMatrix",
    "ToyWidth",
    "TracePanel",
    "UniquenessLine",
    "WeightPanel",
    "activation_trace_figure",
    "atlas_figure",
    "completeness_figure",
    "confusion_figure",
    "disinhibition_figure",
    "drivers_figure",
    "energies_figure",
    "exemplars_figure",
    "groups_figure",
    "interference_figure",
    "inversions_figure",
    "map_figure",
    "missing_figure",
    "objective_figure",
    "plot_atlas",
    "plot_confusions",
    "plot_disinhibition",
    "plot_energies",
    "plot_exemplars",
    "plot_groups",
    "plot_interference",
    "plot_inversions",
    "plot_map",
    "plot_selection",
    "plot_who",
    "plot_why",
    "save",
    "selection_figure",
    "shared_figure",
    "square_figure",
    "tense_rows_figure",
    "tensions_figure",
    "toy_figure",
    "toy_interference_figure",
    "uniqueness_figure",
    "weights_figure",
    "why_figure",
    "write_atlas",
    "write_disinhibited",
    "write_figures",
]
