"""What can go wrong because of what was given."""


class Unreadable(Exception):
    """An image that cannot be read.

    Args:
        reason: why, in one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RunError(RuntimeError):
    """A folder of results that is missing, unfinished, damaged, or of another question."""


class UnknownGeometry(RuntimeError):
    """The network does something that makes it impossible to say what a position depends on."""


class IndependentFeature(ValueError):
    """A feature that does not depend on the layer that it is to be explained through."""


class EmptyTarget(ValueError):
    """Nothing excites, or inhibits, the feature in an image: there is no direction to invert."""
