"""Commands on superposition: images that features share, and toy models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opponent.cli.application import PAPER, app
from opponent.cli.opening import open_network, ray_executor
from opponent.cli.options import (
    BatchSize,
    Cpus,
    Device,
    Folder,
    Format,
    Images,
    Model,
    RayAddress,
    Seed,
)
from opponent.cli.output import new_table, out, plain, print_paths

if TYPE_CHECKING:
    from opponent.paper.toy.interference_study import InterferenceStudy
    from opponent.paper.uniqueness.assessment import Assessment
    from opponent.paper.uniqueness.comparisons import Contrasts
    from opponent.paper.uniqueness.measurements import FeatureMeasurements


@app.command(
    rich_help_panel=PAPER,
    epilog="Examples: [bold]opponent uniqueness inceptionv1-small --images photos --out shared[/]; "
    "[bold]opponent uniqueness torchvision:squeezenet1_1 --images ~/photographs --out shared "
    "--layers features.7.expand3x3_activation,classifier.2:features.12 --top 20[/]",
)
def uniqueness(
    model: Model,
    images: Images,
    folder: Folder,
    features: Annotated[
        int, typer.Option(min=1, help="Random units, and k-means directions, a layer.")
    ] = 20,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="m, images a feature; default: 100, or a 50th of few images."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET[:THROUGH],...",
            help="Layers, each with the one before it to go through; default: all bottlenecks.",
        ),
    ] = None,
    kmeans: Annotated[
        int, typer.Option(min=1, help="Centroids to choose from; a 4th of few images.")
    ] = 1000,
    power: Annotated[
        int, typer.Option(help="A k-means direction's activation is dot * cos^POWER.")
    ] = 2,
    controls: Annotated[
        int,
        typer.Option(min=0, help="Draws of permuted and of random gradients to compare with."),
    ] = 5,
    dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            "--dictionary",
            help="A dictionary of a layer gone through, to count S in as well; repeatable.",
        ),
    ] = None,
    show: Annotated[
        str | None, typer.Option(help="Figure 8b's layer; default: a deep one.")
    ] = None,
    format: Format = "png",
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Say how many images features share, layer by layer (the paper's figures 8 and 16).

    Beside it stands how many features share that the network never learnt: with the weights in
    another order, or at random.
    Interrupted, it goes on where it stopped; with another --top, it measures nothing again.
    """
    from opponent.dictionaries.dictionary import Dictionary
    from opponent.paper.uniqueness.assessment import assess, sensible_top
    from opponent.paper.uniqueness.contrasts import contrast
    from opponent.paper.uniqueness.measure import UniquenessSettings, measure_features
    from opponent.paper.uniqueness.results import write_uniqueness
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    network = open_network(model, device)
    settings = UniquenessSettings(
        features=features,
        kmeans=kmeans,
        power=power,
        controls=controls,
        batch_size=batch_size,
        seed=seed,
    )
    measurements = measure_features(
        network,
        images,
        out=folder,
        layers=layers.split(",") if layers else None,
        dictionaries=[Dictionary.load(file) for file in dictionary or ()],
        settings=settings,
    )
    assessment = assess(measurements, top or sensible_top(len(measurements.images)))
    contrasts = contrast(measurements, assessment.table[0].top)
    paths = write_uniqueness(network, measurements, assessment, contrasts, show=show, suffix=format)
    _print_uniqueness(measurements, assessment)
    _print_controls(contrasts)
    if measurements.unreadable:
        count = len(measurements.unreadable)
        out.print(f"{count:,} images are left out (with reasons in {paths[0]})")
    print_paths(paths)


