"""Layers by name: their order, their calls, near names, which lies before which."""

import pytest
import torch
from tests.support.odd_network import SMALL, images, odd, seeded
from torch import Tensor, nn

from opponent import Feature, Network, attribute
from opponent.geometry.receptive_field import receptive_field


def test_layers_in_the_order_of_the_pass() -> None:
    layers = odd().layers
    assert {n: (x.kind, x.shape, x.calls) for n, x in layers.items()} == {
        "stem.0": ("Conv2d", (4, 5, 8), 1),
        "stem.1": ("BatchNorm2d", (4, 5, 8), 1),
        "stem.2": ("ReLU", (4, 5, 8), 1),
        "stem": ("Sequential", (4, 5, 8), 1),
        "block.conv1": ("Conv2d", (4, 5, 8), 1),
        "block.bn1": ("BatchNorm2d", (4, 5, 8), 1),
        "block.conv2": ("Conv2d", (4, 5, 8), 1),
        "block.bn2": ("BatchNorm2d", (4, 5, 8), 1),
        "block.relu": ("ReLU", (4, 5, 8), 2),
        "block": ("Block", (4, 5, 8), 1),
        "body.0.0": ("Conv2d", (6, 5, 8), 1),
        "body.0.1": ("ReLU", (6, 5, 8), 1),
        "body.0": ("Sequential", (6, 5, 8), 1),
        "body.1": ("Dropout", (6, 5, 8), 1),
        "body": ("Sequential", (6, 5, 8), 1),
        "pair": ("Pair", (6, 5, 8), 1),
        "fuse": ("Fuse", (6, 5, 8), 1),
        "last": ("Linear", (5, 1, 1), 1),
        "logits": ("Odd", (5, 1, 1), 1),
    }
    assert list(layers) == [*list(layers)[:-1], "logits"]
    # The ReLU's last call gives its place: after what lies between its two calls.
    order = list(layers)
    assert order.index("block.bn2") < order.index("block.relu") < order.index("block")
    assert all(layers[name].name == name for name in layers)


def test_unknown_names_suggest_near_ones() -> None:
    network = odd(name="Odd One")
    with pytest.raises(ValueError, match="Odd One has no layer 'blok'; did you mean block") as e:
        network.layer("blok")
    assert "opponent layers" in str(e.value)
    with pytest.raises(ValueError, match=r"did you mean .*block.conv1"):
        network.layer("CONV1")
    with pytest.raises(ValueError, match=r"no layer 'zzzz' \("):
        network.layer("zzzz#2")
    # Modules that are never called are no layers.
    for name in ("never", "", "pixels"):
        with pytest.raises(ValueError, match=f"no layer '{name}'"):
            network.layer(name)
    for call in (
        lambda: network.resolve("stom:1"),
        lambda: network.run(images(), "stom"),
        lambda: network.layers.check("logits", "stom"),
        lambda: network.map_shape("stom"),
        lambda: attribute(network, images(), "stom:1", "stem"),
    ):
        with pytest.raises(ValueError, match="no layer 'stom'; did you mean stem"):
            call()


@pytest.mark.parametrize("number", ["0", "3", "x", "", "-1", "1.5", "1#1"])
def test_a_call_that_there_is_not_is_refused(number: str) -> None:
    network = odd()
    layers = network.layers
    for use in (network.layer, layers.target_point, layers.through_point, network.map_shape):
        with pytest.raises(ValueError, match=r"block.relu is called 2 times in a pass"):
            use(f"block.relu#{number}")
    with pytest.raises(ValueError, match=r"block.relu is called 2 times"):
        odd().resolve(f"block.relu#{number}:1")


class Shrinking(nn.Module):
    """One ReLU whose calls have different shapes, as in ResNet's bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 9, 3, stride=2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.wide(self.relu(self.narrow(x))))
        return y


def test_each_call_has_its_own_shape_and_centre() -> None:
    network = Network(seeded(Shrinking), preprocessing=SMALL)
    assert network.layer("relu").shape == network.layer("relu#2").shape == (9, 5, 8)
    assert network.layer("relu#1").shape == network.map_shape("relu#1") == (4, 11, 17)
    assert network.resolve("relu#1:3").position == (5, 8)
    assert network.resolve("relu:8").position == network.resolve("relu#2:8").position == (2, 4)
    with pytest.raises(ValueError, match="'relu#1' has 4 channels"):
        network.resolve("relu#1:8")
    result = attribute(network, images(), network.resolve("relu#1:3"), "pixels")
    assert result.feature == Feature.parse("relu#1:3@5,8")
    assert attribute(network, images(), "relu#1:3", "pixels").feature == result.feature
    # A map of the target depends on one pixel, and one of the second call on 3 x 3 of the first.
    assert result.attribution.count_nonzero() == 2 * 3
    assert (receptive_field(network, "relu:8").height, receptive_field(network, "relu:8").top) == (
        3,
        4,
    )
    assert receptive_field(network, "relu#1:3").top == 5


def test_a_module_may_be_called_logits() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.logits = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return -self.logits(self.conv(x))

    module = seeded(Named)
    network = Network(module, preprocessing=SMALL)
    assert network.layer("logits").kind == "Conv2d"
    assert torch.equal(network.run(images(), "logits").target, -module(images()))


def test_check_wants_the_through_layer_first() -> None:
    network = odd()
    for target, through in (
        ("logits", "pixels"),
        ("logits", "last"),
        ("stem.0", "pixels"),
        ("block.relu", "block.relu#1"),
        ("block.relu#1", "stem"),
        ("block.relu", "block.bn2"),  # read at its input, which is where the sum goes
        ("body.0.1", "body.0.0"),
        ("body", "body.0"),
    ):
        network.layers.check(target, through)
        network.run(images(), target, through)
    for target, through in (
        ("stem", "stem"),
        ("stem.2", "stem.2"),
        ("block.relu#1", "block.relu#1"),
        ("block.relu#1", "block.relu#2"),
        ("block.conv1", "block"),
        ("body.0", "body"),
        ("stem", "logits"),
    ):
        for call in (network.layers.check, lambda *names: network.run(images(), *names)):
            with pytest.raises(ValueError, match=f"through '{through}' does not lie before the"):
                call(target, through)
