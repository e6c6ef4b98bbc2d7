"""One feature over many images: what a scan measured of each."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Indices = Int[np.ndarray, " k"]

# Below this correlation, attribution does not add up to the activation. Source: paper, figure 3.
COMPLETE = 0.95


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
