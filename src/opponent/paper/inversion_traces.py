"""The activations that inversions of one layer's units give: by side, in standard deviations."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from opponent.core.side import SIDES, Side
from opponent.paper.layer_pairs import LayerPair


@dataclass(frozen=True, kw_only=True)
class InversionTraces:
    """What inversions of one side do to one layer's units, in standard deviations of each unit.

    Args:
        units, images: the unit and the photograph of each inversion.
        own: the photograph's activation.
        activation: at each step, before it, as the mean over the step's transforms.
        final: of the finished image.
    """

    units: Int[np.ndarray, " n"]
    images: tuple[str, ...]
    own: Float[np.ndarray, " n"]
    activation: Float[np.ndarray, "n steps"]
    final: Float[np.ndarray, " n"]

    def moved(self, side: Side) -> int:
        """How many inversions end on the right side of their photograph's activation."""
        return int((side.sign * (self.final - self.own) > 0).sum())

    def describe(self, side: Side) -> dict[str, Any]:
        """All results, ready for JSON; medians and ranges are over the inversions."""
        rows = zip(self.units.tolist(), self.images, self.own, self.final, strict=True)
        return {
            "inversions": len(self.own),
            "moved_as_they_should": self.moved(side),
            "own": _spread(self.own),
            "final": _spread(self.final),
            "steps": [_spread(column) for column in self.activation.T],
            "each": [
                {"unit": unit, "image": image, "own": float(own), "final": float(final)}
                for unit, image, own, final in rows
            ],
        }


@dataclass(frozen=True, kw_only=True)
class LayerInversions:
    """The inversions of one layer's units.

    Args:
        pair: the layers.
        sides: the traces of excitation and of inhibition.
        skipped: what was left out: unit, 'both' sides or which, and why.
        empty: tense images that were passed by, since nothing excites or nothing inhibits in them.
    """

    pair: LayerPair
    sides: Mapping[Side, InversionTraces]
    skipped: tuple[tuple[int, str, str], ...]
    empty: int

    def describe(self) -> dict[str, Any]:
        """All results, ready for JSON."""
        values: dict[str, Any] = asdict(self.pair)
        for side in SIDES:
            values[side.value] = self.sides[side].describe(side)
        skipped = [dict(zip(("unit", "side", "why"), x, strict=True)) for x in self.skipped]
        return values | {"skipped": skipped, "images_with_an_empty_side": self.empty}


def _spread(values: Float[np.ndarray, " n"]) -> dict[str, float] | None:
    """Median and full range."""
    if not len(values):
        return None
    spread = {"median": np.median(values), "least": values.min(), "most": values.max()}
    return {name: float(value) for name, value in spread.items()}
