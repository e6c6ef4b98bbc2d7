"""What keeps a feature of a vision network silent: excitation, inhibition, tense images."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opponent.atlas.atlas import Atlas, AtlasSettings, atlases
    from opponent.atlas.build import make_atlas
    from opponent.attribution.attribute import attribute, mean_activation
    from opponent.attribution.result import Attribution
    from opponent.attribution.rules import AttributionRule, Gradient, IntegratedGradients
    from opponent.attribution.segment import Segment
    from opponent.core.box import Box
    from opponent.core.errors import EmptyTarget, RunError, Unreadable
    from opponent.core.feature import Feature
    from opponent.core.progress import silent
    from opponent.core.side import Side
    from opponent.directions import Directions, find_directions
    from opponent.explain.channels import Who, who
    from opponent.explain.image import Why, why
    from opponent.geometry.bottlenecks import ThroughLayer, through_layers
    from opponent.images.imageset import ImageSet
    from opponent.images.sources import ImageSource, open_images
    from opponent.models.network import Network
    from opponent.models.preprocessing import Preprocessing
    from opponent.models.registry import load
    from opponent.paper.completeness import Completeness, completeness
    from opponent.scan.executor import Executor
    from opponent.scan.local import scan_images
    from opponent.scan.ray import Ray
    from opponent.scan.reopen import network_of
    from opponent.selection import Selected, Selection, select
    from opponent.storage.columns import Columns
    from opponent.storage.run import Run
    from opponent.synthesis.inversion import (
        accentuate,
        invert,
        invert_attribution,
        visualise,
    )
    from opponent.synthesis.objectives import Activation, DotCosine, Objective, Views
    from opponent.synthesis.parameterisations import Parameterisation
    from opponent.synthesis.result import Synthesis
    from opponent.synthesis.settings import SynthesisSettings
    from opponent.synthesis.transforms import Transforms

# Where each public name lives. A room is imported when one of its names is first used.
_ROOMS = {
    "atlas.atlas": ["Atlas", "AtlasSettings", "atlases"],
    "atlas.build": ["make_atlas"],
    "attribution.attribute": ["attribute", "mean_activation"],
    "attribution.result": ["Attribution"],
    "attribution.rules": ["AttributionRule", "Gradient", "IntegratedGradients"],
    "attribution.segment": ["Segment"],
    "core.box": ["Box"],
    "core.errors": ["EmptyTarget", "RunError", "Unreadable"],
    "core.feature": ["Feature"],
    "core.progress": ["silent"],
    "core.side": ["Side"],
    "directions": ["Directions", "find_directions"],
    "explain.channels": ["Who", "who"],
    "explain.image": ["Why", "why"],
    "geometry.bottlenecks": ["ThroughLayer", "through_layers"],
    "images.imageset": ["ImageSet"],
    "images.sources": ["ImageSource", "open_images"],
    "models.network": ["Network"],
    "models.preprocessing": ["Preprocessing"],
    "models.registry": ["load"],
    "paper.completeness": ["Completeness", "completeness"],
    "scan.executor": ["Executor"],
    "scan.local": ["scan_images"],
    "scan.ray": ["Ray"],
    "scan.reopen": ["network_of"],
    "selection": ["Selected", "Selection", "select"],
    "storage.columns": ["Columns"],
    "storage.run": ["Run"],
    "synthesis.inversion": ["accentuate", "invert", "invert_attribution", "visualise"],
    "synthesis.objectives": ["Activation", "DotCosine", "Objective", "Views"],
    "synthesis.parameterisations": ["Parameterisation"],
    "synthesis.result": ["Synthesis"],
    "synthesis.settings": ["SynthesisSettings"],
    "synthesis.transforms": ["Transforms"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'opponent' has no attribute {name!r}")
    value: object = getattr(import_module(f"opponent.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
