"""Weights of the Caffe model zoo's GoogLeNet, read from its .caffemodel file.

Such a file is one protocol buffer: a sequence of fields, each a number, a kind, and a value. Of all
fields those are read that hold a layer's name and its arrays; nothing in it is run.

    NetParameter     2 layers (old), 100 layers
    layer, old       4 name, 6 arrays
    layer            1 name, 7 arrays
    array            1 to 4 sizes (old), 5 numbers (packed or one by one), 7 shape
    shape            1 sizes
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.models.inceptionv1 import BLOCKS

# Kinds of fields: a number of variable length, eight bytes, bytes with their length, four bytes.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# Where layers lie in the file: the field, and in it the fields of name and arrays.
_LAYERS = {2: (4, 6), 100: (1, 7)}
_NUMBERS, _SHAPE = 5, 7
_OLD_SIZES = (1, 2, 3, 4)
# Longer than any number of 64 bits.
_LONGEST = 10

_STEM = {
    "conv1/7x7_s2": "conv2d0",
    "conv2/3x3_reduce": "conv2d1",
    "conv2/3x3": "conv2d2",
}
_BRANCHES = {
    "1x1": "1x1",
    "3x3_reduce": "3x3_bottleneck",
    "3x3": "3x3",
    "5x5_reduce": "5x5_bottleneck",
    "5x5": "5x5",
    "pool_proj": "pool_reduce",
}


def read_caffemodel(file: Path) -> dict[str, Tensor]:
    """The weights of GoogLeNet under the names of this package's InceptionV1.

    The first convolution, which Caffe gives images as blue, green, red, is turned to red, green,
    blue. Auxiliary classifiers are left out.

    Args:
        file: a .caffemodel.
    Raises:
        OSError: the file is cut or no such file.
        ValueError: an array whose numbers do not fill its shape.
    """
    names = _names()
    weights = dict[str, Tensor]()
    for layer, arrays in _layers(memoryview(file.read_bytes()), str(file)):
        name = names.get(layer)
        for kind, array in zip(("weight", "bias"), arrays if name else [], strict=False):
            # Old files give a matrix and a vector four sizes.
            if kind == "bias" or name == "softmax2_pre_activation_matmul":
                array = array.reshape(array.shape[-2:] if kind == "weight" else -1)
            weights[f"{name}.{kind}"] = torch.from_numpy(array)
    first = "conv2d0_pre_relu_conv.weight"
    if first in weights and weights[first].ndim == 4:
        weights[first] = weights[first].flip(1)
    return weights


def _names() -> dict[str, str]:
    """Caffe's names of layers, and ours."""
    blocks = {
        f"inception_{block.removeprefix('mixed')}/{theirs}": f"{block}_{ours}"
        for block in BLOCKS
        for theirs, ours in _BRANCHES.items()
    }
    convolutions = {k: f"{v}_pre_relu_conv" for k, v in (_STEM | blocks).items()}
    return convolutions | {"loss3/classifier": "softmax2_pre_activation_matmul"}


def _layers(data: memoryview, file: str) -> Iterator[tuple[str, list[Float[np.ndarray, "..."]]]]:
    """The name and the arrays of each layer that has any."""
    for number, value in _fields(data, file):
        if number not in _LAYERS or not isinstance(value, memoryview):
            continue
        name_field, arrays_field = _LAYERS[number]
        name, arrays = "", []
        for inner, part in _fields(value, file):
            if inner == name_field and isinstance(part, memoryview):
                name = bytes(part).decode("utf-8", "replace")
            elif inner == arrays_field and isinstance(part, memoryview):
                arrays.append(_array(part, file))
        if arrays:
            yield name, arrays


def _array(data: memoryview, file: str) -> Float[np.ndarray, "..."]:
    numbers, shape, old = list[memoryview](), list[int](), dict[int, int]()
    for number, value in _fields(data, file):
        if number == _NUMBERS and isinstance(value, memoryview):
            numbers.append(value)
        elif number in _OLD_SIZES and isinstance(value, int):
            old[number] = value
        elif number == _SHAPE and isinstance(value, memoryview):
            shape = [size for _, part in _fields(value, file) for size in _sizes(part, file)]
    shape = shape or [old[number] for number in _OLD_SIZES if number in old]
    joined = b"".join(numbers)
    values = np.frombuffer(joined[: len(joined) // 4 * 4], "<f4")
    count = 1
    for size in shape:
        count *= size
    if count != len(values) or not count:
        raise ValueError(f"{file}: an array of shape {shape} has {len(values):,} numbers")
    return values.reshape(shape).astype(np.float32)


def _sizes(part: "memoryview | int", file: str) -> Iterator[int]:
    """Sizes of a shape, one, or several in a row."""
    if isinstance(part, int):
        yield part
        return
    at = 0
    while at < len(part):
        size, at = _varint(part, at, file)
        yield size


def _fields(data: memoryview, file: str) -> Iterator[tuple[int, "memoryview | int"]]:
    """The fields of a message: each one's number, and its value as a number or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, file)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at, file)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at, file)
        elif kind in (_FOUR, _EIGHT):
            length = 4 if kind == _FOUR else 8
        else:
            raise OSError(f"{file} is no .caffemodel: a field of unknown kind {kind}")
        if length > len(data) - at:
            raise OSError(f"{file} is cut or no .caffemodel: {length:,} bytes more are announced")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int, file: str) -> tuple[int, int]:
    """A number of variable length, and where the next thing begins."""
    value = 0
    for k, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            return value, at + k + 1
    raise OSError(f"{file} is cut or no .caffemodel: a number does not end")
