"""Where in one image a side is largest: its place in words, and each channel's as a crop."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from opponent.attribution.result import Attribution
from opponent.core.box import Box
from opponent.core.errors import UnknownGeometry
from opponent.core.side import SIDES
from opponent.explain.crops import SHOWN, Tile, crop_picture, photograph, zoom_for
from opponent.explain.drivers import Driver, Drivers
from opponent.geometry.receptive_field import box_of, placement, receptive_fields
from opponent.images.imageset import ImageEntry
from opponent.models.network import PIXELS, Network
from opponent.models.operations import Extents

_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


def name_place(values: Float[np.ndarray, "h w"] | None) -> tuple[str, float] | None:
    """Which ninth of the shown picture holds most of a map, and the share that it holds."""
    if values is None or not values.any():
        return None
    ninths = np.array(
        [
            [block.sum() for block in np.array_split(row, 3, 1)]
            for row in np.array_split(values, 3, 0)
        ]
    )
    row, column = np.unravel_index(ninths.argmax(), ninths.shape)
    name = "the centre" if row == column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"
    return name, float(ninths[row, column] / ninths.sum())


def known_fields(network: Network, layer: str) -> Extents | None:
    """The receptive fields of a layer's elements; None where they cannot be told.

    Args:
        network: the network.
        layer: a layer.
    """
    try:
        return receptive_fields(network, layer)
    except UnknownGeometry:
        return None


def crop_drivers(
    network: Network,
    drivers: Drivers,
    result: Attribution,
    entry: ImageEntry,
    shown: int = SHOWN,
) -> Drivers:
    """The same channels, each with the part of the image where it adds most to its side.

    That of a latent is what the channels see that it is read from. A channel has no crop where its
    layer has no rows and columns, and where its receptive field is unknown or the whole image.

    Args:
        network: the network.
        drivers: the channels of either side.
        result: the attribution of that one image.
        entry: the image.
        shown: a crop's wanted shorter side, in pixels.
    Returns:
        The channels; the caption of a crop is S there.
    Raises:
        Unreadable: the image cannot be read any more.
    """
    through = result.through
    if through == PIXELS or placement(network, through) is None:
        return drivers
    fields = known_fields(network, through)
    if fields is None:
        return drivers
    prepared = network.preprocessing
    attribution = result.attribution[0][:, *result.grid.slices].float().cpu().numpy()
    pictures = dict[int, UInt8[np.ndarray, "h w 3"]]()

    def cropped(driver: Driver, sign: int) -> Driver:
        found = _strongest(sign * attribution[driver.channel])
        channels = [driver.channel]
        if result.dictionary is not None:
            channels = result.dictionary.listens_to(driver.channel)
        box = box_of(fields[:, channels, *found]) if found and channels else None
        if found is None or box is None or box == Box.full(prepared.size):
            return driver
        zoom = zoom_for(prepared, box, shown)
        if zoom not in pictures:
            pictures[zoom] = photograph(entry, prepared, zoom)
        image = crop_picture(pictures[zoom], box, prepared.size)
        caption = f"{attribution[driver.channel, *found]:+.3g}"
        return replace(driver, exemplars=(Tile(image=image, caption=caption),))

    exciting, inhibiting = (
        tuple(cropped(driver, side.sign) for driver in drivers.listed(side)) for side in SIDES
    )
    return replace(drivers, exciting=exciting, inhibiting=inhibiting)


def _strongest(values: Float[np.ndarray, "h w"]) -> tuple[int, int] | None:
    """Row and column of the largest value; None where none is positive."""
    row, column = np.unravel_index(values.argmax(), values.shape)
    return (int(row), int(column)) if values[row, column] > 0 else None
