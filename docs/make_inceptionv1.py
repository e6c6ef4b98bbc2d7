"""Make the pictures of inceptionv1.md, and of the README, from a real InceptionV1.

    python docs/make_inceptionv1.py WEIGHTS PHOTOGRAPHS --work FOLDER

WEIGHTS are those of inceptionv1-bvlc. PHOTOGRAPHS is a folder that holds Imagenette's photographs
and, in imagenet-samples, one of each of ImageNet's classes. It goes on where it was stopped, and
takes about three hours on two cores.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright

import opponent
from opponent import Network, Run
from opponent.atlas.atlas import AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.explain.crops import run_tiles
from opponent.images.loader import load_images
from opponent.paper.completeness import completeness, write_completeness
from opponent.paper.layer_pairs import bottleneck_pairs, random_units
from opponent.paper.missing import measure_missing, write_missing
from opponent.paper.reproduce.atlases import atlas_entry
from opponent.paper.reproduce.inversions import inversion_entries
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.paper.reproduce.scales import SCALES, Scale
from opponent.paper.reproduce.uniqueness import uniqueness_entries
from opponent.paper.weight_signs import weight_signs, write_weights
from opponent.plots import (
    ExemplarRow,
    exemplars_figure,
    plot_atlas,
    plot_energies,
    plot_exemplars,
    plot_groups,
    plot_inversions,
    plot_map,
    plot_selection,
    plot_who,
    save,
)
from opponent.reports.explorer import write_explorer
from opponent.selection import exciting, inhibiting

HERE = Path(__file__).parent
OUT = HERE / "inceptionv1"
UNITS = ("mixed3b:379", "mixed3b:342", "mixed3b:360")
SHOWN = UNITS[0]
# Photographs in the folder of one for each class.
SAMPLES = "imagenet-samples"
# The paper's sizes, but for what would take days: images, and inversions of each unit.
SCALE = replace(SCALES["paper"], top=2000, grid=12, units=4, tense=2)
# Cells a side of the atlases of later layers.
ATLASES = {"17": 10, "18": 7, "19": 7}
WIDTH = 1400
# README's row of details: of which picture, and the square of it by left, top and side, in widths.
DETAILS = {
    "scan": (f"figure4a-{SHOWN.replace(':', '-')}", 0.0, 0.04, 1.0),
    "look": (f"figure4b-g-{SHOWN.replace(':', '-')}", 0.0, 0.69, 0.5),
    "invert": (f"figure5-{SHOWN.replace(':', '-')}", 0.42, 0.365, 0.58),
    "who": ("who", 0.0, 0.09, 1.0),
    "atlas": ("figure6c", 0.26, 0.32, 0.4),
}
DETAIL = 400
CHROMIUM = "/usr/bin/chromium"


def shrink(path: Path, name: str) -> None:
    """A picture as WebP, as wide as pages show it sharply."""
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, 3 * WIDTH), Image.Resampling.LANCZOS)
        picture.convert("RGB").save(OUT / f"{name}.webp", quality=82, method=6)
    print(OUT / f"{name}.webp", flush=True)


def keep(figure: Figure, work: Path, name: str) -> None:
    """A figure, in full size in the work folder, and shrunk in the docs."""
    save(figure, work / "figures" / f"{name}.png")
    shrink(work / "figures" / f"{name}.png", name)


def measure(network: Network, photographs: Path, work: Path) -> None:
    """Completeness, what is missing from it, and the signs of the weights."""
    samples = opponent.open_images(photographs / SAMPLES)
    every_fourth = [entry.path for entry in list(samples)[::4] if entry.path is not None]
    measured = completeness(network, every_fourth, out=work / "completeness")
    for path in write_completeness([measured], work / "completeness-figures")[1:]:
        shrink(Path(str(path)), path.stem)
    missing = measure_missing(network, every_fourth, out=work / "missing", features=20)
    paths = write_missing(missing, work / "missing-figure")
    shrink(Path(str(paths[1])), "missing")
    for written in write_weights([weight_signs(network)], work / "weights")[1:]:
        shrink(Path(str(written)), written.stem)
    numbers = {"completeness": measured.describe()["layers"], "missing": missing.describe()}
    (OUT / "completeness.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def units(network: Network, photographs: Path, work: Path) -> Run:
    """Figures 2, 4 and 5 of three units."""
    run = opponent.scan_images(network, photographs, list(UNITS), "mixed3a", out=work / "run")
    keep(plot_exemplars(run, k=5), work, "figure2")
    for unit in UNITS:
        name = unit.replace(":", "-")
        keep(plot_energies(run, unit), work, f"figure4a-{name}")
        keep(plot_groups(run, unit), work, f"figure4b-g-{name}")
        keep(plot_inversions(run, unit, network=network), work, f"figure5-{name}")
    keep(plot_who(opponent.who(run, SHOWN, network=network, channels=6)), work, "who")
    return run


def atlas(network: Network, run: Run, work: Path) -> None:
    """Figure 6 of the unit that is shown."""
    settings = AtlasSettings(top=4000, grid=15)
    made = make_atlas(run, SHOWN, settings=settings, network=network)
    keep(plot_selection(made), work, "figure6a")
    keep(plot_map(made), work, "figure6b")
    keep(plot_atlas(made), work, "figure6c")
    keep(plot_atlas(made, colour_by="tension"), work, "figure6c-tension")
    photograph(Path(str(write_explorer(run, feature=SHOWN))), work / "explorer.png")
    shrink(work / "explorer.png", "explorer")
    print(made.about)


def other_layers(network: Network, photographs: Path, work: Path, progress: Progress) -> None:
    """Figures 8, 14 and 16, of one photograph a class, and 17 to 19, of two crops of each."""
    samples = str(photographs / SAMPLES)

    def shared(source: str, name: str, scale: Scale) -> Reproduction:
        images = opponent.open_images(source, size=network.preprocessing.size)
        return Reproduction(
            network=network, images=images, folder=work / name, scale=scale, seed=0,
            progress=progress,
        )  # fmt: skip

    one = shared(samples, "samples", SCALE)
    entries = [*uniqueness_entries(one), *inversion_entries(one)]
    for figure, grid in ATLASES.items():
        # Icons of half the steps are hardly to be told from the others: see icon-settings.webp.
        two = shared(f"crops:2:{samples}", "crops", replace(SCALE, grid=grid, steps=50))
        entries.append(atlas_entry(two, figure))
    for entry in entries:
        for number, path in enumerate(entry.pictures):
            name = f"figure{entry.figure}" + chr(ord("a") + number) * (len(entry.pictures) > 1)
            if entry.figure != "11":
                shrink(Path(str(path)), name)
    claims = {entry.figure: [asdict(claim) for claim in entry.claims] for entry in entries}
    (OUT / "claims.json").write_text(json.dumps(claims, indent=1) + "\n", encoding="utf-8")


def reversal(network: Network, photographs: Path, work: Path) -> None:
    """Whether what inhibits early units is what excites them, with colours and contrast reversed.

    Of 20 random units of a layer: the correlation of the mean crop of the 20 most exciting
    photographs with that of the 20 most inhibiting ones, by pixel and colour, less the mean of all.
    """
    samples = opponent.open_images(photographs / SAMPLES)
    pixels = np.stack(list(load_images(list(samples), network.preprocessing.fit))).astype(
        np.float32
    )
    found, rows_shown = dict[str, list[float]](), list[ExemplarRow]()
    for pair in bottleneck_pairs(network)[:6]:
        units = random_units(network, pair.target, 20, 0)
        features = [Feature(layer=pair.target, unit=unit) for unit in units]
        folder = work / "reversal" / pair.target
        run = opponent.scan_images(network, samples, features, pair.through, out=folder)
        crops = pixels[:, *run.receptive_field(run.features[0]).slices]
        crops = crops - crops.mean(0)
        for feature in run.features:
            columns = run.columns(feature, maps=False)
            chosen = [choose(columns, 20) for choose in (exciting, inhibiting)]
            high, low = (crops[rows].mean(0).ravel() for rows in chosen)
            found.setdefault(pair.target, []).append(float(np.corrcoef(high, low)[0, 1]))
        if pair.target in ("conv2d1", "conv2d2", "mixed3a"):
            for feature in run.features[:3]:
                columns = run.columns(feature)
                high, low = (
                    run_tiles(run, feature, columns, choose(columns, 4).tolist())
                    for choose in (exciting, inhibiting)
                )
                row = ExemplarRow(
                    label=feature.label, exciting=high, inhibiting=low, group=feature.layer
                )
                rows_shown.append(row)
    keep(exemplars_figure(rows_shown), work, "figure2-early")
    medians = {name: round(float(np.median(values)), 3) for name, values in found.items()}
    (OUT / "reversal.json").write_text(json.dumps(medians, indent=1) + "\n", encoding="utf-8")
    print(medians)


def details() -> None:
    """README's small pictures."""
    for name, (picture, left, top, side) in DETAILS.items():
        with Image.open(OUT / f"{picture}.webp") as whole:
            box = [round(whole.width * x) for x in (left, top, left + side, top + side)]
            part = whole.convert("RGB").crop((*box[:3], min(box[3], whole.height)))
        part.thumbnail((DETAIL, DETAIL), Image.Resampling.LANCZOS)
        part.save(OUT / f"detail-{name}.webp", quality=85, method=6)


def photograph(page: Path, picture: Path) -> None:
    """The explorer in a browser, with the tense images marked."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1250})
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("body[data-ready]")
        tab.select_option("#group", "tense")
        tab.wait_for_timeout(1500)
        tab.screenshot(path=picture)
        browser.close()


def main() -> None:
    """Make everything that is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=["units", "measures", "layers"], help="a part of it")
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    network = opponent.load("inceptionv1-bvlc", weights=given.weights)
    if given.only in (None, "units"):
        run = units(network, given.photographs, given.work)
        atlas(network, run, given.work)
        details()
    if given.only in (None, "measures"):
        measure(network, given.photographs, given.work)
        reversal(network, given.photographs, given.work)
    if given.only in (None, "layers"):
        with shown(None) as progress:
            other_layers(network, given.photographs, given.work, progress)


if __name__ == "__main__":
    main()
