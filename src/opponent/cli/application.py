"""The command `opponent` itself, and the groups that its help lists commands in."""

from typing import Annotated

import typer

START, LOOK, EXPLAIN, PAPER, STUDY = "Start", "Look", "Explain", "Paper", "Study"

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="What keeps a feature of a vision network silent?",
    epilog="Try [bold]opponent demo[/], or [bold]opponent COMMAND --help[/] for examples.",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("opponent"))
        raise typer.Exit
