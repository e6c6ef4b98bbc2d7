"""A network: a module, its layers by name, and how images become its input."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from opponent.core.box import Box
from opponent.core.feature import Feature
from opponent.core.text import one_line
from opponent.images.loader import load_images
from opponent.images.sources import Images, open_images
from opponent.models.axes import LOGITS
from opponent.models.forward import (
    Differentiate,
    ForwardResult,
    LayerMaps,
    Model,
    forward,
    forward_many,
    visit,
)
from opponent.models.layers import PIXELS, Layer, Layers
from opponent.models.preprocessing import Preprocessing
from opponent.models.unwrap import unwrap
from opponent.models.weights import sha256_of

__all__ = ["LOGITS", "PIXELS", "Layer", "Layers", "Network"]

_Value = TypeVar("_Value")


class Network:
    """A vision network with its layers by name and its preprocessing.

    Its attributes are read-only: `to` moves the module, `with_preprocessing` makes another network.

    Args:
        module: any `nn.Module` that takes images (n, channels, height, width). Of a tuple that it
            gives the first tensor counts; of a mapping 'logits', 'out', 'last_hidden_state', or the
            only tensor.
        preprocessing: input size and range; default: 224 x 224 with ImageNet's statistics.
        name: what results call it; default: the module's class.
        classes: the logits' names, in order.
        weights_file: the file that the weights came from, if they came from one.
        forward: how the module is called, for one that takes more than images:
            `lambda module, images: module(pixel_values=images, return_dict=True)`.
        layout: for layers whose axes are not known, or not as they seem, which axis is which, by
            name or pattern: `{"encoder.*": "n c h w"}`. The letters are n images, c channels, h
            rows, w columns, t tokens; '1+14x14' are tokens in a grid after one that lies nowhere.
        asked: the text that `load` made it from; None where it was made otherwise.
    Raises:
        ValueError: a module whose layers cannot be read, such as TorchScript or a quantised one.

    >>> import opponent, torch
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> network = opponent.Network(module, name="small")
    >>> list(network.layers)
    ['0', '1', 'logits']
    >>> network.activations(torch.zeros(2, 3, 224, 224), ["1"])["1"].shape
    torch.Size([2, 8, 222, 222])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        preprocessing: Preprocessing | None = None,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        weights_file: Path | None = None,
        forward: Callable[[nn.Module, Tensor], object] | None = None,
        layout: Mapping[str, str] | None = None,
        asked: str | None = None,
    ) -> None:
        self._module = unwrap(module)
        self._preprocessing = preprocessing or Preprocessing()
        self._name = name or type(self._module).__name__
        self._classes = tuple(classes) if classes is not None else None
        self._weights_file, self._asked, self._forward = weights_file, asked, forward
        self._layout, self._cache = dict(layout or {}), dict[Hashable, object]()

    def __repr__(self) -> str:
        return f"Network({self.name!r})"

    @property
    def module(self) -> nn.Module:
        """The module itself."""
        return self._module

    @property
    def preprocessing(self) -> Preprocessing:
        """How photographs become its input."""
        return self._preprocessing

    @property
    def name(self) -> str:
        """What results call it."""
        return self._name

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The logits' names, in order."""
        return self._classes

    @property
    def weights_file(self) -> Path | None:
        """The file that the weights came from, if they came from one."""
        return self._weights_file

    @property
    def asked(self) -> str | None:
        """The text that `load` made it from; None where it was made otherwise."""
        return self._asked

    @property
    def device(self) -> torch.device:
        """Where the network's first parameter lies; the CPU if it has none."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's first parameter; float32 if it has none."""
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Network":
        """Move the module to a device, or into another type of numbers; gives the network itself.

        Args:
            device: where to, such as 'cuda'; None leaves it where it is.
            dtype: the type of numbers; None leaves it as it is.
        Raises:
            ValueError: the device cannot be used.
        """
        try:
            self.module.to(device=None if device is None else torch.device(device), dtype=dtype)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {str(device)!r} cannot be used: {one_line(error)}") from error
        return self

    def with_preprocessing(self, preprocessing: Preprocessing) -> "Network":
        """A network around the same module whose images are prepared in another way.

        Args:
            preprocessing: the other way.
        """
        other = copy(self)
        vars(other).pop("_layers", None)
        other._preprocessing, other._cache = preprocessing, {}
        return other

    def at_size(self, size: tuple[int, int]) -> "Network":
        """The network for inputs of another size; itself where it is its own size.

        Args:
            size: (height, width) of the input in pixels.
        """
        if size == self.preprocessing.size:
            return self
        other = replace(self.preprocessing, size=size)
        return self.cached(("at size", size), lambda: self.with_preprocessing(other))

    def weights_sha256(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of all parameters and buffers."""
        return sha256_of(self.module)

    def class_name(self, unit: int) -> str | None:
        """The name of a logit, where the network has names.

        Args:
            unit: the logit's number.
        """
        return self.classes[unit] if self.classes and unit < len(self.classes) else None

    def cached(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """What was computed for a key before on this device and in this dtype, or is computed now.

        Args:
            key: what the value is kept under.
            compute: gives the value, which depends on structure and input size alone, such as
                receptive fields.
        """
        if (full := (key, self.device, self.dtype)) not in self._cache:
            self._cache[full] = compute()
        return self._cache[full]  # type: ignore[return-value]

    @property
    def layers(self) -> Layers:
        """Every layer that gives a tensor, by name, in the order of the forward pass."""
        return self._layers

    @cached_property
    def _layers(self) -> Layers:
        seeded = torch.Generator().manual_seed(0)
        noise = torch.randn(1, *self.map_shape(PIXELS), generator=seeded)
        return Layers(self.model, noise.to(self.device, self.dtype), self.name, self._layout)

    @property
    def model(self) -> Model:
        """The module, and how it is called."""
        return Model(module=self.module, call=self._forward)

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Args:
            name: a `named_modules()` path ('NAME#2' for its second call), or 'logits'.
        Raises:
            ValueError: no such layer; the message lists the nearest names.
        """
        return self.layers.find(name)

    def resolve(self, feature: Feature | str) -> Feature:
        """The feature with its position written out, checked against its layer.

        Args:
            feature: a feature or its name.
        Raises:
            ValueError: an unknown layer, or a unit, vector or position that does not fit it.
        """
        return self.layers.place(Feature.of(feature))

    def map_shape(self, name: str) -> tuple[int, int, int]:
        """(channels, height, width) of the maps of a through layer, or of the pixels.

        Args:
            name: the layer's name, or 'pixels'.
        Returns:
            Three numbers; tokens such as the class token are in rows below the grid of the others.
        Raises:
            ValueError: no such layer.
        """
        if name == PIXELS:
            return (self.preprocessing.channels, *self.preprocessing.size)
        return self.layer(name).map_shape

    def grid(self, name: str) -> Box:
        """The box of a layer's maps that lies on the image: all of it, but for tokens below.

        Args:
            name: the layer's name, or 'pixels'.
        Raises:
            ValueError: no such layer.
        """
        return Box.full(self.preprocessing.size) if name == PIXELS else self.layer(name).grid

    def inputs(self, images: Shaped[np.ndarray, "n h w c"]) -> Float[Tensor, "n bands h w"]:
        """The network's own input from decoded images, where and of what type it computes.

        Args:
            images: as `Preprocessing.from_pixels` takes them, of the network's input size.
        """
        return self.preprocessing.from_pixels(images).to(device=self.device, dtype=self.dtype)

    def load_inputs(
        self, images: Tensor | Images
    ) -> tuple[Float[Tensor, "n bands h w"], tuple[str, ...] | None]:
        """The network's own input, and the images' ids: a tensor as it is, photographs decoded.

        Args:
            images: photographs, or the network's own input as a tensor, which has no ids.
        Returns:
            The input on the network's device, and the ids or None.
        Raises:
            ValueError: a tensor of another shape.
            FileNotFoundError: there is no such folder or file of images.
            Unreadable: an image that cannot be read.
        """
        if isinstance(images, Tensor):
            self.preprocessing.check(images)
            return images.to(device=self.device, dtype=self.dtype), None
        chosen = open_images(images, size=self.preprocessing.size)
        pixels = np.stack([*load_images(chosen.entries, self.preprocessing.fit)])
        return self.inputs(pixels), tuple(entry.id for entry in chosen)

    def activations(
        self, images: Tensor | Images, layers: Sequence[str] | str
    ) -> dict[str, Float[Tensor, "n ..."]]:
        """The outputs of layers, by name.

        Args:
            images: photographs (a folder, files, a list), or the network's own input as a tensor.
            layers: names of layers, such as 'mixed3a', 'logits' or 'pixels'; each is read at its
                output, an activation function after it acted.
        Returns:
            Maps (n, channels, rows, columns) by name. A vector is a map of one position.
        Raises:
            ValueError: an unknown layer or none, or a tensor of another shape.
            FileNotFoundError: there is no such folder or file of images.
            Unreadable: an image that cannot be read.
        """
        inputs, _ = self.load_inputs(images)
        names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
        points = [self.layers.through_point(name) for name in names]
        result = forward_many(self.model, inputs, [], points, differentiate=False)
        return {name: result.throughs[name] for name in names}

    def run(
        self,
        images: Float[Tensor, "n bands h w"],
        target: str,
        through: str | None = None,
        *,
        after: bool = False,
        differentiate: Differentiate | None = None,
        substitute: Callable[[Tensor], Tensor] | None = None,
        crops: Mapping[str, Box] | None = None,
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
            crops: for some layers, the box of their maps that goes on.
        Returns:
            Both maps as (n, c, rows, columns): vectors are 1 x 1 maps, tokens columns of rows.
        Raises:
            ValueError: a layer is unknown, or `through` does not lie before `target`.
        """
        stop = self.layers.output_point(target) if after else self.layers.target_point(target)
        start = None if through is None else self.layers.through_point(through)
        if start is not None:
            self.layers.check(target, start.name)
        return forward(
            self.model,
            images,
            stop,
            start,
            differentiate=differentiate,
            substitute=substitute,
            crops={self.layers.through_point(name): box for name, box in (crops or {}).items()},
        )

    def record(
        self,
        images: Float[Tensor, "n bands h w"],
        *,
        targets: Sequence[str],
        throughs: Sequence[str],
        substitute: Callable[[str, Tensor], Tensor] | None = None,
        as_maps: bool = True,
    ) -> LayerMaps:
        """Read many layers in one pass, which keeps the graph from the first through layer on.

        Args:
            images: the network's own input, preprocessed.
            targets: layers that are read as targets; a ReLU at its input.
            throughs: layers that are read as through layers; a ReLU at its output.
            substitute: from a through layer's name and map makes the one that goes on in its place.
            as_maps: False gives the layers' own tensors, whatever their layout.
        Returns:
            Maps that a gradient of any target can be taken for, by any through layer before it.
        Raises:
            ValueError: an unknown layer, or no through layer.
        """
        return forward_many(
            self.model,
            images,
            [self.layers.target_point(name) for name in targets],
            [self.layers.through_point(name) for name in throughs],
            substitute=substitute,
            as_maps=as_maps,
        )

    def visit(
        self,
        images: Float[Tensor, "n bands h w"],
        do: Callable[[str, Tensor], None],
        *,
        until: str | None = None,
    ) -> None:
        """Run the network, handing each layer's name and output map to `do`, up to a layer's.

        Args:
            images: the network's own input, preprocessed.
            do: called with the name ('NAME#1' for the first of several calls) and the map.
            until: the last layer; without one, all.
        Raises:
            ValueError: `until` is unknown.
        """
        points = self.layers.all_points()
        if until is not None:
            last = self.layers.output_point(until).order
            points = [point for point in points if point.order <= last]
        visit(self.model, images, points, lambda point, maps: do(point.name, maps))
