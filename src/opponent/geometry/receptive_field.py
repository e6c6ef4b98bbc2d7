"""Which part of the input, or of an earlier layer, decides a position: exact boxes.

Instead of activations, coordinates are sent through the network. Each element carries the
smallest and largest row and column of the source that it can depend on; a convolution then takes
the extremes over its window and its input channels, a sum those of its terms, a global pool those
of everything.
One pass, without a multiplication, gives the box of every position of every layer.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from opponent.core.box import Box
from opponent.core.errors import UnknownGeometry
from opponent.core.feature import Feature
from opponent.models.network import PIXELS, Network

aten: Any = torch.ops.aten
Extents = Float[Tensor, "4 c h w"]  # each element's -top, bottom, -left, right: extremes are maxima


def receptive_fields(
    network: Network, target: str, source: str = PIXELS, *, border: bool = True
) -> Extents:
    """What each element of the target depends on in the source, at the network's input size.

    Without `border`, as if the image had none: see `receptive_fields_by_layer`.

    Raises:
        UnknownGeometry: an operation mixes images or fails, so that no box can be told.
    """
    network.check(target, source)
    # Weights do not matter, and who asks for one box asks for it often.
    found = _FOUND.setdefault(network, {})
    key = (target, source, border, network.preprocessing.size, network.device, network.dtype)
    if key not in found:
        found[key] = _reach(network, target, source, border)
    extremes: Tensor = found[key]
    return extremes.clone()


_FOUND: "WeakKeyDictionary[Network, dict[object, Any]]" = WeakKeyDictionary()


def _reach(network: Network, target: str, source: str, border: bool) -> Extents:
    images = torch.zeros(4, 3, *network.preprocessing.size, device=network.device)
    with torch.no_grad(), _telling(f"{target} on {source}"), _Coordinates(border=border) as mode:
        reading = network.run(images.to(network.dtype), target, source, substitute=mode.coordinates)
    if source != PIXELS and reading.target not in mode.known:
        return torch.full_like(reading.target, -torch.inf)  # on another branch
    return _known(reading.target, mode, f"{target} on {source}")


def receptive_fields_by_layer(
    network: Network, *, border: bool = False, until: str | None = None
) -> dict[str, Extents]:
    """What each position of each layer's output depends on: the most that any channel does.

    Without `border` it is what it would be, had the image none: coordinates go on beyond it, so
    that boxes have their full size and even steps, as the literature gives receptive fields. With
    it, boxes end at the image's edge. Layers that depend on no image are left out, and those of
    which it cannot be told.

    Args:
        network: the network.
        border: whether the image has one.
        until: the last layer; without one, all.
    Returns:
        Maps of one channel each. Of a layer that is called several times NAME is the last call,
        NAME#1 the first.
    Raises:
        UnknownGeometry: an operation mixes images or fails, so that no box can be told.
    """
    kept = _FOUND.setdefault(network, {})
    key = ("all", until, border, network.preprocessing.size, network.device, network.dtype)
    if key not in kept:
        kept[key] = _reaches(network, border, until)
    return dict(kept[key])


def _reaches(network: Network, border: bool, until: str | None) -> dict[str, Extents]:
    found: dict[str, Tensor] = {}
    calls = Counter[str]()
    images = torch.zeros(4, 3, *network.preprocessing.size, device=network.device)
    with _telling("the layers"), _Coordinates(border=border) as mode:

        def keep(name: str, output: Tensor) -> None:
            calls[name] += 1
            found.pop(name, None)  # of an earlier call
            if mode.known.get(output) and output.shape[0] == 4:
                found[name] = output.amax(1, keepdim=True)
                if network.layers[name].calls > 1:
                    found[f"{name}#{calls[name]}"] = found[name]

        network.visit(mode.coordinates(images.to(network.dtype)), keep, until=until)
    return {
        name: x.cpu()
        for name, x in found.items()
        if _exact(x, x.dtype) and (border or x.isfinite().all())
    }


def receptive_field(network: Network, feature: Feature | str, source: str = PIXELS) -> Box:
    """The box of the source outside which nothing can change the feature's activation.

    The whole source, where the network's geometry cannot be told.
    Source: Araujo, Norris & Sim (2019) for convolutional networks; here from the operations.
    """
    feature = network.resolve(feature)
    row, column = feature.position or (0, 0)
    try:
        extremes = receptive_fields(network, feature.layer, source)[:, :, row, column]
    except UnknownGeometry:
        size = network.map_shape(source)[1:]
        return Box(top=0, left=0, height=size[0], width=size[1])
    if feature.power:
        pass  # its cosine takes all channels
    elif feature.unit is not None:
        extremes = extremes[:, [feature.unit]]
    else:
        weights = torch.tensor(feature.vector, dtype=torch.float64, device=extremes.device)
        extremes = extremes[:, weights != 0]
    box = box_of(extremes)
    if box is None:
        raise ValueError(f"{feature.label} does not depend on {source!r}: they lie on two branches")
    return box


def field_and_stride(reach: Extents) -> tuple[Box, tuple[float, float]]:
    """The box of a layer's central position, and the step from one position's box to the next.

    Steps are in rows and columns of the source; 0 where the map has one row or column.
    """
    height, width = reach.shape[2:]
    row, column = height // 2, width // 2
    box = box_of(reach[:, :, row, column])
    assert box is not None
    _, bottoms, _, rights = reach.amax(1)
    rows = bottoms[row, column] - bottoms[row - 1, column] if height > 1 else torch.zeros(())
    columns = rights[row, column] - rights[row, column - 1] if width > 1 else torch.zeros(())
    return box, (float(rows), float(columns))


def placement(network: Network, layer: str) -> tuple[float, float, float, float] | None:
    """Where a layer's map lies on the image: the pixel (row, column) of its first element, and the
    steps from one element to the next; None where the layer has no rows and columns of its own.

    An element lies at the centre of its receptive field.
    """
    if layer == PIXELS:
        return 0.0, 0.0, 1.0, 1.0
    if 1 in network.map_shape(layer)[1:]:
        return None
    try:
        extremes = receptive_fields(network, layer, border=False)
    except UnknownGeometry:
        return None
    _, (rows, columns) = field_and_stride(extremes)
    top, bottom, left, right = extremes[:, :, 0, 0].amax(1).tolist()
    if not (rows and columns):
        return None
    return (bottom - top) / 2, (right - left) / 2, rows, columns


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """A network that fails on coordinates, as it would not on images, has no known geometry."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UnknownGeometry):
            raise
        raise UnknownGeometry(f"cannot tell the reach of {what}: {error}") from error


