"""Receptive fields: the part of the input, or of an earlier layer, that decides a position.

They are exact, and found in one pass without a multiplication: see `opponent.models.operations`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.box import Box
from opponent.core.errors import IndependentFeature, UnknownGeometry, out_of_memory
from opponent.core.feature import Feature
from opponent.models.network import PIXELS, Network
from opponent.models.operations import CoordinateMode, Extents, counts_exactly


def receptive_fields(
    network: Network, target: str, source: str = PIXELS, *, border: bool = True
) -> Extents:
    """The box of the source that each element of the target depends on.

    Args:
        network: the network. Its weights do not matter.
        target: a layer; an activation function is read at its input.
        source: an earlier layer, or 'pixels'.
        border: whether the image has a border; see `receptive_fields_by_layer`.
    Returns:
        For each element of the target's map, at the network's input size, -top, bottom, -left and
        right of its box, both ends in the box; minus infinity where it depends on nothing.
    Raises:
        ValueError: an unknown layer, or a source that does not lie before the target.
        UnknownGeometry: an operation mixes images or fails on coordinates.
    """
    network.layers.check(target, source)
    # Whoever asks for one box asks for it often.
    key = ("extents", target, source, border)
    return network.cached(key, lambda: _extents(network, target, source, border)).clone()


def _extents(network: Network, target: str, source: str, border: bool) -> Extents:
    images = torch.zeros(4, *network.map_shape(PIXELS), device=network.device)
    what = f"{target} in {source}"
    with torch.no_grad(), _failures_explained(what), CoordinateMode(border=border) as mode:
        result = network.run(images.to(network.dtype), target, source, substitute=mode.coordinates)
    extents = result.target
    if source != PIXELS and extents not in mode.known:
        return torch.full_like(extents, -torch.inf)  # on another branch
    if not mode.carries(extents) or not counts_exactly(extents, extents.dtype):
        raise UnknownGeometry(f"cannot tell the receptive field of {what}")
    return extents


def receptive_fields_by_layer(
    network: Network, *, border: bool = False, until: str | None = None
) -> dict[str, Extents]:
    """The box of the input that each position of each layer's output depends on.

    A position depends on all that any of its channels does. Layers that depend on no image are left
    out, and those of which it cannot be told.

    Args:
        network: the network.
        border: whether the image has a border, where boxes end. Without one, coordinates go on
            beyond it, so that boxes have their full size and even steps, as the literature gives
            receptive fields.
        until: the last layer; without one, all.
    Returns:
        Extents of one channel, by layer. Of a layer that is called several times NAME is the last
        call, NAME#1 the first.
    Raises:
        UnknownGeometry: an operation mixes images or fails on coordinates.
    """
    key = ("extents by layer", until, border)
    return dict(network.cached(key, lambda: _extents_by_layer(network, border, until)))


def _extents_by_layer(network: Network, border: bool, until: str | None) -> dict[str, Extents]:
    extents: dict[str, Tensor] = {}
    images = torch.zeros(4, *network.map_shape(PIXELS), device=network.device)
    with _failures_explained("the layers"), CoordinateMode(border=border) as mode:

        def keep(name: str, output: Tensor) -> None:
            plain = name.partition("#")[0]
            extents.pop(plain, None)  # of an earlier call
            if mode.carries(output):
                extents[plain] = extents[name] = output.amax(1, keepdim=True)

        network.visit(mode.coordinates(images.to(network.dtype)), keep, until=until)
    return {
        name: x.cpu()
        for name, x in extents.items()
        if counts_exactly(x, x.dtype) and (border or x.isfinite().all())
    }


@contextmanager
def _failures_explained(what: str) -> Iterator[None]:
    """A network that fails on coordinates, as it would not on images, has no known geometry."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UnknownGeometry) or out_of_memory(error):
            raise
        raise UnknownGeometry(f"cannot tell the receptive field of {what}: {error}") from error


def receptive_field(network: Network, feature: Feature | str, source: str = PIXELS) -> Box:
    """The box of the source outside which nothing can change the feature's activation.

    Args:
        network: the network.
        feature: a feature at one position.
        source: a layer before the feature's, or 'pixels'.
    Returns:
        The box; all of the source where the network's geometry cannot be told.
    Raises:
        ValueError: an unknown layer, or a source that does not lie before the feature's layer.
        IndependentFeature: the feature does not depend on the source.
    Source: Araujo, Norris & Sim (2019) for convolutional networks; here from the operations.
    """
    feature = network.resolve(feature)
    row, column = feature.position or (0, 0)
    try:
        extents = receptive_fields(network, feature.layer, source)[:, :, row, column]
    except UnknownGeometry:
        return Box.full(network.map_shape(source)[1:])
    if feature.power:
        pass  # its cosine takes all channels
    elif feature.unit is not None:
        extents = extents[:, [feature.unit]]
    else:
        counts = torch.tensor(feature.vector, dtype=torch.float64) != 0
        extents = extents[:, counts.to(extents.device)]
    box = box_of(extents)
    if box is None:
        raise IndependentFeature(
            f"{feature.label} does not depend on {source!r}: they lie on two branches"
        )
    return box


def box_of(extents: Float[Tensor, "4 c"]) -> Box | None:
    """The smallest box that contains the boxes of some elements; None if they depend on nothing."""
    values = extents.amax(1)
    if values.isinf().any():
        return None
    top, bottom, left, right = (values.cpu() * torch.tensor([-1, 1, -1, 1])).int().tolist()
    return Box(top=top, left=left, height=bottom - top + 1, width=right - left + 1)


def field_and_stride(extents: Extents) -> tuple[Box, tuple[float, float]]:
    """The box of a layer's central position, and the step from one position's box to the next.

    Args:
        extents: of the layer's elements.
    Returns:
        The receptive field, and the steps in rows and columns of the source; 0 where the map has
        one row or column.
    """
    height, width = extents.shape[2:]
    row, column = height // 2, width // 2
    box = box_of(extents[:, :, row, column])
    assert box is not None
    _, bottoms, _, rights = extents.amax(1)
    rows = bottoms[row, column] - bottoms[row - 1, column] if height > 1 else torch.zeros(())
    columns = rights[row, column] - rights[row, column - 1] if width > 1 else torch.zeros(())
    return box, (float(rows), float(columns))


def placement(network: Network, layer: str) -> tuple[float, float, float, float] | None:
    """Where a layer's map lies on the image. An element lies in the middle of its receptive field.

    Args:
        network: the network.
        layer: a layer, or 'pixels'.
    Returns:
        The pixel (row, column) of the map's first element, then the steps (rows, columns) from one
        element to the next; None where the layer has no rows and columns of its own.
    """
    if layer == PIXELS:
        return 0.0, 0.0, 1.0, 1.0
    if 1 in network.layer(layer).shape[1:]:
        return None
    followed = network.layer(layer).placement
    try:
        extents = receptive_fields(network, layer, border=False)
    except UnknownGeometry:
        return followed
    if extents.isinf().any():
        return followed
    _, (rows, columns) = field_and_stride(extents)
    top, bottom, left, right = extents[:, :, 0, 0].amax(1).tolist()
    if not (rows and columns):
        return followed  # each element depends on the whole image, and still has its place
    return (bottom - top) / 2, (right - left) / 2, rows, columns
