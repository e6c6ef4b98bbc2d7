"""The command `opponent`: parse, call, print."""

from opponent.cli import experiment, experiments, explain, look, start  # noqa: F401
from opponent.cli.application import app

__all__ = ["app"]
