"""Figures 8 and 16: how many images features share."""

import numpy as np

from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.paper.uniqueness.assessment import Assessment, assess, sensible_top
from opponent.paper.uniqueness.contrasts import contrast
from opponent.paper.uniqueness.measure import UniquenessSettings, measure_features
from opponent.paper.uniqueness.results import write_uniqueness


def uniqueness_entries(reproduction: Reproduction) -> list[Entry]:
    """Uniqueness of units and k-means directions of all bottlenecks."""
    scale = reproduction.scale
    measurements = measure_features(
        reproduction.network,
        reproduction.images,
        out=reproduction.folder / "uniqueness",
        settings=UniquenessSettings(
            features=scale.features, kmeans=scale.centroids, seed=reproduction.seed
        ),
        progress=reproduction.progress,
    )
    assessment = assess(measurements, sensible_top(len(measurements.images)))
    contrasts = contrast(measurements, assessment.table[0].top)
    paths = write_uniqueness(
        reproduction.network, measurements, assessment, contrasts, progress=reproduction.progress
    )
    pictures = {path.stem.split("-")[0]: path for path in paths}
    row = assessment.table[0]
    return [
        Entry(
            figure="8",
            title="Features share tense images, not exciting ones",
            caption=f"A: uniqueness of the top {row.top} of {row.images:,} images of "
            f"{scale.features} features, layer by layer; chance gives {row.chance:.3f}. Brown: "
            "units with their weights in another order, which share as much where the norm of S "
            "says only how hard an image drives the layer (see beyond the paper). "
            "B: exciting and tense images of random features of a deep layer.",
            pictures=(pictures["figure8a"], pictures["figure8b"]),
            claims=_claims(assessment),
        ),
        Entry(
            figure="16",
            title="Images with large attributions across features",
            caption="Images among the top of at least three in four of a layer's features.",
            pictures=(pictures["figure16"],),
        ),
    ]


def _claims(assessment: Assessment) -> tuple[Claim, ...]:
    def values(by: str) -> list[float]:
        return [x.value for x in assessment.table if (x.kind, x.by) == ("units", by)]

    def late(by: str) -> float:
        """The mean over the last third of the layers."""
        return float(np.nanmean(values(by)[-max(1, len(values(by)) // 3) :]))

    everywhere, chance = float(np.nanmean(values("activation"))), assessment.table[0].chance
    activation, l1, l2 = (late(by) for by in ("activation", "l1", "l2"))
    return (
        Claim(
            claim="exciting images are unique to their features",
            paper="near ceiling in all layers",
            ours=f"U = {everywhere:.2f} over all layers, where chance gives {chance:.2f}",
            agrees=everywhere > chance - 0.1,
        ),
        Claim(
            claim="in deep layers, large attributions are to the same images",
            paper="decreases substantially",
            ours=f"U = {l1:.2f} by L1 against {activation:.2f} by activation, in the "
            "last third of the layers",
            agrees=l1 < activation - 0.1,
        ),
        Claim(
            claim="the L2 norm shares fewer of them than the L1 norm",
            paper="less",
            ours=f"U = {l2:.2f} by L2 against {l1:.2f} by L1",
            agrees=l2 > l1,
        ),
    )
