"""Every figure of the paper, on one network and one set of images, in one page.

DIR/STEP/     each figure's own folders, which go on where they stopped
DIR/index.html, DIR/reproduce.json
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opponent.core.pictures import data_uri, read_png
from opponent.core.progress import Progress, displayed, silent
from opponent.images.imageset import ImageSet
from opponent.images.sources import open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.paper.reproduce.atlases import atlas_entries
from opponent.paper.reproduce.beyond import beyond_entries
from opponent.paper.reproduce.case_study import case_study_entries
from opponent.paper.reproduce.completeness import completeness_entries
from opponent.paper.reproduce.entries import Entry
from opponent.paper.reproduce.exemplars import exemplar_entries
from opponent.paper.reproduce.inversions import inversion_entries
from opponent.paper.reproduce.reproduction import Reproduction, sample_images
from opponent.paper.reproduce.scales import SCALES, Scale
from opponent.paper.reproduce.toys import toy_entries
from opponent.paper.reproduce.uniqueness import uniqueness_entries
from opponent.paper.reproduce.weights import weight_entries
from opponent.reports.html import render
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath, local, write_text
from opponent.storage.manifest import versions

STEPS: tuple[Callable[[Reproduction], list[Entry]], ...] = (
    exemplar_entries,
    completeness_entries,
    case_study_entries,
    atlas_entries,
    toy_entries,
    uniqueness_entries,
    weight_entries,
    inversion_entries,
    beyond_entries,
)
# Figures that nothing here computes.
_LEFT_OUT = "figure 1 (a drawing of the question), figures 9 and 10 (the experiment with people)"
# Pictures are 300 dots an inch, and a page's inch is 96: shown half as large again as in print.
_SHOWN = 1.5 * 96 / 300


@displayed
def reproduce(
    network: Network | str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    *,
    out: str | AnyPath,
    scale: str | Scale = "quick",
    seed: int = 0,
    progress: Progress | None = None,
) -> AnyPath:
    """Compute the paper's figures, and write one page of them.

    Every step keeps its results, so that the same call goes on where it was interrupted.

    Args:
        network: a network or its name.
        images: a folder, files, a text list, or 'photos'.
        out: the folder, new or that of the same question.
        scale: 'quick', 'paper' or sizes of one's own.
        seed: of everything that is drawn.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The page's path.
    Raises:
        ValueError: another scale, or too few images.
        RunError: the folder holds another network's or other images' results.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"--scale is one of {', '.join(SCALES)}, not {scale!r}")
    sizes = SCALES[scale] if isinstance(scale, str) else scale
    network, report = load(network), progress or silent
    source = open_images(images, size=network.preprocessing.size)
    source = sample_images(source, sizes.images, seed)
    question = {
        "experiment": "reproduce",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "images": {"count": len(source), "sha256": source.digest()},
        "scale": asdict(sizes),
        "seed": seed,
        "versions": versions(),
    }
    reproduction = Reproduction(
        network=network,
        images=source,
        folder=CheckpointFolder(out, question).folder,
        scale=sizes,
        seed=seed,
        progress=report,
    )
    what, entries = f"reproducing: {len(STEPS)} steps", list[Entry]()
    for number, step in enumerate(STEPS):
        report(what, number, len(STEPS))
        entries += step(reproduction)
    report(what, len(STEPS), len(STEPS))
    # First the paper's own figures.
    entries.sort(key=lambda x: (x.chapter != "the paper", int(x.figure.split()[0].rstrip(","))))
    _write_numbers(entries, reproduction.folder, question)
    return _write_page(entries, reproduction.folder, question, source)


def _write_numbers(entries: Sequence[Entry], folder: AnyPath, question: Mapping[str, Any]) -> None:
    """What the page says, as JSON."""
    figures = [
        {
            **asdict(entry),
            "pictures": [str(Path(str(path)).relative_to(str(folder))) for path in entry.pictures],
        }
        for entry in entries
    ]
    values = {"question": question, "figures": figures}
    write_text(folder / "reproduce.json", json.dumps(values, indent=1) + "\n")


def _write_page(
    entries: Sequence[Entry], folder: AnyPath, question: Mapping[str, Any], images: ImageSet
) -> AnyPath:
    claims = [claim for entry in entries for claim in entry.claims]
    compared = [claim for claim in claims if claim.agrees is not None]
    page = render(
        "reproduce.html.j2",
        title=f"The paper's figures on {question['network']}",
        network=question["network"],
        count=f"{len(images):,}",
        source=images.source,
        agreeing=sum(bool(claim.agrees) for claim in compared),
        compared=len(compared),
        entries=[
            {"entry": entry, "pictures": [_shown(path) for path in entry.pictures]}
            for entry in entries
        ],
        left_out=_LEFT_OUT,
        facts=[
            ("network", question["network"]),
            ("weights (SHA-256)", question["weights_sha256"]),
            ("images", f"{len(images):,}: {images.source}"),
            ("image list (SHA-256)", question["images"]["sha256"]),
            ("scale", ", ".join(f"{k} {v}" for k, v in question["scale"].items())),
            ("seed", str(question["seed"])),
            ("versions", ", ".join(f"{k} {v}" for k, v in question["versions"].items())),
        ],
    )
    path = folder / "index.html"
    write_text(path, page)
    return path


def _shown(path: AnyPath) -> tuple[str, str, int]:
    """A picture for the page: its data, its name and its width in the page."""
    with local(path) as file:
        pixels = read_png(file, "RGB")
    return data_uri(pixels, side=1800, quality=90), path.stem, round(_SHOWN * pixels.shape[1])
