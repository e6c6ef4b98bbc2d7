"""Pictures as figures and pages show them: photographs cropped to a receptive field, with maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from opponent.core.box import Box, scale_box
from opponent.core.colour import on_white, overlay, subdued
from opponent.core.feature import Feature
from opponent.core.side import Side
from opponent.core.text import in_deviations
from opponent.images.imageset import ImageEntry
from opponent.images.loader import load_images
from opponent.images.values import as_picture
from opponent.models.preprocessing import Preprocessing
from opponent.storage.columns import Columns
from opponent.storage.run import Run
from opponent.synthesis.cache import CachedImage

# Crops are shown with at least so many pixels, where the photograph has them.
SHOWN = 160
LARGEST = 512
# What is drawn at full strength: of one image's values, and of all images' peaks. Source: ours.
_OF_VALUES, _OF_PEAKS = 0.995, 0.9


# What is shown


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image as shown.

    Args:
        image: sRGB bytes, already cropped to the receptive field.
        excitation: phi+ at the image's own resolution, in units of activation; None for no map.
        inhibition: phi-, the same; there where excitation is.
        caption: a few words or a number, such as '+3.1 sd'.
    Raises:
        ValueError: one map without the other; a map of another size than the image; a value that is
            negative or not finite.
    """

    image: UInt8[np.ndarray, "h w 3"]
    excitation: Float[np.ndarray, "h w"] | None = None
    inhibition: Float[np.ndarray, "h w"] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        if (self.excitation is None) != (self.inhibition is None):
            raise ValueError("Tile: give both excitation and inhibition, or neither")
        for name, values in (("excitation", self.excitation), ("inhibition", self.inhibition)):
            if values is None:
                continue
            if values.shape != self.image.shape[:2]:
                raise ValueError(
                    f"Tile: {name} is {values.shape}, the image {self.image.shape[:2]}; resize the "
                    "map to the image first"
                )
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise ValueError(f"Tile: {name} must be finite and >= 0; inhibition too is >= 0")

    def overlaid(self, scale: float, side: Side | str = Side.BOTH) -> UInt8[np.ndarray, "h w 3"]:
        """The image under its maps; grey and pale alone where it has none.

        Args:
            scale: the value drawn at full strength, one for all images shown together.
            side: which of the maps.
        """
        if self.excitation is None or self.inhibition is None:
            return subdued(self.image)
        plus, minus = self.excitation, self.inhibition
        sign = Side.of(side).sign
        if sign > 0:
            minus = np.zeros_like(minus)
        elif sign < 0:
            plus = np.zeros_like(plus)
        return overlay(self.image, plus, minus, scale)


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A synthesised image with its opacity.

    Args:
        image: straight-alpha sRGB, bytes or floats in [0, 1].
        caption: a few words or a number, such as '+3.1 sd'.
    """

    image: UInt8[np.ndarray, "h w 4"] | Float[np.ndarray, "h w 4"]
    caption: str = ""


def opaque(picture: Tile | Synthetic) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as sRGB bytes without opacity: a synthesised image lies on white paper."""
    if isinstance(picture, Tile):
        return picture.image
    image = picture.image
    return on_white(np.asarray(image, dtype=np.float64) / (255 if image.dtype == np.uint8 else 1))


# The scale of heat maps


def overlay_scale(tiles: Sequence[Tile]) -> float:
    """The value of phi that is drawn at full strength in all images shown together.

    Each image's own peak is its 99.5th percentile (of phi+ and phi- alike), so that a single pixel
    does not set it; the scale is the 90th percentile of those peaks, so that a single image does
    not pale all others. Blank images do not count.

    Args:
        tiles: the images shown together; those without maps do not count.
    Returns:
        In units of activation; 0 if every map is blank.
    Source: paper, section 3 ('normalized across images'); the percentiles are ours.
    """
    peaks = [
        _peaks(tile.excitation, tile.inhibition)
        for tile in tiles
        if tile.excitation is not None and tile.inhibition is not None
    ]
    return _scale_of_peaks(np.array(peaks, np.float64))


def map_scale(
    excitation: Float[np.ndarray, "n h w"], inhibition: Float[np.ndarray, "n h w"]
) -> float:
    """As `overlay_scale`, from the layer's own maps: for more images than can be cropped at once.

    Args:
        excitation, inhibition: phi+ and phi- of each image, before they are brought to its pixels.
    Returns:
        In units of activation; 0 if every map is blank.
    """
    if not len(excitation):
        return 0.0
    return _scale_of_peaks(_peaks(excitation, inhibition).astype(np.float64))


def _peaks(
    excitation: Float[np.ndarray, "*n h w"], inhibition: Float[np.ndarray, "*n h w"]
) -> Float[np.ndarray, "*n"]:
    values = np.maximum(excitation, inhibition)
    peaks = np.quantile(values, _OF_VALUES, axis=(-2, -1))
    # Maps of a few pixels only: the percentile passes them by.
    return np.asarray(np.where(peaks > 0, peaks, values.max((-2, -1))))


def _scale_of_peaks(peaks: Float[np.ndarray, " n"]) -> float:
    peaks = peaks[peaks > 0]
    return float(np.quantile(peaks, _OF_PEAKS)) if peaks.size else 0.0


# Photographs, maps and synthesised images, cropped


