"""Where on the image the elements of a layer belong, which tells what the axes of its output are.

After attention, or a gate that looks at the whole image, every element depends on all of it. It
still belongs to one place: a token to its patch, whatever it has heard from others. `PlaceMode`
follows these places through a pass. It is `CoordinateMode` with other rules where elements are
combined: attention keeps the place of the query, an element-wise operation what its inputs share,
and a norm the element's own. What belongs nowhere, such as a class token, is minus infinity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.models.operations import BINARY, CoordinateMode, aten

# The images' axis of a trace: -top, bottom, -left and right.
ENDS = 4
# Norms and the like: each output element is one input element, on another scale.
SCALED = {
    aten._softmax, aten._log_softmax, aten.native_layer_norm, aten.native_group_norm,
    aten.native_batch_norm, aten._native_batch_norm_legit_no_training,
    aten._native_batch_norm_legit, aten._fused_rms_norm,
}  # fmt: skip
# What lies between elements has a place between theirs.
INTERPOLATED = {aten.upsample_bilinear2d, aten.upsample_bicubic2d}
# Attention in one operation: its first argument is the query, and its output has the same rows.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention,
}  # fmt: skip
# An axis counts as one of rows or columns if places move along it by more than this share of what
# they move along the axis where they move most: the branches of a block may differ by a step.
MOVES_ALONG = 0.5
# Elements of an axis that are looked at where not all are needed.
FEW = 17


class PlaceMode(CoordinateMode):
    """While active, tensors made by `coordinates` carry places through every operation."""

    def __init__(self) -> None:
        super().__init__(border=False)

    def _apply(self, func: Any, given: list[Tensor], args: tuple[Any, ...], kwargs: Any) -> Any:
        operation = func.overloadpacket
        if operation is aten.bmm:
            return _product(*[(x, x in self.known) for x in args[:2]])
        if operation is aten.baddbmm and any(x in self.known for x in args[1:3]):
            return _product(*[(x, x in self.known) for x in args[1:3]])
        if operation in SCALED and given == [args[0]] and not func._schema.is_mutable:
            others = func(*args, **kwargs)
            return (args[0].clone(), *others[1:]) if isinstance(others, tuple) else args[0].clone()
        if operation in INTERPOLATED and given == [args[0]]:
            return func(*args, **kwargs)
        if operation in ATTENTION and args[0] in self.known:
            outputs = func(*args, **kwargs)
            rows = args[0].amax(-1, keepdim=True).expand_as(outputs[0]).clone()
            return (rows, *outputs[1:])
        if operation in BINARY and len(given) > 1 and not func._schema.is_mutable:
            return _shared(given, args)
        if operation in BINARY and len(given) > 1 and func._schema.name.endswith("_"):
            return args[0].copy_(_shared(given, args))
        return super()._apply(func, given, args, kwargs)


def _shared(given: Sequence[Tensor], args: tuple[Any, ...]) -> Tensor:
    """The part that boxes share; a box and nothing share the box."""
    shape = torch.broadcast_shapes(*(x.shape for x in args if isinstance(x, Tensor)))
    total = given[0].expand(shape)
    for other in given[1:]:
        both = torch.minimum(total, other)
        total = torch.where(both.isinf(), torch.maximum(total, other), both)
    return total.clone()


def _product(a: tuple[Tensor, bool], b: tuple[Tensor, bool]) -> Tensor:
    """Of each row of the first and column of the second what they share, or that of the only one.

    Args:
        a, b: the two batches of matrices, and whether they carry places.
    """
    shape = (a[0].shape[0], a[0].shape[1], b[0].shape[2])
    rows, columns = a[0].amax(2)[:, :, None], b[0].amax(1)[:, None, :]
    if a[1] and b[1]:
        return torch.minimum(rows, columns)
    return (rows if a[1] else columns).expand(shape).clone()


@dataclass(frozen=True, kw_only=True)
class Places:
    """What the places of a layer's elements say.

    Args:
        rows: the axes of the output along which places move down.
        columns: those along which they move to the right.
        at: of each place along these axes its row and column on the image in pixels, as one axis
            for each of `rows` and `columns` joined; NaN where an element belongs nowhere.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    at: Float[Tensor, "2 ..."]

    @classmethod
    def of(cls, tensor: Tensor, images: int) -> "Places":
        """What the output of a trace with `PlaceMode` says.

        Args:
            tensor: the output.
            images: its axis of images, of four elements.
        """
        ends = tensor.detach().movedim(images, 0)
        axes = [k for k in range(tensor.ndim) if k != images]
        moves = [_moves(x) for x in _middles(_thinned(ends, range(len(axes))).cpu())]

        def along(by_axis: list[float]) -> tuple[int, ...]:
            least = MOVES_ALONG * max(by_axis, default=0)
            return tuple(axis for axis, x in zip(axes, by_axis, strict=True) if x > least)

        rows, columns = along(moves[0]), along(moves[1])
        others = [k for k, axis in enumerate(axes) if axis not in (*rows, *columns)]
        kept = _thinned(ends, others).cpu()
        values = _middles(kept).nan_to_num(-torch.inf)
        for k in reversed(others):
            kept, values = kept.amax(k + 1), values.amax(k + 1)
        if rows == columns != () and kept.shape[1] > 1:
            # A token that hears from all others, and is none of them, belongs nowhere either.
            values = values.masked_fill((kept == kept.amax(1, keepdim=True)).all(0), -torch.inf)
        return cls(rows=rows, columns=columns, at=values.masked_fill(values.isinf(), torch.nan))

    @property
    def nowhere(self) -> bool:
        """Whether no element belongs to a place."""
        return bool(self.at.isnan().all())


def _middles(ends: Float[Tensor, "4 ..."]) -> Float[Tensor, "2 ..."]:
    """The row and the column in the middle of each box; NaN where there is none."""
    middles = torch.stack([ends[1] - ends[0], ends[3] - ends[2]]).cpu().double() / 2
    return middles.masked_fill(ends.isinf().any(0), torch.nan)


def _thinned(ends: Float[Tensor, "4 ..."], axes: Sequence[int]) -> Float[Tensor, "4 ..."]:
    """The same with a few elements of each of some axes, its first and last among them."""
    for axis in axes:
        size = ends.shape[axis + 1]
        if size > FEW:
            chosen = torch.linspace(0, size - 1, FEW, device=ends.device).round().long()
            ends = ends.index_select(axis + 1, chosen)
    return ends


def _moves(middle: Float[Tensor, "..."]) -> list[float]:
    """How far places move along each axis, at most."""
    spans = []
    for axis in range(middle.ndim):
        most = middle.nan_to_num(-torch.inf).amax(axis)
        least = middle.nan_to_num(torch.inf).amin(axis)
        span = (most - least)[most.isfinite()]
        spans.append(float(span.max()) if span.numel() else 0.0)
    return spans
