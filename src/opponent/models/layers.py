"""The layers of a module by name, as one forward pass shows them, and where each is read."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.core.box import Box
from opponent.core.errors import UnknownLayout
from opponent.core.feature import Feature
from opponent.models.activations import is_activation
from opponent.models.axes import LOGITS, Output, outputs, pools_class_token
from opponent.models.forward import Call, Model, ReadPoint
from opponent.models.layout import Layout

PIXELS = "pixels"  # the network's input, after preprocessing


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer as one forward pass shows it.

    Args:
        name: its `named_modules()` path.
        kind: the module's class.
        shape: (channels, height, width) of its output at the network's input size: of tokens, of
            the grid in which they lie on the image; a vector is (channels, 1, 1).
        calls: how often one pass calls it. 'NAME#1' is its first call; NAME alone is the last.
        tokens: names of the tokens that lie nowhere on the image, such as 'cls'.
        layout: which axis of the output is which, such as 'n h w c'.
        placement: the pixel (row, column) that the map's first element belongs to, and the steps to
            the next ones; None where there are none.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    calls: int
    tokens: tuple[str, ...] = ()
    layout: str = "n c h w"
    placement: tuple[float, float, float, float] | None = None

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of its maps, which have the `tokens` in rows below the grid."""
        channels, height, width = self.shape
        return channels, height - (-len(self.tokens) // width), width

    @property
    def grid(self) -> Box:
        """The box of its maps that lies on the image."""
        return Box.full(self.shape[1:])


class Layers(Mapping[str, Layer]):
    """Every layer of a module that can be read, by name, in the order of the forward pass.

    Args:
        model: the module, and how it is called.
        image: noise as its own input, with which the layers are traced.
        owner: what messages call the module.
        said: layouts that the user gives, by patterns of names.
    Raises:
        ValueError: the network does not take such an image, or a layout is no layout.
    """

    def __init__(
        self,
        model: Model,
        image: Float[Tensor, "1 bands h w"],
        owner: str,
        said: Mapping[str, str] | None = None,
    ) -> None:
        self._owner = owner
        self._modules: dict[str, nn.Module] = dict(model.module.named_modules())
        self._activations = dict[str, bool]()
        found, self._calls = outputs(model, image, said or {})
        self._outputs = {(x.call.name, x.call.number): x for x in found}
        self._by_name = dict[str, list[Call]]()
        for call in sorted(self._calls, key=lambda call: call.began):
            self._by_name.setdefault(call.name, []).append(call)
        self._pools_class_token = pools_class_token(found)
        self._layers, self.refused = self._in_order()

    def _in_order(self) -> tuple[dict[str, Layer], dict[str, str]]:
        """The layers that can be read, and why the others cannot."""
        layers, refused = dict[str, Layer](), dict[str, str]()
        counts = Counter(call.name for call in self._calls)
        for call in self._calls:
            name = call.name or (LOGITS if LOGITS not in self._modules else "")
            output = self._outputs.get((call.name, call.number))
            layers.pop(name, None)  # the last call gives the place in the order
            refused.pop(name, None)
            if output is None:
                refused[name] = "it gives no tensor of real numbers"
            elif output.layout is None:
                refused[name] = output.reason or "its axes are not known"
            else:
                layers[name] = self._described(name, output, output.layout, counts[call.name])
        return layers, refused

    def _described(self, name: str, output: Output, layout: Layout, calls: int) -> Layer:
        channels = layout.shape(output.shape)[0]
        box = layout.grid_box(output.shape)
        return Layer(
            name=name,
            kind=type(self._modules[output.call.name]).__name__,
            shape=(channels, box.height, box.width),
            calls=calls,
            tokens=layout.names,
            layout=layout.text,
            placement=output.placement,
        )

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
            UnknownLayout: a layer whose axes are not known; the message says how to tell them.
            ValueError: no such layer; the message lists the nearest names.
        """
        plain, _, number = name.partition("#")
        if "#" in name and (plain in self._layers or plain in self.refused):
            return self._called(plain, name, number)
        if plain in self._layers:
            return self._layers[plain]
        if plain in self.refused:
            raise self._unreadable(plain, self.refused[plain])
        near = difflib.get_close_matches(plain, self._layers, n=5, cutoff=0.5)
        near += [x for x in self._layers if plain.lower() in x.lower() and x not in near]
        hint = f"; did you mean {', '.join(near[:5])}?" if near else ""
        raise ValueError(
            f"{self._owner} has no layer {plain!r}{hint} (`opponent layers` lists them all)"
        )

    def _unreadable(self, name: str, reason: str) -> UnknownLayout:
        hint = ""
        if "is not known" in reason or "spread over" in reason:
            hint = f"; say which: Network(..., layout={{{name!r}: 'n c h w'}})"
        return UnknownLayout(f"{self._owner}: layer {name!r} cannot be read: {reason}{hint}")

    def _called(self, plain: str, name: str, number: str) -> Layer:
        """The layer with the shape of one of its calls."""
        calls = self._calls_of(plain)
        if not number.isdecimal() or not 1 <= int(number) <= len(calls):
            raise ValueError(f"{name!r}: {plain} is called {len(calls)} times in a pass")
        output = self._outputs.get((self._path(plain), int(number)))
        if output is None:
            raise UnknownLayout(f"{name!r}: that call gives no tensor of real numbers")
        if output.layout is None:
            raise self._unreadable(name, output.reason or "")
        return self._described(plain, output, output.layout, len(calls))

    def _calls_of(self, name: str) -> list[Call]:
        """A layer's calls, in the order in which they begin."""
        return self._by_name.get(self._path(name), [])

    def _path(self, name: str) -> str:
        """The `named_modules()` path of a layer: empty for the network itself."""
        return "" if name == LOGITS and LOGITS not in self._modules else name

    def module(self, name: str) -> nn.Module:
        """The module of a layer."""
        return self._modules[self._path(name)]

    def place(self, feature: Feature) -> Feature:
        """The feature with its position written out, checked against its layer.

        Where the feature names none, it is the class token, if the network's answer comes from it,
        and else the centre.

        Raises:
            ValueError: an unknown layer, or a unit, vector, token or position that does not fit it.
        """
        layer = self.find(feature.layer)
        token = feature.token
        if token is None and feature.position is None and self._pools_class_token:
            token = next((x for x in layer.tokens if x == "cls"), None)
        if token is None:
            return feature.placed(*layer.shape)
        if token not in layer.tokens:
            others = ", ".join(layer.tokens) or "nothing"
            raise ValueError(f"{feature.label}: besides its map, {layer.name!r} has {others}")
        number, (_, height, width) = layer.tokens.index(token), layer.shape
        position = (height + number // width, number % width)
        return replace(feature, token=token, position=position).placed(*layer.map_shape)

    def tokens(self, name: str) -> tuple[str, ...]:
        """Names of a layer's tokens that lie nowhere on the image; of the pixels none."""
        return () if name == PIXELS else self.find(name).tokens

    def target_point(self, name: str) -> ReadPoint:
        """Where a target is read: an activation function at its input, all else at its output."""
        point, plain = self.output_point(name), name.partition("#")[0]
        if point.module is None or not self.is_activation(plain):
            return point
        began = self._calls_of(plain)[point.call - 1].began
        return replace(point, at="input", order=began)

    def is_activation(self, name: str) -> bool:
        """Whether a layer is an activation function."""
        if name not in self._activations:
            last = self._outputs[self._path(name), self._layers[name].calls]
            self._activations[name] = is_activation(self.module(name), last.shape)
        return self._activations[name]

    def narrower(self, dtype: torch.dtype) -> tuple[str, torch.dtype] | None:
        """The first layer that gives numbers of fewer bits than a type, and theirs; None if none.

        Such a network switches autocast on itself, or converts its maps.
        """
        bits = torch.finfo(dtype).bits
        for output in self._outputs.values():
            if torch.finfo(output.dtype).bits < bits:
                return output.call.name or LOGITS, output.dtype
        return None

    def output_point(self, name: str) -> ReadPoint:
        """Where a layer's output is read."""
        layer = self.find(name)
        plain = name.partition("#")[0]
        call = int(name.partition("#")[2] or layer.calls)
        path, time = self._path(plain), self._calls_of(plain)[call - 1]
        layout = self._outputs[path, time.number].layout
        assert layout is not None
        return ReadPoint(
            name=name,
            module=self._modules[path] if path else None,
            at="output",
            call=call,
            order=time.ended,
            layout=layout,
        )

    def through_point(self, name: str) -> ReadPoint:
        """Where a through layer is read: at its output; 'pixels' is the network's input."""
        if name == PIXELS:
            return ReadPoint(name=name, module=None, at="input", call=1, order=-1)
        return self.output_point(name)

    def all_points(self) -> list[ReadPoint]:
        """Where each call of each layer is read, 'NAME#k' where there are several."""
        return [
            self.output_point(name if layer.calls == 1 else f"{name}#{number}")
            for name, layer in self._layers.items()
            for number in self.readable_calls(name)
        ]

    def readable_calls(self, name: str) -> list[int]:
        """The numbers of a layer's calls that can be read, from 1; its last is among them."""
        outputs = (
            (number, self._outputs.get((self._path(name), number)))
            for number in range(1, self._layers[name].calls + 1)
        )
        return [number for number, x in outputs if x is not None and x.layout is not None]

    def check(self, target: str, through: str) -> None:
        """Check that the through layer lies before the target.

        Raises:
            ValueError: an unknown name, or a through layer at or after the target.
        """
        if self.through_point(through).order >= self.target_point(target).order:
            raise ValueError(f"through {through!r} does not lie before the target {target!r}")