def box_of(extremes: Float[Tensor, "4 c"]) -> Box | None:
    """The box of some elements' extents together; None where they depend on nothing."""
    values = extremes.amax(1)
    if values.isinf().any():
        return None
    top, bottom, left, right = (values.cpu() * torch.tensor([-1, 1, -1, 1])).int().tolist()
    return Box(top=top, left=left, height=bottom - top + 1, width=right - left + 1)


def _known(values: Tensor, mode: "_Coordinates", what: str) -> Extents:
    if values.shape[0] != 4 or not mode.known.get(values) or not _exact(values, values.dtype):
        raise UnknownGeometry(f"cannot tell the reach of {what}")
    return values


# Operations that move elements about, or take maxima: right for coordinates as they are.
_MOVES = {
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.expand,
    aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.unsqueeze,
    aten.squeeze, aten.clone, aten.alias, aten.detach, aten.roll, aten.flip,
    aten.adaptive_max_pool2d, aten.repeat,
    aten.upsample_nearest2d, aten.reflection_pad2d, aten.replication_pad2d, aten.pixel_shuffle,
    aten.pixel_unshuffle, aten.index_select, aten.lift_fresh, aten._reshape_alias, aten.contiguous,
    aten.narrow, aten.as_strided, aten.index,
    aten.im2col, aten._assert_tensor_metadata,
}  # fmt: skip
_JOINS = {aten.cat, aten.stack}
# Tensors that take nothing but a shape from what they are made after.
_NEW = {
    aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like,
    aten.randn_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty,
}  # fmt: skip
_UNARY = {
    aten.relu, aten.relu_, aten.gelu, aten.silu, aten.silu_, aten.sigmoid, aten.sigmoid_,
    aten.hardswish, aten.hardswish_, aten.hardsigmoid, aten.hardsigmoid_, aten.hardtanh,
    aten.hardtanh_, aten.leaky_relu, aten.leaky_relu_, aten.elu, aten.elu_, aten.tanh, aten.exp,
    aten.mish, aten.mish_, aten.softplus, aten.pow, aten.sqrt, aten.rsqrt, aten.abs, aten.neg,
    aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_, aten.native_dropout, aten.erf,
    aten.log, aten.reciprocal, aten.square, aten._prelu_kernel, aten.celu, aten.relu6,
}  # fmt: skip
_BINARY = {
    aten.add, aten.add_, aten.sub, aten.sub_, aten.rsub, aten.mul, aten.mul_, aten.div, aten.div_,
    aten.maximum, aten.minimum, aten.addcmul, aten.lerp, aten.gt, aten.ge, aten.lt, aten.le,
    aten.eq, aten.ne, aten.where, aten.masked_fill, aten.masked_fill_,
}  # fmt: skip


