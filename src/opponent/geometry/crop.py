"""The part of every layer that an answer needs: exact crops, from the pixels to the target.

An activation at one position depends on a window of the image, and of each layer on the way. Given
only that window, aligned to the steps of the layers after it, a network computes the same numbers
from the same pixels. What it computes near the window's edges is wrong, and never needed; it is cut
off again at the next layer that everything goes through.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.box import Box, bounding_box
from opponent.core.errors import UnknownGeometry
from opponent.core.feature import Feature
from opponent.geometry.bottlenecks import through_layers
from opponent.geometry.receptive_field import (
    box_of,
    field_and_stride,
    receptive_field,
    receptive_fields_by_layer,
)
from opponent.models.network import PIXELS, ForwardResult, Network

# Windows that spare less than this share of a map are not worth cutting out.
SPARED = 0.1
# Largest relative difference from the whole image that is rounding. In double precision a network
# of 100 layers stays below 1e-10; in single, 1e-5 is usual.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """The parts of image and layers that some features need, and where things lie in them.

    Args:
        box: the part of the input; None is all of it.
        crops: for layers on the way, the part of the map as it then is that goes on.
        features: the features, at their positions in the view's map.
        through: the earlier layer; None without one.
        window: the box of the through layer's whole map outside which S is zero.
        inner: the same box in the view's map.
        region: the box of the whole map that the view's map is.
        reason: why it is the whole image, where it is.
    """

    features: tuple[Feature, ...]
    box: Box | None = None
    crops: Mapping[str, Box] = field(default_factory=dict)
    through: str | None = None
    window: Box | None = None
    inner: Box | None = None
    region: Box | None = None
    reason: str | None = None

    @property
    def feature(self) -> Feature:
        """The only feature."""
        [feature] = self.features
        return feature

    def cut(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 y x"]:
        """The view's part of whole inputs."""
        return inputs if self.box is None else inputs[:, :, *self.box.slices]

    def run(
        self,
        network: Network,
        inputs: Float[Tensor, "n 3 h w"],
        *,
        differentiate: Literal["target", "images"] | None = None,
        watch: bool = True,
        cut: bool = False,
        substitute: Callable[[Tensor], Tensor] | None = None,
    ) -> ForwardResult:
        """`Network.run` up to the features' layer on whole inputs, of which it takes the view.

        Without `watch`, the pass ends at the through layer, read as the target. With `cut`, the
        inputs are the view's part already.
        """
        layer, through = self.features[0].layer, self.through
        inputs = inputs if cut else self.cut(inputs)
        given = {name: box.slices for name, box in self.crops.items()}
        if not watch and through not in (None, PIXELS):
            return network.run(
                inputs, through, after=True, differentiate=differentiate, crops=given
            )
        return network.run(
            inputs, layer, through, differentiate=differentiate, crops=given,
            substitute=substitute,
        )  # fmt: skip

    def within(self, maps: Float[Tensor, "n k y x"]) -> Float[Tensor, "n k h w"]:
        """The window of the through layer's maps as a pass over the view gives them."""
        return maps if self.inner is None else maps[:, :, *self.inner.slices]

    def of_whole(self, maps: Float[Tensor, "n k y x"]) -> Float[Tensor, "n k h w"]:
        """The part of the through layer's whole maps that a pass over the view gives."""
        return maps if self.region is None else maps[:, :, *self.region.slices]

    def describe(self) -> dict[str, Any]:
        """What it computes, ready for JSON."""
        if self.box is None:
            return {"whole": self.reason}
        boxes = {PIXELS: self.box, **self.crops}
        origin = [f.position for f in self.features]
        return {
            "crops": {name: x.numbers for name, x in boxes.items()},
            "positions": [list(x) for x in origin if x is not None],
            "window": self.window and self.window.numbers,
            "inner": self.inner and self.inner.numbers,
            "region": self.region and self.region.numbers,
        }

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], features: Sequence[Feature], through: str
    ) -> "CropPlan":
        """The view of features of the whole image that `describe` described, of a part of it."""
        crops = {name: Box.of(x) for name, x in described["crops"].items()}
        places = (tuple(x) for x in described["positions"])
        return cls(
            box=crops.pop(PIXELS),
            crops=crops,
            features=tuple(x.at(place) for x, place in zip(features, places, strict=True)),
            through=through,
            window=Box.of(described["window"]),
            inner=Box.of(described["inner"]),
            region=Box.of(described["region"]),
        )


