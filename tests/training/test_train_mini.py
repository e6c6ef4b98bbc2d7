"""The training script: its parts, and whole trainings of a few steps."""

import math
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from tests.support.scripts import import_script
from torch import Tensor, nn

import opponent
from opponent.images.sources import open_images
from opponent.models.inceptionv1 import MINI, InceptionV1
from opponent.models.weights import load_weights, read_weights

CLASSES = ["n00000001", "n00000002", "n00000003", "n00000004"]


mini = import_script("training/train_mini.py")


def _fill(root: Path, names: list[str], each: int) -> Path:
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        (root / name / "images").mkdir(parents=True)
        # Tiny ImageNet's folders have such files too.
        (root / name / f"{name}_boxes.txt").write_text("0.JPEG 0 0 1 1\n")
        for k in range(each):
            pixels = np.full((20, 24, 3), i, np.uint8)
            pixels[5:15] = rng.integers(56, 256, (10, 24, 3))
            Image.fromarray(pixels).save(root / name / "images" / f"{k}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On so few pixels threads wait for one another longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _network(*, bias: bool) -> InceptionV1:
    """With 4 logits, and no draw from the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return InceptionV1(replace(MINI, classes=4, bias=bias))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small images in 4 classes."""
    return _fill(tmp_path_factory.mktemp("classes"), CLASSES, 10)


def _train(folder: Path, out: Path, *options: str) -> dict[str, Tensor]:
    """Two steps in each stage, of images of few pixels."""
    stages = [replace(stage, phases=((1, 16), (1, 16))) for stage in mini.STAGES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini, "STAGES", stages)
        mini.main([str(folder), "--out", str(out), "--float32", *options])
    return dict(read_weights(out))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file that a short training wrote, and what it printed."""
    out = tmp_path_factory.mktemp("trained") / "new" / "mini.safetensors"
    with redirect_stdout(StringIO()) as printed:
        _train(folder, out)
    return out, printed.getvalue()


@pytest.fixture
def standardised() -> InceptionV1:
    """A network of standardised weights, with gains other than 1."""
    network = _network(bias=True)
    mini.standardise(network)
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(0))
    return network


def test_standardised_weights_have_mean_zero_and_their_scale(standardised: InceptionV1) -> None:
    convolutions: list[Any] = [m for m in standardised.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 3 + 9 * 6
    for convolution in convolutions:
        raw = convolution.parametrizations.weight.original.detach().double().numpy()
        gain = convolution.parametrizations.weight[0].gain.detach().numpy()
        weight = convolution.weight.detach().numpy()
        np.testing.assert_allclose(weight.mean((1, 2, 3)), 0, atol=1e-6)
        for w, plain, g in zip(weight, raw, gain, strict=True):
            scale = plain.std() * math.sqrt(plain.size)
            expected = (plain - plain.mean()) / scale * g * mini.RELU_GAIN
            np.testing.assert_allclose(w, expected, atol=1e-6)


def test_the_constant_keeps_the_variance_through_a_relu(generator: torch.Generator) -> None:
    normal = torch.randn(1_000_000, generator=generator)
    assert (normal.relu() * mini.RELU_GAIN).var().item() == pytest.approx(1, abs=0.01)


def test_folding_leaves_plain_convolutions_of_the_same_output(
    standardised: InceptionV1, generator: torch.Generator
) -> None:
    x = torch.randn(2, 3, 32, 32, generator=generator)
    before = standardised(x).detach()
    mini.fold(standardised)
    torch.testing.assert_close(standardised(x).detach(), before, rtol=0, atol=1e-5)
    plain = _network(bias=True)
    plain.load_state_dict(standardised.state_dict())
    torch.testing.assert_close(plain(x).detach(), before, rtol=0, atol=1e-5)


@given(seed=st.integers(0, 2**32))
def test_crops_have_the_stated_areas_and_ratios_and_lie_inside(seed: int) -> None:
    places = mini.crops(100, mini.draws(seed)).numpy()
    width, height = np.abs(places[:, 0, 0]), places[:, 1, 1]
    assert (places[:, 0, 1] == 0).all()
    assert (places[:, 1, 0] == 0).all()
    assert ((width * height > 0.4499) & (width * height < 1.0001)).all()
    assert ((width / height > 0.7499) & (width / height < 1.3334)).all()
    for extent, centre in ((width, places[:, 0, 2]), (height, places[:, 1, 2])):
        low, high = centre - extent, centre + extent
        # Inside, or a long side that covers the image's, which is from -1 to 1.
        inside = (low >= -1.0001) & (high <= 1.0001)
        covers = (low <= -0.9999) & (high >= 0.9999)
        assert (inside | covers).all()
    assert 20 < (places[:, 0, 0] < 0).sum() < 80


def _slow_crop(image: np.ndarray, place: np.ndarray, side: int) -> np.ndarray:
    """One pixel after the other, bilinear, reflected at the image's edges."""

    def reflected(x: float, length: int) -> float:
        x = abs(x + 0.5) % (2 * length)
        return min(x, 2 * length - x) - 0.5

    def pixel(y: int, x: int) -> np.ndarray:
        return image[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)].astype(float)

    height, width = image.shape[1:]
    result = np.empty((3, side, side))
    for row in range(side):
        for column in range(side):
            u, v = (2 * column + 1) / side - 1, (2 * row + 1) / side - 1
            x = reflected(((place[0, 0] * u + place[0, 2] + 1) * width - 1) / 2, width)
            y = reflected(((place[1, 1] * v + place[1, 2] + 1) * height - 1) / 2, height)
            left, top = math.floor(x), math.floor(y)
            a, b = x - left, y - top
            upper = (1 - a) * pixel(top, left) + a * pixel(top, left + 1)
            lower = (1 - a) * pixel(top + 1, left) + a * pixel(top + 1, left + 1)
            result[:, row, column] = (1 - b) * upper + b * lower
    return result


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_augmentation_equals_a_slow_one(generator: torch.Generator) -> None:
    pixels = _noise(generator, 12, 3, 20, 24)
    fast = mini.augment(pixels, 9, mini.draws(3)).numpy()
    places = mini.crops(12, mini.draws(3)).double().numpy()
    # Both kinds occur: crops inside the image, and with a side beyond the borders.
    assert {bool(x) for x in (np.abs(places[:, 0, 0]) > 1) | (places[:, 1, 1] > 1)} == {True, False}
    for image, place, crop in zip(pixels.numpy(), places, fast, strict=True):
        np.testing.assert_allclose(crop, _slow_crop(image, place, 9), atol=0.01)


