"""What keeps a feature of a vision network silent."""

from opponent.attribution import Attribution, attribute
from opponent.features import Feature
from opponent.images import ImageSet, Unreadable, open_images
from opponent.network import Network, Preprocessing
from opponent.run import Run, RunError
from opponent.scan import scan
from opponent.synthesis.inversion import Settings, accentuate, invert, visualise
from opponent.synthesis.optimise import Synthesis
from opponent.tension import Columns, select
from opponent.why import Why, why
from opponent.zoo import load

__all__ = [
    "Attribution",
    "Columns",
    "Feature",
    "ImageSet",
    "Network",
    "Preprocessing",
    "Run",
    "RunError",
    "Settings",
    "Synthesis",
    "Unreadable",
    "Why",
    "accentuate",
    "attribute",
    "invert",
    "load",
    "open_images",
    "scan",
    "select",
    "visualise",
    "why",
]
