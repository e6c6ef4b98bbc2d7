"""Models by name: our own, torchvision's, timm's, and factories of the user's own."""

import importlib
import re
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.support.weights import drawn, small, write
from torch import Tensor, nn

import opponent
from opponent import Network, Preprocessing
from opponent.models.registry import _settings, load


def test_what_load_takes() -> None:
    network = load("inceptionv1-small")
    assert network.name == "inceptionv1-small"
    assert load().name == "inceptionv1-small"
    assert load(network) is network
    module = small()
    assert load(module).module is module
    assert load(module).name == "Sequential"
    assert load is opponent.load
    for made in (network, module):
        with pytest.raises(ValueError, match=r"weights 'w.pth' go with a model's name"):
            load(made, "w.pth")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "inceptionv1-smal",
            "no model is called 'inceptionv1-smal'; did you mean 'inceptionv1-small",
        ),
        ("InceptionV1", "did you mean 'inceptionv1"),
        ("xyzzy", r"no model is called 'xyzzy'\. The models: inceptionv1-small, .*module:"),
        ("", "no model is called ''"),
        ("torchvision:", "did you mean 'torchvision:NAME'"),
        ("torchvison:alexnet", "no model is called 'torchvison:alexnet'"),
        ("torchvision:squeeznet1_1", r"torchvision has no model 'squeeznet1_1'; near: squeezenet1"),
        ("torchvision:maskrcnn_resnet50_fpn", "torchvision has no model 'maskrcnn"),
        ("torchvision:xyzzyxyzzy", "torchvision has no model 'xyzzyxyzzy'$"),
        ("timm:resnet1", "timm has no model 'resnet1'; near: resnet"),
        ("module:nocolon", "'module:nocolon' must read module:PACKAGE.MODULE:NAME"),
    ],
)
def test_unknown_names_suggest_near_ones(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load(name)


# torchvision and timm


def test_squeezenet_from_a_file(squeezenet_weights: Path) -> None:
    network = load("torchvision:squeezenet1_1", squeezenet_weights)
    assert network.name == "torchvision:squeezenet1_1"
    assert network.preprocessing.size == (224, 224)
    assert network.preprocessing.resize == 256
    assert network.preprocessing.mean == (0.485, 0.456, 0.406)
    assert len(network.classes) == 1000
    assert network.class_name(954) == "banana"
    with safe_open(squeezenet_weights, "pt") as file:
        stored = file.get_tensor("features.0.weight")
    assert torch.equal(network.module.features[0].weight, stored.float())
    with pytest.raises(ValueError, match=r"do not fit SqueezeNet: .* of another shape: "):
        load("torchvision:squeezenet1_0", squeezenet_weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet"])
def test_models_are_built_as_their_pretrained_weights_want_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These weights expect another range of pixels, which torchvision's builder knows of.
    models = pytest.importorskip("torchvision.models")
    enum = models.get_model_weights(name)
    with torch.random.fork_rng(devices=[]):
        module = models.get_model(name, weights=None, init_weights=False).eval()
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    monkeypatch.setattr(enum, "get_state_dict", lambda *_, **__: weights)
    with torch.random.fork_rng(devices=[]):
        wanted = models.get_model(name, weights="DEFAULT")
    first = next(name for name, part in wanted.named_modules() if isinstance(part, nn.Conv2d))
    x = torch.randn(2, 3, 107, 139, generator=torch.Generator().manual_seed(0))

    def run(network: Network, layer: str) -> Tensor:
        small = network.with_preprocessing(Preprocessing(size=(107, 139)))
        return small.run(x, layer).target

    for layer in (first, "logits"):
        expected = run(Network(wanted), layer)
        file = write(tmp_path / "w.pth", weights)
        for network in (load(f"torchvision:{name}"), load(f"torchvision:{name}", file)):
            assert torch.equal(run(network, layer), expected)
    assert not torch.allclose(run(Network(module), first), run(Network(wanted), first), atol=0.1)


def test_vision_transformers_are_built_for_their_weights_image_size() -> None:
    models = pytest.importorskip("torchvision.models")
    for name, size in (("vit_b_16", 224), ("vit_h_14", 518)):
        default = models.get_model_weights(name).DEFAULT
        assert _settings(name, default) == {"image_size": size}
        assert default.transforms().crop_size == [size]
    assert _settings("resnet18", models.get_model_weights("resnet18").DEFAULT) == {}


def test_torchvision_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(OSError, match=r"weights of torchvision:squeezenet1_1 could not") as caught:
        load("torchvision:squeezenet1_1")
    assert "no route to host" in str(caught.value)
    assert "MODEL=FILE" in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_timm_from_a_file_and_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        weights = drawn(timm.create_model("test_resnet"))
    network = load("timm:test_resnet", write(tmp_path / "w.safetensors", weights))
    wanted = timm.data.resolve_model_data_config(network.module)
    assert network.name == "timm:test_resnet"
    assert network.preprocessing.size == wanted["input_size"][1:]
    assert network.preprocessing.mean == wanted["mean"]
    assert network.preprocessing.std == wanted["std"]
    size = min(network.preprocessing.size)
    assert network.preprocessing.resize == pytest.approx(size / wanted["crop_pct"], abs=1)
    assert torch.equal(network.module.conv1[0].weight, weights["conv1.0.weight"])
    assert len(network.classes) == 1000
    assert "tench" in network.class_name(0)
    part = {"conv1.0.weight": weights["conv1.0.weight"]}
    with pytest.raises(ValueError, match=r"do not fit ResNet: .* of another shape"):
        load("timm:resnet26d", write(tmp_path / "other.safetensors", part))

    for error in (ConnectionError("no route to host"), RuntimeError("no route to host")):

        def offline(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(OSError, match=r"weights of timm:test_resnet .* route .*MODEL=FILE"):
            load("timm:test_resnet")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_libraries_that_are_missing_or_do_not_import(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def importing(error: Exception) -> Callable[[str], Any]:
        def importer(name: str) -> Any:
            if name.startswith(library):
                raise error
            return real(name)

        return importer

    missing = ModuleNotFoundError(f"No module named '{library}'")
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", importing(missing))
        with pytest.raises(ImportError, match=rf"^{library} is not installed: pip install") as e:
            load(f"{library}:resnet18")
    assert "opponent[models]" in str(e.value)
    broken = RuntimeError("operator torchvision::nms does not exist")
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", importing(broken))
        with pytest.raises(ImportError, match=rf"{library} is installed but does not import") as e:
            load(f"{library}:resnet18")
    assert torch.__version__ in str(e.value)
    assert "nms does not exist" in str(e.value)


# Factories of the user's own


FACTORIES = """
import torch
from torch import nn
from opponent import Network, Preprocessing

def module():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())

def network():
    return Network(module(), preprocessing=Preprocessing(size=(8, 9)), name="mine")

def number():
    return 7

def broken():
    return nn.Sequential().there_is_no_such_thing

def failing():
    raise ZeroDivisionError("the factory failed")

constant = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the working folder."""
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "own" / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.modules", {**sys.modules})
    return f"own.{name}"


def test_factories_give_modules_and_networks(factories: str, tmp_path: Path) -> None:
    wrapped = load(f"module:{factories}:module")
    assert wrapped.name == f"module:{factories}:module"
    assert isinstance(wrapped.module, nn.Sequential)
    own = load(f"module:{factories}:network")
    assert (own.name, own.preprocessing.size) == ("mine", (8, 9))
    weights = drawn(own.module)
    file = write(tmp_path / "w.safetensors", weights)
    for factory in ("module", "network"):
        network = load(f"module:{factories}:{factory}", file)
        assert torch.equal(network.module[0].weight, weights["0.weight"])


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("number", "returned int, not an nn.Module"),
        ("missing", "has no attribute 'missing'"),
        ("", "must read module:PACKAGE.MODULE:NAME"),
        ("constant", "'constant' is no function"),
    ],
)
def test_factories_that_give_nothing(factories: str, what: str, match: str) -> None:
    path = f"module:{factories}:{what}"
    with pytest.raises(ValueError, match=rf"^'{re.escape(path)}'.*{match}"):
        load(path)


def test_factories_that_cannot_be_found_or_fail(factories: str) -> None:
    with pytest.raises(ValueError, match=r"'module:nowhere_at_all:f': No module named 'nowhere_at"):
        load("module:nowhere_at_all:f")
    with pytest.raises(ValueError, match=r"No module named 'own.nothing'; run where Python can"):
        load("module:own.nothing:f")
    for path in (":f", ".own:f"):
        with pytest.raises(ValueError, match=f"'module:{re.escape(path)}' must read"):
            load(f"module:{path}")
    # What goes wrong inside a factory is the user's to see.
    with pytest.raises(ZeroDivisionError, match="the factory failed"):
        load(f"module:{factories}:failing")
    with pytest.raises(AttributeError, match="there_is_no_such_thing"):
        load(f"module:{factories}:broken")
