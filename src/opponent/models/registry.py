"""`load`: a network from a name and, if you like, a file of weights."""

import difflib
import http.client
import importlib
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from opponent.models.inceptionv1 import FULL, MINI, InceptionV1
from opponent.models.network import Network, Preprocessing

EMBEDDED = "inceptionv1-mini"
MODELS = {
    "inceptionv1-mini": "InceptionV1 at half width for 64 x 64 images, 200 classes; ships inside",
    "inceptionv1": "InceptionV1 ('inception5h'), the paper's network; downloaded once, or a file",
    "torchvision:NAME": "any classifier of torchvision, such as torchvision:squeezenet1_1",
    "timm:NAME": "any model of timm, such as timm:resnet18",
    "module:PACKAGE.MODULE:FACTORY": "what your own function returns: an nn.Module or a Network",
}

# The public checkpoint of the paper's network, in ProGamerGov's repository.
INCEPTION5H = (
    "https://github.com/ProGamerGov/pytorch-old-tensorflow-models/raw/master/inception5h.pth"
)
# Its input is a pixel in [0, 255] less 117.
INCEPTIONV1_INPUT = Preprocessing(size=(224, 224), mean=(117 / 255,) * 3, std=(1 / 255,) * 3)
# The statistics of the images that the small network was trained on.
MINI_INPUT = Preprocessing(size=(64, 64), mean=(0.480, 0.448, 0.398), std=(0.277, 0.269, 0.282))


def load(name: str | Network | nn.Module = EMBEDDED, weights: str | Path | None = None) -> Network:
    """The network of that name.

    Args:
        name: one of `opponent models`; a Network is returned as it is, a module is wrapped.
        weights: a file of weights: safetensors, or a state dict that `torch.save` wrote. Default:
            the model's own pretrained weights.
    Raises:
        ValueError: an unknown name, or weights that do not fit the model.
        ImportError: the library that the model comes from is missing; says what to install.
        OSError: weights that cannot be read or, offline, fetched; says what to put where.
    """
    if not isinstance(name, str):
        if weights is not None:
            raise ValueError(
                f"weights {str(weights)!r} go with a model's name, not with a model that is made; "
                "give one or the other"
            )
        return name if isinstance(name, Network) else Network(name)
    # Modules draw random weights when they are made, before they get those of the file.
    with torch.random.fork_rng(devices=[]):
        network = _made(name, weights)
    network.weights_file = None if weights is None else Path(weights).expanduser().absolute()
    return network


def _made(name: str, weights: str | Path | None) -> Network:
    library, _, rest = name.partition(":")
    # Modules draw random weights when they are made, before they get those of the file.
    with torch.random.fork_rng(devices=[]):
        if name == "inceptionv1-mini":
            return _mini(weights)
        if name == "inceptionv1":
            return _inceptionv1(weights)
        if rest and library == "torchvision":
            return _torchvision(rest, weights)
        if rest and library == "timm":
            return _timm(rest, weights)
        if rest and library == "module":
            return _module(rest, weights)
    near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
    raise ValueError(
        f"no model is called {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" The models: {', '.join(MODELS)}"
    )


def _mini(weights: str | Path | None) -> Network:
    module = InceptionV1(MINI)
    here = resources.files("opponent.models")
    with resources.as_file(here / "inceptionv1-mini.safetensors") as file:
        load_weights(module, weights or file)
    text = (here / "inceptionv1-mini-classes.txt").read_text(encoding="utf-8")
    classes = [line.split(maxsplit=1)[1] for line in text.splitlines()]
    return Network(module, preprocessing=MINI_INPUT, name="inceptionv1-mini", classes=classes)


def _inceptionv1(weights: str | Path | None) -> Network:
    module = InceptionV1(FULL)
    load_weights(module, weights or _fetch(INCEPTION5H))
    return Network(module, preprocessing=INCEPTIONV1_INPUT, name="inceptionv1")


def _torchvision(name: str, weights: str | Path | None) -> Network:
    models = _library("torchvision", "torchvision.models")
    if name not in models.list_models(module=models):
        raise ValueError(_unknown("torchvision", name, models.list_models(module=models)))
    default = models.get_model_weights(name).DEFAULT
    module = models.get_model(name, weights=None, **_settings(name, default))
    if weights is not None:
        load_weights(module, weights)
    else:
        try:
            module.load_state_dict(default.get_state_dict(progress=False, check_hash=True))
        except OSError as error:
            raise _offline(f"torchvision:{name}", error) from error
    made = default.transforms()
    return Network(
        module,
        preprocessing=Preprocessing(
            size=(made.crop_size[0], made.crop_size[-1]),
            resize=made.resize_size[0],
            mean=tuple(made.mean),
            std=tuple(made.std),
        ),
        name=f"torchvision:{name}",
        classes=default.meta["categories"],
    )


