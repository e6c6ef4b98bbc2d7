"""Models by name, files of weights good and bad, downloads, factories, the embedded network."""

import http.server
import importlib
import io
import os
import pickle
import re
import sys
import threading
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import opponent
from opponent import Network, Preprocessing
from opponent.images.decode import load_image as load_image
from opponent.images.imageset import ImageEntry
from opponent.models.catalogue import MODELS
from opponent.models.inceptionv1 import FULL, MINI, InceptionV1
from opponent.models.registry import load_image
from opponent.models.registry import load_image as load_function

# The package's name `load_image` is the function; the module has the same.
loading = importlib.import_module("opponent.models.registry")
load_weights, read_weights = loading.load_weights, loading.read_weights
HERE = Path(loading.__file__).parent


def drawn(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a module's names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator).to(value.dtype)
        for name, value in module.state_dict().items()
    }


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU())


def write(file: Path, weights: Any) -> Path:
    """A file of weights, in the format that its suffix says."""
    if file.suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPPONENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# Names


def test_what_load_takes() -> None:
    network = load_image()
    assert network.name == load_image("inceptionv1-mini").name == "inceptionv1-mini"
    assert load_image(network) is network
    module = small()
    assert load_image(module).module is module
    assert load_image(module).name == "Sequential"
    assert load_image is load_function is opponent.load
    for made in (network, module):
        with pytest.raises(ValueError, match=r"weights 'w.pth' go with a model's name"):
            load_image(made, "w.pth")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("inceptionv1-min", "no model is called 'inceptionv1-min'; did you mean 'inceptionv1-mini"),
        ("InceptionV1", "did you mean 'inceptionv1"),
        ("xyzzy", r"no model is called 'xyzzy' The models: inceptionv1-mini, .*module:"),
        ("", "no model is called ''"),
        ("torchvision:", "did you mean 'torchvision:NAME'"),
        ("torchvison:alexnet", "no model is called 'torchvison:alexnet'"),
        ("torchvision:squeeznet1_1", r"torchvision has no model 'squeeznet1_1'; near: squeezenet1"),
        ("torchvision:maskrcnn_resnet50_fpn", "torchvision has no model 'maskrcnn"),
        ("torchvision:xyzzyxyzzy", "torchvision has no model 'xyzzyxyzzy'$"),
        ("timm:resnet1", "timm has no model 'resnet1'; near: resnet"),
        ("module:nocolon", "'module:nocolon' must read module:PACKAGE.MODULE:FACTORY"),
    ],
)
def test_unknown_names_suggest_near_ones(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_image(name)


def test_a_name_for_each_kind_of_model() -> None:
    kinds = {name.partition(":")[0] for name in MODELS}
    assert kinds == {"inceptionv1-mini", "inceptionv1", "torchvision", "timm", "module"}


# The embedded network


def test_the_embedded_networks_classes_are_those_of_its_checkpoint() -> None:
    with safe_open(HERE / "inceptionv1-mini.safetensors", "pt") as file:
        ids = file.metadata()["classes"].split()
    lines = (HERE / "inceptionv1-mini-classes.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ids
    assert len(set(ids)) == 200
    network = load_image()
    assert [(a, *line.split("\t")[1:]) for a, line in zip(ids, lines, strict=True)] == list(
        zip(ids, network.classes, strict=True)
    )
    assert network.class_name(0) == "Egyptian cat"
    assert network.layer("logits").shape == (200, 1, 1)
    assert network.preprocessing.size == (64, 64)
    # It was trained without biases in the mixed blocks, and has none.
    assert not [x for x in network.module.state_dict() if "mixed" in x and x.endswith("bias")]


def test_the_embedded_network_tells_photographs_apart(tiny_photographs: Path) -> None:
    with safe_open(HERE / "inceptionv1-mini.safetensors", "pt") as file:
        ids = file.metadata()["classes"].split()
    # Ten of each tenth class, whose folder has the class's id.
    folders = [tiny_photographs / name for name in sorted(ids)[::4]]
    files = [file for folder in folders for file in sorted(folder.glob("*.JPEG"))[:10]]
    assert len(files) == 500
    network = load_image()
    pixels = [load_image(ImageEntry(id=f.name, path=f), size=(64, 64)) for f in files]
    logits = network.run(network.inputs(np.stack(pixels)), "logits").target[:, :, 0, 0]
    labels = torch.tensor([ids.index(file.parent.name) for file in files])
    top = logits.argsort(1, descending=True)
    first = (top[:, 0] == labels).float().mean().item()
    five = (top[:, :5] == labels[:, None]).any(1).float().mean().item()
    # 25.7 % and 53.0 % on 5,000 of these images; by chance, 0.5 % and 2.5 %. Four standard errors.
    assert 0.257 - 0.078 < first < 0.257 + 0.078
    assert 0.530 - 0.090 < five < 0.530 + 0.090


@pytest.mark.parametrize("variant", [FULL, MINI])
@pytest.mark.parametrize("size", [(64, 64), (63, 90)])
def test_inceptionv1_pads_as_tensorflow_does(variant: Any, size: tuple[int, int]) -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1(variant), preprocessing=Preprocessing(size=size))
    halving = {"maxpool0", "maxpool1", "maxpool4", "maxpool10"}
    halving |= {"conv2d0"} if variant is FULL else set()
    height, width = size
    for name, layer in network.layers.items():
        if name in halving:
            height, width = height // 2, width // 2
        if name in {"conv2d0", "mixed3b", "mixed4e", "mixed5b", *halving}:
            assert layer.shape[1:] == (height, width), name
    full = {"conv2d2": 192, "mixed3a": 256, "mixed3b": 480, "mixed4a": 508, "mixed5b": 1024}
    half = {"conv2d2": 96, "mixed3a": 128, "mixed3b": 240, "mixed4a": 256, "mixed5b": 512}
    wanted = full if variant is FULL else half
    assert {name: network.layer(name).shape[0] for name in wanted} == wanted


# Files of weights


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
    with pytest.raises(ValueError, match="do not fit_image Sequential") as caught:
        load_weights(module, file)
    assert str(caught.value) == (
        f"the weights in {file} do not fit_image Sequential: 1 missing: 0.bias; "
        "6 unknown: more.0, more.1, more.2, more.3, …; "
        "1 of another shape: 0.weight is (2, 3, 1, 1), expected (2, 3, 3, 3)"
    )
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with pytest.raises(ValueError, match=r"InceptionV1: .* missing: conv2d0_pre_relu_conv.bias"):
        load_image("inceptionv1-mini", file)
    with pytest.raises(ValueError, match=r"^the weights in .* 6 missing: [^;…]*, …$"):
        load_weights(module, write(tmp_path / "none.pth", {}))


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
        load_image("inceptionv1-mini", file)
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

    embedded = (HERE / "inceptionv1-mini.safetensors").read_bytes()
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
        load_image("inceptionv1-mini", file)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=f"no file of weights at {re.escape(str(path))}"
        ):
            load_image("inceptionv1-mini", path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}/w.pth")):
        load_image("inceptionv1-mini", "~/w.pth")
    write(tmp_path / "w.pth", drawn(load_image().module))
    assert (
        load_image("inceptionv1-mini", "~/w.pth").weights_sha256() != load_image().weights_sha256()
    )


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


