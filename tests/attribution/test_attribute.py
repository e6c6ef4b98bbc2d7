"""Attribution: the paper's equations spelt out, answers worked by hand, and outside witnesses."""

import copy
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import opponent
from opponent import Attribution, Feature, Network, Preprocessing, Unreadable, attribute
from opponent.attribution.attribute import attribute_each
from opponent.attribution.result import energies, energy_maps
from opponent.geometry.receptive_field import receptive_field
from opponent.models.inceptionv1 import InceptionV1

SMALL = Preprocessing(size=(9, 14))
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights from a seed of its own, in evaluation mode and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().eval().double()
        for name, value in module.named_buffers():
            if value.is_floating_point():
                value.copy_(0.1 * torch.rand(value.shape) + ("var" in name))
    return module


def randn(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def numbers(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Skip(nn.Module):
    """z = relu(conv(y) + y), with everything in place."""

    def __init__(self, channels: int, kernel: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=bias)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, y: Tensor) -> Tensor:
        z = self.conv(y)
        z += y
        return self.relu(z)


# The law, and the equations term by term


def by_terms(attribution: Tensor) -> dict[str, Any]:
    """Equations 2 and 3 for one image, one term after the other."""
    channels, height, width = attribution.shape
    found: dict[str, Any] = {"excitation": 0.0, "inhibition": 0.0, "l1": 0.0, "l2": 0.0}
    found |= {name: np.zeros((height, width)) for name in ("excitation_map", "inhibition_map")}
    found["channels"], found["inhibition_channels"] = np.zeros(channels), np.zeros(channels)
    for k in range(channels):
        for row in range(height):
            for column in range(width):
                s = attribution[k, row, column].item()
                name = "excitation" if s > 0 else "inhibition"
                found[name] += abs(s)
                found[f"{name}_map"][row, column] += abs(s)
                found["channels"][k] += s
                found["inhibition_channels"][k] += max(-s, 0)
                found["l1"] += abs(s)
                found["l2"] += s**2
    found["l2"] **= 0.5
    return found


def assert_lawful(result: Attribution) -> None:
    """What holds of every attribution."""
    plus, minus, s = result.excitation, result.inhibition, result.attribution
    torch.testing.assert_close(plus - minus, s.sum((1, 2, 3)), **EXACT)
    torch.testing.assert_close(plus + minus, result.l1, **EXACT)
    torch.testing.assert_close(result.excitation_map.sum((1, 2)), plus, **EXACT)
    torch.testing.assert_close(result.inhibition_map.sum((1, 2)), minus, **EXACT)
    torch.testing.assert_close(result.channels.sum(1), plus - minus, **EXACT)
    parts = (plus, minus, result.excitation_map, result.inhibition_map)
    assert all((part >= 0).all() for part in parts)
    torch.testing.assert_close(energies(s), (plus, minus), rtol=0, atol=0)
    torch.testing.assert_close(energy_maps(s), parts[2:], rtol=0, atol=0)


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.booleans(),
)
def test_energies_norms_and_maps_term_by_term(shape: tuple[int, ...], whole: bool) -> None:
    s = randn(*shape, seed=sum(shape))
    s = s.round() if whole else s  # so that some terms are 0
    result = Attribution(
        feature=Feature.parse("a:0"),
        through="b",
        activation=s.new_zeros(len(s)),
        attribution=s,
        hidden=s.abs(),
    )
    slow = [by_terms(each) for each in s]
    for name in slow[0] if slow else ():
        expected = torch.from_numpy(np.stack([each[name] for each in slow]))
        torch.testing.assert_close(getattr(result, name), expected, rtol=1e-12, atol=1e-12)
    assert len(result.excitation) == len(result.channels) == shape[0]
    assert_lawful(result)


def slowly(layers: list[nn.Module], x: Tensor, through: int, read: Callable[[Tensor], Tensor]):
    """Equation 1 for one image after the other, with the whole graph from the pixels on."""
    found = []
    for image in x:
        h = image[None].clone().requires_grad_()
        for layer in layers[: through + 1]:
            h = layer(h)
        y = h
        for layer in layers[through + 1 :]:
            y = layer(y)
        [gradient] = torch.autograd.grad(read(y)[0], h)
        found.append((gradient * h)[0].detach())
    return torch.stack(found)


