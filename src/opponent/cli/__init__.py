"""The command `opponent`: parse, call, print."""

from opponent.cli import experiment, explain, look, paper, start, superposition  # noqa: F401
from opponent.cli.application import app

__all__ = ["app"]
