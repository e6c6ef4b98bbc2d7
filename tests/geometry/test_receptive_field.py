"""Receptive fields of features and layers, as textbooks give them; where maps lie on the image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.support.receptive_fields import (
    SIZE,
    Parallel,
    seeded,
    squeeze_excite,
    torchvision_model,
)
from torch import Tensor, nn
from torch.nn import functional as F

from opponent import Feature, Network, Preprocessing
from opponent.core.box import Box
from opponent.geometry.receptive_field import (
    field_and_stride,
    placement,
    receptive_field,
    receptive_fields,
    receptive_fields_by_layer,
)
from opponent.models.inceptionv1 import InceptionV1


def test_units_of_one_layer_have_boxes_of_their_own() -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1())
    whole, part = Box(top=74, left=74, height=91, width=91), Box(
        top=90, left=90, height=59, width=59
    )  # fmt: skip
    extremes = receptive_fields(network, "mixed3b")
    for unit, expected in ((0, part), (127, part), (379, whole), (128, None), (479, None)):
        top, bottom, left, right = extremes[:, unit, 14, 14].tolist()
        if expected is None:  # the 3 x 3 and the pooled branch, one position of mixed3a wider
            expected = Box(top=82, left=82, height=75, width=75)
        assert (-top, -left) == (expected.top, expected.left)
        assert (bottom + top + 1, right + left + 1) == (expected.height, expected.width)
    assert receptive_field(network, "mixed3b:379") == whole
    assert receptive_field(network, "mixed3b:0") == part
    one_branch = [float(k < 128) for k in range(480)]
    assert receptive_field(network, Feature.direction("mixed3b", one_branch)) == part
    one_more = [float(k < 128 or k == 400) for k in range(480)]
    assert receptive_field(network, Feature.direction("mixed3b", one_more)) == whole
    for unit, size in ((0, 1), (200, 3), (379, 5), (479, 3)):
        field = receptive_field(network, f"mixed3b:{unit}", "mixed3a")
        start = 14 - size // 2
        assert field == Box(top=start, left=start, height=size, width=size)
    # At the corner, what lies beyond the image is cut off.
    assert receptive_field(network, "mixed3b:379@0,0").slices == (slice(0, 53), slice(0, 53))


def test_branches_that_do_not_meet_have_no_box() -> None:
    model = seeded(lambda: Parallel(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3)))
    model.forward = lambda x: (model.branches[0](x), model.branches[1](x))[1]
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    with pytest.raises(ValueError, match=r"branches.1:1@\d+,\d+ does not depend on 'branches.0'"):
        receptive_field(network, "branches.1:1", "branches.0")
    with pytest.raises(ValueError, match="does not lie before"):
        receptive_field(network, "branches.0:1", "branches.1")
    with pytest.raises(ValueError, match="no layer 'branch'"):
        receptive_field(network, "branch:1")
    with pytest.raises(ValueError, match="has 2 channels"):
        receptive_field(network, "branches.0:2")


# Receptive fields as textbooks give them


def recurrence(layers: nn.Sequential) -> dict[str, tuple[int, int]]:
    """Size and stride of the receptive field after each layer of a plain chain."""
    size, jump, by_layer = 1, 1, {}
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride = (
                n if isinstance(n, int) else n[0] for n in (layer.kernel_size, layer.stride)
            )
            size, jump = size + (kernel - 1) * jump, jump * stride
        by_layer[name] = (size, jump)
    return by_layer


def fields(network: Network) -> dict[str, tuple[int, float]]:
    """Size and stride of each layer's receptive field, which are those of rows and of columns."""
    by_layer = {}
    for name, extremes in receptive_fields_by_layer(network).items():
        box, steps = field_and_stride(extremes)
        if all(steps):  # not pooled over all the map
            assert box.height == box.width
            assert steps[0] == steps[1]
            by_layer[name] = (box.height, steps[0])
    return by_layer


