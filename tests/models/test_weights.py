"""Files of weights good and bad."""

import argparse
import io
import os
import pickle
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.weights import drawn, small, write
from torch import Tensor, nn

from opponent.models.registry import load
from opponent.models.weights import load_weights, read_weights

HERE = resources.files("opponent.models")


# Files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_weights_from_a_file(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    module = small()
    wanted = {k: v.to(dtype) if v.is_floating_point() else v + 3 for k, v in drawn(module).items()}
    kinds = {k: v.dtype for k, v in module.state_dict().items()}
    load_weights(module, write(tmp_path / f"weights{suffix}", wanted))
    for name, value in module.state_dict().items():
        assert value.dtype == kinds[name]
        assert torch.equal(value, wanted[name].to(value.dtype))


def test_state_dicts_with_other_things_around_them(tmp_path: Path) -> None:
    module = small()
    wanted = drawn(module, 1)
    nested = {"state_dict": wanted, "epoch": 3, "optimizer": {"lr": 0.1}}
    load_weights(module, str(write(tmp_path / "nested.pth", nested)))
    assert torch.equal(module[0].weight, wanted["0.weight"])
    # Batches that were counted are not asked for.
    fewer = {k: v for k, v in drawn(module, 2).items() if "num_batches" not in k}
    load_weights(module, write(tmp_path / "fewer.safetensors", fewer))
    assert torch.equal(module[0].weight, fewer["0.weight"])
    legacy = tmp_path / "legacy.pth"
    torch.save(wanted, legacy, _use_new_zipfile_serialization=False)
    load_weights(module, legacy)
    assert torch.equal(module[0].weight, wanted["0.weight"])


def test_weights_that_do_not_fit_say_all_that_is_wrong_and_change_nothing(tmp_path: Path) -> None:
    module = small()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    given = drawn(module)
    del given["0.bias"]
    given["0.weight"] = torch.zeros(2, 3, 1, 1)
    given |= {f"more.{n}": torch.zeros(1) for n in range(6)}
    file = write(tmp_path / "w.safetensors", given)
    with pytest.raises(ValueError, match="do not fit Sequential") as caught:
        load_weights(module, file)
    assert str(caught.value) == (
        f"the weights in {file} do not fit Sequential: 1 missing: 0.bias; "
        "6 unknown: more.0, more.1, more.2, more.3, …; "
        "1 of another shape: 0.weight is (2, 3, 1, 1), expected (2, 3, 3, 3)"
    )
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with pytest.raises(ValueError, match=r"InceptionV1: .* missing: conv2d0_pre_relu_conv.bias"):
        load("inceptionv1-small", file)
    with pytest.raises(ValueError, match=r"^the weights in .* 6 missing: [^;…]*, …$"):
        load_weights(module, write(tmp_path / "none.pth", {}))


# Checkpoints of training


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.backbone."]


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "model_ema"])
def test_checkpoints_load_without_a_prefix_that_all_names_share(
    tmp_path: Path, prefix: str, key: str | None
) -> None:
    module = small()
    wanted = drawn(module, 1)
    named = prefixed(prefix, wanted)
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}
    lightning = {"epoch": 3, "hyper_parameters": {"depth": 2}, "callbacks": {}, "ema": {}}
    given = named if key is None else {key: named, "optimizer": optimizer, **lightning}
    load_weights(module, write(tmp_path / "w.pth", given))
    for name, value in module.state_dict().items():
        assert torch.equal(value, wanted[name])
    if key is None:
        other = small()
        load_weights(other, write(tmp_path / "w.safetensors", named))
        assert torch.equal(other[0].weight, wanted["0.weight"])


