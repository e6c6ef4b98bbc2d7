"""Commands on one feature: from images to what drives it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from opponent.cli.common import (
    Cpus,
    Device,
    DirectionsFile,
    Features,
    Gpus,
    Model,
    Power,
    Ray,
    RuleName,
    RunFolder,
    Seed,
    Steps,
    Through,
    Weights,
    app,
    chosen,
    gpu_share,
    new_table,
    open_network,
    open_run,
    out,
    parse_features,
    parse_signs,
    plain,
    progress_bars,
)
from opponent.storage.files import to_path

if TYPE_CHECKING:
    from opponent.core.feature import Feature
    from opponent.models.network import Network
    from opponent.storage.run import Run


@app.command()
def models() -> None:
    """List the models that can be named."""
    from opponent.models.registry import MODELS

    table = new_table("name", "what it is")
    for name, what in MODELS.items():
        table.add_row(name, what)
    out.print(table)


@app.command(epilog="Example: [bold]opponent layers inceptionv1-mini[/]")
def layers(model: Model, weights: Weights = None) -> None:
    """List a model's layers: kind, channels, output size, stride, receptive field.

    The receptive field is given as if the image had no border; 'whole' reaches over all of it.
    """
    from opponent.core.errors import UnknownGeometry
    from opponent.geometry.receptive_field import field_and_stride, receptive_fields_by_layer

    network = open_network(model, weights)
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
    epilog="Examples: [bold]opponent scan inceptionv1-mini mixed4a:5 --through mixed3b "
    "--images photos --out run[/]; "
    "[bold]opponent scan torchvision:squeezenet1_1 logits:954 logits:1 --through features.9 "
    "--images ~/photographs --out bananas[/]; by many machines: [bold]opponent scan "
    "inceptionv1-mini mixed4a:5 --through mixed3b --images /data/photographs --out /data/run "
    "--ray auto[/]"
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
    images: Annotated[str, typer.Option(help="A folder, a file, a .txt list, or 'photos'.")],
    folder: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=to_path,
            metavar="PATH",
            help="The run folder, new or to go on with; s3://... and the like, too.",
        ),
    ],
    weights: Weights = None,
    directions: DirectionsFile = None,
    power: Power = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a pass.")] = 32,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a file of results.")] = 256,
    rule: RuleName = "gradient",
    dtype: Annotated[
        str,
        typer.Option(help="What to compute in: float32, bfloat16 (its error is printed), float64."),
    ] = "float32",
    draft: Annotated[
        bool, typer.Option("--draft", help="Decode large JPEGs at fewer pixels: faster, not exact.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    ray: Ray = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
) -> None:
    """Attribute features of one layer in every image, into a run folder.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.scan.local import scan_images as run_scan

    scan_it: "Callable[..., Run]" = run_scan
    if ray is not None:
        from opponent.scan.ray import scan_on_ray

        scan_it = partial(scan_on_ray, address=ray, cpus=cpus, gpus=gpu_share(gpus, device))
    network = open_network(model, weights, device)
    network.preprocessing = replace(network.preprocessing, draft=draft)
    asked: "Sequence[Feature | str]" = features
    if directions or power:
        asked = parse_features(features, directions, power)
    if dtype != "float32":
        _compute_in(network, dtype, asked, through, images)
    with progress_bars() as report:
        run = scan_it(
            network,
            asked,
            through=through,
            images=images,
            out=folder,
            batch_size=batch_size,
            shard_size=shard_size,
            seed=seed,
            rule=rule,
            progress=lambda done, total: report("scanning", done, total),
        )
    unreadable = run.unreadable()
    out.print(f"{len(run.images) - len(unreadable):,} images scanned into {folder}")
    if unreadable:
        out.print(
            f"{len(unreadable):,} could not be read (all are in {folder / 'unreadable.csv'}):"
        )
        for image, reason in list(unreadable.items())[:10]:
            out.print(f"  {image}: {reason}", markup=False)
    for feature in run.features:
        complete = run.columns(feature, maps=False).completeness
        out.print(f"{feature.label}: {_complete(complete, rule)}", markup=False)
    if run.manifest.units is not None:
        out.print(
            f"all {run.manifest.units['count']:,} units: opponent units {folder}", style="dim"
        )
    if run.features:
        out.print(f"next: opponent select {folder}; opponent report {folder}", style="dim")


