"""What each operation does to a block of the Jacobian: one rule a function, and the table `RULES`.

`opponent.attribution.jacobian` walks backwards through autograd's graph. At each node it has the
derivatives by the output of an operation, and the operation's rule gives those by its inputs.

`RULES`, at the end of this file, says which rule an operation has, by the name of its node in
autograd without 'Backward0'. The rules stand in the table's order; those of convolutions and pools
are in `opponent.attribution.jacobian_windows`. To add an operation, write a rule and enter it. A
rule takes the operation and derivatives by its output, which it may write over. It yields the
number of an input and the derivatives by that input, in memory of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from opponent.attribution.jacobian_block import (
    ByInput,
    Cache,
    JacobianBlock,
    Node,
    NoRule,
    Operation,
    channels_last,
)
from opponent.attribution.jacobian_windows import average_pool, convolution, max_pool, mean
from opponent.models.activations import ACTIVATION_FUNCTIONS


def propagate(
    node: Node, blocks: Sequence[JacobianBlock], depends: Sequence[bool], cache: Cache
) -> list[list[JacobianBlock]]:
    """Derivatives by each of a node's inputs, from those by its output.

    Args:
        node: of autograd's graph.
        blocks: derivatives by its output. They may be written over.
        depends: which of its inputs depend on the through layer.
        cache: kept between calls on the same graph.
    Returns:
        A list of blocks for each input, empty where it does not depend on the through layer.
    Raises:
        NoRule: the operation has no rule, or none with these settings.
    """
    op = Operation.of(node, depends, cache)
    rule = RULES.get(op.name)
    shapes = [op.output]
    shapes += [x for x, used in zip(op.inputs, depends, strict=True) if used and x is not None]
    if rule is None or (rule is not _view and any(len(x) not in (2, 4) for x in shapes)):
        raise NoRule(f"the walk has no rule for {node.name()}")
    if rule not in _SEVERAL_INPUTS:
        data = _DATA_INPUT.get(op.name, 0)
        if any(used for number, used in enumerate(depends) if number != data):
            raise NoRule(f"the walk has no rule for weights of {node.name()} that images change")
    results: list[list[JacobianBlock]] = [[] for _ in depends]
    dtype = node._input_metadata[0].dtype
    for block in blocks:
        if dtype != block.derivatives.dtype:
            raise NoRule(f"the walk has no rule for {dtype} among {block.derivatives.dtype}")
        for number, result in rule(op, block):
            # A box is empty where there is nothing but padding.
            if depends[number] and result.derivatives.numel():
                results[number].append(result)
    return results


# Matrix products


def _linear(op: Operation, block: JacobianBlock) -> ByInput:
    """addmm(bias, x, weight) or mm(x, weight), by x."""
    if op.name == "Addmm" and op.saved("alpha") != 1:
        raise NoRule("the walk has no rule for a scaled product")
    derivatives = block.derivatives @ op.saved("mat2").T
    yield _DATA_INPUT.get(op.name, 0), replace(block, derivatives=derivatives)


# Element by element


def _pointwise(op: Operation, block: JacobianBlock) -> ByInput:
    """A function of each element alone, times its slope there: autograd's own node gives it."""

    def slope() -> Tensor:
        ones = block.derivatives.new_ones(()).expand(op.output).contiguous()
        gradient = op.node(ones)
        gradient = gradient[0] if isinstance(gradient, tuple) else gradient
        return channels_last(gradient).contiguous()

    slopes = op.cached("slope", slope)[:, None, *block.slices]
    if len(block.derivatives) == len(slopes):  # no two blocks share memory
        yield 0, replace(block, derivatives=block.derivatives.mul_(slopes))
    else:
        yield 0, replace(block, derivatives=block.derivatives * slopes)


def _batch_norm(op: Operation, block: JacobianBlock) -> ByInput:
    """With fixed statistics, a factor for each channel."""
    if op.saved("training"):
        raise NoRule("the walk has no rule for batch norm by the batch's own statistics")

    def scale() -> Tensor:
        eps = op.saved("epsilon" if op.name.startswith("Cudnn") else "eps")
        factors: Tensor = torch.rsqrt(op.saved("running_var") + eps)
        weight = op.saved("weight")
        return factors if weight is None else factors * weight

    yield 0, replace(block, derivatives=block.derivatives * op.cached("scale", scale))


def _add(op: Operation, block: JacobianBlock) -> ByInput:
    """a + alpha b, or a - alpha b, of one shape."""
    sign = -1 if op.name == "Sub" else 1
    for number, (shape, used) in enumerate(zip(op.inputs, op.depends, strict=True)):
        if not used:
            continue
        if shape != op.output:
            raise NoRule("the walk has no rule for sums of different shapes")
        factor = 1 if number == 0 else sign * op.saved("alpha")
        # Not the same tensor twice: what follows may write over it.
        yield number, replace(block, derivatives=block.derivatives * factor)


