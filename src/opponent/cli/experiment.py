"""Commands of the human experiment: `opponent experiment ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opponent.cli.application import STUDY, app
from opponent.cli.opening import open_network, open_run, scanned_network
from opponent.cli.options import Device, RunModel, Seed
from opponent.cli.output import command, err, new_table, out, plain, print_paths
from opponent.models.catalogue import EMBEDDED

if TYPE_CHECKING:
    from opponent.study.analysis.results import AnswersOfLayer, Results
    from opponent.study.design.study import Study

experiment = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The paper's human experiment: from scans to a study, and from answers to its figure 10.",
    epilog="The way: [bold]build[/], [bold]simulate[/], [bold]serve[/], [bold]export[/], "
    "[bold]analyse[/]; each has an example in its --help.",
)
app.add_typer(experiment, name="experiment", rich_help_panel=STUDY)

StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study made by `experiment build`.")
]


@experiment.command(
    epilog="Example: [bold]opponent experiment build run-conv2d1 run-mixed3b run-mixed5b "
    "--out study[/], from scans of some 40 features of each layer (`opponent directions --spread`, "
    "`opponent scan --power 2`)."
)
def build(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Finished scans, one or more a layer.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="The study's folder, new or to finish.")],
    features: Annotated[int, typer.Option(min=1, help="Trials a layer.")] = 15,
    catch: Annotated[int, typer.Option(min=0, help="Catch trials a layer.")] = 1,
    practice: Annotated[int, typer.Option(min=0, help="Trials to practise with.")] = 1,
    label: Annotated[
        list[str] | None, typer.Option(help="A layer's name in figures; first to last layer.")
    ] = None,
    format: Annotated[str, typer.Option(help="Of the sheets for print: pdf, png or svg.")] = "pdf",
    model: RunModel = None,
    seed: Seed = 0,
) -> None:
    """Make a study from scans: trials, pictures, and contact sheets to look them over.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.plots.layout import check_suffix
    from opponent.study.design.building import build as make
    from opponent.study.design.sheet import write_sheets

    check_suffix(format)
    opened = [open_run(run) for run in runs]
    study, passed = make(
        opened,
        folder,
        features=features,
        catch=catch,
        practice=practice,
        labels=label,
        seed=seed,
        network=scanned_network(opened[0], model=model) if model else None,
    )
    sheets = write_sheets(study, suffix=format)
    table = new_table("layer", "", "trials", "catch", "practice", "passed over")
    for layer in study.layers:
        kinds = [trial.kind for trial in study.trials if trial.layer == layer]
        counts = [str(kinds.count(kind)) for kind in ("trial", "catch", "practice")]
        table.add_row(plain(study.label(layer)), plain(layer), *counts, str(len(passed[layer])))
    out.print(table)
    for reasons in passed.values():
        for feature, why in reasons.items():
            out.print(f"passed over {feature}: {why}", style="dim", markup=False)
    print_paths(sheets)
    settings = study.settings
    texts = {"consent": settings.consent.text, "debriefing": settings.debriefing}
    todo = [name for name, text in texts.items() if "[" in text]
    todo += ["codes"] if not settings.codes.complete else []
    if todo:
        out.print(
            f"before the first participant: look at the sheets, and fill in {', '.join(todo)} in "
            f"{study.folder / 'study.json'}",
            markup=False,
        )


