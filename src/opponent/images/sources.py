"""What a source of images is, and the built-in ones."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from opponent.core.plugins import load_object, names_object
from opponent.core.text import first_few
from opponent.images.archives import archive_entries, expand, is_archive
from opponent.images.arrays import ARRAYS
from opponent.images.crops import CROPS, PER_IMAGE, Crops, crops_of
from opponent.images.imageset import ImageEntry, ImageSet, Picture
from opponent.images.listing import id_of, image_files, listed
from opponent.images.objects import Indexed, Items, Loader, Named, dataset_of
from opponent.images.photos import photo_crops


@runtime_checkable
class ImageSource(Protocol):
    """Images that are no files: a data set, an archive, arrays in memory.

    A class with these three members serves wherever a folder does.

    >>> import numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> opponent.open_images(Noise())
    ImageSet('noise': 2 images)
    >>> opponent.attribute("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a").images
    ('0', '1')
    """

    @property
    def name(self) -> str:
        """What results call the source."""
        ...

    def ids(self) -> Sequence[str]:
        """The images' ids, in order: stable, different, valid UTF-8."""
        ...

    def image(self, id: str) -> Picture:
        """The upright photograph of an id: a PIL image, or an array.

        It is called from threads, one call at a time. An exception that it raises makes that image
        unreadable, with the exception's text as the reason.

        Args:
            id: one of `ids`.
        Returns:
            The image. An array has shape (height, width, channels), or (height, width) for grey;
            bytes go from 0 to 255, floats from 0 to 1, unless the network's preprocessing says
            otherwise.
        """
        ...


# What serves as images wherever images are taken.
Images = (
    str
    | Path
    | ImageEntry
    | Sequence[str | Path | ImageEntry]
    | ImageSet
    | ImageSource
    | Crops
    | Mapping[str, object]
    | Loader
    | Indexed
)
_WORDS = "the word 'photos', or 'crops:' before any of these"


def open_images(source: Images, *, size: tuple[int, int] = (224, 224)) -> ImageSet:
    """The images that a source names; none is decoded yet, but those to be cropped for their size.

    In a folder, at any depth, these files count as images:
    - those whose extension promises a picture (.jpg .png .webp .tif .gif .bmp and the like; also
      .heic, .svg and others that are not read), so that a text file called 'a.jpg' is reported as
      unreadable and not passed over;
    - all others that begin as a JPEG, PNG, WebP, TIFF, GIF or BMP file does, or that cannot be
      opened to look. So 'readme.txt', 'labels.csv' or 'Thumbs.db' beside the images do not count.
    Where there is none, arrays count (.npy, and .npz with one array), and where there is none of
    these, archives. Names that begin with a dot are skipped. Links to folders are followed, but not
    back into a folder that they lie in. A subfolder that cannot be opened counts as one unreadable
    image.

    Args:
        source: where images come from.
            As text or path: a folder; an image file; a '.tar' as WebDataset writes it, or a '.zip'
            (nothing is unpacked: images are read where they lie; ids are WebDataset's keys); a
            pattern of files such as 'train-{000..012}.tar' or 'scans/*.png'; a '.txt' list in UTF-8
            (one path a line, absolute or relative to the list's own folder; blank lines and lines
            that begin with '#' do not count); the word 'photos': about 2,000 crops of the
            photographs in scikit-image and scikit-learn, nothing downloaded; 'crops:SOURCE' or
            'crops:COUNT:SOURCE': many crops of each image, as `Crops` makes them;
            'module:PACKAGE.MODULE:NAME', which names an object or a function that makes one.
            As an object: several files; an `ImageSet`, returned as it is; one or several of its
            entries; an `ImageSource`; `Crops`; a torch `Dataset`, or a `DataLoader`, of which the
            data set is taken in order; a Hugging Face data set; a list of PIL images, arrays or
            tensors; a mapping of ids to those. Items may be (image, label, ...), or mappings with
            an 'image' or with one column of images. Arrays are (height, width, channels), tensors
            (channels, height, width); floats are in [0, 1], unless the network's preprocessing says
            otherwise.
        size: (height, width) in pixels of the network's input, whose aspect crops have.
    Returns:
        The images: of a folder sorted by id, else in the order given.
    Raises:
        FileNotFoundError: there is no such folder or file.
        ImportError: 'photos' without scikit-image or scikit-learn.
        ValueError: no image in the source, or one named twice; a name that names no source; an
            object whose images cannot be taken by number.

    >>> import opponent, pathlib, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png"):
    ...         Image.new("RGB", (64, 64)).save(pathlib.Path(folder, name))
    ...     [entry.id for entry in opponent.open_images(folder)]
    ['a.png', 'b.png']
    >>> opponent.open_images({"red": Image.new("RGB", (64, 64), "red")})
    ImageSet('1 image': 1 images)
    """
    if isinstance(source, str | Path):
        return _from_text(source, size)
    if isinstance(source, ImageSet):
        return source
    if isinstance(source, ImageEntry):
        return ImageSet(source=source.id, entries=(source,))
    if isinstance(source, Crops):
        return _cropped(source, size)
    if isinstance(source, list | tuple) and all(
        isinstance(each, str | Path | ImageEntry) for each in source
    ):
        return _from_several(source)
    return _from_object(source)


