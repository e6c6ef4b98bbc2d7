"""Through layers and bottlenecks: networks whose paths can be read off, and those people use."""

from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opponent import Network, Preprocessing
from opponent.geometry.bottlenecks import (
    ThroughLayer,
    after_activations,
    is_bottleneck,
    through_layers,
)
from opponent.models.registry import load

SMALL = Preprocessing(size=(9, 12))


@pytest.fixture(autouse=True)
def _random_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


class Branches(nn.Module):
    """A stem, a block of two branches that are joined, a sum around a layer, a head."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.stem_relu = nn.Conv2d(3, 4, 3), nn.ReLU(inplace)
        self.block = Block(inplace)
        self.inner, self.inner_relu = nn.Conv2d(4, 4, 1), nn.ReLU(inplace)
        self.head = nn.Linear(4, 2)
        self.unused = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem(x))
        self.unused(x)
        x = self.block(x)
        x = x + self.inner_relu(self.inner(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.left, self.left_relu = nn.Conv2d(4, 2, 1), nn.ReLU(inplace)
        self.right, self.right_relu = nn.Conv2d(4, 2, 1), nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left_relu(self.left(x)), self.right_relu(self.right(x))], 1)


def layers_of(module: nn.Module, target: str = "logits") -> list[tuple[str, bool]]:
    """The names of through layers, and whether they are bottlenecks."""
    network = Network(module, preprocessing=SMALL)
    return [(x.layer, x.bottleneck) for x in through_layers(network, target)]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_branch_is_no_bottleneck_and_what_joins_them_is(inplace: bool) -> None:
    network = Network(Branches(inplace=inplace), preprocessing=SMALL)
    assert through_layers(network) == (
        ThroughLayer(layer="pixels", bottleneck=True, depth=0.0, activation=False),
        ThroughLayer(layer="stem_relu", bottleneck=True, depth=1 / 4, activation=True),
        ThroughLayer(layer="block.left_relu", bottleneck=False, depth=2 / 4, activation=True),
        ThroughLayer(layer="block.right_relu", bottleneck=False, depth=2 / 4, activation=True),
        ThroughLayer(layer="block", bottleneck=True, depth=3 / 4, activation=False),
        ThroughLayer(layer="inner_relu", bottleneck=False, depth=4 / 4, activation=True),
    )


def test_only_what_lies_before_the_target_counts() -> None:
    assert layers_of(Branches(), "block.right") == [("pixels", True), ("stem_relu", True)]
    # Of the left branch, only its own activation function is on the way.
    assert layers_of(Branches(), "block.left_relu") == [("pixels", True), ("stem_relu", True)]


def test_any_layer_may_be_a_bottleneck() -> None:
    network = Network(Branches(), preprocessing=SMALL)
    assert is_bottleneck(network, "logits", "pixels")
    assert is_bottleneck(network, "logits", "stem")
    assert not is_bottleneck(network, "logits", "block.left")
    assert not is_bottleneck(network, "logits", "inner")
    assert not is_bottleneck(network, "logits", "unused")
    assert is_bottleneck(network, "block.left", "stem_relu")
    with pytest.raises(ValueError, match="does not lie before the target"):
        is_bottleneck(network, "stem", "block")
    with pytest.raises(ValueError, match="has no layer 'blok'"):
        is_bottleneck(network, "logits", "blok")


def test_a_tensor_that_is_handed_on_counts_once_by_its_maker() -> None:
    inner = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 3), relu=nn.ReLU(), drop=nn.Dropout()))
    module = nn.Sequential(OrderedDict(outer=nn.Sequential(inner), flat=nn.Flatten()))
    assert layers_of(module) == [("pixels", True), ("outer.0.relu", True)]


def test_a_function_counts_where_there_is_no_module() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x))

    module = nn.Sequential(OrderedDict(a=Functional(), pool=nn.AdaptiveAvgPool2d(1)))
    assert layers_of(module) == [("pixels", True), ("a", True)]


def test_one_module_in_two_calls_is_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.relu(self.conv(self.relu(self.conv(x))))
            return y.mean((2, 3))

    assert layers_of(Twice()) == [("pixels", True), ("relu#1", True), ("relu#2", True)]


def test_one_half_of_a_split_is_no_bottleneck() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()
            self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.relu(self.conv(x)).chunk(2, 1)
            return (self.first(a) * self.second(b)).mean((2, 3))

    network = Network(Halves(), preprocessing=SMALL)
    assert not is_bottleneck(network, "logits", "first")
    assert not is_bottleneck(network, "logits", "second")
    assert is_bottleneck(network, "logits", "relu")


def test_inceptions_bottlenecks_are_the_ends_of_its_blocks() -> None:
    network = load()
    layers = through_layers(network)
    blocks = [f"mixed{x}" for x in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
    assert [x.layer for x in layers if x.bottleneck] == [
        "pixels", "conv2d0", "conv2d1", "conv2d2", *blocks,
    ]  # fmt: skip
    branches = [x for x in layers if not x.bottleneck]
    assert len(branches) == 18
    assert all("bottleneck" in x.layer for x in branches)
    depths = [x.depth for x in layers if x.bottleneck]
    assert depths == sorted(depths)
    assert depths[-1] == 1


def test_bottlenecks_of_torchvisions_networks() -> None:
    models = pytest.importorskip("torchvision.models")

    def bottlenecks(name: str) -> list[str]:
        network = Network(getattr(models, name)(weights=None), name=name)
        return [x.layer for x in through_layers(network) if x.bottleneck]

    fires = [f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12)]
    squeezes = [f"{fire}.squeeze_activation" for fire in fires]
    both = [name for pair in zip(squeezes, fires, strict=True) for name in pair]
    assert bottlenecks("squeezenet1_1") == ["pixels", "features.1", *both, "classifier.2"]
    ends = [f"layer{i}.{k}.relu#2" for i in (1, 2, 3, 4) for k in (0, 1)]
    assert bottlenecks("resnet18") == ["pixels", "relu", *ends]
    encoder = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert bottlenecks("vit_b_32") == ["pixels", *encoder]


def test_a_trace_leaves_the_network_as_it_was() -> None:
    module = Branches().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    through_layers(Network(module, preprocessing=SMALL))
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


# Layers that are read after an activation function


class Residual(nn.Module):
    """A block as torchvision has it: one ReLU, called twice, ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.two(self.relu(self.one(x))) + x)