def plain(seed: int, kernel: int, bias: bool, pool: nn.Module) -> list[nn.Module]:
    """Eight layers without names or anything in place: convolutions, ReLUs, a skip, a pool."""
    made = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, kernel, bias=bias), nn.ReLU(), pool,
            Skip(4, 3, bias), nn.Conv2d(4, 5, 2, padding=1, bias=bias), nn.ReLU(),
            nn.Conv2d(5, 3, 1, groups=1, bias=bias),
        ),
        seed,
    )  # fmt: skip
    return list(made)


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "average": nn.AvgPool2d(2, 1, 1),
    "none": nn.Identity(),
}


@pytest.mark.parametrize("pool", POOLS)
def test_attribution_is_gradient_times_layer_image_by_image(pool: str) -> None:
    layers = plain(1, 3, True, POOLS[pool])
    network = Network(nn.Sequential(*layers), preprocessing=SMALL)
    x = randn(3, 3, 9, 14)
    height, width = network.layer("6").shape[1:]
    position = (height - 1, width // 3)
    weights = randn(3, seed=5).tolist()
    for feature, read in (
        (Feature.parse("6:2"), lambda y: y[:, 2, height // 2, width // 2]),
        (Feature(layer="logits", unit=0, position=position), lambda y: y[:, 0, *position]),
        (
            Feature.direction("6", weights, position=position),
            lambda y: sum(w * y[:, k, *position] for k, w in enumerate(weights)),
        ),
    ):
        for through in range(6):
            result = attribute(network, x, feature, str(through))
            torch.testing.assert_close(
                result.attribution, slowly(layers, x, through, read), **EXACT
            )
            torch.testing.assert_close(result.activation, read(network.module(x)).detach(), **EXACT)
            assert_lawful(result)
    # A ReLU as a target is read at its input, so it is dead nowhere.
    before = layers[:5]
    result = attribute(network, x, "5:1", "2")
    read_before = lambda y: y[:, 1, y.shape[2] // 2, y.shape[3] // 2]  # noqa: E731
    torch.testing.assert_close(result.attribution, slowly(before, x, 2, read_before), **EXACT)
    assert (result.activation < 0).any()


# By hand


def weighted(conv: nn.Conv2d, weight: object, bias: object = None) -> nn.Conv2d:
    with torch.no_grad():
        conv.weight.copy_(numbers(weight).view_as(conv.weight))
        if bias is not None:
            conv.bias.copy_(numbers(bias))
    return conv


def two_layers() -> Network:
    """A pointwise layer of two channels, then a row of three weights a channel, two units."""
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(2, 2, (1, 3)))
    model.double()
    model[2].padding = (0, 1)
    weighted(model[0], [[1, 0, -1], [2, 1, 0]], [1, -3])
    weighted(model[2], [[[1, -2, 0], [-1, 3, 2]], [[0, 1, 1], [0, 0, -1]]], [5, -1])
    return Network(model, preprocessing=Preprocessing(size=(2, 3)))


# One image of 2 x 3 pixels, red, green and blue, and a black one.
PICTURE = numbers([[[7, 7, 7], [2, 1, 0]], [[7, 7, 7], [1, 4, 2]], [[7, 7, 7], [1, 0, 3]]])
PICTURES = torch.stack([PICTURE, torch.zeros_like(PICTURE)])


def test_by_hand_through_a_relu() -> None:
    # Row 1 of the hidden layer: red - blue + 1 = 2, 2, -2; 2 red + green - 3 = 2, 3, -1.
    # Unit 0 at (1, 1): 1*2 - 2*2 + 0*0 - 1*2 + 3*3 + 2*0 + 5 = 10; of black, 1 - 2 + 5 = 4.
    result = attribute(two_layers(), PICTURES, "2:0", "1")
    assert result.feature == Feature.parse("2:0@1,1")
    assert result.activation.tolist() == [10, 4]
    assert result.attribution.tolist() == [
        [[[0, 0, 0], [2, -4, 0]], [[0, 0, 0], [-2, 9, 0]]],
        [[[0, 0, 0], [1, -2, 0]], [[0, 0, 0], [0, 0, 0]]],
    ]
    assert result.excitation.tolist() == [11, 1]
    assert result.inhibition.tolist() == [6, 2]
    assert result.l1.tolist() == [17, 3]
    assert result.l2.tolist() == pytest.approx([105**0.5, 5**0.5], rel=1e-15)
    assert result.excitation_map.tolist() == [[[0, 0, 0], [2, 9, 0]], [[0, 0, 0], [1, 0, 0]]]
    assert result.inhibition_map.tolist() == [[[0, 0, 0], [2, 4, 0]], [[0, 0, 0], [0, 2, 0]]]
    assert result.channels.tolist() == [[-2, 7], [-1, 0]]


def test_by_hand_through_pixels() -> None:
    # The hidden units that fire pass 1, -2 and -1, 3 on, times their own weights, times pixels.
    result = attribute(two_layers(), PICTURES, "2:0", "pixels")
    assert result.activation.tolist() == [10, 4]
    assert result.attribution[0, :, 1].tolist() == [[-2, 4, 0], [-1, 12, 0], [-1, 0, 0]]
    assert result.attribution[:, :, 0].count_nonzero() == 0
    assert result.excitation.tolist() == [16, 0]
    assert result.inhibition.tolist() == [4, 0]
    # A black image has an attribution of nothing but zeros.
    assert result.attribution[1].count_nonzero() == result.l1[1] == result.l2[1] == 0


def test_by_hand_of_a_direction_and_of_another_position() -> None:
    # Unit 1 at (1, 1) is 2 + 0 - 1 = 1; the direction (1, -2) gives 10 - 2 = 8.
    direction = Feature.direction("2", [1.0, -2.0], name="mix")
    result = attribute(two_layers(), PICTURES[:1], direction, "1")
    assert result.feature.label == "2:mix@1,1"
    assert result.activation.tolist() == [8]
    assert result.attribution[0, :, 1].tolist() == [[2, -8, 0], [-2, 9, 0]]
    assert (result.excitation.item(), result.inhibition.item()) == (11, 10)
    # At (1, 2) the third weights meet the border: -2*0 + 1*2 + 3*0 - 1*3 + 5 = 4.
    result = attribute(two_layers(), PICTURES[:1], "2:0@1,2", "1")
    assert result.activation.tolist() == [4]
    assert result.attribution[0, :, 1].tolist() == [[0, 2, 0], [0, -3, 0]]


def test_by_hand_through_a_pool() -> None:
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(
            nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 1, 1)
        ).double()
    weighted(model[0], [[1, 0, 0], [0, 1, 0]])
    weighted(model[3], [3, -2], [0])
    red, green = [[1, 5, 2, 0], [4, -3, 1, 6]], [[2, 2, -1, -1], [0, 7, -2, -5]]
    x = numbers([[red, green, np.full((2, 4), 9).tolist()]])
    # The largest of red are 5 and 6, of green 7 and 0: 3*5 - 2*7 = 1 and 3*6 - 2*0 = 18.
    left = attribute(model, x, "3:0@0,0", "1")
    assert left.activation.tolist() == [1]
    assert left.attribution.tolist() == [
        [[[0, 15, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, -14, 0, 0]]]
    ]
    right = attribute(model, x, "3:0@0,1", "1")
    assert right.activation.tolist() == [18]
    assert right.excitation_map.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 18]]]
    assert right.inhibition.tolist() == [0]
    assert attribute(model, x, "3:0@0,0", "2").attribution.flatten().tolist() == [15, 0, -14, 0]


