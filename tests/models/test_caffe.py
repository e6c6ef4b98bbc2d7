"""Weights from a .caffemodel file, which the tests write byte by byte."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import opponent
from opponent.models.caffe import read_caffemodel
from opponent.models.inceptionv1 import BVLC, InceptionV1


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: "bytes | int") -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def array(values: np.ndarray, *, old: bool) -> bytes:
    numbers = values.astype("<f4").tobytes()
    if old:  # four sizes, and each number by itself
        sizes = [1] * (4 - values.ndim) + list(values.shape)
        head = b"".join(field(k + 1, size) for k, size in enumerate(sizes))
        each = b"".join(varint(5 << 3 | 5) + numbers[k : k + 4] for k in range(0, len(numbers), 4))
        return head + each
    shape = b"".join(varint(size) for size in values.shape)
    return field(7, field(1, shape)) + field(5, numbers)


def layer(name: str, arrays: list[np.ndarray], *, old: bool) -> bytes:
    name_field, arrays_field = (4, 6) if old else (1, 7)
    parts = [
        field(name_field, name.encode()),
        *(field(arrays_field, array(x, old=old)) for x in arrays),
    ]
    return field(2 if old else 100, b"".join(parts))


THEIRS = {"1x1": "1x1", "3x3_bottleneck": "3x3_reduce", "3x3": "3x3"}
THEIRS |= {"5x5_bottleneck": "5x5_reduce", "5x5": "5x5", "pool_reduce": "pool_proj"}


def theirs(name: str) -> str:
    """Caffe's name of a layer of ours."""
    known = {"conv2d0": "conv1/7x7_s2", "conv2d1": "conv2/3x3_reduce", "conv2d2": "conv2/3x3"}
    plain = name.removesuffix("_pre_relu_conv")
    if plain == "softmax2_pre_activation_matmul":
        return "loss3/classifier"
    block, _, branch = plain.partition("_")
    return known.get(plain) or f"inception_{block.removeprefix('mixed')}/{THEIRS[branch]}"


@pytest.mark.parametrize("old", [False, True])
def test_a_whole_network_is_read(tmp_path: Path, old: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = InceptionV1(BVLC).eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    names = sorted({name.rpartition(".")[0] for name in state})
    # Of an old file the numbers one by one take seconds: a part of it.
    names = ["conv2d0_pre_relu_conv", "mixed3a_5x5_pre_relu_conv"] if old else names
    content = field(1, b"GoogLeNet") + field(2 if old else 100, field(4 if old else 1, b"data"))
    for name in names:
        weight, bias = (state[f"{name}.{kind}"].numpy() for kind in ("weight", "bias"))
        # As Caffe has it: blue first.
        weight = weight[:, ::-1] if name.startswith("conv2d0") else weight
        content += layer(theirs(name), [weight, bias], old=old)
    content += layer("loss1/classifier", [np.ones((2, 3))], old=old)
    file = tmp_path / "bvlc_googlenet.caffemodel"
    file.write_bytes(content)
    read = read_caffemodel(file)
    assert read.keys() == {name for name in state if name.rpartition(".")[0] in names}
    assert all(torch.equal(value, state[name]) for name, value in read.items())
    if not old:
        network = opponent.load("inceptionv1-bvlc", weights=file)
        assert all(torch.equal(v, state[k]) for k, v in network.module.state_dict().items())
        assert network.classes is not None
        assert (network.classes[0], network.class_name(954)) == ("tench", "banana")


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.caffemodel"
    whole = layer("conv1/7x7_s2", [np.ones((2, 3, 7, 7)), np.ones(2)], old=False)
    for content, message in (
        (whole[:-3], "bytes more are announced"),
        (b"\x80" * 20, "a number does not end"),
        (b"\x80", "a number does not end"),
        (b"\x07abc", "a field of unknown kind 7"),
        (varint(100 << 3 | 2) + varint(1 << 62), "bytes more are announced"),
    ):
        file.write_bytes(content)
        with pytest.raises(OSError, match=message):
            opponent.load("inceptionv1-bvlc", weights=file)
    wrong = field(
        100, field(1, b"conv1/7x7_s2") + field(7, field(7, field(1, b"\x05")) + field(5, b"\0" * 8))
    )
    file.write_bytes(wrong)
    with pytest.raises(ValueError, match=r"shape \[5\] has 2 numbers"):
        opponent.load("inceptionv1-bvlc", weights=file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="116 missing"):
        opponent.load("inceptionv1-bvlc", weights=file)


def test_random_bytes_end_in_an_error_or_in_weights(tmp_path: Path) -> None:
    file, outcomes = tmp_path / "x.caffemodel", set[str]()
    for seed in range(300):
        draw, arrays = np.random.default_rng(seed), [np.ones((2, 3, 7, 7)), np.ones(2)]
        content = bytearray(layer("conv1/7x7_s2", arrays, old=seed % 2 == 0))
        for _ in range(int(draw.integers(1, 8))):
            content[int(draw.integers(min(40, len(content))))] = int(draw.integers(256))
        file.write_bytes(bytes(content))
        try:
            weights = read_caffemodel(file)
        except (OSError, ValueError) as error:
            outcomes.add(type(error).__name__)
        else:
            outcomes.add("weights")
            assert all(0 < value.numel() <= len(content) for value in weights.values())
    assert outcomes == {"OSError", "ValueError", "weights"}


def test_without_weights_the_message_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inceptionv1-bvlc=FILE"):
        opponent.load("inceptionv1-bvlc")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="do not fit InceptionV1"):
        opponent.load("inceptionv1-bvlc", weights=tmp_path / "other.safetensors")
