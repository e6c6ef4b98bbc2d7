"""The layout that follows from what is known of a layer: places, sizes, or what its module is."""

import numpy as np
from jaxtyping import Float
from torch import nn

from opponent.core.errors import UnknownLayout
from opponent.models.layout import Layout
from opponent.models.places import Places

CHANNELS_SECOND = (
    nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d, nn.CircularPad2d,
    nn.Dropout2d, nn.ChannelShuffle, nn.LPPool2d, nn.FractionalMaxPool2d,
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.Upsample,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LocalResponseNorm, nn.PixelShuffle,
    nn.PixelUnshuffle, nn.InstanceNorm2d,
)  # fmt: skip
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)


def by_places(shape: tuple[int, ...], images: int, places: Places | None) -> Layout | None:
    """The layout that follows from where elements belong; None where they belong nowhere.

    Args:
        shape: of the output for one image.
        images: its axis of images.
        places: what a pass of places showed; None where it showed nothing.
    Raises:
        UnknownLayout: rows and columns are spread over several axes.
    """
    axes = ["1" if size == 1 else "" for size in shape]
    axes[images] = "n"
    rows, columns = ((), ()) if places is None else (places.rows, places.columns)
    if not rows and not columns:
        # Nothing but a vector can be told.
        return with_channels(axes, shape) if axes.count("") <= 1 else None
    if len(shape) == 2:
        axes[1 - images] = "c"  # of a vector places mean nothing
        return Layout(axes="".join(axes))
    if _channels_move(shape, images, rows, columns):
        return Layout(axes="nchw")
    if len(rows) > 1 or len(columns) > 1:
        raise UnknownLayout(f"rows and columns are spread over several axes of {shape}")
    if rows == columns:
        assert places is not None
        axes[rows[0]] = "t"
        layout = with_channels(axes, shape)
        return None if layout is None else _in_grid(layout, places)
    for axis, letter in ((rows, "h"), (columns, "w")):
        if axis:
            axes[axis[0]] = letter
    return with_channels(axes, shape)


def _channels_move(
    shape: tuple[int, ...], images: int, rows: tuple[int, ...], columns: tuple[int, ...]
) -> bool:
    """Whether places move along channels, since the map has one row or one column.

    So it is after pixels were moved into channels.
    """
    if len(shape) != 4 or images != 0 or 1 not in (*rows, *columns):
        return False
    return (shape[2] == 1 and columns != (2,)) or (shape[3] == 1 and rows == (2,))


def with_channels(axes: list[str], shape: tuple[int, ...]) -> Layout | None:
    """The layout with the only axis that is left as channels; None where several are."""
    left = [number for number, axis in enumerate(axes) if axis == ""]
    if len(left) > 1 or len(axes) > 4:
        return None
    positions = [axis for axis in axes if axis in ("h", "w", "t")]
    if len(set(positions)) < len(positions) or ("t" in positions and len(positions) > 1):
        return None
    if not left and (ones := [k for k, axis in enumerate(axes) if axis == "1"]):
        left = ones[:1] if ones[0] == 1 or not positions else ones[-1:]
    for number in left:
        axes[number] = "c"
    if len(axes) == 4 and axes[:2] == ["n", "c"] and axes[2] in "h1" and axes[3] in "w1":
        return Layout(axes="nchw")
    letters = "".join(axes)
    if "t" in letters:
        return Layout.of_tokens(letters, (shape[letters.index("t")], 1))
    return Layout(axes=letters)


def by_module(shape: tuple[int, ...], images: int, module: nn.Module) -> Layout | None:
    """The layout that the outputs of a kind of module have.

    Args:
        shape: of the output for one image.
        images: its axis of images.
        module: the module.
    """
    if len(shape) == 4 and images == 0 and isinstance(module, CHANNELS_SECOND):
        return Layout(axes="nchw")
    if len(shape) == 3 and images < 2 and type(module) in CHANNELS_LAST:
        letters = "ntc" if images == 0 else "tnc"
        return Layout.of_tokens(letters, (shape[letters.index("t")], 1))
    return None


def _in_grid(layout: Layout, places: Places) -> Layout:
    """The layout of tokens with their grid, if they lie in one; else as a list."""
    at = places.at.round(decimals=3).numpy()
    on = np.flatnonzero(~np.isnan(at[0]))
    spots = at[:, on].T
    extras = sorted(set(range(at.shape[1])) - set(on.tolist()))
    width = _raster(spots)
    if width is not None:
        grid = (len(on) // width, width)
        return Layout.of_tokens(layout.axes, grid, on.tolist(), extras)
    grid = (len(np.unique(spots[:, 0])), len(np.unique(spots[:, 1])))
    if len(np.unique(spots, axis=0)) < len(on) or grid[0] * grid[1] != len(on):
        return layout
    in_rows = on[np.lexsort((spots[:, 1], spots[:, 0]))]
    return Layout.of_tokens(layout.axes, grid, in_rows.tolist(), extras)


def _raster(spots: Float[np.ndarray, "t 2"]) -> int | None:
    """The columns of a grid in which places lie row by row, whatever the order of rows and columns.

    Some may lie at one place, as after an upsampling.
    """
    for width in range(1, len(spots) + 1):
        if len(spots) % width == 0:
            rows = spots.reshape(-1, width, 2)
            if (rows[:, :1, 0] == rows[..., 0]).all() and (rows[:1, :, 1] == rows[..., 1]).all():
                return width
    return None


def placed_at(layout: Layout, places: Places | None) -> tuple[float, float, float, float] | None:
    """Where the map lies on the image, if it has even steps there."""
    if places is None or not places.rows or not places.columns:
        return None
    if layout.grid is not None:
        chosen = places.at[:, list(layout.places)]
        at = chosen.unflatten(1, layout.grid) if chosen.shape[1] == len(layout.places) else None
    else:
        axes = [(layout.axes.find(letter),) for letter in "hw"]
        if axes != [places.rows, places.columns]:
            return None
        at = places.at if axes[0] < axes[1] else places.at.transpose(1, 2)
    if at is None or at.ndim != 3 or 1 in at.shape[1:]:
        return None
    rows, columns = at[0].nanmean(1), at[1].nanmean(0)
    steps = [float(x[-1] - x[0]) / (len(x) - 1) for x in (rows, columns)]
    even = all(
        step > 0 and bool(((x.diff() - step).abs() < 1e-3 * step).all())
        for step, x in zip(steps, (rows, columns), strict=True)
    )
    return (float(rows[0]), float(columns[0]), steps[0], steps[1]) if even else None
