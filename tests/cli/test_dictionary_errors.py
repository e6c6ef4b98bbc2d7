"""What a dictionary, or a comparison by one, cannot be made of: one line that says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.support.scans import paint_shapes
from torch import Tensor

import opponent
from opponent import Dictionary, Run, RunError, TrainingSettings
from opponent.__main__ import _expected
from opponent.cli import app
from opponent.dictionaries.baselines import kmeans_dictionary, nmf_dictionary

MODEL, LAYER, FEATURE = "inceptionv1-small", "mixed3a", "mixed3b:189"
ONE = torch.eye(128)
QUICK = ("--latents", "20", "--active", "4", "--steps", "2", "--batch", "64")


def said(*words: object) -> str:
    """The one line with which a command fails."""
    with pytest.raises(Exception, match=r".") as caught:
        app([str(word) for word in words], standalone_mode=False)
    assert isinstance(caught.value, Exception)
    assert _expected(caught.value), repr(caught.value)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_shapes(tmp_path_factory.mktemp("bad") / "photos", 4)


def written(path: Path, arrays: dict[str, Tensor], about: object = None) -> Path:
    text = about if isinstance(about, str) else json.dumps(about)
    save_file(
        {name: x.contiguous().clone() for name, x in arrays.items()}, path,
        None if about is None else {"dictionary": text},
    )  # fmt: skip
    return path


PAIR = {"decoder": ONE, "encoder": ONE}
NAN = torch.where(ONE > 0, torch.nan, 0.0)
FILES: dict[str, tuple[dict[str, Tensor], object, str]] = {
    "another layer": (PAIR, {"layer": "mixed3b"}, "is of 'mixed3b', not of 'mixed3a'; explain"),
    "another width": (
        {"decoder": torch.eye(64), "encoder": torch.eye(64)}, None,
        "is of 64 channels, and 'mixed3a' has 128; give one that was learnt from that layer",
    ),
    "NaN": ({"decoder": NAN, "encoder": ONE}, None, "the decoder holds NaN or infinity"),
    "infinity": (PAIR | {"bias": torch.full((128,), torch.inf)}, None, "the bias holds NaN or inf"),
    "dead": ({"decoder": 0 * ONE, "encoder": ONE}, None, "all latents are dead: the decoder is"),
    "whole numbers": ({"decoder": ONE.int(), "encoder": ONE}, None, "decoder is no array of numb"),
    "axes": ({"decoder": ONE[None], "encoder": ONE}, None, "decoder is no array of numbers wi"),
    "shapes": ({"decoder": ONE, "encoder": ONE[:9]}, None, r"encoder has shape \(9, 128\), and a"),
    "kind": (PAIR, {"kind": "ica"}, "kind is one of topk, relu, linear, nonnegative, not 'ica'"),
    "too many on": (PAIR, {"kind": "topk", "active": 500}, "500 of 128 latents cannot be active"),
    "a truth": (PAIR, {"kind": "topk", "active": True}, "active latents and layer has other types"),
    "no number on": (PAIR, {"kind": "topk"}, "for the kind 'topk', which needs it"),
    "no JSON": (PAIR, "{no", "what its metadata says in 'dictionary' is no JSON: "),
    "a list": (PAIR, [1], "what its metadata says of kind, active latents and layer has other"),
    "no decoder": ({"encoder": ONE}, None, "there is no array 'decoder' among encoder"),
    "no encoder": ({"decoder": ONE}, None, "has an encoder, but for the kind 'nonnegative'"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_do_not_fit(photos: Path, tmp_path: Path, name: str) -> None:
    arrays, about, message = FILES[name]
    file = written(tmp_path / "d.safetensors", arrays, about)
    with pytest.raises(ValueError, match=message):
        opponent.attribute(MODEL, photos, FEATURE, LAYER, dictionary=file)
    with pytest.raises(ValueError, match=message):
        opponent.scan_images(MODEL, photos, FEATURE, LAYER, out=tmp_path / "run", dictionary=file)
    words = ("scan", MODEL, FEATURE, "--through", LAYER, "--images", photos)
    line = said(*words, "--dictionary", file, "--out", tmp_path / "run")
    assert line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"hello, no dictionary at all", None])
def test_files_that_are_none(photos: Path, tmp_path: Path, content: bytes | None) -> None:
    file = written(tmp_path / "d.safetensors", PAIR)
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    words = ("scan", MODEL, FEATURE, "--through", LAYER, "--images", photos)
    line = said(*words, "--dictionary", file, "--out", tmp_path / "run")
    assert "d.safetensors is no safetensors file, or not all of it: " in line
    with pytest.raises(OSError, match="is no safetensors file, or not all of it"):
        Dictionary.load(file)


@pytest.mark.parametrize("kind", ["topk", "kmeans", "nmf"])
def test_too_little_to_learn_from(photos: Path, tmp_path: Path, kind: str) -> None:
    out, first = tmp_path / "d.safetensors", photos / "000.png"
    words = ("dictionary", MODEL, LAYER, "--kind", kind, "--out", out, *QUICK)
    line = said(*words, "--images", first)
    assert line.startswith("there is one image, and what a dictionary leaves is measured on images")
    assert line.endswith("give 2 images or more")
    line = said(*words, "--images", photos, "--latents", "50000")
    assert line == (
        "4 images give 588 vectors of 'mixed3a' to learn from, too few for 50,000 latents; give "
        "more images, or fewer latents"
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(3):
        (broken / f"{number}.png").write_bytes(b"no picture")
    line = said(*words, "--images", broken)
    assert "could be read" in line
    assert line.endswith("give others")
    line = said(*words[: -len(QUICK) - 1], tmp_path / "d.pt", "--images", photos)
    assert line.endswith("d.pt: dictionaries are written to a file ending .safetensors")
    assert not out.exists()


class Flat:
    """Images of one colour, all the same."""

    name = "flat"

    def ids(self) -> list[str]:
        return [str(i) for i in range(3)]

    def image(self, id: str) -> np.ndarray:
        del id
        return np.full((4, 4, 3), 100, np.uint8)


def pixel_network(bias: float = 0.0) -> opponent.Network:
    with torch.random.fork_rng(devices=[]):
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 1, 1))
    for layer in module:
        torch.nn.init.ones_(layer.weight)  # type: ignore[arg-type]
        torch.nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    prepared = opponent.Preprocessing(size=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    return opponent.Network(module.eval(), preprocessing=prepared, name="pixels")


def test_vectors_that_do_not_vary_measure_nothing() -> None:
    """What is left of no variance is no number."""
    settings = TrainingSettings(latents=4, active=1, steps=1, batch=8)
    with pytest.raises(ValueError, match=r"16 hidden vectors .* are all the same"):
        opponent.learn_dictionary(pixel_network(), Flat(), "0", settings=settings)


@pytest.mark.parametrize("fit", [kmeans_dictionary, nmf_dictionary])
def test_vectors_of_zeros_are_none_to_learn_from(fit: Callable[..., Any]) -> None:
    network = pixel_network()
    torch.nn.init.zeros_(network.module[0].weight)  # type: ignore[index,arg-type]
    with pytest.raises(ValueError, match="0 vectors of '0' that are finite and not zero, too few"):
        fit(network, Flat(), "0", latents=4)


class Noise:
    """Images of noise."""

    name = "noise"

    def ids(self) -> list[str]:
        return [str(i) for i in range(4)]

    def image(self, id: str) -> np.ndarray:
        return np.random.default_rng(int(id)).integers(0, 256, (4, 4, 3), np.uint8)


def test_negative_layers(tmp_path: Path) -> None:
    """Factors and codes that are not negative cannot write them; TopK can."""
    network = pixel_network(-5.0)
    message = (
        r"negative in places \(down to -[\d.]+\), and .* take a layer after a ReLU, or .* topk"
    )
    with pytest.raises(ValueError, match=message):
        nmf_dictionary(network, Noise(), "0", latents=2)
    never = Dictionary(
        decoder=torch.ones(2, 3), encoder=None, bias=torch.zeros(3), encoder_bias=torch.zeros(2),
        kind="nonnegative",
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        opponent.attribute(network, Noise(), "1:0", "0", dictionary=never)
    with pytest.raises(ValueError, match=message):
        opponent.scan_images(network, Noise(), "1:0", "0", out=tmp_path / "r", dictionary=never)
    both = Dictionary(
        decoder=-torch.ones(2, 3), encoder=None, bias=torch.zeros(3), encoder_bias=torch.zeros(2),
        kind="nonnegative",
    )  # fmt: skip
    assert opponent.attribute(network, Noise(), "1:0", "0", dictionary=both).rest is not None
    settings = TrainingSettings(latents=4, active=1, steps=1, batch=8)
    learnt = opponent.learn_dictionary(network, Noise(), "0", settings=settings)
    assert learnt.left > 0
    assert kmeans_dictionary(network, Noise(), "0", latents=1).dictionary.active == 1


def test_pixels_can_be_learnt(tmp_path: Path) -> None:
    settings = TrainingSettings(latents=4, active=1, steps=1, batch=8)
    learnt = opponent.learn_dictionary(
        pixel_network(), Noise(), "pixels", settings=settings, checkpoints=tmp_path / "kept"
    )
    assert learnt.dictionary.channels == 3


def test_dictionaries_whose_numbers_are_too_large_are_named(photos: Path, tmp_path: Path) -> None:
    large = written(tmp_path / "d.safetensors", {"decoder": 1e30 * ONE, "encoder": 1e30 * ONE})
    with pytest.raises(RunError, match="or the dictionary's numbers are too large"):
        opponent.scan_images(MODEL, photos, FEATURE, LAYER, out=tmp_path / "run", dictionary=large)


# Scans that are compared


@pytest.fixture(scope="module")
def scans(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    folder = tmp_path_factory.mktemp("scans")

    def scan(name: str, **other: Any) -> Run:
        given = {
            "network": MODEL, "images": photos, "features": FEATURE, "through": LAYER,
            "out": folder / name,
        } | other  # fmt: skip
        return opponent.scan_images(**given)

    return scan


def test_scans_that_do_not_match(scans: Callable[..., Run], tmp_path: Path) -> None:
    identity = Dictionary.identity(128)
    latents = scans("latents", dictionary=identity)
    fewer = paint_shapes(tmp_path / "fewer", 3)
    changed = paint_shapes(tmp_path / "changed", 4)
    network = opponent.load(MODEL)
    doubled = opponent.load(MODEL)
    with torch.no_grad():
        next(doubled.module.parameters()).mul_(1.5)
    wide = network.to(dtype=torch.float64)
    for name, other, message in (
        (
            "feature",
            {"features": "mixed3b:190"},
            r"latents holds no mixed3b:190@7,7, but mixed3b:1",
        ),
        (
            "place",
            {"features": "mixed3b:189@2,3"},
            r"latents holds no mixed3b:189@2,3, but mixed3b",
        ),
        (
            "layer",
            {"through": "conv2d2"},
            r"different through layers \(conv2d2 and mixed3a\); scan",
        ),
        ("images", {"images": fewer}, "are of different images; scan both alike"),
        ("weights", {"network": doubled}, "are of different networks; scan both alike"),
        (
            "rule",
            {"rule": "integrated-zero"},
            r"different rules \(integrated-zero\S+ and gradient\)",
        ),
        ("numbers", {"network": wide}, r"different computations \(float64 and float32\)"),
    ):
        with pytest.raises(RunError, match=message):
            opponent.interference(scans(name, **other), latents)
        line = said("interference", scans(name, **other).folder, latents.folder)
        assert str(latents.folder) in line
    same = scans("channels", images=changed)
    assert opponent.interference(same, latents).remaining == pytest.approx(1)
    # Equal names and sizes, other contents.
    for path in sorted(changed.iterdir()):
        size = path.stat().st_size
        Image.effect_noise((8, 8), 90).convert("RGB").save(path)
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        assert path.stat().st_size == size
    other = scans("content", images=changed)
    with pytest.raises(RunError, match=r"have other activations of mixed3b:189@7,7 in [234] of 4"):
        opponent.interference(other, latents)
    line = said("interference", latents.folder, same.folder)
    assert "a scan in channels first" in line
    assert "is no run folder" in said("interference", tmp_path, latents.folder)
    line = said("interference", same.folder, latents.folder, "--out", tmp_path / "page.txt")
    assert "ends in none of .html" in line


def test_silent_latents_and_other_weights_are_told(
    scans: Callable[..., Run], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = PAIR | {"encoder_bias": torch.full((128,), -1e6)}
    about = {"provenance": {"weights_sha256": 64 * "a", "network": "another"}}
    deaf = written(tmp_path / "deaf.safetensors", arrays, about)
    words = ("scan", MODEL, FEATURE, "--through", LAYER, "--images", photos, "--dictionary", deaf)
    app([*map(str, words), "--out", str(tmp_path / "run")], standalone_mode=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "the dictionary was learnt from other weights (aaaaaaaaaaaa…, of another) than" in text
    assert "no latent of the dictionary is on where mixed3b:189@7,7 looks, in any image" in text
    plain = scans("channels", images=photos)
    line = said("interference", plain.folder, tmp_path / "run")
    assert "no latent of the dictionary of" in line
    assert "in any of its 4 images" in line
    # An ordinary scan says nothing of dictionaries.
    app([*map(str, words[:-2]), "--out", str(plain.folder)], standalone_mode=False)
    assert "dictionary" not in capsys.readouterr().out


def test_latents_that_are_silent_in_some_images_are_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = opponent.load(MODEL)
    [hidden] = network.activations(photos, LAYER).values()
    window = hidden[:, :, 5:10, 5:10]
    means = window.amax((2, 3)).amax(1)
    bar = float(means.sort().values[1:3].mean())
    heard = written(tmp_path / "d.safetensors", PAIR | {"encoder_bias": torch.full((128,), -bar)})
    words = ("scan", MODEL, FEATURE, "--through", LAYER, "--images", photos, "--dictionary", heard)
    app([*map(str, words), "--out", str(tmp_path / "run")], standalone_mode=False)
    assert "mixed3b:189@7,7: in 2 of 4 images no latent is on" in capsys.readouterr().out
    plain = opponent.scan_images(MODEL, photos, FEATURE, LAYER, out=tmp_path / "plain")
    found = opponent.interference(plain, Run(tmp_path / "run"))
    assert dict(found.facts())["images in which no latent is on"] == "2 of 4"
    assert np.isnan(found.remaining[~found.on]).all()
    assert set(found.order(functional=True, least=0.0)) == set(np.flatnonzero(found.on))
