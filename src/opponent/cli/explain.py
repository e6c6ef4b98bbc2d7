"""Commands that explain: why one image, which channels, and what either side looks like."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from opponent.cli.application import EXPLAIN, app
from opponent.cli.opening import (
    open_network,
    open_run,
    parse_features,
    scanned_network,
    with_units,
)
from opponent.cli.options import (
    Device,
    DirectionsFile,
    Features,
    Model,
    Objective,
    OneFeature,
    Parameterisation,
    Power,
    RunFolder,
    RunImages,
    RunModel,
    RunRule,
    Seed,
    Sides,
    Steps,
    Through,
)
from opponent.cli.output import out, plain, print_paths, two_sides
from opponent.core.side import Side

if TYPE_CHECKING:
    from opponent.explain.drivers import Drivers
    from opponent.images.imageset import ImageEntry
    from opponent.storage.run import Run

_Dictionary = Annotated[
    Path | None,
    typer.Option(
        help="A dictionary of the through layer, whose latents are named instead of channels; "
        "default: as the run did."
    ),
]
_Page = Annotated[
    Path | None, typer.Option("--out", help="A page (.html) or picture (.png, .pdf, .svg).")
]


@app.command(
    rich_help_panel=EXPLAIN,
    epilog="Examples: [bold]opponent why torchvision:squeezenet1_1 banana.jpg logits:954 "
    "--through features.9 --out why.html[/]; with [bold]--against logits:39[/], why a banana "
    "rather than an iguana",
)
def why(
    model: Model,
    image: Annotated[str, typer.Argument(help="A photograph; with --run, also an id of its.")],
    feature: Annotated[str, typer.Argument(help="LAYER:UNIT; 'logits:954' asks for a class.")],
    through: Through,
    against: Annotated[
        str | None,
        typer.Option(
            help="A second feature of the same layer: what speaks for the first and against this "
            "one. Without a position it is read where the first is."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A scan to compare this image with.")] = None,
    page: _Page = None,
    directions: DirectionsFile = None,
    power: Power = 0,
    channels: Annotated[int, typer.Option(min=1, help="Upstream channels to name a side.")] = 8,
    rule: Annotated[
        str | None,
        typer.Option(
            help="How S is computed, as for `scan`; default: as the run did, or gradient."
        ),
    ] = None,
    dictionary: _Dictionary = None,
    device: Device = "cpu",
) -> None:
    """Say what drove a feature in one photograph, and what held it back.

    With --against, what speaks for it rather than for another.
    """
    network = open_network(model, device)
    from opponent.explain.image import why as explain
    from opponent.reports.explanations import check_page, write_why

    if page is not None:
        check_page(page)
    [resolved] = parse_features([feature], directions, power)
    rival = None
    if against is not None:
        [rival] = parse_features([against], directions, power)
    scanned = open_run(run) if run else None
    answer = explain(
        network,
        image if scanned is None or Path(image).exists() else _of_run(scanned, image),
        resolved,
        through,
        against=rival,
        run=scanned,
        channels=channels,
        rule=rule,
        dictionary=dictionary,
    )
    written = None if page is None else write_why(answer, page)
    out.print(answer.verdict, markup=False)
    table = Table(show_header=False, box=None)
    for name, value in answer.facts():
        table.add_row(f"[dim]{name}[/]", plain(value))
    out.print(table)
    _print_drivers(answer.drivers, spread=False, names=answer.side_names)
    print_paths([written] if written else [])


@app.command(
    rich_help_panel=EXPLAIN,
    epilog="Examples: [bold]opponent who run --out who.html[/]; "
    "[bold]opponent who run --group inhibiting --silence[/]; [bold]opponent who run --cell 3,7[/]",
)
def who(
    run: RunFolder,
    feature: Annotated[
        str | None,
        typer.Option(
            help="One of the run's features, needed where it has several; or a unit of a scan of "
            "all units (LAYER:*), which is attributed in the images that the scan keeps."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Such as tense, exciting, inhibiting, or module:PACKAGE.MODULE:NAME for a "
            "selection of your own."
        ),
    ] = None,
    image: Annotated[list[str] | None, typer.Option(help="An image's id; repeatable.")] = None,
    cell: Annotated[str | None, typer.Option(help="ROW,COLUMN of the feature's atlas.")] = None,
    channels: Annotated[int, typer.Option(min=1, help="Upstream channels a side.")] = 8,
    visualise: Annotated[
        bool, typer.Option("--visualise", help="Synthesise what excites each channel too.")
    ] = False,
    silence: Annotated[
        bool, typer.Option("--silence", help="Set top channels to zero, and others at random.")
    ] = False,
    page: _Page = None,
    images: RunImages = None,
    model: RunModel = None,
    rule: RunRule = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Say which upstream channels excite a feature, and which hold it back.

    By default in its tensest images. A channel that excites in one place and inhibits in another is
    listed on both sides: they do not cancel. Channels are shown by what excites them most.
    """
    from opponent.explain.channels import who as ask
    from opponent.explain.silencing import silence_check
    from opponent.reports.explanations import check_page, silence_facts, write_who
    from opponent.synthesis.settings import SynthesisSettings

    if page is not None:
        check_page(page)
    elif visualise:
        raise ValueError("--visualise needs a page or picture to show them in: give --out")
    opened = with_units(open_run(run, images), [feature] if feature else None)
    network = scanned_network(opened, device, model) if page or silence else None
    answer = ask(
        opened,
        feature,
        group=group,
        images=image or None,
        cell=None if cell is None else _cell(cell),
        channels=channels,
        crops=4 if page else 0,
        network=network,
        visualise=SynthesisSettings(seed=seed) if visualise and page else None,
    )
    silenced = None
    if silence and network is not None:
        silenced = silence_check(opened, network, answer, seed=seed, rule=rule)
    written = None if page is None else write_who(answer, page, silenced)
    kind = answer.drivers.kind
    line = f"{answer.feature.label} in {answer.about}, by {kind}s of {answer.through}"
    out.print(line, markup=False)
    _print_drivers(answer.drivers)
    for name, value in (*answer.drivers.facts(), *silence_facts(answer, silenced)):
        out.print(f"{name}: {value}", markup=False)
    print_paths([written] if written else [])


