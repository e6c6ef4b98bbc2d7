"""Commands to look at a run: groups of images, figures, the report, the atlas, the explorer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opponent.cli.application import LOOK, app
from opponent.cli.opening import open_run, ray_executor, scanned_network, with_units
from opponent.cli.options import (
    Cpus,
    Device,
    Features,
    Format,
    Gpus,
    Groups,
    RayAddress,
    RunFolder,
    RunImages,
    RunModel,
    RunRule,
    Seed,
    Steps,
)
from opponent.cli.output import new_table, out, plain, print_paths
from opponent.core.text import csv_text

if TYPE_CHECKING:
    from opponent.atlas.atlas import Atlas

_COLUMNS = ("activation", "excitation", "inhibition", "l1", "l2")


@app.command(
    rich_help_panel=LOOK,
    epilog="Examples: [bold]opponent select run -k 5 --csv chosen.csv[/]; "
    "[bold]opponent select run --group tense[/]",
)
def select(
    run: RunFolder,
    k: Annotated[int, typer.Option("-k", min=1, help="Images a group.")] = 10,
    feature: Features = None,
    group: Groups = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the rows to this file too.")
    ] = None,
    images: RunImages = None,
) -> None:
    """List the images that excite, inhibit, do neither, or do both at once.

    Of all features, or of those named. Of a scan of all units (LAYER:*) name units with --feature:
    they are attributed in the images that it keeps.
    """
    from opponent.selection import select as choose
    from opponent.storage.files import write_text
    from opponent.storage.lookup import features_of

    opened = with_units(open_run(run, images), feature)
    rows: list[tuple[str, ...]] = []
    for each in features_of(opened, feature or None):
        columns = opened.columns(each)
        table = new_table("group", "image", *_COLUMNS)
        out.print(each.label, style="bold", markup=False)
        for name, selected in choose(columns, k, selections=group).items():
            for i in selected.rows:
                values = [f"{getattr(columns, column)[i]:.6g}" for column in _COLUMNS]
                table.add_row(name, plain(columns.images[i]), *values)
                rows.append((each.label, name, columns.images[i], *values))
            if not len(selected):
                table.add_row(name, "[dim]none among these images[/]")
        out.print(table)
    if csv_file is not None:
        lines = [("feature", "group", "image", *_COLUMNS), *rows]
        write_text(csv_file, csv_text(lines))


@app.command(rich_help_panel=LOOK, epilog="Example: [bold]opponent figures run --format pdf[/]")
def figures(
    run: RunFolder,
    k: Annotated[int, typer.Option("-k", min=1, help="Images a group.")] = 4,
    feature: Features = None,
    group: Groups = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to; default: figures in the run folder.")
    ] = None,
    format: Format = "png",
    synthesise: Annotated[
        bool, typer.Option("--synthesise", help="Figure 5 too: inversions, accentuations.")
    ] = False,
    images: RunImages = None,
    model: RunModel = None,
    rule: RunRule = None,
) -> None:
    """Draw figures like the paper's: 2 for all features, 4a and 4b to g for each, 5 on request.

    Of a scan of all units (LAYER:*) name units with --feature: they are attributed in the images
    that it keeps, and figures say so.
    """
    from opponent.plots.files import write_figures

    opened = with_units(open_run(run, images), feature)
    paths = write_figures(
        opened,
        folder or opened.folder / "figures",
        features=feature or None,
        k=k,
        selections=group,
        suffix=format,
        network=scanned_network(opened, model=model) if synthesise else None,
        rule=rule,
    )
    print_paths(paths)


@app.command(
    rich_help_panel=LOOK,
    epilog="Example: [bold]opponent report run --feature mixed4a:5 --out report.html[/]",
)
def report(
    run: RunFolder,
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; default: report.html in the run folder.")
    ] = None,
    feature: Features = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Images a group.")] = 8,
    group: Groups = None,
    steps: Steps = 100,
    images: RunImages = None,
    model: RunModel = None,
    rule: RunRule = None,
    device: Device = "cpu",
) -> None:
    """Write one HTML file with everything, which works offline and alone."""
    from opponent.reports.report import write_report
    from opponent.synthesis.settings import SynthesisSettings

    opened = open_run(run, images)
    path = write_report(
        opened,
        page,
        network=scanned_network(opened, device, model),
        features=feature or None,
        k=k,
        selections=group,
        settings=SynthesisSettings(steps=steps, seed=opened.manifest.seed),
        rule=rule,
    )
    print_paths([path])


@app.command(
    rich_help_panel=LOOK,
    epilog="Examples: [bold]opponent atlas run[/]; [bold]opponent atlas run --feature mixed4a:5 "
    "--top 2000 --grid 12 --signed[/]; [bold]opponent atlas run --ray auto[/]",
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
    format: Format = "png",
    steps: Steps = 100,
    images: RunImages = None,
    model: RunModel = None,
    rule: RunRule = None,
    seed: Seed = 0,
    device: Device = "cpu",
    ray: RayAddress = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
) -> None:
    """Draw the feature attribution atlas: all the ways in which images drive a feature.

    Interrupted, it goes on where it stopped when the same command is given again.
    """
    from opponent.atlas.atlas import AtlasSettings
    from opponent.atlas.build import make_atlas
    from opponent.plots.files import write_atlas
    from opponent.plots.layout import check_suffix
    from opponent.storage.lookup import features_of

    check_suffix(format)
    opened = open_run(run, images)
    network = scanned_network(opened, device, model)
    settings = AtlasSettings(
        top=top, grid=grid, min_images=min_images, space=space, steps=steps, seed=seed
    )
    for each in features_of(opened, feature or None):
        finished = make_atlas(
            opened,
            each,
            network=network,
            settings=settings,
            signed=signed,
            rule=rule,
            executor=ray_executor(ray, cpus, gpus, device),
        )
        out.print(_atlas_line(finished), markup=False)
        print_paths(write_atlas(finished, suffix=format))


def _atlas_line(atlas: "Atlas") -> str:
    about, agreement = atlas.about, atlas.about.icons_against_images
    line = (
        f"{atlas.feature.label}: {about.images:,} images, {about.cells} cells, "
        f"trustworthiness {about.trustworthiness:.3f}"
    )
    if agreement.spearman is not None:
        line += (
            f"; icons' activation against their images': Spearman {agreement.spearman:+.3f}, "
            f"p = {agreement.p:.2g}"
        )
    return line


@app.command(
    rich_help_panel=LOOK, epilog="Example: [bold]opponent explore run --out explorer.html[/]"
)
def explore(
    run: RunFolder,
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; default: explorer.html in the run.")
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(help="One of the run's features; needed where several have atlases."),
    ] = None,
    images: RunImages = None,
) -> None:
    """Write the page in which to walk around in an atlas; it works offline."""
    from opponent.reports.explorer import write_explorer

    print_paths([write_explorer(open_run(run, images), page, feature=feature)])
