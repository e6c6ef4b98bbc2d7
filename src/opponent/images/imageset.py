"""Images by id: an entry says where one lies, a set holds all of a source."""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from opponent.core.text import first_few
from opponent.images.listing import file_size

if TYPE_CHECKING:
    from opponent.images.sources import Images

# A photograph that is no file: what an image source gives for an id.
Picture = Image.Image | Shaped[np.ndarray, "h w c"] | Shaped[np.ndarray, "h w"]


class Member(NamedTuple):
    """Where an image lies in an archive, so that it is read without unpacking anything else.

    Args:
        offset: of its bytes in a ".tar", of its local header in a ".zip".
        length: of its bytes as they are stored.
        zipped: whether it is in a ".zip".
    """

    offset: int
    length: int
    zipped: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """One image: where it lies and what it is called.

    Args:
        id: stable, unique in its `ImageSet`, always valid UTF-8: the POSIX path relative to the
            source's root; a single file's name; of a crop 'astronaut@120,64+192' (top, left and
            side) or, if it is not square, 'astronaut@120,64+192x256' (height x width).
        path: the file on disk; None where an image source of the user's own holds the image.
        member: which part of the file it is, where the file is an archive.
        box: (top, left, height, width) of a crop of the upright photograph, in its own pixels.
        read: gives the upright photograph for the id, where there is no file.
        content: what its content is known to be, as `images.content.digest_of` gives it; an image
            of another content is refused.
    """

    id: str
    path: Path | None = None
    member: Member | None = None
    box: tuple[int, int, int, int] | None = None
    read: Callable[[str], Picture] | None = field(default=None, compare=False, repr=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def where(self) -> str:
        """The file's path, or the id of an image that is no file, for messages."""
        if self.path is None:
            return self.id
        return str(self.path) if self.member is None else f"{self.id} in {self.path}"

    @property
    def bytes(self) -> int | None:
        """Its bytes as they are stored; -1 where they are missing, None where it is no file."""
        if self.path is None:
            return None
        size = file_size(self.path)
        if self.member is None:
            return size
        return self.member.length if self.member.offset + self.member.length <= size else -1


@dataclass(frozen=True, kw_only=True)
class ImageSet(Sequence[ImageEntry]):
    """A sequence of images with unique ids.

    Args:
        source: what the user gave, as text.
        entries: the images, in their order.
        origin: what holds them, where they are no files: it is handed over when they are needed
            again.
    Raises:
        ValueError: two entries have the same id.

    >>> import opponent
    >>> images = opponent.open_images("photos", size=(64, 64))
    >>> few = opponent.ImageSet(source="a few", entries=images[:3])
    >>> few
    ImageSet('a few': 3 images)
    >>> few.find(images[1].id) == images[1]
    True
    """

    source: str
    entries: tuple[ImageEntry, ...]
    origin: "Images | None" = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self._by_id) < len(self.entries):
            counts = Counter(entry.id for entry in self.entries)
            twice = [id for id, count in counts.items() if count > 1]
            raise ValueError(
                f"{self.source!r} names {len(twice)} of its images more than once: "
                f"{first_few(twice)}; name each image once"
            )

    @cached_property
    def _by_id(self) -> dict[str, ImageEntry]:
        return {entry.id: entry for entry in self.entries}

    def __repr__(self) -> str:
        return f"ImageSet({self.source!r}: {len(self):,} images)"

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ImageEntry, ...]: ...
    def __getitem__(self, index: int | slice) -> ImageEntry | tuple[ImageEntry, ...]:
        return self.entries[index]

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of every entry's id, box and file size in bytes.

        A cheap fingerprint of the list, the same wherever its folder lies. A file that is missing
        or cannot be looked at counts with size -1, an image that is no file without a size, one in
        an archive with the size that it has there.

        Returns:
            64 hexadecimal digits.
        """
        lines = (json.dumps([e.id, e.box, e.bytes]) + "\n" for e in self.entries)
        return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()

    def with_contents(self, contents: Sequence[bytes | None]) -> "ImageSet":
        """The same images, with what their contents are known to be.

        Args:
            contents: of each image the digest of its content; None where that is not known.
        """
        known = zip(self.entries, contents, strict=True)
        entries = tuple(replace(entry, content=content) for entry, content in known)
        return replace(self, entries=entries)

    def find(self, id: str) -> ImageEntry:
        """The one entry with this id, this file name, or an id that ends so.

        Args:
            id: the id, or its end.
        Raises:
            LookupError: no entry fits (the message lists the nearest ids), or several do.
        """
        if id in self._by_id:
            return self._by_id[id]
        # Whole names first: '1.jpg' is 'cats/1.jpg', even where there is a 'cats/11.jpg'.
        for ending in (f"/{id}", id) if id else ():
            matches = [entry.id for entry in self.entries if entry.id.endswith(ending)]
            if len(matches) == 1:
                return self._by_id[matches[0]]
            if matches:
                raise LookupError(
                    f"{id!r} fits {len(matches)} images of {self.source!r}: {first_few(matches)}; "
                    "give more of the id"
                )
        near = difflib.get_close_matches(id, list(self._by_id), n=5, cutoff=0.4)
        hint = (
            f"the nearest ids: {first_few(near)}"
            if near
            else f"its ids: {first_few([*self._by_id])}"
        )
        raise LookupError(f"{self.source!r} has no image {id!r} among its {len(self)}; {hint}")