def test_by_hand_around_a_skip() -> None:
    # z = -2*3 + 1*2 + 3 = -1, of which y0 = 3 adds -3 and y1 = 2 adds 2.
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(True), Skip(2)).double()
    weighted(model[0], [[1, 0, 0], [0, 0, 1]])
    weighted(model[2].conv, [[-2, 1], [4, -5]], [0, 0])
    x = numbers([3, 8, 2]).view(1, 3, 1, 1)
    for through in ("1", "0"):
        result = attribute(model, x, "2.relu:0", through)
        assert result.activation.tolist() == [-1]
        assert result.channels.tolist() == [[-3, 2]]
        assert (result.excitation.item(), result.inhibition.item()) == (2, 3)
    assert attribute(model, x, "2.relu:1", "1").channels.tolist() == [[12, -8]]


# What must hold of some networks


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from(sorted(POOLS)))
def test_without_biases_the_parts_sum_to_the_activation(seed: int, kernel: int, pool: str) -> None:
    layers = plain(seed, kernel, False, POOLS[pool])
    network = Network(nn.Sequential(*layers), preprocessing=SMALL)
    x = randn(2, 3, 9, 14, seed=seed)
    features = [Feature.parse("6:1"), Feature.direction("6", [1.0, -3.0, 0.5], position=(0, 0))]
    for through in ("pixels", "0", "1", "2", "3", "4", "5"):
        for result in attribute_each(network, x, features, through):
            total = result.excitation - result.inhibition
            torch.testing.assert_close(total, result.activation, **EXACT)