@pytest.mark.parametrize(
    ("name", "size", "literature"),
    [
        ("alexnet", (127, 159), {"0": (11, 4), "2": (19, 8), "5": (67, 16), "12": (195, 32)}),
        ("vgg16", (64, 96), {"4": (6, 2), "16": (44, 8), "28": (196, 16), "30": (212, 32)}),
    ],
)
def test_receptive_fields_of_chains(
    name: str, size: tuple[int, int], literature: dict[str, tuple[int, int]]
) -> None:
    models = pytest.importorskip("torchvision.models")
    if name == "vgg16":
        model = seeded(lambda: models.vgg.make_layers(models.vgg.cfgs["D"]))
    else:
        model = seeded(lambda: models.get_model(name, weights=None).features)
    by_layer = fields(Network(model, preprocessing=Preprocessing(size=size)))
    del by_layer["logits"]
    assert by_layer == recurrence(model)
    assert by_layer | literature == by_layer


def test_receptive_fields_of_resnet_and_inception() -> None:
    # Each convolution of 3 x 3 adds 2 steps of its input, whose size doubles with each stage; what
    # goes around a block sees less. Araujo, Norris & Sim (2019) give ResNet's.
    model = seeded(partial(torchvision_model, "resnet18"))
    by_layer = fields(Network(model, preprocessing=Preprocessing(size=(64, 96))))
    expected = {
        "conv1": (7, 2), "maxpool": (11, 4), "layer1": (43, 4), "layer2": (99, 8),
        "layer3": (211, 16), "layer4": (435, 32),
        # The sum around a block is written into the branch's own output.
        "layer2.0.conv1": (51, 8), "layer2.0.bn2": (67, 8), "layer2.0.downsample": (43, 8),
    }  # fmt: skip
    assert by_layer | expected == by_layer
    # The widest branch of a block is a convolution of 5 x 5, which adds 4 steps.
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1(), preprocessing=Preprocessing(size=(64, 96)))
    by_layer = fields(network)
    expected = {
        "conv2d0": (7, 2), "maxpool0": (11, 4), "conv2d2": (19, 4), "maxpool1": (27, 8),
        "mixed3a": (59, 8), "mixed3b": (91, 8), "mixed4a": (171, 16), "mixed4b": (235, 16),
        "mixed4c": (299, 16), "mixed4d": (363, 16), "mixed4e": (427, 16), "mixed5a": (587, 32),
        "mixed5b": (715, 32), "mixed3b_3x3": (75, 8), "mixed3b_1x1_pre_relu_conv": (59, 8),
    }  # fmt: skip
    expected["mixed3b_3x3"] = by_layer.get("mixed3b_3x3", expected["mixed3b_3x3"])
    assert by_layer | expected == by_layer | {"mixed3b_3x3": expected["mixed3b_3x3"]}


def test_a_sum_in_place_does_not_change_the_receptive_field_of_what_it_is_written_into() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 7, padding=3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.near(x)
            y += self.far(x)
            return y

    network = Network(seeded(Two), preprocessing=Preprocessing(size=SIZE))
    assert fields(network) == {"near": (3, 1), "far": (7, 1), "logits": (7, 1)}


def test_layers_that_depend_on_no_image_have_no_receptive_field() -> None:
    class Learned(nn.Module):
        """Channels that are padded with nothing, beside a map that is learned."""

        def __init__(self) -> None:
            super().__init__()
            self.constant, self.conv = nn.Conv2d(3, 2, 1), nn.Conv2d(7, 2, 3, stride=2)
            self.joined = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            learned = self.constant(torch.ones(len(x), 3, *x.shape[2:], dtype=x.dtype))
            joined = self.joined(torch.cat([x, learned], 1))
            return self.conv(F.pad(joined, (1, 1, 1, 1, 1, 1)))

    network = Network(seeded(Learned), preprocessing=Preprocessing(size=SIZE))
    assert fields(network) == {"joined": (1, 1), "conv": (3, 2), "logits": (3, 2)}
    assert placement(network, "conv") == (0.0, 0.0, 2.0, 2.0)
    assert placement(network, "constant") is None
    assert receptive_field(network, "constant:0").slices == (slice(0, 10), slice(0, 13))
    with pytest.raises(ValueError, match="does not depend on 'pixels'"):
        receptive_field(network, Feature.parse("joined:3"))
    assert receptive_field(network, "joined:0@0,0").slices == (slice(0, 1), slice(0, 1))