class Wrapped(nn.Module):
    """A module whose own names begin as a wrapper's do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(small())


def test_a_prefix_that_is_the_modules_own_stays(tmp_path: Path) -> None:
    module = Wrapped()
    wanted = drawn(module, 2)
    for prefix in ("", "module.", "model."):
        load_weights(module, write(tmp_path / "w.pth", prefixed(prefix, wanted)))
        assert torch.equal(module.model[0][0].weight, wanted["model.0.0.weight"])


def test_a_prefix_that_some_names_lack_is_not_taken_off(tmp_path: Path) -> None:
    module, wanted = small(), drawn(small())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    given = {**prefixed("model.", wanted), "loss.weight": torch.ones(3)}
    file = write(tmp_path / "w.ckpt", {"state_dict": given})
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_weights(module, file)
    assert str(caught.value) == (
        f"the weights in {file}, under 'state_dict', do not fit Sequential: 6 missing: 0.bias, "
        "0.weight, 1.bias, 1.running_mean, …; 8 unknown: loss.weight, model.0.bias, "
        "model.0.weight, model.1.bias, …"
    ).replace("6 missing", f"{len(wanted) - 1} missing")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    # Where only a shape does not fit, that is what is said.
    given = prefixed("model.", {**wanted, "0.bias": torch.ones(9)})
    file = write(tmp_path / "shape.pth", given)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_weights(module, file)
    assert str(caught.value) == (
        f"the weights in {file} do not fit Sequential without the prefix 'model.' of their names: "
        "1 of another shape: 0.bias is (9,), expected (2,)"
    )


@pytest.mark.parametrize("other", ["state_dict_ema", "model_ema"])
def test_several_sets_that_fit_are_refused_and_one_that_fits_is_taken(
    tmp_path: Path, other: str
) -> None:
    module, wanted = small(), drawn(small(), 1)
    both = {"state_dict": wanted, other: prefixed("module.", drawn(small(), 2))}
    file = write(tmp_path / "w.pth", both)
    names = ", ".join(sorted(both))
    with pytest.raises(ValueError, match=f"several sets of weights that fit Sequential: {names};"):
        load_weights(module, file)
    with pytest.raises(OSError, match=f"holds several sets of tensors: state_dict, {other};"):
        read_weights(file)
    # A set that belongs to something else does not stand in the way.
    both[other] = {"queue": torch.zeros(3)}
    load_weights(module, write(tmp_path / "w.pth", both))
    assert torch.equal(module[0].weight, wanted["0.weight"])


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_more_than_plain_types_say_how_to_save_the_weights(
    tmp_path: Path, legacy: bool
) -> None:
    file = tmp_path / "w.pth"
    for held, name in (
        ({"model": drawn(small()), "args": argparse.Namespace(lr=0.1)}, r"argparse\.Namespace"),
        (small(), r"torch\.nn\.modules\.\S+"),
        ({"model": drawn(small()), "best": np.float64(0.5)}, r"numpy\.\S+"),
    ):
        torch.save(held, file, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(OSError, match=rf"safely: it holds {name} besides tensors\. ") as caught:
            load_weights(small(), file)
        assert "`torch.save(model.state_dict(), 'weights.pth')`" in str(caught.value)
        assert "only if you trust the file" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_torchscript_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.jit.script(small()).save(str(file))
    with pytest.raises(
        OSError, match=r"can be read safely: .*TorchScript archives passed to \S+\)$"
    ) as caught:
        load_weights(small(), file)
    assert "\n" not in str(caught.value)


class Harm:
    """What a pickle can do: here, make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, inside: bool, plain: bool
) -> None:
    folder, file = tmp_path / "harm", tmp_path / "weights.pth"
    harm = {**drawn(small()), "0.bias": Harm(folder)} if inside else Harm(folder)
    if plain:
        file.write_bytes(pickle.dumps(harm))
    else:
        torch.save(harm, file)
    with pytest.raises(OSError, match=r"weights.pth is no file of weights that can be read safely"):
        load("inceptionv1-small", file)
    assert not folder.exists()
    pickle.loads(pickle.dumps(Harm(folder)))
    assert folder.exists(), "the pickle would have done harm"


def bad_files() -> dict[str, tuple[str, bytes, str]]:
    """Suffix, content and complaint."""
    good, archive = io.BytesIO(), io.BytesIO()
    torch.save(drawn(small()), archive)
    unsafe = "is no file of weights that can be read safely"
    none = "holds no state dict"

    def saved(value: object) -> bytes:
        target = io.BytesIO()
        torch.save(value, target)
        return target.getvalue()

    embedded = (HERE / "inceptionv1-small.safetensors").read_bytes()
    return {
        "empty": (".pth", good.getvalue(), unsafe),
        "empty safetensors": (".safetensors", b"", unsafe),
        "text": (".pth", b"hello, I am a text file\n", unsafe),
        "other text": (".pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", unsafe),
        "text safetensors": (".safetensors", b"version https://git-lfs.github.com/spec", unsafe),
        "web page": (".pth", b"<!DOCTYPE html><html></html>", unsafe),
        "zip": (".pth", b"PK\x03\x04" + bytes(60), unsafe),
        "truncated": (".pth", archive.getvalue()[:-200], unsafe),
        "truncated safetensors": (".safetensors", embedded[:-1000], unsafe),
        "no header": (".safetensors", embedded[8:2000], unsafe),
        "renamed": (".pth", embedded, unsafe),
        "renamed pickle": (".safetensors", archive.getvalue(), unsafe),
        "list": (".pth", saved([torch.zeros(1)]), none),
        "tensor": (".pth", saved(torch.zeros(1)), none),
        "numbers": (".pth", saved({"a": 1.0}), none),
        "numbered": (".pth", saved({1: torch.zeros(1)}), none),
        "nothing": (".pth", saved(None), none),
    }


@pytest.mark.parametrize("name", bad_files())
def test_files_that_hold_no_weights(tmp_path: Path, name: str) -> None:
    suffix, content, complaint = bad_files()[name]
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(OSError, match=re.escape(f"{file} {complaint}")) as caught:
        load("inceptionv1-small", file)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=f"no file of weights at {re.escape(str(path))}"
        ):
            load("inceptionv1-small", path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}/w.pth")):
        load("inceptionv1-small", "~/w.pth")
    write(tmp_path / "w.pth", drawn(load().module))
    assert load("inceptionv1-small", "~/w.pth").weights_sha256() != load().weights_sha256()


def test_a_user_without_a_home_is_told_that_there_is_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(FileNotFoundError, match=r"no file of weights at ~/w\.pth"):
        load("inceptionv1-small", "~/w.pth")


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0"]),
    st.sampled_from([".pth", ".safetensors"]),
)
def test_any_bytes_are_weights_or_an_error_about_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes, suffix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_bytes(start + content)
    with pytest.raises(OSError, match=r"any\.(pth|safetensors) (is no file|holds no state dict)"):
        read_weights(file)
