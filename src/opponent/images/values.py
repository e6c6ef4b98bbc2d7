"""What the values of an image mean: which is black, which is white, and how people are shown it."""

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from opponent.core.errors import Unreadable

# A decoded image: RGB bytes, or any number of bands with 0 for black and 1 for white.
Decoded = UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w c"]
# The values that stand for black and white.
Range = tuple[float | int, float | int]
# Above it 16 bits are all in use, so that nothing but their range can be meant.
_FIFTEEN_BITS = 2**15 - 1
# What counts as a whole number after multiplying by 255. Half precision is not enough for it.
_WHOLE = 1e-3
# Rows that are rounded at a time.
_ROWS = 256


def check_range(value_range: Range | None) -> None:
    """Check that a range has a lower and a higher end.

    Raises:
        ValueError: it has not.
    """
    if value_range is not None and not (
        np.isfinite(value_range).all() and value_range[0] < value_range[1]
    ):
        raise ValueError(
            f"value_range {value_range} must be (black, white), two numbers, the first the lower"
        )


def black_and_white(values: Shaped[np.ndarray, "*shape"], told: Range | None) -> Range:
    """The values that stand for black and white.

    Args:
        values: of an image.
        told: what the network's preprocessing says.
    Returns:
        What it says; else 0 and 255 for bytes, 0 and 1 for floats that lie there, and 0 and 65,535
        for integers that use all 16 bits.
    Raises:
        Unreadable: it says nothing, and the values leave open what is meant; or the values are
            bytes, and it speaks of others; or they are not finite, or no numbers.
    """
    kind, is_bytes = values.dtype.kind, values.dtype in (np.uint8, np.bool_)
    if kind not in "buif":
        raise Unreadable(f"values of type {values.dtype}, not numbers")
    if kind == "f" and not np.isfinite(values).all():
        raise Unreadable("floating-point pixels that are not all finite")
    if told is not None:
        if is_bytes and not (told[0] >= 0 and 1 < told[1] <= 255):
            raise Unreadable(
                f"8-bit values, and value_range says {told[0]:g} to {told[1]:g}: convert the "
                "image, or scan it with a network whose value_range fits"
            )
        return told
    if is_bytes:
        return 0, 1 if kind == "b" else 255
    low, high = float(values.min()), float(values.max())
    if kind == "f" and low >= 0 and high <= 1:
        return 0, 1
    if kind != "f" and low >= 0 and _FIFTEEN_BITS < high <= 65535:
        return 0, 65535
    raise Unreadable(_undecided(values.dtype, low, high))


def _undecided(dtype: np.dtype, low: float, high: float) -> str:
    """Why an image is not read whose values leave open what is black and white."""
    is_float = dtype.kind == "f"
    white = high if is_float or high < 1 else 2 ** int(high).bit_length() - 1
    example = f"({min(low, 0):g}, {white:g})"
    return (
        f"{8 * dtype.itemsize}-bit {'floating-point ' if is_float else ''}values from {low:g} to "
        f"{high:g}: say which are black and white, such as Preprocessing(value_range={example}) "
        f"or scan --value-range {example[1:-1].replace(',', '')}"
    )


def to_unit(
    values: Shaped[np.ndarray, "*shape"], told: Range | None
) -> Float32[np.ndarray, "*shape"]:
    """Values with 0 for black and 1 for white; others lie beyond.

    Args:
        values: of an image.
        told: what the network's preprocessing says of black and white.
    Raises:
        Unreadable: as `black_and_white`.
    """
    low, high = black_and_white(values, told)
    unit = np.array(values, np.float32)
    unit -= np.float32(low)
    unit /= np.float32(high - low)
    return unit


def to_bytes(
    values: Shaped[np.ndarray, "*shape"], *, exact: bool = False
) -> UInt8[np.ndarray, "*shape"]:
    """Values as bytes, rounded.

    Args:
        values: of an image.
        exact: refuse floats that are not bytes over 255.
    Raises:
        Unreadable: as `black_and_white`.
    """
    if values.dtype == np.uint8:
        return values
    low, high = black_and_white(values, None)
    result = np.empty(values.shape, np.uint8)
    # Some rows at a time, for double precision takes eight bytes a value.
    for first in range(0, len(values), _ROWS):
        rows = slice(first, first + _ROWS)
        scaled = (values[rows].astype(np.float64) - low) * (255 / (high - low))
        rounded = np.rint(scaled)
        if exact and values.dtype.kind == "f" and np.abs(scaled - rounded).max() > _WHOLE:
            raise Unreadable(
                "floating-point values between the 256 steps of a byte: "
                "Preprocessing(value_range=(0, 1)) keeps them"
            )
        result[rows] = rounded.astype(np.uint8)
    return result


def as_picture(pixels: Decoded) -> UInt8[np.ndarray, "h w 3"]:
    """An image as figures and pages show it.

    Args:
        pixels: as decoded.
    Returns:
        RGB as it is. One band, or the first of two, in grey; of more bands the first three as red,
        green and blue. Black is 0 and white 1; what lies beyond is cut off.
    """
    if pixels.dtype == np.uint8:
        return pixels
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    return np.array(np.rint(255 * shown.clip(0, 1)), np.uint8)
