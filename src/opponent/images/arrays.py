"""Arrays as image files: '.npy', and '.npz' with one array. Nothing is ever unpickled."""

import zipfile
from io import BytesIO
from math import prod
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from opponent.core.errors import Unreadable

ARRAYS = {".npy", ".npz"}
NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"


def most_bytes(limit: int | None = None) -> int:
    """Bytes that are unpacked at most: four for each pixel that an image may have.

    Args:
        limit: how many pixels that is; None is `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    return 4 * (limit or Image.MAX_IMAGE_PIXELS or 2**30)


def read_array(
    file: BinaryIO | BytesIO, size: int, limit: int | None
) -> Shaped[np.ndarray, "h w *c"]:
    """The image in a '.npy' or '.npz' file.

    Args:
        file: the file, at its start.
        size: its length in bytes.
        limit: how many pixels it may have; None for any number.
    Raises:
        Unreadable: it holds several arrays, Python objects, no image, or one of more pixels.
    """
    start = file.read(len(NPY))
    file.seek(0)
    if start == NPY:
        return _read_npy(file, size, limit)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if not all(member.filename.endswith(".npy") for member in members):
            raise Unreadable("not an image")
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members[:5])
            raise Unreadable(f"{len(members)} arrays ({names}): save the image as the only one")
        most = most_bytes(limit)
        if members[0].file_size > most:
            raise Unreadable(f"more than {most:,} bytes when unpacked, which is not read")
        return _read_npy(BytesIO(archive.read(members[0])), members[0].file_size, limit)


def _read_npy(
    file: BinaryIO | BytesIO, size: int, limit: int | None
) -> Shaped[np.ndarray, "h w *c"]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject:
        raise Unreadable("an array of Python objects, which are not read: save numbers")
    if len(shape) not in (2, 3):
        raise Unreadable(f"an array of shape {shape}, not (height, width) or (height, width, c)")
    if limit is not None and shape[0] * shape[1] > limit:
        raise Unreadable(f"larger than {limit / 1e6:.0f} megapixels ({shape[1]} x {shape[0]})")
    wanted = prod(shape) * dtype.itemsize
    if wanted > size:  # and never as much memory as the header says
        raise Unreadable(f"truncated: {size:,} bytes for an array of {wanted:,}")
    data = file.read(wanted)
    if len(data) < wanted:
        raise Unreadable(f"truncated: {len(data):,} of {wanted:,} bytes of the array")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
