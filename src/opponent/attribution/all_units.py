"""Every unit of a layer over many images, in bounded memory: extremes and distributions.

A summary of some images keeps, for each unit and score, the largest and the smallest values with
the images that gave them, and a histogram with buckets of even relative width. Two summaries merge
into that of all their images, in any order and grouping, with the same bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor
from torch.nn import functional

from opponent.attribution.jacobian import (
    BLOCK_ELEMENTS,
    excitation_inhibition_l2,
    jacobian_blocks,
)
from opponent.attribution.jacobian_block import Cache, NoRule
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.models.network import Network

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
class AllUnits:
    """All units of a layer at one position: 'mixed3b:*', 'mixed3b:*@7,3'; or at all: '5:*@*'.

    Args:
        layer: the layer.
        position: (row, column) in its map; None is the centre, and all that vectors have.
        everywhere: at every position; an image's score is then its largest over them.
    """

    layer: str
    position: tuple[int, int] | None = None
    everywhere: bool = False

    @classmethod
    def parse(cls, text: str) -> "AllUnits | None":
        """What the text asks for, or None if it is something else.

        Raises:
            ValueError: all units at a position that is none.
        """
        layer, colon, rest = text.strip().rpartition(":")
        if not colon or not rest.startswith("*"):
            return None
        if rest == "*@*":
            return cls(layer=layer, everywhere=True)
        # A feature's grammar, with a unit in place of the star.
        try:
            feature = Feature.parse(f"{layer}:0{rest[1:]}")
        except ValueError:
            feature = None
        if feature is None or feature.unit:
            raise ValueError(
                f"{text!r} does not name all units of a layer; write LAYER:*, "
                "LAYER:*@ROW,COLUMN or LAYER:*@*, for example 'mixed3b:*' or 'mixed3b:*@7,3'"
            )
        return cls(layer=layer, position=feature.position)

    def widest(self, network: Network) -> Feature:
        """A direction that depends on all that any unit depends on, at the position."""
        channels = network.layer(self.layer).shape[0]
        return network.resolve(
            Feature(layer=self.layer, vector=(1.0,) * channels, name="*", position=self.position)
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is kept of u units and s scores over n images.

    Args:
        count: n.
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

    def to_bytes(self) -> bytes:
        """As a safetensors file, with whole numbers as narrow as they are."""
        owners, buckets = np.divmod(self.keys, _WIDTH)
        sizes = np.bincount(owners, minlength=self.values[:, :, 0, 0].size)
        whole = {"images": self.images, "sizes": sizes, "buckets": buckets, "counts": self.counts}
        arrays = {name: x.astype(np.min_scalar_type(x.max(initial=0))) for name, x in whole.items()}
        # -1, where there is no image, is not narrow.
        arrays["images"] = self.images.astype(np.min_scalar_type(-1 - self.images.max(initial=0)))
        return save(arrays | {"values": self.values.copy(), "count": np.array([self.count])})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Summary":
        """From `to_bytes`.

        Raises:
            ValueError: the bytes are damaged.
        """
        try:
            arrays = load(data)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        sizes = arrays["sizes"].astype(np.int64)
        return cls(
            count=int(arrays["count"][0]),
            values=arrays["values"],
            images=arrays["images"].astype(np.int64),
            keys=np.repeat(np.arange(len(sizes)), sizes) * _WIDTH + arrays["buckets"],
            counts=arrays["counts"].astype(np.int64),
        )

    def quantile(self, share: float) -> Float[np.ndarray, "u s"]:
        """The value that this share of all images lies below, right to 1 %; NaN without images."""
        units, scores = self.values.shape[:2]
        found = np.full(units * scores, np.nan)
        owners, buckets = np.divmod(self.keys, _WIDTH)
        total = np.cumsum(self.counts)
        ends = np.searchsorted(owners, np.arange(units * scores), side="right")
        before = np.concatenate([[0], total])[np.searchsorted(owners, np.arange(units * scores))]
        if self.count:
            rank = np.floor(share * (self.count - 1)).astype(np.int64)
            place = np.searchsorted(total, before + rank, side="right")
            found = _middle(buckets[np.minimum(place, ends - 1)])
        return found.reshape(units, scores)


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
    found: Float[np.ndarray, " b"] = np.where(away == 0, 0.0, np.sign(away) * size)
    return found


def summarise(
    values: Float[np.ndarray, "n u s"], numbers: Int[np.ndarray, " n"], keep: int = KEEP
) -> Summary:
    """The summary of some images.

    Args:
        values: each image's, unit's and score's.
        numbers: the images' numbers.
        keep: k.
    Raises:
        ValueError: a value is not a number.
    """
    if np.isnan(values).any():
        unit = int(np.argwhere(np.isnan(values))[0][1])
        raise ValueError(f"unit {unit} is not a number (NaN) in some image")
    n, units, scores = values.shape
    columns = np.moveaxis(values.astype(np.float32), 0, 2)  # units, scores, images
    both = np.stack([columns, -columns], 2)
    held, images = _best(both, np.broadcast_to(numbers, both.shape), keep)
    owners = np.arange(units * scores).reshape(units, scores, 1)
    keys, counts = np.unique(owners * _WIDTH + _bucket(columns), return_counts=True)
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
    missing = keep - values.shape[3]
    if missing > 0:
        pad = [(0, 0)] * 3 + [(0, missing)]
        values = np.pad(values, pad, constant_values=np.nan)
        numbers = np.pad(numbers, pad, constant_values=-1)
    order = np.lexsort((numbers, -values))[..., :keep]
    held = np.take_along_axis(values, order, 3), np.take_along_axis(numbers, order, 3)
    return held[0], held[1].astype(np.int64)


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


@torch.inference_mode(False)
def scores(
    network: Network, inputs: Float[Tensor, "n 3 h w"], plan: CropPlan
) -> Float[Tensor, "n u s"]:
    """The scores of all units of the layer that a plan of `AllUnits.widest` looks at.

    Args:
        network: the network.
        inputs: its own input.
        plan: of the widest direction through a layer.
    Returns:
        `SCORES`, for each unit of the layer.
    Source: paper, eqs. 1 and 2.
    """
    reading = plan.run(network, inputs, differentiate="target")
    assert reading.through is not None
    position = plan.feature.position or (0, 0)
    activation = reading.target.detach()[:, :, *position]
    try:
        found = _walked(reading.target, reading.through, position)
    except NoRule:
        found = _one_by_one(reading.target, reading.through, position)
    return _scores(activation, *found.unbind(2))


def _scores(
    activation: Tensor, excitation: Tensor, inhibition: Tensor, l2: Tensor
) -> Float[Tensor, "n u s"]:
    tension = torch.minimum(excitation, inhibition)
    every = [activation, excitation, inhibition, tension, excitation + inhibition, l2]
    return torch.stack([x.flatten(2).amax(2) if x.ndim == 4 else x for x in every], 2)


def scores_everywhere(
    network: Network, inputs: Float[Tensor, "n 3 h w"], layer: str, through: str
) -> Float[Tensor, "n u s"]:
    """The scores of all units at all positions, where one convolution gives them: the largest.

    Excitation is then a convolution with the positive weights, and inhibition one with the negative
    ones (of a negative h the other way round).

    Args:
        network: the network.
        inputs: its own input.
        layer: of the units.
        through: the layer whose output is convolved.
    Returns:
        `SCORES`, for each unit the largest over positions.
    Raises:
        ValueError: between the two lies more than one convolution and batch norm in evaluation.
    Source: paper, eqs. 1 and 2.
    """
    reading = network.run(inputs, layer, through, differentiate="target")
    assert reading.through is not None
    apply = _convolution(reading.target, reading.through)
    if apply is None:
        raise ValueError(
            "every position at once needs a layer that one convolution makes of the through layer; "
            f"between {through!r} and {layer!r} lies something else: scan '{layer}:*'"
        )
    found = []
    hidden, target = reading.through.detach(), reading.target.detach()
    # Not all images at once, since early layers have maps of hundreds of positions a side.
    size = max(1, _AT_ONCE // target[0].numel())
    for h, f in zip(hidden.split(size), target.split(size), strict=True):
        above, below = h.clamp(min=0), (-h).clamp(min=0)
        excitation, inhibition = apply(above, 1), apply(above, -1)
        if below.any():
            excitation, inhibition = excitation + apply(below, -1), inhibition + apply(below, 1)
        found.append(_scores(f, excitation, inhibition, apply(h.square(), 2).sqrt()))
    return torch.cat(found)


# Numbers of a layer's maps that are worked on at once.
_AT_ONCE = 2**24


def _convolution(target: Tensor, through: Tensor) -> Callable[[Tensor, int], Tensor] | None:
    """The convolution with the positive weights (1), the negative ones (-1) or the squares (2).

    None where the target is not one convolution of the through layer.
    """
    # The walk refuses weights that the image itself makes.
    one = torch.eye(target.shape[1], dtype=target.dtype, device=target.device)[:1]
    try:
        jacobian_blocks(target, through, one, (0, 0))
    except NoRule:
        return None
    node: Any = target.grad_fn
    scale: Tensor | None = None
    same = ("CloneBackward", "AliasBackward")
    while node is not None and node.name().startswith((*same, "NativeBatchNorm")):
        if node.name().startswith("NativeBatchNorm"):
            if node._saved_training or scale is not None:
                return None
            scale = torch.rsqrt(node._saved_running_var + node._saved_eps)
            if node._saved_weight is not None:
                scale = scale * node._saved_weight
        node = node.next_functions[0][0]
    if node is None or not node.name().startswith("ConvolutionBackward") or node._saved_transposed:
        return None
    before = node.next_functions[0][0]
    while before is not None and before.name().startswith(same):
        before = before.next_functions[0][0]
    if getattr(before, "variable", None) is not through:
        return None
    weight = node._saved_weight.detach()
    if scale is not None:
        weight = weight * scale.detach()[:, None, None, None]
    kinds = {1: weight.clamp(min=0), -1: (-weight).clamp(min=0), 2: weight.square()}
    stride, padding, dilation = node._saved_stride, node._saved_padding, node._saved_dilation

    def apply(h: Tensor, kind: int) -> Tensor:
        return functional.conv2d(
            h, kinds[kind], None, stride, padding, dilation, node._saved_groups
        )

    return apply


def _walked(target: Tensor, through: Tensor, position: tuple[int, int]) -> Float[Tensor, "n u 3"]:
    units = target.shape[1]
    hidden = through.detach().permute(0, 2, 3, 1).contiguous()
    step = max(1, min(units, BLOCK_ELEMENTS // hidden.numel()))
    directions = torch.eye(units, dtype=target.dtype, device=target.device)
    cache: Cache = {}
    results = []
    for chunk in directions.split(step):
        blocks = jacobian_blocks(target, through, chunk, position, cache)
        results.append(excitation_inhibition_l2(blocks, hidden, len(chunk)))
    return torch.cat(results, 1)


def _one_by_one(
    target: Tensor, through: Tensor, position: tuple[int, int]
) -> Float[Tensor, "n u 3"]:
    """One backward pass a unit, where the network does what the walk has no rule for."""
    found, hidden = [], through.detach()
    for unit in range(target.shape[1]):
        with torch.enable_grad():
            value = target[:, unit, *position].sum()
        [gradient] = torch.autograd.grad(value, through, retain_graph=True)
        s = (gradient * hidden).flatten(1)
        found.append(
            torch.stack([s.clamp(min=0).sum(1), s.clamp(max=0).sum(1).neg(), s.norm(dim=1)], 1)
        )
    return torch.stack(found, 1)


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
        "images": [summary.count] * (units * count),
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