def test_augmentation_stays_within_the_image(generator: torch.Generator) -> None:
    # Zeros from outside would be far below these values.
    pixels = 200 + _noise(generator, 200, 3, 16, 16) % 20
    seen = mini.augment(pixels, 16, generator)
    assert seen.shape == (200, 3, 16, 16)
    assert seen.min() >= 200 - 1e-3
    assert seen.max() <= 219 + 1e-3


def test_augmentation_is_seeded(generator: torch.Generator) -> None:
    pixels = _noise(generator, 8, 3, 16, 16)
    first = mini.augment(pixels, 12, mini.draws(0, 1))
    assert torch.equal(first, mini.augment(pixels, 12, mini.draws(0, 1)))
    assert not torch.equal(first, mini.augment(pixels, 12, mini.draws(0, 2)))


@pytest.mark.parametrize("number", [0, 1])
def test_the_rate_rises_to_the_stages_rate_and_falls_to_zero(number: int) -> None:
    stage, steps = mini.STAGES[number], 10_000
    rates = [mini.rate(stage, step, steps) for step in range(steps + 1)]
    assert rates[0] == pytest.approx(stage.rate / stage.warm_up)
    assert rates[stage.warm_up - 1] == rates[stage.warm_up] == stage.rate == max(rates)
    assert rates[(stage.warm_up + steps) // 2] == pytest.approx(stage.rate / 2)
    assert rates[steps] == 0
    assert rates[: stage.warm_up] == sorted(rates[: stage.warm_up])
    assert rates[stage.warm_up :] == sorted(rates[stage.warm_up :], reverse=True)


def test_a_short_stage_warms_up_for_a_tenth_of_it() -> None:
    rates = [mini.rate(mini.STAGES[0], step, 50) for step in range(50)]
    assert rates.index(max(rates)) == 4
    assert mini.rate(mini.STAGES[0], 0, 1) == mini.STAGES[0].rate


def test_the_recipe_is_the_one_of_the_embedded_weights() -> None:
    first, second = (mini.sides(stage, 781, 1.0) for stage in mini.STAGES)
    assert first == [40] * 11 * 781 + [56] * 4 * 781
    assert len(second) == 5 * 781
    seconds = np.square(second)
    assert seconds[np.array(second) == 56].sum() / seconds.sum() == pytest.approx(0.3, abs=0.04)
    assert mini.sides(mini.STAGES[0], 10, 0.001) == [40, 56]


def test_an_epoch_shows_each_image_once_and_in_its_own_order() -> None:
    photos = mini.Photos(
        pixels=torch.zeros(300, 3, 1, 1, dtype=torch.uint8), labels=torch.arange(300)
    )
    steps = [mini.batch(photos, step, 0).labels.tolist() for step in range(4)]
    assert [len(labels) for labels in steps] == [128] * 4
    assert len(set(steps[0] + steps[1])) == len(set(steps[2] + steps[3])) == 256
    assert steps[0] != steps[2]
    assert steps[2] == mini.batch(photos, 2, 0).labels.tolist()
    assert steps[2] != mini.batch(photos, 2, 1).labels.tolist()


def test_the_average_is_a_weighted_mean_of_all_weights(generator: torch.Generator) -> None:
    weights = torch.rand(30, generator=generator, dtype=torch.float64)
    average = weights[0]
    for count in range(1, 30):
        average = mini.moving_average(average, weights[count], count)
    shares = np.zeros(30)
    shares[0] = 1
    for count in range(1, 30):
        decay = (1 + count) / (10 + count)
        shares *= decay
        shares[count] = 1 - decay
    assert average.item() == pytest.approx(shares @ weights.numpy())
    late = mini.moving_average(torch.zeros(()), torch.ones(()), 10**6)
    assert late.item() == pytest.approx(1 - mini.MEMORY, rel=1e-3)


def test_only_weights_decay() -> None:
    settings = mini.Settings(seed=0, epochs_scale=1.0, float32=True, limit=0, images="")
    learner = mini.Learner(mini.STAGES[0], settings, 4, {})
    decays = {id(g["params"][0]): g["weight_decay"] for g in learner.adam.param_groups}
    for name, parameter in learner.network.named_parameters():
        is_weight = name.endswith(("weight", "original"))
        assert decays[id(parameter)] == (0.05 if is_weight else 0), name


def test_the_second_stage_begins_with_the_first_ones_weights_less_the_biases() -> None:
    settings = mini.Settings(seed=0, epochs_scale=1.0, float32=True, limit=0, images="")
    first = mini.Learner(mini.STAGES[0], settings, 4, {})
    mini.fold(first.network)
    weights = first.network.state_dict()
    second = mini.Learner(mini.STAGES[1], settings, 4, weights).network.state_dict()
    assert {k: v.shape for k, v in second.items()} == {
        k: v.shape for k, v in _network(bias=False).state_dict().items()
    }
    assert all(torch.equal(second[name], weights[name]) for name in second)
    assert all(name.startswith("mixed") for name in weights.keys() - second.keys())


def test_autocast_changes_the_loss_a_little(generator: torch.Generator) -> None:
    photos = mini.Photos(
        pixels=_noise(generator, 4, 3, 16, 16), labels=torch.randint(4, (4,), generator=generator)
    )
    losses = []
    for float32 in (True, False):
        settings = mini.Settings(seed=0, epochs_scale=1.0, float32=float32, limit=0, images="")
        learner = mini.Learner(mini.STAGES[1], settings, 4, {})
        losses.append(learner.learn(photos, 16, 1e-3, mini.draws(0)))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_accuracy_is_counted_over_all_images(
    generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    # The logits are the pixels: whole numbers that differ, so that ranks are plain.
    values = torch.stack([torch.randperm(10, generator=generator) for _ in range(300)])
    labels = torch.randint(10, (300,), generator=generator)
    pixels = values.to(torch.uint8).reshape(300, 1, 10, 1).expand(300, 3, 10, 1)

    class Red(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, :, 0]

    mini.say_accuracy(Red(), mini.Photos(pixels=pixels, labels=labels))
    ranks = [(row > row[label]).sum().item() for row, label in zip(values, labels, strict=True)]
    top1, top5 = (np.mean([rank < k for rank in ranks]) for k in (1, 5))
    expected = f"held out: {top1:.1%} top-1, {top5:.1%} top-5 of 300 images\n"
    assert capsys.readouterr().out == expected


def test_a_short_training_writes_a_file_that_loads(trained: tuple[Path, str]) -> None:
    out, printed = trained
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"classes": " ".join(CLASSES)}
    assert {weight.dtype for weight in read_weights(out).values()} == {torch.float16}
    network = _network(bias=False)
    load_weights(network, out)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert printed.startswith("40 images of 4 classes, 4 of them held out\n")
    assert "stage 1, step 2/2, 16 pixels: loss " in printed
    # After each epoch, of which both stages have two, and of the file.
    assert printed.count("held out: ") == 5


def test_the_embedded_networks_classes_give_weights_for_it(tmp_path: Path) -> None:
    text = (resources.files("opponent.models") / "inceptionv1-mini-classes.txt").read_text("utf-8")
    ids = [line.split()[0] for line in text.splitlines()]
    folder, out = _fill(tmp_path / "images", sorted(ids), 1), tmp_path / "mini.safetensors"
    _train(folder, out, "--limit", "20")
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"classes": " ".join(ids)}
    network = opponent.load("inceptionv1-mini", weights=out)
    written = read_weights(out)["softmax2_pre_activation_matmul.weight"].float()
    state = network.module.state_dict()
    assert torch.equal(state["softmax2_pre_activation_matmul.weight"], written)


