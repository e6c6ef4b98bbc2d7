"""Which axis of each layer's output is which: found by passes with other images, sizes and places.

- A pass with one image and one with two tell the axis of images, and whether what a layer gives of
  an image depends on the other.
- A pass of places (see `opponent.models.places`) tells rows, columns and tokens.
- Where it does not, passes at other sizes do, where the network takes them; and then what the
  module is: a convolution has its channels second, a linear map and layer norm last.

What still is not known is refused, with the reason, when somebody asks for the layer.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from opponent.core.errors import UnknownLayout, out_of_memory
from opponent.core.text import one_line
from opponent.models.activations import ACTIVATIONS
from opponent.models.deduction import by_module, by_places, placed_at, with_channels
from opponent.models.forward import Call, Model, trace
from opponent.models.layout import Layout, names_of_extras
from opponent.models.places import ENDS, PlaceMode, Places

# Elements of a layer's output that are compared between passes.
SAMPLE = 256
# Largest difference between two passes, relative to the largest element, that is rounding; in half
# precision there are three digits.
ROUNDING, COARSE = 1e-3, 0.05
# What the other sizes add to rows and columns: more than the steps of usual networks.
LARGER = 32
# Names of the parameter that begins as a class token, in timm, torchvision and transformers.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
LOGITS = "logits"  # the network's output
Key = tuple[str, int]  # a module's name, and which of its calls


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one call of one module gives.

    Args:
        call: the call.
        shape: of its main tensor for one image.
        dtype: its type of numbers.
        layout: which axis is which; None where it is not known.
        reason: why it is not known, or why the layer cannot be read.
        placement: the pixel (row, column) that the first element of the map belongs to, and the
            steps from one to the next; None where there are no even steps.
        nowhere: whether no element belongs to a place on the image.
    """

    call: Call
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: Layout | None = None
    reason: str | None = None
    placement: tuple[float, float, float, float] | None = None
    nowhere: bool = False


def outputs(
    model: Model,
    image: Float[Tensor, "1 c h w"],
    said: Mapping[str, str],
) -> tuple[list[Output], list[Call]]:
    """What every call of every module gives, with its layout, and all calls.

    Args:
        model: the module, and how it is called.
        image: noise as its own input.
        said: layouts that the user gives, by patterns of names.
    Returns:
        The outputs that are tensors, and all calls, both in the order in which calls end.
    Raises:
        ValueError: the network does not take such an image, or a layout is no layout.
    """
    survey = _Survey(model, image)
    found = [survey.output(call, said) for call in survey.given.values()]
    return _named(found, model.module), list(survey.calls)


