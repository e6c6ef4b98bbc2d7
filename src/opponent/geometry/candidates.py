"""Which boxes of the layers on the way can be cropped, aligned to the steps of the layers after."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from opponent.core.box import Box, bounding_box
from opponent.core.feature import Feature
from opponent.geometry.bottlenecks import through_layers
from opponent.geometry.crop import CropPlan, dependency
from opponent.geometry.receptive_field import box_of, field_and_stride, receptive_fields_by_layer
from opponent.models.network import PIXELS, Network

# Boxes that spare less than this share of a map are not worth cutting out.
SPARED = 0.1


def crops_from_pixels(
    network: Network, features: Sequence[Feature], through: str | None
) -> list[CropPlan] | str:
    """Plans that begin at the pixels: one with all crops, one with the pixels' alone.

    Args:
        network: the network.
        features: of one layer, with positions written out.
        through: the through layer; None for the activation alone.
    Returns:
        The plans, the smallest first, or the reason why there is none.
    Raises:
        UnknownGeometry: an operation mixes images or fails.
    """
    layer = features[0].layer
    if any(feature.position is None for feature in features):
        return f"{layer!r} has no rows and columns"
    inputs = dependency(network, features, PIXELS)
    window = None if through is None else dependency(network, features, through)
    fields = receptive_fields_by_layer(network, border=True, until=layer)
    extents = {name: field.amax(1) for name, field in fields.items()}
    if through not in (None, PIXELS) and window is not None:
        if through not in extents:
            return f"what {through!r} depends on is not known"
        around = box_of(extents[through][:, *window.slices].flatten(1))
        inputs = inputs if around is None else bounding_box([inputs, around])
    size = network.preprocessing.size
    share = inputs.height * inputs.width / (size[0] * size[1])
    if share > 1 - SPARED:
        return f"{share:.0%} of the image is needed"
    steps = _steps(network, layer)
    if layer not in steps or (through is not None and through not in steps):
        return f"{layer!r} or {through!r} has no even steps over the image"
    boxes, crops = _crop_bottlenecks(network, layer, inputs, extents, steps)
    plan = _placed(network, features, through, window, PIXELS, boxes, crops, steps)
    if not crops:
        return [plan]
    pixels = {PIXELS: boxes[PIXELS]}
    return [plan, _placed(network, features, through, window, PIXELS, pixels, {}, steps)]


def crops_from_through(
    network: Network, features: Sequence[Feature], through: str
) -> list[CropPlan]:
    """Plans that begin at the through layer: one with its window, one with its whole map.

    Args:
        network: the network.
        features: of one layer, with positions written out.
        through: the through layer.
    Returns:
        The plans, the smallest first.
    Raises:
        UnknownGeometry: an operation mixes images or fails.
    """
    layer = features[0].layer
    window, size = dependency(network, features, through), network.map_shape(through)[1:]
    everything = CropPlan(
        features=tuple(features), through=through, start=through, window=window, inner=window,
        box=Box.full(size),
    )  # fmt: skip
    if any(feature.position is None for feature in features):
        return [everything]
    steps = _steps(network, layer)
    if layer not in steps or through not in steps or not _nested(steps[through], steps[layer]):
        return [everything]
    ratio = [round(a / b) for a, b in zip(steps[layer], steps[through], strict=True)]
    boxes = {through: _aligned(window, ratio, size)}
    return [_placed(network, features, through, window, through, boxes, {}, steps), everything]


def _crop_bottlenecks(
    network: Network,
    layer: str,
    inputs: Box,
    extents: Mapping[str, Float[Tensor, "4 h w"]],
    steps: Mapping[str, tuple[float, float]],
) -> tuple[dict[str, Box], dict[str, Box]]:
    """The boxes of the pixels and of the bottlenecks that are worth cropping on the way to a layer.

    Returns:
        Boxes of the layers' whole maps, and the same boxes in the maps as a pass then has them.
    """
    size = network.preprocessing.size
    bottlenecks = [
        each.layer
        for each in through_layers(network, layer)
        if each.bottleneck and each.layer in {PIXELS, *extents}
    ]
    boxes, crops, last = dict[str, Box](), dict[str, Box](), PIXELS
    for name in bottlenecks:
        if name not in steps or not _nested(steps[name], steps[layer]):
            continue
        needed = inputs if name == PIXELS else _inside(extents[name], inputs)
        ratio = [round(a / b) for a, b in zip(steps[layer], steps[name], strict=True)]
        shape = size if name == PIXELS else tuple(extents[name].shape[1:])
        box = _aligned(needed, ratio, shape)
        if name == PIXELS:
            boxes[name] = box
            continue
        origin, extent = _carried(boxes[last], steps[last], steps[name])
        if box.height * box.width < (1 - SPARED) * extent[0] * extent[1]:
            boxes[name], last = box, name
            crops[name] = box.moved(-origin[0], -origin[1])
    return boxes, crops


def _placed(
    network: Network,
    features: Sequence[Feature],
    through: str | None,
    window: Box | None,
    start: str,
    boxes: Mapping[str, Box],
    crops: Mapping[str, Box],
    steps: Mapping[str, tuple[float, float]],
) -> CropPlan:
    """The plan with these crops: features and window moved to where they then lie."""

    def origin(name: str) -> tuple[int, int]:
        # The last crop at or before the layer.
        order = network.layers.through_point(name).order
        last = [x for x in boxes if network.layers.through_point(x).order <= order][-1]
        return _carried(boxes[last], steps[last], steps[name])[0]

    top, left = origin(features[0].layer)
    moved = []
    for feature in features:
        assert feature.position is not None
        row, column = feature.position
        moved.append(feature.at((row - top, column - left)))
    inner = None
    if through is not None and window is not None:
        top, left = origin(through)
        inner = window.moved(-top, -left)
    return CropPlan(
        box=boxes[start],
        start=start,
        crops=crops,
        features=tuple(moved),
        through=through,
        window=window,
        inner=inner,
    )


def _steps(network: Network, until: str) -> dict[str, tuple[float, float]]:
    """The steps from one element of a layer to the next, in pixels; layers without have none."""
    steps = {
        name: field_and_stride(x)[1]
        for name, x in receptive_fields_by_layer(network, border=False, until=until).items()
        if 1 not in x.shape[2:]
    }
    return {PIXELS: (1.0, 1.0)} | {name: step for name, step in steps.items() if all(step)}


def _nested(inner: tuple[float, float], outer: tuple[float, float]) -> bool:
    """Whether the steps of one layer are multiples of another's."""
    return all(b >= a and b % a == 0 for a, b in zip(inner, outer, strict=True))


def _inside(extents: Float[Tensor, "4 h w"], box: Box) -> Box:
    """The elements of a map that depend on nothing outside a box of the pixels."""
    ends = [-box.top, box.top + box.height - 1, -box.left, box.left + box.width - 1]
    within = (extents <= extents.new_tensor(ends).view(4, 1, 1)).all(0)
    rows, columns = (within.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return Box.full(within.shape)
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


def _carried(
    box: Box, steps: tuple[float, float], to: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a box of one layer begins in a later one, and about how far it reaches there."""
    rows, columns = (a / b for a, b in zip(steps, to, strict=True))
    return (round(box.top * rows), round(box.left * columns)), (
        -int(-box.height * rows // 1),
        -int(-box.width * columns // 1),
    )