def _from_text(source: str | Path, size: tuple[int, int]) -> ImageSet:
    """The images that a path, a pattern or a word names."""
    if isinstance(source, str):
        if names_object(source):
            return _from_source(_source_of(_named_object(source)), source)
        if source.startswith(CROPS):
            return _named_crops(source, size)
        if source == "photos":
            if Path(source).exists():
                raise ValueError(
                    "'photos' means the photographs in scikit-image and scikit-learn, but here is "
                    "also a folder or file called 'photos'; for that one write './photos'"
                )
            return ImageSet(source="photos", entries=tuple(photo_crops(size)))
    path, text = Path(source), str(source)
    if path.is_dir():
        entries = _in_folder(path)
    elif path.is_file() and path.suffix.lower() == ".txt":
        entries = _of_files([(id_of(line), path.parent / line) for line in listed(path)])
    elif path.is_file():
        entries = _of_files([(id_of(PurePath(path.name)), path)])
    elif set(text) & set("{*?["):
        if not (paths := expand(text)):
            raise FileNotFoundError(f"no file fits the pattern {text!r}")
        return replace(_from_files(paths), source=text)
    else:
        raise FileNotFoundError(
            f"{text!r} is no folder and no file; give a folder of images, an image file, a '.tar' "
            f"or '.zip', a '.txt' list of paths, {_WORDS}"
        )
    if not entries:
        raise ValueError(
            f"{text!r} has no images; in a folder, files count that have an image's extension or "
            "first bytes and are not hidden, in an archive those with the extension, in a '.txt' "
            "list each line is a path"
        )
    return ImageSet(source=text, entries=entries)


def _in_folder(folder: Path) -> tuple[ImageEntry, ...]:
    """Its images; without any, its arrays; without these, what its archives hold."""
    images = [(id_of(file.relative_to(folder)), file) for file in image_files(folder)]
    if images:
        pictures = [each for each in images if each[1].suffix.lower() not in ARRAYS]
        return _of_files(sorted(pictures or images))
    return archive_entries(sorted(x for x in folder.iterdir() if x.is_file() and is_archive(x)))


def _of_files(files: list[tuple[str, Path]]) -> tuple[ImageEntry, ...]:
    """Files with their ids, or what they hold, where all are archives."""
    archives = [is_archive(path) for _, path in files]
    if archives and all(archives):
        return archive_entries([path for _, path in files])
    return tuple(ImageEntry(id=id, path=path) for id, path in files)