class Functional(nn.Module):
    """A block that calls functions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.one(x)), torch.tanh(x)], 1)


class Partly(nn.Module):
    """A block that joins what is after a ReLU with what is not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu = nn.Conv2d(8, 8, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return torch.cat([self.relu(x), x], 1)


class Own(nn.Module):
    """An activation function of several operations."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


def test_layers_after_activation_functions() -> None:
    layers = {
        "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        "dropout": nn.Dropout(),
        "residual": Residual(),
        "block": Block(inplace=True),
        "own": nn.Sequential(nn.Conv2d(4, 4, 1), Own()),
        "functional": Functional(),
        "partly": Partly(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "last": nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Sigmoid()),
    }
    network = Network(nn.Sequential(OrderedDict(layers)).eval(), preprocessing=SMALL)
    assert after_activations(network) == {
        "stem": ("stem.2",),
        "dropout": ("stem.2",),
        "residual": ("residual.relu",),
        "block": ("block.left_relu", "block.right_relu"),
        "own": ("own.1",),
        "functional": (),
        "last": ("last.2",),
        "logits": ("last.2",),
    }
    images = torch.randn(2, 3, *SMALL.size, generator=torch.Generator().manual_seed(0))
    # What is named is read before, and is else the same.
    after = network.run(images, "residual").target
    before = network.run(images, "residual.relu").target
    assert torch.equal(after, before.relu())
    assert (before < 0).any()


class Twice(nn.Module):
    """A block that hands on what the first of two calls gave."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.relu(self.one(x))
        self.relu(-first)
        return first


def test_where_a_block_hands_on_an_earlier_call() -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 1), Twice()), preprocessing=SMALL)
    assert after_activations(network) == {"1": ("1.relu#1",), "logits": ("1.relu#1",)}


def test_norms_with_an_activation_function_in_them() -> None:
    timm = pytest.importorskip("timm")
    network = Network(timm.create_model("efficientnet_b0").eval())
    after = after_activations(network)
    assert after["bn1"] == ("bn1.act",)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    conv = network.activations(images, "conv_stem")["conv_stem"]
    norm = network.module.bn1
    expected = F.batch_norm(
        conv, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )
    torch.testing.assert_close(network.run(images, "bn1.act").target, expected)
    assert "blocks.0.0.conv_pw" not in after
