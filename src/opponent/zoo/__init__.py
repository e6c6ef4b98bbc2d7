"""Models by name."""

from opponent.zoo.load import MODELS, load

__all__ = ["MODELS", "load"]
