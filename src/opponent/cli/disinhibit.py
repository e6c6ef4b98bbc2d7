"""The command that takes a feature's inhibition away and runs the network on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opponent.cli.application import EXPLAIN, app
from opponent.cli.opening import open_network, parse_features
from opponent.cli.options import (
    BatchSize,
    Device,
    DirectionsFile,
    Folder,
    Format,
    Images,
    Model,
    Power,
    Seed,
    Through,
)
from opponent.cli.output import new_table, out, plain, print_paths

if TYPE_CHECKING:
    from opponent.explain.disinhibition.result import Disinhibited


@app.command(
    rich_help_panel=EXPLAIN,
    epilog="Examples: [bold]opponent disinhibit inceptionv1-small mixed3b:189 --through mixed3a "
    "--images photos --out without[/]; "
    "[bold]opponent disinhibit inceptionv1-bvlc=bvlc.safetensors logits:0 logits:217 "
    "--through mixed5a --images imagenette --labels wordnet --out without[/]",
)
def disinhibit(
    model: Model,
    features: Annotated[
        list[str],
        typer.Argument(metavar="FEATURE...", help="LAYER:UNIT or LAYER:UNIT@ROW,COLUMN."),
    ],
    through: Through,
    images: Images,
    folder: Folder,
    dictionary: Annotated[
        Path | None,
        typer.Option(help="A dictionary of the through layer: take latents away as well."),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", min=1, help="Channels and latents of a set: most, random.")
    ] = 10,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="wordnet|FILE.csv",
            help="The images' classes, for features that are logits: from folders or files called "
            "by their WordNet ids, or a file of image,class.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Sets drawn at random.")] = 5,
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Set to zero what becomes negative and was not.")
    ] = False,
    directions: DirectionsFile = None,
    power: Power = 0,
    format: Format = "png",
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Take a feature's inhibition away, run the network on, and see where it fires.

    Does it fire in its tense images, which it keeps silent in as it is? Interrupted, it goes on
    where it stopped when the same command is given again.
    """
    network = open_network(model, device)
    from opponent.explain.disinhibition.measure import disinhibit as measure
    from opponent.plots.files import write_disinhibited
    from opponent.plots.layout import check_suffix

    check_suffix(format)
    found = measure(
        network,
        images,
        parse_features(features, directions, power),
        through,
        dictionary=dictionary,
        k=k,
        labels=labels,
        out=folder,
        draws=draws,
        clamp=clamp,
        batch_size=batch_size,
        seed=seed,
    )
    paths = write_disinhibited(found, folder, network=network, images=images, suffix=format)
    _print_rates(found)
    _print_accuracy(found)
    out.print(found.scope, style="dim", markup=False)
    print_paths(paths)


def _print_rates(found: "Disinhibited") -> None:
    """How many tense and silent images fire, and how well own ones stand out."""
    from opponent.explain.disinhibition.cells import percent_of, told

    rates = {(x["feature"], x["ablation"], x["group"], x["over"]): x for x in found.rates}
    table = new_table(
        "feature", "without", "tense fire", "strongly", "silent fire", "own over tense", "after",
        "linear r",
    )  # fmt: skip
    for row in found.summary:
        key = row["feature"], row["ablation"]
        cells = [
            percent_of(rates[*key, group, over])
            for group, over in (("tense", "zero"), ("tense", "strong"), ("silent", "zero"))
        ]
        cells += [told(row[name]) for name in ("auc_before", "auc", "r")]
        table.add_row(plain(str(key[0])), str(key[1]), *cells)
    out.print(table)


def _print_accuracy(found: "Disinhibited") -> None:
    """Of images of the chosen classes, how many are taken for what they are."""
    rows = [x for x in found.accuracy if x["replaced"] == "all of them"]
    if not rows:
        return
    table = new_table("right without", "among", "images", "before", "after")
    for row in rows:
        cells = [f"{float(row[name]):.1%}" for name in ("before", "after")]
        images = f"{row['images']:,} {row['group']}"
        table.add_row(str(row["ablation"]), f"{row['among']} classes", images, *cells)
    out.print(table)
