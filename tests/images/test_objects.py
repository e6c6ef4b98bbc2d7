"""Data sets, loaders, lists, arrays and mappings as sources of images."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.image_files import GREY, SHARP, as_rgb
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from opponent import ImageSet, Unreadable, open_images
from opponent.images.decode import decode, load_image
from opponent.images.fit import Fit
from opponent.images.loader import stream

TENSOR = torch.from_numpy(SHARP).permute(2, 0, 1)
FORMS: dict[str, Any] = {
    "PIL": Image.fromarray(SHARP),
    "array": SHARP,
    "array of floats": SHARP / 255,
    "tensor": TENSOR,
    "tensor of floats": TENSOR.float() / 255,  # as torchvision's ToTensor
    "tensor with a gradient": (TENSOR.float() / 255).requires_grad_(),
    "tensor of doubles": TENSOR.double() / 255,
    "tuple": (TENSOR, 3, "more"),
    "list": [Image.fromarray(SHARP), 3],
    "row": {"image": Image.fromarray(SHARP), "label": 3},
    "row of one column of images": {"pixels": SHARP, "label": 3, "vector": np.zeros(4)},
    "row of several": {"mask": GREY, "image": SHARP},
}


def pixels(images: ImageSet) -> list[np.ndarray]:
    return [np.asarray(decode(entry)) for entry in images]


class Own(Dataset[Any]):
    """A torch data set of given items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Table:
    """What a Hugging Face data set promises: a length, and rows by number."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | str) -> Any:
        return self.rows[index] if isinstance(index, int) else [row[index] for row in self.rows]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_an_image(form: str) -> None:
    for source in (Own([FORMS[form]] * 2), [FORMS[form]] * 2, {"0": FORMS[form], "1": FORMS[form]}):
        images = open_images(source)
        assert [entry.id for entry in images] == ["0", "1"]
        for found in pixels(images):
            np.testing.assert_array_equal(found, SHARP)
        assert images.origin is not None


@pytest.mark.parametrize("grey", [GREY, torch.from_numpy(GREY), torch.from_numpy(GREY)[None]])
def test_grey_is_repeated(grey: Any) -> None:
    [found] = pixels(open_images([grey]))
    np.testing.assert_array_equal(found, as_rgb(GREY))


def test_what_they_are_called() -> None:
    assert repr(open_images(Own([SHARP]))) == "ImageSet('Own': 1 images)"
    assert open_images([SHARP, SHARP]).source == "2 images"
    assert open_images({"a": SHARP}).source == "1 image"
    assert open_images(np.stack([SHARP] * 3)).source == "3 images"
    assert open_images(Table([{"image": SHARP}])).source == "Table"


def test_a_loader_gives_its_data_set_in_order() -> None:
    items = [(torch.full((3, 4, 6), n, dtype=torch.uint8), n) for n in range(5)]
    loader = DataLoader(Own(items), batch_size=2, shuffle=True, drop_last=True)
    found = pixels(open_images(loader))
    assert [image[0, 0, 0] for image in found] == [0, 1, 2, 3, 4]
    tensors = TensorDataset(torch.stack([item for item, _ in items]), torch.arange(5))
    assert [x[0, 0, 0] for x in pixels(open_images(DataLoader(tensors)))] == [0, 1, 2, 3, 4]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield SHARP


def test_streams_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^the data set of this DataLoader, Stream, has no __"):
        open_images(DataLoader(Stream()))
    with pytest.raises(ValueError, match=r"^Stream has no length, .* give a data set with __len__"):
        open_images(Stream())


def test_rows_of_a_table() -> None:
    images = open_images(Table([{"image": Image.fromarray(SHARP), "label": n} for n in range(3)]))
    assert [entry.id for entry in images] == ["0", "1", "2"]
    np.testing.assert_array_equal(np.stack(pixels(images)), np.stack([SHARP] * 3))
    table = Table([{"a": SHARP, "b": SHARP}, {"text": "x"}, {"image": None}, {"image": SHARP}])
    results = list(stream(open_images(table), Fit(size=(4, 6))))
    reasons = [each.reason for each in results if isinstance(each, Unreadable)]
    assert reasons == [
        "2 columns of images among 'a', 'b'; call one 'image'",
        "no column of images among 'text'; call one 'image'",
        "NoneType, not a PIL image, an array or a tensor",
    ]
    np.testing.assert_array_equal(results[3], SHARP)
    with pytest.raises(ValueError, match=r"^dict holds several data sets \('train'\): give one"):
        open_images({"train": table})


@pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="datasets is not installed")
def test_a_real_table() -> None:
    import datasets

    rows = [Image.fromarray(SHARP), Image.fromarray(SHARP[::-1])]
    features = datasets.Features({"photo": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"photo": rows, "label": [0, 1]}, features=features)
    first, second = pixels(open_images(table))
    np.testing.assert_array_equal(first, SHARP)
    np.testing.assert_array_equal(second, SHARP[::-1])


def test_an_item_that_fails_is_unreadable() -> None:
    class Failing(Own):
        def __getitem__(self, index: int) -> Any:
            if index == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    first, second, third = stream(open_images(Failing([SHARP] * 3)), Fit(size=(4, 6)))
    np.testing.assert_array_equal(first, third)
    assert isinstance(second, Unreadable)
    assert second.reason == "the disk is gone"


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            torch.zeros(4, 4, 6, dtype=torch.uint8),
            r"an array of shape \(4, 6, 4\), not \(hei",
        ),
        (
            TENSOR.float() / 255 * 2 - 1,
            "^32-bit floating-point values from -0.992.* to 0.945",
        ),
        (TENSOR.half() / 255, "between the 256 steps of a byte: Pre.*range=.0, 1.. keeps them"),
        (3, "^int, not a PIL image"),
        ((), "^tuple, not a PIL image"),
    ],
)
def test_items_that_are_no_images(item: Any, reason: str) -> None:
    [entry] = open_images(Own([item]))
    with pytest.raises(Unreadable, match=reason):
        load_image(entry, Fit(size=(4, 6)))


def test_half_precision_keeps_its_digits_where_a_range_is_told() -> None:
    fit = Fit(size=(4, 6), value_range=(0, 1))
    for values in (TENSOR.half() / 255, TENSOR.bfloat16() / 255):
        [entry] = open_images([values])
        expected = values.float().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(load_image(entry, fit), expected)


def test_one_image_is_no_list_of_images() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 6, 3\) is not \(n.*; give one image"):
        open_images(SHARP)
    with pytest.raises(ValueError, match=r"a tensor of shape \(1, 3, 4, 6\) is a network's own"):
        open_images(TENSOR[None])
    with pytest.raises(ValueError, match=r"has no images"):
        open_images(Own([]))
    with pytest.raises(ValueError, match=r"an empty list of files has no images"):
        open_images([])
