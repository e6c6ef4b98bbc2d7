"""A block of the Jacobian, and the operation that it is carried through."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Derivatives = Float[Tensor, "n u y x c"]  # n is 1 where all images have the same
Cache = dict[object, object]
Node = Any  # a node of autograd's graph: torch's own type lacks the attributes `_saved_...`
Shape = tuple[int, ...]
_T = TypeVar("_T")


class NoRule(NotImplementedError):
    """The pass does something that the walk has no rule for."""


@dataclass(frozen=True, kw_only=True)
class JacobianBlock:
    """Derivatives of some features by one box of a map.

    Args:
        units: the features' numbers, ascending.
        top, left: the map's row and column where the box begins.
        derivatives: by image, feature, row, column and channel. There is one image where all
            images have the same derivatives.
    """

    units: Int[Tensor, " u"]
    top: int
    left: int
    derivatives: Derivatives

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the box."""
        height, width = self.derivatives.shape[2:4]
        return height, width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the map, to index with."""
        height, width = self.size
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def clipped(self, shape: Shape) -> "JacobianBlock":
        """The part inside a map of that shape; the rest are derivatives by padding."""
        height, width = (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
        y0, x0 = max(0, -self.top), max(0, -self.left)
        y1, x1 = max(y0, height - self.top), max(x0, width - self.left)
        inside = self.derivatives[:, :, y0:y1, x0:x1]
        return replace(self, top=self.top + y0, left=self.left + x0, derivatives=inside)


ByInput = Iterator[tuple[int, JacobianBlock]]  # the number of an input, and derivatives by it


def merge_blocks(blocks: Sequence[JacobianBlock]) -> list[JacobianBlock]:
    """Blocks no two of which share a feature: those that do are added up."""
    merged: list[JacobianBlock] = []
    for block in blocks:
        others, merged = merged, []
        for other in others:
            if bool(torch.isin(other.units, block.units).any()):
                block = _add(block, other)
            else:
                merged.append(other)
        merged.append(block)
    return merged


def _add(a: JacobianBlock, b: JacobianBlock) -> JacobianBlock:
    """The sum, over the smallest box that contains both."""
    units = torch.unique(torch.cat([a.units, b.units]))
    top, left = min(a.top, b.top), min(a.left, b.left)
    height = max(x.top + x.size[0] for x in (a, b)) - top
    width = max(x.left + x.size[1] for x in (a, b)) - left
    images = max(len(a.derivatives), len(b.derivatives))
    total = a.derivatives.new_zeros(images, len(units), height, width, a.derivatives.shape[4])
    for x in (a, b):
        y0, x0 = x.top - top, x.left - left
        box = total[:, :, y0 : y0 + x.size[0], x0 : x0 + x.size[1]]
        derivatives = x.derivatives.expand(images, *x.derivatives.shape[1:])
        box.index_add_(1, torch.searchsorted(units, x.units), derivatives)
    return JacobianBlock(units=units, top=top, left=left, derivatives=total)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the pass, as autograd's graph has it.

    Args:
        node: its backward node.
        output: the shape of its output.
        inputs: the shapes of its inputs; None for an input that needs no gradient.
        depends: which inputs depend on the through layer.
        cache: kept for as long as the graph.
    """

    node: Node
    output: Shape
    inputs: Sequence[Shape | None]
    depends: Sequence[bool]
    cache: Cache

    @classmethod
    def of(cls, node: Node, depends: Sequence[bool], cache: Cache) -> "Operation":
        """The operation of a node.

        Args:
            node: of autograd's graph.
            depends: which of its inputs depend on the through layer.
            cache: kept between calls on the same graph.
        """
        inputs = [None if n is None else _output_shape(n, k) for n, k in node.next_functions]
        return cls(
            node=node, output=_output_shape(node), inputs=inputs, depends=depends, cache=cache
        )

    @property
    def name(self) -> str:
        """The node's name without 'Backward0'; empty for users' own functions."""
        # Those have no number, and may be called like one of torch's.
        match = re.fullmatch(r"(\w+)Backward\d+", self.node.name())
        return "" if match is None else match[1]

    @property
    def input(self) -> Shape:
        """The shape of the first input."""
        shape = self.inputs[0]
        assert shape is not None
        return shape

    def saved(self, name: str) -> Any:
        """A weight, map or setting that autograd keeps for the backward pass."""
        value = getattr(self.node, f"_saved_{name}")
        if isinstance(value, list | tuple):
            return [_signed(number) for number in value]
        return _signed(value)

    def cached(self, what: str, compute: Callable[[], _T]) -> _T:
        """A value that does not depend on the block, computed once for all of them."""
        key = (self.node, what)
        if key not in self.cache:
            self.cache[key] = compute()
        return cast(_T, self.cache[key])


def _signed(value: Any) -> Any:
    """Autograd hands negative whole numbers out as if they had no sign."""
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def _output_shape(node: Node, output: int = 0) -> Shape:
    if hasattr(node, "variable"):
        return tuple(node.variable.shape)
    return tuple(node._input_metadata[output].shape)


def channels_last(maps: Tensor) -> Shaped[Tensor, "n y x c"]:
    """Maps (n, c, y, x) with their channels last; a vector (n, c) is a map of one position."""
    return maps.permute(0, 2, 3, 1) if maps.ndim == 4 else maps[:, None, None, :]