def _print_uniqueness(measurements: "FeatureMeasurements", assessment: "Assessment") -> None:
    from opponent.paper.uniqueness.measurements import SELECTIONS

    table = new_table(
        "layer", "through", "features", "n", "chance", "by activation", "by L1", "by L2", "shared"
    )
    for group in measurements.groups:
        name = group.pair.target
        rows = {x.by: x for x in assessment.table if (x.layer, x.kind) == (name, group.kind)}
        shared = sum((x.layer, x.kind) == (name, group.kind) for x in assessment.shared)
        row = rows["l1"]
        cells = [
            f"{rows[by].value:.3f} ({rows[by].low:.2f} to {rows[by].high:.2f})" for by in SELECTIONS
        ]
        table.add_row(
            *map(plain, (name, group.pair.through, group.kind, str(row.features))),
            f"{row.chance:.3f}",
            *cells,
            str(shared),
        )
    out.print(table)
    row = assessment.table[0]
    out.print(
        f"uniqueness U of the top m = {row.top:,} of N = {row.images:,} images, with 95 % "
        "intervals over the choice of features; shared: images of 3 in 4 features, by L1",
        style="dim",
    )
    skipped = {(x.layer, x.kind): x.skipped for x in assessment.table if x.skipped}
    for (name, kind), count in skipped.items():
        out.print(
            f"left out: {count} {kind} of {name}, with one value in all but a few images",
            markup=False,
        )


def _print_controls(contrasts: "Contrasts") -> None:
    from opponent.paper.uniqueness.contrasts import GRADIENTS

    rows = [x for x in contrasts.sharing if x.control == "permuted" and x.kind == "units"]
    if not rows:
        return
    table = new_table(
        "layer", "basis", "by", "U", "permuted", "more", "more, over h", "more, matched", "of h"
    )
    for row in rows:
        if row.given == "alone":
            same = row.layer, row.basis, row.by
            more = [x.more for x in rows if (x.layer, x.basis, x.by) == same]
            table.add_row(
                *map(plain, (row.layer, row.basis, row.by.upper())),
                f"{row.learnt.value:.3f}",
                f"{row.other.value:.3f}",
                *(f"{x.value:+.3f} ({x.low:+.2f} to {x.high:+.2f})" for x in more),
                f"{row.hidden_r:.2f}",
            )
    out.print(table)
    out.print(
        "U of units, and of units with their weights in another order; more: above 0, units share "
        "more images than these do, by the norm of S alone, over the norm of h, and with images "
        "matched by it. 95 % intervals over features, images and draws; of h: mean correlation of "
        "the norm of S with that of h",
        style="dim",
    )
    parallel = {
        (x.layer, x.gradient): x.squared_cosine for x in contrasts.parallel if x.kind == "units"
    }
    if parallel:
        table = new_table("layer", *GRADIENTS)
        for layer in dict.fromkeys(x.layer for x in rows):
            cells = [parallel.get((layer, gradient)) for gradient in GRADIENTS]
            shown = [
                "" if x is None else f"{x.value:.3f} ({x.low:.3f} to {x.high:.3f})" for x in cells
            ]
            table.add_row(plain(layer), *shown)
        out.print(table)
        out.print("mean squared cosine of two units' S in one image", style="dim")
    if left := [x for x in contrasts.remaining if x.kind == "units"]:
        table = new_table("layer", "dictionary", "gradient", "tension left", "L1 left", "with rest")
        for remaining in left:
            table.add_row(
                *map(plain, (remaining.layer, remaining.basis, remaining.gradient)),
                f"{remaining.tension.value:.0%}",
                f"{remaining.l1.value:.0%}",
                f"{remaining.l1_with_rest.value:.0%}",
            )
        out.print(table)


