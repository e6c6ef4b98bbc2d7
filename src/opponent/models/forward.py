"""One pass through a module, up to a target and no further. The only file with hooks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.core.box import Box
from opponent.models.layout import as_map, from_map

# What a pass keeps a graph of: from the through layer to the target, or from the images on.
Differentiate = Literal["target", "images"]


@dataclass(frozen=True, kw_only=True)
class ReadPoint:
    """Where one tensor is read: a module's input or output, in its k-th call of a pass.

    Args:
        name: the layer's name.
        module: the module; None for the pixels.
        at: its input or its output.
        call: k, from 1.
        order: when in a pass, in ticks; -1 for the pixels.
    """

    name: str
    module: nn.Module | None
    at: Literal["input", "output"]
    call: int
    order: int


@dataclass(frozen=True, kw_only=True)
class ForwardResult:
    """What a pass read.

    Args:
        target: the target's map.
        through: the through layer's map; None where none was asked for.
    """

    target: Float[Tensor, "n c h w"]
    through: Float[Tensor, "n k y x"] | None


@dataclass(frozen=True, kw_only=True)
class LayerMaps:
    """What one pass read at many layers, with the graph between them, as (n, c, h, w) maps.

    Args:
        targets: maps of the targets, by name.
        throughs: maps of the through layers, by name.
    """

    targets: Mapping[str, Float[Tensor, "n ..."]]
    throughs: Mapping[str, Float[Tensor, "n ..."]]


class _TargetReached(BaseException):
    """Ends a forward pass at the target. Not an Exception, so that no model swallows it."""


@dataclass(frozen=True)
class Call:
    """One call of one module in a traced pass.

    Args:
        name: the module's name.
        began: when it began, in ticks of the pass.
        ended: when it ended, in the same ticks.
        shape: of the tensor that it gave; None where it gave something else.
    """

    name: str
    began: int
    ended: int
    shape: tuple[int, ...] | None


def trace(module: nn.Module, inputs: Tensor) -> tuple[Call, ...]:
    """The calls of all modules in one forward pass, in the order in which they end."""
    clock, begun, calls = count(), dict[str, list[int]](), list[Call]()

    def begin(name: str, *_: object) -> None:
        begun.setdefault(name, []).append(next(clock))

    def end(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        calls.append(Call(name, begun[name].pop(), next(clock), shape))

    with _as_it_was(module), torch.no_grad(), _hooks() as hooks:
        for name, layer in module.named_modules():
            hooks.append(layer.register_forward_pre_hook(partial(begin, name)))
            hooks.append(layer.register_forward_hook(partial(end, name)))
        module(inputs)
    return tuple(calls)


def forward(
    module: nn.Module,
    images: Float[Tensor, "n bands h w"],
    stop: ReadPoint,
    start: ReadPoint | None = None,
    *,
    differentiate: Differentiate | None = None,
    substitute: Callable[[Tensor], Tensor] | None = None,
    crops: Mapping[ReadPoint, Box] | None = None,
) -> ForwardResult:
    """Run a module up to the point where the target is read.

    Args:
        module: the module.
        images: its own input.
        stop: where the target is read, and the pass ends.
        start: where the through layer is read on the way.
        differentiate: as for `Network.run`.
        substitute: from the through layer's map makes the one that goes on in its place.
        crops: for some points, the box of the map that goes on.
    Raises:
        RuntimeError: the pass ended without reaching both points.
    """
    maps: dict[str, Tensor] = {}

    def read_through(tensor: Tensor) -> Tensor:
        hidden = as_map(tensor)
        if substitute is not None:
            hidden = substitute(hidden)
        if differentiate == "target":
            hidden = hidden.detach().clone().requires_grad_()
        maps["through"] = hidden
        torch.set_grad_enabled(differentiate == "target")
        # A copy goes on, since what follows may be a ReLU in place.
        return from_map(hidden, tensor).clone()

    def read_target(tensor: Tensor) -> None:
        maps["target"] = as_map(tensor)
        raise _TargetReached

    def crop(box: Box, tensor: Tensor) -> Tensor:
        return from_map(as_map(tensor)[:, :, *box.slices], tensor)

    with (
        _as_it_was(module),
        _hooks() as hooks,
        torch.inference_mode(False),
        torch.set_grad_enabled(differentiate == "images"),
        suppress(_TargetReached),
    ):
        # Hooks at one point run in the order given: what is read has been cropped.
        for point, box in (crops or {}).items():
            hooks += _watch(point, partial(crop, box))
        # A copy, since the network may begin with something in place.
        images = images.clone()
        if start is not None and start.module is None:
            images = read_through(images)
        elif start is not None:
            hooks += _watch(start, read_through)
        hooks += _watch(stop, read_target)
        module(images)
    if "target" not in maps or (start is not None and "through" not in maps):
        raise RuntimeError(
            f"{type(module).__name__}: the pass ended without reaching {stop.name!r}"
        )
    return ForwardResult(target=maps["target"], through=maps.get("through"))


def forward_many(
    module: nn.Module,
    images: Float[Tensor, "n bands h w"],
    targets: Sequence[ReadPoint],
    throughs: Sequence[ReadPoint],
    *,
    differentiate: bool = True,
    substitute: Callable[[str, Tensor], Tensor] | None = None,
) -> LayerMaps:
    """Read many layers in one pass.

    Args:
        module: the module.
        images: its own input.
        targets, throughs: where the layers are read.
        differentiate: keep the graph from the first through layer on.
        substitute: from a through layer's name and map makes the one that goes on in its place.
    Raises:
        ValueError: no through layer.
        RuntimeError: the pass ended without reaching all points.
    """
    if not throughs:
        raise ValueError("a record needs at least one through layer")
    first = min(throughs, key=lambda point: point.order)
    target_maps, through_maps = dict[str, Tensor](), dict[str, Tensor]()

    def read(maps: dict[str, Tensor], point: ReadPoint, tensor: Tensor) -> Tensor:
        hidden = as_map(tensor)
        if differentiate and maps is through_maps and point is first:
            # No path from a through layer to a target begins earlier.
            hidden = hidden.detach().clone().requires_grad_()
            torch.set_grad_enabled(True)
        if maps is through_maps and substitute is not None:
            hidden = substitute(point.name, hidden)
        maps[point.name] = hidden
        if len(target_maps) + len(through_maps) == len(targets) + len(throughs):
            raise _TargetReached
        # A copy goes on, since what follows may be a ReLU in place.
        return from_map(hidden, tensor).clone()

    with (
        _as_it_was(module),
        _hooks() as hooks,
        torch.inference_mode(False),
        torch.no_grad(),
        suppress(_TargetReached),
    ):
        images = images.clone()
        # Hooks at one point run in the order given: what is read last comes last.
        for maps, points in ((target_maps, targets), (through_maps, throughs)):
            for point in points:
                if point.module is None:
                    images = read(maps, point, images)
                else:
                    hooks += _watch(point, partial(read, maps, point))
        module(images)
    if len(target_maps) + len(through_maps) < len(targets) + len(throughs):
        raise RuntimeError(f"{type(module).__name__}: the pass ended without reaching all layers")
    return LayerMaps(targets=target_maps, throughs=through_maps)


def visit(
    module: nn.Module,
    images: Float[Tensor, "n bands h w"],
    layers: Mapping[str, nn.Module],
    do: Callable[[str, Tensor], None],
    *,
    last: ReadPoint | None = None,
) -> None:
    """Run a module, and hand each layer's name and output map to a function.

    Args:
        module: the module.
        images: its own input.
        layers: the modules to hand on, by name.
        do: called with the name and the map after each call.
        last: where the pass ends; None runs all of it.
    """
    final = None if last is None else last.name.partition("#")[0]
    calls = count(1)

    def after(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        do(name, as_map(output))
        if last is not None and name == final and next(calls) == last.call:
            raise _TargetReached

    with (
        _as_it_was(module),
        _hooks() as hooks,
        torch.inference_mode(False),
        torch.no_grad(),
        suppress(_TargetReached),
    ):
        for name, layer in layers.items():
            hooks.append(layer.register_forward_hook(partial(after, name)))
        module(images.clone())


def _watch(point: ReadPoint, do: Callable[[Tensor], Tensor | None]) -> list[Any]:
    """Hooks that hand a point's tensor to `do`, which may give another back."""
    assert point.module is not None
    calls = count(1)

    def before(
        _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if next(calls) != point.call:
            return None
        given = do(inputs[0] if inputs else named["input"])
        if given is None:
            return None
        return ((given, *inputs[1:]), named) if inputs else (inputs, {**named, "input": given})

    def after(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        return do(output) if next(calls) == point.call else None

    if point.at == "input":
        return [point.module.register_forward_pre_hook(before, with_kwargs=True)]
    return [point.module.register_forward_hook(after)]


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    """A list of hook handles, all of which are removed at the end."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's own mode, grad mode and random state come back."""
    training = [submodule for submodule in module.modules() if submodule.training]
    gradients = torch.is_grad_enabled()
    for submodule in training:
        submodule.training = False
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_grad_enabled(gradients)
        for submodule in training:
            submodule.training = True
