"""A sheet that compares settings of atlas icons: what each looks like, and what it costs.

    python -m benchmarks.icon_settings RUN --out sheet.png [--cells 7] [--model MODEL=FILE]

RUN holds a finished atlas. Its cells are inverted anew by each setting, all alike otherwise, and
shown as the atlas shows them: on white, where they are opaque.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import spearmanr

from opponent import Run
from opponent.atlas.atlas import atlases
from opponent.cli.opening import scanned_network
from opponent.core.box import scale_box
from opponent.core.pictures import on_paper
from opponent.core.side import Side
from opponent.core.text import in_deviations
from opponent.synthesis.inversion import invert_attribution
from opponent.synthesis.settings import SynthesisSettings
from opponent.synthesis.transforms import Transforms

STILL = Transforms(uniform=0.01, gaussian=0.01)


def variants(base: SynthesisSettings, side: int) -> dict[str, SynthesisSettings]:
    """The settings that are compared, of a network whose images have so many pixels a side."""
    one, half = (side, side), (side * 3 // 2, side * 3 // 2)
    return {
        "as it is": base,
        "50 steps": replace(base, steps=50),
        "200 steps": replace(base, steps=200),
        "400 steps": replace(base, steps=400),
        "200 steps, less noise": replace(base, steps=200, transforms=STILL),
        "canvas of the input": replace(base, canvas=one),
        "canvas 1.5 times the input": replace(base, canvas=half),
        "fourier": replace(base, parameterisation="fourier"),
        "fourier, 200 steps": replace(base, parameterisation="fourier", steps=200),
        "pixels (colours not decorrelated)": replace(base, parameterisation="pixels"),
        "rate 0.03, 200 steps": replace(base, steps=200, rate=0.03),
        "rate 0.12": replace(base, rate=0.12),
    }


def main() -> None:
    """Invert some cells by all settings, and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=7)
    parser.add_argument("--model", help="default: as the run names it")
    parser.add_argument("--only", nargs="*", help="names of settings")
    given = parser.parse_args()
    run = Run(given.run)
    network = scanned_network(run, model=given.model)
    [atlas] = atlases(run)
    feature, means = atlas.feature, load_file(Path(str(atlas.folder)) / "cells.safetensors")
    cells = atlas.cells
    order = np.argsort([cell.mean_activation for cell in cells])
    chosen = order[np.linspace(0, len(order) - 1, given.cells).round().astype(int)]
    target = means["attribution"][chosen]
    target = target / target.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    wanted = [cells[i].mean_activation for i in chosen]
    base, deviation = atlas.about.settings.synthesis, atlas.about.deviation
    rows = variants(base, network.preprocessing.size[0])
    if given.only:
        rows = {name: rows[name] for name in given.only}
    figure = Figure(figsize=(1.5 * (given.cells + 1.6), 1.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), given.cells + 1, squeeze=False)
    for panel, (name, settings) in zip(panels, rows.items(), strict=True):
        began = time.perf_counter()
        made = invert_attribution(
            network, target, feature, run.through, side=Side.BOTH, settings=settings
        )
        seconds = (time.perf_counter() - began) / given.cells
        final = made.final.tolist()
        rank = float(spearmanr(final, wanted).statistic)
        text = f"{name}\n{seconds:.1f} s an icon\nSpearman {rank:.2f}"
        panel[0].text(0, 0.5, text, va="center", fontsize=8)
        print(text.replace("\n", ", "), flush=True)
        for axes, pixels, value in zip(panel[1:], made.rgba(), final, strict=True):
            box = scale_box(run.receptive_field(feature), run.preprocessing.size, pixels.shape[:2])
            axes.imshow(Image.fromarray(on_paper(pixels[box.slices])))
            axes.set_title(in_deviations(value / deviation), fontsize=7)
        for axes in panel:
            axes.axis("off")
    figure.savefig(given.out, dpi=130)


if __name__ == "__main__":
    main()
