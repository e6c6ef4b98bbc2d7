"""The measure of uniqueness, what chance gives, and its interval.

Source: paper, eq. 6.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

Members = Int[np.ndarray, "n m"]


def uniqueness(members: Members) -> float:
    """The share of different images among those that n features chose.

    Args:
        members: for each feature its m images, all different, as numbers.
    Returns:
        U, between 1/n (all features chose the same images) and 1 (no image was chosen twice).
    Source: paper, eq. 6.
    """
    return len(np.unique(members)) / members.size


def chance(features: int, top: int, images: int) -> float:
    """The expected U of features that draw their images at random.

    Args:
        features: n.
        top: m, images a feature.
        images: N, images in all.
    Returns:
        N (1 - (1 - m/N)^n) / (n m): an image is missed by all features with (1 - m/N)^n.
    """
    return images * (1 - (1 - top / images) ** features) / (features * top)


def interval(
    members: Members, population: int | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for the U that choices of as many features give on average.

    From the jackknife: U without each feature in turn. The bootstrap would draw a feature twice,
    whose images then count as shared, and would so put U too low. The jackknife draws nothing
    twice, and errs on the wide side, most where features share images by chance only. Features
    drawn from a layer without replacement leave the less open the more of the layer they are: at
    all of it the interval is a point. It says nothing of what other images would give.

    Args:
        members: as in `uniqueness`.
        population: features to choose from; None is without end.
        confidence: of the interval.
    Returns:
        Low and high, within 1/n and 1. For a single feature nothing is known but these bounds.
    Source: Efron & Stein (1981), "The jackknife estimate of variance"; Cochran (1977), "Sampling
        techniques", section 2.6, for the finite population.
    """
    from scipy.special import stdtrit

    n = len(members)
    if n < 2:
        return 1 / n, 1.0
    value, variance = uniqueness(members), jackknife_variance(without_each(members))
    if population is not None:
        variance *= max(0.0, 1 - n / population)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(variance)
    return max(1 / n, value - half), min(1.0, value + half)


def without_each(members: Members) -> Float[np.ndarray, " n"]:
    """U without each of n >= 2 features in turn.

    Args:
        members: as in `uniqueness`.
    """
    n, m = members.shape
    _, number, count = np.unique(members, return_inverse=True, return_counts=True)
    own = (count[number.reshape(n, m)] == 1).sum(1)  # images that leave with the feature
    without: Float[np.ndarray, " n"] = (len(count) - own) / ((n - 1) * m)
    return without


def jackknife_variance(without: Float[np.ndarray, " n"]) -> float:
    """The variance of an estimate, from the estimates without each of n parts in turn.

    Source: Efron & Stein (1981).
    """
    return (len(without) - 1) / len(without) * float(((without - without.mean()) ** 2).sum())


def check_top(m: int, images: int) -> None:
    """Refuse a number of images a feature with which U says nothing.

    Args:
        m: images a feature.
        images: images in all.
    Raises:
        ValueError: it is not from 1 to half of them.
    """
    if not 1 <= m <= images // 2:
        raise ValueError(
            f"the top {m} of {images} images: give 1 to {images // 2}; with more, U says nothing "
            "of the features"
        )


def ranked(values: Float[np.ndarray, "images n"], m: int) -> Bool[np.ndarray, " n"]:
    """Which features have m top images: more than their lowest value, to m images at least.

    Others give one value to nearly all images, such as S = 0 above units that are never on, and
    the order of the images would choose.

    Args:
        values: of each feature in each image.
        m: images a feature.
    """
    if not values.size:
        return np.zeros(values.shape[1], bool)
    above: Bool[np.ndarray, " n"] = np.partition(values, -m, axis=0)[-m] > values.min(0)
    return above
