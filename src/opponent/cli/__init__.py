"""The command `opponent`: parse, call, print."""

# In the order of the help's groups.
from opponent.cli import networks, start, dictionary  # noqa: F401, I001
from opponent.cli import look, explain, disinhibit  # noqa: F401
from opponent.cli import paper, superposition, experiment  # noqa: F401
from opponent.cli.application import app

__all__ = ["app"]