def plan_whole_image(
    network: Network, features: Sequence[Feature], through: str | None, reason: str
) -> CropPlan:
    """The view that is the whole image."""
    window = None if through is None else _windows(network, features, through)
    return CropPlan(
        features=tuple(features), through=through, window=window, inner=window, reason=reason
    )


def plan_crop(network: Network, features: Sequence[Feature], through: str | None) -> CropPlan:
    """The smallest parts of image and layers that give some features, and the window of S, exactly.

    On noise, in double precision, it is checked that they give what the whole image gives. Where
    they do not (sizes that are built in, positions that are learnt), or where the network's
    geometry cannot be told, it is the whole image.

    Args:
        network: the network.
        features: of one layer, with positions written out; at most one of each position matters.
        through: a layer before the features'; None where only the features are wanted.
    """
    found = _FOUND.setdefault(network, {})
    key = (tuple(features), through, network.preprocessing.size, network.device, network.dtype)
    if key not in found:
        found[key] = _view(network, features, through)
    return found[key]


_FOUND: "WeakKeyDictionary[Network, dict[object, CropPlan]]" = WeakKeyDictionary()


def _view(network: Network, features: Sequence[Feature], through: str | None) -> CropPlan:
    try:
        views = _candidates(network, features, through)
    except UnknownGeometry as error:
        return plan_whole_image(network, features, through, str(error))
    if isinstance(views, str):
        return plan_whole_image(network, features, through, views)
    whole = plan_whole_image(network, features, through, "")
    for each in views:
        agreed = _agreeing(network, whole, each)
        if agreed is not None:
            return agreed
    return replace(whole, reason="a part of the image gives other numbers than the whole does")


def _candidates(
    network: Network, features: Sequence[Feature], through: str | None
) -> list[CropPlan] | str:
    """The view with all crops and the one with the pixels' alone, or why there is none."""
    layer = features[0].layer
    if any(feature.position is None for feature in features):
        return f"{layer!r} has no rows and columns"
    inputs = _windows(network, features, PIXELS)
    window = None if through is None else _windows(network, features, through)
    extents = {
        k: x.amax(1)
        for k, x in receptive_fields_by_layer(network, border=True, until=layer).items()
    }
    if through not in (None, PIXELS) and window is not None:
        if through not in extents:
            return f"what {through!r} depends on is not known"
        around = box_of(extents[through][:, *window.slices].flatten(1))
        inputs = inputs if around is None else bounding_box([inputs, around])
    size = network.preprocessing.size
    share = inputs.height * inputs.width / (size[0] * size[1])
    if share > 1 - SPARED:
        return f"{share:.0%} of the image is needed"
    places = _places(network, layer)
    if layer not in places or (through is not None and through not in places):
        return f"{layer!r} or {through!r} has no even steps over the image"
    wanted = [
        c.layer
        for c in through_layers(network, layer)
        if c.bottleneck and c.layer in {PIXELS, *extents}
    ]
    boxes: dict[str, Box] = {}
    last, relative = PIXELS, dict[str, Box]()
    for name in wanted:
        if name not in places or not _nested(places[name], places[layer]):
            continue
        needed = inputs if name == PIXELS else _inside(extents[name], inputs)
        ratio = [round(a / b) for a, b in zip(places[layer], places[name], strict=True)]
        shape = size if name == PIXELS else tuple(extents[name].shape[1:])
        box = _aligned(needed, ratio, shape)
        if name == PIXELS:
            boxes[name] = box
            continue
        origin, extent = _moved(boxes[last], places[last], places[name])
        if box.height * box.width < (1 - SPARED) * extent[0] * extent[1]:
            boxes[name], last = box, name
            relative[name] = replace(box, top=box.top - origin[0], left=box.left - origin[1])
    cropped = _placed(network, features, through, window, boxes, relative, places)
    if not relative:
        return [cropped]
    alone = {PIXELS: boxes[PIXELS]}
    return [cropped, _placed(network, features, through, window, alone, {}, places)]


def _placed(
    network: Network, features: Sequence[Feature], through: str | None, window: Box | None,
    boxes: Mapping[str, Box], crops: Mapping[str, Box],
    places: Mapping[str, tuple[float, float]],
) -> CropPlan:  # fmt: skip
    """The view with these crops: features and window moved to where they then lie."""

    def origin(name: str) -> tuple[int, int]:
        # The last crop at or before the layer.
        order = network.through_point(name).order
        last = [x for x in boxes if network.through_point(x).order <= order][-1]
        return _moved(boxes[last], places[last], places[name])[0]

    top, left = origin(features[0].layer)
    moved = []
    for feature in features:
        assert feature.position is not None
        row, column = feature.position
        moved.append(feature.at((row - top, column - left)))
    inner = None
    if through is not None and window is not None:
        top, left = origin(through)
        inner = replace(window, top=window.top - top, left=window.left - left)
    return CropPlan(
        box=boxes[PIXELS],
        crops=crops,
        features=tuple(moved),
        through=through,
        window=window,
        inner=inner,
    )


