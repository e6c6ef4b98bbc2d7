"""One pass through a module, up to a target and no further. The only file with hooks."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.core.box import Box
from opponent.models.batch_norm import mend_batch_norm
from opponent.models.layout import Layout
from opponent.models.outputs import main_tensor, with_main_tensor
from opponent.models.state import as_it_was

# What a pass keeps a graph of: from the through layer to the target, or from the images on.
Differentiate = Literal["target", "images"]
MAPS = Layout(axes="nchw")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A module, and how it is called.

    Args:
        module: the module.
        call: takes the module and the images; None calls the module with the images.
    """

    module: nn.Module
    call: Callable[[nn.Module, Tensor], object] | None = None

    def __call__(self, images: Tensor) -> object:
        return self.module(images) if self.call is None else self.call(self.module, images)


@dataclass(frozen=True, kw_only=True)
class ReadPoint:
    """Where one tensor is read: a module's input or output, in its k-th call of a pass.

    Args:
        name: the layer's name.
        module: the module; None for the pixels and for what the whole network gives.
        at: its input or its output.
        call: k, from 1.
        order: when in a pass, in ticks; -1 for the pixels.
        layout: which axis of the tensor is which.
    """

    name: str
    module: nn.Module | None
    at: Literal["input", "output"]
    call: int
    order: int
    layout: Layout = field(default=MAPS)

    @property
    def is_input(self) -> bool:
        """Whether it is the network's own input."""
        return self.module is None and self.at == "input"

    @property
    def is_result(self) -> bool:
        """Whether it is what the network gives."""
        return self.module is None and self.at == "output"


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
        name: the module's name; empty for the whole network.
        number: which of its calls it is, from 1.
        began: when it began, in ticks of the pass.
        ended: when it ended, in the same ticks.
    """

    name: str
    number: int
    began: int
    ended: int


def trace(
    model: Model, inputs: Tensor, look: Callable[[Call, Tensor | None, Tensor | None], None]
) -> tuple[Call, ...]:
    """The calls of all modules in one forward pass, in the order in which they end.

    Args:
        model: the module, and how it is called.
        inputs: its own input.
        look: called after each call with the main tensors of what it gave and of what it was given,
            None where there is none. The last call is that of the whole network.
    """
    clock, begun, calls = count(), dict[str, list[tuple[int, int]]](), list[Call]()
    numbers = Counter[str]()

    def begin(name: str, *_: object) -> None:
        numbers[name] += 1
        begun.setdefault(name, []).append((numbers[name], next(clock)))

    def end(name: str, _module: nn.Module | None, given: object, output: object) -> None:
        number, began = begun[name].pop()
        calls.append(Call(name, number, began, next(clock)))
        look(calls[-1], main_tensor(output), main_tensor(given))

    with as_it_was(model.module), torch.no_grad(), _hooks() as hooks:
        for name, layer in model.module.named_modules():
            if layer is not model.module:
                hooks.append(layer.register_forward_pre_hook(partial(begin, name)))
                hooks.append(layer.register_forward_hook(partial(end, name)))
        begin("")
        # A copy, since the network may begin with something in place.
        end("", None, None, model(inputs.clone()))
    return tuple(calls)


def forward(
    model: Model,
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
        model: the module, and how it is called.
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
        assert start is not None
        hidden = start.layout.to_map(tensor)
        if substitute is not None:
            hidden = substitute(hidden)
        if differentiate == "target":
            hidden = hidden.detach().clone().requires_grad_()
        maps["through"] = hidden
        if differentiate == "images":
            torch.set_grad_enabled(False)  # nothing that follows is differentiated
        # A copy goes on, since what follows may be a ReLU in place.
        return start.layout.from_map(hidden).clone()

    def read_target(tensor: Tensor) -> None:
        maps["target"] = stop.layout.to_map(tensor)
        raise _TargetReached

    def crop(point: ReadPoint, box: Box, tensor: Tensor) -> Tensor:
        return point.layout.from_map(point.layout.to_map(tensor)[:, :, *box.slices])

    with (
        as_it_was(model.module),
        _hooks() as hooks,
        torch.inference_mode(False),
        torch.set_grad_enabled(differentiate is not None),
        suppress(_TargetReached),
    ):
        # Hooks at one point run in the order given: what is read has been cropped.
        for point, box in (crops or {}).items():
            hooks += _watch(point, partial(crop, point, box))
        # A copy, since the network may begin with something in place.
        images = (images if differentiate == "images" else images.detach()).clone()
        if start is not None and start.is_input:
            images = read_through(images)
        elif start is not None:
            hooks += _watch(start, read_through)
        if not stop.is_result:
            hooks += _watch(stop, read_target)
        result = model(images)
        if stop.is_result:
            read_target(_main(model, result))
    if "target" not in maps or (start is not None and "through" not in maps):
        raise RuntimeError(
            f"{type(model.module).__name__}: the pass ended without reaching {stop.name!r}"
        )
    if differentiate is not None:
        mend_batch_norm(maps["target"])
    return ForwardResult(target=maps["target"], through=maps.get("through"))


def forward_many(
    model: Model,
    images: Float[Tensor, "n bands h w"],
    targets: Sequence[ReadPoint],
    throughs: Sequence[ReadPoint],
    *,
    differentiate: bool = True,
    substitute: Callable[[str, Tensor], Tensor] | None = None,
    as_maps: bool = True,
) -> LayerMaps:
    """Read many layers in one pass.

    Args:
        model: the module, and how it is called.
        images: its own input.
        targets, throughs: where the layers are read.
        differentiate: keep the graph from the first through layer on.
        substitute: from a through layer's name and map makes the one that goes on in its place.
        as_maps: False gives the layers' own tensors, whatever their layout.
    Raises:
        ValueError: no through layer.
        RuntimeError: the pass ended without reaching all points.
    """
    if not throughs:
        raise ValueError("a record needs at least one through layer")
    first = min(throughs, key=lambda point: point.order)
    target_maps, through_maps = dict[str, Tensor](), dict[str, Tensor]()

    def read(maps: dict[str, Tensor], point: ReadPoint, tensor: Tensor) -> Tensor:
        hidden = point.layout.to_map(tensor) if as_maps else tensor
        if differentiate and maps is through_maps and point is first:
            # No path from a through layer to a target begins earlier.
            hidden = hidden.detach().clone().requires_grad_()
        if maps is through_maps and substitute is not None:
            hidden = substitute(point.name, hidden)
        maps[point.name] = hidden
        if len(target_maps) + len(through_maps) == len(targets) + len(throughs):
            raise _TargetReached
        # A copy goes on, since what follows may be a ReLU in place.
        return (point.layout.from_map(hidden) if as_maps else hidden).clone()

    with (
        as_it_was(model.module),
        _hooks() as hooks,
        torch.inference_mode(False),
        torch.set_grad_enabled(differentiate),
        suppress(_TargetReached),
    ):
        images, at_end = images.detach().clone(), list[tuple[dict[str, Tensor], ReadPoint]]()
        # Hooks at one point run in the order given: what is read last comes last.
        for maps, points in ((target_maps, targets), (through_maps, throughs)):
            for point in points:
                if point.is_input:
                    images = read(maps, point, images)
                elif point.is_result:
                    at_end.append((maps, point))
                else:
                    hooks += _watch(point, partial(read, maps, point))
        result = model(images)
        for maps, point in at_end:
            read(maps, point, _main(model, result))
    if len(target_maps) + len(through_maps) < len(targets) + len(throughs):
        name = type(model.module).__name__
        raise RuntimeError(f"{name}: the pass ended without reaching all layers")
    for tensor in target_maps.values() if differentiate else ():
        mend_batch_norm(tensor)
    return LayerMaps(targets=target_maps, throughs=through_maps)


def visit(
    model: Model,
    images: Float[Tensor, "n bands h w"],
    points: Sequence[ReadPoint],
    do: Callable[[ReadPoint, Tensor], None],
) -> None:
    """Run a module, and hand the map of each of some points to a function, up to the last of them.

    Args:
        model: the module, and how it is called.
        images: its own input.
        points: where layers are read.
        do: called with the point and its map.
    """
    last = max(points, key=lambda point: point.order)

    def read(point: ReadPoint, tensor: Tensor) -> None:
        do(point, point.layout.to_map(tensor))
        if point is last:
            raise _TargetReached

    with (
        as_it_was(model.module),
        _hooks() as hooks,
        torch.inference_mode(False),
        torch.no_grad(),
        suppress(_TargetReached),
    ):
        for point in points:
            if not point.is_result:
                hooks += _watch(point, partial(read, point))
        result = model(images.clone())
        for point in points:
            if point.is_result:
                read(point, _main(model, result))


def _main(model: Model, result: Any) -> Tensor:
    """The main tensor of what the network gives."""
    tensor = main_tensor(result)
    if tensor is None:
        raise RuntimeError(f"{type(model.module).__name__} gives no tensor but {type(result)}")
    return tensor


def _watch(point: ReadPoint, do: Callable[[Tensor], Tensor | None]) -> list[Any]:
    """Hooks that hand a point's tensor to `do`, which may give another back."""
    assert point.module is not None
    calls = count(1)

    def before(
        _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if next(calls) != point.call:
            return None
        key = None if inputs else next(iter(named))
        given = do(inputs[0] if key is None else named[key])
        if given is None:
            return None
        return ((given, *inputs[1:]), named) if key is None else (inputs, {**named, key: given})

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensor = main_tensor(output) if next(calls) == point.call else None
        changed = None if tensor is None else do(tensor)
        return None if changed is None else with_main_tensor(output, changed)

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
def changing(module: nn.Module, change: Callable[[str, bool, Tensor], Tensor]) -> Iterator[None]:
    """While active, other tensors go into and out of each module that has no modules in it.

    `change` makes them, of the module's name, whether it is its output, and the tensor.
    """

    def before(name: str, _module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = given and isinstance(given[0], Tensor)
        return (change(name, False, given[0]), *given[1:]) if changed else None

    def after(name: str, _module: nn.Module, _given: Any, output: Any) -> Any:
        tensor = main_tensor(output)
        return None if tensor is None else with_main_tensor(output, change(name, True, tensor))

    with _hooks() as hooks:
        for name, part in module.named_modules():
            if not [*part.children()]:
                hooks.append(part.register_forward_pre_hook(partial(before, name)))
                hooks.append(part.register_forward_hook(partial(after, name)))
        yield
