"""What a source of images is, and the built-in ones."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from threading import Lock
from typing import Protocol, runtime_checkable

from opponent.core.plugins import load_object, names_object
from opponent.images.imageset import ImageEntry, ImageSet, Picture
from opponent.images.listing import id_of, image_files, listed
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
    >>> opponent.attribute("inceptionv1-mini", Noise(), "mixed3b:168", "mixed3a").images
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
        """The upright photograph of an id: a PIL image, or 8-bit grey or RGB as an array.

        It is called from threads, one call at a time. An exception that it raises makes that image
        unreadable, with the exception's text as the reason.

        Args:
            id: one of `ids`.
        Returns:
            The image; an array has shape (height, width, 3) or (height, width).
        """
        ...


# What serves as images wherever images are taken.
Images = str | Path | ImageEntry | Sequence[str | Path | ImageEntry] | ImageSet | ImageSource


def open_images(source: Images, *, size: tuple[int, int] = (224, 224)) -> ImageSet:
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
            count); several files; an `ImageSet`, returned as it is; one or several of its entries;
            an `ImageSource`, or 'module:PACKAGE.MODULE:NAME', which names one or a function that
            makes one; or the word 'photos': about 2,000 crops of the photographs in scikit-image
            and scikit-learn, nothing downloaded.
        size: (height, width) in pixels of the network's input. Only 'photos' uses it: the crops
            have its aspect, and are smaller only where the photograph is hardly larger than it.
    Returns:
        The images: of a folder sorted by id, else in the order given.
    Raises:
        FileNotFoundError: there is no such folder or file.
        ImportError: 'photos' without scikit-image or scikit-learn.
        ValueError: no image in the source, or one named twice; a name that names no source.

    >>> import opponent, pathlib, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png"):
    ...         Image.new("RGB", (64, 64)).save(pathlib.Path(folder, name))
    ...     [entry.id for entry in opponent.open_images(folder)]
    ['a.png', 'b.png']
    """
    if isinstance(source, ImageSet):
        return source
    if isinstance(source, ImageEntry):
        return ImageSet(source=source.id, entries=(source,))
    if isinstance(source, str) and names_object(source):
        return _from_source(_named_source(source), source)
    if isinstance(source, ImageSource):
        return _from_source(source, source.name)
    if source == "photos":
        if Path(source).exists():
            raise ValueError(
                "'photos' means the photographs in scikit-image and scikit-learn, but here is also "
                "a folder or file called 'photos'; for that one write './photos'"
            )
        return ImageSet(source="photos", entries=tuple(photo_crops(size)))
    if not isinstance(source, str | Path):
        return _from_several(source)
    path = Path(source)
    if path.is_dir():
        files = sorted((id_of(file.relative_to(path)), file) for file in image_files(path))
    elif path.is_file() and path.suffix.lower() == ".txt":
        files = [(id_of(line), path.parent / line) for line in listed(path)]
    elif path.is_file():
        files = [(id_of(PurePath(path.name)), path)]
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
    entries = tuple(ImageEntry(id=id_of(path.relative_to(root)), path=path) for path in paths)
    return ImageSet(source=f"{len(paths)} files in {root}", entries=entries)


def _named_source(name: str) -> ImageSource:
    """The image source that 'module:PACKAGE.MODULE:NAME' names."""
    source = load_object(name)
    if not isinstance(source, ImageSource) or isinstance(source, type):
        source = source() if callable(source) else source
    if not isinstance(source, ImageSource):
        raise ValueError(
            f"{name!r} is {type(source).__name__}, no image source: it needs `name`, `ids()` and "
            "`image(id)`"
        )
    return source


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
