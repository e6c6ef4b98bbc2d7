"""Make the pictures of inceptionv1.md, and of the README, from a real InceptionV1.

    python docs/make_inceptionv1.py WEIGHTS PHOTOGRAPHS --work FOLDER

WEIGHTS are those of inceptionv1-bvlc. PHOTOGRAPHS is a folder that holds Imagenette's photographs
and, in imagenet-samples, one of each of ImageNet's classes. It goes on where it was stopped, and
takes about an hour on two cores.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright

import opponent
from opponent import Network, Run
from opponent.atlas.atlas import AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.paper.completeness import completeness, write_completeness
from opponent.paper.missing import measure_missing, write_missing
from opponent.paper.weight_signs import weight_signs, write_weights
from opponent.plots import (
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

HERE = Path(__file__).parent
OUT = HERE / "inceptionv1"
UNITS = ("mixed3b:379", "mixed3b:342", "mixed3b:360")
SHOWN = UNITS[0]
# Photographs in the folder of one for each class.
SAMPLES = "imagenet-samples"
WIDTH = 1400
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
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    network = opponent.load("inceptionv1-bvlc", weights=given.weights)
    run = units(network, given.photographs, given.work)
    atlas(network, run, given.work)
    measure(network, given.photographs, given.work)


if __name__ == "__main__":
    main()