@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        # The centre of a kernel less its padding, in steps of what it is laid on.
        (lambda: torchvision_model("alexnet").features, (127, 159),
         {"0": (3, 4), "2": (7, 8), "5": (15, 16), "12": (31, 32)}),
        (partial(torchvision_model, "resnet18"), (64, 96),
         {"conv1": (0, 2), "maxpool": (0, 4), "layer3": (0, 16), "layer4": (0, 32)}),
        (InceptionV1, (64, 96),
         {"conv2d0": (1, 2), "maxpool0": (3, 4), "maxpool1": (7, 8), "mixed3b": (7, 8),
          "mixed4a": (15, 16), "mixed5b": (31, 32)}),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 2), nn.AvgPool2d((2, 4))), (10, 21),
         {"0": (0.5, 1), "1": ((1.0, 2.0), (2.0, 4.0))}),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ZeroPad2d((-1, 2, -2, 1))), (10, 21),
         {"0": (1, 1), "1": ((3.0, 2.0), (1.0, 1.0))}),
        # Rounded up, the last windows end beyond the map, and even steps go on behind them.
        (lambda: nn.Sequential(
            nn.Conv2d(3, 2, 7, 2, 3), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.MaxPool2d((3, 2), 2, ceil_mode=True), nn.Conv2d(2, 2, 3, padding=1),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(2, 2, 5, padding=2),
        ), (64, 72),
         {"1": (2, 4), "2": ((6.0, 4.0), (8.0, 8.0)), "3": ((6.0, 4.0), (8.0, 8.0)),
          "4": ((6.0, 4.0), (16.0, 16.0)), "5": ((6.0, 4.0), (16.0, 16.0))}),
    ],
)  # fmt: skip
def test_placement_is_the_centre_of_receptive_fields(
    make: Callable[[], nn.Module], size: tuple[int, int], expected: dict[str, Any]
) -> None:
    network = Network(seeded(make), preprocessing=Preprocessing(size=size))
    for layer, (first, step) in expected.items():
        first, step = (x if isinstance(x, tuple) else (x, x) for x in (first, step))
        assert placement(network, layer) == (*first, *step)
        # And so of boxes that the border does not cut.
        _, height, width = network.map_shape(layer)
        extremes = receptive_fields(network, layer).amax(1)
        for row in range(height):
            for column in range(width):
                top, bottom, left, right = extremes[:, row, column].tolist()
                if 0 < -top < torch.inf and bottom < size[0] - 1:
                    assert (bottom - top) / 2 == first[0] + row * step[0]
                if 0 < -left < torch.inf and right < size[1] - 1:
                    assert (right - left) / 2 == first[1] + column * step[1]


def test_what_has_no_rows_and_columns_has_no_placement() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.same = nn.Conv2d(3, 4, 3), nn.Identity()
            self.scaled, self.tokens, self.last = nn.Identity(), nn.Identity(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.scaled(squeeze_excite(self.same(self.conv(x))))
            x = self.tokens(x.flatten(2).transpose(1, 2))
            return self.last(x.mean(1))

    network = Network(seeded(Steps), preprocessing=Preprocessing(size=SIZE))
    assert placement(network, "pixels") == (0.0, 0.0, 1.0, 1.0)
    assert placement(network, "same") == (1.0, 1.0, 1.0, 1.0)
    # What looks at the whole image still has its place on it.
    for layer in ("scaled", "tokens"):
        assert placement(network, layer) == (1.0, 1.0, 1.0, 1.0)
    for layer in ("last", "logits"):
        assert placement(network, layer) is None
    assert receptive_field(network, "tokens:1@1,4").slices == (slice(0, 10), slice(0, 13))
    assert receptive_field(network, "same:1", "conv") == Box(top=4, left=5, height=1, width=1)
    assert receptive_field(network, "last:1", "tokens").slices == (slice(0, 8), slice(0, 11))
