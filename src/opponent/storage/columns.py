"""One feature over many images: what a scan measured of each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from pandas import DataFrame

Indices = Int[np.ndarray, " k"]

# Below this correlation, attribution does not add up to the activation. Source: paper, figure 3.
COMPLETE = 0.95
# From fewer images a correlation says nothing. Ours.
FEWEST = 20


SCALARS = ("activation", "excitation", "inhibition", "l1", "l2")


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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Columns:
    """One feature over n images, each with maps of h x w positions.

    Args:
        images: the images' ids.
        activation, excitation, inhibition, l1, l2: one value an image, in units of the activation.
        excitation_map, inhibition_map: phi+ and phi- within the window where S is not zero; of no
            rows and columns where the maps were not read.
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

    @property
    def deviation(self) -> float:
        """Standard deviation of the activation, the unit of captions; 1 where it is constant."""
        return float(self.activation.std()) or 1.0

    @property
    def completeness(self) -> float:
        """Pearson's r of excitation - inhibition with the activation; NaN where `no_r` says why.

        Source: paper, section 2.
        """
        return pearson(self.excitation - self.inhibition, self.activation)

    @property
    def no_r(self) -> str | None:
        """Why there is no correlation; None where there is one."""
        return why_no_r(self.excitation - self.inhibition, self.activation)

    @property
    def distance(self) -> float:
        """The mean of |excitation - inhibition - activation|, in standard deviations of the latter.

        It is NaN where the activation is constant. Source: paper, appendix E.
        """
        f = self.activation.astype(np.float64)
        if not len(f) or not f.std():
            return float("nan")
        return float(np.abs(self.excitation - self.inhibition - f).mean() / f.std())

    @property
    def agreement(self) -> str:
        """How far excitation - inhibition, E, agrees with the activation f, in words."""
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
        count, (height, width) = len(self), self.excitation_map.shape[1:]
        maps = f"maps of {height} x {width}" if height else "without maps"
        return f"Columns({count:,} image{'' if count == 1 else 's'}, {maps})"

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
