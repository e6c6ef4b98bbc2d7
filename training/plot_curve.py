"""The errors of the layers while the small network was trained, as a picture.

    python training/plot_curve.py STAGE.jsonl … --out curve.webp

Each STAGE is the table that train_small.py writes beside its weights; they follow each other.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

LAYERS = ("conv2d2", "mixed3a", "mixed3b", "mixed4a", "mixed4c", "mixed4e", "mixed5b")


def main() -> None:
    """Draw one line a layer, and a mark where a stage begins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes, before = figure.subplots(), 0
    colours = colormaps["viridis"](np.linspace(0.9, 0.1, len(LAYERS)))
    for stage in given.stages:
        rows = [json.loads(line) for line in stage.read_text(encoding="utf-8").splitlines()]
        steps = [before + row["step"] for row in rows]
        for layer, colour in zip(LAYERS, colours, strict=True):
            label = layer if not before else None
            axes.plot(steps, [row[layer] for row in rows], color=colour, lw=1.2, label=label)
        before = steps[-1]
        axes.axvline(before, color="0.8", lw=0.8, zorder=0)
    axes.set(xlabel="step", ylabel="squared error, share of the variance", ylim=(0, 1.2))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
