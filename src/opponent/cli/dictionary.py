"""Dictionaries of a layer's features: learn one."""

from pathlib import Path
from typing import Annotated

import typer

from opponent.cli.application import START, app
from opponent.cli.opening import open_network
from opponent.cli.options import Device, Images, Model, Seed
from opponent.cli.output import out, print_paths

# What may be learnt.
KINDS = ("topk", "kmeans", "nmf")


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
        typer.Option(help="topk (an autoencoder), or to compare with: kmeans, nmf."),
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
    network = open_network(model, device)
    from opponent.plots.dictionary import plot_learnt
    from opponent.plots.layout import save

    if kind not in KINDS:
        raise ValueError(f"--kind is one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "topk":
        from opponent.dictionaries.learnt import TrainingSettings
        from opponent.dictionaries.train import learn_and_save_dictionary

        settings = TrainingSettings(
            latents=latents, active=active, steps=steps, batch=batch, seed=seed
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
