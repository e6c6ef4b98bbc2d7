"""Many features of one layer at one position in one backward walk.

Plain reverse mode takes one pass a feature, over whole maps. But each feature begins at one
position of one channel: the walk here carries all features at once, each with the box of positions
that it has reached, and leaves out branches that a feature does not begin in. What does not depend
on the image, such as the weights next to the target, is computed once for all images.

The graph is autograd's own, of the pass from the through layer to the target. An operation that has
no rule here is an error, `NoRule`; the caller then takes one pass a feature.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# Numbers of a piece of the Jacobian that are worked on at once: small enough for a cache.
PIECE = 2**22

Rows = Float[Tensor, "n u y x c"]  # n is 1 where all images have the same


class NoRule(NotImplementedError):
    """The pass does something that the walk has no rule for."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Derivatives of some features by one box of a map: rows, columns, and then channels.

    Args:
        units: which features, by their numbers, ascending.
        top, left: where the box begins.
        rows: n is 1 where the derivatives are the same for all images.
    """

    units: Int[Tensor, " u"]
    top: int
    left: int
    rows: Rows


_Result = Iterator[tuple[int, Piece]]
_Given = list[tuple[int, ...] | None]


@torch.no_grad()
def pieces(
    target: Float[Tensor, "n c h w"],
    through: Float[Tensor, "n k y x"],
    directions: Float[Tensor, "u c"],
    position: tuple[int, int],
    cache: dict[Any, Any] | None = None,
) -> list[Piece]:
    """The derivatives of directions of the target, at one position, by the through layer.

    Args:
        target: the target's map, with the graph from the through layer.
        through: the leaf of that graph.
        directions: one a feature.
        position: row and column in the target's map.
        cache: kept between calls on the same graph, to compute nothing twice.
    Returns:
        Pieces no two of which have a feature in common; a feature in none has derivative zero.
    Raises:
        NoRule: an operation between the two that has no rule.
    """
    cache = {} if cache is None else cache
    start: Any = target.grad_fn
    leaf = through
    units = torch.arange(len(directions), device=directions.device)
    begun = Piece(
        units=units,
        top=position[0],
        left=position[1],
        rows=directions[None, :, None, None, :].clone(),
    )
    if start is None:
        return []
    if target.output_nr:
        raise NoRule(f"the walk has no rule for the second output of {start.name()}")
    waiting = _consumers(start, leaf, cache)
    if start not in waiting:
        return []
    found: dict[Any, list[Piece]] = {start: [begun]}
    ready, ends = [start], list[Piece]()
    while ready:
        node = ready.pop()
        parts = _merged(found.pop(node, []))
        following = [(n, k) for n, k in node.next_functions]
        leading = [_is_leaf(n, leaf) or n in waiting for n, _ in following]
        results = _through(node, parts, leading, cache)
        for (after, output), leads, result in zip(following, leading, results, strict=True):
            if not leads:
                continue
            if _is_leaf(after, leaf):
                ends += result
                continue
            if output:
                raise NoRule(f"the walk has no rule for the second output of {after.name()}")
            found.setdefault(after, []).extend(result)
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)
    return _merged(ends)


def _is_leaf(node: Any, leaf: Tensor) -> bool:
    return getattr(node, "variable", None) is leaf


def _consumers(start: Any, leaf: Tensor, cache: dict[Any, Any]) -> dict[Any, int]:
    """How many times each node between target and leaf is used by those after it."""
    if "consumers" not in cache:
        order, seen = list[Any](), set[Any]()
        stack: list[tuple[Any, bool]] = [(start, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(n, False) for n, _ in node.next_functions if n is not None]
        leads = set[Any]()
        for node in order:  # those that a node depends on come before it
            if _is_leaf(node, leaf) or any(n in leads for n, _ in node.next_functions):
                leads.add(node)
        cache["consumers"] = {
            node: sum(n is node for other in leads for n, _ in other.next_functions)
            for node in leads
            if not _is_leaf(node, leaf)
        }
    return dict(cache["consumers"])


def _merged(parts: list[Piece]) -> list[Piece]:
    """Pieces that share features, added up over the box that holds them all."""
    apart: list[Piece] = []
    for part in parts:
        others, apart = apart, []
        for other in others:
            if bool(torch.isin(other.units, part.units).any()):
                part = _sum(part, other)
            else:
                apart.append(other)
        apart.append(part)
    return apart


def _sum(a: Piece, b: Piece) -> Piece:
    units = torch.unique(torch.cat([a.units, b.units]))
    top, left = min(a.top, b.top), min(a.left, b.left)
    height = max(x.top + x.rows.shape[2] for x in (a, b)) - top
    width = max(x.left + x.rows.shape[3] for x in (a, b)) - left
    count = max(len(a.rows), len(b.rows))
    rows = a.rows.new_zeros(count, len(units), height, width, a.rows.shape[4])
    for x in (a, b):
        y0, x0 = x.top - top, x.left - left
        box = rows[:, :, y0 : y0 + x.rows.shape[2], x0 : x0 + x.rows.shape[3]]
        box.index_add_(
            1, torch.searchsorted(units, x.units), x.rows.expand(count, *x.rows.shape[1:])
        )
    return Piece(units=units, top=top, left=left, rows=rows)


def _shape(node: Any, output: int = 0) -> tuple[int, ...]:
    """The shape of what a node gave."""
    if hasattr(node, "variable"):
        return tuple(node.variable.shape)
    return tuple(node._input_metadata[output].shape)


def _size(shape: Sequence[int]) -> tuple[int, int]:
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


def _through(
    node: Any, parts: list[Piece], leading: list[bool], cache: dict[Any, Any]
) -> list[list[Piece]]:
    """From derivatives by what a node gave, those by each thing that it was given.

    Args:
        leading: which of these depend on the leaf.
    """
    # Those of users' own functions have no number, and may be called anything.
    match = re.fullmatch(r"(\w+)Backward\d+", node.name())
    name = "" if match is None else match[1]
    given = [None if n is None else _shape(n, k) for n, k in node.next_functions]
    rule = _pointwise if name in _POINTWISE else _RULES.get(name)
    made = node._input_metadata[0]
    shapes = [tuple(made.shape)]
    shapes += [x for x, leads in zip(given, leading, strict=True) if leads and x is not None]
    if rule is None or (rule is not _view and any(len(x) not in (2, 4) for x in shapes)):
        raise NoRule(f"the walk has no rule for {node.name()}")
    if rule in (_add, _mul):
        given = [x if leads else None for x, leads in zip(given, leading, strict=True)]
    elif rule is not _cat and any(leading[: _data(name)] + leading[_data(name) + 1 :]):
        raise NoRule(f"the walk has no rule for weights of {node.name()} that images change")
    results: list[list[Piece]] = [[] for _ in given]
    for part in parts:
        if made.dtype != part.rows.dtype:
            raise NoRule(f"the walk has no rule for {made.dtype} among {part.rows.dtype}")
        for number, result in rule(node, part, given, cache):
            # A box is empty where there is nothing but padding.
            if leading[number] and result.rows.numel():
                results[number].append(result)
    return results


def _data(name: str) -> int:
    """Which of the things that an operation is given is no weight."""
    return 1 if name == "Addmm" else 0


_POINTWISE = {
    "Relu", "Hardtanh", "Silu", "Gelu", "Hardswish", "Sigmoid", "LeakyRelu", "Elu", "Threshold",
    "Mish", "Softplus", "Tanh", "Hardsigmoid",
}  # fmt: skip


def _once(cache: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    if key not in cache:
        cache[key] = make()
    return cache[key]


def _pointwise(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    def slope() -> Tensor:
        ones = part.rows.new_ones(()).expand(_shape(node)).contiguous()
        found = node(ones)
        found = found[0] if isinstance(found, tuple) else found
        return _last(found).contiguous()

    slopes: Tensor = _once(cache, node, slope)
    y, x = part.rows.shape[2:4]
    box = slopes[:, None, part.top : part.top + y, part.left : part.left + x]
    if len(part.rows) == len(box):  # no two pieces share memory
        yield 0, replace(part, rows=part.rows.mul_(box))
    else:
        yield 0, replace(part, rows=part.rows * box)


def _last(maps: Tensor) -> Tensor:
    """Maps with their channels last; a vector is a map of one position."""
    return maps.permute(0, 2, 3, 1) if maps.ndim == 4 else maps[:, None, None, :]


def _clipped(part: Piece, size: tuple[int, int]) -> Piece:
    """What lies inside the map; the rest are derivatives by padding."""
    y0, x0 = max(0, -part.top), max(0, -part.left)
    y1, x1 = size[0] - part.top, size[1] - part.left
    rows = part.rows[:, :, y0 : max(y0, y1), x0 : max(x0, x1)]
    return replace(part, top=part.top + y0, left=part.left + x0, rows=rows)


def _same(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    yield 0, part


def _convolution(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    if node._saved_transposed or given[0] is None or len(given[0]) != 4:
        raise NoRule("the walk has no rule for this kind of convolution")
    weight, groups = node._saved_weight, node._saved_groups
    stride, padding, dilation = (
        _pair(x) for x in (node._saved_stride, node._saved_padding, node._saved_dilation)
    )
    (y, x), (ky, kx) = part.rows.shape[2:4], weight.shape[2:]
    n, u = part.rows.shape[:2]
    top, left = part.top * stride[0] - padding[0], part.left * stride[1] - padding[1]
    dense = groups == 1 and dilation == (1, 1)
    if dense and ((y, x) == (1, 1) or (ky, kx) == stride == (1, 1)):
        # One product: of a single position, or position by position.
        matrix = _once(
            cache, (node, "matrix"), lambda: weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        )
        rows = part.rows.reshape(-1, weight.shape[0]) @ matrix
        rows = rows.view(n, u, *((ky, kx) if (y, x) == (1, 1) else (y, x)), -1)
    else:
        height, width = (
            (size - 1) * s + d * (k - 1) + 1
            for size, s, d, k in zip((y, x), stride, dilation, (ky, kx), strict=True)
        )
        rows = part.rows.new_zeros(n, u, height, width, given[0][1])
        for i in range(ky):
            for j in range(kx):
                into = rows[
                    :, :,
                    i * dilation[0] : i * dilation[0] + (y - 1) * stride[0] + 1 : stride[0],
                    j * dilation[1] : j * dilation[1] + (x - 1) * stride[1] + 1 : stride[1],
                ]  # fmt: skip
                into += _grouped(part.rows, weight[:, :, i, j], groups)
    yield 0, _clipped(replace(part, top=top, left=left, rows=rows), _size(given[0]))


def _grouped(
    rows: Float[Tensor, "n u y x o"], weight: Float[Tensor, "o i"], groups: int
) -> Float[Tensor, "n u y x k"]:
    if groups == 1:
        return rows @ weight
    if weight.shape[1] == 1 and weight.shape[0] == groups:
        return rows * weight[:, 0]
    parts = rows.unflatten(4, (groups, -1))
    return torch.einsum("nuyxgo,goi->nuyxgi", parts, weight.unflatten(0, (groups, -1))).flatten(4)


def _pair(values: Any) -> tuple[int, int]:
    given = [values] if isinstance(values, int) else list(values)
    first, second = given * (2 // len(given))
    return int(first), int(second)


def _cat(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    if _signed(node._saved_dim) % len(_shape(node)) != 1:
        raise NoRule("the walk has no rule for joining along rows or columns")
    # The graph does not know the widths of what does not depend on the leaf, only their sum.
    unknown = [number for number, shape in enumerate(given) if shape is None]
    if unknown and unknown[-1] - unknown[0] >= len(unknown):
        raise NoRule("the walk has no rule for joining with several constants")
    rest = _shape(node)[1] - sum(shape[1] for shape in given if shape is not None)
    first = 0
    for number, shape in enumerate(given):
        if shape is None:
            first, rest = first + rest, 0
            continue
        rows, units = part.rows[..., first : first + shape[1]], part.units
        first += shape[1]
        if len(rows) == 1:
            # A feature that does not begin here need not be carried on.
            some = rows[0].flatten(1).any(1)
            rows, units = rows[:, some], units[some]
        yield number, replace(part, units=units, rows=rows)


def _signed(number: int) -> int:
    """Autograd hands negative numbers out as if they had no sign."""
    return number - 2**64 if number >= 2**63 else number


def _add(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    sign = -1 if node.name().startswith("Sub") else 1
    for number, shape in enumerate(given):
        if shape is None:
            continue
        if shape != _shape(node):
            raise NoRule("the walk has no rule for sums of different shapes")
        factor = 1 if number == 0 else sign * node._saved_alpha
        # Not the same tensor twice: what follows may write over it.
        yield number, replace(part, rows=part.rows * factor)


def _mul(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    for number, (shape, other) in enumerate(
        zip(given, (node._saved_other, node._saved_self), strict=True)
    ):
        if shape is None:
            continue
        if shape != _shape(node) or other is None:
            raise NoRule("the walk has no rule for products of different shapes")
        if isinstance(other, Tensor) and other.ndim:
            maps = _last(other.expand(_shape(node)))
            y, x = part.rows.shape[2:4]
            factor = maps[:, None, part.top : part.top + y, part.left : part.left + x]
        else:
            factor = other
        yield number, replace(part, rows=part.rows * factor)


def _max_pool(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    assert given[0] is not None
    size, stride, padding, dilation = (
        _pair(getattr(node, f"_saved_{what}") or node._saved_kernel_size)
        for what in ("kernel_size", "stride", "padding", "dilation")
    )
    y, x = part.rows.shape[2:4]
    n, u, width = len(node._saved_result1), part.rows.shape[1], given[0][3]
    chosen = _once(cache, (node, "chosen"), lambda: _last(node._saved_result1).contiguous())
    chosen = chosen[:, part.top : part.top + y, part.left : part.left + x]
    top, left = part.top * stride[0] - padding[0], part.left * stride[1] - padding[1]
    rows = part.rows.new_zeros(
        n, u, (y - 1) * stride[0] + dilation[0] * (size[0] - 1) + 1,
        (x - 1) * stride[1] + dilation[1] * (size[1] - 1) + 1, part.rows.shape[4],
    )  # fmt: skip
    places = [torch.arange(k, device=rows.device) for k in (y, x)]
    for i in range(size[0]):
        for j in range(size[1]):
            row = top + i * dilation[0] + places[0] * stride[0]
            column = left + j * dilation[1] + places[1] * stride[1]
            here = chosen == (row[:, None] * width + column)[None, :, :, None]
            inside = ((row >= 0)[:, None] & (column >= 0) & (column < width))[None, :, :, None]
            into = rows[
                :, :,
                i * dilation[0] : i * dilation[0] + (y - 1) * stride[0] + 1 : stride[0],
                j * dilation[1] : j * dilation[1] + (x - 1) * stride[1] + 1 : stride[1],
            ]  # fmt: skip
            into += part.rows * (here & inside)[:, None]
    yield 0, _clipped(replace(part, top=top, left=left, rows=rows), _size(given[0]))


def _average_pool(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    assert given[0] is not None
    size, stride, padding = (
        _pair(getattr(node, f"_saved_{what}") or node._saved_kernel_size)
        for what in ("kernel_size", "stride", "padding")
    )
    y, x = part.rows.shape[2:4]
    rows = part.rows.new_zeros(
        *part.rows.shape[:2], (y - 1) * stride[0] + size[0], (x - 1) * stride[1] + size[1],
        part.rows.shape[4],
    )  # fmt: skip
    divisor = node._saved_divisor_override
    if divisor is None:
        counted = node._saved_count_include_pad
        down, across = (
            _window_lengths((part.top, part.left)[k], (y, x)[k], size[k], stride[k], padding[k],
                            given[0][2 + k], counted)
            for k in (0, 1)
        )  # fmt: skip
        divisor = (down[:, None, None] * across[:, None]).to(rows)
    share = part.rows / divisor
    for i in range(size[0]):
        for j in range(size[1]):
            rows[
                :, :, i : i + (y - 1) * stride[0] + 1 : stride[0],
                j : j + (x - 1) * stride[1] + 1 : stride[1],
            ] += share  # fmt: skip
    top, left = part.top * stride[0] - padding[0], part.left * stride[1] - padding[1]
    yield 0, _clipped(replace(part, top=top, left=left, rows=rows), _size(given[0]))


def _window_lengths(
    first: int, count: int, size: int, stride: int, padding: int, end: int, counted: bool
) -> Int[Tensor, " _"]:
    """How many rows, or columns, a mean pool's windows have: at the map's end some are cut off."""
    begins = torch.arange(first, first + count) * stride - padding
    ends = (begins + size).clamp(max=end + padding)
    return ends - begins if counted else ends.clamp(max=end) - begins.clamp(min=0)


def _mean(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    shape, made = given[0], _shape(node)
    assert shape is not None
    if shape == made:  # a pool as large as the map
        yield 0, part
        return
    whole = getattr(node, "_saved_dim", None)  # a pool has none
    if len(shape) != 4 or (
        made != (*shape[:2], 1, 1) if whole is None else {_signed(d) % 4 for d in whole} != {2, 3}
    ):
        raise NoRule("the walk has no rule for this mean")
    rows = part.rows.expand(-1, -1, shape[2], shape[3], -1) / (shape[2] * shape[3])
    yield 0, replace(part, top=0, left=0, rows=rows)


def _batch_norm(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    if node._saved_training:
        raise NoRule("the walk has no rule for batch norm by the batch's own statistics")

    def scale() -> Tensor:
        eps = node._saved_epsilon if node.name().startswith("Cudnn") else node._saved_eps
        found: Tensor = torch.rsqrt(node._saved_running_var + eps)
        return found if node._saved_weight is None else found * node._saved_weight

    yield 0, replace(part, rows=part.rows * _once(cache, node, scale))


def _view(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    shape, made = given[0], _shape(node)
    if shape is None:
        return
    if len(shape) == 4 and len(made) == 2 and made[1] == shape[1] * shape[2] * shape[3]:
        maps = part.rows.squeeze(3).squeeze(2).unflatten(2, shape[1:])
        yield 0, replace(part, top=0, left=0, rows=maps.permute(0, 1, 3, 4, 2))
    elif max(len(shape), len(made)) <= 4 and (*shape, 1, 1)[:4] == (*made, 1, 1)[:4]:
        yield 0, part
    else:
        raise NoRule(f"the walk has no rule for a view of {shape} as {made}")


def _slice(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    shape = given[0]
    assert shape is not None
    if node._saved_step != 1 or len(shape) != 4:
        raise NoRule("the walk has no rule for slices with steps")
    dim, start = _signed(node._saved_dim) % 4, _signed(node._saved_start)
    start = max(0, start + shape[dim] if start < 0 else start)
    if dim == 2:
        part = replace(part, top=part.top + start)
    elif dim == 3:
        part = replace(part, left=part.left + start)
    elif dim == 1:
        after = shape[1] - start - part.rows.shape[4]
        part = replace(part, rows=F.pad(part.rows, (start, after)))
    elif shape != _shape(node):
        raise NoRule("the walk has no rule for slices of images")
    yield 0, part


def _pad(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    shape, pad = given[0], [_signed(x) for x in node._saved_pad]
    if shape is None or len(shape) != 4 or len(pad) > 4:
        raise NoRule("the walk has no rule for padding channels")
    left, _, top, _ = (*pad, 0, 0)[:4]
    yield 0, _clipped(replace(part, top=part.top - top, left=part.left - left), _size(shape))


def _linear(node: Any, part: Piece, given: _Given, cache: dict[Any, Any]) -> _Result:
    """From addmm(bias, x, weight) or mm(x, weight), by x."""
    name = node.name().partition("Backward")[0]
    if name == "Addmm" and node._saved_alpha != 1:
        raise NoRule("the walk has no rule for a scaled product")
    yield _data(name), replace(part, rows=part.rows @ node._saved_mat2.T)


_RULES: dict[str, Callable[[Any, Piece, _Given, dict[Any, Any]], _Result]] = {
    "Convolution": _convolution,
    "Cat": _cat,
    "Add": _add,
    "Sub": _add,
    "Mul": _mul,
    "MaxPool2DWithIndices": _max_pool,
    "AvgPool2D": _average_pool,
    "AdaptiveAvgPool2D": _mean,
    "Mean": _mean,
    "NativeBatchNorm": _batch_norm,
    "CudnnBatchNorm": _batch_norm,
    "Clone": _same,
    "Alias": _same,
    "View": _view,
    "UnsafeView": _view,
    "ReshapeAlias": _view,
    "Squeeze": _view,
    "Unsqueeze": _view,
    "Slice": _slice,
    "ConstantPadNd": _pad,
    "Addmm": _linear,
    "Mm": _linear,
}


@torch.no_grad()
def sides(
    parts: Sequence[Piece], hidden: Float[Tensor, "n y x c"], count: int
) -> Float[Tensor, "n u 3"]:
    """Excitation, inhibition and the L2 norm of S for each feature, from its derivatives.

    Args:
        parts: pieces of the features numbered 0 to count - 1.
        hidden: h, the through layer's maps with the channels last.
        count: how many features.
    Source: paper, eqs. 1 and 2.
    """
    found = hidden.new_zeros(len(hidden), count, 3)
    for part in parts:
        y, x = part.rows.shape[2:4]
        h = hidden[:, part.top : part.top + y, part.left : part.left + x]
        if len(part.rows) == 1:
            values = _constant(part.rows[0].flatten(1), h.flatten(1))
        else:
            s = (part.rows * h[:, None]).flatten(2)
            norm, total = s.norm(dim=2), s.clamp(min=0).sum(2)
            values = torch.stack([total, s.clamp_(max=0).sum(2).neg(), norm], 2)
        found[:, part.units] = values
    return found


def _constant(
    jacobian: Float[Tensor, "u d"], hidden: Float[Tensor, "n d"]
) -> Float[Tensor, "n u 3"]:
    """Where the target is a linear map: its positive weights excite, its negative ones inhibit."""
    plus, minus = jacobian.clamp(min=0), (-jacobian).clamp(min=0)
    above = hidden.clamp(min=0)
    excitation, inhibition = above @ plus.T, above @ minus.T
    if hidden.numel() and hidden.min() < 0:
        below = (-hidden).clamp(min=0)
        excitation, inhibition = excitation + below @ minus.T, inhibition + below @ plus.T
    # Squares leave the range of half precision.
    wide = torch.promote_types(hidden.dtype, torch.float32)
    norm = (hidden.to(wide).square() @ jacobian.to(wide).square().T).sqrt().to(hidden)
    return torch.stack([excitation, inhibition, norm], 2)
