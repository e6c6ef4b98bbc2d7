"""Commands to start with: which networks, which layers, a scan, a demonstration."""

from collections.abc import Mapping, Sequence
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
from opponent.cli.output import command, new_table, out, plain
from opponent.core.plugins import names_object
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
    from opponent.models.catalogue import EMBEDDED
    from opponent.reports.demo import run_demo

    out.print(
        f"The network is {EMBEDDED}, which ships inside: half as wide as InceptionV1, and trained "
        "to do as it does. For the real one get the Caffe model zoo's bvlc_googlenet.caffemodel, "
        "and name it as inceptionv1-bvlc=FILE.",
        markup=False,
    )
    out.print(str(run_demo(folder).absolute()), markup=False, soft_wrap=True)


@app.command(
    rich_help_panel=START,
    epilog="Examples: [bold]opponent scan inceptionv1-small mixed4a:5 --through mixed3b "
    "--images photos --out run[/]; "
    "[bold]opponent scan torchvision:squeezenet1_1 logits:954 logits:1 --through features.9 "
    "--images ~/photographs --out bananas[/]; by many machines: [bold]opponent scan "
    "inceptionv1-small mixed4a:5 --through mixed3b --images /data/photographs --out /data/run "
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
    dictionary: Annotated[
        Path | None,
        typer.Option(help="A dictionary of the through layer: S is of its latents."),
    ] = None,
    batch_size: BatchSize = 32,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a file of results.")] = 256,
    rule: Rule = "gradient",
    dtype: Annotated[
        str,
        typer.Option(
            help="What to compute in: float32, float64, bfloat16, float16; of the last two the "
            "error is printed."
        ),
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
    largest: Annotated[
        float | None,
        typer.Option(
            "--largest-image",
            min=0.000001,
            metavar="MEGAPIXELS",
            help="Images of more pixels are left out; default: Pillow's limit, 89.",
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
    if largest is not None:
        prepared = replace(prepared, largest=round(1e6 * largest))
    network = network.with_preprocessing(prepared)
    chosen: Sequence[Feature | str] = features
    if directions or power:
        chosen = parse_features(features, directions, power)
    if dtype != "float32":
        _compute_in(network, dtype, chosen, through, images)
    _note_where_read(network, chosen)
    run = scan_images(
        network,
        images,
        chosen,
        through,
        out=folder,
        dictionary=dictionary,
        rule=rule,
        batch_size=batch_size,
        shard_size=shard_size,
        seed=seed,
        executor=ray_executor(ray, cpus, gpus, device),
    )
    _print_scan(run, network, folder)


def _note_where_read(network: "Network", features: "Sequence[Feature | str]") -> None:
    """Say so where the features are read after an activation function, and what to take instead."""
    from opponent.geometry.bottlenecks import after_activations
    from opponent.scan.plan import chosen_features

    resolved, all_units = chosen_features(network, features)
    layers = {x.layer for x in resolved} | ({all_units.layer} if all_units is not None else set())
    for layer in sorted(layers & after_activations(network).keys()):
        functions = after_activations(network)[layer]
        text = (
            f"{layer} is read after its activation function: after a ReLU, what is inhibited is 0"
        )
        if functions:
            text += f"; {' and '.join(functions)} would be read before"
        out.print(text, markup=False, style="dim", soft_wrap=True)


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


def _print_scan(run: "Run", network: "Network", folder: Path) -> None:
    from opponent.scan.dictionary_notes import dictionary_notes

    unreadable = run.unreadable()
    out.print(f"{len(run.images) - len(unreadable):,} images scanned into {folder}", markup=False)
    record = run.manifest.network
    if record.narrower is not None:
        dtype, layer = record.narrower
        out.print(
            f"{layer} computes in {dtype}, though the weights are {record.dtype}: the network "
            "itself switches autocast on, or converts",
            markup=False,
        )
    for problem, left_out in _by_problem(unreadable).items():
        if left_out:
            where = f"(all are in {folder / 'unreadable.csv'})"
            out.print(f"{len(left_out):,} {problem} {where}:", markup=False)
        for image, reason in list(left_out.items())[:10]:
            out.print(f"  {image}: {reason}", markup=False)
    _print_completeness(run, network)
    for note in dictionary_notes(run, network):
        out.print(note, markup=False, soft_wrap=True)
    if run.manifest.units is not None:
        count, layer = run.manifest.units.count, run.manifest.units.layer
        out.print(
            f"all {count:,} units: {command('units', folder)}; one of them: "
            + command("figures", folder, "--feature", f"{layer}:0"),
            style="dim",
            markup=False,
        )
    if run.features:
        # A folder never names code that is run: later commands name it again.
        asked, file = network.asked or "", network.weights_file
        model = asked if file is None else f"{asked}={file}"
        named = ("--model", model) if names_object(asked) else ()
        following = f"next: {command('select', folder)}; {command('report', folder, *named)}"
        out.print(following, style="dim", markup=False, soft_wrap=True)


def _by_problem(unreadable: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The images that are left out, with their reasons, by what the trouble is."""
    from opponent.models.finite import NOT_FINITE

    problems: dict[str, dict[str, str]] = {
        "could not be read": {},
        "are left out, since their numbers are not finite": {},
    }
    for image, reason in unreadable.items():
        problem = list(problems)[reason.startswith(NOT_FINITE)]
        problems[problem][image] = reason.removeprefix(NOT_FINITE)
    return problems


def _print_completeness(run: "Run", network: "Network") -> None:
    """How E = excitation - inhibition follows the activation, and what to do where it does not."""
    from opponent.explain.completeness import completeness_note
    from opponent.geometry.through import branch_note

    notes = list[str | None]()
    for feature in run.features:
        columns = run.columns(feature, maps=False)
        about = "E = excitation - inhibition against the activation f"
        agreement = columns.agreement
        if run.manifest.dictionary is not None:
            # With bias and rest any dictionary adds up, also one that says nothing.
            about = "excitation - inhibition of latents against the activation f"
            agreement = f"{columns.latents_alone.agreement}; with bias and rest {agreement}"
        out.print(f"{feature.label}: {about}: {agreement}", markup=False, soft_wrap=True)
        notes.append(completeness_note(run, network, columns))
    if run.manifest.units is not None:
        notes.append(branch_note(network, run.manifest.units.layer, run.through))
    for note in dict.fromkeys(note for note in notes if note):
        out.print(note, markup=False, soft_wrap=True)


@app.command(
    rich_help_panel=START,
    epilog="Example: [bold]opponent directions inceptionv1-small mixed4a --images photos --k 200 "
    "--spread 20 --out kmeans.safetensors[/]; then [bold]opponent scan inceptionv1-small "
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
    epilog="Example: [bold]opponent scan inceptionv1-small 'mixed3b:*' --through mixed3a "
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
    every = [row for row in run.units().to_pylist() if row["score"] == score]
    # Without finite scores a unit has no place among the others.
    rows = [row for row in every if row["images"]]
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
    images = max((row["images"] for row in rows), default=0)
    out.print(
        f"{score} of {record.layer}:*{where} through {run.through} over {images:,} images",
        style="dim",
        markup=False,
    )
    for row in every:
        if missing := images - row["images"]:
            out.print(
                f"unit {row['unit']} is not finite in {missing:,} images, which are left out for it"
            )