class _Survey:
    """The passes through a network, and what they showed of each call."""

    def __init__(self, model: Model, image: Float[Tensor, "1 c h w"]) -> None:
        self.model, self.image = model, image
        self.modules = dict(model.module.named_modules())
        self.given: dict[Key, Output] = {}
        self.images: dict[Key, int | str] = {}
        self.places: dict[Key, Places] = {}
        # Calls that hand on, or act element by element on, what another call gave.
        self.same: dict[Key, Key] = {}
        self._keys: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._samples: dict[Key, Tensor] = {}
        try:
            self.calls = trace(model, image, self._see_one)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise ValueError(
                f"{type(model.module).__name__} does not take one image of shape "
                f"{(*image.shape,)} ({one_line(error)}); its `preprocessing` says the size and "
                "`forward` how it is called"
            ) from error
        self._failure = self._try(_pair(image), self._see_two)
        self._samples.clear()
        self._see_places()

    def _try(self, inputs: Tensor, look: object) -> str | None:
        try:
            trace(self.model, inputs, look)  # type: ignore[arg-type]
        except Exception as error:
            if out_of_memory(error):
                raise
            return one_line(error)
        return None

    def _see_one(self, call: Call, tensor: Tensor | None, given: Tensor | None) -> None:
        if tensor is None:
            return
        key = (call.name, call.number)
        self.given[key] = Output(call=call, shape=tuple(tensor.shape), dtype=tensor.dtype)
        self._samples[key] = _sample(tensor)
        before = self._keys.get(tensor)
        if before is None and isinstance(self.modules[call.name], ACTIVATIONS):
            before = None if given is None else self._keys.get(given)
        if before is not None and self.given[before].shape == tensor.shape:
            self.same[key] = before
        self._keys[tensor] = key

    def _see_two(self, call: Call, tensor: Tensor | None, _: object) -> None:
        key = (call.name, call.number)
        if tensor is None or key not in self.given:
            return
        axis = _images_axis(self.given[key].shape, tuple(tensor.shape))
        if isinstance(axis, int) and _differ(_sample(tensor.select(axis, 1)), self._samples[key]):
            axis = "what it gives of an image depends on the images beside it, or on chance"
        self.images[key] = axis

    def _see_places(self) -> None:
        model, image = self.model, self.image
        if image.dtype not in (torch.float32, torch.float64):
            # Other types are too coarse for coordinates.
            model = replace(model, module=deepcopy(model.module).float())
            image = image.float()

        def see(call: Call, tensor: Tensor | None, _: object) -> None:
            key = (call.name, call.number)
            axis = self.images.get(key)
            if tensor is None or not isinstance(axis, int) or not mode.known.get(tensor):
                return
            if tensor.ndim > axis and tensor.shape[axis] == ENDS:
                with _disable_current_modes():
                    self.places[key] = Places.of(tensor, axis)

        try:
            with torch.no_grad(), PlaceMode() as mode:
                trace(model, mode.coordinates(image.new_zeros(ENDS, *image.shape[1:])), see)
        except Exception as error:
            if out_of_memory(error):
                raise
            return  # of the layers after the operation that fails, places are not known

    def output(self, found: Output, said: Mapping[str, str]) -> Output:
        """A call's output with its layout, or with the reason why there is none."""
        call, shape = found.call, found.shape
        key = (call.name, call.number)
        images = self.images.get(key, f"the network does not take two images ({self._failure})")
        if isinstance(images, str):
            return replace(found, reason=images)
        places = self.places.get(key)
        nowhere = places is not None and places.nowhere
        given = _said(call.name or LOGITS, said)
        if given is not None:
            told = Layout.parse(given, shape)
            if told.axes.index("n") != images:
                raise ValueError(
                    f"the layout {given!r} of {call.name!r} has another axis of images than axis "
                    f"{images} of its output of shape {shape}"
                )
            return replace(
                found, layout=told, placement=placed_at(told, places),
                nowhere=nowhere,
            )  # fmt: skip
        module = self.modules[call.name]
        spread = None
        try:
            layout = by_places(shape, images, places)
        except UnknownLayout as error:
            layout, spread = None, str(error)
        layout = layout or self._by_sizes(key, shape, images)
        if layout is None and spread is not None:
            return replace(found, reason=spread)
        layout = layout or by_module(shape, images, module)
        if layout is None and key in self.same:
            return replace(self.output(self.given[self.same[key]], said), call=call)
        if layout is None:
            reason = f"which axes of {shape} are channels, rows and columns is not known"
            return replace(found, reason=reason)
        return replace(
            found, layout=layout, placement=placed_at(layout, places),
            nowhere=nowhere,
        )  # fmt: skip

    def _by_sizes(self, key: Key, shape: tuple[int, ...], images: int) -> Layout | None:
        """The layout that follows from which axes grow with rows and columns of the image."""
        taller, wider = (shapes.get(key) for shapes in self._larger)
        if taller is None or wider is None or not len(taller) == len(wider) == len(shape):
            return None
        axes = ["1" if size == 1 else "" for size in shape]
        axes[images] = "n"
        for axis, (size, tall, wide) in enumerate(zip(shape, taller, wider, strict=True)):
            if axis != images and (size != tall or size != wide):
                axes[axis] = "t" if size != tall and size != wide else "hw"[size == tall]
        return with_channels(axes, shape)

    @cached_property
    def _larger(self) -> tuple[dict[Key, tuple[int, ...]], dict[Key, tuple[int, ...]]]:
        """The shapes of one image with more rows, and of one with more columns."""
        results = []
        for more in ((LARGER, 0), (0, LARGER)):
            shapes: dict[Key, tuple[int, ...]] = {}

            def see(
                call: Call, tensor: Tensor | None, _: object,
                into: dict[Key, tuple[int, ...]] = shapes,
            ) -> None:  # fmt: skip
                if tensor is not None:
                    into[call.name, call.number] = tuple(tensor.shape)

            height, width = self.image.shape[2] + more[0], self.image.shape[3] + more[1]
            self._try(self.image.new_zeros(*self.image.shape[:2], height, width), see)
            results.append(shapes)
        return results[0], results[1]


def _pair(image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "2 c h w"]:
    """An image after another: sums, signs and spreads over both are not those of the one alone.

    It comes second, where a random number is not the same as for one image.
    """
    return torch.cat([-3 * image.flip(2), image])


def _sample(tensor: Tensor) -> Tensor:
    """Some of a tensor's elements, evenly spread."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE].clone()


def _differ(values: Tensor, expected: Tensor) -> bool:
    if values.shape != expected.shape:
        return True
    limit = ROUNDING if values.dtype in (torch.float32, torch.float64) else COARSE
    finite = values.isfinite() & expected.isfinite()
    values, expected = (x[finite].cpu().double() for x in (values, expected))
    if not len(values):
        return False
    return bool((values - expected).abs().max() > limit * expected.abs().max())


def _images_axis(one: tuple[int, ...], two: tuple[int, ...]) -> int | str:
    """The axis of images, from shapes for one and for two of them; or why there is none."""
    if len(one) != len(two):
        return f"it has shape {one} for one image and {two} for two"
    grown = [axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    if not grown:
        return "it is the same however many images come"
    [axis, *others] = grown
    if others:
        return f"it has shape {one} for one image and {two} for two"
    if (one[axis], two[axis]) == (1, 2):
        return axis
    return (
        f"its axis {axis} has {one[axis]} rows for one image and {two[axis]} for two: windows, "
        "patches or heads are folded into the images"
    )


def _said(name: str, said: Mapping[str, str]) -> str | None:
    return next((text for pattern, text in said.items() if fnmatchcase(name, pattern)), None)


def _named(found: Sequence[Output], module: nn.Module) -> list[Output]:
    """The outputs, with the tokens that belong nowhere named: 'cls' first, where there is one."""
    has_class_token = pools_class_token(found) or any(
        name.rpartition(".")[2] in CLASS_TOKENS for name, _ in module.named_parameters()
    )
    return [
        x
        if x.layout is None or not x.layout.extras
        else replace(
            x,
            layout=replace(x.layout, names=names_of_extras(len(x.layout.extras), has_class_token)),
        )
        for x in found
    ]


def pools_class_token(found: Sequence[Output]) -> bool:
    """Whether the network's last vector comes from a token that lies nowhere on the image."""
    vectors = [
        x for x in found if x.layout is not None and not set(x.layout.axes) & set("hwt")
        and x.layout.axes != "nchw"
    ]  # fmt: skip
    return (
        bool(vectors)
        and vectors[-1].nowhere
        and any(x.layout is not None and x.layout.extras for x in found)
    )
