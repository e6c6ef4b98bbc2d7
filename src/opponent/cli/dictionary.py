"""Dictionaries of a layer's features: learn one, and tell interference by it."""

from pathlib import Path
from typing import Annotated

import typer

from opponent.cli.application import EXPLAIN, START, app
from opponent.cli.opening import open_network, open_run, scanned_network
from opponent.cli.options import Device, Images, Model, RunFolder, RunImages, RunModel, Seed
from opponent.cli.output import new_table, out, plain, print_paths
from opponent.core.text import csv_text
from opponent.storage.files import to_path, write_text

# What may be learnt.
KINDS = ("topk", "random", "kmeans", "nmf")


@app.command(
    rich_help_panel=START,
    epilog="Example: [bold]opponent dictionary inceptionv1-small mixed3a --images photos "
    "--latents 1024 --active 16 --out mixed3a.safetensors[/]",
)
def dictionary(
    model: Model,
    layer: Annotated[str, typer.Argument(help="The layer whose hidden vectors it writes.")],
    images: Images,
    file: Annotated[Path, typer.Option("--out", help="The file to write (.safetensors).")],
    latents: Annotated[int, typer.Option(min=1, help="How many directions.")] = 4096,
    kind: Annotated[
        str,
        typer.Option(
            help="topk (an autoencoder), or to compare with: random (the same, but its directions "
            "learn nothing), kmeans, nmf."
        ),
    ] = "topk",
    active: Annotated[int, typer.Option(min=1, help="How many are on at once, of topk.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Steps of learning.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Vectors a step.")] = 2048,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Learn a dictionary of a layer's features: many directions that few make up each vector of.

    The vectors of all positions are learnt from, but for a tenth of the images, which tell what is
    left. A figure is drawn beside the file. Interrupted, it goes on where it stopped when the same
    command is given again.
    """
    if kind not in KINDS:
        raise ValueError(f"--kind is one of {', '.join(KINDS)}, not {kind!r}")
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: dictionaries are written to a file ending .safetensors")
    network = open_network(model, device)
    from opponent.plots.dictionary import plot_learnt
    from opponent.plots.layout import save

    if kind in ("topk", "random"):
        from opponent.dictionaries.learnt import TrainingSettings
        from opponent.dictionaries.train import learn_and_save_dictionary

        settings = TrainingSettings(
            latents=latents,
            active=active,
            steps=steps,
            batch=batch,
            random=kind == "random",
            seed=seed,
        )
        learnt = learn_and_save_dictionary(network, images, layer, file, settings=settings)
    else:
        from opponent.dictionaries.baselines import kmeans_dictionary, nmf_dictionary

        fit = kmeans_dictionary if kind == "kmeans" else nmf_dictionary
        learnt = fit(network, images, layer, latents=latents, seed=seed)
        learnt.dictionary.save(file)
    save(plot_learnt(learnt), file.with_suffix(".png"))
    out.print(
        f"{learnt.dictionary}: leaves {learnt.left:.1%} of the variance of images that were kept "
        f"out; {learnt.dead:,} latents are never on in these",
        markup=False,
        soft_wrap=True,
    )
    print_paths([file, file.with_suffix(".png")])


@app.command(
    rich_help_panel=EXPLAIN,
    epilog="Example: [bold]opponent scan inceptionv1-small mixed3b:189 --through mixed3a "
    "--dictionary mixed3a.safetensors --images photos --out latents[/]; then "
    "[bold]opponent interference run latents --out interference.html[/]",
)
def interference(
    run: RunFolder,
    latents: Annotated[
        Path,
        typer.Argument(metavar="LATENTS", parser=to_path, help="The same through a dictionary."),
    ],
    feature: Annotated[
        str | None, typer.Option(help="One of the runs' features, needed where they have several.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="Images at either end; default: 8, in a page 4."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all images to this file.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A page (.html) or picture (.png, .pdf, .svg): the images of either end, their "
            "maps, and the latents and channels that pull either way.",
        ),
    ] = None,
    listed: Annotated[
        int, typer.Option("--channels", min=1, help="Latents and channels a side, in a page.")
    ] = 4,
    images: RunImages = None,
    model: RunModel = None,
    device: Device = "cpu",
) -> None:
    """Say in which images tension is interference, which a dictionary removes, and where it stays.

    Tension is counted in channels in the first scan, and in latents in the second.
    """
    from opponent.explain.interference import interference as compare

    if page is not None:
        from opponent.reports.explanations import check_page

        check_page(page)
    first, second = open_run(run, images), open_run(latents, images)
    found = compare(first, second, feature)
    for name, value in found.facts():
        out.print(f"{name}: {value}", markup=False, soft_wrap=True)
    for title, functional in (("it remains", True), ("it goes", False)):
        table = new_table(f"tense, and {title}", "in channels", "in latents", "remains")
        for row in found.order(functional=functional)[: k or 8].tolist():
            table.add_row(
                plain(found.images[row]),
                f"{found.channels.tension[row]:.4g}",
                f"{found.latents.tension[row]:.4g}",
                f"{found.remaining[row]:.0%}",
            )
        out.print(table)
    if csv is not None:
        rows = found.to_arrow().to_pylist()
        write_text(csv, csv_text([tuple(rows[0]), *(tuple(row.values()) for row in rows)]))
        print_paths([csv])
    if page is not None:
        from opponent.explain.interference_images import interference_images
        from opponent.reports.interference import write_interference

        network = scanned_network(first, device, model)
        shown = interference_images(
            first, second, feature, k=k or 4, listed=listed, network=network
        )
        for note in shown.notes:
            out.print(note, markup=False, soft_wrap=True)
        print_paths([write_interference(shown, page)])