def _agreeing(network: Network, whole: CropPlan, part: CropPlan) -> CropPlan | None:
    """The part with its region, if it gives what the whole image gives on noise."""
    for dtype in (torch.float64, network.dtype):
        try:
            checked = network if dtype == network.dtype else _in(network, dtype)
            results = [_values(checked, each) for each in (whole, part)]
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            continue  # takes no other type, or no other size
        (expected, _), (found, reading) = results
        limit = ROUNDING.get(dtype, 0.05)
        if not all(
            a.shape == b.shape and _difference(a, b) <= limit
            for a, b in zip(expected, found, strict=True)
        ):
            return None
        if part.inner is None or reading.through is None or whole.window is None:
            return part
        assert part.window is not None
        height, width = reading.through.shape[2:]
        top, left = part.window.top - part.inner.top, part.window.left - part.inner.left
        return replace(part, region=Box(top=top, left=left, height=height, width=width))
    return None


def _values(network: Network, each: CropPlan) -> tuple[list[Tensor], ForwardResult]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, *network.preprocessing.size, generator=generator)
    inputs = network.preprocessing.normalise(noise).to(network.device, network.dtype)
    reading = each.run(network, inputs)
    # Feature by feature: one may need less than others at its place.
    values = [feature.read(reading.target) for feature in each.features]
    if reading.through is not None:
        values.append(each.within(reading.through))
    return values, reading


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) if a.numel() else 0.0


def _in(network: Network, dtype: torch.dtype) -> Network:
    """A copy of a network that computes in another type."""
    module = deepcopy(network.module).to(dtype)
    return Network(module, preprocessing=network.preprocessing, name=network.name)


def _windows(network: Network, features: Sequence[Feature], source: str) -> Box:
    return bounding_box([receptive_field(network, feature, source) for feature in features])


def _box(height: int, width: int) -> Box:
    return Box(top=0, left=0, height=height, width=width)


def _places(network: Network, until: str) -> dict[str, tuple[float, float]]:
    """The steps from one element of a layer to the next, in pixels; layers without have none."""
    found = {
        name: field_and_stride(x)[1]
        for name, x in receptive_fields_by_layer(network, border=False, until=until).items()
        if 1 not in x.shape[2:]
    }
    return {PIXELS: (1.0, 1.0)} | {name: step for name, step in found.items() if all(step)}


def _nested(inner: tuple[float, float], outer: tuple[float, float]) -> bool:
    """Whether the steps of one layer are multiples of another's."""
    return all(b >= a and b % a == 0 for a, b in zip(inner, outer, strict=True))


def _inside(extents: Float[Tensor, "4 h w"], box: Box) -> Box:
    """The elements of a map that depend on nothing outside a box of the pixels."""
    ends = [-box.top, box.top + box.height - 1, -box.left, box.left + box.width - 1]
    within = (extents <= extents.new_tensor(ends).view(4, 1, 1)).all(0)
    rows, columns = (within.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return _box(*within.shape)
    return Box(
        top=rows[0],
        left=columns[0],
        height=rows[-1] + 1 - rows[0],
        width=columns[-1] + 1 - columns[0],
    )


def _aligned(box: Box, ratio: Sequence[int], shape: tuple[int, ...]) -> Box:
    """A box out to multiples of a step on both sides, within the map.

    At its end too: some networks pad maps of odd and of even size differently.
    """
    spans = []
    for start, length, step, end in (
        (box.top, box.height, ratio[0], shape[0]),
        (box.left, box.width, ratio[1], shape[1]),
    ):
        first = start // step * step
        spans.append((first, min(end, -(-(start + length) // step) * step) - first))
    (top, height), (left, width) = spans
    return Box(top=top, left=left, height=height, width=width)


def _moved(
    box: Box, steps: tuple[float, float], to: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a box of one layer begins in a later one, and about how far it reaches there."""
    rows, columns = (a / b for a, b in zip(steps, to, strict=True))
    return (round(box.top * rows), round(box.left * columns)), (
        -int(-box.height * rows // 1),
        -int(-box.width * columns // 1),
    )
