"""Commands of the human experiment: `opponent experiment ...`."""

from pathlib import Path
from typing import Annotated

import typer

from opponent.cli.common import app, err, out

experiment = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The paper's human experiment: from scans to a study, and from answers to its figure 10.",
    epilog="The way: [bold]build[/], [bold]simulate[/], [bold]serve[/], [bold]export[/], "
    "[bold]analyse[/]; each has an example in its --help.",
)
app.add_typer(experiment, name="experiment")

StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study made by `experiment build`.")
]


@experiment.command(
    epilog="Examples: [bold]opponent experiment serve study --install[/]; "
    "[bold]opponent experiment serve study --host 0.0.0.0 --port 80[/]. "
    "With Prolific, give as the study's address the one that is printed, with "
    "?PROLIFIC_PID={{%PROLIFIC_PID%}}&STUDY_ID={{%STUDY_ID%}}&SESSION_ID={{%SESSION_ID%}} added."
)
def serve(
    study: StudyFolder,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets others in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    jspsych: Annotated[
        Path | None, typer.Option(help="The folder in which `npm ci` put jsPsych.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Install jsPsych with npm first.")
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Calls a second that one address may make.")
    ] = 50.0,
    sessions: Annotated[
        int, typer.Option(min=1, help="New sessions that one address may begin at once.")
    ] = 60,
    proxy: Annotated[
        str | None,
        typer.Option(help="A reverse proxy's address, to be believed about who the client is."),
    ] = None,
) -> None:
    """Show a study to participants and store what they answer, until Ctrl-C.

    Each answer is on the disk before it is acknowledged. The server speaks plain HTTP: for
    participants elsewhere put a reverse proxy with TLS before it, and name it by --proxy.
    """
    import logging
    from dataclasses import replace

    from opponent.experiment import site
    from opponent.experiment.study import Study

    try:
        from opponent.experiment.guard import LIMITS
        from opponent.experiment.server import serve as run
    except ImportError as error:
        raise ImportError(f'{error}: pip install "opponent[experiment]"') from error

    if install:
        site.install(jspsych)
    files = site.page_files(jspsych)
    limits = replace(
        LIMITS, calls=(rate, max(6 * rate, 1)), sessions=(LIMITS.sessions[0], float(sessions))
    )
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    run(Study(study), host=host, port=port, files=files, limits=limits, proxy=proxy)
    err.print(f"stopped; all answers are in {study / 'answers.sqlite3'}", markup=False)


@experiment.command(epilog="Example: [bold]opponent experiment export study --out answers[/]")
def export(
    study: StudyFolder,
    folder: Annotated[Path, typer.Option("--out", help="A folder for the tables.")],
) -> None:
    """Write the answers and the participants as CSV and Parquet, also while `serve` runs.

    The participants' table holds their Prolific IDs, the answers' table does not.
    """
    from opponent.experiment.export import export as write
    from opponent.experiment.store import Store
    from opponent.experiment.study import Study

    with Store(Study(study).folder / "answers.sqlite3") as store:
        for path in write(store, folder):
            out.print(str(path), markup=False)
