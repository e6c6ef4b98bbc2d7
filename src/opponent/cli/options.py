"""The arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from opponent.core.side import SIDES, Side
from opponent.storage.files import to_path

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[=FILE]",
        help="A model's name, `opponent models` lists them; with =FILE a file of its weights, "
        "safetensors or a saved state dict.",
    ),
]
Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL[=FILE]...", help="Models, each with its file of weights."),
]
RunFolder = Annotated[
    Path,  # or what has its methods, on another file system
    typer.Argument(metavar="RUN", parser=to_path, help="A run folder made by `scan`."),
]
Images = Annotated[
    str,
    typer.Option(
        help="A folder, a file, a .tar or .zip, a pattern ('train-{000..012}.tar'), a .txt list, "
        "'photos', crops:SOURCE or crops:COUNT:SOURCE for many crops of each image, or "
        "module:PACKAGE.MODULE:NAME for images in an object: a data set, a list, a source of your "
        "own."
    ),
]
RunImages = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="SOURCE",
        help="The images that were scanned, where they are in an object (module:...).",
    ),
]
Through = Annotated[str, typer.Option(help="The earlier layer to explain the feature through.")]
OneFeature = Annotated[str, typer.Argument(help="LAYER:UNIT or LAYER:UNIT@ROW,COLUMN.")]
Features = Annotated[
    list[str] | None,
    typer.Option("--feature", help="One of the run's features; repeatable; default: all."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        help="Only this group of images, such as tense, or module:PACKAGE.MODULE:NAME for a "
        "selection of your own; repeatable.",
    ),
]
DirectionsFile = Annotated[
    Path | None,
    typer.Option(
        "--directions", help="A file of directions: LAYER:NAME then names one, LAYER:* all."
    ),
]
Power = Annotated[
    int, typer.Option(help="A direction's activation is dot * cos^POWER; the paper takes 0 or 2.")
]
Rule = Annotated[
    str,
    typer.Option(
        help="How S is computed: gradient (times h), integrated-zero or integrated-mean (the "
        "gradient along the path from there to h; both may end /STEPS), or "
        "module:PACKAGE.MODULE:NAME for a rule of your own.",
    ),
]
RunModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL[=FILE]",
        help="The network that was scanned, where what the run says of it does not load it.",
    ),
]
RunRule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="RULE",
        help="The rule that the run was scanned by, where it is your own (module:...).",
    ),
]
Sides = Annotated[
    list[Side],
    typer.Option(
        "--side",
        default_factory=lambda: list(SIDES),
        help="Which side to make; repeatable; default: either. 'both' is both at once.",
    ),
]
Parameterisation = Annotated[
    str,
    typer.Option(help="What is optimised: phases, fourier, pixels, or module:PACKAGE.MODULE:NAME."),
]
Objective = Annotated[
    str | None,
    typer.Option(help="Another objective: module:PACKAGE.MODULE:NAME."),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Compute with Ray: 'local' on all of this machine, 'auto' or HOST:PORT in a cluster "
        "that runs and whose machines share the folder.",
    ),
]
Cpus = Annotated[float, typer.Option(min=0, help="Processors for each of Ray's actors.")]
Gpus = Annotated[
    float | None,
    typer.Option(
        min=0, help="GPUs for each of Ray's actors, such as 0.5; default: 1 on --device cuda."
    ),
]
Format = Annotated[str, typer.Option("--format", help="Of the figures: png, pdf or svg.")]
Folder = Annotated[Path, typer.Option("--out", help="A folder, new or to go on with.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of optimisation.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a pass.")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
