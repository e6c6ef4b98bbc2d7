"""Commands to start with: which networks, which layers, a scan, a demonstration."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opponent.cli.application import START, app
from opponent.cli.opening import open_network, open_run, parse_features, ray_executor
from opponent.cli.options import (
    BatchSize,
    Cpus,
    Device,
    DirectionsFile,
    Gpus,
    Images,
    Model,
    Power,
    RayAddress,
    Rule,
    RunFolder,
    Seed,
    Through,
)
from opponent.cli.output import new_table, out, plain
from opponent.storage.files import to_path

if TYPE_CHECKING:
    from opponent.core.feature import Feature
    from opponent.models.network import Network
    from opponent.storage.run import Run


@app.command(rich_help_panel=START, epilog="Example: [bold]opponent demo --out demo[/]")
def demo(
    folder: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("demo"),
) -> None:
    """Scan the embedded network over photographs, and write the report of a tense feature."""
    from opponent.reports.demo import run_demo

    out.print(str(run_demo(folder).absolute()), markup=False, soft_wrap=True)


@app.command(rich_help_panel=START, epilog="Example: [bold]opponent models[/]")
def models() -> None:
    """List the models that can be named."""
    from opponent.models.catalogue import MODELS

    table = new_table("name", "what it is")
    for name, what in MODELS.items():
        table.add_row(name, what)
    out.print(table)


@app.command(rich_help_panel=START, epilog="Example: [bold]opponent layers inceptionv1-mini[/]")
def layers(model: Model) -> None:
    """List a model's layers: kind, channels, output size, stride, receptive field.

    The receptive field is given as if the image had no border; 'whole' reaches over all of it.
    """
    network = open_network(model)
    from opponent.core.errors import UnknownGeometry
    from opponent.geometry.receptive_field import field_and_stride, receptive_fields_by_layer

    try:
        fields = receptive_fields_by_layer(network)
    except UnknownGeometry:
        fields = {}
    table = new_table("name", "kind", "channels", "output", "stride", "receptive field")
    height, width = network.preprocessing.size
    for layer in network.layers.values():
        channels, rows, columns = layer.shape
        stride, field = "", "unknown"
        if layer.name in fields:
            box, steps = field_and_stride(fields[layer.name])
            stride = " x ".join(f"{x:g}" for x in steps) if all(steps) else ""
            field = f"{box.height} x {box.width}"
            if (box.height >= 2 * height and box.width >= 2 * width) or not all(steps):
                field += " (whole)"
        calls = f" (called {layer.calls} times)" if layer.calls > 1 else ""
        table.add_row(
            layer.name, layer.kind + calls, str(channels), f"{rows} x {columns}", stride, field
        )
    out.print(table)
    out.print(f"{network.name}, input {height} x {width} pixels", style="dim")


@app.command(
    rich_help_panel=START,
    epilog="Examples: [bold]opponent scan inceptionv1-mini mixed4a:5 --through mixed3b "
    "--images photos --out run[/]; "
    "[bold]opponent scan torchvision:squeezenet1_1 logits:954 logits:1 --through features.9 "
    "--images ~/photographs --out bananas[/]; by many machines: [bold]opponent scan "
    "inceptionv1-mini mixed4a:5 --through mixed3b --images /data/photographs --out /data/run "
    "--ray auto[/]",
)
def scan(
    model: Model,
    features: Annotated[
        list[str],
        typer.Argument(
            metavar="FEATURE...",
            help="LAYER:UNIT or LAYER:UNIT@ROW,COLUMN; LAYER:* is all units of the layer, "
            "LAYER:*@* at all positions.",
        ),
    ],
    through: Through,
    images: Images,
    folder: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=to_path,
            metavar="PATH",
            help="The run folder, new or to go on with; s3://... and the like, too.",
        ),
    ],
    directions: DirectionsFile = None,
    power: Power = 0,
    batch_size: BatchSize = 32,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a file of results.")] = 256,
    rule: Rule = "gradient",
    dtype: Annotated[
        str,
        typer.Option(help="What to compute in: float32, bfloat16 (its error is printed), float64."),
    ] = "float32",
    draft: Annotated[
        bool, typer.Option("--draft", help="Decode large JPEGs at fewer pixels: faster, not exact.")
    ] = False,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="BLACK WHITE",
            help="The values that are black and white, such as 0 4095 for 12-bit images in 16-bit "
            "files.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    ray: RayAddress = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
) -> None:
    """Attribute features of one layer in every image, into a run folder.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    network = open_network(model, device)
    from opponent.scan.local import scan_images

    prepared = replace(network.preprocessing, draft=draft)
    if value_range is not None:
        prepared = replace(prepared, value_range=value_range)
    network = network.with_preprocessing(prepared)
    chosen: Sequence[Feature | str] = features
    if directions or power:
        chosen = parse_features(features, directions, power)
    if dtype != "float32":
        _compute_in(network, dtype, chosen, through, images)
    run = scan_images(
        network,
        images,
        chosen,
        through,
        out=folder,
        rule=rule,
        batch_size=batch_size,
        shard_size=shard_size,
        seed=seed,
        executor=ray_executor(ray, cpus, gpus, device),
    )
    _print_scan(run, folder)