def _settings(name: str, weights: Any) -> dict[str, Any]:
    """What torchvision builds a model with for its pretrained weights, but not without."""
    if name in {"googlenet", "inception_v3"}:
        # Their weights take another range, to which they bring ImageNet's. Random weights are slow.
        return {"init_weights": False, "transform_input": True}
    return {"image_size": weights.meta["min_size"][0]} if name.startswith("vit_") else {}


def _timm(name: str, weights: str | Path | None) -> Network:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ValueError(_unknown("timm", name, timm.list_models()))
    try:
        module = timm.create_model(name, pretrained=weights is None)
    except (OSError, RuntimeError) as error:
        if weights is None:
            raise _offline(f"timm:{name}", error) from error
        raise
    if weights is not None:
        load_weights(module, weights)
    settings = timm.data.resolve_model_data_config(module)
    height, width = settings["input_size"][1:]
    return Network(
        module,
        preprocessing=Preprocessing(
            size=(height, width),
            resize=int(min(height, width) / settings["crop_pct"]),
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
        ),
        name=f"timm:{name}",
        classes=_imagenet_names(timm, module),
    )


def _imagenet_names(timm: object, module: nn.Module) -> list[str] | None:
    if getattr(module, "num_classes", None) != 1000:
        return None
    names = importlib.import_module("timm.data").ImageNetInfo()
    return [names.index_to_description(i) for i in range(1000)]


def _module(path: str, weights: str | Path | None) -> Network:
    package, _, factory = path.rpartition(":")
    if not package or package.startswith("."):
        raise ValueError(f"'module:{path}' must read module:PACKAGE.MODULE:FACTORY")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(package), factory)
    except ModuleNotFoundError as error:
        raise ValueError(f"'module:{path}': {error}; run where Python can import it") from error
    except AttributeError as error:
        raise ValueError(f"'module:{path}': {error}") from error
    if not callable(make):
        raise ValueError(f"'module:{path}': {factory!r} is no function")
    made = make()
    if not isinstance(made, nn.Module | Network):
        raise ValueError(f"'module:{path}' returned {type(made).__name__}, not an nn.Module")
    network = made if isinstance(made, Network) else Network(made, name=f"module:{path}")
    if weights is not None:
        load_weights(network.module, weights)
    return network


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
        found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle fails in as many ways as there are bytes
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise OSError(
            f"{file} is no file of weights that can be read safely: safetensors, or a state dict "
            f"of tensors that torch.save wrote, is expected ({reason})"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
    ):
        raise OSError(f"{file} holds no state dict: a mapping from names to tensors is expected")
    return found


def cache_folder() -> Path:
    """Where downloaded weights are kept: $OPPONENT_CACHE, or a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OPPONENT_CACHE") or Path(base) / "opponent")


def _fetch(address: str) -> Path:
    """Download a file into the cache, whole or not at all, unless it is there."""
    file = cache_folder() / address.rsplit("/", 1)[1]
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp") as part,
            urllib.request.urlopen(address, timeout=30) as answer,
        ):
            shutil.copyfileobj(answer, part)
            part.flush()
            length = answer.headers["Content-Length"]
            if length is not None and part.tell() != int(length):
                raise ConnectionError(f"{part.tell()} of {length} bytes came")
            os.fsync(part.fileno())
            os.link(part.name, file)
    except FileExistsError:
        pass
    except (
        urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError
    ) as error:  # fmt: skip
        raise OSError(
            f"{file.name} could not be downloaded from {address} ({error}). Without a network, get "
            f"it elsewhere and put it at {file}, or name it with --weights FILE"
        ) from error
    return file


def _library(name: str, module: str) -> "torch.types.ModuleType":  # type: ignore[name-defined]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{name} is not installed: pip install 'opponent[models]'") from error
    except RuntimeError as error:
        raise ImportError(
            f"{name} is installed but does not import beside torch {torch.__version__} ({error}); "
            f"install the build of {name} that was made for this build of torch"
        ) from error


def _offline(name: str, error: Exception) -> OSError:
    return OSError(
        f"the pretrained weights of {name} could not be fetched ({error}). Without a network, get "
        "the file elsewhere and name it with --weights FILE"
    )


def _unknown(library: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"{library} has no model {name!r}" + (f"; near: {', '.join(near)}" if near else "")
