"""`load`: a network from a name and, if you like, a file of weights."""

import difflib
import importlib
from functools import cache
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn

from opponent.core.plugins import load_object
from opponent.models.catalogue import EMBEDDED, check_model
from opponent.models.download import fetch_checked
from opponent.models.inceptionv1 import BVLC, FULL, SMALL, InceptionV1
from opponent.models.network import Network
from opponent.models.preprocessing import Preprocessing
from opponent.models.weights import at_home, load_weights

# The public checkpoint of the paper's network, in ProGamerGov's repository.
INCEPTION5H = (
    "https://github.com/ProGamerGov/pytorch-old-tensorflow-models/raw/master/inception5h.pth"
)
# Its branch moves and no digest is published: who downloads it says which file is meant, by this.
INCEPTION5H_SHA256 = "OPPONENT_INCEPTIONV1_SHA256"
# Twice what the weights take.
INCEPTION5H_LIMIT = 64 * 2**20
# Its input is a pixel in [0, 255] less 117.
INCEPTIONV1_INPUT = Preprocessing(size=(224, 224), mean=(117 / 255,) * 3, std=(1 / 255,) * 3)
# Caffe's mean colour, as RGB.
BVLC_INPUT = Preprocessing(
    size=(224, 224), resize=256, mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,) * 3
)
# The statistics of the images that the small network was trained on.
SMALL_INPUT = Preprocessing(size=(112, 112), mean=(0.480, 0.448, 0.398), std=(0.277, 0.269, 0.282))

# ImageNet's classes in the order of the logits: an id, a space, the name.
IMAGENET = "imagenet-classes.txt"


def load(name: str | Network | nn.Module = EMBEDDED, weights: str | Path | None = None) -> Network:
    """The network of that name.

    Args:
        name: 'inceptionv1-small' (which ships inside), 'inceptionv1' (the paper's network),
            'inceptionv1-bvlc' (the same from Caffe), 'torchvision:NAME', 'timm:NAME', or
            'module:PACKAGE.MODULE:FACTORY' for what your own function returns; a Network is
            returned as it is, a module is wrapped.
        weights: a file of weights: safetensors, or a state dict or checkpoint that `torch.save`
            wrote. Default: the model's own pretrained weights.
    Returns:
        The network, on the CPU where it is made from a name.
    Raises:
        ValueError: an unknown name, weights that do not fit the model, or a module whose layers
            cannot be read.
        ImportError: the library that the model comes from is missing; says what to install.
        OSError: weights that cannot be read or, offline, fetched; says what to put where.

    >>> import opponent
    >>> network = opponent.load()
    >>> network
    Network('inceptionv1-small')
    >>> network.preprocessing.size, network.map_shape("mixed3b")
    ((112, 112), (240, 14, 14))
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
        network = _load(name, weights)
    return Network(
        network.module,
        preprocessing=network.preprocessing,
        name=network.name,
        classes=network.classes,
        weights_file=None if weights is None else at_home(weights).absolute(),
        asked=name,
    )


def _load(name: str, weights: str | Path | None) -> Network:
    check_model(name)
    library, _, rest = name.partition(":")
    if name == EMBEDDED:
        return _embedded(weights)
    if name == "inceptionv1":
        return _inceptionv1(weights)
    if name == "inceptionv1-bvlc":
        return _bvlc(weights)
    if library == "torchvision":
        return _torchvision(rest, weights)
    return _timm(rest, weights) if library == "timm" else _own(name, weights)


def _embedded(weights: str | Path | None) -> Network:
    """The network that ships inside, with its own weights or others."""
    module = InceptionV1(SMALL)
    with resources.as_file(resources.files("opponent.models") / f"{EMBEDDED}.safetensors") as file:
        load_weights(module, weights or file)
    return Network(module, preprocessing=SMALL_INPUT, name=EMBEDDED, classes=_names(IMAGENET))


def _inceptionv1(weights: str | Path | None) -> Network:
    module = InceptionV1(FULL)
    file = weights or fetch_checked(INCEPTION5H, INCEPTION5H_SHA256, INCEPTION5H_LIMIT)
    load_weights(module, file)
    return Network(module, preprocessing=INCEPTIONV1_INPUT, name="inceptionv1")


def _bvlc(weights: str | Path | None) -> Network:
    if weights is None:
        raise OSError(
            "inceptionv1-bvlc needs a file of weights: name it as inceptionv1-bvlc=FILE. It is the "
            "Caffe model zoo's bvlc_googlenet.caffemodel as it comes, or the same as safetensors"
        )
    module = InceptionV1(BVLC)
    load_weights(module, weights)
    return Network(
        module, preprocessing=BVLC_INPUT, name="inceptionv1-bvlc", classes=_names(IMAGENET)
    )


@cache
def imagenet_classes() -> list[str]:
    """ImageNet's thousand classes in the order of the logits: WordNet id, space, name."""
    return _lines(IMAGENET)


def photographed(image: str) -> str | None:
    """The name of an image's class, where a folder or the file is called by its WordNet id.

    Args:
        image: the image's id, a path.

    >>> photographed("photographs/n07753592_banana.JPEG"), photographed("cat.png")
    ('banana', None)
    """
    names = dict(line.split(maxsplit=1) for line in imagenet_classes())
    parts = (part[:9] for part in reversed(PurePath(image).parts))
    return next((names[part] for part in parts if part in names), None)


def _names(file: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in _lines(file)]


def _lines(name: str) -> list[str]:
    return (resources.files("opponent.models") / name).read_text(encoding="utf-8").splitlines()


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
            module.load_state_dict(
                default.get_state_dict(progress=False, check_hash=True, weights_only=True)
            )
        except OSError as error:
            raise _offline(f"torchvision:{name}", error) from error
    transforms = default.transforms()
    return Network(
        module,
        preprocessing=Preprocessing(
            size=(transforms.crop_size[0], transforms.crop_size[-1]),
            resize=transforms.resize_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
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
        classes=_timm_names(timm, module),
    )


def _timm_names(timm: object, module: nn.Module) -> list[str] | None:
    if getattr(module, "num_classes", None) != 1000:
        return None
    names = importlib.import_module("timm.data").ImageNetInfo()
    return [names.index_to_description(i) for i in range(1000)]


def _own(name: str, weights: str | Path | None) -> Network:
    """What the user's own function gives."""
    factory = load_object(name)
    if not callable(factory):
        raise ValueError(f"{name!r}: {name.rpartition(':')[2]!r} is no function")
    model = factory()
    if not isinstance(model, nn.Module | Network):
        raise ValueError(f"{name!r} returned {type(model).__name__}, not an nn.Module")
    network = model if isinstance(model, Network) else Network(model, name=name)
    if weights is not None:
        load_weights(network.module, weights)
    return network


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
        "the file elsewhere and name it as MODEL=FILE"
    )


def _unknown(library: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"{library} has no model {name!r}" + (f"; near: {', '.join(near)}" if near else "")