@app.command(
    epilog="Example: [bold]opponent scan inceptionv1-mini 'mixed3b:*' --through mixed3a "
    "--images photos --out layer[/]; then [bold]opponent units layer --score tension[/]"
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
    from opponent.attribution.all_units import SCORES

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
    units = run.manifest.units
    assert units is not None
    place = units["position"]
    where = "@" + ("*" if place == "*" else "{},{}".format(*place)) if place else ""
    out.print(
        f"{score} of {units['layer']}:*{where} through {run.manifest.through} over "
        f"{rows[0]['images']:,} images",
        style="dim",
        markup=False,
    )


def _compute_in(
    network: "Network", dtype: str, asked: "Sequence[Feature | str]", through: str, images: str
) -> None:
    from opponent.scan.local import rounding
    from opponent.storage.run import DTYPES

    if dtype not in DTYPES:
        raise ValueError(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    errors = rounding(network, DTYPES[dtype], asked, through=through, images=images)
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    out.print(f"{dtype} against float32 on the first images, relative error: {said}")


def _complete(correlation: float, rule: str) -> str:
    from opponent.selection import COMPLETE

    said = f"excitation - inhibition follows the activation with r = {correlation:.3f}"
    if correlation < COMPLETE:
        said += ": the two sides do not account for it"
        said += "; see --rule integrated-zero" if rule == "gradient" else ""
    return said


@app.command(
    epilog="Example: [bold]opponent directions inceptionv1-mini mixed4a --images photos --k 200 "
    "--spread 20 --out kmeans.safetensors[/]; then [bold]opponent scan inceptionv1-mini "
    "mixed4a:kmeans17 --directions kmeans.safetensors --through mixed3b --images photos "
    "--out run[/]"
)
def directions(
    model: Model,
    layer: Annotated[str, typer.Argument(help="The layer whose hidden vectors are clustered.")],
    images: Annotated[str, typer.Option(help="A folder, a file, a .txt list, or 'photos'.")],
    file: Annotated[Path, typer.Option("--out", help="The file to write (.safetensors).")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many directions.")] = 1000,
    spread: Annotated[
        int | None,
        typer.Option(min=1, help="Write so many well-separated ones to FILE-spread too."),
    ] = None,
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Find a layer's feature directions: spherical k-means of hidden vectors, one an image.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.directions import check_suffix, find_directions

    check_suffix(file)
    network = open_network(model, weights, device)
    keep = file.with_name(f".{file.stem}.vectors.safetensors")
    if spread is not None and spread > k:
        raise ValueError(
            f"--spread {spread} is more than the --k {k} directions that there will be"
        )
    with progress_bars() as report:
        found = find_directions(
            network,
            layer,
            images,
            count=k,
            seed=seed,
            keep=keep,
            progress=report,
        )
    found.save(file)
    keep.unlink(missing_ok=True)
    out.print(f"{file}: {len(found)} directions of {layer}", markup=False)
    if spread is not None:
        chosen = found.spread(spread, seed=seed)
        apart = file.with_name(f"{file.stem}-spread{file.suffix}")
        chosen.save(apart)
        out.print(f"{apart}: {', '.join(chosen.labels)}", markup=False)


@app.command(epilog="Example: [bold]opponent select run -k 5 --csv chosen.csv[/]")
def select(
    run: RunFolder,
    k: Annotated[int, typer.Option("-k", min=1, help="Images a group.")] = 10,
    feature: Features = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
) -> None:
    """List the exciting, inhibiting, silent and tense images of each feature."""
    import csv as csv_module
    import io

    from opponent.selection import select as choose
    from opponent.storage.files import write_text

    opened, names = open_run(run), ("activation", "excitation", "inhibition", "l1", "l2")
    rows: list[tuple[str, ...]] = []
    for each in chosen(opened, feature):
        columns = opened.columns(each)
        table = new_table("group", "image", *names)
        out.print(each.label, style="bold", markup=False)
        for group, indices in choose(columns, k).items():
            for i in indices:
                values = [f"{getattr(columns, name)[i]:.6g}" for name in names]
                table.add_row(group, plain(columns.images[i]), *values)
                rows.append((each.label, group, columns.images[i], *values))
            if not len(indices):
                table.add_row(group, "[dim]none among these images[/]")
        out.print(table)
    if csv is not None:
        text = io.StringIO()
        writer = csv_module.writer(text, lineterminator="\n")
        writer.writerows([("feature", "group", "image", *names), *rows])
        write_text(csv, text.getvalue())


@app.command(epilog="Example: [bold]opponent figures run --format pdf[/]")
def figures(
    run: RunFolder,
    k: Annotated[int, typer.Option("-k", min=1, help="Images a group.")] = 4,
    feature: Features = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to; default: figures in the run folder.")
    ] = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    synthesise: Annotated[
        bool, typer.Option("--synthesise", help="Figure 5 too: inversions, accentuations.")
    ] = False,
) -> None:
    """Draw figures like the paper's: 2 for all features, 4a, 4b to g and 5 for each."""
    from opponent.plots.files import write_figures

    opened = open_run(run)
    with progress_bars() as report:
        paths = write_figures(
            opened,
            folder or run / "figures",
            features=chosen(opened, feature),
            k=k,
            suffix=format,
            network=opened.load_network() if synthesise else None,
            progress=report,
        )
    for path in paths:
        out.print(str(path), markup=False)


@app.command(
    epilog="Examples: [bold]opponent atlas run[/]; [bold]opponent atlas run --feature mixed4a:5 "
    "--top 2000 --grid 12 --signed[/]; [bold]opponent atlas run --ray auto[/]"
)
def atlas(
    run: RunFolder,
    feature: Features = None,
    top: Annotated[int, typer.Option(min=1, help="Images with the largest L2 norm of S.")] = 10_000,
    grid: Annotated[int, typer.Option(min=1, help="Cells a side.")] = 20,
    min_images: Annotated[int, typer.Option(min=1, help="Cells with fewer stay empty.")] = 6,
    space: Annotated[
        bool, typer.Option("--space", help="Lay out S with its rows and columns.")
    ] = False,
    signed: Annotated[
        bool, typer.Option("--signed", help="Icons of either side too, side by side.")
    ] = False,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    steps: Steps = 100,
    seed: Seed = 0,
    device: Device = "cpu",
    ray: Ray = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
) -> None:
    """Draw the feature attribution atlas: all the ways in which images drive a feature.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.atlas.build import AtlasSettings, make_atlas
    from opponent.plots.files import write_atlas
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    opened = open_run(run)
    network = opened.load_network()
    network.module.to(device)
    settings = AtlasSettings(
        top=top, grid=grid, min_images=min_images, space=space, steps=steps, seed=seed
    )
    with progress_bars() as report:
        for each in chosen(opened, feature):
            made = make_atlas(
                opened, each, network=network, settings=settings, signed=signed, ray=ray, cpus=cpus,
                gpus=gpu_share(gpus, device), progress=report,
            )  # fmt: skip
            paths = write_atlas(made, suffix=format)
            about, rho = made.about, made.about["icons_against_images"]
            out.print(
                f"{each.label}: {about['images']:,} images, {about['cells']} cells, "
                f"trustworthiness {about['trustworthiness']:.3f}"
                + (
                    ""
                    if rho["spearman"] is None
                    else f"; icons' activation against their images': Spearman "
                    f"{rho['spearman']:+.3f}, p = {rho['p']:.2g}"
                ),
                markup=False,
            )
            for path in paths:
                out.print(str(path), markup=False)


@app.command(epilog="Example: [bold]opponent explore run --out explorer.html[/]")
def explore(
    run: RunFolder,
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; default: explorer.html in the run.")
    ] = None,
    feature: Annotated[
        str | None, typer.Option(help="One of the run's features; default: the newest atlas'.")
    ] = None,
) -> None:
    """Write the page in which to walk around in an atlas; it works offline."""
    from opponent.reports.explorer import write_explorer

    opened = open_run(run)
    with progress_bars() as report:
        path = write_explorer(opened, page, feature=feature, progress=report)
    out.print(str(path), markup=False)


@app.command(
    epilog="Example: [bold]opponent why torchvision:squeezenet1_1 banana.jpg logits:954 "
    "--through features.9 --out why.html[/]"
)
def why(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    feature: Annotated[str, typer.Argument(help="LAYER:UNIT; 'logits:954' asks for a class.")],
    through: Through,
    run: Annotated[Path | None, typer.Option(help="A scan to compare this image with.")] = None,
    page: Annotated[
        Path | None, typer.Option("--out", help="A page (.html) or picture (.png, .pdf, .svg).")
    ] = None,
    weights: Weights = None,
    directions: DirectionsFile = None,
    power: Power = 0,
    channels: Annotated[int, typer.Option(min=1, help="Upstream channels to name a side.")] = 8,
    rule: Annotated[
        str | None, typer.Option(help="How S is computed; default: as the run did, or gradient.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Say what drove a feature in one photograph, and what held it back."""
    from opponent.explain.image import why as ask
    from opponent.reports.explanations import check_page, write_answer

    if page is not None:
        check_page(page)
    network = open_network(model, weights, device)
    [asked] = parse_features([feature], directions, power)
    scanned = open_run(run) if run else None
    answer = ask(network, image, asked, through, run=scanned, channels=channels, rule=rule)
    written = write_answer(answer, page) if page is not None else None
    out.print(answer.verdict, markup=False)
    table = Table(show_header=False, box=None)
    for name, value in answer.facts():
        table.add_row(f"[dim]{name}[/]", plain(value))
    out.print(table)
    table = new_table("excites", "by", "inhibits", "by")
    for i in range(max(len(answer.excitatory), len(answer.inhibitory))):
        cells = []
        for side, colour in ((answer.excitatory, "red"), (answer.inhibitory, "blue")):
            channel, by = side[i] if i < len(side) else ("", 0.0)
            cells += [f"[{colour}]{channel}[/]" if channel else "", f"{by:.4g}" if channel else ""]
        table.add_row(*cells)
    out.print(table)
    if written is not None:
        out.print(str(written), markup=False)


@app.command(
    epilog="Examples: [bold]opponent who run --out who.html[/]; "
    "[bold]opponent who run --group inhibiting --silence[/]; [bold]opponent who run --cell 3,7[/]"
)
def who(
    run: RunFolder,
    feature: Annotated[str | None, typer.Option(help="One of the run's features.")] = None,
    group: Annotated[str | None, typer.Option(help="Such as tense, exciting, inhibiting.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="An image's id; repeatable.")] = None,
    cell: Annotated[str | None, typer.Option(help="ROW,COLUMN of the feature's atlas.")] = None,
    channels: Annotated[int, typer.Option(min=1, help="Upstream channels a side.")] = 8,
    visualise: Annotated[
        bool, typer.Option("--visualise", help="Synthesise what excites each channel too.")
    ] = False,
    silence: Annotated[
        bool, typer.Option("--silence", help="Set top channels to zero, and others at random.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--out", help="A page (.html) or picture (.png, .pdf, .svg).")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Say which upstream channels excite a feature, and which hold it back.

    By default in its tensest images. Channels are shown by what excites them most.
    """
    from opponent.explain.channels import silence_check
    from opponent.explain.channels import who as ask
    from opponent.reports.explanations import check_page, silence_facts, write_who
    from opponent.synthesis.inversion import SynthesisSettings

    if page is not None:
        check_page(page)
    elif visualise:
        raise ValueError("--visualise needs a page or picture to show them in: give --out")
    opened = open_run(run)
    network = opened.load_network() if page or silence else None
    if network is not None:
        network.module.to(device)
    with progress_bars() as report:
        found = ask(
            opened,
            feature,
            group=group,
            images=image or None,
            cell=None if cell is None else _cell(cell),
            channels=channels,
            crops=4 if page else 0,
            network=network,
            visualise=SynthesisSettings(seed=seed) if visualise and page else None,
            progress=report,
        )
    checked = None
    if silence and network is not None:
        checked = silence_check(opened, network, found, seed=seed)
    written = write_who(found, page, checked) if page is not None else None
    about = f"{found.feature.label} in {found.about}, by channels of {found.through}"
    out.print(about, markup=False)
    table = new_table("excites", "mean", "sd", "inhibits", "mean", "sd")
    for i in range(max(len(found.exciting), len(found.inhibiting))):
        cells = []
        for side, colour in ((found.exciting, "red"), (found.inhibiting, "blue")):
            one = side[i] if i < len(side) else None
            cells += (
                [f"[{colour}]{one.name}[/]", f"{one.mean:+.4g}", f"{one.spread:.4g}"]
                if one
                else ["", "", ""]
            )
        table.add_row(*cells)
    out.print(table)
    for name, value in silence_facts(found, checked):
        out.print(f"{name}: {value}", markup=False)
    if written is not None:
        out.print(str(written), markup=False)


def _cell(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"a cell is ROW,COLUMN, such as 3,7; got {text!r}")
    return int(parts[0]), int(parts[1])


@app.command(
    epilog="Example: [bold]opponent invert run --image coffee.jpg --sign both[/]; "
    "then look into run/synthesis"
)
def invert(
    run: RunFolder,
    image: Annotated[list[str], typer.Option(help="An image's id in the run; repeatable.")],
    feature: Features = None,
    accentuate: Annotated[bool, typer.Option("--accentuate", help="Start from the photo.")] = False,
    sign: Annotated[str, typer.Option(help="excitation, inhibition or both.")] = "both",
    steps: Steps = 100,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Make images that look as one side of a feature's drive does."""
    from opponent.synthesis.cache import make
    from opponent.synthesis.inversion import SynthesisSettings

    opened = open_run(run)
    network = opened.load_network()
    network.module.to(device)
    signs = parse_signs(sign)
    kind = "accentuation" if accentuate else "inversion"
    ids = [opened.images.find(each).id for each in image]
    with progress_bars() as report:
        for each in chosen(opened, feature):
            activations = opened.columns(each)
            deviation = activations.deviation
            for number, name in enumerate(ids):
                for turn, direction in enumerate(signs):
                    done, total = number * len(signs) + turn, len(ids) * len(signs)

                    def step(i: int, n: int, done: int = done, total: int = total) -> None:
                        report(f"{kind}s", done * n + i, total * n)

                    made = make(
                        opened,
                        network,
                        each,
                        name,
                        "accentuation" if accentuate else "inversion",
                        direction,
                        SynthesisSettings(steps=steps, seed=seed),
                        step,
                    )
                    own = activations.activation[activations.images.index(name)]
                    side = "excitation" if direction > 0 else "inhibition"
                    out.print(
                        f"{made.path}: {side}, {each.label} goes from {own / deviation:+.2f} to "
                        f"{made.final / deviation:+.2f} sd",
                        markup=False,
                    )


@app.command(epilog="Example: [bold]opponent visualise inceptionv1-mini mixed4a:5 --out made[/]")
def visualise(
    model: Model,
    feature: Annotated[str, typer.Argument(help="LAYER:UNIT or LAYER:UNIT@ROW,COLUMN.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder for the pictures.")],
    sign: Annotated[str, typer.Option(help="excitation, inhibition or both.")] = "both",
    parameterisation: Annotated[str, typer.Option(help="phases, fourier or pixels.")] = "phases",
    weights: Weights = None,
    directions: DirectionsFile = None,
    power: Power = 0,
    steps: Steps = 100,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Make images that raise, and lower, a feature's activation itself."""
    from PIL import Image

    from opponent.storage.files import whole
    from opponent.synthesis.inversion import SynthesisSettings
    from opponent.synthesis.inversion import visualise as make

    network = open_network(model, weights, device)
    settings = SynthesisSettings(steps=steps, seed=seed, parameterisation=parameterisation)  # type: ignore[arg-type]
    signs = parse_signs(sign)
    [asked] = parse_features([feature], directions, power)
    with progress_bars() as report:
        for number, direction in enumerate(signs):

            def step(i: int, n: int, number: int = number) -> None:
                report("optimising", number * n + i, len(signs) * n)

            made = make(network, asked, sign=direction, settings=settings, progress=step)
            side = "excitation" if direction > 0 else "inhibition"
            name = made.feature.label.replace(":", "-").replace("@", "-").replace(",", "_")
            with whole(folder / f"{name}-{side}.png") as part:
                Image.fromarray(made.rgba()[0]).save(part)
            out.print(f"{folder / f'{name}-{side}.png'}: {float(made.final):+.4g}", markup=False)


@app.command(epilog="Example: [bold]opponent report run --feature mixed4a:5 --out report.html[/]")
def report(
    run: RunFolder,
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; default: report.html in the run folder.")
    ] = None,
    feature: Features = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Images a group.")] = 8,
    steps: Steps = 100,
    device: Device = "cpu",
) -> None:
    """Write one HTML file with everything, which works offline and alone."""
    from opponent.reports.report import write_report
    from opponent.synthesis.inversion import SynthesisSettings

    opened = open_run(run)
    network = opened.load_network()
    network.module.to(device)
    with progress_bars() as tell:
        path = write_report(
            opened,
            page,
            network=network,
            features=list(feature) if feature else None,
            k=k,
            settings=SynthesisSettings(steps=steps, seed=opened.manifest.seed),
            progress=tell,
        )
    out.print(str(path), markup=False)


@app.command(epilog="Example: [bold]opponent demo --out demo[/]")
def demo(
    folder: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("demo"),
) -> None:
    """Scan the embedded network over photographs, and write the report of a tense feature."""
    from opponent.reports.demo import run_demo

    with progress_bars() as tell:
        path = run_demo(folder, tell)
    out.print(str(path.absolute()), markup=False)
