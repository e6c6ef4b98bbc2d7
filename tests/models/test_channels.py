"""Networks of one channel and of many, from images to figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import opponent
from opponent import Network, Preprocessing, Run, Unreadable
from opponent.explain.crops import photograph
from opponent.geometry.receptive_field import receptive_field
from opponent.storage.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (16, 20)


class Small(nn.Module):
    """Two convolutions without biases, so that the sum of S is the activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one = nn.Conv2d(channels, 6, 3, padding=1, bias=False)
            self.relu = nn.ReLU()
            self.two = nn.Conv2d(6, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.relu(self.one(x)))


def small(channels: int, value_range: tuple[float, float] | None = None) -> Network:
    prepared = Preprocessing(
        size=SIZE, channels=channels, value_range=value_range,
        mean=tuple(0.1 * n for n in range(channels)), std=(0.5,) * channels,
    )  # fmt: skip
    return Network(Small(channels), preprocessing=prepared, name=f"small{channels}")


def arrays(folder: Path, channels: int, count: int = 6) -> Path:
    rng = np.random.default_rng(channels)
    folder.mkdir()
    for number in range(count):
        np.save(folder / f"{number}.npy", rng.random((24, 30, channels), np.float32))
    return folder


# What a network takes


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_inputs_by_hand(channels: int) -> None:
    network = small(channels, (10, 30))
    image = np.random.default_rng(0).integers(0, 4096, (*SIZE, channels)).astype(np.uint16)
    inputs, ids = network.load_inputs({"a": image})
    assert ids == ("a",)
    mean = 0.1 * np.arange(channels)
    expected = ((image.astype(float) - 10) / 20 - mean) / 0.5
    np.testing.assert_allclose(inputs[0].permute(1, 2, 0), expected, rtol=1e-5)
    assert network.map_shape("pixels") == (channels, *SIZE)
    assert network.layer("one").shape == (6, *SIZE)
    assert network.activations({"a": image}, "pixels")["pixels"].shape == (1, channels, *SIZE)
    assert receptive_field(network, network.resolve("two:1")).height == 5


def test_attribution_is_complete() -> None:
    for channels in (1, 4):
        network = small(channels)
        inputs = torch.rand(3, channels, *SIZE, generator=torch.Generator().manual_seed(0))
        for through in ("relu", "pixels"):
            result = opponent.attribute(network, inputs, "two:1", through)
            total = result.excitation - result.inhibition
            torch.testing.assert_close(total, result.activation, rtol=1e-4, atol=1e-5)
        assert result.window_attribution.shape[1] == channels


def test_other_inputs_are_refused_in_one_line() -> None:
    network = small(5)
    for take in (
        lambda x: opponent.attribute(network, x, "two:1", "relu"),
        lambda x: network.activations(x, "relu"),
        lambda x: opponent.mean_activation(network, x, "relu"),
    ):
        with pytest.raises(
            ValueError, match=r"^images have shape \(n, 5, height, width\), got \(5, 16, 20\): give"
            r" one as images\[None\]$",
        ):  # fmt: skip
            take(torch.zeros(5, *SIZE))
        with pytest.raises(ValueError, match=r"^images have .*, got \(2, 3, 16, 20\); Prep"):
            take(torch.zeros(2, 3, *SIZE))
    with pytest.raises(ValueError, match=r"\(n, 3, height, width\), got \(3, 64, 64\): give"):
        opponent.attribute("inceptionv1-small", torch.zeros(3, 64, 64), "mixed3b:189", "mixed3a")


