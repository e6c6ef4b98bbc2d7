"""`attribute` computes only the crop that decides a feature, and gives the whole image's S."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.attribution import EXACT, assert_lawful, randn, seeded, whole_image
from tests.support.extensions import InMemory
from tests.support.receptive_fields import Around, Function, squeeze_excite
from torch import Tensor, nn

import opponent
from opponent import Network, Preprocessing, Unreadable, attribute, mean_activation
from opponent.attribution import attribute as module
from opponent.attribution.attribute import attribute_each, checked_plan
from opponent.core.box import Box
from opponent.geometry.crop import plan_whole_image
from opponent.geometry.planning import plan_crop

SIZE = (44, 52)


def layers() -> nn.Sequential:
    """Strides, a pool, a skip, a block of two branches: all that a convolutional network has."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1), Around(nn.Conv2d(4, 4, 3, padding=1)), nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True),
        nn.Conv2d(5, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def convolutional() -> Network:
    return Network(seeded(layers), preprocessing=Preprocessing(size=SIZE), name="layers")


def gated() -> Network:
    """A gate that the whole map decides, before the features."""
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Function(squeeze_excite),
            nn.Conv2d(4, 3, 3, padding=1),
        )
    )  # fmt: skip
    return Network(module, preprocessing=Preprocessing(size=(20, 24)), name="gated")