def zoom_for(prepared: Preprocessing, field: Box, shown: int = SHOWN) -> int:
    """How many times larger than the network sees it a photograph is shown.

    Args:
        prepared: the network's preprocessing.
        field: the crop, in pixels of the network's input.
        shown: the crop's wanted shorter side, in pixels.
    """
    wanted = -(-shown // min(field.height, field.width))
    return max(1, min(wanted, LARGEST // max(prepared.size)))


def photograph(
    entry: ImageEntry, prepared: Preprocessing, zoom: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """What the network sees of a photograph, `zoom` times as large.

    Args:
        entry: the photograph.
        prepared: the network's preprocessing.
        zoom: how many times larger the result is.
    Raises:
        Unreadable: the file cannot be read any more.
    """
    [image] = photographs([entry], prepared, zoom)
    return image


def photographs(
    entries: Sequence[ImageEntry], prepared: Preprocessing, zoom: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """What the network sees of photographs, `zoom` times as large, as people are shown it.

    Args:
        entries: the photographs.
        prepared: the network's preprocessing.
        zoom: how many times larger the results are.
    Raises:
        Unreadable: a file cannot be read any more.
    """
    return map(
        as_picture, load_images(entries, prepared.fit.enlarged(zoom), problem="cannot be shown")
    )


def crop_picture(
    picture: UInt8[np.ndarray, "h w c"], field: Box, size: tuple[int, int]
) -> UInt8[np.ndarray, "y x c"]:
    """The crop of a picture that shows the network's input at any scale.

    Args:
        picture: of the network's whole input.
        field: the crop, in pixels of the network's input.
        size: the network's input, (height, width).
    """
    return picture[scale_box(field, size, picture.shape[:2]).slices]


def upsample_map(
    values: Float[np.ndarray, "y x"],
    window: Box,
    placement: Sequence[float],
    size: tuple[int, int],
    zoom: int = 1,
    part: Box | None = None,
) -> Float[np.ndarray, "h w"]:
    """A map in the pixels of the image: linear between its elements, zero beyond them.

    Args:
        values: the map within `window`; it is zero elsewhere.
        window: in rows and columns of the layer.
        placement: the image's pixel (row, column) of the layer's first element, and the steps
            between elements.
        size: the network's input, (height, width).
        zoom: how many times larger the result is.
        part: the pixels of the result that are wanted; default: all.
    Source: paper, section 3 (as GradCAM, but each element at its receptive field's centre).
    """
    row, column, down, across = placement
    part = part or Box(top=0, left=0, height=size[0] * zoom, width=size[1] * zoom)
    rows, columns = (np.arange(x.start, x.stop) for x in part.slices)
    # What each of the map's rows and columns has in each pixel's, whose centre lies at a half.
    of_rows = _tents(((rows + 0.5) / zoom - 0.5 - row) / down - window.top, window.height)
    of_columns = _tents(
        ((columns + 0.5) / zoom - 0.5 - column) / across - window.left, window.width
    )
    upsampled: Float[np.ndarray, "h w"] = of_rows @ values.astype(np.float64) @ of_columns.T
    return upsampled.clip(0).astype(np.float32)


def _tents(places: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, "n count"]:
    """The shares of elements at 0, 1, 2 ... in what lies at some places between them."""
    shares: Float[np.ndarray, "n count"] = 1 - np.abs(places[:, None] - np.arange(count))
    return shares.clip(0)


def crop_tile(
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

    Args:
        image: what the network sees of it, `zoom` times as large.
        maps: phi+ and phi- within `window`.
        window: in rows and columns of the layer.
        placement: as in `upsample_map`; None where the layer has no rows and columns: no maps.
        field: the crop, in pixels of the network's input.
        size: the network's input, (height, width).
        zoom: how many times larger the image is.
        caption: the tile's.
    """
    shown = crop_picture(image, field, size)
    if placement is None:
        return Tile(image=shown, caption=caption)
    part = scale_box(field, size, image.shape[:2])
    plus, minus = (upsample_map(x, window, placement, size, zoom, part) for x in maps)
    return Tile(image=shown, excitation=plus, inhibition=minus, caption=caption)


def crop_synthetic(
    cached: CachedImage, field: Box, size: tuple[int, int], caption: str = ""
) -> Synthetic:
    """A synthesised image, cropped to the receptive field.

    Args:
        cached: the image; an accentuation is shown without opacity, since it is a photograph all
            over.
        field: the crop, in pixels of the network's input.
        size: the network's input, (height, width).
        caption: the picture's.
    """
    pixels = cached.pixels()
    if cached.kind == "accentuation":
        pixels = pixels.copy()
        pixels[..., 3] = 255
    return Synthetic(image=crop_picture(pixels, field, size), caption=caption)


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
    Raises:
        Unreadable: an image cannot be read any more.
    """
    prepared, field = run.preprocessing, run.receptive_field(feature)
    zoom = zoom_for(prepared, field, shown)
    entries = [run.images.find(columns.images[i]) for i in indices]
    return [
        crop_tile(
            image,
            (columns.excitation_map[i], columns.inhibition_map[i]),
            window=run.through_window(feature),
            placement=run.manifest.placement,
            field=field,
            size=prepared.size,
            zoom=zoom,
            caption=in_deviations(float(columns.activation[i] / columns.deviation)),
        )
        for i, image in zip(indices, photographs(entries, prepared, zoom), strict=True)
    ]