def test_images_with_other_channels_are_unreadable() -> None:
    network = small(5)
    picture = np.zeros((*SIZE, 3), np.uint8)
    reason = r"^0 cannot be read: an array of shape \(16, 20, 3\), not \(height, width, 5\), which"
    with pytest.raises(Unreadable, match=reason):
        opponent.attribute(network, [picture], "two:1", "relu")
    with pytest.raises(Unreadable, match=r"an image of 3 bands \(RGB\), and the network takes 5$"):
        opponent.attribute(network, [Image.fromarray(picture)], "two:1", "relu")
    with pytest.raises(Unreadable, match=r"\(16, 20, 5\), not \(height, width, 3\) or \(hei"):
        opponent.attribute(small(3), [np.zeros((*SIZE, 5), np.uint8)], "two:1", "relu")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"channels": 1}, r"^mean \(0.485, .*\) has 3 values for 1 channels: give one a channel$"),
        (
            {"channels": 4, "mean": (0.5,) * 4},
            r"^std .* has 3 values for 4 channels: give",
        ),
        ({"mean": (0.5,)}, r"^mean \(0.5,\) has 1 values for 3 channels"),
        ({"channels": 0, "mean": (), "std": ()}, "^0 channels: give at least 1$"),
        ({"value_range": (5, 5)}, r"^value_range \(5, 5\) must be \(black, white\)"),
    ],
)
def test_preprocessing_that_is_none(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Preprocessing(**settings)  # type: ignore[arg-type]


# From scan to figures


@pytest.mark.parametrize("channels", [1, 5])
def test_a_scan_and_back(channels: int, tmp_path: Path) -> None:
    network, images = small(channels, (0, 1)), arrays(tmp_path / "in", channels)
    run = opponent.scan_images(network, images, "two:1", "relu", out=tmp_path / "run")
    assert run.unreadable() == {}
    again = Run(run.folder)
    assert again.preprocessing == network.preprocessing
    expected = opponent.attribute(network, images, "two:1", "relu")
    np.testing.assert_allclose(again.columns().activation, expected.activation, rtol=1e-4)
    shown = photograph(again.images[0], again.preprocessing)
    assert (shown.shape, shown.dtype) == ((*SIZE, 3), np.uint8)
    assert np.ptp(shown) > 150  # black and white, and not a dark corner of them
    if channels == 1:
        np.testing.assert_array_equal(shown[..., 0], shown[..., 2])
    else:
        values = network.load_inputs(images / "0.npy")[0][0, :3] * 0.5
        values += torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1)
        np.testing.assert_array_equal(shown, (255 * values).round().byte().permute(1, 2, 0))
    why = opponent.why(network, images / "0.npy", "two:1", "relu")
    assert why.activation == pytest.approx(float(expected.activation[0]), rel=1e-4)
    with pytest.raises(opponent.RunError, match="was scanned with images prepared otherwise"):
        opponent.network_of(
            run, network.with_preprocessing(replace(network.preprocessing, value_range=(0, 2)))
        )


def test_synthesis_is_refused_in_one_line(tmp_path: Path) -> None:
    network, images = small(5), arrays(tmp_path / "in", 5)
    reason = r"^images are synthesised in RGB only, and small5 takes 5 channels$"
    settings = opponent.SynthesisSettings(steps=2)
    with pytest.raises(ValueError, match=reason):
        opponent.visualise(network, "two:1", settings=settings)
    for make in (opponent.invert, opponent.accentuate):
        with pytest.raises(ValueError, match=reason):
            make(network, images / "0.npy", "two:1", "relu", side="excitation", settings=settings)
    run = opponent.scan_images(network, images, "two:1", "relu", out=tmp_path / "run")
    with pytest.raises(ValueError, match=reason):
        opponent.make_atlas(run, network=network)


def test_an_accentuation_starts_from_values_in_their_range() -> None:
    """RGB of 12 bits: the same image as in bytes, but for their rounding."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    embedded = opponent.load()
    told = embedded.with_preprocessing(replace(embedded.preprocessing, value_range=(0, 4080)))
    settings = opponent.SynthesisSettings(steps=1)
    made = [
        opponent.accentuate(
            network, {"a": image}, "mixed3b:189", "mixed3a", side="excitation", settings=settings
        ).image
        for network, image in ((embedded, picture), (told, picture.astype(np.uint16) * 16))
    ]
    assert float((made[0] - made[1]).abs().max()) < 0.05


# The manifest


def test_manifests_without_channels_are_of_rgb_bytes(tmp_path: Path) -> None:
    picture = {"a": np.zeros((20, 20, 3), np.uint8)}
    network = small(3)
    run = opponent.scan_images(network, picture, "two:1", "relu", out=tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    values = json.loads(path.read_text())
    prepared = values["network"]["preprocessing"]
    assert (prepared.pop("channels"), prepared.pop("value_range")) == (3, None)
    path.write_text(json.dumps(values))
    assert Run(run.folder).preprocessing == network.preprocessing
    # It goes on as the same scan.
    opponent.scan_images(network, picture, "two:1", "relu", out=tmp_path / "run")
    for field in ("mean", "size"):
        damaged = json.loads(json.dumps(values))
        del damaged["network"]["preprocessing"][field]
        path.write_text(json.dumps(damaged))
        with pytest.raises(opponent.RunError, match=f"missing or unknown: {field}"):
            read_manifest(path)
    values["network"]["preprocessing"] |= {"channels": 2}
    path.write_text(json.dumps(values))
    with pytest.raises(opponent.RunError, match=r"is damaged \(.*has 3 values for 2 channels"):
        read_manifest(path)


def test_questions_of_rgb_networks_stay_as_they_were() -> None:
    assert Preprocessing().describe().keys() == {"size", "resize", "mean", "std", "draft"}
    told = small(1, (0, 4095)).preprocessing.describe()
    assert (told["channels"], told["value_range"]) == (1, (0, 4095))
