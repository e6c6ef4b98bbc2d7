"""Commands of the human experiment: `opponent experiment ...`."""

from typing import Annotated  # noqa: F401

import typer

from opponent.cli.common import app

experiment = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The paper's human experiment: from scans to a study, and from answers to its figure 10.",
    epilog="The way: [bold]build[/], [bold]simulate[/], [bold]serve[/], [bold]export[/], "
    "[bold]analyse[/]; each has an example in its --help.",
)
app.add_typer(experiment, name="experiment")
