"""Commands for the paper's experiments: when the method may be believed."""

from pathlib import Path
from typing import Annotated

import typer

from opponent.cli.application import PAPER, app
from opponent.cli.opening import open_network, open_networks
from opponent.cli.options import (
    BatchSize,
    Device,
    Folder,
    Format,
    Images,
    Model,
    Models,
    Rule,
    Seed,
    Steps,
)
from opponent.cli.output import new_table, out, plain, print_paths
from opponent.core.text import file_name
from opponent.models.catalogue import EMBEDDED


@app.command(
    rich_help_panel=PAPER,
    epilog="Examples: [bold]opponent completeness inceptionv1-small --images photos "
    "--out complete[/]; "
    "[bold]opponent completeness torchvision:squeezenet1_1=squeezenet.safetensors "
    "--images ~/photographs --out complete[/]",
)
def completeness(
    models: Models,
    images: Images,
    folder: Folder,
    logits: Annotated[
        int | None, typer.Option(min=1, help="Only so many random logits; default: all.")
    ] = None,
    layer: Annotated[str, typer.Option(help="Another layer to take units of.")] = "logits",
    parts: Annotated[
        int, typer.Option(min=0, help="Of so many random units, what f - E is made of.")
    ] = 0,
    through: Annotated[
        list[str] | None, typer.Option(help="Only through this layer; repeatable.")
    ] = None,
    branches: Annotated[
        bool, typer.Option("--branches", help="Through branches too; they cannot be complete.")
    ] = False,
    rule: Rule = "gradient",
    format: Format = "png",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure whether S sums to the activation, layer by layer (the paper's figures 3 and 13).

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.paper.completeness import completeness as measure
    from opponent.paper.completeness import write_completeness
    from opponent.paper.missing import measure_missing, write_missing
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    measurements, more = [], []
    for network in open_networks(models, device):
        measurements.append(
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
            )
        )
        if parts:
            place = folder / file_name(network.name) / "missing"
            missing = measure_missing(
                network, images, out=place / "measured", features=parts, layer=layer,
                batch_size=batch_size, seed=seed,
            )  # fmt: skip
            more += write_missing(missing, place, suffix=format)
    paths = write_completeness(measurements, folder, suffix=format) + more
    for measured in measurements:
        table = new_table("layer", "depth", "Pearson", "Spearman", "mean |f - E|, sd")
        for row in measured.rows():
            name = plain(str(row["layer"])) + ("" if row["bottleneck"] else " (a branch)")
            cells = [
                "undefined" if row[key] is None else f"{row[key]:.4f} ± {row[f'{key}_sd']:.4f}"
                for key in ("pearson", "spearman", "l1_in_sd")
            ]
            table.add_row(name, f"{row['depth']:.2f}", *cells)
        out.print(f"{measured.network}, {measured.rule.label}", style="bold", markup=False)
        out.print(table)
        about = f"{len(measured.features)} units of {measured.features[0].layer}, "
        about += f"{len(measured.activation):,} images; mean ± sd over the units"
        if constant := int((measured.deviation == 0).sum()):
            about += f"; {constant} of them constant, and left out"
        if measured.no_r:
            about += f"; no correlations: {measured.no_r}"
        if measured.unreadable:
            about += f"; {len(measured.unreadable):,} images are left out"
        out.print(about, style="dim", markup=False)
    print_paths(paths)


@app.command(
    rich_help_panel=PAPER,
    epilog="Example: [bold]opponent weights inceptionv1-small "
    "torchvision:squeezenet1_1=squeezenet.safetensors --out signs[/]",
)
def weights(
    models: Models,
    folder: Annotated[Path, typer.Option("--out", help="A folder for table and figure.")],
    format: Format = "png",
    seed: Seed = 0,
) -> None:
    """Count the negative weights of networks, layer by layer (the paper's figure 12)."""
    from opponent.paper.weight_signs import weight_signs, write_weights
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    signs = [weight_signs(network, seed=seed) for network in open_networks(models)]
    paths = write_weights(signs, folder, seed=seed, suffix=format)
    table = new_table(
        "network", "weights", "negative", "95 % interval", "layers", "mostly negative"
    )
    for counted in signs:
        table.add_row(
            plain(counted.network),
            f"{counted.count:,}",
            "" if counted.share is None else f"{counted.share:.2%}",
            "" if counted.interval is None else "{:.2%} to {:.2%}".format(*counted.interval),
            str(len(counted.layers)),
            str(counted.mostly_negative),
        )
    out.print(table)
    for counted in signs:
        if counted.untrained:
            out.print(
                f"{counted.network}: its signs cannot be told from those of random weights "
                f"(p = {counted.fair:.2g}); is it trained?",
                markup=False,
            )
        if counted.left_out:
            unused = ", ".join(counted.left_out)
            out.print(f"{counted.network}: no pass uses {unused}; left out", markup=False)
    print_paths(paths)


@app.command(
    "verify-inversions",
    rich_help_panel=PAPER,
    epilog="Examples: [bold]opponent verify-inversions inceptionv1-small --images photos "
    "--out verified[/]; [bold]opponent verify-inversions torchvision:squeezenet1_1 "
    "--images ~/photographs --pair features.7.expand3x3_activation:features.6 --units 4 "
    "--out verified[/]",
)
def verify_inversions(
    model: Model,
    images: Images,
    folder: Folder,
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
    format: Format = "png",
    steps: Steps = 100,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Check that inversions excite and inhibit as they should (the paper's figure 14).

    Draws figure 11 too, what they optimise. Interrupted, it goes on where it stopped.
    """
    from opponent.core.side import SIDES
    from opponent.paper.inversion_check import check_inversions, write_inversion_check
    from opponent.plots.layout import check_suffix
    from opponent.synthesis.settings import SynthesisSettings

    check_suffix(format)
    network = open_network(model, device)
    check = check_inversions(
        network,
        images,
        out=folder,
        pairs=pair,
        layers=layers,
        units=units,
        images_each=tense,
        # More at once cost more memory, and are hardly faster.
        settings=SynthesisSettings(steps=steps, seed=seed, batch=min(tense, 10)),
    )
    paths = write_inversion_check(check, folder, suffix=format)
    table = new_table(
        "layer", "through", "side", "as they should", "own", "first", "final", "range"
    )
    for inversions in check.layers:
        target, through = inversions.pair.target, inversions.pair.through
        through += "" if inversions.pair.bottleneck else " (a branch)"
        for side in SIDES:
            traces = inversions.sides[side].describe(side)
            row = [target, through, side.value]
            row.append(f"{traces['moved_as_they_should']} of {traces['inversions']}")
            if traces["inversions"]:
                final = traces["final"]
                row += [f"{x['median']:+.2f}" for x in (traces["own"], traces["steps"][0], final)]
                row.append(f"{final['least']:+.2f} to {final['most']:+.2f}")
            table.add_row(*map(plain, row))
    out.print(table)
    out.print("medians of the activation, in standard deviations over the images", style="dim")
    for inversions in check.layers:
        for unit, sides, why in inversions.skipped:
            what = "" if sides == "both" else f", {sides}"
            out.print(f"left out: {inversions.pair.target}:{unit}{what}: {why}", markup=False)
    if check.count:
        out.print(
            f"{check.moved} of {check.count} inversions ({check.moved / check.count:.1%}) move the "
            "activation as they should"
        )
    print_paths(paths)


@app.command(
    rich_help_panel=PAPER,
    epilog="Examples: [bold]opponent reproduce --images photos --out paper[/]; "
    "[bold]opponent reproduce --model torchvision:squeezenet1_1 --images ~/imagenet-val "
    "--scale paper --out paper[/]",
)
def reproduce(
    images: Images,
    folder: Folder,
    model: Annotated[
        str, typer.Option(help="A model's name; `opponent models` lists them.")
    ] = EMBEDDED,
    scale: Annotated[
        str,
        typer.Option(
            help="quick or paper (its own sizes); what it takes is said before it starts."
        ),
    ] = "quick",
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Make every figure of the paper, and a page that says what agrees with it.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.images.sources import open_images
    from opponent.paper.reproduce.estimate import expected_seconds, say
    from opponent.paper.reproduce.page import reproduce as make
    from opponent.paper.reproduce.scales import SCALES

    if scale not in SCALES:
        raise ValueError(f"--scale is one of {', '.join(SCALES)}, not {scale!r}")
    network = open_network(model, device)
    source = open_images(images, size=network.preprocessing.size)
    seconds = expected_seconds(network, len(source), SCALES[scale])
    out.print(say(seconds), markup=False)
    path = make(network, source, out=folder, scale=SCALES[scale], seed=seed)
    out.print(str(path.absolute()), markup=False)