def _named_crops(text: str, size: tuple[int, int]) -> ImageSet:
    """What 'crops:SOURCE' and 'crops:COUNT:SOURCE' name."""
    number, colon, rest = (inner := text.removeprefix(CROPS)).partition(":")
    counted = bool(colon) and number.isdecimal()
    source = rest if counted else inner
    if not source:
        raise ValueError(f"{text!r} names no images; write crops:SOURCE or crops:COUNT:SOURCE")
    crops = Crops(source=source, per_image=int(number) if counted else PER_IMAGE)
    return replace(_cropped(crops, size), source=text)


def _cropped(crops: Crops, size: tuple[int, int]) -> ImageSet:
    images = open_images(crops.source, size=size)
    return ImageSet(
        source=f"about {crops.per_image} crops each of {images.source}",
        entries=crops_of(images.entries, size, crops.per_image),
        origin=None if images.origin is None else crops,
    )


def _from_several(several: Sequence[str | Path | ImageEntry]) -> ImageSet:
    """Files, or entries of other sets."""
    if not several:
        raise ValueError("an empty list of files has no images; give at least one file")
    entries = tuple(each for each in several if isinstance(each, ImageEntry))
    files = [Path(each) for each in several if not isinstance(each, ImageEntry)]
    if entries and files:
        raise ValueError("a list of images holds files or an image set's entries, not both")
    return (
        _from_files(files) if files else ImageSet(source=f"{len(entries)} images", entries=entries)
    )


def _from_files(files: list[Path]) -> ImageSet:
    paths = [file.absolute() for file in files]
    root = os.path.commonpath([path.parent for path in paths])
    entries = _of_files([(id_of(path.relative_to(root)), path) for path in paths])
    if not entries:
        raise ValueError(f"the archives {first_few([*map(str, files)])} have no images")
    return ImageSet(source=f"{len(paths)} files in {root}", entries=entries)


def _named_object(name: str) -> object:
    """What 'module:PACKAGE.MODULE:NAME' names, or what it makes: a function, or a class."""
    value = load_object(name)
    is_source = isinstance(value, ImageSource | Indexed) and not isinstance(value, type)
    if not is_source and callable(value):
        value = value()
    if not isinstance(value, ImageSource | Indexed | Loader) or isinstance(value, str | bytes):
        raise ValueError(
            f"{name!r} is {type(value).__name__}, no image source: it needs `name`, `ids()` and "
            "`image(id)`, or `__len__` and `__getitem__`"
        )
    return value


def _source_of(images: object) -> ImageSource:
    """An object of images as an image source.

    Raises:
        ValueError: its images cannot be taken by number, or it is one image and not several.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, Loader) and not isinstance(images, Indexed):
        images = dataset_of(images)
    if isinstance(images, torch.Tensor):
        raise ValueError(
            f"a tensor of shape {(*images.shape,)} is a network's own input, which has no ids; "
            "give `list(tensor)` for images"
        )
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise ValueError(
            f"an array of shape {images.shape} is not (n, height, width, channels); give one image "
            "as [array]"
        )
    if isinstance(images, Mapping):
        return Named(images)
    if isinstance(images, Indexed):
        return Items(images)
    raise ValueError(f"{type(images).__name__} is no source of images; `open_images` says what is")


def _from_object(images: object) -> ImageSet:
    source = _source_of(images)
    return _from_source(source, source.name)


def _from_source(source: ImageSource, name: str) -> ImageSet:
    """The images of a source of the user's own; `name` is what results call it."""
    ids, lock = list(source.ids()), Lock()
    if not ids:
        raise ValueError(f"the image source {name!r} has no images")
    for id in ids:
        if not isinstance(id, str) or not id or not _is_utf8(id):
            raise ValueError(f"the image source {name!r} has the id {id!r}; ids are texts in UTF-8")

    def read(id: str) -> Picture:
        with lock:
            return source.image(id)

    entries = tuple(ImageEntry(id=id, read=read) for id in ids)
    return ImageSet(source=name, entries=entries, origin=source)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
