"""A sheet of ten random units of each of several networks, with what figures 4, 5 and 6 show.

    python training/compare.py NETWORK … --images FOLDER --out FOLDER [--layer mixed3b]

NETWORK is a name, or NAME=FILE of weights. Beside each unit: the images that excite it most and
that inhibit it most, its two feature visualisations, the tensest image with both inversions, and
an atlas.
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

import opponent
from opponent.cli.opening import open_network
from opponent.core.box import scale_box
from opponent.core.pictures import on_paper
from opponent.explain.crops import run_tiles
from opponent.selection import exciting, inhibiting, tense

UNITS, IMAGES, STEPS, SIDE = 10, 3, 100, 112
Picture = UInt8[np.ndarray, "h w c"]


def square(picture: Picture) -> Picture:
    """A picture of the sheet's size."""
    image = Image.fromarray(picture).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def cropped(network: opponent.Network, run: opponent.Run, made: opponent.Synthesis) -> Picture:
    """The first synthesised image on white, where the feature sees it."""
    pixels = made.rgba()[0]
    field, size = run.receptive_field(made.feature), network.preprocessing.size
    box = scale_box(field, size, pixels.shape[:2])
    return square(on_paper(pixels[box.slices]))


def row(network: opponent.Network, run: opponent.Run, unit: opponent.Feature) -> list[Picture]:
    """The pictures of a unit, in order."""
    columns, settings = run.columns(unit), opponent.SynthesisSettings(steps=STEPS)
    found = []
    for choose in (exciting, inhibiting):
        tiles = run_tiles(run, unit, columns, choose(columns, IMAGES).tolist())
        found += [square(tile.image) for tile in tiles]
    for side in ("excitation", "inhibition"):
        shown = opponent.visualise(network, unit, side=side, settings=settings)
        found.append(cropped(network, run, shown))
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    [*chosen] = tense(columns, 1).tolist()
    if not chosen:
        return [*found, blank, blank, blank, blank]
    found.append(square(run_tiles(run, unit, columns, chosen)[0].image))
    entry = run.images.find(columns.images[chosen[0]])
    for side in ("excitation", "inhibition"):
        made = opponent.invert(network, [entry], unit, run.through, side=side, settings=settings)
        found.append(cropped(network, run, made))
    atlas = opponent.make_atlas(
        run, unit, network=network,
        settings=opponent.AtlasSettings(top=400, grid=5, min_images=4, steps=STEPS),
    )  # fmt: skip
    return [*found, square(atlas.mosaic(60))]


HEADINGS = ["excites", "", "", "inhibits", "", "", "+", "−", "tense", "S⁺", "S⁻", "atlas"]


def main() -> None:
    """Scan with each network, and draw its sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", default="mixed3b")
    parser.add_argument("--through", default="mixed3a")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(given.networks):
        network = open_network(text)
        channels = network.layer(given.layer).shape[0]
        chosen = sorted(np.random.default_rng(0).choice(channels, UNITS, False).tolist())
        units = [f"{given.layer}:{unit}" for unit in chosen]
        folder = given.out / f"run-{number}"
        run = opponent.scan_images(network, given.images, units, given.through, out=folder)
        figure = Figure(figsize=(len(HEADINGS), 1.15 * UNITS), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        panels = figure.subplots(UNITS, len(HEADINGS))
        for unit, line in zip(run.features, panels, strict=True):
            for axes, picture in zip(line, row(network, run, unit), strict=True):
                axes.imshow(picture)
                axes.axis("off")
            line[0].set_title(unit.label, fontsize=7, loc="left")
        for axes, heading in zip(panels[0][1:], HEADINGS[1:], strict=True):
            axes.set_title(heading, fontsize=8)
        figure.suptitle(network.name, fontsize=10)
        figure.savefig(given.out / f"sheet-{number}.png", dpi=130)
        print(given.out / f"sheet-{number}.png")


if __name__ == "__main__":
    main()