# Downloads


def answer(content: bytes, **headers: str) -> Any:
    """What urlopen gives."""
    stream = io.BytesIO(content)
    stream.headers = {"Content-Length": None} | headers  # type: ignore[attr-defined]
    return stream


def test_without_a_network_the_message_says_where_to_put_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(OSError, match=r"inception5h.pth could not be downloaded") as caught:
        load_image("inceptionv1")
    message = str(caught.value)
    assert "no route to host" in message
    assert f"put it at {cache / 'inception5h.pth'}" in message
    assert "--weights FILE" in message
    assert list(cache.iterdir()) == []


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A web server that answers as it is told."""
    told: dict[str, Any] = {"status": 200, "headers": {}, "body": b"", "calls": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told["calls"] += 1
            self.send_response(told["status"])
            for key, value in told["headers"].items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(told["body"])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/weights.pth", told
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (404, {"Content-Length": "0"}, b"", "404"),
        (503, {"Content-Length": "4"}, b"busy", "503"),
        (200, {"Content-Length": "1000"}, b"x" * 999, "999 of 1000 bytes"),
        (200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n9\r\nwor", "IncompleteRead"),
    ],
)
def test_a_download_is_whole_or_not_there(
    cache: Path, server: Any, status: int, headers: dict[str, str], body: bytes, reason: str
) -> None:
    address, told = server
    told |= {"status": status, "headers": headers, "body": body}
    with pytest.raises(OSError, match=rf"weights.pth could not be downloaded .*{reason}"):
        loading._fetch(address)
    assert list(cache.iterdir()) == []
    content = bytes(range(256)) * 9
    told |= {"status": 200, "headers": {"Content-Length": str(len(content))}, "body": content}
    file = loading._fetch(address)
    assert file == cache / "weights.pth"
    assert file.read_bytes() == content
    assert list(cache.iterdir()) == [file]
    # What has come once is not fetched again.
    told["body"] = b""
    assert loading._fetch(address).read_bytes() == content
    assert told["calls"] == 2


def test_a_download_that_another_process_finished_first_is_taken(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: object, **__: object) -> Any:
        (cache / "w.pth").write_bytes(b"theirs")
        return answer(b"ours")

    monkeypatch.setattr("urllib.request.urlopen", meanwhile)
    assert loading._fetch("https://example.org/w.pth").read_bytes() == b"theirs"
    assert [file.name for file in cache.iterdir()] == ["w.pth"]


def test_an_interrupted_download_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        headers = {"Content-Length": None}  # noqa: RUF012

        def read(self, *_: object) -> bytes:
            raise KeyboardInterrupt("control-C")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Interrupted())
    with pytest.raises(KeyboardInterrupt, match="control-C"):
        loading._fetch("https://example.org/w.pth")
    assert list(cache.iterdir()) == []


def test_inceptionv1_from_a_file_and_from_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it was fetched"))
    with torch.random.fork_rng(devices=[]):
        weights = {k: v.half() for k, v in drawn(InceptionV1()).items()}
    cache.mkdir()
    write(cache / "inception5h.pth", weights)
    cached = load_image("inceptionv1")
    given = load_image("inceptionv1", write(tmp_path / "mine.safetensors", weights))
    assert cached.weights_sha256() == given.weights_sha256()
    assert cached.name == "inceptionv1"
    assert cached.layer("logits").shape == (1008, 1, 1)
    assert cached.layer("mixed3b").shape == (480, 28, 28)
    assert cached.dtype == torch.float32
    # The network's own range: a pixel in [0, 255] less 117.
    pixels = np.array([0, 117, 255], np.uint8).reshape(1, 1, 1, 3)
    values = cached.inputs(pixels).flatten().tolist()
    assert values == pytest.approx([-117, 0, 138], abs=1e-4)


def test_where_downloads_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPPONENT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loading.cache_folder() == tmp_path / ".cache" / "opponent"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert loading.cache_folder() == tmp_path / "xdg" / "opponent"
    monkeypatch.setenv("OPPONENT_CACHE", str(tmp_path / "own"))
    assert loading.cache_folder() == tmp_path / "own"


# torchvision and timm


def test_squeezenet_from_a_file(squeezenet_weights: Path) -> None:
    network = load_image("torchvision:squeezenet1_1", squeezenet_weights)
    assert network.name == "torchvision:squeezenet1_1"
    assert network.preprocessing.size == (224, 224)
    assert network.preprocessing.resize == 256
    assert network.preprocessing.mean == (0.485, 0.456, 0.406)
    assert len(network.classes) == 1000
    assert network.class_name(954) == "banana"
    with safe_open(squeezenet_weights, "pt") as file:
        stored = file.get_tensor("features.0.weight")
    assert torch.equal(network.module.features[0].weight, stored.float())
    with pytest.raises(ValueError, match=r"do not fit_image SqueezeNet: .* of another shape: "):
        load_image("torchvision:squeezenet1_0", squeezenet_weights)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
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
        network.preprocessing = Preprocessing(size=(107, 139))
        return network.run(x, layer).target

    for layer in (first, "logits"):
        expected = run(Network(wanted), layer)
        file = write(tmp_path / "w.pth", weights)
        for network in (load_image(f"torchvision:{name}"), load_image(f"torchvision:{name}", file)):
            assert torch.equal(run(network, layer), expected)
    assert not torch.allclose(run(Network(module), first), run(Network(wanted), first), atol=0.1)


def test_vision_transformers_are_built_for_their_weights_image_size() -> None:
    models = pytest.importorskip("torchvision.models")
    for name, size in (("vit_b_16", 224), ("vit_h_14", 518)):
        default = models.get_model_weights(name).DEFAULT
        assert loading._settings(name, default) == {"image_size": size}
        assert default.transforms().crop_size == [size]
    assert loading._settings("resnet18", models.get_model_weights("resnet18").DEFAULT) == {}


def test_torchvision_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(OSError, match=r"weights of torchvision:squeezenet1_1 could not") as caught:
        load_image("torchvision:squeezenet1_1")
    assert "no route to host" in str(caught.value)
    assert "--weights FILE" in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_timm_from_a_file_and_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        weights = drawn(timm.create_model("test_resnet"))
    network = load_image("timm:test_resnet", write(tmp_path / "w.safetensors", weights))
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
    with pytest.raises(ValueError, match=r"do not fit_image ResNet: .* of another shape"):
        load_image("timm:resnet26d", write(tmp_path / "other.safetensors", part))

    for error in (ConnectionError("no route to host"), RuntimeError("no route to host")):

        def offline(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(OSError, match=r"weights of timm:test_resnet .* route .*--weights FILE"):
            load_image("timm:test_resnet")


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
            load_image(f"{library}:resnet18")
    assert "opponent[models]" in str(e.value)
    broken = RuntimeError("operator torchvision::nms does not exist")
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", importing(broken))
        with pytest.raises(ImportError, match=rf"{library} is installed but does not import") as e:
            load_image(f"{library}:resnet18")
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
    wrapped = load_image(f"module:{factories}:module")
    assert wrapped.name == f"module:{factories}:module"
    assert isinstance(wrapped.module, nn.Sequential)
    own = load_image(f"module:{factories}:network")
    assert (own.name, own.preprocessing.size) == ("mine", (8, 9))
    weights = drawn(own.module)
    file = write(tmp_path / "w.safetensors", weights)
    for factory in ("module", "network"):
        network = load_image(f"module:{factories}:{factory}", file)
        assert torch.equal(network.module[0].weight, weights["0.weight"])


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("number", "returned int, not an nn.Module"),
        ("missing", "has no attribute 'missing'"),
        ("", "has no attribute ''"),
        ("constant", "'constant' is no function"),
    ],
)
def test_factories_that_give_nothing(factories: str, what: str, match: str) -> None:
    path = f"module:{factories}:{what}"
    with pytest.raises(ValueError, match=rf"^'{re.escape(path)}'.*{match}"):
        load_image(path)


def test_factories_that_cannot_be_found_or_fail(factories: str) -> None:
    with pytest.raises(ValueError, match=r"'module:nowhere_at_all:f': No module named 'nowhere_at"):
        load_image("module:nowhere_at_all:f")
    with pytest.raises(ValueError, match=r"No module named 'own.nothing'; run where Python can"):
        load_image("module:own.nothing:f")
    for path in (":f", ".own:f"):
        with pytest.raises(ValueError, match=f"'module:{re.escape(path)}' must read"):
            load_image(f"module:{path}")
    # What goes wrong inside a factory is the user's to see.
    with pytest.raises(ZeroDivisionError, match="the factory failed"):
        load_image(f"module:{factories}:failing")
    with pytest.raises(AttributeError, match="there_is_no_such_thing"):
        load_image(f"module:{factories}:broken")
