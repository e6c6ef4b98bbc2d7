"""Files of weights: read safely, checked against the module."""

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor, nn

from opponent.models.caffe import read_caffemodel


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A state dict of a file, held against what a module expects.

    Args:
        key: what the file holds it under; empty where it is the whole file.
        prefix: what was taken off its names, such as 'module.'.
        weights: the tensors under the names that are left.
        missing, surplus: names that only the module has, or only the weights.
        shapes: names in both whose shapes differ, with the shapes.
    """

    key: str
    prefix: str
    weights: Mapping[str, Tensor]
    missing: list[str]
    surplus: list[str]
    shapes: list[str]

    @property
    def faults(self) -> int:
        """How many names do not fit."""
        return len(self.missing) + len(self.surplus) + len(self.shapes)

    @property
    def told(self) -> str:
        """The faults in words."""
        told = [
            f"{len(names)} {what}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
            for what, names in (
                ("missing", self.missing),
                ("unknown", self.surplus),
                ("of another shape", self.shapes),
            )
            if names
        ]
        return "; ".join(told)


def load_weights(module: nn.Module, file: str | Path) -> None:
    """Load a file of weights into a module, checking every name and shape.

    A prefix that all names of the file share, such as 'module.' or 'model.', is taken off where
    what is left fits.

    Raises:
        OSError: the file cannot be read, or holds no weights.
        ValueError: names or shapes that do not fit the module, or several sets of weights that do.
    """
    expected = {_eager_name(k): v for k, v in _tensors_of(module).items()}
    fits = [
        _held_against(expected, key, _without(weights, prefix), prefix)
        for key, weights in read_state_dicts(file).items()
        for prefix in _shared_prefixes(weights)
    ]
    best = min(fits, key=lambda fit: fit.faults)  # of equals the first, with the shorter prefix
    if best.faults:
        under = f", under {best.key!r}," if best.key else ""
        less = f" without the prefix {best.prefix!r} of their names" if best.prefix else ""
        raise ValueError(
            f"the weights in {file}{under} do not fit {type(module).__name__}{less}: {best.told}"
        )
    others = sorted({fit.key for fit in fits if not fit.faults})
    if len(others) > 1:
        raise ValueError(
            f"{file} holds several sets of weights that fit {type(module).__name__}: "
            f"{', '.join(others)}; save the one that you mean in a file of its own, such as "
            f"`torch.save(checkpoint[{others[-1]!r}], 'weights.pth')`"
        )
    own = {_eager_name(k): k for k in module.state_dict()}
    module.load_state_dict({own[k]: v for k, v in best.weights.items()}, strict=False)


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def _eager_name(name: str) -> str:
    """A name as it was before `torch.compile`."""
    return name.replace("_orig_mod.", "")


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    """What all names begin with, up to a dot, from nothing to the longest."""
    columns = zip(*(_eager_name(name).split(".")[:-1] for name in names), strict=False)
    parts = [column[0] for column in takewhile(lambda column: len({*column}) == 1, columns)]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]


def _without(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under names without a prefix, and without what `torch.compile` adds."""
    return {_eager_name(k).removeprefix(prefix): v for k, v in weights.items()}


def _held_against(
    expected: Mapping[str, Tensor], key: str, weights: Mapping[str, Tensor], prefix: str
) -> _Fit:
    # A count of batches that some files leave out; it plays no part in evaluation.
    optional = {k for k in expected if k.endswith("num_batches_tracked")}
    return _Fit(
        key=key,
        prefix=prefix,
        weights=weights,
        missing=sorted(expected.keys() - weights.keys() - optional),
        surplus=sorted(weights.keys() - expected.keys()),
        shapes=[
            f"{k} is {tuple(weights[k].shape)}, expected {tuple(expected[k].shape)}"
            for k in sorted(expected.keys() & weights.keys())
            if weights[k].shape != expected[k].shape
        ],
    )


def read_weights(file: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or of a state dict that `torch.save` wrote.

    Raises:
        OSError: the file cannot be read, or holds no weights, or several sets of them.
    """
    found = read_state_dicts(file)
    if len(found) > 1:
        raise OSError(f"{file} holds several sets of tensors: {', '.join(found)}; save one alone")
    [weights] = found.values()
    return weights


def read_state_dicts(file: str | Path) -> dict[str, Mapping[str, Tensor]]:
    """The state dicts of a file by what it holds them under; '' where the file is one itself.

    A checkpoint of a training run holds its weights under a name such as 'state_dict', beside an
    optimiser's state and settings. Nothing is unpickled but tensors and plain containers.

    Raises:
        OSError: the file cannot be read, or holds no weights.
    """
    file = at_home(file)
    state = _read(file)
    if _is_state_dict(state):
        return {"": state}
    items = state.items() if isinstance(state, Mapping) else ()
    found = {str(key): value for key, value in items if value and _is_state_dict(value)}
    if not found:
        held = f"; it holds {', '.join(str(key) for key, _ in items)[:200]}" if items else ""
        raise OSError(
            f"{file} holds no state dict: a mapping from names to tensors is expected{held}"
        )
    return found


def at_home(file: str | Path) -> Path:
    """A path whose '~' is the user's home, where there is one."""
    try:
        return Path(file).expanduser()
    except RuntimeError:  # a user without a home
        return Path(file)


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()
    )


def _read(file: Path) -> object:
    """What a file of weights holds: tensors and plain containers alone."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of weights at {file}")
    if file.suffix == ".caffemodel":
        return read_caffemodel(file)
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle fails in as many ways as there are bytes
        unsafe = f"{file} is no file of weights that can be read safely: "
        if other := re.search(r"Unsupported global: GLOBAL (\S+) was not", str(error)):
            raise OSError(
                f"{unsafe}it holds {other[1]} besides tensors. Save the weights alone, "
                "`torch.save(model.state_dict(), 'weights.pth')`; or, only if you trust the file, "
                "load it yourself with weights_only=False and save what it holds them under, such "
                "as `torch.save(checkpoint['state_dict'], 'weights.pth')`"
            ) from error
        # The first sentence: what torch goes on to advise is not safe.
        reason = re.split(r"\.\s|\n", f"{type(error).__name__}: {error}", maxsplit=1)[0]
        raise OSError(
            f"{unsafe}safetensors, or a state dict of tensors that torch.save wrote, is expected "
            f"({reason})"
        ) from error


def sha256_of(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all parameters and buffers."""
    values = module.state_dict().items()
    return sha256_of_arrays({name: x for name, x in values if isinstance(x, Tensor)})


def sha256_of_arrays(arrays: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of some arrays."""
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