@experiment.command(
    epilog="Example: [bold]opponent experiment simulate study --participants 48 "
    "--skill similarity[/], then [bold]opponent experiment analyse study-simulated-similarity[/]"
)
def simulate(
    study: StudyFolder,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="A copy of the study for the answers; default: beside it."),
    ] = None,
    participants: Annotated[int, typer.Option(min=1, help="How many.")] = 48,
    skill: Annotated[
        str,
        typer.Option(help="chance, perfect, or similarity (nearest to the examples; farthest)."),
    ] = "similarity",
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Chance in a similarity observer's choices.")
    ] = 0.15,
    model: Annotated[
        str, typer.Option(metavar="MODEL[=FILE]", help="What it sees with.")
    ] = EMBEDDED,
    layer: Annotated[str, typer.Option(help="A late layer of that model.")] = "mixed5b",
    url: Annotated[
        str | None,
        typer.Option(help="A running server of this study, for a test: its own answers grow."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Let simulated participants take part, through the server's own interface."""
    from opponent.study.design.study import Study
    from opponent.study.simulate.simulation import simulate as run

    network = open_network(model, device) if skill == "similarity" else model
    answered = run(
        Study(study),
        folder,
        url=url,
        participants=participants,
        skill=skill,
        temperature=temperature,
        network=network,
        layer=layer,
        seed=seed,
    )
    where = url or answered.folder
    taken = f"{participants} simulated participants took part in {where}"
    out.print(taken, markup=False, soft_wrap=True)
    if url is None:
        following = f"next: {command('experiment', 'analyse', where)}"
        out.print(following, style="dim", markup=False, soft_wrap=True)


@experiment.command(
    epilog="Example: [bold]opponent experiment analyse study --out results[/], also while "
    "[bold]serve[/] runs"
)
def analyse(
    study: StudyFolder,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: STUDY/analysis.")
    ] = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
) -> None:
    """Analyse the answers as study.json plans it: figure 10, a test, exclusions, power."""
    from msgspec import UNSET

    from opponent.plots.layout import check_suffix
    from opponent.study.analysis.report import analyse_folder, write_analysis
    from opponent.study.design.study import Study

    check_suffix(format)
    opened = Study(study)
    results = analyse_folder(opened)
    table = new_table("layer", "", "MEI", "interval", "MII", "interval", "where open")
    for layer in results.layers:
        cells = [
            text
            for answers in (layer.mei, layer.mii)
            for text in (_share(answers.accuracy), _range(answers))
        ]
        where_open = layer.mii.accuracy_where_open
        cells.append(_share(None if where_open is UNSET else where_open))
        table.add_row(plain(layer.label), plain(layer.layer), *cells)
    out.print(table)
    for line in _summary(results):
        out.print(line, markup=False)
    print_paths(write_analysis(results, folder or opened.folder / "analysis", suffix=format))


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _range(answers: "AnswersOfLayer") -> str:
    return "none" if answers.low is None else f"{answers.low:.3f} to {answers.high:.3f}"


def _summary(results: "Results") -> list[str]:
    """The rest of an analysis in a few lines."""
    from opponent.study.analysis.results import NoTest

    people, test, simulated = results.participants, results.test, results.simulated
    excluded = "; ".join(f"{count} {why}" for why, count in people.excluded.items())
    kind = f"simulated ({simulated.skill}) " if simulated else ""
    lines = [
        f"{people.analysed} of {people.began} {kind}participants analysed"
        + (f" (left out: {excluded})" if excluded else ""),
        "chance: 1/9 for the MEI; for the MII 1/8 where the first choice was not the MII",
    ]
    if isinstance(test, NoTest) or test.p is None:
        lines.append(f"no test: {test.reason}")
    else:
        lines.append(
            f"{test.question.upper()}, {test.contrast}: {test.difference:+.3f} "
            f"({test.difference_low:+.3f} to {test.difference_high:+.3f}), "
            f"log odds ratio {test.estimate:.2f} ± {test.error:.2f}, "
            f"t({test.df}) p = {test.p:.2g}, clustered by participant and feature"
        )
    if results.power:
        shares = ", ".join(f"{n}: {p:.2f}" for n, p in results.power.power.items())
        lines.append(f"power of that test by number of participants: {shares}")
    return lines


CallRate = Annotated[float, typer.Option(min=0.1, help="Calls a second that one address may make.")]
SessionBurst = Annotated[
    int, typer.Option(min=1, help="New sessions that one address may begin at once.")
]
ProxyAddress = Annotated[
    str | None,
    typer.Option(help="A reverse proxy's address, to be believed about who the client is."),
]
HostNames = Annotated[
    list[str] | None,
    typer.Option(
        help="A name by which participants reach the server, such as study.example.org; others "
        "are refused but for addresses and localhost. Several: give it again."
    ),
]


@experiment.command(
    epilog="Examples: [bold]opponent experiment serve study --install[/]; "
    "behind a proxy [bold]opponent experiment serve study --proxy 127.0.0.1 "
    "--name study.example.org[/]. "
    "With Prolific, give as the study's address that of the page, with "
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
    rate: CallRate = 50.0,
    sessions: SessionBurst = 60,
    proxy: ProxyAddress = None,
    name: HostNames = None,
    pilot: Annotated[
        bool,
        typer.Option("--pilot", help="Only try it: every page says so; answers are kept apart."),
    ] = False,
) -> None:
    """Show a study to participants and store what they answer, until Ctrl-C.

    Each answer is on the disk before it is acknowledged. The server speaks plain HTTP: for
    participants elsewhere put a reverse proxy with TLS before it, and name it by --proxy, and the
    address that participants see by --name.
    """
    import logging
    from dataclasses import replace

    from opponent.study.design.study import Study
    from opponent.study.server import site

    try:
        from opponent.study.server.guard import LIMITS
        from opponent.study.server.server import ANSWERS, PILOT
        from opponent.study.server.server import serve as run
    except ImportError as error:
        raise ImportError(f'{error}: pip install "opponent[experiment]"') from error

    shown, answers = Study(study), PILOT if pilot else ANSWERS
    if not pilot:
        _refuse_unfinished(shown)
    if install:
        site.install(jspsych)
    files = site.page_files(jspsych, pilot=pilot)
    limits = replace(
        LIMITS, calls=(rate, max(6 * rate, 1)), sessions=(LIMITS.sessions[0], float(sessions))
    )
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    run(
        shown,
        host=host,
        port=port,
        files=files,
        limits=limits,
        proxy=proxy,
        answers=answers,
        names=name or (),
    )
    stopped = f"stopped; all answers are in {study / answers}"
    err.print(stopped, markup=False, soft_wrap=True)


def _refuse_unfinished(study: "Study") -> None:
    from opponent.study.design.settings import unfinished

    if left := unfinished(study.settings):
        raise ValueError(
            "participants would see what is not filled in yet in "
            f"{study.folder / 'study.json'}: {', '.join(left)}. Fill it in (a code that is not "
            "wanted is null), or try the study with --pilot"
        )


@experiment.command(epilog="Example: [bold]opponent experiment export study --out answers[/]")
def export(
    study: StudyFolder,
    folder: Annotated[Path, typer.Option("--out", help="A folder for the tables.")],
) -> None:
    """Write the answers and the participants as CSV and Parquet, also while `serve` runs.

    The participants' table holds their Prolific IDs, the answers' table does not.
    """
    from opponent.study.design.study import Study
    from opponent.study.server.export import export_tables
    from opponent.study.server.store import Store

    with Store(Study(study).folder / "answers.sqlite3") as store:
        print_paths(export_tables(store, folder))
