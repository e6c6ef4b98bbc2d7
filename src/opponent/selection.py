"""Which images: exciting, inhibiting, silent, tense, tense apart, tense together.

Pure functions on a scan's columns. Each returns indices, the most telling first; equal images stay
in their order. Fewer than k come back where fewer qualify.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

Indices = Int[np.ndarray, " k"]

GROUPS = ("exciting", "inhibiting", "silent", "tense", "tense_apart", "tense_together")

# Tense images keep to -0.5 sd < f < 0. Source: paper, section 4 (whose print lost the minus sign).
BAND = 0.5
# Below this correlation, attribution does not add up to the activation. Source: paper, figure 3.
COMPLETE = 0.95
# Source: paper, section 3, figures 4e and 4f.
LOW, HIGH = 1.0, 99.0


@dataclass(frozen=True, kw_only=True)
class Columns:
    """One feature over n images, each with maps of h x w positions.

    Args:
        images: the images' ids.
        activation, excitation, inhibition, l1, l2: one value an image, in units of the activation.
        excitation_map, inhibition_map: phi+ and phi- within the window where S is not zero.
    """

    images: tuple[str, ...]
    activation: Float[np.ndarray, " n"]
    excitation: Float[np.ndarray, " n"]
    inhibition: Float[np.ndarray, " n"]
    l1: Float[np.ndarray, " n"]
    l2: Float[np.ndarray, " n"]
    excitation_map: Float[np.ndarray, "n h w"]
    inhibition_map: Float[np.ndarray, "n h w"]

    @property
    def deviation(self) -> float:
        """Standard deviation of the activation, the unit of captions; 1 where it is constant."""
        return float(self.activation.std()) or 1.0

    @property
    def completeness(self) -> float:
        """Pearson's correlation of excitation - inhibition with the activation; NaN if undefined.

        Source: paper, section 2.
        """
        total, activation = (
            x.astype(np.float64) for x in (self.excitation - self.inhibition, self.activation)
        )
        if len(total) < 2 or not total.std() or not activation.std():
            return float("nan")
        return float(np.corrcoef(total, activation)[0, 1])

    @property
    def tension(self) -> Float[np.ndarray, " n"]:
        """The smaller of excitation and inhibition: large only where both are."""
        smaller: Float[np.ndarray, " n"] = np.minimum(self.excitation, self.inhibition)
        return smaller


def top(
    values: Num[np.ndarray, " n"], k: int, where: Bool[np.ndarray, " n"] | None = None
) -> Indices:
    """The indices of the k largest values, largest first, among those that qualify."""
    order: Indices = np.argsort(-values, kind="stable")
    chosen = order if where is None else order[where[order]]
    return chosen[:k]


def exciting(columns: Columns, k: int) -> Indices:
    """The images with the largest activation (MEIs). Source: paper, section 1."""
    return top(columns.activation, k)


def inhibiting(columns: Columns, k: int) -> Indices:
    """The images with the smallest activation (MIIs). Source: paper, section 1."""
    return top(-columns.activation, k)


def silent(columns: Columns, k: int) -> Indices:
    """The images that neither excite nor inhibit: the smallest L1 norms. Source: figure 4d."""
    return top(-columns.l1, k)


def in_balance(columns: Columns) -> Bool[np.ndarray, " n"]:
    """Which images excite and inhibit about alike, with inhibition ahead: -0.5 sd(f) < f < 0."""
    # In double precision: the squares of large values would not fit in single.
    f = columns.activation.astype(np.float64)
    low = -BAND * float(f.std()) if f.size else 0.0
    return np.logical_and(low < f, f < 0)


def tense(columns: Columns, k: int) -> Indices:
    """The images in balance with the largest L1 norm (MTIs). Source: paper, section 4."""
    return top(columns.l1, k, in_balance(columns))


def tense_apart(columns: Columns, k: int) -> Indices:
    """Images with excitation in one place and inhibition in another, largest tension first.

    phi+ - phi- of the image holds a value under the 1st and one over the 99th percentile of all
    images' values. Source: paper, section 3, figure 4e; it leaves the order open.
    """
    difference = columns.excitation_map - columns.inhibition_map
    if not difference.size:
        return np.empty(0, dtype=np.intp)
    low, high = np.percentile(difference, [LOW, HIGH])
    both = (difference < low).any((1, 2)) & (difference > high).any((1, 2))
    return top(columns.tension, k, both)


def tense_together(columns: Columns, k: int) -> Indices:
    """Images with excitation and inhibition in one and the same place, largest tension first.

    phi+ and phi- are both over their 99th percentile at one position. Source: paper, section 3,
    figure 4f; it leaves the order open.
    """
    plus, minus = columns.excitation_map, columns.inhibition_map
    if not plus.size:
        return np.empty(0, dtype=np.intp)
    both = (plus > np.percentile(plus, HIGH)) & (minus > np.percentile(minus, HIGH))
    return top(columns.tension, k, both.any((1, 2)))


def select(columns: Columns, k: int) -> dict[str, Indices]:
    """All groups of images, k each."""
    choose = (exciting, inhibiting, silent, tense, tense_apart, tense_together)
    return {name: pick(columns, k) for name, pick in zip(GROUPS, choose, strict=True)}


def percentile_of(values: Num[np.ndarray, " n"], value: float) -> float:
    """The share of values below a value, ties counted half, in percent."""
    return 100 * float(np.mean(values < value) + np.mean(values == value) / 2)
