"""What keeps a feature of a vision network silent."""

from opponent.atlas import Atlas, AtlasSettings, atlases, make_atlas
from opponent.attribution import Attribution, Rule, attribute, mean_activation
from opponent.completeness import Completeness, completeness
from opponent.directions import Directions, find_directions
from opponent.features import Feature
from opponent.graph import Cut, cuts
from opponent.images import ImageSet, Unreadable, open_images
from opponent.network import Network, Preprocessing
from opponent.run import Run, RunError
from opponent.scan import scan
from opponent.synthesis.inversion import (
    Settings,
    accentuate,
    invert,
    invert_attribution,
    visualise,
)
from opponent.synthesis.optimise import Synthesis
from opponent.tension import Columns, select
from opponent.who import Who, who
from opponent.why import Why, why
from opponent.zoo import load

__all__ = [
    "Atlas",
    "AtlasSettings",
    "Attribution",
    "Columns",
    "Completeness",
    "Cut",
    "Directions",
    "Feature",
    "ImageSet",
    "Network",
    "Preprocessing",
    "Rule",
    "Run",
    "RunError",
    "Settings",
    "Synthesis",
    "Unreadable",
    "Who",
    "Why",
    "accentuate",
    "atlases",
    "attribute",
    "completeness",
    "cuts",
    "find_directions",
    "invert",
    "invert_attribution",
    "load",
    "make_atlas",
    "mean_activation",
    "open_images",
    "scan",
    "select",
    "visualise",
    "who",
    "why",
]
