"""Where images come from: stable ids, decoding, and files that cannot be read."""

import difflib
import hashlib
import importlib.util
import json
import math
import os
import stat
import struct
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, product
from pathlib import Path, PurePath
from queue import SimpleQueue
from threading import Thread
from typing import BinaryIO, Literal, NamedTuple, overload

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from opponent.core.errors import Unreadable

# Extensions that promise a picture, whatever is inside. The second line is not read here, but
# listed, so that such files are reported and not passed over.
_READ = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
_NOT_READ = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".nef", ".cr2"}

# Photographs of everyday scenes, objects and surfaces that the two packages install with
# themselves. Left out: drawings and renderings (color, logo, phantom, horse, chessboards), text
# (page, text), pictures by microscopes, telescopes and eye cameras (cell, ihc, microaneurysms,
# retina, hubble_deep_field, moon), a clock blurred on purpose, and motorcycle_right, which is
# motorcycle_left from a step aside.
_PHOTOS = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
        "motorcycle_left.png rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
# Enough for percentiles of a distribution, and minutes of scanning on a processor.
_PHOTO_CROPS = 2000

# EXIF 2.3, tag 0x0112 and its values: what turns the stored rows and columns upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where the first row or column lies to the right, or at the bottom, once the image is upright.
_FROM_RIGHT, _FROM_BOTTOM, _ON_ITS_SIDE = {2, 3, 6, 7}, {3, 4, 7, 8}, {5, 6, 7, 8}
# What libjpeg divides the sides by, and how many times the pixels wanted must be left: `load` says
# what fewer would change. Pillow's `Image.thumbnail` has the same 2.
_DRAFTS, _SPARE = (8, 4, 2), 2
_PREFIX = 18  # bytes at a file's start that `_plugin` looks at


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """One image: where it lies and what it is called.

    Args:
        id: stable, unique in its `ImageSet`, always valid UTF-8: the POSIX path relative to the
            source's root; a single file's name; of a crop 'astronaut@120,64+192' (top, left and
            side) or, if it is not square, 'astronaut@120,64+192x256' (height x width).
        path: the file on disk.
        box: (top, left, height, width) of a crop of the upright photograph, in its own pixels.
    """

    id: str
    path: Path
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSet(Sequence[ImageEntry]):
    """A sequence of images with unique ids.

    Args:
        source: what the user gave.
        entries: the images, in their order.
    Raises:
        ValueError: two entries have the same id.
    """

    source: str
    entries: tuple[ImageEntry, ...]

    def __post_init__(self) -> None:
        if len(self._by_id) < len(self.entries):
            counts = Counter(entry.id for entry in self.entries)
            twice = [id for id, count in counts.items() if count > 1]
            raise ValueError(
                f"{self.source!r} names {len(twice)} of its images more than once: "
                f"{_some(twice)}; name each image once"
            )

    @cached_property
    def _by_id(self) -> dict[str, ImageEntry]:
        return {entry.id: entry for entry in self.entries}

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
        or cannot be looked at counts with size -1.
        """
        lines = (json.dumps([e.id, e.box, _file_size(e.path)]) + "\n" for e in self.entries)
        return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()

    def find(self, id: str) -> ImageEntry:
        """The one entry with this id, this file name, or an id that ends so.

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
                    f"{id!r} fits {len(matches)} images of {self.source!r}: {_some(matches)}; "
                    "give more of the id"
                )
        near = difflib.get_close_matches(id, list(self._by_id), n=5, cutoff=0.4)
        hint = f"the nearest ids: {_some(near)}" if near else f"its ids: {_some([*self._by_id])}"
        raise LookupError(f"{self.source!r} has no image {id!r} among its {len(self)}; {hint}")


