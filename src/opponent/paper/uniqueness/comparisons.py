"""What the comparison of features with their controls says, row by row.

Source: ours; the measure is the paper's, eq. 6.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval.

    Args:
        value, low, high: the number and its bounds; NaN where there is none.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """U of one layer's features, beside that of one kind of control.

    Args:
        layer, through: the layer, and the one that it is explained through.
        kind: 'units' or 'kmeans'.
        basis: 'channels', or a dictionary's title.
        by: the norm of S that images are chosen by, 'l1' or 'l2'.
        given: 'alone', 'over h' or 'matched'.
        control: 'permuted' or 'random'.
        features, top, images: n, m and N.
        learnt: U of the features.
        other: U of the controls, the mean of all draws.
        more: what features share beyond the controls: other - learnt.
        chance: U of images drawn at random.
        hidden_r: mean correlation of that norm of S with the same norm of h.
    """

    layer: str
    through: str
    kind: str
    basis: str
    by: str
    given: str
    control: str
    features: int
    top: int
    images: int
    learnt: Estimate
    other: Estimate
    more: Estimate
    chance: float
    hidden_r: float


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What of the norm of S and of tension remains in a dictionary, mean over images.

    Args:
        layer, through, kind, basis: as above.
        gradient: 'learnt', or the control.
        l1: L1 norm of S in latents over that in channels.
        l1_with_rest: the same with the rest counted channel by channel.
        tension: the same of the tension.
    """

    layer: str
    through: str
    kind: str
    basis: str
    gradient: str
    l1: Estimate
    l1_with_rest: Estimate
    tension: Estimate


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """The mean squared cosine of two features' S in one image: 0 at right angles, 1 parallel.

    Args:
        layer, through, kind: as above.
        gradient: 'learnt', or the control.
        features: how many there are.
        squared_cosine: the mean over images and pairs of features.
    """

    layer: str
    through: str
    kind: str
    gradient: str
    features: int
    squared_cosine: Estimate


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """All comparisons with the controls.

    Args:
        sharing: of U, for each layer, kind, basis, norm, way and control.
        remaining: what dictionaries leave.
        parallel: how far the features' S are parallel.
    """

    sharing: tuple[Contrast, ...]
    remaining: tuple[Remaining, ...]
    parallel: tuple[Parallel, ...]
