"""Files of weights: read safely, checked against the module, downloaded once."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn


def load_weights(module: nn.Module, file: str | Path) -> None:
    """Load a file of weights into a module, checking every name and shape.

    Raises:
        OSError: the file cannot be read, or holds no weights.
        ValueError: names or shapes that do not fit the module.
    """
    weights = read_weights(file)
    expected = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    # A count of batches that some files leave out; it plays no part in evaluation.
    optional = {k for k in expected if k.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - weights.keys() - optional)
    surplus = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{k} is {tuple(weights[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in sorted(expected.keys() & weights.keys())
        if weights[k].shape != expected[k].shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
        for what, names in (
            ("missing", missing),
            ("unknown", surplus),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        raise ValueError(
            f"the weights in {file} do not fit {type(module).__name__}: {'; '.join(faults)}"
        )
    module.load_state_dict(weights, strict=False)


def read_weights(file: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or of a state dict that `torch.save` wrote.

    Nothing is unpickled but tensors and plain containers.

    Raises:
        OSError: the file cannot be read, or holds no weights.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of weights at {file}")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle fails in as many ways as there are bytes
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise OSError(
            f"{file} is no file of weights that can be read safely: safetensors, or a state dict "
            f"of tensors that torch.save wrote, is expected ({reason})"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise OSError(f"{file} holds no state dict: a mapping from names to tensors is expected")
    return state


def sha256_of(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloaded weights are kept: $OPPONENT_CACHE, or a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OPPONENT_CACHE") or Path(base) / "opponent")


def fetch(address: str) -> Path:
    """Download a file into the cache, whole or not at all, unless it is there."""
    file = cache_folder() / address.rsplit("/", 1)[1]
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp") as temporary,
            urllib.request.urlopen(address, timeout=30) as answer,
        ):
            shutil.copyfileobj(answer, temporary)
            temporary.flush()
            length = answer.headers["Content-Length"]
            if length is not None and temporary.tell() != int(length):
                raise ConnectionError(f"{temporary.tell()} of {length} bytes came")
            os.fsync(temporary.fileno())
            os.link(temporary.name, file)
    except FileExistsError:
        pass
    except (
        urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError
    ) as error:  # fmt: skip
        raise OSError(
            f"{file.name} could not be downloaded from {address} ({error}). Without a network, get "
            f"it elsewhere and put it at {file}, or name it as MODEL=FILE"
        ) from error
    return file
