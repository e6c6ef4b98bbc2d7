"""Every unit of a layer over many images, in bounded memory: extremes and distributions.

A summary of some images keeps, for each unit and score, the largest and the smallest values with
the images that gave them, and a histogram with buckets of even relative width. Two summaries merge
into that of all their images, in any order and grouping, with the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import save

from opponent.storage.tables import NUMBER, NUMBERS, TEXT, TEXTS, WHOLE

SCORES = ("activation", "excitation", "inhibition", "tension", "l1", "l2")
# Images kept at either end of each score.
KEEP = 16
# A bucket ends at so many times its beginning, so that a quantile is right to 1 %.
# Source: Masson, Rim & Lee (2019), DDSketch.
GROWTH = 1.02
# Absolute values under the first are zero, over the last all alike.
SMALLEST, LARGEST = 1e-12, 1e12
BUCKETS = int(log(LARGEST / SMALLEST) / log(GROWTH)) + 2
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is kept of u units and s scores over n images.

    Args:
        count: n. A unit has fewer values where one of its scores is not finite in some image.
        values: the k largest and k smallest of each, best first; NaN where there are fewer.
        images: the numbers of the images that gave them; -1 where there are fewer.
        keys: buckets that hold something, each as ((unit * s) + score) * width + bucket, ascending.
        counts: how many values lie in each.
    """

    count: int
    values: Float[np.ndarray, "u s 2 k"]
    images: Int[np.ndarray, "u s 2 k"]
    keys: Int[np.ndarray, " b"]
    counts: Int[np.ndarray, " b"]

    def to_bytes(self, scan: str = "") -> bytes:
        """As a safetensors file, with whole numbers as narrow as they are.

        Args:
            scan: the digest of the scan's manifest.
        """
        owners, buckets = np.divmod(self.keys, _WIDTH)
        sizes = np.bincount(owners, minlength=self.values[:, :, 0, 0].size)
        values = {"images": self.images, "sizes": sizes, "buckets": buckets, "counts": self.counts}
        arrays = {
            name: x.astype(np.min_scalar_type(x.max(initial=0))) for name, x in values.items()
        }
        # -1, where there is no image, is not narrow.
        arrays["images"] = self.images.astype(np.min_scalar_type(-1 - self.images.max(initial=0)))
        arrays |= {"values": self.values.copy(), "count": np.array([self.count])}
        return save(arrays, {"scan": scan})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Summary":
        """From the arrays of `to_bytes`.

        Raises:
            KeyError, ValueError: they are damaged.
        """
        sizes, buckets = (arrays[name].astype(np.int64) for name in ("sizes", "buckets"))
        counts, images = (arrays[name].astype(np.int64) for name in ("counts", "images"))
        values = arrays["values"]
        shape = values.shape[:2]
        whole = values.ndim == 4 and values.shape[2] == 2 and values.dtype == np.float32
        if not whole or images.shape != values.shape or sizes.size != shape[0] * shape[1]:
            raise ValueError("its arrays do not fit together")
        if sizes.min(initial=0) < 0 or sizes.sum() != len(buckets) or len(buckets) != len(counts):
            raise ValueError("its histograms do not fit together")
        outside = (buckets < 0) | (buckets >= _WIDTH) | (counts < 1)
        keys = np.repeat(np.arange(len(sizes)), sizes) * _WIDTH + buckets
        if outside.any() or (np.diff(keys) <= 0).any():
            raise ValueError("its histograms are in disorder")
        [count] = arrays["count"].tolist()
        return cls(count=int(count), values=values, images=images, keys=keys, counts=counts)

    def quantile(self, share: float) -> Float[np.ndarray, "u s"]:
        """The value that this share of values lies below, right to 1 %; NaN without any."""
        counted = self.counted
        quantiles = np.full(counted.size, np.nan)
        owners, buckets = np.divmod(self.keys, _WIDTH)
        total = np.cumsum(self.counts)
        [there] = np.nonzero(counted.ravel())
        before = np.concatenate([[0], total])[np.searchsorted(owners, there)]
        ends = np.searchsorted(owners, there, side="right")
        rank = np.floor(share * (counted.ravel()[there] - 1)).astype(np.int64)
        place = np.searchsorted(total, before + rank, side="right")
        quantiles[there] = _middle(buckets[np.minimum(place, ends - 1)])
        return quantiles.reshape(counted.shape)

    @property
    def counted(self) -> Int[np.ndarray, "u s"]:
        """How many images gave each unit finite scores."""
        shape = self.values.shape[:2]
        counted = np.zeros(shape[0] * shape[1], np.int64)
        np.add.at(counted, self.keys // _WIDTH, self.counts)
        return counted.reshape(shape)

    def deviation(self) -> Float[np.ndarray, "u s"]:
        """Standard deviation of each unit's score over all images, from its histogram.

        Right to 1 % where the mean is at most 20 deviations from zero: a bucket ends 2 % after it
        begins. 0 without images.
        """
        owners, buckets = np.divmod(self.keys, _WIDTH)
        values, size = _middle(buckets), self.values[:, :, 0, 0].size
        count = np.maximum(np.bincount(owners, self.counts, size), 1)
        mean = np.bincount(owners, self.counts * values, size) / count
        squares = np.bincount(owners, self.counts * (values - mean[owners]) ** 2, size)
        deviations: Float[np.ndarray, "u s"] = np.sqrt(squares / count).reshape(
            self.values.shape[:2]
        )
        return deviations


# What the columns of `rows` hold, also where no image could be read.
UNITS_COLUMNS = {
    "unit": WHOLE,
    "score": TEXT,
    "images": WHOLE,
    **{f"q{round(100 * q):02d}": NUMBER for q in QUANTILES},
    "top_images": TEXTS,
    "top_values": NUMBERS,
    "bottom_images": TEXTS,
    "bottom_values": NUMBERS,
}
# Buckets of negative values, zero, and of positive ones, in order.
_WIDTH = 2 * BUCKETS + 1


def _bucket(values: Float[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    with np.errstate(divide="ignore"):
        place = np.floor(np.log(np.abs(values.astype(np.float64)) / SMALLEST) / log(GROWTH))
    size = np.where(place < 0, 0, np.minimum(place, BUCKETS - 1) + 1).astype(np.int64)
    return np.asarray(BUCKETS + np.sign(values).astype(np.int64) * size)


def _middle(buckets: Int[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    away = buckets - BUCKETS
    size = SMALLEST * GROWTH ** (np.abs(away) - 0.5)
    values: Float[np.ndarray, " b"] = np.where(away == 0, 0.0, np.sign(away) * size)
    return values


def summarise(
    values: Float[np.ndarray, "n u s"], numbers: Int[np.ndarray, " n"], keep: int = KEEP
) -> Summary:
    """The summary of some images.

    A unit of which one score is not finite in an image has no value there.

    Args:
        values: each image's, unit's and score's.
        numbers: the images' numbers.
        keep: k.
    """
    n, units, scores = values.shape
    values = values.astype(np.float32)
    there = np.isfinite(values).all(2, keepdims=True)
    columns = np.moveaxis(np.where(there, values, np.nan), 0, 2)  # units, scores, images
    finite = np.isfinite(columns)
    both = np.stack([columns, -columns], 2)
    held, images = _best(both, np.broadcast_to(numbers, both.shape), keep)
    owners = np.arange(units * scores).reshape(units, scores, 1)
    owners = np.broadcast_to(owners, columns.shape)[finite]
    keys, counts = np.unique(owners * _WIDTH + _bucket(columns[finite]), return_counts=True)
    return Summary(
        count=n,
        values=held * np.array([1, -1], held.dtype)[:, None],
        images=images,
        keys=keys.astype(np.int64),
        counts=counts.astype(np.int64),
    )


def _best(
    values: Float[np.ndarray, "u s 2 n"], numbers: Int[np.ndarray, "u s 2 n"], keep: int
) -> tuple[Float[np.ndarray, "u s 2 k"], Int[np.ndarray, "u s 2 k"]]:
    """The largest values; of equals, those of the images that come first. NaN comes last."""
    fewer = keep - values.shape[3]
    if fewer > 0:
        pad = [(0, 0)] * 3 + [(0, fewer)]
        values = np.pad(values, pad, constant_values=np.nan)
        numbers = np.pad(numbers, pad, constant_values=-1)
    order = np.lexsort((numbers, -values))[..., :keep]
    held, images = np.take_along_axis(values, order, 3), np.take_along_axis(numbers, order, 3)
    missing = np.isnan(held)
    # One and the same NaN, for they differ in their bytes.
    return np.where(missing, np.float32(np.nan), held), np.where(missing, -1, images)


def merge(a: Summary, b: Summary) -> Summary:
    """The summary of the images of two summaries that have none in common."""
    sign = np.array([1, -1], np.float32)[:, None]
    values, images = _best(
        np.concatenate([a.values * sign, b.values * sign], 3),
        np.concatenate([a.images, b.images], 3),
        a.values.shape[3],
    )
    places = np.searchsorted(a.keys, b.keys)
    known = np.append(a.keys, -1)[places] == b.keys
    counts = a.counts.copy()
    counts[places[known]] += b.counts[known]
    new = places[~known]
    return Summary(
        count=a.count + b.count,
        values=values * sign,
        images=images,
        keys=np.insert(a.keys, new, b.keys[~known]),
        counts=np.insert(counts, new, b.counts[~known]),
    )


def rows(summary: Summary, names: Sequence[str]) -> Mapping[str, list[Any]]:
    """A summary as columns of a table, one row a unit and score.

    Args:
        summary: of all images.
        names: the images' ids, by their numbers.
    """
    units, count = summary.values.shape[:2]
    quantiles = {f"q{round(100 * q):02d}": summary.quantile(q) for q in QUANTILES}
    flat = summary.values.reshape(units * count, 2, -1)
    images = summary.images.reshape(units * count, 2, -1)
    table: dict[str, list[Any]] = {
        "unit": np.repeat(np.arange(units), count).tolist(),
        "score": list(SCORES) * units,
        "images": summary.counted.ravel().tolist(),
    }
    table |= {name: values.ravel().tolist() for name, values in quantiles.items()}
    for end, name in enumerate(("top", "bottom")):
        there = images[:, end] >= 0
        table[f"{name}_images"] = [
            [names[i] for i in row[kept]] for row, kept in zip(images[:, end], there, strict=True)
        ]
        table[f"{name}_values"] = [
            row[kept].tolist() for row, kept in zip(flat[:, end], there, strict=True)
        ]
    return table
