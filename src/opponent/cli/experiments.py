"""Commands for the paper's experiments: when the method may be believed."""

from pathlib import Path
from typing import Annotated

import typer

from opponent.cli.common import (
    Cpus,
    Device,
    Model,
    Ray,
    RuleName,
    Seed,
    Steps,
    Weights,
    app,
    file_name,
    new_table,
    open_network,
    open_networks,
    out,
    plain,
    progress_bars,
)


@app.command(
    epilog="Examples: [bold]opponent completeness inceptionv1-mini --images photos "
    "--out complete[/]; "
    "[bold]opponent completeness torchvision:squeezenet1_1=squeezenet.safetensors "
    "--images ~/photographs --out complete[/]"
)
def completeness(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL[=FILE]...", help="Models, each with its file of weights."),
    ],
    images: Annotated[str, typer.Option(help="A folder, a file, a .txt list, or 'photos'.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder, new or to go on with.")],
    logits: Annotated[int, typer.Option(min=1, help="Random logits to average over.")] = 20,
    layer: Annotated[str, typer.Option(help="Another layer to take random units of.")] = "logits",
    through: Annotated[
        list[str] | None, typer.Option(help="Only through this layer; repeatable.")
    ] = None,
    branches: Annotated[
        bool, typer.Option("--branches", help="Through branches too; they cannot be complete.")
    ] = False,
    rule: RuleName = "gradient",
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a pass.")] = 16,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure whether S sums to the activation, layer by layer (the paper's figures 3 and 13).

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.paper.completeness import completeness as measure
    from opponent.paper.completeness import write_completeness
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    measured = []
    with progress_bars() as report:
        for network in open_networks(models, device):
            measured.append(
                measure(
                    network,
                    images,
                    out=folder / file_name(network.name) / file_name(rule),
                    features=logits,
                    layer=layer,
                    throughs=through,
                    branches=branches,
                    rule=rule,
                    batch_size=batch_size,
                    seed=seed,
                    progress=report,
                )
            )
        paths = write_completeness(measured, folder, suffix=format)
    for one in measured:
        table = new_table("layer", "depth", "Pearson", "Spearman", "mean |f - E|, sd")
        for row in one.rows():
            name = plain(row["layer"]) + ("" if row["whole"] else " (a branch)")
            cells = [
                "undefined" if row[key] is None else f"{row[key]:.4f} ± {row[f'{key}_sd']:.4f}"
                for key in ("pearson", "spearman", "l1_in_sd")
            ]
            table.add_row(name, f"{row['depth']:.2f}", *cells)
        out.print(f"{one.network}, {one.rule.label}", style="bold", markup=False)
        out.print(table)
        about = f"{len(one.features)} units of {one.features[0].layer}, "
        about += f"{len(one.activation):,} images; mean ± sd over the units"
        if constant := int((one.deviation == 0).sum()):
            about += f"; {constant} of them constant, and left out"
        if one.unreadable:
            about += f"; {len(one.unreadable):,} images could not be read"
        out.print(about, style="dim", markup=False)
    for path in paths:
        out.print(str(path), markup=False)


@app.command(
    epilog="Example: [bold]opponent weights inceptionv1-mini "
    "torchvision:squeezenet1_1=squeezenet.safetensors --out signs[/]"
)
def weights(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL[=FILE]...", help="Models, each with its file of weights."),
    ],
    folder: Annotated[Path, typer.Option("--out", help="A folder for table and figure.")],
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    seed: Seed = 0,
) -> None:
    """Count the negative weights of networks, layer by layer (the paper's figure 12)."""
    from opponent.paper.weight_signs import weight_signs, write_weights
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    found = []
    with progress_bars() as report:
        for number, text in enumerate(models):
            report("networks", number, len(models))
            [network] = open_networks([text])
            found.append(weight_signs(network, seed=seed))
        report("networks", len(models), len(models))
    paths = write_weights(found, folder, seed=seed, suffix=format)
    table = new_table(
        "network", "weights", "negative", "95 % interval", "layers", "mostly negative"
    )
    for each in found:
        table.add_row(
            plain(each.network),
            f"{each.count:,}",
            "" if each.share is None else f"{each.share:.2%}",
            "" if each.interval is None else "{:.2%} to {:.2%}".format(*each.interval),
            str(len(each.layers)),
            str(each.mostly_negative),
        )
    out.print(table)
    for each in found:
        if each.untrained:
            out.print(
                f"{each.network}: its signs cannot be told from those of random weights "
                f"(p = {each.fair:.2g}); is it trained?",
                markup=False,
            )
        if each.left_out:
            unused = ", ".join(each.left_out)
            out.print(f"{each.network}: no pass uses {unused}; left out", markup=False)
    for path in paths:
        out.print(str(path), markup=False)


