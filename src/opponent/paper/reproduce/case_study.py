"""Figures 4 and 5: a case study of one unit, and inversions of tense images."""

import numpy as np

from opponent.core.feature import Feature
from opponent.core.text import file_name
from opponent.paper.reproduce.completeness import CEILING
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.plots.files import write_figures
from opponent.selection import tense
from opponent.storage.run import Run

# The depth of the paper's mixed3b among the bottlenecks of InceptionV1.
DEPTH = 0.3


def case_study_entries(reproduction: Reproduction) -> list[Entry]:
    """The case study of the tensest of three units, and inversions for all three."""
    run = scan_tense_units(reproduction, DEPTH, 3)
    first, through = run.features[0], reproduction.pair_at(DEPTH).through
    paths = write_figures(
        run,
        reproduction.folder / "case-study",
        features=run.features,
        network=reproduction.network,
        settings=reproduction.settings,
        progress=reproduction.progress,
    )
    columns = run.columns(first)
    without = [x.label for x in run.features if not len(tense(run.columns(x), 1))]
    a, b = (next(p for p in paths if p.name.startswith(f"figure4{x}-")) for x in ("a", "b-g"))
    return [
        Entry(
            figure="4",
            title=f"Case study of {first.label}",
            caption=f"A: excitation and inhibition through {through} in each image, "
            "coloured by the activation, with lines of equal E. B to G: images that excite, "
            "inhibit, do neither, and do both, apart and at one place.",
            pictures=(a, b),
            claims=(
                Claim(
                    claim="E follows the activation, so colours and lines agree",
                    paper="well aligned",
                    ours=f"{columns.agreement}, over {len(columns.images):,} images",
                    agrees=None if columns.no_r else columns.completeness >= CEILING,
                ),
            ),
        ),
        Entry(
            figure="5",
            title="Tense images, accentuated and inverted",
            caption="The three tensest images of three units: photograph, accentuation and "
            "inversion for either sign, and the units' feature visualisations. "
            + (f"Without a tense image: {', '.join(without)}." if without else ""),
            pictures=tuple(p for p in paths if p.name.startswith("figure5-")),
        ),
    ]


def scan_tense_units(reproduction: Reproduction, depth: float, count: int) -> Run:
    """A scan of the tensest units of a layer, by the median over images, among random ones.

    Args:
        reproduction: what all figures share.
        depth: of the layer, 0 for the first bottleneck and 1 for the last.
        count: how many of the units.
    """
    pair = reproduction.pair_at(depth)
    layer = file_name(pair.target)
    candidates = reproduction.random_units(pair.target, 12)
    run = reproduction.scan(f"scan-candidates-{layer}", candidates, pair.through)
    order = np.argsort([-_tension(run, feature) for feature in run.features], kind="stable")
    chosen = [candidates[i] for i in order[:count]]
    return reproduction.scan(f"scan-{count}-{layer}", chosen, pair.through)


def _tension(run: Run, feature: Feature) -> float:
    """The median over images, in standard deviations of the activation."""
    columns = run.columns(feature, maps=False)
    return float(np.median(columns.tension)) / (float(columns.activation.std()) or 1)
