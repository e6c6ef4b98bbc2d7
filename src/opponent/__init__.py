"""What keeps a feature of a vision network silent."""

from opponent.atlas.build import Atlas, AtlasSettings, atlases, make_atlas
from opponent.attribution.attribute import Attribution, Rule, attribute, mean_activation
from opponent.core.errors import RunError, Unreadable
from opponent.core.feature import Feature
from opponent.directions import Directions, find_directions
from opponent.explain.channels import Who, who
from opponent.explain.image import Why, why
from opponent.geometry.bottlenecks import ThroughLayer, through_layers
from opponent.images.sources import ImageSet, open_images
from opponent.models.network import Network, Preprocessing
from opponent.models.registry import load
from opponent.paper.completeness import Completeness, completeness
from opponent.scan.local import scan_images
from opponent.selection import Columns, select
from opponent.storage.run import Run
from opponent.synthesis.inversion import (
    SynthesisSettings,
    accentuate,
    invert,
    invert_attribution,
    visualise,
)
from opponent.synthesis.optimise import Synthesis

__all__ = [
    "Atlas",
    "AtlasSettings",
    "Attribution",
    "Columns",
    "Completeness",
    "Directions",
    "Feature",
    "ImageSet",
    "Network",
    "Preprocessing",
    "Rule",
    "Run",
    "RunError",
    "Synthesis",
    "SynthesisSettings",
    "ThroughLayer",
    "Unreadable",
    "Who",
    "Why",
    "accentuate",
    "atlases",
    "attribute",
    "completeness",
    "find_directions",
    "invert",
    "invert_attribution",
    "load",
    "make_atlas",
    "mean_activation",
    "open_images",
    "scan_images",
    "select",
    "through_layers",
    "visualise",
    "who",
    "why",
]
