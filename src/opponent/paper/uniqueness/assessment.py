"""U of each layer, and the images that most of its features share.

Source: paper, section 6 and appendix H.
"""

import math
from dataclasses import dataclass

import numpy as np

from opponent.paper.uniqueness.measurements import SELECTIONS, FeatureGroup, FeatureMeasurements
from opponent.paper.uniqueness.statistics import (
    Members,
    chance,
    check_top,
    interval,
    ranked,
    uniqueness,
)
from opponent.selection import top

# Images a feature. Source: paper, appendix H, which takes 100 of 50,000.
TOP = 100
# With 20 features, U of images drawn by chance is 0.83 at one in 50, and falls below 0.5 at one in
# 12, where little is left to be seen. Ours.
LEAST_IMAGES = 50
# An image is shared if 15 of 20 features have it among their top images. Source: appendix H.
SHARED = 0.75


@dataclass(frozen=True, kw_only=True)
class Uniqueness:
    """How many images the features of one layer share, by one way of choosing images.

    Args:
        layer, through: the layer, and the one that it is explained through.
        kind: 'units' or 'kmeans'.
        by: what the images are the largest in: 'activation', 'l1' or 'l2' norm of S.
        features, top, images: n, m and N.
        value: U; like all that follows not a number where no feature is left.
        low, high: a 95 % interval over the choice of features, by `interval`.
        chance: U of images drawn at random.
        skipped: features left out, since `ranked` says that they have no m top images.
    """

    layer: str
    through: str
    kind: str
    by: str
    features: int
    top: int
    images: int
    value: float
    low: float
    high: float
    chance: float
    skipped: int


@dataclass(frozen=True, kw_only=True)
class SharedImage:
    """An image that many of a layer's features have among their top m by the L1 norm of S.

    Args:
        layer, through: the layer, and the one that it is explained through.
        kind: 'units' or 'kmeans'.
        image: its id.
        features: how many features have it among their top m.
        of: how many features there are.
    """

    layer: str
    through: str
    kind: str
    image: str
    features: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """U of all layers, and the images that three in four of a layer's features share.

    Args:
        table: by layer, kind of feature and way of choosing images.
        shared: by layer and kind of feature, the most shared first.
    """

    table: tuple[Uniqueness, ...]
    shared: tuple[SharedImage, ...]


def sensible_top(images: int) -> int:
    """m for so many images: 100, or fewer where chance alone would make features share images."""
    return max(1, min(TOP, images // LEAST_IMAGES))


def assess(measurements: FeatureMeasurements, m: int) -> Assessment:
    """U by layer, kind of feature and way of choosing images.

    Args:
        measurements: as `measure_features` gives them.
        m: images a feature.
    Returns:
        U, its intervals and what chance gives; and the shared images.
    Raises:
        ValueError: m is less than 1, or more than half of the images.
    Source: paper, eq. 6, figures 8a and 16.
    """
    images = len(measurements.images)
    check_top(m, images)
    table, shared = list[Uniqueness](), list[SharedImage]()
    for group in measurements.groups:
        # The same features for every selection, so that these can be compared.
        kept = np.logical_and.reduce([ranked(group.by(x), m) for x in SELECTIONS])
        n = int(kept.sum())
        for by in SELECTIONS:
            chosen = [top(values, m) for values in group.by(by)[:, kept].T]
            members = np.array(chosen, dtype=np.intp).reshape(n, m)
            table.append(_uniqueness(group, by, members, images))
            if by == "l1" and n >= 2:
                shared += _shared_images(group, members, measurements.images)
    return Assessment(table=tuple(table), shared=tuple(shared))


def _uniqueness(group: FeatureGroup, by: str, members: Members, images: int) -> Uniqueness:
    n, m = members.shape
    low, high = interval(members, group.population) if n else (math.nan, math.nan)
    return Uniqueness(
        layer=group.pair.target,
        through=group.pair.through,
        kind=group.kind,
        by=by,
        features=n,
        top=m,
        images=images,
        value=uniqueness(members) if n else math.nan,
        low=low,
        high=high,
        chance=chance(n, m, images) if n else math.nan,
        skipped=len(group.features) - n,
    )


def _shared_images(
    group: FeatureGroup, members: Members, images: tuple[str, ...]
) -> list[SharedImage]:
    """The images of at least three in four features, the most shared first."""
    numbers, counts = np.unique(members, return_counts=True)
    return [
        SharedImage(
            layer=group.pair.target,
            through=group.pair.through,
            kind=group.kind,
            image=images[numbers[i]],
            features=int(counts[i]),
            of=len(members),
        )
        for i in np.argsort(-counts, kind="stable")
        if counts[i] >= SHARED * len(members)
    ]