def open_images(
    source: str | Path | Sequence[str | Path] | ImageSet, *, size: tuple[int, int] = (224, 224)
) -> ImageSet:
    """The images that a source names; none is decoded yet.

    In a folder, at any depth, these files count as images:
    - those whose extension promises a picture (.jpg .png .webp .tif .gif .bmp and the like; also
      .heic, .svg and others that are not read), so that a text file called 'a.jpg' is reported as
      unreadable and not passed over;
    - all others that begin as a JPEG, PNG, WebP, TIFF, GIF or BMP file does, or that cannot be
      opened to look. So 'readme.txt', 'labels.csv' or 'Thumbs.db' beside the images do not count.
    Names that begin with a dot are skipped. Links to folders are followed, but not back into a
    folder that they lie in. A subfolder that cannot be opened counts as one unreadable image.

    Args:
        source: a folder; an image file; a '.txt' list in UTF-8 (one path a line, absolute or
            relative to the list's own folder; blank lines and lines that begin with '#' do not
            count); several files; an `ImageSet`, returned as it is; or the word 'photos': about
            2,000 crops of the photographs in scikit-image and scikit-learn, nothing downloaded.
        size: (height, width) in pixels of the network's input. Only 'photos' uses it: the crops
            have its aspect, and are smaller only where the photograph is hardly larger than it.
    Returns:
        The images: of a folder sorted by id, else in the order given.
    Raises:
        FileNotFoundError: there is no such folder or file.
        ImportError: 'photos' without scikit-image or scikit-learn.
        ValueError: no image in the source, or one named twice.
    """
    if isinstance(source, ImageSet):
        return source
    if source == "photos":
        if Path(source).exists():
            raise ValueError(
                "'photos' means the photographs in scikit-image and scikit-learn, but here is also "
                "a folder or file called 'photos'; for that one write './photos'"
            )
        return ImageSet(source="photos", entries=tuple(_photo_crops(size)))
    if not isinstance(source, str | Path):
        return _from_files([Path(file) for file in source])
    path = Path(source)
    if path.is_dir():
        files = sorted((_id(file.relative_to(path)), file) for file in _image_files(path))
    elif path.is_file() and path.suffix.lower() == ".txt":
        files = [(_id(line), path.parent / line) for line in _listed(path)]
    elif path.is_file():
        files = [(_id(PurePath(path.name)), path)]
    else:
        raise FileNotFoundError(
            f"{str(source)!r} is no folder and no file; give a folder of images, an image file, a "
            "'.txt' list of paths, or the word 'photos'"
        )
    if not files:
        raise ValueError(
            f"{str(source)!r} has no images; in a folder, files count that have an image's "
            "extension or first bytes and are not hidden, in a '.txt' list each line is a path"
        )
    entries = tuple(ImageEntry(id=id, path=file) for id, file in files)
    return ImageSet(source=str(source), entries=entries)


def decode(entry: ImageEntry) -> Image.Image:
    """The upright photograph in 8-bit RGB, cropped to the entry's box.

    JPEG, PNG, WebP, TIFF, GIF and BMP are read (of several frames or pages the first) and turned
    as their EXIF orientation says. Transparency is laid over white. 16-bit grey, and 32-bit
    integers within its range, are scaled by that range; floating-point pixels within [0, 1] by
    255; all other integers and floats from their lowest to their highest value (black, if they are
    all the same). Colour profiles are ignored, as they are where networks are trained.

    Raises:
        Unreadable: for anything wrong with the file, for a box that is not inside the photograph,
            and for more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, a guard against decompression
            bombs.
    """
    return _decoded(entry).image


class _Piece(NamedTuple):
    """A photograph or a crop of it, perhaps of fewer pixels; those at its edges may be cut."""

    image: Image.Image
    smaller: int  # 1, 2, 4 or 8: pixels of the photograph that one side of the image's replaces
    left: float  # where the piece begins, in the image's pixels
    top: float
    shape: tuple[int, int]  # height and width in the photograph's own pixels


_Wanted = tuple[tuple[int, int], int | None]  # size and resize of `fit`


def _decoded(entry: ImageEntry, wanted: _Wanted | None = None) -> _Piece:
    try:
        if problem := _not_a_file(entry.path):
            raise Unreadable(problem)
        with entry.path.open("rb") as file:
            whole = _read(file, entry.path.suffix.lower(), entry.box, wanted)
        return _crop(whole._replace(image=_to_rgb(whole.image)), entry.box)
    except (MemoryError, Unreadable):
        raise
    except PermissionError as error:
        raise Unreadable("permission denied") from error
    except Exception as error:  # a drive that fails, or a conversion that Pillow does not know
        raise Unreadable(f"cannot be read: {_one_line(error)}") from error


