"""Which images a feature is for, which are tense, and what counts as firing strongly."""

import numpy as np
from jaxtyping import Bool, Float

from opponent.selection import BAND, top

# Of all images so many are a feature's own, or tense: 1 %, at least 20, at most a quarter. Ours.
SHARE, LEAST, MOST = 0.01, 20, 0.25


def group_size(images: int) -> int:
    """How many tense images, and own ones without labels, a feature has at most.

    Args:
        images: how many there are in all.
    """
    return int(min(max(LEAST, SHARE * images), MOST * images))


def tense_images(
    activation: Float[np.ndarray, "n f"], l1: Float[np.ndarray, "n f"]
) -> Bool[np.ndarray, "n f"]:
    """Each feature's tense images: of those with -0.5 sd < f < 0 the largest L1 norms of S.

    Args:
        activation: f.
        l1: the L1 norm of S.
    Source: paper, section 4.
    """
    f = activation.astype(np.float64)
    balanced = (-BAND * f.std(0) < f) & (f < 0)
    tense = np.zeros(f.shape, bool)
    for number in range(f.shape[1]):
        tense[top(l1[:, number], group_size(len(f)), balanced[:, number]), number] = True
    return tense


def own_images(activation: Float[np.ndarray, "n f"]) -> Bool[np.ndarray, "n f"]:
    """The images with each feature's largest activations, where these are over zero.

    Args:
        activation: f.
    """
    own = np.zeros(activation.shape, bool)
    for number in range(activation.shape[1]):
        f = activation[:, number]
        own[top(f, group_size(len(f)), f > 0), number] = True
    return own


def thresholds(
    activation: Float[np.ndarray, "n f"], own: Bool[np.ndarray, "n f"]
) -> Float[np.ndarray, " f"]:
    """The median of each feature's activation in its own images, and no less than 0; NaN for none.

    Half of its own images are over it where it is over 0, whatever share of all images they are.

    Args:
        activation: f.
        own: each feature's own images.
    """
    medians = [
        float(np.median(f[x])) if x.any() else np.nan
        for f, x in zip(activation.T, own.T, strict=True)
    ]
    return np.array(medians).clip(0)
