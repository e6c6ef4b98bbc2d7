"""Images in objects that others have made: data sets, loaders, lists, arrays, mappings."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from opponent.core.errors import Unreadable
from opponent.core.text import first_few

# Of any shape: `decode` says what is wrong with it.
_Picture = Image.Image | np.ndarray
# The column of a table that holds its images.
_COLUMN = "image"


@runtime_checkable
class Indexed(Protocol):
    """Items by number: a torch `Dataset`, a Hugging Face data set, a list, an array."""

    def __getitem__(self, index: Any, /) -> Any:
        """The item of that number, from 0."""
        ...


@runtime_checkable
class Loader(Protocol):
    """What batches a data set, such as a torch `DataLoader`."""

    @property
    def dataset(self) -> Any:
        """What it batches."""
        ...


class Items:
    """The items of a data set as an image source, in order; ids are '0', '1', and so on.

    Args:
        data: the items. Each is an image, or (image, label, ...), or a mapping with an 'image' or
            with one column of images; images are PIL images, arrays (height, width, channels), or
            tensors (channels, height, width).
    Raises:
        ValueError: it does not say how many items it has.
    """

    def __init__(self, data: Indexed) -> None:
        kind = type(data).__name__
        try:
            self._count = len(data)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"{kind} has no length, so that its images cannot be taken by number: give a data "
                "set with __len__ and __getitem__, a list, or an image source of your own"
            ) from error
        self._data = data
        plain = isinstance(data, list | tuple | np.ndarray)
        self.name = f"{self._count} image{'s' * (self._count != 1)}" if plain else kind

    def ids(self) -> Sequence[str]:
        """The items' numbers."""
        return [str(number) for number in range(self._count)]

    def image(self, id: str) -> _Picture:
        """The image of the item of that number.

        Args:
            id: the number.
        Raises:
            Unreadable: the item holds no image.
        """
        return picture_of(self._data[int(id)])


class Named:
    """Images in memory by id, as an image source.

    Args:
        pictures: the images, as those of `Items`.
    Raises:
        ValueError: a mapping of data sets, which is none of images.
    """

    def __init__(self, pictures: Mapping[str, object]) -> None:
        splits = [str(id) for id, each in pictures.items() if _is_table(each)]
        if splits:
            raise ValueError(
                f"{type(pictures).__name__} holds several data sets ({first_few(splits)}): give "
                f"one, such as data[{splits[0]!r}]"
            )
        self._pictures = pictures
        self.name = f"{len(pictures)} image{'s' * (len(pictures) != 1)}"

    def ids(self) -> Sequence[str]:
        """The ids, in their order."""
        return list(self._pictures)

    def image(self, id: str) -> _Picture:
        """The image of that id.

        Args:
            id: one of `ids`.
        Raises:
            Unreadable: it is no image.
        """
        return picture_of(self._pictures[id])


def dataset_of(loader: Loader) -> Indexed:
    """What a loader batches, taken in order and one by one.

    Raises:
        ValueError: it is a stream, without items by number.
    """
    data = loader.dataset
    if not isinstance(data, Indexed) or not hasattr(data, "__len__"):
        raise ValueError(
            f"the data set of this {type(loader).__name__}, {type(data).__name__}, has no __len__ "
            "and __getitem__, so that its images cannot be taken by number: give one that has, or "
            "a list of its images"
        )
    return data


def picture_of(item: Any) -> _Picture:
    """The image in an item of a data set.

    Raises:
        Unreadable: it holds none, or several and none of them is called 'image'.
    """
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Mapping):
        item = _column(item)
    if isinstance(item, torch.Tensor):
        values = item.detach().cpu()
        # NumPy has no such numbers; float32 has all of them.
        array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    if isinstance(item, np.ndarray | Image.Image):
        return item
    raise Unreadable(f"{type(item).__name__}, not a PIL image, an array or a tensor")


def _column(item: Mapping[Any, Any]) -> Any:
    if _COLUMN in item:
        return item[_COLUMN]
    columns = [name for name, value in item.items() if _is_picture(value)]
    if len(columns) == 1:
        return item[columns[0]]
    found = f"{len(columns)} columns of images" if columns else "no column of images"
    raise Unreadable(f"{found} among {first_few([*map(str, item)])}; call one {_COLUMN!r}")


def _is_picture(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray | torch.Tensor) and value.ndim in (2, 3)
    return is_array or isinstance(value, Image.Image)


def _is_table(value: Any) -> bool:
    """Whether a value is a data set, and no image."""
    items = (Image.Image, np.ndarray, torch.Tensor, list, tuple, str, Mapping)
    return isinstance(value, Indexed) and not isinstance(value, items)