@app.command(
    rich_help_panel=PAPER,
    epilog="Examples: [bold]opponent toy abs --seeds 100 --out toy-abs[/]; "
    "[bold]opponent toy xor --hidden 12,6 --out toy-xor[/]",
)
def toy(
    task: Annotated[str, typer.Argument(metavar="abs|xor", help="What the models compute.")],
    folder: Folder,
    hidden: Annotated[str, typer.Option(help="Hidden units, one width after another.")] = (
        "12,10,8,6"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Models of each width.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training, of 600 inputs.")] = 20_000,
    settle: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the steps in which the rate falls to 0."),
    ] = 0.1,
    format: Format = "png",
    seed: Seed = 0,
    ray: RayAddress = None,
    cpus: Cpus = 1,
) -> None:
    """Train toy models of superposition (the paper's figures 7 and 15).

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.paper.toy.results import describe, write_study
    from opponent.paper.toy.study import train_study
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    study = train_study(
        task,
        out=folder,
        hidden=_widths(hidden),
        seeds=seeds,
        steps=steps,
        settle=settle,
        seed=seed,
        executor=ray_executor(ray, cpus, None, "cpu"),
    )
    table = new_table(
        "hidden",
        "best",
        "mean loss",
        "largest loss",
        "exact models",
        "mean off-diagonal",
        "tense outputs",
    )
    for models in study.models.values():
        row = describe(models)
        table.add_row(
            str(row["hidden"]),
            f"{row['best']}",
            f"{row['expected_loss']:.3g}",
            f"{row['largest_loss']:.3g}",
            f"{row['exact_models']} of {seeds:,}",
            f"{row['off_diagonal']['mean']:.2g}",
            f"{row['tense_outputs']} of 6",
        )
    out.print(table)
    print_paths(write_study(study, folder, suffix=format))


def _widths(hidden: str) -> list[int]:
    texts = hidden.split(",")
    if not all(text.strip().isdecimal() for text in texts):
        raise ValueError(f"--hidden is whole numbers and commas, such as 12,6; got {hidden!r}")
    return [int(text) for text in texts]


@app.command(
    "toy-interference",
    rich_help_panel=PAPER,
    epilog="Examples: [bold]opponent toy-interference --out known[/]; "
    "[bold]opponent toy-interference --tasks veto --seeds 20 --out veto[/]",
)
def toy_interference(
    folder: Folder,
    tasks: Annotated[
        str, typer.Option(metavar="TASK,...", help="What the models compute: abs, xor, veto.")
    ] = "abs,xor,veto",
    hidden: Annotated[str, typer.Option(help="Hidden units, one width after another.")] = (
        "12,10,8,6"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Models of each task and width.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training, of 600 inputs.")] = 20_000,
    active: Annotated[int, typer.Option(min=1, help="Latents that are on at once.")] = 2,
    dictionary_steps: Annotated[
        int, typer.Option(min=1, help="Steps of training of a dictionary.")
    ] = 1000,
    format: Format = "png",
    seed: Seed = 0,
) -> None:
    """Tell functional inhibition from interference where the features are known.

    Tension of toy models in hidden units, in their true features and in dictionaries that are
    learnt. Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.paper.toy.interference_results import write_interference
    from opponent.paper.toy.interference_study import InterferenceSettings, study_interference
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    study = study_interference(
        out=folder,
        tasks=tasks.split(","),
        hidden=_widths(hidden),
        settings=InterferenceSettings(
            seeds=seeds,
            steps=steps,
            active=active,
            dictionary_steps=dictionary_steps,
            seed=seed,
        ),
    )
    _print_interference(study)
    print_paths(write_interference(study, folder, suffix=format))


def _print_interference(study: "InterferenceStudy") -> None:
    from opponent.paper.toy.interference_results import summarise

    table = new_table(
        "task", "hidden", "exact models", "case", "in units", "in true features",
        "in learnt latents", "AUC true", "AUC learnt", "features found",
    )  # fmt: skip
    for row in summarise(study):
        for kind, true in row["tension"]["true"].items():
            areas, functional = row.get("area_opposed", {}), kind == "functional"
            known = functional and areas["models"]
            cells = [
                f"{areas[f'remaining, {name}']['mean']:.2f}" if known else ""
                for name in ("true", "learnt")
            ]
            table.add_row(
                *map(plain, (row["task"], str(row["hidden"]))),
                f"{row['exact_models']} of {row['models']}",
                plain(kind),
                *(f"{x:.3f}" for x in (true["units"], true["latents"])),
                f"{row['tension']['learnt'][kind]['latents']:.3f}",
                *cells,
                f"{row['found']['learnt']:.0%}",
            )
    out.print(table)
    out.print(
        "mean tension, min(E+, E-), over inputs with one or two inputs or pairs on; functional: "
        "the output's own features pull against each other; other: only others' features are "
        "on; AUC: how well the share of tension that remains tells functional from other",
        style="dim",
    )