def _multiply(op: Operation, block: JacobianBlock) -> ByInput:
    """a b: the derivatives by a are times b, and the other way round."""
    others = (op.saved("other"), op.saved("self"))
    for number, (shape, other) in enumerate(zip(op.inputs, others, strict=True)):
        if not op.depends[number]:
            continue
        if shape != op.output or other is None:
            raise NoRule("the walk has no rule for products of different shapes")
        if isinstance(other, Tensor) and other.ndim:
            other = channels_last(other.expand(op.output))[:, None, *block.slices]
        yield number, replace(block, derivatives=block.derivatives * other)


# Elements moved about


def _concatenate(op: Operation, block: JacobianBlock) -> ByInput:
    """Along channels: each input takes its own channels, and the features that begin in them."""
    if op.saved("dim") % len(op.output) != 1:
        raise NoRule("the walk has no rule for joining along rows or columns")
    # The graph does not know the widths of inputs that need no gradient, only their sum.
    unknown = [number for number, shape in enumerate(op.inputs) if shape is None]
    if unknown and unknown[-1] - unknown[0] >= len(unknown):
        raise NoRule("the walk has no rule for joining with several constants")
    rest = op.output[1] - sum(shape[1] for shape in op.inputs if shape is not None)
    first = 0
    for number, shape in enumerate(op.inputs):
        if shape is None:
            first, rest = first + rest, 0
            continue
        derivatives, units = block.derivatives[..., first : first + shape[1]], block.units
        first += shape[1]
        if len(derivatives) == 1:
            # A feature that does not begin here need not be carried on.
            begins = derivatives[0].flatten(1).any(1)
            derivatives, units = derivatives[:, begins], units[begins]
        yield number, replace(block, units=units, derivatives=derivatives)


def _slice(op: Operation, block: JacobianBlock) -> ByInput:
    """Rows, columns or channels, one after the other."""
    shape = op.input
    if op.saved("step") != 1 or len(shape) != 4:
        raise NoRule("the walk has no rule for slices with steps")
    axis, start = op.saved("dim") % 4, op.saved("start")
    start = max(0, start + shape[axis] if start < 0 else start)
    if axis == 2:
        block = replace(block, top=block.top + start)
    elif axis == 3:
        block = replace(block, left=block.left + start)
    elif axis == 1:
        after = shape[1] - start - block.derivatives.shape[4]
        block = replace(block, derivatives=F.pad(block.derivatives, (start, after)))
    elif shape != op.output:
        raise NoRule("the walk has no rule for slices of images")
    yield 0, block


def _pad(op: Operation, block: JacobianBlock) -> ByInput:
    """Constant rows and columns around a map, or some of its own taken away."""
    padding = op.saved("pad")
    if len(op.input) != 4 or len(padding) > 4:
        raise NoRule("the walk has no rule for padding channels")
    left, _, top, _ = (*padding, 0, 0)[:4]
    yield 0, replace(block, top=block.top - top, left=block.left - left).clipped(op.input)


def _view(op: Operation, block: JacobianBlock) -> ByInput:
    """A map as a vector, or axes of length one more or fewer."""
    shape, output = op.input, op.output
    if len(shape) == 4 and len(output) == 2 and output[1] == shape[1] * shape[2] * shape[3]:
        maps = block.derivatives.squeeze(3).squeeze(2).unflatten(2, shape[1:])
        yield 0, replace(block, top=0, left=0, derivatives=maps.permute(0, 1, 3, 4, 2))
    elif max(len(shape), len(output)) <= 4 and (*shape, 1, 1)[:4] == (*output, 1, 1)[:4]:
        yield 0, block
    else:
        raise NoRule(f"the walk has no rule for a view of {shape} as {output}")


def _same(op: Operation, block: JacobianBlock) -> ByInput:
    """A copy, or another name for the same tensor."""
    yield 0, block


RULES: dict[str, Callable[[Operation, JacobianBlock], ByInput]] = {
    # Sliding windows, in `jacobian_windows`.
    "Convolution": convolution,
    "MaxPool2DWithIndices": max_pool,
    "AvgPool2D": average_pool,
    "AdaptiveAvgPool2D": mean,
    "Mean": mean,
    # Matrix products.
    "Addmm": _linear,
    "Mm": _linear,
    # Element by element.
    **{function.node: _pointwise for function in ACTIVATION_FUNCTIONS},
    "NativeBatchNorm": _batch_norm,
    "CudnnBatchNorm": _batch_norm,
    "Add": _add,
    "Sub": _add,
    "Mul": _multiply,
    # Elements moved about.
    "Cat": _concatenate,
    "Slice": _slice,
    "ConstantPadNd": _pad,
    "View": _view,
    "UnsafeView": _view,
    "ReshapeAlias": _view,
    "Squeeze": _view,
    "Unsqueeze": _view,
    "Clone": _same,
    "Alias": _same,
}
# Rules of operations of which several inputs may depend on the through layer. Of all others only
# the data may, not weights: input 0, or the one given here.
_SEVERAL_INPUTS = (_add, _multiply, _concatenate)
_DATA_INPUT = {"Addmm": 1}