def fit(
    image: Image.Image, *, size: tuple[int, int], resize: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Scale an image and crop its centre: torchvision's Resize and CenterCrop, but for rounding.

    Args:
        image: 8-bit RGB.
        size: (height, width) of the result in pixels.
        resize: pixels that the short side is scaled to before the crop. None, or fewer than it
            takes to cover `size`: as many as just cover it.
    Returns:
        The centre, by antialiased bilinear interpolation; enlarged where the image is small.
    Raises:
        ValueError: a size or resize below 1.
    """
    _check_sizes(size, resize)
    piece = _Piece(image, 1, 0.0, 0.0, (image.height, image.width))
    return _fitted(piece, size, resize)


def _check_sizes(size: tuple[int, int], resize: int | None) -> None:
    if min(size) < 1 or (resize is not None and resize < 1):
        raise ValueError(f"size {size} and resize {resize} are in pixels: give at least 1")


def _scale(shape: tuple[int, int], size: tuple[int, int], resize: int | None) -> Fraction:
    # Fractions, because a side scaled to exactly 224 must not be rounded down to 223.
    covering = max(Fraction(size[0], shape[0]), Fraction(size[1], shape[1]))
    return max(covering, Fraction(resize or 1, min(shape)))


def _fitted(piece: _Piece, size: tuple[int, int], resize: int | None) -> UInt8[np.ndarray, "h w 3"]:
    scale = _scale(piece.shape, size, resize)
    top, bottom = _centre(piece.shape[0], scale, size[0])
    left, right = _centre(piece.shape[1], scale, size[1])
    # Resampling the crop only: a panorama of 1 x 60,000 would grow to 224 x 13,440,000.
    rows = [piece.top + y / piece.smaller for y in (top, bottom)]
    columns = [piece.left + x / piece.smaller for x in (left, right)]
    box = (columns[0], rows[0], columns[1], rows[1])
    return np.array(piece.image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def load(
    entry: ImageEntry, *, size: tuple[int, int], resize: int | None = None, draft: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image and fit it to a size: `fit(decode(entry))`.

    Args:
        entry: the image.
        size, resize: as in `fit`.
        draft: decode a JPEG at 1/2, 1/4 or 1/8 of its sides, where that leaves at least twice as
            many as are wanted: several times as fast on large photographs (`benchmarks.decode`),
            but other pixels. They moved SqueezeNet 1.1's activations by 2 to 7 % of their norm
            (medians of 10 to 100 photographs, from early layers to late), a quarter to a half of
            what saving the network's input as JPEG of quality 95 does. With as many pixels as
            wanted, and not twice as many, it would be 4 to 23 %. So it is for those who ask, and
            a scan of drafts is another scan.
    Raises:
        Unreadable: as `decode`.
        ValueError: as `fit`.
    """
    _check_sizes(size, resize)
    return _fitted(_decoded(entry, (size, resize) if draft else None), size, resize)


_Loaded = UInt8[np.ndarray, "h w 3"] | Unreadable
_Job = tuple[Future[_Loaded], ImageEntry]


def stream(
    entries: Sequence[ImageEntry],
    *,
    size: tuple[int, int],
    resize: int | None = None,
    draft: bool = False,
    workers: int | None = None,
    ahead: int = 64,
) -> Generator[_Loaded, None, None]:
    """Load images in order, in threads, while the consumer works on earlier ones.

    Threads, not processes, which also can die or be left behind. On two cores processes took 1.2 to
    1.5 times the processor time of threads (they send pixels and are told of files), which a scan
    there takes from the network. Pillow decodes and resizes without the interpreter's lock; what
    needs it takes 0.3 to 0.6 ms of 1.9 to 2.4 ms an image (photographs of 320 pixels to 224), or
    0.1 to 0.25 of 0.2 to 0.33 ms (64 to 64). So threads stop at about 1,700 to 3,000 images a
    second, or 4,000 to 9,000: only a network that is faster would gain by processes.

    Args:
        entries: what to load.
        size, resize, draft: as in `load`.
        workers: threads; by default one a processor, but at most 8.
        ahead: how many images may be in memory at once, counting the one that the consumer has.
    Returns:
        An array, or an `Unreadable`, for each entry. Closing the generator drops what has not
        begun, and no thread delays the end of the interpreter.
    Raises:
        ValueError: workers or ahead below 1.
    """
    threads = min(8, os.cpu_count() or 1) if workers is None else workers
    if threads < 1 or ahead < 1:
        raise ValueError(f"workers {threads} and ahead {ahead}: give at least 1 of each")
    return _stream(entries, (size, resize, draft), threads, ahead)


def _stream(
    entries: Sequence[ImageEntry],
    how: tuple[tuple[int, int], int | None, bool],
    threads: int,
    ahead: int,
) -> Generator[_Loaded, None, None]:
    jobs: SimpleQueue[_Job | None] = SimpleQueue()
    pending: deque[Future[_Loaded]] = deque()
    waiting = iter(entries)

    def submit(count: int) -> None:
        for entry in islice(waiting, count):
            pending.append(Future())
            jobs.put((pending[-1], entry))

    # Daemons and no executor: at its end the interpreter waits until an executor's queue is empty.
    for _ in range(threads):
        Thread(target=_work, args=(jobs, *how), daemon=True).start()
    try:
        submit(ahead)
        while pending:
            yield pending.popleft().result()
            submit(1)
    finally:
        for future in pending:
            future.cancel()
        for _ in range(threads):
            jobs.put(None)


def _work(
    jobs: SimpleQueue[_Job | None], size: tuple[int, int], resize: int | None, draft: bool
) -> None:
    while (job := jobs.get()) is not None:
        future, entry = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(load(entry, size=size, resize=resize, draft=draft))
            except Unreadable as error:
                # A new one: the old one's traceback would keep the file's bytes in memory.
                future.set_result(Unreadable(error.reason))
            except BaseException as error:
                future.set_exception(error)
        del job, future


# Pillow decodes by libjpeg-turbo. simplejpeg and OpenCV do so too: they gave the same pixels, to
# the bit, in 0.92 of the time with `fit` at 224, and in a half at 64. Not worth a dependency.
class _Jpeg(JpegImagePlugin.JpegImageFile):
    def getexif(self) -> Image.Exif:
        # Pillow looks for the resolution here, and warns of damage to a block that nobody needs.
        return Image.Exif()


def _plugin(prefix: bytes) -> type[ImageFile.ImageFile] | None:
    # Not Image.open: it warns of large images, and no warning can be silenced in one thread only.
    # It also starts programs (Ghostscript) and takes some text for images.
    if prefix.startswith(b"\xff\xd8\xff"):
        return _Jpeg
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if prefix.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    # The length of a BMP's second header fits in a byte; text that begins with BM has no zeros.
    if prefix.startswith(b"BM") and prefix[15:18] == b"\0\0\0":
        return BmpImagePlugin.BmpImageFile
    return None


def _read(
    file: BinaryIO,
    suffix: str,
    box: tuple[int, int, int, int] | None,
    wanted: _Wanted | None,
) -> _Piece:
    """The whole photograph, upright; of fewer pixels, if that is enough for what is wanted."""
    prefix = file.read(_PREFIX)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    plugin = _plugin(prefix)
    if plugin is None:
        unread = f"{suffix[1:].upper()} files are not read: save it as PNG or JPEG"
        known = "not an image" if suffix not in _NOT_READ else unread
        raise Unreadable(known if size else "empty file")
    limit, smaller = Image.MAX_IMAGE_PIXELS, 1
    try:
        image = plugin(file)
        if limit is not None and image.width * image.height > limit:
            raise Unreadable(
                f"larger than {limit / 1e6:.0f} megapixels ({image.width} x {image.height})"
            )
        stored = image.size
        if wanted is not None and isinstance(image, _Jpeg):
            turned = _orientation(image.info.get("exif", b"")) in _ON_ITS_SIDE
            shape = _shape(stored if turned else stored[::-1], box)
            smaller = _smaller(_scale(shape, *wanted))
            # Pillow takes the scale that leaves at least as many.
            image.draft(None, (stored[0] // smaller, stored[1] // smaller))
        image.load()
    except (MemoryError, Unreadable):
        raise
    except Image.DecompressionBombError as error:  # in a WebP's canvas or a GIF's frame
        raise Unreadable(f"larger than {(limit or 0) / 1e6:.0f} megapixels") from error
    except Exception as error:  # on damaged files the plugins raise nearly anything
        raise Unreadable(_damage(error, plugin.format or "image", prefix, size)) from error
    # A TIFF has been turned by Pillow, and has no 'exif' in its info.
    orientation = _orientation(image.info.get("exif", b""))
    turn = _UPRIGHT.get(orientation)
    upright = image if turn is None else image.transpose(turn)
    if smaller == 1:
        return _Piece(upright, 1, 0.0, 0.0, (upright.height, upright.width))
    # Pixels are whole: where rows and columns end, the last has a part that is not the photograph.
    width, height = stored[::-1] if orientation in _ON_ITS_SIDE else stored
    left = upright.width - width / smaller if orientation in _FROM_RIGHT else 0.0
    top = upright.height - height / smaller if orientation in _FROM_BOTTOM else 0.0
    return _Piece(upright, smaller, left, top, (height, width))


def _smaller(scale: Fraction) -> int:
    return next((draft for draft in _DRAFTS if draft * _SPARE * scale <= 1), 1)


def _damage(error: Exception, name: str, prefix: bytes, size: int) -> str:
    promised = int.from_bytes(prefix[4:8], "little") + 8 if name == "WEBP" else 0
    if promised > size:
        return f"truncated: {size:,} of {promised:,} bytes"
    ran_out = isinstance(error.__cause__ or error, EOFError | IndexError | struct.error)
    if ran_out or "truncated" in str(error).lower():
        return f"truncated: it ends after {size:,} bytes"
    if "not identified" in str(error):
        return f"a {name} without pixels"
    return f"damaged {name}: {_one_line(error)}"


def _orientation(exif: bytes) -> int:
    # Not Pillow's getexif: it warns of damage anywhere in the block, or fails at it.
    # Source: TIFF 6.0, section 2 (image file directory).
    tiff = exif.removeprefix(b"Exif\0\0")
    order: Literal["big", "little"] = "big" if tiff.startswith(b"MM") else "little"

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)

    start = number(4, 4) + 2
    for at in range(start, min(start + 12 * number(start - 2, 2), len(tiff)), 12):
        if number(at, 2) == _ORIENTATION:
            is_short = number(at + 2, 2) == 3  # some programs write a 4-byte integer
            return number(at + 8, 2 if is_short else 4)
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    photo = image.convert("RGB")
    # It is upright now: nobody may turn it again because of what the file said.
    photo.info.clear()
    return photo


def _to_bytes(values: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        raise Unreadable("floating-point pixels that are not all finite")
    low, high, top = float(values.min()), float(values.max()), 1.0 if is_float else 65535.0
    if low >= 0 and high <= top:
        low, high = 0.0, top
    scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    return np.rint(scaled).astype(np.uint8)


def _shape(whole: tuple[int, int], box: tuple[int, int, int, int] | None) -> tuple[int, int]:
    if box is None:
        return whole
    top, left, height, width = box
    if not (0 <= top < top + height <= whole[0] and 0 <= left < left + width <= whole[1]):
        raise Unreadable(
            f"the crop {height} x {width} at {top}, {left} is not inside the photograph, which is "
            f"{whole[0]} x {whole[1]} (height x width)"
        )
    return height, width


def _crop(whole: _Piece, box: tuple[int, int, int, int] | None) -> _Piece:
    shape = _shape(whole.shape, box)
    if box is None:
        return whole
    left, top = whole.left + box[1] / whole.smaller, whole.top + box[0] / whole.smaller
    right, bottom = left + shape[1] / whole.smaller, top + shape[0] / whole.smaller
    x, y = math.floor(left), math.floor(top)
    image = whole.image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    return _Piece(image, whole.smaller, left - x, top - y, shape)


def _centre(length: int, scale: Fraction, wanted: int) -> tuple[float, float]:
    """Both ends of the middle `wanted` pixels of a side after scaling, in units of before."""
    scaled = int(length * scale)
    start = round((scaled - wanted) / 2)
    return start * length / scaled, (start + wanted) * length / scaled


def _not_a_file(path: Path) -> str | None:
    """Why a path cannot be opened as a file; None if nothing speaks against it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return f"a link that leads nowhere (to {_id(path.readlink())!r})"
        return "no such file"
    except PermissionError:
        return "permission denied"
    except (OSError, ValueError) as error:  # links in a circle, a name too long; a NUL in the name
        return f"not a usable path: {_one_line(error)}"
    if stat.S_ISDIR(mode):
        may_enter = os.access(path, os.R_OK | os.X_OK)
        return "a folder, not a file" if may_enter else "a folder that may not be opened"
    # Opening a pipe would wait for ever.
    return None if stat.S_ISREG(mode) else "not a regular file"


def _file_size(path: Path) -> int:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _id(path: PurePath) -> str:
    # File names need not be UTF-8; tables and web pages must be.
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _image_files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    for path in folder.iterdir() if here not in above else ():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            try:
                yield from _image_files(path, above | {here})
            except PermissionError:
                yield path
        elif _counts(path):
            yield path


def _counts(path: Path) -> bool:
    if not path.is_file() and path.exists():
        return False  # a pipe, a socket or a device
    if path.suffix.lower() in _READ | _NOT_READ:
        return True
    try:
        with path.open("rb") as file:
            return _plugin(file.read(_PREFIX)) is not None
    except OSError:
        return True


def _listed(path: Path) -> list[PurePath]:
    # 'surrogateescape' is how Python itself holds file names that are not UTF-8. Only line feeds
    # part the lines: file names may contain the other characters that str.splitlines knows.
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = (line.strip() for line in text.split("\n"))
    return [PurePath(line) for line in lines if line and not line.startswith("#")]


def _from_files(files: list[Path]) -> ImageSet:
    if not files:
        raise ValueError("an empty list of files has no images; give at least one file")
    paths = [file.absolute() for file in files]
    root = os.path.commonpath([path.parent for path in paths])
    entries = tuple(ImageEntry(id=_id(path.relative_to(root)), path=path) for path in paths)
    return ImageSet(source=f"{len(paths)} files in {root}", entries=entries)


def _photographs() -> list[Path]:
    paths = []
    for package, (folder, names) in _PHOTOS.items():
        # Found, not imported: nothing of the package runs, least of all its downloads.
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ImportError(
                "'photos' are the photographs in scikit-image and scikit-learn, and "
                f"{package!r} is not installed; pip install 'opponent[demo]'"
            )
        paths += [Path(spec.origin).parent / folder / name for name in names.split()]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"'photos' needs files that this installation lacks: {_some(missing)}; "
            "pip install --force-reinstall scikit-image scikit-learn"
        )
    return sorted(paths, key=lambda path: path.name)


def _photo_crops(size: tuple[int, int]) -> list[ImageEntry]:
    if min(size) < 1:
        raise ValueError(f"size {size} is (height, width) in pixels: give at least 1")
    paths = _photographs()
    shapes = [decode(ImageEntry(id=path.name, path=path)).size[::-1] for path in paths]

    def count(spacing: float) -> int:
        levels = [level for shape in shapes for level in _grids(shape, size, spacing)]
        return sum(len(tops) * len(lefts) for _, _, tops, lefts in levels)

    # Bisection for the spacing, in units of a crop, that gives the number of crops wanted.
    low, high = 2.0**-6, 2.0**10
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if count(middle) > _PHOTO_CROPS else (low, middle)
    spacing = min(low, high, key=lambda spacing: abs(count(spacing) - _PHOTO_CROPS))
    crops: dict[str, ImageEntry] = {}  # at sizes of a few pixels two scales may round to the same
    for path, shape in zip(paths, shapes, strict=True):
        for height, width, tops, lefts in _grids(shape, size, spacing):
            extent = str(height) if height == width else f"{height}x{width}"
            for top, left in product(tops, lefts):
                id, box = f"{path.stem}@{top},{left}+{extent}", (top, left, height, width)
                crops[id] = ImageEntry(id=id, path=path, box=box)
    return list(crops.values())


def _grids(
    shape: tuple[int, int], size: tuple[int, int], spacing: float
) -> list[tuple[int, int, list[int], list[int]]]:
    """Height, width, tops and lefts of the crops of a photograph, at each of several scales."""
    largest = min(shape[0] / size[0], shape[1] / size[1])
    # A photograph hardly larger than the size would give next to no crops: it gives smaller ones.
    smallest = min(1.0, 0.75 * largest)
    steps = max(1, round(2 * np.log2(largest / smallest)))  # two scales an octave
    grids = []
    for factor in np.geomspace(largest, smallest, steps + 1):
        height = min(shape[0], max(1, round(factor * size[0])))
        width = min(shape[1], max(1, round(factor * size[1])))
        tops = _places(shape[0] - height, spacing * height)
        lefts = _places(shape[1] - width, spacing * width)
        grids.append((height, width, tops, lefts))
    return grids


def _places(slack: int, spacing: float) -> list[int]:
    """Offsets from edge to edge, at most as close as the spacing; the middle, if it is but one."""
    count = 1 + int(slack / max(spacing, 1))
    return [slack // 2] if count == 1 else np.linspace(0, slack, count).round().astype(int).tolist()
