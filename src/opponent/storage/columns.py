"""One feature over many images: what a scan measured of each."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from pandas import DataFrame

Indices = Int[np.ndarray, " k"]

# Below this correlation, attribution does not add up to the activation. Source: paper, figure 3.
COMPLETE = 0.95
# From fewer images a correlation says nothing. Ours.
FEWEST = 20

# Relative rounding of a sum of S over space in single precision, with room to spare.
_SUM_ROUNDING = 1e-5

SCALARS = ("activation", "excitation", "inhibition", "l1", "l2")
# What a scan through a dictionary has besides.
APART = ("bias", "rest")


def too_few(count: int) -> str | None:
    """Why so many images give no correlation; None where they do."""
    return None if count >= FEWEST else f"{count} images; r takes {FEWEST} or more"


def why_no_r(total: Float[np.ndarray, " n"], activation: Float[np.ndarray, " n"]) -> str | None:
    """Why E is not correlated with f over images; None where it is."""
    if few := too_few(len(total)):
        return few
    for name, values in (("activation", activation), ("sum of S", total)):
        if not np.ptp(values):
            return f"the {name} is the same in all images"
    return None


def pearson(total: Float[np.ndarray, " n"], activation: Float[np.ndarray, " n"]) -> float:
    """Pearson's correlation of E with f over images; NaN where `why_no_r` says why."""
    if why_no_r(total, activation):
        return float("nan")
    return float(np.corrcoef(total.astype(np.float64), activation.astype(np.float64))[0, 1])


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Of which images those of a `Columns` were kept, where a scan of all units kept them.

    Args:
        images: how many the scan could read.
        keep: how many it kept at either end of each score.
        deviation: standard deviation of the activation over all of them, from a histogram.
    """

    images: int
    keep: int
    deviation: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Columns:
    """One feature over n images, each with maps of h x w positions.

    Args:
        images: the images' ids.
        activation, excitation, inhibition, l1, l2: one value an image, in units of the activation.
        excitation_map, inhibition_map: phi+ and phi- within the window where S is not zero; of no
            rows and columns where the maps were not read.
        kept: where these are only the images that a scan of all units keeps, of which.
        bias, rest: in a scan through a dictionary what its bias and the rest add to the sum of S,
            which excitation and inhibition of latents are not.
    Source: paper, eqs. 2 and 3.

    >>> import numpy as np, opponent
    >>> values = np.array([1.0, -2.0])
    >>> maps = np.zeros((2, 3, 3))
    >>> columns = opponent.Columns(
    ...     images=("a.jpg", "b.jpg"), activation=values, excitation=np.array([3.0, 1.0]),
    ...     inhibition=np.array([2.0, 3.0]), l1=values**2, l2=values**2,
    ...     excitation_map=maps, inhibition_map=maps,
    ... )
    >>> columns
    Columns(2 images, maps of 3 x 3)
    >>> columns.tension
    array([2., 1.])
    """

    images: tuple[str, ...]
    activation: Float[np.ndarray, " n"]
    excitation: Float[np.ndarray, " n"]
    inhibition: Float[np.ndarray, " n"]
    l1: Float[np.ndarray, " n"]
    l2: Float[np.ndarray, " n"]
    excitation_map: Float[np.ndarray, "n h w"]
    inhibition_map: Float[np.ndarray, "n h w"]
    kept: Kept | None = None
    bias: Float[np.ndarray, " n"] | None = None
    rest: Float[np.ndarray, " n"] | None = None

    @property
    def total(self) -> Float[np.ndarray, " n"]:
        """E, the sum of S over channels: of latents, with what bias and rest add."""
        total: Float[np.ndarray, " n"] = self.excitation - self.inhibition
        for more in (self.bias, self.rest):
            total = total if more is None else total + more
        return total

    @property
    def spread(self) -> float:
        """Standard deviation of the activation over all images of the scan."""
        if self.kept is not None:
            return self.kept.deviation
        return float(self.activation.std())

    @property
    def deviation(self) -> float:
        """The same as the unit of captions: 1 where the activation is constant."""
        return self.spread or 1.0

    @property
    def scope(self) -> str:
        """How many images these are: '500 images', or '143 images kept of 10,000'."""
        text = f"{len(self):,} image{'' if len(self) == 1 else 's'}"
        return text if self.kept is None else f"{text} kept of {self.kept.images:,}"

    @property
    def completeness(self) -> float:
        """Pearson's r of excitation - inhibition with the activation; NaN where `no_r` says why.

        Source: paper, section 2.
        """
        return pearson(self.total, self.activation)

    @property
    def no_r(self) -> str | None:
        """Why there is no correlation; None where there is one."""
        return why_no_r(self.total, self.activation)

    @property
    def distance(self) -> float:
        """The mean of |excitation - inhibition - activation|, in standard deviations of the latter.

        It is NaN where the activation is constant. Source: paper, appendix E.
        """
        f = self.activation.astype(np.float64)
        if not len(f) or not f.std():
            return float("nan")
        return float(np.abs(self.total - f).mean() / f.std())

    @property
    def latents_alone(self) -> "Columns":
        """The same without what a dictionary's bias and rest add."""
        return replace(self, bias=None, rest=None)

    @property
    def agreement(self) -> str:
        """How far E agrees with the activation f, in words.

        E is excitation - inhibition; through a dictionary with what its bias and the rest add.
        """
        correlation = f"no r ({self.no_r})" if self.no_r else f"r = {self.completeness:.4f}"
        if np.isnan(self.distance):
            return correlation
        return f"{correlation}, mean |E - f| = {self.distance:.2g} sd of f"

    @property
    def tension(self) -> Float[np.ndarray, " n"]:
        """The smaller of excitation and inhibition: large only where both are."""
        smaller: Float[np.ndarray, " n"] = np.minimum(self.excitation, self.inhibition)
        return smaller

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.excitation_map.shape[1:]
        maps = f"maps of {height} x {width}" if height else "without maps"
        return f"Columns({self.scope}, {maps})"

    def to_arrow(self) -> pa.Table:
        """One row an image: its id, activation, excitation, inhibition and norms."""
        return pa.table({"image": list(self.images), **{x: getattr(self, x) for x in SCALARS}})

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        from opponent.core import notebook

        if not len(self):
            return notebook.section(repr(self))
        levels = {"smallest": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "largest": 1}
        quantiles = [
            (name, *(f"{x:.4g}" for x in np.quantile(getattr(self, name), list(levels.values()))))
            for name in SCALARS
        ]
        dots = notebook.scatter(self.excitation, self.inhibition, self.activation)
        return notebook.section(
            repr(self),
            notebook.beside(
                notebook.pictures([(dots, "inhibition against excitation")]),
                notebook.table(("", *levels), quantiles, len(quantiles)),
            ),
        )


def positive_part(
    total: Float[np.ndarray, "n k"], negative: Float[np.ndarray, "n k"], dtype: str
) -> Float[np.ndarray, "n k"]:
    """The sum of the positive values, from the sum of all and that of the negative ones.

    Args:
        total: sums of all values.
        negative: sums of the negative ones, as numbers >= 0.
        dtype: what the sums were computed in: 'float32', 'bfloat16' or 'float64'.
    Returns:
        Numbers >= 0; 0 where nothing is left but the rounding of the two sums.
    """
    positive: Float[np.ndarray, "n k"] = (total + negative).clip(0)
    lost = positive <= (_SUM_ROUNDING + 2 * torch.finfo(getattr(torch, dtype)).eps) * negative
    positive[lost] = 0
    return positive
