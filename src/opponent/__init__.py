"""What keeps a feature of a vision network silent: excitation, inhibition, tense images."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opponent.atlas.atlas import Atlas as Atlas
    from opponent.atlas.atlas import AtlasSettings as AtlasSettings
    from opponent.atlas.atlas import atlases as atlases
    from opponent.atlas.build import make_atlas as make_atlas
    from opponent.attribution.attribute import attribute as attribute
    from opponent.attribution.baseline import mean_activation as mean_activation
    from opponent.attribution.result import Attribution as Attribution
    from opponent.attribution.rules import AttributionRule as AttributionRule
    from opponent.attribution.rules import Gradient as Gradient
    from opponent.attribution.rules import IntegratedGradients as IntegratedGradients
    from opponent.attribution.segment import Segment as Segment
    from opponent.core.box import Box as Box
    from opponent.core.errors import EmptyTarget as EmptyTarget
    from opponent.core.errors import RunError as RunError
    from opponent.core.errors import Unreadable as Unreadable
    from opponent.core.feature import Feature as Feature
    from opponent.core.progress import silent as silent
    from opponent.core.side import Side as Side
    from opponent.dictionaries.dictionary import Dictionary as Dictionary
    from opponent.dictionaries.learnt import Learnt as Learnt
    from opponent.dictionaries.learnt import TrainingSettings as TrainingSettings
    from opponent.dictionaries.train import learn_dictionary as learn_dictionary
    from opponent.directions import Directions as Directions
    from opponent.directions import find_directions as find_directions
    from opponent.explain.channels import Who as Who
    from opponent.explain.channels import who as who
    from opponent.explain.disinhibition.measure import disinhibit as disinhibit
    from opponent.explain.disinhibition.result import Disinhibited as Disinhibited
    from opponent.explain.image import Why as Why
    from opponent.explain.image import why as why
    from opponent.explain.interference import Interference as Interference
    from opponent.explain.interference import interference as interference
    from opponent.explain.interference_images import InterferenceImages as InterferenceImages
    from opponent.explain.interference_images import interference_images as interference_images
    from opponent.geometry.bottlenecks import ThroughLayer as ThroughLayer
    from opponent.geometry.bottlenecks import through_layers as through_layers
    from opponent.images.crops import Crops as Crops
    from opponent.images.imageset import ImageSet as ImageSet
    from opponent.images.sources import ImageSource as ImageSource
    from opponent.images.sources import open_images as open_images
    from opponent.models.network import Network as Network
    from opponent.models.preprocessing import Preprocessing as Preprocessing
    from opponent.models.registry import load as load
    from opponent.paper.completeness import Completeness as Completeness
    from opponent.paper.completeness import completeness as completeness
    from opponent.scan.executor import Executor as Executor
    from opponent.scan.kept import scan_kept as scan_kept
    from opponent.scan.local import scan_images as scan_images
    from opponent.scan.ray import Ray as Ray
    from opponent.scan.reopen import network_of as network_of
    from opponent.selection import Selected as Selected
    from opponent.selection import Selection as Selection
    from opponent.selection import select as select
    from opponent.storage.columns import Columns as Columns
    from opponent.storage.run import Run as Run
    from opponent.synthesis.inversion import accentuate as accentuate
    from opponent.synthesis.inversion import invert as invert
    from opponent.synthesis.inversion import invert_attribution as invert_attribution
    from opponent.synthesis.inversion import visualise as visualise
    from opponent.synthesis.objectives import Activation as Activation
    from opponent.synthesis.objectives import DotCosine as DotCosine
    from opponent.synthesis.objectives import Objective as Objective
    from opponent.synthesis.objectives import Views as Views
    from opponent.synthesis.parameterisations import Parameterisation as Parameterisation
    from opponent.synthesis.result import Synthesis as Synthesis
    from opponent.synthesis.settings import SynthesisSettings as SynthesisSettings
    from opponent.synthesis.transforms import Transforms as Transforms


# Where each public name lives. A room is imported when one of its names is first used.
_ROOMS = {
    "atlas.atlas": ["Atlas", "AtlasSettings", "atlases"],
    "atlas.build": ["make_atlas"],
    "attribution.attribute": ["attribute"],
    "attribution.baseline": ["mean_activation"],
    "attribution.result": ["Attribution"],
    "attribution.rules": ["AttributionRule", "Gradient", "IntegratedGradients"],
    "attribution.segment": ["Segment"],
    "core.box": ["Box"],
    "core.errors": ["EmptyTarget", "RunError", "Unreadable"],
    "core.feature": ["Feature"],
    "core.progress": ["silent"],
    "core.side": ["Side"],
    "dictionaries.dictionary": ["Dictionary"],
    "dictionaries.learnt": ["Learnt", "TrainingSettings"],
    "dictionaries.train": ["learn_dictionary"],
    "directions": ["Directions", "find_directions"],
    "explain.channels": ["Who", "who"],
    "explain.disinhibition.measure": ["disinhibit"],
    "explain.disinhibition.result": ["Disinhibited"],
    "explain.image": ["Why", "why"],
    "explain.interference": ["Interference", "interference"],
    "explain.interference_images": ["InterferenceImages", "interference_images"],
    "geometry.bottlenecks": ["ThroughLayer", "through_layers"],
    "images.imageset": ["ImageSet"],
    "images.crops": ["Crops"],
    "images.sources": ["ImageSource", "open_images"],
    "models.network": ["Network"],
    "models.preprocessing": ["Preprocessing"],
    "models.registry": ["load"],
    "paper.completeness": ["Completeness", "completeness"],
    "scan.executor": ["Executor"],
    "scan.kept": ["scan_kept"],
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
