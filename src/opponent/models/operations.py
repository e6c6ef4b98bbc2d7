"""What each ATen operation does to extents: a dispatch mode that carries coordinates along.

Instead of activations, a map of extents goes through the network: for each element the smallest and
largest row and column of the source that it depends on. They are stored as -top, bottom, -left and
right, so that an operation that combines elements takes their maximum. An element that depends on
nothing, such as padding, is minus infinity. While `CoordinateMode` is active, it replaces each ATen
operation on extents by what stands for it in one of these tables:

- `MOVES`: elements move, or the largest is taken. The operation itself runs on the extents.
- `JOINS`: a list of tensors is joined. Those without extents depend on nothing.
- `NEW`: only the input's shape counts. The output depends on nothing.
- `UNARY`, `BINARY`: an output element depends on the input elements at its place.
- `RULES`: a function takes the operation's arguments and gives the extents of its outputs.
- `PADDED`: a function as in `RULES` that takes, before these, a function that pads.

To add an operation, enter it into the first table that fits; an activation function into
`opponent.models.activations`. The outputs of an operation in no table depend on all of its inputs:
boxes may be too large, but never too small. Operations that mix images, or that write extents where
they cannot be followed, raise `UnknownGeometry`.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from opponent.core.errors import UnknownGeometry
from opponent.models.activations import ACTIVATION_FUNCTIONS

aten: Any = torch.ops.aten
# Of each element -top, bottom, -left and right of its box in the source; both ends are in the box.
Extents = Float[Tensor, "4 c h w"]

MOVES = {
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.expand,
    aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.unsqueeze,
    aten.squeeze, aten.clone, aten.alias, aten.detach, aten.roll, aten.flip,
    aten.adaptive_max_pool2d, aten.repeat, aten.upsample_nearest2d, aten.reflection_pad2d,
    aten.replication_pad2d, aten.pixel_shuffle, aten.channel_shuffle, aten.native_channel_shuffle,
    aten.pixel_unshuffle, aten.index_select, aten.lift_fresh, aten._reshape_alias,
    aten.contiguous, aten.narrow, aten.as_strided, aten.index, aten.im2col,
    aten._assert_tensor_metadata,
}  # fmt: skip
JOINS = {aten.cat, aten.stack}
NEW = {
    aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like,
    aten.randn_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty,
}  # fmt: skip
UNARY = {operation for function in ACTIVATION_FUNCTIONS for operation in function.operations} | {
    aten.exp, aten.log, aten.erf, aten.pow, aten.square, aten.sqrt, aten.rsqrt, aten.reciprocal,
    aten.abs, aten.neg, aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_,
    aten.native_dropout,
}  # fmt: skip
BINARY = {
    aten.add, aten.add_, aten.sub, aten.sub_, aten.rsub, aten.mul, aten.mul_, aten.div, aten.div_,
    aten.maximum, aten.minimum, aten.addcmul, aten.lerp, aten.gt, aten.ge, aten.lt, aten.le,
    aten.eq, aten.ne, aten.where, aten.masked_fill, aten.masked_fill_,
}  # fmt: skip


class CoordinateMode(TorchDispatchMode):
    """While active, tensors made by `coordinates` carry extents through every operation.

    Args:
        border: the image has a border, and padding depends on nothing. Without one, coordinates go
            on into the padding.
    """

    def __init__(self, *, border: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.border = border
        # Tensors computed from extents, and whether they hold extents: whole numbers cannot.
        self.known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # What this asks of PyTorch loads its compiler, which takes seconds and is not used here.
        return False

    def coordinates(self, like: Float[Tensor, "4 c h w"]) -> Extents:
        """A map in which each element's extents are its own row and column."""
        rows, columns = (torch.arange(n, device=like.device) for n in like.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(like.dtype)
        both = torch.stack([-grid[0], grid[0], -grid[1], grid[1]])
        extents = both[:, None].expand(4, *like.shape[1:]).contiguous()
        self.known[extents] = True
        return extents

    def carries(self, layer: Tensor) -> bool:
        """Whether a layer's map holds extents."""
        return layer.shape[0] == 4 and bool(self.known.get(layer))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in _tensors((*args, *kwargs.values())) if x in self.known]
        if not given:
            return func(*args, **kwargs)
        if not all(self.known[x] for x in given) or self._hides(func, args, kwargs):
            raise _unknown(func)
        outputs = self._apply(func, given, args, kwargs)
        for tensor in _tensors((outputs,)):
            # New whole numbers do not depend on the source.
            if tensor.is_floating_point() or func.overloadpacket not in NEW:
                self.known[tensor] = tensor.is_floating_point()
        return outputs

    def _apply(self, func: Any, given: list[Tensor], args: tuple[Any, ...], kwargs: Any) -> Any:
        """An operation's outputs, where the inputs in `given` hold extents."""
        operation = func.overloadpacket
        # Rules hold for extents in the place of the data, not in that of weights or indices.
        data = args[1] if operation is aten.addmm else args[0]
        alone = len(given) == 1 and given[0] is data
        if operation in MOVES and alone:
            return func(*args, **kwargs)
        if operation in NEW:
            outputs = func(*args, **kwargs)
            return outputs.fill_(-torch.inf) if outputs.is_floating_point() else outputs
        if operation in JOINS:
            tensors = [x if x in self.known else torch.full_like(x, -torch.inf) for x in args[0]]
            return func(tensors, *args[1:], **kwargs)
        if operation is aten.bmm:
            return _batched_product(*[(x, x in self.known) for x in args])
        if operation in RULES and alone:
            return RULES[operation](*args, **kwargs)
        if operation in PADDED and alone:
            pad = _pad_with_nothing if self.border else _pad_onward
            return PADDED[operation](pad, *args, **kwargs)
        if operation in UNARY or operation in BINARY:
            return _elementwise(func, given, args)
        if operation is aten.copy_ and len(given) == 2:  # the old values do not count
            return _elementwise(func, given[-1:], args)
        return _everything(func, given, args, kwargs)

    def _hides(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> bool:
        """Whether extents are written into a view of a tensor that is not known to hold any."""
        if not func._schema.is_mutable:
            return False
        into = args[0]
        if "out" in kwargs or not isinstance(into, Tensor):
            return True
        return into not in self.known and into._is_view()


def counts_exactly(extents: Tensor, dtype: torch.dtype) -> bool:
    """Whether a type holds all of these numbers exactly: bfloat16 counts to 256."""
    return bool((extents.isinf() | (extents.abs() < 2 / torch.finfo(dtype).eps)).all())


def _unknown(what: object) -> UnknownGeometry:
    return UnknownGeometry(f"cannot tell the receptive field of {what}")


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


# Operations without a rule of their own


def _elementwise(func: Any, given: list[Tensor], args: Any) -> Any:
    """The maximum over the inputs; an operation in place writes it in place."""
    shape = torch.broadcast_shapes(*(x.shape for x in _tensors(args)))
    extents = given[0].expand(shape)
    for other in given[1:]:
        extents = torch.maximum(extents, other)
    if func._schema.name.endswith("_"):
        return args[0].copy_(extents)
    return extents.clone()


def _everything(func: Any, given: list[Tensor], args: Any, kwargs: Any) -> Any:
    """An unknown operation may depend on all of its inputs: safe, never too small."""
    if any(x.ndim == 0 or x.shape[0] != 4 for x in given):
        raise _unknown(func)
    # Before the operation, which may write over its inputs.
    extents = torch.stack([x.flatten(1).amax(1) for x in given]).amax(0)
    outputs = func(*args, **kwargs)
    for tensor in _tensors((outputs,)):
        if not tensor.is_floating_point():
            continue
        if tensor.ndim == 0 or tensor.shape[0] != 4:
            raise _unknown(func)
        tensor.copy_(extents.view(4, *[1] * (tensor.ndim - 1)).expand_as(tensor))
    return outputs


# Padding


_Pad = Callable[[Tensor, Any], Tensor]


def _pad_with_nothing(x: Tensor, padding: Any) -> Tensor:
    return F.pad(x, padding, value=-torch.inf)


def _pad_onward(x: Tensor, padding: Any) -> Tensor:
    """Pad with the coordinates that would follow, step by step, beyond each edge."""
    x = F.pad(x, [min(n, 0) for n in padding])
    for axis, (before, after) in zip((-1, -2), (padding[:2], padding[2:4]), strict=False):
        x, before, after = x.movedim(axis, -1), max(before, 0), max(after, 0)
        first, last = x[..., :1], x[..., -1:]
        step = x[..., 1:2] - first if x.shape[-1] > 1 else torch.zeros_like(first)
        step = step.nan_to_num(0)  # where nothing is depended on
        ahead = torch.arange(1, after + 1, device=x.device, dtype=x.dtype)
        behind = -torch.arange(before, 0, -1, device=x.device, dtype=x.dtype)
        x = torch.cat([first + step * behind, x, last + step * ahead], -1).movedim(-1, axis)
    return x


def _pad_evenly(pad: _Pad, x: Tensor, padding: Any) -> Tensor:
    """Pad as convolutions and pools do: one number, or rows and columns, for both ends."""
    rows, columns = _pair(padding) or (0, 0)
    return pad(x, (columns, columns, rows, rows))


def _pair(numbers: Any) -> list[int]:
    """Rows and columns, of which one number may be given for both."""
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    return listed * (2 // len(listed)) if listed else listed


def _convolution(
    pad: _Pad, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Tensor:  # fmt: skip
    if x.ndim != 4:
        raise _unknown("a non-planar convolution")
    if transposed:
        return _transposed(x, weight, stride, padding, dilation, output_padding, groups)
    grouped = _pad_evenly(pad, x.unflatten(1, (groups, -1)).amax(2), padding)
    pooled = F.max_pool2d(grouped, weight.shape[2:], stride, 0, dilation)
    return pooled.repeat_interleave(weight.shape[0] // groups, 1)


def _transposed(
    x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, output_padding: Any,
    groups: int,
) -> Tensor:  # fmt: skip
    """A convolution over the map with nothing between its elements."""
    x = x.unflatten(1, (groups, -1)).amax(2)
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    spread = x.new_full((*x.shape[:2], *size), -torch.inf)
    spread[:, :, :: stride[0], :: stride[1]] = x
    edges = []
    for axis in (1, 0):
        edge = dilation[axis] * (weight.shape[2 + axis] - 1) - padding[axis]
        edges += [edge, edge + output_padding[axis]]
    pooled = F.max_pool2d(_pad_with_nothing(spread, edges), weight.shape[2:], 1, 0, dilation)
    return pooled.repeat_interleave(weight.shape[1], 1)


def _bilinear(x: Tensor, *settings: Any) -> Tensor:
    """The largest of the elements that an output element lies between."""
    for axis, numbers in enumerate(_numbers(x), 2):
        at = aten.upsample_bilinear2d(numbers, *settings).movedim(axis, -1)[0, 0, 0]
        at = at.mul(2**20).round().div(2**20)  # rounding brings in no neighbour
        below, above = (
            x.index_select(axis, k.long().to(x.device)) for k in (at.floor(), at.ceil())
        )
        x = torch.maximum(below, above)
    return x


def _numbers(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of one channel with the number of each row, and of each column, as values."""
    # On the CPU: not every device has double precision.
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in x.shape[2:])
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0][None, None], grid[1][None, None]


def _max_pool(
    pad: _Pad, x: Tensor, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    # Rounded up, windows begin in the map or its padding, and may end beyond both.
    like = torch.empty_like(x, device="meta")
    shape = F.max_pool2d(like, size, stride, padding, dilation, ceil_mode).shape[-2:]
    padded, ends = _pad_evenly(pad, x, padding), list[int]()
    steps, gaps, sizes = _pair(stride or size), _pair(dilation), _pair(size)
    for axis in range(2):
        end = (shape[axis] - 1) * steps[axis] + gaps[axis] * (sizes[axis] - 1) + 1
        ends = [0, max(0, end - padded.shape[axis - 2]), *ends]
    pooled = F.max_pool2d(pad(padded, ends), size, stride or size, 0, dilation)
    return pooled[..., : shape[0], : shape[1]].clone(), pooled.new_empty(0)


def _average_pool(
    pad: _Pad, x: Tensor, size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    *_: Any,
) -> Tensor:  # fmt: skip
    return _max_pool(pad, x, size, stride, padding, 1, ceil_mode)[0]


def _constant_pad(pad: _Pad, x: Tensor, padding: Any, value: float = 0) -> Tensor:
    # Channels are padded, if at all, with what depends on nothing.
    return _pad_with_nothing(pad(x, padding[:4]), [0, 0, 0, 0, *padding[4:]])


def _average_pool_3d(
    x: Tensor, size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, *_: Any
) -> Tensor:
    return F.max_pool3d(x, size, stride or size, padding, ceil_mode=ceil_mode)


def _reduce(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    if any(d % x.ndim == 0 for d in dims):
        raise _unknown("a sum over images")
    return x.amax(dims, keepdim)


def _softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    return x.amax(dim, keepdim=True).expand_as(x).clone()


def _rows_times(x: Tensor, weight: Tensor) -> Tensor:
    return x.amax(-1, keepdim=True).expand(*x.shape[:-1], weight.shape[-1]).clone()


def _batched_product(a: tuple[Tensor, bool], b: tuple[Tensor, bool]) -> Tensor:
    """Of two batches of matrices, each with whether it holds extents: rows times columns."""
    shape = (a[0].shape[0], a[0].shape[1], b[0].shape[2])
    rows, columns = a[0].amax(2)[:, :, None], b[0].amax(1)[:, None, :]
    if a[1] and b[1]:
        return torch.maximum(rows, columns)
    # A linear map of several matrices at once has its weights in one of them.
    return (rows if a[1] else columns).expand(shape).clone()


def _batch_norm(
    x: Tensor, _weight: Any, _bias: Any, _mean: Any, _variance: Any, own: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    # With its own statistics, not those of training, a channel depends on all of its map.
    y = x.flatten(2).amax(2).view(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x) if own else x
    return y.clone(), x.new_empty(0), x.new_empty(0)


def _batch_norm_no_training(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.clone(), x.new_empty(0), x.new_empty(0)


def _layer_norm(x: Tensor, shape: Any, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(x.ndim - len(shape), x.ndim))
    return x.amax(dims, keepdim=True).expand_as(x).clone(), x.new_empty(0), x.new_empty(0)


def _constant(x: Tensor, *_: Any) -> Tensor:
    return x.fill_(-torch.inf)


def _to_copy(x: Tensor, *_: Any, device: Any = None, dtype: Any = None, **__: Any) -> Tensor:
    kept = dtype if dtype and dtype.is_floating_point else x.dtype  # others do not hold extents
    if not counts_exactly(x, kept):
        raise UnknownGeometry(f"{kept} is too coarse for coordinates")
    return x.to(device or x.device, kept).clone()


PADDED: dict[Any, Callable[..., Any]] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _average_pool,
    aten.constant_pad_nd: _constant_pad,
}
RULES: dict[Any, Callable[..., Any]] = {
    # Pools and reductions.
    aten.avg_pool3d: _average_pool_3d,
    aten._adaptive_avg_pool2d: lambda x, size: F.adaptive_max_pool2d(x, size),
    aten.upsample_bilinear2d: _bilinear,
    aten.mean: _reduce,
    aten.sum: _reduce,
    aten.amax: _reduce,
    aten.amin: _reduce,
    aten._softmax: _softmax,
    # Matrix products.
    aten.linear: lambda x, weight, *_: _rows_times(x, weight.T),
    aten.addmm: lambda bias, x, weight, **_: _rows_times(x, weight),
    aten.mm: _rows_times,
    # Norms.
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm_no_training,
    aten.native_layer_norm: _layer_norm,
    # Constants written over extents, and copies of another type.
    aten.fill_: _constant,
    aten.zero_: _constant,
    aten.copy_: _constant,  # from a tensor that carries no extents into one that does
    aten._to_copy: _to_copy,
}
