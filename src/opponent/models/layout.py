"""Which axis of a layer's output is which: maps are (images, channels, rows, columns)."""

import torch
from jaxtyping import Float
from torch import Tensor


def as_map(tensor: Tensor) -> Float[Tensor, "n c h w"]:
    """A layer's output as maps: vectors (n, c) and tokens (n, t, c) get rows and columns.

    Raises:
        ValueError: the output has another number of axes.
    """
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim == 3:
        return tensor.movedim(2, 1)[..., None]
    if tensor.ndim == 2:
        return tensor[..., None, None]
    raise ValueError(f"a layer's output must have 2 to 4 axes, got shape {tuple(tensor.shape)}")


def from_map(maps: Float[Tensor, "n c h w"], like: Tensor) -> Tensor:
    """The inverse of `as_map`, for an output with as many axes as `like`."""
    if like.ndim == 3:
        return maps.squeeze(3).movedim(1, 2)
    return maps.flatten(1) if like.ndim == 2 else maps


def has_map(shape: tuple[int, ...] | None) -> bool:
    """Whether an output of that shape can be a layer: a tensor of 2 to 4 axes."""
    return shape is not None and 2 <= len(shape) <= 4


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of the map that an output of that shape becomes."""
    channels, height, width = as_map(torch.empty(shape, device="meta")).shape[1:]
    return channels, height, width