class _Coordinates(TorchDispatchMode):
    """While it is active, tensors made by `coordinates` carry boxes through every operation.

    Padding depends on nothing; without `border`, coordinates go on in it.
    """

    def __init__(self, *, border: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.border = border
        # False for whole numbers that come of coordinates, which cannot carry boxes on.
        self.known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def coordinates(self, like: Float[Tensor, "4 c h w"]) -> Extents:
        """The coordinates of a map's own elements."""
        rows, columns = (torch.arange(n, device=like.device) for n in like.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(like.dtype)
        both = torch.stack([-grid[0], grid[0], -grid[1], grid[1]])
        values = both[:, None].expand(4, *like.shape[1:]).contiguous()
        self.known[values] = True
        return values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in _tensors((*args, *kwargs.values())) if x in self.known]
        if not given:
            return func(*args, **kwargs)
        packet = func.overloadpacket
        if not all(self.known[x] for x in given) or self._writes_elsewhere(func, args, kwargs):
            raise UnknownGeometry(f"cannot tell the reach of {func}")
        # Rules hold for coordinates in the place of the data, not in that of weights or indices.
        data = args[1] if packet is aten.addmm else args[0]
        alone = len(given) == 1 and given[0] is data
        if packet in _MOVES and alone:
            outputs = func(*args, **kwargs)
        elif packet in _NEW:
            outputs = func(*args, **kwargs)
            if not outputs.is_floating_point():
                return outputs
            outputs.fill_(-torch.inf)
        elif packet in _JOINS:
            parts = [x if x in self.known else torch.full_like(x, -torch.inf) for x in args[0]]
            outputs = func(parts, *args[1:], **kwargs)
        elif packet in _RULES and (len(given) == 2 if packet is aten.bmm else alone):
            outputs = _RULES[packet](*args, **kwargs)
        elif packet in _PADDED and alone:
            pad = _pad_nothing if self.border else _pad_onward
            outputs = _PADDED[packet](pad, *args, **kwargs)
        elif packet in _UNARY | _BINARY or (packet is aten.copy_ and len(given) == 2):
            outputs = _elementwise(func, given[-1:] if packet is aten.copy_ else given, args)
        else:
            outputs = _everything(func, given, args, kwargs)
        for tensor in _tensors((outputs,)):
            self.known[tensor] = tensor.is_floating_point()
        return outputs

    def _writes_elsewhere(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> bool:
        """Whether coordinates go into a part of a tensor that is not known to hold any."""
        if not func._schema.is_mutable:
            return False
        into = args[0]
        if "out" in kwargs or not isinstance(into, Tensor):
            return True
        return into not in self.known and into._is_view()


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _elementwise(func: Any, given: list[Tensor], args: Any) -> Any:
    """The extremes of the terms; a result in place is written in place."""
    shape = torch.broadcast_shapes(*(x.shape for x in _tensors(args)))
    values = given[0].expand(shape)
    for other in given[1:]:
        values = torch.maximum(values, other)
    if func._schema.name.endswith("_"):
        return args[0].copy_(values)
    return values.clone()


def _everything(func: Any, given: list[Tensor], args: Any, kwargs: Any) -> Any:
    """An operation that is not known may depend on all that it is given: safe, never too small."""
    mixed = UnknownGeometry(f"cannot tell the reach of {func}")
    if any(x.ndim == 0 or x.shape[0] != 4 for x in given):
        raise mixed
    # Before the operation, which may write over what it is given.
    extremes = torch.stack([x.flatten(1).amax(1) for x in given]).amax(0)
    outputs = func(*args, **kwargs)
    for tensor in _tensors((outputs,)):
        if not tensor.is_floating_point():
            continue
        if tensor.ndim == 0 or tensor.shape[0] != 4:
            raise mixed
        tensor.copy_(extremes.view(4, *[1] * (tensor.ndim - 1)).expand_as(tensor))
    return outputs


def _pad_nothing(x: Tensor, pad: Any) -> Tensor:
    return F.pad(x, pad, value=-torch.inf)


def _pad_onward(x: Tensor, pad: Any) -> Tensor:
    """Pad with the coordinates that would follow, step by step, beyond each edge."""
    x = F.pad(x, [min(n, 0) for n in pad])
    for axis, (before, after) in zip((-1, -2), (pad[:2], pad[2:4]), strict=False):
        x, before, after = x.movedim(axis, -1), max(before, 0), max(after, 0)
        first, last = x[..., :1], x[..., -1:]
        step = x[..., 1:2] - first if x.shape[-1] > 1 else torch.zeros_like(first)
        step = step.nan_to_num(0)  # where nothing is depended on
        ahead = torch.arange(1, after + 1, device=x.device, dtype=x.dtype)
        behind = -torch.arange(before, 0, -1, device=x.device, dtype=x.dtype)
        x = torch.cat([first + step * behind, x, last + step * ahead], -1).movedim(-1, axis)
    return x


def _convolution(
    pad: Callable[[Tensor, Any], Tensor], x: Tensor, weight: Tensor, bias: Any, stride: Any,
    padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int,
) -> Tensor:  # fmt: skip
    if transposed or x.ndim != 4:
        raise UnknownGeometry("cannot tell the reach of a transposed or non-planar convolution")
    grouped = _pad_evenly(pad, x.unflatten(1, (groups, -1)).amax(2), padding)
    pooled = F.max_pool2d(grouped, weight.shape[2:], stride, 0, dilation)
    return pooled.repeat_interleave(weight.shape[0] // groups, 1)


def _average_pool(
    pad: Callable[[Tensor, Any], Tensor], x: Tensor, size: Any, stride: Any = (), padding: Any = 0,
    ceil_mode: bool = False, *_: Any,
) -> Tensor:  # fmt: skip
    return _max_pool(pad, x, size, stride, padding, 1, ceil_mode)[0]


def _max_pool(
    pad: Callable[[Tensor, Any], Tensor], x: Tensor, size: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    padded = _pad_evenly(pad, x, padding)
    pooled = F.max_pool2d(padded, size, stride or size, 0, dilation, ceil_mode)
    # Rounded up, padding that has been made part of the map gives windows that begin in it.
    like = torch.empty_like(x, device="meta")
    rows, columns = F.max_pool2d(like, size, stride, padding, dilation, ceil_mode).shape[-2:]
    return pooled[..., :rows, :columns].clone(), pooled.new_empty(0)


def _pad_evenly(pad: Callable[[Tensor, Any], Tensor], x: Tensor, padding: Any) -> Tensor:
    given = [padding] if isinstance(padding, int) else list(padding)
    rows, columns = given * (2 // len(given)) or (0, 0)
    return pad(x, (columns, columns, rows, rows))


def _constant_pad(
    pad: Callable[[Tensor, Any], Tensor], x: Tensor, padding: Any, value: float = 0
) -> Tensor:
    # Channels are padded, if at all, with what depends on nothing.
    return _pad_nothing(pad(x, padding[:4]), [0, 0, 0, 0, *padding[4:]])


def _average_pool_3d(
    x: Tensor, size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, *_: Any
) -> Tensor:
    return F.max_pool3d(x, size, stride or size, padding, ceil_mode=ceil_mode)


def _reduce(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    if any(d % x.ndim == 0 for d in dims):
        raise UnknownGeometry("cannot tell the reach of a sum over images")
    return x.amax(dims, keepdim)


def _softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    return x.amax(dim, keepdim=True).expand_as(x).clone()


def _rows_times(x: Tensor, weight: Tensor) -> Tensor:
    return x.amax(-1, keepdim=True).expand(*x.shape[:-1], weight.shape[-1]).clone()


def _batched_product(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a.amax(2)[:, :, None], b.amax(1)[:, None, :])


def _constant(x: Tensor, *_: Any) -> Tensor:
    return x.fill_(-torch.inf)


def _copy(x: Tensor, *_: Any, device: Any = None, dtype: Any = None, **__: Any) -> Tensor:
    kept = dtype if dtype and dtype.is_floating_point else x.dtype  # others do not hold coordinates
    if not _exact(x, kept):
        raise UnknownGeometry(f"{kept} is too coarse for coordinates")
    return x.to(device or x.device, kept).clone()


def _exact(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a type counts exactly as far as these coordinates go: bfloat16 to 256."""
    return bool((x.isinf() | (x.abs() < 2 / torch.finfo(dtype).eps)).all())


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


_RULES: dict[Any, Callable[..., Any]] = {
    aten.avg_pool3d: _average_pool_3d,
    aten._adaptive_avg_pool2d: lambda x, size: F.adaptive_max_pool2d(x, size),
    aten.mean: _reduce,
    aten.sum: _reduce,
    aten._softmax: _softmax,
    aten.linear: lambda x, weight, *_: _rows_times(x, weight.T),
    aten.addmm: lambda bias, x, weight, **_: _rows_times(x, weight),
    aten.mm: _rows_times,
    aten.bmm: _batched_product,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm_no_training,
    aten._to_copy: _copy,
    aten.amax: _reduce,
    aten.amin: _reduce,
    aten.fill_: _constant,
    aten.zero_: _constant,
    aten.copy_: _constant,  # of a tensor that holds no coordinates into one that does
    aten.native_layer_norm: _layer_norm,
}
_PADDED: dict[Any, Callable[..., Any]] = {
    aten.convolution: _convolution,
    aten.avg_pool2d: _average_pool,
    aten.max_pool2d_with_indices: _max_pool,
    aten.constant_pad_nd: _constant_pad,
}
