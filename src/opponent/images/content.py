"""An image's file or pixels, opened; and a digest of them, so that others are noticed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image

from opponent.core.errors import Changed, Unreadable
from opponent.core.text import first_few, one_line
from opponent.images.archives import open_entry
from opponent.images.bands import Raw
from opponent.images.imageset import ImageEntry

# A file that is open, or pixels that are no file.
Source = BinaryIO | BytesIO | Image.Image | np.ndarray
# Bytes of a digest: a half of SHA-256, since a set of images may have millions.
LENGTH = 16


@contextmanager
def opened(entry: ImageEntry, *, digested: bool = False) -> Iterator[tuple[Source, bytes]]:
    """An image's file, open, or its pixels; and the digest of its content, where that is needed.

    Raises:
        Changed: another content of it is known.
    """
    digested = digested or entry.content is not None
    if entry.path is None:
        picture = _from_source(entry)
        content = of_picture(picture) if digested else b""
        refuse_other_content(entry, content)
        yield picture, content
        return
    with open_entry(entry) as file:
        content = of_file(file) if digested else b""
        refuse_other_content(entry, content)
        yield file, content


def _from_source(entry: ImageEntry) -> Raw:
    """The photograph that an image source of the user's own gives."""
    if entry.read is None:
        raise Unreadable("it is no file, and its image source was not handed over")
    try:
        picture = entry.read(entry.id)
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # of the user's own code
        raise Unreadable(one_line(error)) from error
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (2, 3):
            raise Unreadable(
                f"its image source gave an array of shape {picture.shape}, not (height, width) or "
                "(height, width, channels)"
            )
        shape = picture.shape[:2]
    elif isinstance(picture, Image.Image):
        shape = picture.size
    else:
        kind = type(picture).__name__
        raise Unreadable(f"its image source gave {kind}, not a PIL image or an array")
    if not all(shape):
        raise Unreadable("its image source gave an image without pixels")
    return picture


def of_file(file: BinaryIO | BytesIO) -> bytes:
    """The digest of a file's bytes; it is at its start before and after."""
    digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type] # any that reads
    file.seek(0)
    return digest[:LENGTH]


def of_picture(picture: Raw) -> bytes:
    """The digest of pixels that are no file, with their type and shape."""
    if isinstance(picture, Image.Image):
        about, data = f"{picture.mode} {picture.size}", picture.tobytes()
    else:
        about, data = f"{picture.dtype.str} {picture.shape}", picture.tobytes()
    digest = hashlib.sha256(about.encode())
    digest.update(data)
    return digest.digest()[:LENGTH]


def refuse_other_content(entry: ImageEntry, content: bytes) -> None:
    """Refuse an image of which another content is known.

    Args:
        entry: the image.
        content: what it has now.
    Raises:
        Changed: it is another.
    """
    if entry.content not in (None, content):
        raise Changed(changed([entry.where]))


def changed(names: list[str]) -> str:
    """What is said of images whose content has changed since they were scanned."""
    them = "it" if len(names) == 1 else "them"
    return (
        f"{first_few(names)} changed since the scan: the name is the same, the content is not. Put "
        f"{them} back as before, or scan again into another folder"
    )