def test_the_embedded_networks_blocks_have_no_biases() -> None:
    network = opponent.load()
    network.module.double()
    x = randn(2, 3, 64, 64)
    for through in ("maxpool1", "mixed3a", "mixed3b"):
        result = attribute(network, x, "mixed4a:9", through)
        total = result.excitation - result.inhibition
        torch.testing.assert_close(total, result.activation, **EXACT)
    early = attribute(network, x, "mixed4a:9", "conv2d1")
    assert not torch.allclose(early.channels.sum(1), early.activation, rtol=1e-3)


def test_a_dead_channel_adds_nothing_and_one_sign_may_be_empty() -> None:
    model = nn.Sequential(*plain(3, 3, True, POOLS["none"]))
    with torch.no_grad():
        model[0].bias[1] = -1e6
        for parameter in [*model[3].parameters(), *model[4].parameters(), *model[6].parameters()]:
            parameter.abs_()
    result = attribute(Network(model, preprocessing=SMALL), randn(2, 3, 9, 14), "6:0", "1")
    assert result.channels[:, 1].tolist() == [0, 0]
    assert result.attribution[:, 1].count_nonzero() == 0
    assert result.inhibition.tolist() == [0, 0]
    assert result.inhibition_map.count_nonzero() == 0
    assert (result.excitation > 0).all()
    assert torch.equal(result.l1, result.excitation)
    with torch.no_grad():
        model[6].weight.neg_()
    result = attribute(Network(model, preprocessing=SMALL), randn(2, 3, 9, 14), "6:0", "1")
    assert result.excitation.tolist() == [0, 0]
    assert (result.inhibition > 0).all()


def test_a_sum_over_space_and_a_batch_of_none() -> None:
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((2, 3))

    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Total(), nn.Linear(4, 2, bias=False))
    )
    # The gradient of a sum is one number that stands at all positions.
    result = attribute(model, randn(2, 3, 9, 14), "logits:1", "1")
    hidden = model[1](model[0](randn(2, 3, 9, 14)))
    expected = model[3].weight[1][:, None, None] * hidden
    torch.testing.assert_close(result.attribution, expected.detach(), **EXACT)
    nothing = attribute(model, randn(0, 3, 9, 14), "logits:1", "1")
    assert nothing.attribution.shape == (0, 4, 7, 12)
    assert nothing.l2.shape == nothing.excitation.shape == (0,)


# Outside witnesses


