"""Photographs as figures show them: cropped to the receptive field, with their maps laid over."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from opponent.core.box import Box
from opponent.core.errors import Unreadable
from opponent.core.feature import Feature
from opponent.images.imageset import ImageEntry
from opponent.images.loader import stream
from opponent.models.preprocessing import Preprocessing
from opponent.plots import Tile
from opponent.storage.columns import Columns
from opponent.storage.run import Run

# Crops are shown with at least so many pixels, where the photograph has them.
SHOWN = 160
LARGEST = 512


def zoom_for(prepared: Preprocessing, field: Box, shown: int = SHOWN) -> int:
    """How many times larger than the network sees it a photograph is shown."""
    wanted = -(-shown // min(field.height, field.width))
    return max(1, min(wanted, LARGEST // max(prepared.size)))


def photograph(
    entry: ImageEntry, prepared: Preprocessing, zoom: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """What the network sees of a photograph, `zoom` times as large.

    Raises:
        Unreadable: the file cannot be read any more.
    """
    [image] = photographs([entry], prepared, zoom)
    return image


def photographs(
    entries: Sequence[ImageEntry], prepared: Preprocessing, zoom: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """What the network sees of photographs, `zoom` times as large.

    Raises:
        Unreadable: a file cannot be read any more.
    """
    height, width = prepared.size
    short = None if prepared.resize is None else prepared.resize * zoom
    images = stream(entries, size=(height * zoom, width * zoom), resize=short)
    for entry, image in zip(entries, images, strict=True):
        if isinstance(image, Unreadable):
            raise Unreadable(f"{entry.path} cannot be shown: {image.reason}")
        yield image


def spread(
    values: Float[np.ndarray, "y x"],
    window: Box,
    placement: Sequence[float],
    size: tuple[int, int],
    zoom: int = 1,
) -> Float[np.ndarray, "h w"]:
    """A map in the pixels of the image: linear between its elements, zero beyond them.

    Args:
        values: the map within `window`; it is zero elsewhere.
        window: in rows and columns of the layer.
        placement: the image's pixel (row, column) of the layer's first element, and the steps
            between elements.
        size: the network's input, (height, width).
        zoom: how many times larger the result is.
    Source: paper, section 3 (as GradCAM, but each element at its receptive field's centre).
    """
    row, column, down, across = placement
    # A pixel's centre, in pixels of the network's input and then in elements of the window.
    rows, columns = (((torch.arange(n * zoom) + 0.5) / zoom - 0.5).double() for n in size)
    rows = (rows - row) / down - window.top
    columns = (columns - column) / across - window.left
    # A rim of zeros for the values to fall to; grid_sample counts from -1 to 1.
    padded = F.pad(torch.from_numpy(values).double()[None, None], (1, 1, 1, 1))
    y = (rows + 1) / (window.height + 1) * 2 - 1
    x = (columns + 1) / (window.width + 1) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
    sampled = F.grid_sample(padded, grid, mode="bilinear", align_corners=True)
    return sampled[0, 0].clamp(min=0).numpy().astype(np.float32)


def tile(
    image: UInt8[np.ndarray, "h w 3"],
    maps: tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]],
    *,
    window: Box,
    placement: Sequence[float] | None,
    field: Box,
    size: tuple[int, int],
    zoom: int,
    caption: str = "",
) -> Tile:
    """A photograph with its excitation and inhibition map, cropped to the receptive field.

    Where the layer has no rows and columns, the tile has no maps.
    """
    shown = Box(
        top=field.top * zoom,
        left=field.left * zoom,
        height=field.height * zoom,
        width=field.width * zoom,
    ).slices
    if placement is None:
        return Tile(image=image[shown], caption=caption)
    plus, minus = (spread(values, window, placement, size, zoom)[shown] for values in maps)
    return Tile(image=image[shown], excitation=plus, inhibition=minus, caption=caption)


def run_tiles(
    run: Run,
    feature: Feature,
    columns: Columns,
    indices: Sequence[int],
    *,
    shown: int = SHOWN,
) -> list[Tile]:
    """Images of a run, each captioned with its activation in standard deviations of all images.

    Args:
        run: the run.
        feature: one of its features.
        columns: that feature's columns.
        indices: which rows of the columns.
        shown: the crop's wanted shorter side, in pixels.
    """
    prepared, field = run.preprocessing, run.receptive_field(feature)
    zoom = zoom_for(prepared, field, shown)
    deviation = float(columns.activation.std()) or 1.0
    entries = [run.images.find(columns.images[i]) for i in indices]
    tiles = []
    for i, image in zip(indices, photographs(entries, prepared, zoom), strict=True):
        tiles.append(
            tile(
                image,
                (columns.excitation_map[i], columns.inhibition_map[i]),
                window=run.through_window(feature),
                placement=run.manifest.placement,
                field=field,
                size=prepared.size,
                zoom=zoom,
                caption=f"{columns.activation[i] / deviation:+.1f} sd",
            )
        )
    return tiles
