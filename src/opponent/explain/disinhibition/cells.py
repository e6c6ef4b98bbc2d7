"""From numbers to the cells of tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from opponent.explain.disinhibition.statistics import NOTHING, Estimate, wilson
from opponent.storage.columns import pearson

Cell = str | float | int


def repeated(values: Sequence[str], places: np.ndarray) -> pa.Array:
    """The texts at some places, each kept once."""
    unique = {value: number for number, value in enumerate(dict.fromkeys(values))}
    numbers = np.array([unique[value] for value in values], np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(numbers[places]), pa.array(list(unique)))


def share_of(fires: Bool[np.ndarray, "m d"], level: float) -> Estimate:
    """The share of images that fire; of several draws the mean, between lowest and highest.

    Nothing where the level that they fire over is NaN, since no image says what it is.
    """
    if np.isnan(level):
        return NOTHING
    if fires.shape[1] == 1 or not len(fires):
        return wilson(float(fires.sum()), len(fires))
    shares = fires.mean(0)
    return Estimate(float(shares.mean()), float(shares.min()), float(shares.max()))


def over_draws(estimates: Sequence[Estimate]) -> Estimate:
    """The estimate itself; of several draws their mean, between the lowest and the highest."""
    if len(estimates) == 1:
        return estimates[0]
    values = [x.value for x in estimates]
    return Estimate(float(np.mean(values)), min(values), max(values))


def cells_of(name: str, estimate: Estimate) -> dict[str, Cell]:
    """An estimate as the cells of a row: NAME, NAME_low, NAME_high."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def agreement(linear: Float[np.ndarray, "n d"], exact: Float[np.ndarray, "n d"]) -> float:
    """Pearson's r of the linear estimate with what the network gives, the mean over draws."""
    return float(np.mean([pearson(*x) for x in zip(linear.T, exact.T, strict=True)]))


def mean_of(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if values.size else float("nan")


def percent_of(row: Mapping[str, Cell]) -> str:
    """A rate without inhibition, in words."""
    after = float(row["after"])
    return "none there" if np.isnan(after) else f"{after:.0%}"


def told(value: Cell) -> str:
    """A number in words."""
    return f"{float(value):.3f}" if np.isfinite(float(value)) else "not known"


def for_json(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, Cell | None]]:
    """Rows in which NaN is null."""
    return [
        {k: None if isinstance(x, float) and not np.isfinite(x) else x for k, x in row.items()}
        for row in rows
    ]
