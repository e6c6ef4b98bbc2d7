"""Do inversions do what they say? The paper's figure 14 and appendix F, on a finished run.

    python -m benchmarks.inversions RUN [--units 5] [--images 20] [--steps 100] [--out FIGURE]

For the tensest images of several units, the inversion of S's positive part should raise the
feature's activation above the photograph's own, and that of the negative part should lower it.
Prints how often each does, and the median activation in standard deviations.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks import torchvision_operators  # noqa: F401
from opponent.figures import activation_trace_figure, save
from opponent.images import ImageSet
from opponent.run import Run
from opponent.synthesis.inversion import Settings, invert
from opponent.tension import tense


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--units", type=int, default=5)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    run = Run(arguments.run)
    network = run.load_network()
    traces: dict[int, list[np.ndarray]] = {1: [], -1: []}
    moved: list[bool] = []
    for feature in run.features[: arguments.units]:
        columns = run.columns(feature)
        rows = tense(columns, arguments.images)
        chosen = ImageSet(
            source="tense images",
            entries=tuple(run.images.find(columns.images[row]) for row in rows),
        )
        own, deviation = columns.activation[rows], columns.activation.std()
        for sign in (1, -1):
            made = invert(
                network,
                chosen,
                feature,
                run.manifest.through,
                sign=sign,
                settings=Settings(steps=arguments.steps),
            )
            change = sign * (made.final.numpy() - own) > 0
            moved += change.tolist()
            traces[sign].append(made.activation.numpy().T / deviation)
            final = made.final.numpy() / deviation
            print(
                f"{feature.label} {'excitatory' if sign > 0 else 'inhibitory'}: "
                f"{change.sum()} of {len(change)} as they should, own median "
                f"{np.median(own / deviation):+.2f} sd, inversions' median {np.median(final):+.2f} "
                f"sd, range {final.min():+.2f} to {final.max():+.2f}",
                flush=True,
            )
    print(f"{np.mean(moved):.1%} of {len(moved)} inversions move the activation as they should")
    if arguments.out is not None:
        figure = activation_trace_figure(
            np.arange(1, arguments.steps + 1),
            np.concatenate(traces[1]),
            np.concatenate(traces[-1]),
            label=f"{run.manifest.network['name']}, {run.features[0].layer}",
        )
        save(figure, arguments.out)


if __name__ == "__main__":
    main()
