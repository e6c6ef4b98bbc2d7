"""A model, its layers by name, its preprocessing, and how to run it. The only file with hooks."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from opponent.core.feature import Feature
from opponent.models.activations import ACTIVATIONS

LOGITS = "logits"  # the network's output
PIXELS = "pixels"  # the network's input, after preprocessing

# ImageNet's statistics, those of torchvision's classifiers.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes the network's input.

    Args:
        size: (height, width) of the input, in pixels.
        resize: the short side before the centre crop; None is the smallest that covers `size`.
        mean, std: a channel's mean and standard deviation, for pixels in [0, 1].
        draft: decode JPEGs that are far larger than that at fewer pixels. Faster, and activations
            differ a little: by 2 to 7 % where an input saved as JPEG once more differs by 7 to 19.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    draft: bool = False

    def normalise(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The network's input from pixels in [0, 1]."""
        mean, std = (images.new_tensor(x).view(3, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std

    def from_bytes(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """The network's input, in float32, from decoded images."""
        return self.normalise(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer as one forward pass shows it.

    Args:
        name: its `named_modules()` path.
        kind: the module's class.
        shape: (channels, height, width) of its output at the network's input size; a vector is
            (channels, 1, 1), tokens are (channels, tokens, 1).
        calls: how often one pass calls it. 'NAME#1' is its first call; NAME alone is the last.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    calls: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where one tensor is read: a module's input or output, in its k-th call of a pass."""

    name: str
    module: nn.Module | None
    side: Literal["input", "output"]
    call: int
    order: int


@dataclass(frozen=True, kw_only=True)
class ForwardResult:
    """What a pass read: the target's map and, if one was asked for, the through layer's."""

    target: Float[Tensor, "n c h w"]
    through: Float[Tensor, "n k y x"] | None


@dataclass(frozen=True, kw_only=True)
class LayerMaps:
    """What one pass read at many layers, with the graph between them, as (n, c, h, w) maps."""

    targets: Mapping[str, Float[Tensor, "n ..."]]
    throughs: Mapping[str, Float[Tensor, "n ..."]]


class _Reached(BaseException):
    """Ends a forward pass at the target. Not an Exception, so that no model swallows it."""


@dataclass(frozen=True)
class _Call:
    """One call of one module in a traced pass: when it began, when it ended, what it gave."""

    name: str
    began: int
    ended: int
    shape: tuple[int, ...] | None


class Network:
    """A vision network with its layers by name and its preprocessing.

    Args:
        module: any `nn.Module` that maps images (n, 3, height, width) to a tensor.
        preprocessing: input size and range; default: 224 x 224 with ImageNet's statistics.
        name: what results call it; default: the module's class.
        classes: the logits' names, in order.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        preprocessing: Preprocessing | None = None,
        name: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.module = module
        self.preprocessing = preprocessing or Preprocessing()
        self.name = name or type(module).__name__
        self.classes = tuple(classes) if classes is not None else None
        self.weights_file: Path | None = None  # where `load` read the weights, if from a file

    def __repr__(self) -> str:
        return f"Network({self.name!r})"

    @property
    def device(self) -> torch.device:
        """Where the network's first parameter lies; the CPU if it has none."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's first parameter; float32 if it has none."""
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    def weights_sha256(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            if not isinstance(value, Tensor):
                continue
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def class_name(self, unit: int) -> str | None:
        """The name of a logit, where the network has names."""
        return self.classes[unit] if self.classes and unit < len(self.classes) else None

    # Layers by name

    @cached_property
    def _trace(self) -> tuple[_Call, ...]:
        """The calls of one forward pass, in the order in which they end."""
        clock, begun, calls = iter(range(10**9)), dict[str, list[int]](), list[_Call]()

        def begin(name: str, *_: Any) -> None:
            begun.setdefault(name, []).append(next(clock))

        def end(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            calls.append(_Call(name, begun[name].pop(), next(clock), shape))

        inputs = torch.zeros(1, 3, *self.preprocessing.size, device=self.device, dtype=self.dtype)
        with _as_found(self.module), torch.no_grad(), _hooks() as hooks:
            for name, module in self.module.named_modules():
                hooks.append(module.register_forward_pre_hook(partial(begin, name)))
                hooks.append(module.register_forward_hook(partial(end, name)))
            self.module(inputs)
        return tuple(calls)

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        """Every layer that gives a tensor, by name, in the order of the forward pass."""
        modules, layers = self._modules, dict[str, Layer]()
        counts = Counter(call.name for call in self._trace)
        for call in self._trace:
            if call.shape is None or not 2 <= len(call.shape) <= 4:
                continue
            name = call.name or (LOGITS if LOGITS not in modules else "")
            layers.pop(name, None)  # the last call gives the place in the order
            layers[name] = Layer(
                name=name,
                kind=type(modules[call.name]).__name__,
                shape=_map_shape(call.shape),
                calls=counts[call.name],
            )
        return layers

    def layer(self, name: str) -> Layer:
        """The layer of that name ('NAME#2' for its second call).

        Raises:
            ValueError: no such layer; the message lists the nearest names.
        """
        plain, _, number = name.partition("#")
        if plain in self.layers:
            layer = self.layers[plain]
            return self._called(layer, name, number) if "#" in name else layer
        near = difflib.get_close_matches(plain, self.layers, n=5, cutoff=0.5)
        near += [x for x in self.layers if plain.lower() in x.lower() and x not in near]
        hint = f"; did you mean {', '.join(near[:5])}?" if near else ""
        raise ValueError(
            f"{self.name} has no layer {plain!r}{hint} (`opponent layers` lists them all)"
        )

    def _called(self, layer: Layer, name: str, number: str) -> Layer:
        """The layer with the shape of one of its calls."""
        if not number.isdecimal() or not 1 <= int(number) <= layer.calls:
            raise ValueError(f"{name!r}: {layer.name} is called {layer.calls} times in a pass")
        shape = self._times(layer.name)[int(number) - 1].shape
        if shape is None or not 2 <= len(shape) <= 4:
            raise ValueError(f"{name!r}: that call does not give a tensor with 2 to 4 axes")
        return replace(layer, shape=_map_shape(shape))

    def _times(self, name: str) -> list[_Call]:
        """A layer's calls, in the order in which they begin."""
        return sorted((x for x in self._trace if x.name == self._path(name)), key=lambda x: x.began)

    def _path(self, name: str) -> str:
        """The `named_modules()` path of a layer: empty for the network itself."""
        return "" if name == LOGITS and LOGITS not in self._modules else name

    def target_point(self, name: str) -> Point:
        """Where a target is read: an activation function at its input, all else at its output."""
        return self._point(name, target=True)

    def through_point(self, name: str) -> Point:
        """Where a through layer is read: at its output; 'pixels' is the network's input."""
        if name == PIXELS:
            return Point(name=name, module=None, side="output", call=1, order=-1)
        return self._point(name, target=False)

    def _point(self, name: str, *, target: bool) -> Point:
        layer = self.layer(name)
        module, times = self._modules[self._path(layer.name)], self._times(layer.name)
        call = int(name.partition("#")[2] or layer.calls)
        if target and isinstance(module, ACTIVATIONS):
            order = times[call - 1].began
            return Point(name=name, module=module, side="input", call=call, order=order)
        order = times[call - 1].ended
        return Point(name=name, module=module, side="output", call=call, order=order)

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.module.named_modules())

    def check(self, target: str, through: str) -> None:
        """Check that the through layer lies before the target.

        Raises:
            ValueError: an unknown name, or a through layer at or after the target.
        """
        order = self.target_point(target).order
        if self.through_point(through).order >= order:
            parts = self._modules
            earlier = [
                name
                for name in self.layers
                if self.through_point(name).order < order
                and _is_block(parts.get(name, self.module))
            ]
            raise ValueError(
                f"through {through!r} does not lie before the target {target!r}; "
                f"the layers just before it: {', '.join(earlier[-5:]) or PIXELS}"
            )

    def resolve(self, feature: Feature | str) -> Feature:
        """The feature with its position written out, checked against its layer.

        Raises:
            ValueError: an unknown layer, or a unit, vector or position that does not fit it.
        """
        feature = Feature.of(feature)
        return feature.placed(*self.layer(feature.layer).shape)

    def map_shape(self, name: str) -> tuple[int, int, int]:
        """(channels, height, width) of a through layer, or of the pixels."""
        return (3, *self.preprocessing.size) if name == PIXELS else self.layer(name).shape

    # Running

    def inputs(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """The network's own input from decoded images, where and of what type it computes."""
        inputs = self.preprocessing.from_bytes(images)
        return inputs.to(device=self.device, dtype=self.dtype)

    def run(
        self,
        images: Float[Tensor, "n 3 h w"],
        target: str,
        through: str | None = None,
        *,
        after: bool = False,
        differentiate: Literal["target", "images"] | None = None,
        substitute: Callable[[Tensor], Tensor] | None = None,
        crops: Mapping[str, tuple[slice, slice]] | None = None,
    ) -> ForwardResult:
        """Run the network up to the target and no further.

        Args:
            images: the network's own input, preprocessed.
            target: the layer to stop at; a ReLU is read at its input.
            through: an earlier layer to read on the way; a ReLU is read at its output.
            after: read the target at its output, even if it is a ReLU.
            differentiate: 'target' makes the through layer a leaf that the target depends on, and
                runs all before it without gradients; 'images' keeps the graph from the images to
                the through layer, and runs all after it without; None keeps no graph.
            substitute: from the through layer's map makes the one that goes on in its place.
            crops: for some layers, the rows and columns of their maps that go on.
        Returns:
            Both maps as (n, channels, rows, columns). Vectors are 1 x 1 maps; tokens are columns of
            rows.
        Raises:
            ValueError: a layer is unknown, or `through` does not lie before `target`.
        """
        stop = self._point(target, target=not after)
        start = None if through is None else self.through_point(through)
        if start is not None:
            self.check(target, start.name)
        found: dict[str, Tensor] = {}

        def read_through(tensor: Tensor) -> Tensor:
            layer = as_map(tensor)
            if substitute is not None:
                layer = substitute(layer)
            if differentiate == "target":
                layer = layer.detach().clone().requires_grad_()
            found["through"] = layer
            torch.set_grad_enabled(differentiate == "target")
            # A copy goes on, since what follows may be a ReLU in place.
            return from_map(layer, tensor).clone()

        def read_target(tensor: Tensor) -> None:
            found["target"] = as_map(tensor)
            raise _Reached

        def crop(part: tuple[slice, slice], tensor: Tensor) -> Tensor:
            return from_map(as_map(tensor)[:, :, *part], tensor)

        with (
            _as_found(self.module),
            _hooks() as hooks,
            torch.inference_mode(False),
            torch.set_grad_enabled(differentiate == "images"),
            suppress(_Reached),
        ):
            # Hooks at one point run in the order given: what is read has been cropped.
            for name, part in (crops or {}).items():
                hooks += _watch(self.through_point(name), partial(crop, part))
            # A copy, since the network may begin with something in place.
            images = images.clone()
            if start is not None and start.module is None:
                images = read_through(images)
            elif start is not None:
                hooks += _watch(start, read_through)
            hooks += _watch(stop, read_target)
            self.module(images)
        if found.keys() < {"target"} | ({"through"} if through else set()):
            raise RuntimeError(f"{self.name}: the pass ended without reaching {target!r}")
        return ForwardResult(target=found["target"], through=found.get("through"))

    def record(
        self,
        images: Float[Tensor, "n 3 h w"],
        *,
        targets: Sequence[str],
        throughs: Sequence[str],
        substitute: Callable[[str, Tensor], Tensor] | None = None,
    ) -> LayerMaps:
        """Read many layers in one pass, which keeps the graph from the first through layer on.

        Args:
            images: the network's own input, preprocessed.
            targets: layers that are read as targets; a ReLU at its input.
            throughs: layers that are read as through layers; a ReLU at its output.
            substitute: from a through layer's name and map makes the one that goes on in its place.
        Returns:
            Maps that a gradient of any target can be taken for, by any through layer before it.
        Raises:
            ValueError: an unknown layer, or no through layer.
        """
        ends = {name: self.target_point(name) for name in targets}
        starts = {name: self.through_point(name) for name in throughs}
        if not starts:
            raise ValueError("a record needs at least one through layer")
        first = min(starts, key=lambda name: starts[name].order)
        found: dict[str, dict[str, Tensor]] = {"targets": {}, "throughs": {}}

        def read(kind: str, name: str, tensor: Tensor) -> Tensor:
            layer = as_map(tensor)
            if (kind, name) == ("throughs", first):
                # No path from a through layer to a target begins earlier.
                layer = layer.detach().clone().requires_grad_()
                torch.set_grad_enabled(True)
            if kind == "throughs" and substitute is not None:
                layer = substitute(name, layer)
            found[kind][name] = layer
            if len(found["targets"]) + len(found["throughs"]) == len(ends) + len(starts):
                raise _Reached
            # A copy goes on, since what follows may be a ReLU in place.
            return from_map(layer, tensor).clone()

        with (
            _as_found(self.module),
            _hooks() as hooks,
            torch.inference_mode(False),
            torch.no_grad(),
            suppress(_Reached),
        ):
            images = images.clone()
            # Hooks at one point run in the order given: what is read last comes last.
            for kind, points in (("targets", ends), ("throughs", starts)):
                for name, point in points.items():
                    if point.module is None:
                        images = read(kind, name, images)
                    else:
                        hooks += _watch(point, partial(read, kind, name))
            self.module(images)
        read_all = found["targets"].keys() == ends.keys()
        if not read_all or found["throughs"].keys() != starts.keys():
            raise RuntimeError(f"{self.name}: the pass ended without reaching all layers")
        return LayerMaps(**found)

    def visit(
        self,
        images: Float[Tensor, "n 3 h w"],
        do: Callable[[str, Tensor], None],
        *,
        until: str | None = None,
    ) -> None:
        """Run the network, handing each layer's name and output map to `do`, up to a layer's."""
        last = None if until is None else self._point(until, target=False)
        final = None if last is None else last.name.partition("#")[0]
        calls = iter(range(1, 10**9))

        def after(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
            do(name, as_map(output))
            if last is not None and name == final and next(calls) == last.call:
                raise _Reached

        with (
            _as_found(self.module),
            _hooks() as hooks,
            torch.inference_mode(False),
            torch.no_grad(),
            suppress(_Reached),
        ):
            for name in self.layers:
                hook = partial(after, name)
                hooks.append(self._modules[self._path(name)].register_forward_hook(hook))
            self.module(images.clone())


def as_map(tensor: Tensor) -> Float[Tensor, "n c h w"]:
    """A layer's output as maps: vectors (n, c) and tokens (n, t, c) get rows and columns.

    Raises:
        ValueError: the output has another number of axes.
    """
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim == 3:
        return tensor.movedim(2, 1)[..., None]
    if tensor.ndim == 2:
        return tensor[..., None, None]
    raise ValueError(f"a layer's output must have 2 to 4 axes, got shape {tuple(tensor.shape)}")


def from_map(maps: Float[Tensor, "n c h w"], like: Tensor) -> Tensor:
    """The inverse of `as_map`, for an output with as many axes as `like`."""
    if like.ndim == 3:
        return maps.squeeze(3).movedim(1, 2)
    return maps.flatten(1) if like.ndim == 2 else maps


def _is_block(module: nn.Module) -> bool:
    """Activation functions, and what is made of parts: what a through layer mostly is."""
    return isinstance(module, ACTIVATIONS) or any(True for _ in module.children())


def _map_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = as_map(torch.empty(shape, device="meta")).shape[1:]
    return channels, height, width


def _watch(point: Point, do: Callable[[Tensor], Tensor | None]) -> list[Any]:
    """Hooks that hand a point's tensor to `do`, which may give another back."""
    assert point.module is not None
    calls = iter(range(1, 10**9))

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

    if point.side == "input":
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
def _as_found(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's own mode, grad mode and random state come back."""
    training = [part for part in module.modules() if part.training]
    gradients = torch.is_grad_enabled()
    for part in training:
        part.training = False
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_grad_enabled(gradients)
        for part in training:
            part.training = True
