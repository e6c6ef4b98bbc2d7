"""What all commands share: options, tables, progress, turning names into things."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from opponent.storage.files import to_path

if TYPE_CHECKING:
    from opponent.core.feature import Feature
    from opponent.models.network import Network
    from opponent.storage.run import Run

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="What keeps a feature of a vision network silent?",
    epilog="Try [bold]opponent demo[/], or [bold]opponent COMMAND --help[/] for examples.",
)
# A pipe has no width of its own: tables keep their lines whole there.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Argument(help="A model's name; `opponent models` lists them.")]
Weights = Annotated[
    Path | None, typer.Option(help="A file of weights: safetensors, or a saved state dict.")
]
RunFolder = Annotated[
    Path,  # or what has its methods, on another file system
    typer.Argument(metavar="RUN", parser=to_path, help="A run folder made by `scan`."),
]
Through = Annotated[str, typer.Option(help="The earlier layer to explain the feature through.")]
Features = Annotated[
    list[str] | None, typer.Option("--feature", help="One of the run's features; repeatable.")
]
DirectionsFile = Annotated[
    Path | None,
    typer.Option(
        "--directions", help="A file of directions: LAYER:NAME then names one, LAYER:* all."
    ),
]
Power = Annotated[
    int, typer.Option(help="A direction's activation is dot * cos^POWER; the paper takes 0 or 2.")
]
RuleName = Annotated[
    str,
    typer.Option(
        "--rule",
        help="How S is computed: gradient (times h), integrated-zero or integrated-mean (the "
        "gradient along the way from there to h; both may end /STEPS).",
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Compute with Ray: 'local' on all of this machine, 'auto' or HOST:PORT in a cluster "
        "that runs and whose machines share the folder.",
    ),
]
Cpus = Annotated[float, typer.Option(min=0, help="Processors for each of Ray's actors.")]
Gpus = Annotated[
    float | None,
    typer.Option(
        min=0, help="GPUs for each of Ray's actors, such as 0.5; default: 1 on --device cuda."
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Steps of optimisation.")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        out.print(installed("opponent"))
        raise typer.Exit


def open_network(model: str, weights: Path | None, device: str = "cpu") -> "Network":
    import torch

    from opponent.models.registry import load

    network = load(model, weights)
    try:
        network.module.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    return network


def open_networks(texts: list[str], device: str = "cpu") -> "Iterator[Network]":
    """Networks by name, or NAME=FILE with a file of weights, one after another."""
    for text in texts:
        name, _, file = text.partition("=")
        yield open_network(name, Path(file) if file else None, device)


def open_run(folder: Path) -> "Run":
    from opponent.storage.run import Run

    return Run(folder)


def chosen(run: "Run", features: list[str] | None) -> "list[Feature]":
    if not run.features:
        run.feature()  # says what the run holds instead
    return [run.feature(each) for each in features] if features else list(run.features)


def parse_features(texts: list[str], file: Path | None, power: int) -> "list[Feature]":
    """Features by name, among them directions of a file."""
    from opponent.core.feature import Feature
    from opponent.directions import Directions

    if file is None:
        if power:
            raise ValueError(f"--power {power} is for directions: give their file (--directions)")
        return [Feature.parse(text) for text in texts]
    return Directions.load(file).features(texts, power=power)


def parse_signs(sign: str) -> list[int]:
    signs = {"excitation": [1], "inhibition": [-1], "both": [1, -1]}
    if sign not in signs:
        raise ValueError(f"--sign is excitation, inhibition or both, not {sign!r}")
    return signs[sign]


def plain(text: str) -> str:
    """Text whose brackets are not taken for markup."""
    return text.replace("[", r"\[")


def new_table(*columns: str) -> Table:
    """A plain table whose cells are folded, never cut."""
    table = Table(box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with an estimate on the terminal; one task for each thing that is being done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, object] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield report


def gpu_share(gpus: float | None, device: str) -> float:
    """GPUs for each of Ray's actors."""
    return float(device.startswith("cuda")) if gpus is None else gpus