def not_in_place(model: nn.Module) -> nn.Module:
    """A copy whose layers keep their outputs, which captum holds on to."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def witness(model: nn.Module, x: Tensor, target: str, unit: int, through: str) -> Tensor:
    """The same by captum, for a unit at the centre of a layer that is not an activation."""
    captum = pytest.importorskip("captum.attr")
    model = not_in_place(model).eval()
    modules, found = dict(model.named_modules()), {}

    def forward(x: Tensor) -> Tensor:
        with ExitStack() as stack:
            keep = modules[target].register_forward_hook(
                lambda m, i, out: found.update(y=out.clone())
            )
            stack.callback(keep.remove)
            model(x)
        y = found["y"]
        return y[:, unit] if y.ndim == 2 else y[:, unit, y.shape[2] // 2, y.shape[3] // 2]

    method = captum.LayerGradientXActivation(forward, modules[through])
    return method.attribute(x).detach()


def test_captum_on_the_embedded_network(photographs: Path) -> None:
    network = opponent.load()
    network.module.double()
    files = sorted(photographs.iterdir())[:3]
    inputs = opponent.attribution.attribute.network_input(network, files)
    assert (inputs.shape, inputs.dtype) == ((3, 3, 64, 64), torch.float64)
    for target, unit, through in (
        ("softmax2_pre_activation_matmul", 7, "mixed4c"),
        ("mixed3b_3x3_pre_relu_conv", 30, "mixed3a"),
        ("mixed3a_5x5_pre_relu_conv", 3, "conv2d0"),
    ):
        result = attribute(network, files, Feature(layer=target, unit=unit), through)
        expected = witness(network.module, inputs, target, unit, through)
        torch.testing.assert_close(result.attribution, expected, **EXACT)
        assert result.attribution.count_nonzero()
    # Unit 64 of the block, before its ReLU, is unit 0 of its second branch.
    block = network.module.variant.channels(128)
    joined = attribute(network, files, f"mixed3b:{block}", "mixed3a")
    alone = attribute(network, files, "mixed3b_3x3_pre_relu_conv:0", "mixed3a")
    torch.testing.assert_close(joined.attribution, alone.attribution, **EXACT)


def test_captum_on_squeezenet(squeezenet_weights: Path, photographs: Path) -> None:
    network = opponent.load("torchvision:squeezenet1_1", squeezenet_weights)
    network.module.double()
    files = sorted(photographs.iterdir())[3:5]
    inputs = opponent.attribution.attribute.network_input(network, files)
    for target, unit, through in (
        ("features.7.expand3x3", 10, "features.6"),
        ("features.10.squeeze", 4, "features.3.squeeze_activation"),
        ("features.4.expand1x1", 0, "features.0"),
    ):
        result = attribute(network, files, Feature(layer=target, unit=unit), through)
        expected = witness(network.module, inputs, target, unit, through)
        torch.testing.assert_close(result.attribution, expected, **EXACT)
        # The ReLU in place that follows is another name for the same target.
        other = attribute(network, inputs, f"{target}_activation:{unit}", through)
        assert torch.equal(other.attribution, result.attribution)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_captum_on_skips_and_relus_in_place(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(lambda: models.get_model(name, weights=None))
    network = Network(model, preprocessing=Preprocessing(size=(65, 95)))
    x = randn(2, 3, 65, 95)
    last = "layer2.1.bn2" if name == "resnet18" else "layer2.1.bn3"
    for target, unit, through in (
        ("fc", 11, "layer3"),
        ("fc", 12, "layer1.0.bn1"),
        (last, 40, "layer2.0"),
        (last, 3, "maxpool"),
        ("layer1.1.conv1", 9, "bn1"),
    ):
        result = attribute(network, x, Feature(layer=target, unit=unit), through)
        expected = witness(model, x, target, unit, through)
        torch.testing.assert_close(result.attribution, expected, **EXACT)
        assert result.attribution.count_nonzero()


# Several features, branches, other entrances


def test_features_that_share_a_pass_equal_single_ones() -> None:
    layers = plain(4, 3, True, POOLS["max"])
    network = Network(nn.Sequential(*layers), preprocessing=SMALL)
    x, passes = randn(2, 3, 9, 14), []
    features = [
        Feature.parse("6:0"),
        Feature.parse("6:2@0,1"),
        Feature.direction("6", [1.0, 2.0, 3.0]),
        Feature.parse("6:0"),
    ]
    assert network.layers
    handle = layers[0].register_forward_hook(lambda *_: passes.append(1))
    together = attribute_each(network, x, features, "2")
    assert passes == [1]
    handle.remove()
    for feature, result in zip(features, together, strict=True):
        alone = attribute(network, x, feature, "2")
        assert result.feature == alone.feature == network.resolve(feature)
        assert torch.equal(result.attribution, alone.attribution)
        assert torch.equal(result.activation, alone.activation)
    with pytest.raises(ValueError, match=r"features of one layer, got \['5', '6'\]"):
        attribute_each(network, x, [Feature.parse("5:0"), Feature.parse("6:0")], "2")
    with pytest.raises(ValueError, match="features of one layer, got none"):
        attribute_each(network, x, [], "2")


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)
        self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.after(self.right(x))
        return torch.cat([left, right], 1)


def test_two_branches_are_an_error_and_two_parts_of_a_sum_are_not() -> None:
    network = Network(seeded(Branches), preprocessing=SMALL)
    for target in ("right:1", "after:0"):
        with pytest.raises(ValueError, match=r"does not depend on 'left': .* two branches") as e:
            attribute(network, randn(1, 3, 9, 14), target, "left")
        assert target in str(e.value)
    network.module.requires_grad_(False)
    with pytest.raises(ValueError, match="two branches"):
        attribute(network, randn(1, 3, 9, 14), "right:1", "left")
    # Of both branches joined, units of one are not moved by the other.
    joined = attribute(network, randn(1, 3, 9, 14), "logits:3", "left")
    assert joined.attribution.count_nonzero() == 0
    assert attribute(network, randn(1, 3, 9, 14), "logits:1", "left").l1 > 0


def test_networks_and_images_in_any_form(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    network = opponent.load()
    expected = attribute(network, network.inputs(pixels), "mixed3b:9", "mixed3a")
    for given_network in ("inceptionv1-mini", network):
        for images in (tmp_path, str(tmp_path), files):
            result = attribute(given_network, images, Feature.parse("mixed3b:9"), "mixed3a")
            assert torch.equal(result.attribution, expected.attribution)
    assert result.through == "mixed3a"
    assert result.feature.label == "mixed3b:9@8,8"
    module = seeded(Branches)
    double = attribute(module, network.inputs(pixels), "logits:0", "pixels")
    assert double.attribution.dtype == torch.float64


# Another implementation of InceptionV1


@pytest.fixture(scope="module")
def inception() -> Network:
    """InceptionV1 in float64 with weights that anyone can draw again."""
    with torch.random.fork_rng(devices=[]):
        module = InceptionV1().double().eval()
    drawn, generator = {}, torch.Generator().manual_seed(0)
    for name, old in sorted(module.state_dict().items()):
        value = torch.randn(old.shape, generator=generator, dtype=torch.float64)
        drawn[name] = value * (0.01 if old.ndim == 1 else (2 / old[0].numel()) ** 0.5)
    module.load_state_dict(drawn)
    return Network(module, name="golden")


@pytest.fixture(scope="module")
def golden_input() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 224, 224, generator=generator, dtype=torch.float64) * 255 - 117


def test_every_layer_of_another_implementation(
    inception: Network, golden_input: Tensor, golden: Path
) -> None:
    written = json.loads(golden.read_text())
    del written["attribution mixed3b:379 centre through mixed3a"]
    found = {}

    def keep(name: str, y: Tensor) -> None:
        if name in written:
            centre = y[0, :5, y.shape[2] // 2, y.shape[3] // 2]
            found[name] = (list(y.shape), y.mean().item(), y.std().item(), centre.tolist())

    inception.visit(golden_input, keep)
    assert found.keys() == written.keys()
    for name, (shape, mean, std, centre) in found.items():
        entry = written[name]
        assert shape[: len(entry["shape"])] == entry["shape"]
        assert mean == pytest.approx(entry["mean"], rel=1e-9)
        assert std == pytest.approx(entry["std"], rel=1e-9)
        assert centre == pytest.approx(entry["centre_first5"], rel=1e-9, abs=1e-9)


class Leaking(nn.ReLU):
    """A ReLU that lets a tenth of the gradient through where it is off."""

    def forward(self, x: Tensor) -> Tensor:
        leaking = nn.functional.leaky_relu(x, 0.1)
        return leaking + (x.relu() - leaking).detach()


def test_the_attribution_of_another_implementation(
    inception: Network, golden_input: Tensor, golden: Path
) -> None:
    wanted = json.loads(golden.read_text())["attribution mixed3b:379 centre through mixed3a"]

    def compare(result: Attribution, *names: str) -> None:
        ours = {
            "activation": result.activation, "E_plus": result.excitation,
            "E_minus": result.inhibition, "l1": result.l1, "l2": result.l2,
        }  # fmt: skip
        for name in names or ours:
            assert ours[name].tolist() == pytest.approx(wanted[name], rel=1e-9), name
        _, _, rows, columns = result.attribution.nonzero().unbind(1)
        assert [rows.min(), rows.max()] == wanted["window_rows"]
        assert [columns.min(), columns.max()] == wanted["window_cols"]
        assert result.feature.label == "mixed3b:379@14,14"
        assert_lawful(result)

    result = attribute(inception, golden_input, "mixed3b:379", "mixed3a")
    compare(result, "activation")
    window = receptive_field(inception, "mixed3b:379", "mixed3a")
    assert window.slices == (slice(12, 17), slice(12, 17))

    # The other implementation's ReLUs leak a tenth of the gradient (which its file does not say),
    # where equation 1 has the gradient itself. With such ReLUs ours gives its numbers.
    module = copy.deepcopy(inception.module)
    module.mixed3b_5x5_bottleneck = Leaking()
    compare(attribute(Network(module), golden_input, "mixed3b:379", "mixed3a"))

    # The gradient itself leaves out nothing but what the biases add.
    with torch.no_grad():
        reading = inception.run(golden_input, "mixed3b_5x5_bottleneck")
        on = (reading.target > 0).double() * module.mixed3b_5x5_bottleneck_pre_relu_conv.bias.view(
            -1, 1, 1
        )
        last = module.mixed3b_5x5_pre_relu_conv
        biases = last(on)[:, 379 - 128 - 192, 14, 14]
    total = result.excitation - result.inhibition
    torch.testing.assert_close(total + biases, result.activation, **EXACT)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(Unreadable, match=r"broken\.jpg cannot be read: "):
        attribute("inceptionv1-mini", broken, "mixed3b:9", "mixed3a")
