"""Attribution: the paper's equations spelt out, answers worked by hand, any form of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.attribution import (
    EXACT,
    POOLS,
    SMALL,
    Skip,
    assert_lawful,
    numbers,
    plain,
    randn,
    seeded,
    slowly,
)
from torch import Tensor, nn

import opponent
from opponent import Feature, Network, Preprocessing, Unreadable, attribute
from opponent.attribution.attribute import attribute_each
from opponent.geometry.crop import plan_whole_image


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
    x = randn(2, 3, 112, 112)
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
    # Which part of the layer they need is known beforehand.
    plan = plan_whole_image(network, [network.resolve(x) for x in features], "2", "")
    handle = layers[0].register_forward_hook(lambda *_: passes.append(1))
    together = attribute_each(network, x, features, "2", plan=plan)
    assert passes == [1]
    handle.remove()
    for feature, result in zip(features, together, strict=True):
        [alone] = attribute_each(network, x, [feature], "2")
        cropped = attribute(network, x, feature, "2")
        assert result.feature == alone.feature == cropped.feature == network.resolve(feature)
        assert torch.equal(result.attribution, alone.attribution)
        assert torch.equal(result.activation, alone.activation)
        torch.testing.assert_close(cropped.attribution, alone.attribution, **EXACT)
        torch.testing.assert_close(cropped.activation, alone.activation, **EXACT)
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
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    network = opponent.load()
    expected = attribute(network, network.inputs(pixels), "mixed3b:9", "mixed3a")
    for given_network in ("inceptionv1-small", network):
        for images in (tmp_path, str(tmp_path), files):
            result = attribute(given_network, images, Feature.parse("mixed3b:9"), "mixed3a")
            assert torch.equal(result.attribution, expected.attribution)
    assert result.through == "mixed3a"
    assert result.feature.label == "mixed3b:9@7,7"
    module = seeded(Branches)
    double = attribute(module, network.inputs(pixels), "logits:0", "pixels")
    assert double.attribution.dtype == torch.float64


# Another implementation of InceptionV1
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(Unreadable, match=r"broken\.jpg cannot be read: "):
        attribute("inceptionv1-small", broken, "mixed3b:9", "mixed3a")