def _print_drivers(
    drivers: "Drivers",
    *,
    spread: bool = True,
    names: tuple[str, str] = ("excites", "inhibits"),
) -> None:
    """Both sides of each listed channel, and the share of the side that it is listed for."""

    def number(sign: str, value: float, sd: float) -> str:
        if not value:
            return "0"
        return f"{sign}{value:.3g}" + (f" ± {sd:.2g}" if spread else "")

    def rows(side: Side) -> list[tuple[str, str, str, str]]:
        whole = drivers.whole(side)
        return [
            (
                x.name,
                number("+", x.excitation, x.excitation_sd),
                number("-", x.inhibition, x.inhibition_sd),
                f"{x.of(side) / whole:.1%}",
            )
            for x in drivers.listed(side)
        ]

    headings = ("excitation", "inhibition", "share")
    out.print(two_sides(headings, rows(Side.EXCITATION), rows(Side.INHIBITION), names))


def _of_run(run: "Run", image: str) -> "ImageEntry":
    try:
        return run.images.find(image)
    except LookupError as error:
        raise LookupError(f"there is no file {image!r}, and {error}") from error


def _cell(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(number.strip().isdecimal() for number in parts):
        raise ValueError(f"a cell is ROW,COLUMN, such as 3,7; got {text!r}")
    return int(parts[0]), int(parts[1])


@app.command(
    rich_help_panel=EXPLAIN,
    epilog="Example: [bold]opponent invert run --image ID --side inhibition[/], with an ID that "
    "`opponent select run` lists; then look into run/synthesis",
)
def invert(
    run: RunFolder,
    image: Annotated[list[str], typer.Option(help="An image's id in the run; repeatable.")],
    side: Sides,
    feature: Features = None,
    accentuate: Annotated[bool, typer.Option("--accentuate", help="Start from the photo.")] = False,
    parameterisation: Parameterisation = "phases",
    objective: Objective = None,
    steps: Steps = 100,
    images: RunImages = None,
    model: RunModel = None,
    rule: RunRule = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Make images that look as one side of a feature's drive does, for all features or one."""
    from opponent.attribution.rules import parse_rule
    from opponent.core.progress import shown
    from opponent.core.text import in_deviations
    from opponent.storage.lookup import features_of
    from opponent.synthesis.cache import synthesise
    from opponent.synthesis.settings import SynthesisSettings

    opened = with_units(open_run(run, images), feature)
    network = scanned_network(opened, device, model)
    settings = SynthesisSettings(
        steps=steps, seed=seed, parameterisation=parameterisation, objective=objective
    )
    own_rule = None if rule is None else parse_rule(rule)
    ids = [opened.images.find(each).id for each in image]
    for each in features_of(opened, feature or None):
        columns = opened.columns(each, maps=False)
        for name in ids:
            for which in side:
                with shown(None) as progress:
                    picture = synthesise(
                        opened,
                        network,
                        each,
                        name,
                        "accentuation" if accentuate else "inversion",
                        which,
                        settings,
                        rule=own_rule,
                        progress=progress,
                    )
                own = float(columns.activation[columns.images.index(name)]) / columns.deviation
                out.print(
                    f"{picture.path}: {which}, {each.label} goes from {in_deviations(own, 2)} to "
                    f"{in_deviations(picture.final / columns.deviation, 2)}",
                    markup=False,
                    soft_wrap=True,
                )


@app.command(
    rich_help_panel=EXPLAIN,
    epilog="Example: [bold]opponent visualise inceptionv1-small mixed4a:5 --out pictures[/]",
)
def visualise(
    model: Model,
    feature: OneFeature,
    folder: Annotated[Path, typer.Option("--out", help="A folder for the pictures.")],
    side: Sides,
    parameterisation: Parameterisation = "phases",
    objective: Objective = None,
    directions: DirectionsFile = None,
    power: Power = 0,
    steps: Steps = 100,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Make images that raise, and lower, a feature's activation itself."""
    network = open_network(model, device)
    from opponent.core.text import file_name
    from opponent.synthesis.inversion import visualise as make
    from opponent.synthesis.settings import SynthesisSettings

    settings = SynthesisSettings(
        steps=steps, seed=seed, parameterisation=parameterisation, objective=objective
    )
    [resolved] = parse_features([feature], directions, power)
    for which in side:
        synthesised = make(network, resolved, side=which, settings=settings)
        [path] = synthesised.save(folder / f"{file_name(synthesised.feature.label)}-{which}.png")
        out.print(f"{path}: {float(synthesised.final):+.4g}", markup=False, soft_wrap=True)
