"""The command `opponent`: parse, call, print."""

from opponent.cli import experiment, experiments, explain  # noqa: F401
from opponent.cli.common import app

__all__ = ["app"]
