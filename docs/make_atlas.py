"""Make the atlases and the explorer's picture in the README: the embedded network, two features.

    python docs/make_atlas.py IMAGES [--run FOLDER]

IMAGES is a folder of 10,000 photographs of 64 x 64: the validation images of Tiny ImageNet.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from opponent.atlas.atlas import AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.plots.files import write_atlas
from opponent.reports.explorer import write_explorer
from opponent.scan.local import scan_images

HERE = Path(__file__).parent
FEATURES, THROUGH = ("mixed3b:200", "mixed3b:168"), "mixed3a"
SETTINGS = AtlasSettings(top=2000, grid=12)
WIDTH = 1200
CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    """Scan, draw both atlases, and photograph the explorer of the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--run", type=Path)
    arguments = parser.parse_args()
    folder = arguments.run or Path(tempfile.mkdtemp()) / "run"
    run = scan_images("inceptionv1-mini", arguments.images, FEATURES, THROUGH, out=folder)
    for feature in run.features:
        atlas = make_atlas(run, feature, settings=SETTINGS)
        print(atlas, atlas.about)
        [path] = [path for path in write_atlas(atlas) if path.name == "atlas.png"]
        _keep(path, f"atlas-{feature.at(None).label.replace(':', '-')}.png")
    page = write_explorer(run, feature=run.features[-1])
    photograph(page, folder / "explorer.png")
    _keep(folder / "explorer.png", "explorer.png")


def photograph(page: Path, picture: Path) -> None:
    """The explorer in a browser, with the tense images marked."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("body[data-ready]")
        tab.select_option("#group", "tense")
        tab.wait_for_timeout(1500)
        tab.screenshot(path=picture)
        browser.close()


def _keep(path: Path, name: str) -> None:
    with Image.open(path) as figure:
        figure.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
        figure.convert("RGB").save(HERE / name, optimize=True)
    print(HERE / name)


if __name__ == "__main__":
    main()