def test_labels_follow_the_order_of_the_classes(folder: Path) -> None:
    names, photos = mini.read_photos(open_images(folder), 0, 0)
    assert names == CLASSES
    # The first row of an image of class i has the value i.
    for pixels, label in zip(photos.pixels, photos.labels, strict=True):
        assert (pixels[:, 0] == label).all()
    assert sorted(photos.labels.tolist()) == sorted([*range(4)] * 10)
    assert len(mini.read_photos(open_images(folder), 7, 0)[1]) == 7
    assert not torch.equal(mini.read_photos(open_images(folder), 0, 1)[1].labels, photos.labels)


def _interrupt_in_second_step(patch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C pressed between the gradients and the new weights."""
    clip: Callable[..., Tensor] = nn.utils.clip_grad_norm_
    steps = iter([1])

    def pressed(*arguments: Any, **named: Any) -> Tensor:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return clip(*arguments, **named)

    patch.setattr(nn.utils, "clip_grad_norm_", pressed)


def test_a_training_that_was_interrupted_equals_one_that_was_not(
    folder: Path,
    trained: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "parts.safetensors"
    # In the first stage, at the border of the two, and in the second.
    for _ in range(3):
        with pytest.MonkeyPatch.context() as patch:
            _interrupt_in_second_step(patch)
            with pytest.raises(SystemExit, match="130"):
                _train(folder, out)
        assert not out.exists()
        assert "the same command goes on" in capsys.readouterr().err
    parts = _train(folder, out)
    assert "stage 2, step 1/" not in capsys.readouterr().out
    whole = read_weights(trained[0])
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_a_checkpoint_of_other_settings_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "mini.checkpoint"
    torch.save({"settings": {"seed": 3}, "stage": 0, "step": 1}, checkpoint)
    with pytest.raises(SystemExit, match="2"):
        _train(folder, tmp_path / "mini.safetensors")
    assert "is of a training with {'seed': 3}, not {'seed': 0, " in capsys.readouterr().err
    assert checkpoint.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--out", "mini.pth"], "must end in .safetensors"),
        (["{folder}", "--out", "m.safetensors", "--epochs-scale", "0"], "be above 0"),
        (["{folder}", "--out", "m.safetensors", "--limit", "9"], "9 images are too few"),
        (["{folder}/n00000001", "--out", "m.safetensors"], "it has 1 sub-folders"),
        (["{folder}/n00000001/images", "--out", "m.safetensors"], "no images beside them"),
        (["{folder}/none", "--out", "m.safetensors"], "is no folder"),
    ],
)
def test_what_cannot_be_trained_on_is_said(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        mini.main([argument.format(folder=folder) for argument in arguments])
    assert message in capsys.readouterr().err
    assert not Path(arguments[2]).exists()


def test_an_unreadable_image_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _fill(tmp_path, CLASSES, 2)
    (folder / CLASSES[0] / "images" / "broken.jpg").write_text("no picture")
    assert len(mini.read_photos(open_images(folder), 0, 0)[1]) == 8
    assert "broken.jpg is left out: not an image" in capsys.readouterr().out