def _compute_in(
    network: "Network", dtype: str, features: "Sequence[Feature | str]", through: str, images: str
) -> None:
    from opponent.scan.plan import rounding
    from opponent.scan.reopen import DTYPES

    if dtype not in DTYPES:
        raise ValueError(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    errors = rounding(network, images, features, through, DTYPES[dtype])
    listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    out.print(f"{dtype} against float32 on the first images, relative error: {listed}")


def _print_scan(run: "Run", folder: Path) -> None:
    unreadable = run.unreadable()
    out.print(f"{len(run.images) - len(unreadable):,} images scanned into {folder}", markup=False)
    if unreadable:
        out.print(
            f"{len(unreadable):,} could not be read (all are in {folder / 'unreadable.csv'}):",
            markup=False,
        )
        for image, reason in list(unreadable.items())[:10]:
            out.print(f"  {image}: {reason}", markup=False)
    for feature in run.features:
        correlation = run.columns(feature, maps=False).completeness
        out.print(f"{feature.label}: {_completeness(correlation, run)}", markup=False)
    if run.manifest.units is not None:
        count = run.manifest.units.count
        out.print(f"all {count:,} units: opponent units {folder}", style="dim", markup=False)
    if run.features:
        following = f"next: opponent select {folder}; opponent report {folder}"
        out.print(following, style="dim", markup=False)


def _completeness(correlation: float, run: "Run") -> str:
    from opponent.storage.columns import COMPLETE

    text = f"excitation - inhibition follows the activation with r = {correlation:.3f}"
    if correlation < COMPLETE:
        text += ": the two sides do not account for it"
        text += "; see --rule integrated-zero" if run.manifest.rule == "gradient" else ""
    return text


@app.command(
    rich_help_panel=START,
    epilog="Example: [bold]opponent directions inceptionv1-mini mixed4a --images photos --k 200 "
    "--spread 20 --out kmeans.safetensors[/]; then [bold]opponent scan inceptionv1-mini "
    "mixed4a:kmeans17 --directions kmeans.safetensors --through mixed3b --images photos "
    "--out run[/]",
)
def directions(
    model: Model,
    layer: Annotated[str, typer.Argument(help="The layer whose hidden vectors are clustered.")],
    images: Images,
    file: Annotated[Path, typer.Option("--out", help="The file to write (.safetensors).")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many directions.")] = 1000,
    spread: Annotated[
        int | None,
        typer.Option(min=1, help="Write so many well-separated ones to FILE-spread too."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Find a layer's feature directions: spherical k-means of hidden vectors, one an image.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    if spread is not None and spread > k:
        raise ValueError(
            f"--spread {spread} is more than the --k {k} directions that there will be"
        )
    network = open_network(model, device)
    from opponent.directions import check_suffix, find_and_save_directions

    check_suffix(file)
    clustered = find_and_save_directions(network, images, layer, file, count=k, seed=seed)
    out.print(f"{file}: {len(clustered)} directions of {layer}", markup=False, soft_wrap=True)
    if spread is not None:
        apart = clustered.spread(spread, seed=seed)
        beside = file.with_name(f"{file.stem}-spread{file.suffix}")
        apart.save(beside)
        out.print(f"{beside}: {', '.join(apart.labels)}", markup=False)


@app.command(
    rich_help_panel=START,
    epilog="Example: [bold]opponent scan inceptionv1-mini 'mixed3b:*' --through mixed3a "
    "--images photos --out layer[/]; then [bold]opponent units layer --score tension[/]",
)
def units(
    folder: RunFolder,
    score: Annotated[
        str, typer.Option(help="activation, excitation, inhibition, tension, l1 or l2.")
    ] = "tension",
    top: Annotated[int, typer.Option(min=1, help="How many units.")] = 20,
) -> None:
    """List a layer's units by how strong a score is in the images: its 95th percentile.

    Tension is the smaller of excitation and inhibition. Quantiles are right to 1 %; all of them,
    and 16 images at either end of each score, are in units.parquet.
    """
    from opponent.storage.summary import SCORES

    if score not in SCORES:
        raise ValueError(f"--score is one of {', '.join(SCORES)}, not {score!r}")
    run = open_run(folder)
    rows = [row for row in run.units().to_pylist() if row["score"] == score]
    table = new_table("unit", "5 %", "median", "95 %", "largest", "in image")
    for row in sorted(rows, key=lambda row: -row["q95"])[:top]:
        values = [row["q05"], row["q50"], row["q95"], *row["top_values"][:1]]
        table.add_row(
            str(row["unit"]), *(f"{x:.4g}" for x in values), plain("".join(row["top_images"][:1]))
        )
    out.print(table)
    record = run.all_units()
    where = ""
    if record.position is not None:
        where = "@*" if record.position == "*" else "@{},{}".format(*record.position)
    out.print(
        f"{score} of {record.layer}:*{where} through {run.through} over "
        f"{rows[0]['images']:,} images",
        style="dim",
        markup=False,
    )
