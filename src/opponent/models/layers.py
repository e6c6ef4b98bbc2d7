"""The layers of a module by name, as one forward pass shows them, and where each is read."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from opponent.models.activations import ACTIVATIONS
from opponent.models.forward import Call, ReadPoint, trace
from opponent.models.layout import has_map, map_shape

LOGITS = "logits"  # the network's output
PIXELS = "pixels"  # the network's input, after preprocessing


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


class Layers(Mapping[str, Layer]):
    """Every layer of a module that gives a tensor, by name, in the order of the forward pass.

    Args:
        module: the module.
        inputs: one image of its own input, with which the layers are traced.
        owner: what messages call the module.
    """

    def __init__(self, module: nn.Module, inputs: Float[Tensor, "1 bands h w"], owner: str) -> None:
        self._owner = owner
        self._modules: dict[str, nn.Module] = dict(module.named_modules())
        self._calls = trace(module, inputs)
        self._layers = self._in_order()

    def _in_order(self) -> dict[str, Layer]:
        layers = dict[str, Layer]()
        counts = Counter(call.name for call in self._calls)
        for call in self._calls:
            if call.shape is None or not has_map(call.shape):
                continue
            name = call.name or (LOGITS if LOGITS not in self._modules else "")
            layers.pop(name, None)  # the last call gives the place in the order
            layers[name] = Layer(
                name=name,
                kind=type(self._modules[call.name]).__name__,
                shape=map_shape(call.shape),
                calls=counts[call.name],
            )
        return layers

    def __getitem__(self, name: str) -> Layer:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"Layers({self._owner!r}: {len(self)} layers)"

    def find(self, name: str) -> Layer:
        """The layer of that name ('NAME#2' for its second call).

        Raises:
            ValueError: no such layer; the message lists the nearest names.
        """
        plain, _, number = name.partition("#")
        if plain in self._layers:
            layer = self._layers[plain]
            return self._called(layer, name, number) if "#" in name else layer
        near = difflib.get_close_matches(plain, self._layers, n=5, cutoff=0.5)
        near += [x for x in self._layers if plain.lower() in x.lower() and x not in near]
        hint = f"; did you mean {', '.join(near[:5])}?" if near else ""
        raise ValueError(
            f"{self._owner} has no layer {plain!r}{hint} (`opponent layers` lists them all)"
        )

    def _called(self, layer: Layer, name: str, number: str) -> Layer:
        """The layer with the shape of one of its calls."""
        if not number.isdecimal() or not 1 <= int(number) <= layer.calls:
            raise ValueError(f"{name!r}: {layer.name} is called {layer.calls} times in a pass")
        shape = self._calls_of(layer.name)[int(number) - 1].shape
        if shape is None or not has_map(shape):
            raise ValueError(f"{name!r}: that call does not give a tensor with 2 to 4 axes")
        return replace(layer, shape=map_shape(shape))

    def _calls_of(self, name: str) -> list[Call]:
        """A layer's calls, in the order in which they begin."""
        calls = (call for call in self._calls if call.name == self._path(name))
        return sorted(calls, key=lambda call: call.began)

    def _path(self, name: str) -> str:
        """The `named_modules()` path of a layer: empty for the network itself."""
        return "" if name == LOGITS and LOGITS not in self._modules else name

    def module(self, name: str) -> nn.Module:
        """The module of a layer."""
        return self._modules[self._path(name)]

    def target_point(self, name: str) -> ReadPoint:
        """Where a target is read: an activation function at its input, all else at its output."""
        layer, call = self._call(name)
        module, time = self.module(layer.name), self._calls_of(layer.name)[call - 1]
        if not isinstance(module, ACTIVATIONS):
            return self.output_point(name)
        return ReadPoint(name=name, module=module, at="input", call=call, order=time.began)

    def output_point(self, name: str) -> ReadPoint:
        """Where a layer's output is read."""
        layer, call = self._call(name)
        module, time = self.module(layer.name), self._calls_of(layer.name)[call - 1]
        return ReadPoint(name=name, module=module, at="output", call=call, order=time.ended)

    def through_point(self, name: str) -> ReadPoint:
        """Where a through layer is read: at its output; 'pixels' is the network's input."""
        if name == PIXELS:
            return ReadPoint(name=name, module=None, at="output", call=1, order=-1)
        return self.output_point(name)

    def _call(self, name: str) -> tuple[Layer, int]:
        """A layer, and the number of its call that a name means."""
        layer = self.find(name)
        return layer, int(name.partition("#")[2] or layer.calls)

    def check(self, target: str, through: str) -> None:
        """Check that the through layer lies before the target.

        Raises:
            ValueError: an unknown name, or a through layer at or after the target.
        """
        order = self.target_point(target).order
        if self.through_point(through).order < order:
            return
        earlier = [
            name
            for name in self._layers
            if self.output_point(name).order < order and _is_block(self.module(name))
        ]
        raise ValueError(
            f"through {through!r} does not lie before the target {target!r}; "
            f"the layers just before it: {', '.join(earlier[-5:]) or PIXELS}"
        )


def _is_block(module: nn.Module) -> bool:
    """Whether a through layer is mostly of that kind: an activation function, or a container."""
    return isinstance(module, ACTIVATIONS) or any(True for _ in module.children())