class Places(nn.Module):
    """Adds a value that belongs to a place, so that a crop gives other numbers."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.places = nn.Parameter(scale * randn(1, 4, 20, 24))
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last((x + self.places[:, :, : x.shape[2], : x.shape[3]]).relu())


def placed(scale: float = 1.0) -> Network:
    module = seeded(lambda: Places(scale))
    return Network(module, preprocessing=Preprocessing(size=(20, 24)), name="placed")


@contextmanager
def sizes_of(network: Network) -> Iterator[list[tuple[int, ...]]]:
    """The sizes of all inputs that reach the network's first layer."""
    sizes: list[tuple[int, ...]] = []
    first = next(m for m in network.module.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_pre_hook(lambda _, x: sizes.append(tuple(x[0].shape)))
    try:
        yield sizes
    finally:
        handle.remove()


# What the crop gives


@pytest.mark.parametrize(
    ("target", "through"),
    [
        ("8:2", "7"), ("8:2@0,12", "4"), ("8:5@10,0", "1"), ("5:1@10,12", "3"), ("7:3@0,0", "0"),
        ("5:0", "pixels"), ("2:1@0,5", "pixels"),
    ],
)  # fmt: skip
def test_the_crop_gives_what_the_whole_image_gives(target: str, through: str) -> None:
    network, x = convolutional(), randn(3, 3, *SIZE)
    feature = network.resolve(target)
    activation, attribution, hidden = whole_image(network, x, feature, through)
    attribute(network, x[:1], target, through)  # plans
    with sizes_of(network) as sizes:
        result = attribute(network, x, target, through)
    [size] = sizes
    assert size[2] * size[3] < SIZE[0] * SIZE[1]
    assert result.feature == feature
    torch.testing.assert_close(result.activation, activation, **EXACT)
    torch.testing.assert_close(result.attribution, attribution, **EXACT)
    torch.testing.assert_close(result.hidden, hidden[:, :, *result.window.slices], **EXACT)
    torch.testing.assert_close(result.excitation_map, attribution.clamp(min=0).sum(1), **EXACT)
    torch.testing.assert_close(result.inhibition_map, (-attribution).clamp(min=0).sum(1), **EXACT)
    assert_lawful(result)


@pytest.mark.parametrize("target", ["8:1", "8:1@0,0", "8:4@10,12", "5:2@3,12"])
def test_the_window_is_where_s_is_not_zero(target: str) -> None:
    """Found by brute force, over images enough that no path is always off."""
    network, x = convolutional(), randn(60, 3, *SIZE)
    result = attribute(network, x, target, "1")
    there = whole_image(network, x, network.resolve(target), "1")[1].abs().sum((0, 1)) > 0
    rows, columns = (there.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    expected = Box(
        top=rows[0], left=columns[0],
        height=rows[-1] - rows[0] + 1, width=columns[-1] - columns[0] + 1,
    )  # fmt: skip
    assert result.window == expected
    assert result.window_attribution.shape == (60, 4, expected.height, expected.width)
    assert result.map_size == (22, 26)
    assert result.attribution.shape == (60, 4, 22, 26)
    inside = result.attribution[:, :, *result.window.slices]
    assert torch.equal(inside, result.window_attribution)


def test_captum_gives_the_same_of_the_whole_image() -> None:
    captum = pytest.importorskip("captum.attr")
    network, x = convolutional(), randn(3, 3, *SIZE)
    plain = seeded(layers)
    for part in plain.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False  # captum holds on to the layers' outputs
    for target, unit, through in ((8, 3, 4), (8, 0, 1), (5, 2, 3)):
        forward = lambda x, t=target, u=unit: plain[: t + 1](x)[:, u, 0, 7]  # noqa: E731
        method = captum.LayerGradientXActivation(forward, plain[through])
        result = attribute(network, x, f"{target}:{unit}@0,7", str(through))
        torch.testing.assert_close(result.attribution, method.attribute(x).detach(), **EXACT)
        assert result.window != Box.full(result.map_size)


@pytest.mark.parametrize(
    ("make", "target", "through"),
    [
        (convolutional, "logits:2", "7"),  # no rows and columns
        (convolutional, "9:1", "4"),
        (gated, "3:1", "1"),  # all of the image is needed
        (gated, "3:2@0,0", "pixels"),
        (placed, "last:1", "first"),  # a crop gives other numbers
        (placed, "last:0@19,23", "pixels"),
    ],
)
def test_where_no_crop_is_possible_it_is_the_whole_image(
    make: object, target: str, through: str
) -> None:
    assert callable(make)
    network = make()
    x, feature = randn(3, 3, *network.preprocessing.size), network.resolve(target)
    with sizes_of(network) as sizes:
        result = attribute(network, x, target, through)
    assert sizes[-1][2:] == network.preprocessing.size
    activation, attribution, _ = whole_image(network, x, feature, through)
    torch.testing.assert_close(result.activation, activation, **EXACT)
    torch.testing.assert_close(result.attribution, attribution, **EXACT)
    assert_lawful(result)


@pytest.mark.parametrize(
    ("name", "size", "target", "through"),
    [
        ("resnet18", (96, 128), "layer2.1.conv1:3@0,15", "layer2.0"),
        ("squeezenet1_1", (95, 127), "features.4.squeeze:3", "features.3"),
        ("densenet121", (96, 96), "features.denseblock1.denselayer3.conv1:9", "features.relu0"),
        ("mobilenet_v3_small", (96, 96), "features.4.block.0.0:17", "features.2"),
        ("vit_b_32", (64, 64), "conv_proj:100", "pixels"),  # takes no other size
        ("vit_b_32", (64, 64), "encoder.layers.encoder_layer_0.mlp.0:7@1,0", "conv_proj"),
    ],
)
def test_networks_of_torchvision(
    name: str, size: tuple[int, int], target: str, through: str
) -> None:
    models = pytest.importorskip("torchvision.models")
    more = {"image_size": size[0]} if name.startswith("vit") else {}
    network = Network(
        seeded(lambda: models.get_model(name, weights=None, **more)),
        preprocessing=Preprocessing(size=size),
    )
    x, feature = randn(2, 3, *size), network.resolve(target)
    result = attribute(network, x, target, through)
    activation, attribution, _ = whole_image(network, x, feature, through)
    torch.testing.assert_close(result.activation, activation, **EXACT)
    torch.testing.assert_close(result.attribution, attribution, **EXACT)
    assert result.l1.all()


# Which images


@pytest.mark.parametrize("size", [(64, 48), (45, 53), (20, 90)])
def test_a_tensor_may_have_another_size(size: tuple[int, int]) -> None:
    network, x = convolutional(), randn(3, 3, *size)
    for target, through in (("8:2", "4"), ("8:2@0,1", "1"), ("logits:1", "7")):
        result = attribute(network, x, target, through)
        there = Network(network.module, preprocessing=Preprocessing(size=size))
        feature = there.resolve(target)
        activation, attribution, _ = whole_image(there, x, feature, through)
        # The centre is that of its own map.
        assert result.feature == feature
        torch.testing.assert_close(result.activation, activation, **EXACT)
        torch.testing.assert_close(result.attribution, attribution, **EXACT)
    assert network.preprocessing.size == SIZE
    mean = mean_activation(network, x, "4")
    own = attribute(network, x, "8:2", "4", rule="integrated-mean/2")
    given = attribute(network, x, "8:2", "4", rule="integrated-mean/2", baseline=mean)
    assert torch.equal(own.attribution, given.attribution)


def test_batches_give_what_one_pass_gives_and_are_counted(tmp_path: Path) -> None:
    network, x = convolutional(), randn(module.BATCH * 2 + 5, 3, *SIZE)
    calls: list[tuple[str, int, int]] = []
    result = attribute(network, x, "8:2", "4", progress=lambda *call: calls.append(call))
    batch, total = module.BATCH, len(x)
    assert calls == [("attributing 8:2@5,6", done, total) for done in (batch, 2 * batch, total)]
    [whole] = attribute_each(network, x, [network.resolve("8:2")], "4")
    torch.testing.assert_close(result.attribution, whole.attribution, **EXACT)
    assert len(result) == total
    assert result.images is None
    calls.clear()
    pixels = np.random.default_rng(0).integers(0, 256, (module.BATCH + 1, 50, 60, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    result = attribute(network, tmp_path, "8:2", "4", progress=lambda *call: calls.append(call))
    assert result.images == tuple(f"{n:02d}.png" for n in range(batch + 1))
    assert [call[1:] for call in calls] == [(batch, batch + 1), (batch + 1, batch + 1)]
    one = attribute(network, tmp_path / "07.png", "8:2", "4")
    assert one.images == ("07.png",)
    torch.testing.assert_close(one.attribution[0], result.attribution[7], **EXACT)
    few = attribute(network, [tmp_path / "03.png", tmp_path / "01.png"], "8:2", "4")
    assert few.images == ("03.png", "01.png")
    torch.testing.assert_close(few.excitation, result.excitation[[3, 1]], **EXACT)


def test_images_that_are_no_files() -> None:
    network = convolutional()
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
    source = InMemory(dict(zip("abc", pixels, strict=True)))
    result = attribute(network, source, "8:2", "4")
    assert result.images == ("a", "b", "c")
    expected = attribute(network, network.inputs(pixels), "8:2", "4")
    torch.testing.assert_close(result.attribution, expected.attribution, **EXACT)
    source.arrays["b"] = "no picture"
    with pytest.raises(Unreadable, match=r"^b cannot be read: .*it is no picture"):
        attribute(network, source, "8:2", "4")


def test_a_batch_of_none_plans_nothing_that_stays() -> None:
    network = placed()
    nothing = attribute(network, randn(0, 3, 20, 24), "last:1", "first")
    assert nothing.attribution.shape == (0, 4, 20, 24)
    assert nothing.excitation.shape == nothing.l2.shape == (0,)
    x = randn(2, 3, 20, 24)
    expected = whole_image(network, x, network.resolve("last:1"), "first")[1]
    torch.testing.assert_close(
        attribute(network, x, "last:1", "first").attribution, expected, **EXACT
    )


def test_the_users_model_comes_back_as_it_was() -> None:
    model = seeded(layers).train()
    model[6].eval()
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    for images, target, through in (
        (randn(3, 3, *SIZE), "8:2", "4"), (randn(2, 3, 30, 50), "8:0@0,0", "pixels"),
        (randn(2, 3, *SIZE), "logits:0", "1"),
    ):  # fmt: skip
        with torch.inference_mode():
            attribute(network, images, target, through)
        attribute(network, images, target, through, rule="integrated-mean/2")
    with pytest.raises(KeyboardInterrupt):
        attribute(network, randn(3, 3, *SIZE), "8:2", "4", progress=_interrupt)
    with pytest.raises(ValueError, match="does not lie before the target"):
        attribute(network, randn(3, 3, *SIZE), "4:2", "8")
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()].count(False) == 1
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None and p.dtype == torch.float64 for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert network.preprocessing.size == SIZE


def _interrupt(what: str, done: int, total: int) -> None:
    raise KeyboardInterrupt


# The check on the first images


class Brightness(nn.Module):
    """Where the image is bright on the whole, a gate opens; noise is not bright."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # By numpy: no operation of torch tells where the number comes from.
        gate = 1.0 + (x.detach().numpy().max((1, 2, 3), keepdims=True) > 100)
        return self.last(self.first(x).relu()) * torch.from_numpy(gate)


def test_first_images_show_what_noise_does_not() -> None:
    network = Network(seeded(Brightness), preprocessing=Preprocessing(size=(20, 24)))
    feature = network.resolve("logits:1@0,0")
    assert plan_crop(network, [feature], "first").box is not None
    x = randn(4, 3, 20, 24)
    x[2, 0, 19, 23] = 1000  # far from what the feature sees
    plan = checked_plan(network, [feature], "first", x)
    assert plan.box is None
    assert plan.reason == "on the first images, activation of logits:1@0,0 differs"
    assert plan == plan_whole_image(network, [feature], "first", plan.reason)
    result = attribute(network, x, feature, "first")
    [expected] = attribute_each(network, x, [feature], "first")
    torch.testing.assert_close(result.attribution, expected.attribution, **EXACT)
    # One image of four is enough, however small its numbers are beside the others'.
    faint = torch.cat([1e3 * x[:2], x[2:3]])
    assert checked_plan(network, [feature], "first", faint).box is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_activation_that_cancels_is_no_reason_against_a_crop(dtype: torch.dtype) -> None:
    """A tense image: excitation and inhibition are large, their difference is next to nothing."""
    network = Network(seeded(layers), preprocessing=Preprocessing(size=SIZE)).to(dtype=dtype)
    x = randn(1, 3, *SIZE).to(dtype)
    unit = attribute(network, x, "8:2", "7")
    with torch.no_grad():
        network.module[8].bias[2] -= unit.activation[0]
    feature = network.resolve("8:2")
    [result] = attribute_each(network, x, [feature], "7")
    assert float(result.activation.abs()) < 0.02 * float(result.l1)
    assert checked_plan(network, [feature], "7", x).box is not None


def test_a_plan_holds_for_the_weights_that_it_was_checked_with() -> None:
    network, x = placed(0.0), randn(2, 3, 20, 24)
    feature = network.resolve("last:1")
    attribute(network, x, feature, "first")
    assert plan_crop(network, [feature], "first").box is not None
    with torch.no_grad():
        network.module.places += randn(1, 4, 20, 24, seed=7)
    assert plan_crop(network, [feature], "first").box is None
    result = attribute(network, x, feature, "first")
    activation, attribution, _ = whole_image(network, x, feature, "first")
    torch.testing.assert_close(result.activation, activation, **EXACT)
    torch.testing.assert_close(result.attribution, attribution, **EXACT)


def test_flat_photographs_take_crops() -> None:
    """Many equal values, of which a pool picks any."""
    network = opponent.load()
    feature = network.resolve("mixed3b:189")
    x = torch.zeros(4, 3, 112, 112)
    x[1:], x[2, :, :, 56:], x[3, 1, 35:70] = 1, -1, 0.5
    plan = checked_plan(network, [feature], "mixed3a", x)
    assert plan.box is not None