@app.command(
    "verify-inversions",
    epilog="Examples: [bold]opponent verify-inversions inceptionv1-mini --images photos "
    "--out verified[/]; [bold]opponent verify-inversions torchvision:squeezenet1_1 "
    "--images ~/photographs --pair features.7.expand3x3_activation:features.6 --units 4 "
    "--out verified[/]",
)
def verify_inversions(
    model: Model,
    images: Annotated[str, typer.Option(help="A folder, a file, a .txt list, or 'photos'.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder, new or to go on with.")],
    pair: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET[:THROUGH]",
            help="A layer, and the one before it to go through; repeatable. Else --layers.",
        ),
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="Layers, spread over the network.")] = 5,
    units: Annotated[int, typer.Option(min=1, help="Random units a layer.")] = 20,
    tense: Annotated[int, typer.Option(min=1, help="Tensest images a unit.")] = 10,
    weights: Weights = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    steps: Steps = 100,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Check that inversions excite and inhibit as they should (the paper's figure 14).

    Draws figure 11 too, what they optimise. Interrupted, it goes on where it stopped.
    """
    from opponent.paper.inversion_check import SIDES, verify, write_verification
    from opponent.plots.layout import check_suffix
    from opponent.synthesis.inversion import SynthesisSettings

    check_suffix(format)
    network = open_network(model, weights, device)
    with progress_bars() as report:
        found = verify(
            network,
            images,
            folder,
            pairs=pair,
            layers=layers,
            units=units,
            images_each=tense,
            # More at once cost more memory, and are hardly faster.
            settings=SynthesisSettings(steps=steps, seed=seed, batch=min(tense, 10)),
            progress=report,
        )
        paths = write_verification(found, folder, suffix=format)
    table = new_table(
        "layer", "through", "side", "as they should", "own", "first", "final", "range"
    )
    for each in found.layers:
        for side, sign in SIDES.items():
            traces = each.sides[side].describe(sign)
            row = [each.pair.target, each.pair.through + ("" if each.pair.whole else " (a branch)")]
            row += [side, f"{traces['moved_as_they_should']} of {traces['inversions']}"]
            if traces["inversions"]:
                final = traces["final"]
                row += [f"{x['median']:+.2f}" for x in (traces["own"], traces["steps"][0], final)]
                row.append(f"{final['least']:+.2f} to {final['most']:+.2f}")
            table.add_row(*map(plain, row))
    out.print(table)
    out.print("medians of the activation, in standard deviations over the images", style="dim")
    for each in found.layers:
        for unit, side, why in each.skipped:
            what = "" if side == "both" else f", {side}"
            out.print(f"left out: {each.pair.target}:{unit}{what}: {why}", markup=False)
    if found.count:
        out.print(
            f"{found.moved} of {found.count} inversions ({found.moved / found.count:.1%}) move the "
            "activation as they should"
        )
    for path in paths:
        out.print(str(path), markup=False)


@app.command(
    epilog="Examples: [bold]opponent uniqueness inceptionv1-mini --images photos --out shared[/]; "
    "[bold]opponent uniqueness torchvision:squeezenet1_1 --images ~/photographs --out shared "
    "--layers features.7.expand3x3_activation,classifier.2:features.12 --top 20[/]"
)
def uniqueness(
    model: Model,
    images: Annotated[str, typer.Option(help="A folder, a file, a .txt list, or 'photos'.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder, new or to go on with.")],
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
            help="Layers, each with the one before it to go through; default: all whole layers.",
        ),
    ] = None,
    kmeans: Annotated[
        int, typer.Option(min=1, help="Centroids to choose from; a 4th of few images.")
    ] = 1000,
    power: Annotated[
        int, typer.Option(help="A k-means direction's activation is dot * cos^POWER.")
    ] = 2,
    show: Annotated[
        str | None, typer.Option(help="Figure 8b's layer; default: a deep one.")
    ] = None,
    weights: Weights = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a pass.")] = 32,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Say how many images features share, layer by layer (the paper's figures 8 and 16).

    Interrupted, it goes on where it stopped; with another --top, it measures nothing again.
    """
    from opponent.paper.uniqueness.drawing import write_uniqueness
    from opponent.paper.uniqueness.measure import (
        SELECTIONS,
        UniquenessSettings,
        assess,
        measure_features,
        sensible_top,
    )
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    network = open_network(model, weights, device)
    settings = UniquenessSettings(
        features=features, kmeans=kmeans, power=power, batch_size=batch_size, seed=seed
    )
    with progress_bars() as report:
        measured = measure_features(
            network,
            images,
            folder,
            layers=layers.split(",") if layers else None,
            settings=settings,
            progress=report,
        )
        found = assess(measured, top or sensible_top(len(measured.images)))
        paths = write_uniqueness(
            measured, found, network, show=show, suffix=format, progress=report
        )
    table = new_table(
        "layer", "through", "features", "n", "chance", "by activation", "by L1", "by L2", "shared"
    )
    for group in measured.groups:
        name = group.pair.target
        rows = {x.by: x for x in found.table if (x.layer, x.kind) == (name, group.kind)}
        shared = sum((x.layer, x.kind) == (name, group.kind) for x in found.shared)
        one = rows["l1"]
        cells = [
            f"{rows[by].value:.3f} ({rows[by].low:.2f} to {rows[by].high:.2f})" for by in SELECTIONS
        ]
        table.add_row(
            *map(plain, (name, group.pair.through, group.kind, str(one.features))),
            f"{one.chance:.3f}",
            *cells,
            str(shared),
        )
    out.print(table)
    one = found.table[0]
    out.print(
        f"uniqueness U of the top m = {one.top:,} of N = {one.images:,} images, with 95 % "
        "intervals over the choice of features; shared: images of 3 in 4 features, by L1",
        style="dim",
    )
    skipped = {(x.layer, x.kind): x.skipped for x in found.table if x.skipped}
    for (name, kind), count in skipped.items():
        out.print(
            f"left out: {count} {kind} of {name}, with one value in all but a few images",
            markup=False,
        )
    if measured.unreadable:
        out.print(f"{len(measured.unreadable):,} images could not be read (they are in {paths[0]})")
    for path in paths:
        out.print(str(path), markup=False)


@app.command(
    epilog="Examples: [bold]opponent toy abs --seeds 100 --out toy-abs[/]; "
    "[bold]opponent toy xor --hidden 12,6 --out toy-xor[/]"
)
def toy(
    task: Annotated[str, typer.Argument(metavar="abs|xor", help="What the models compute.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder, new or to go on with.")],
    hidden: Annotated[str, typer.Option(help="Hidden units, one width after another.")] = (
        "12,10,8,6"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Models of each width.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training, of 600 inputs.")] = 20_000,
    settle: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the steps in which the rate falls to 0."),
    ] = 0.1,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    seed: Seed = 0,
    ray: Ray = None,
    cpus: Cpus = 1,
) -> None:
    """Train toy models of superposition (the paper's figures 7 and 15).

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.paper.toy.models import describe, study, write_study
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    texts = hidden.split(",")
    if not all(text.strip().isdecimal() for text in texts):
        raise ValueError(f"--hidden is whole numbers and commas, such as 12,6; got {hidden!r}")
    with progress_bars() as report:
        found = study(
            task,
            out=folder,
            hidden=[int(text) for text in texts],
            seeds=seeds,
            steps=steps,
            settle=settle,
            seed=seed,
            ray=ray,
            cpus=cpus,
            progress=lambda done, total: report("models", done, total),
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
    for toys in found.models.values():
        row = describe(toys)
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
    for path in write_study(found, folder, suffix=format):
        out.print(str(path), markup=False)


@app.command(
    epilog="Examples: [bold]opponent reproduce --images photos --out paper[/]; "
    "[bold]opponent reproduce --model torchvision:squeezenet1_1 --images ~/imagenet-val "
    "--scale paper --out paper[/]"
)
def reproduce(
    images: Annotated[str, typer.Option(help="A folder, a file, a .txt list, or 'photos'.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder, new or to go on with.")],
    model: Annotated[
        str, typer.Option(help="A model's name; `opponent models` lists them.")
    ] = "inceptionv1-mini",
    scale: Annotated[
        str, typer.Option(help="quick (20 minutes on two cores) or paper (its own sizes).")
    ] = "quick",
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Make every figure of the paper, and a page that says what agrees with it.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.paper.reproduce.page import SCALES
    from opponent.paper.reproduce.page import reproduce as make

    if scale not in SCALES:
        raise ValueError(f"--scale is one of {', '.join(SCALES)}, not {scale!r}")
    network = open_network(model, weights, device)
    with progress_bars() as report:
        path = make(network, images, folder, scale=SCALES[scale], seed=seed, progress=report)
    out.print(str(path.absolute()), markup=False)
