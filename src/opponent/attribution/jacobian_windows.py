"""What sliding windows, convolutions and pools, do to a block of the Jacobian.

The rules are in the table of `opponent.attribution.jacobian_rules`, which says what a rule takes
and gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opponent.attribution.jacobian_block import (
    ByInput,
    Derivatives,
    JacobianBlock,
    NoRule,
    Operation,
    channels_last,
)


@dataclass(frozen=True)
class _Windows:
    """How windows lie on the input, in rows and columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def begin(self, block: JacobianBlock) -> tuple[int, int]:
        """The input's row and column where a block's first window begins, perhaps in padding."""
        top = block.top * self.stride[0] - self.padding[0]
        return top, block.left * self.stride[1] - self.padding[1]

    def zeros(self, block: JacobianBlock, images: int, channels: int) -> Derivatives:
        """Zeros for the box of the input that a block's windows cover."""
        height, width = (
            (count - 1) * stride + dilation * (length - 1) + 1
            for count, stride, dilation, length in zip(
                block.size, self.stride, self.dilation, self.kernel, strict=True
            )
        )
        return block.derivatives.new_zeros(images, len(block.units), height, width, channels)

    def elements(
        self, block: JacobianBlock, box: Derivatives
    ) -> Iterator[tuple[int, int, Derivatives]]:
        """For each element (row, column) of the kernel, what lies under it in all windows.

        Args:
            block: derivatives by the output, a window a position.
            box: derivatives by the input, of which views are given, of the size of the block.
        """
        (y, x), (down, across) = block.size, self.stride
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                row, column = i * self.dilation[0], j * self.dilation[1]
                rows = slice(row, row + (y - 1) * down + 1, down)
                columns = slice(column, column + (x - 1) * across + 1, across)
                yield i, j, box[:, :, rows, columns]


def _pairs(op: Operation, *names: str) -> tuple[tuple[int, int], ...]:
    """Settings for rows and columns; an empty stride means the size of the kernel."""
    pairs = []
    for name in names:
        saved = op.saved(name) or op.saved("kernel_size")
        numbers = [saved] if isinstance(saved, int) else saved
        rows, columns = numbers * (2 // len(numbers))
        pairs.append((int(rows), int(columns)))
    return tuple(pairs)


def convolution(op: Operation, block: JacobianBlock) -> ByInput:
    """Each position's derivatives times the weights, added up where windows overlap."""
    if op.saved("transposed") or len(op.input) != 4:
        raise NoRule("the walk has no rule for this kind of convolution")
    weight, groups = op.saved("weight"), op.saved("groups")
    kernel = (weight.shape[2], weight.shape[3])
    windows = _Windows(kernel, *_pairs(op, "stride", "padding", "dilation"))
    images, units = block.derivatives.shape[:2]
    plain = groups == 1 and windows.dilation == (1, 1)
    if plain and (block.size == (1, 1) or kernel == windows.stride == (1, 1)):
        # One product: of a single position, or position by position.
        matrix = op.cached("matrix", lambda: weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        products = block.derivatives.reshape(-1, weight.shape[0]) @ matrix
        size = kernel if block.size == (1, 1) else block.size
        derivatives = products.view(images, units, *size, -1)
    else:
        derivatives = windows.zeros(block, images, op.input[1])
        for i, j, under in windows.elements(block, derivatives):
            under += _times(block.derivatives, weight[:, :, i, j], groups)
    top, left = windows.begin(block)
    yield 0, replace(block, top=top, left=left, derivatives=derivatives).clipped(op.input)


def _times(
    derivatives: Float[Tensor, "n u y x o"], weight: Float[Tensor, "o i"], groups: int
) -> Float[Tensor, "n u y x k"]:
    """Derivatives by a convolution's input from those by its output, for one kernel element."""
    if groups == 1:
        return derivatives @ weight
    if weight.shape[1] == 1 and weight.shape[0] == groups:
        return derivatives * weight[:, 0]
    by_group = derivatives.unflatten(4, (groups, -1))
    weights = weight.unflatten(0, (groups, -1))
    return torch.einsum("nuyxgo,goi->nuyxgi", by_group, weights).flatten(4)


def max_pool(op: Operation, block: JacobianBlock) -> ByInput:
    """A window's derivatives go to its largest element."""
    windows = _Windows(*_pairs(op, "kernel_size", "stride", "padding", "dilation"))
    (y, x), (top, left), width = block.size, windows.begin(block), op.input[3]
    # Where each window's largest element lies: row * width + column.
    largest = op.cached("largest", lambda: channels_last(op.saved("result1")).contiguous())
    largest = largest[:, *block.slices]
    derivatives = windows.zeros(block, len(largest), block.derivatives.shape[4])
    down, across = (torch.arange(n, device=derivatives.device) for n in (y, x))
    for i, j, under in windows.elements(block, derivatives):
        row = top + i * windows.dilation[0] + down * windows.stride[0]
        column = left + j * windows.dilation[1] + across * windows.stride[1]
        here = largest == (row[:, None] * width + column)[None, :, :, None]
        inside = ((row >= 0)[:, None] & (column >= 0) & (column < width))[None, :, :, None]
        under += block.derivatives * (here & inside)[:, None]
    yield 0, replace(block, top=top, left=left, derivatives=derivatives).clipped(op.input)


def average_pool(op: Operation, block: JacobianBlock) -> ByInput:
    """A window's derivatives are shared out evenly over its elements."""
    windows = _Windows(*_pairs(op, "kernel_size", "stride", "padding"))
    images, channels = len(block.derivatives), block.derivatives.shape[4]
    derivatives = windows.zeros(block, images, channels)
    divisor = op.saved("divisor_override")
    if divisor is None:
        rows, columns = (_window_lengths(op, windows, block, axis) for axis in (0, 1))
        divisor = (rows[:, None, None] * columns[:, None]).to(derivatives)
    share = block.derivatives / divisor
    for _, _, under in windows.elements(block, derivatives):
        under += share
    top, left = windows.begin(block)
    yield 0, replace(block, top=top, left=left, derivatives=derivatives).clipped(op.input)


def _window_lengths(
    op: Operation, windows: _Windows, block: JacobianBlock, axis: int
) -> Int[Tensor, " k"]:
    """Rows (axis 0) or columns that each window averages: the map's end cuts some short."""
    padding, end = windows.padding[axis], op.input[2 + axis]
    first = (block.top, block.left)[axis]
    begins = torch.arange(first, first + block.size[axis]) * windows.stride[axis] - padding
    ends = (begins + windows.kernel[axis]).clamp(max=end + padding)
    if op.saved("count_include_pad"):
        return ends - begins
    return ends.clamp(max=end) - begins.clamp(min=0)


def mean(op: Operation, block: JacobianBlock) -> ByInput:
    """A mean over all rows and columns: the same share for each position."""
    shape = op.input
    if shape == op.output:  # a pool as large as the map
        yield 0, block
        return
    axes = op.saved("dim") if hasattr(op.node, "_saved_dim") else None
    if len(shape) != 4:
        everywhere = False
    elif axes is None:  # an adaptive pool
        everywhere = op.output == (*shape[:2], 1, 1)
    else:
        everywhere = {axis % 4 for axis in axes} == {2, 3}
    if not everywhere:
        raise NoRule("the walk has no rule for this mean")
    share = block.derivatives.expand(-1, -1, shape[2], shape[3], -1) / (shape[2] * shape[3])
    yield 0, replace(block, top=0, left=0, derivatives=share)
