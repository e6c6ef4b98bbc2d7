"""Networks: layers by name, where they are read, and the model coming back as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from opponent import Feature, Network, Preprocessing, attribute
from opponent.core.errors import UnknownGeometry
from opponent.geometry.receptive_field import placement, receptive_field, receptive_fields_by_layer
from opponent.models.layout import as_map, from_map
from opponent.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from opponent.models.registry import load

SMALL = Preprocessing(size=(11, 17))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights and statistics, from a seed of its own, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().eval()
        for name, value in module.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + ("var" in name) * 0.5)
    return module


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape or (2, 3, 11, 17), generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """One ReLU, in place and called twice, and a sum in place, as in torchvision's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.mean((1, 2, 3))


class Fuse(nn.Module):
    """Lets everything through, until it is told what to raise."""

    raises: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.raises is not None:
            raise self.raises
        return x


class Odd(nn.Module):
    """What models are made of: nesting, skips, tuples, parts never called, functions, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.block = Block()
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU()), nn.Dropout(0.5))
        self.pair, self.fuse = Pair(), Fuse()
        self.never = nn.Linear(6, 6)
        self.last = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.block(self.stem(x)))
        x, _ = self.pair(F.relu(x - 0.1))
        logits: Tensor = self.last(self.fuse(x).mean((2, 3)))
        return logits


def odd(**more: Any) -> Network:
    return Network(seeded(Odd), preprocessing=SMALL, **more)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a user could find changed."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lists = [(n, k, v) for n, m in model.named_modules() for k, v in vars(m).items() if "hook" in k]
    return {
        "values": {n: (id(t), t._version, t.detach().tolist()) for n, t in tensors.items()},
        "requires_grad": {n: t.requires_grad for n, t in tensors.items()},
        "grads": {
            n: None if t.grad is None else (id(t.grad), t.grad._version, t.grad.tolist())
            for n, t in tensors.items()
        },
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": [(name, key, list(value) if value else []) for name, key, value in lists],
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().tolist(),
        "dispatch": _get_current_dispatch_mode(),
    }


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    before = everything(model)
    try:
        yield
    finally:
        after = everything(model)
        assert [key for key in before if before[key] != after[key]] == []


# What a user can call, on a network and its input.
CALLS: dict[str, Callable[[Network, Tensor], Any]] = {
    "layers": lambda n, x: Network(n.module, preprocessing=SMALL).layers,
    "run": lambda n, x: n.run(x, "logits", "stem").target,
    "to target": lambda n, x: n.run(x, "logits", "block.relu#1", differentiate="target").target,
    "to images": lambda n, x: n.run(x, "logits", "block", differentiate="images").target,
    "visit": lambda n, x: n.visit(x, lambda name, output: None),
    "attribute": lambda n, x: attribute(n, x, "logits:1", "block").attribution,
    "pixels": lambda n, x: attribute(n, x, "logits:1", "pixels").attribution,
    "window": lambda n, x: receptive_field(n, "logits:1"),
    "reaches": lambda n, x: receptive_fields_by_layer(n),
    "placement": lambda n, x: placement(n, "body"),
    "sha": lambda n, x: n.weights_sha256(),
}


# Layers by name


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
    # CheckpointFolder that are never called, or give no tensor, are no layers.
    for name in ("never", "pair", "", "pixels"):
        with pytest.raises(ValueError, match=f"no layer '{name}'"):
            network.layer(name)
    for call in (
        lambda: network.resolve("stom:1"),
        lambda: network.run(images(), "stom"),
        lambda: network.check("logits", "stom"),
        lambda: network.map_shape("stom"),
        lambda: attribute(network, images(), "stom:1", "stem"),
    ):
        with pytest.raises(ValueError, match="no layer 'stom'; did you mean stem"):
            call()


@pytest.mark.parametrize("number", ["0", "3", "x", "", "-1", "1.5", "1#1"])
def test_a_call_that_there_is_not_is_refused(number: str) -> None:
    for use in ("layer", "target_point", "through_point", "map_shape"):
        with pytest.raises(ValueError, match=r"block.relu is called 2 times in a pass"):
            getattr(odd(), use)(f"block.relu#{number}")
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
        network.check(target, through)
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
        for call in (network.check, lambda *names: network.run(images(), *names)):
            with pytest.raises(ValueError, match=f"through '{through}' does not lie before the"):
                call(target, through)
    with pytest.raises(ValueError, match=r"just before it: stem.2, stem$"):
        network.check("block.relu", "block")
    with pytest.raises(ValueError, match="just before it: pixels"):
        network.check("stem.0", "block")


# Where layers are read


def by_hand(model: Odd, x: Tensor) -> dict[str, Tensor]:
    """The pass of `Odd`, spelt out, with nothing in place."""
    stem, block, found = model.stem, model.block, {}
    found["stem.0"] = stem[0](x)
    found["stem.1"] = found["stem.2 before"] = stem[1](found["stem.0"])
    found["stem"] = found["stem.2 after"] = found["stem.1"].relu()
    found["block.relu#1 before"] = found["block.bn1"] = block.bn1(block.conv1(found["stem"]))
    found["block.relu#1 after"] = found["block.bn1"].relu()
    found["block.bn2"] = block.bn2(block.conv2(found["block.relu#1 after"]))
    found["block.relu before"] = found["block.bn2"] + found["stem"]
    found["block.relu after"] = found["block"] = found["block.relu before"].relu()
    found["body.0.1 before"] = found["body.0.0"] = model.body[0][0](found["block"])
    found["body"] = found["body.0.1 after"] = found["body.0.0"].relu()
    found["fuse"] = (found["body"] - 0.1).relu()
    found["logits"] = model.last(found["fuse"].mean((2, 3)))[..., None, None]
    found["pixels"] = x
    return found


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((11, 17), torch.float32), ((8, 9), torch.float64), ((30, 21), torch.float64)],
)
def test_a_target_is_read_before_its_relu_and_a_through_layer_after(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    model = seeded(Odd).to(dtype)
    network = Network(model, preprocessing=SMALL)
    x = images(1, 3, *size).to(dtype)
    expected = by_hand(model, x)

    def right(name: str, side: str) -> Tensor:
        return expected.get(f"{name} {side}", expected.get(name))

    names = "stem.0 stem.1 stem.2 stem block.relu#1 block.bn2 block.relu block.relu#2 block"
    for name in [*names.split(), "body.0.0", "body.0.1", "body", "fuse", "logits"]:
        plain = name.removesuffix("#2")
        target = network.run(x, name).target
        torch.testing.assert_close(target, right(plain, "before").detach(), rtol=1e-5, atol=1e-6)
        assert (target.dtype, target.requires_grad) == (dtype, False)
        if name == "logits":
            continue
        for differentiate in (None, "target", "images"):
            reading = network.run(x, "logits", name, differentiate=differentiate)
            torch.testing.assert_close(reading.through, right(plain, "after").detach())
            torch.testing.assert_close(reading.target, expected["logits"].detach())
    for differentiate in (None, "target", "images"):
        reading = network.run(x, "logits", "pixels", differentiate=differentiate)
        assert torch.equal(reading.through, x)
        torch.testing.assert_close(reading.target, expected["logits"].detach())


def test_basic_blocks_of_torchvision_call_one_relu_twice() -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(lambda: models.resnet18(weights=None))
    network = Network(model, preprocessing=Preprocessing(size=(33, 47)))
    x = images(1, 3, 33, 47)
    block = model.layer1[0]
    with torch.no_grad():
        stem = model.maxpool(model.bn1(model.conv1(x)).relu())
        first = block.bn1(block.conv1(stem))
        second = block.bn2(block.conv2(first.relu())) + stem
    assert network.layer("layer1.0.relu").calls == 2
    for name, expected in (
        ("layer1.0.relu#1", first),
        ("layer1.0.relu#2", second),
        ("layer1.0.relu", second),
        ("layer1.0", second.relu()),
    ):
        torch.testing.assert_close(network.run(x, name).target, expected)
        through = network.run(x, "logits", name).through
        torch.testing.assert_close(through, expected.relu())


class Tokens(nn.Module):
    """Patches, a class token, attention and a vector, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.start = nn.Parameter(torch.full((1, 1, 8), 3.0))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.start.expand(len(x), -1, -1), x], 1))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        logits: Tensor = self.head((x + self.mlp(x))[:, 0])
        return logits


def test_tokens_are_columns_of_rows_and_vectors_are_one_by_one() -> None:
    model = seeded(Tokens)
    network = Network(model, preprocessing=SMALL)
    assert "attention" not in network.layers  # it gives a pair
    assert network.layer("patches").shape == (8, 2, 4)
    assert network.layer("norm").shape == network.layer("mlp").shape == (8, 9, 1)
    assert network.layer("mlp.1").shape == (16, 9, 1)
    assert network.layer("logits").shape == (5, 1, 1)
    assert network.resolve("norm:3").position == (4, 0)
    x = images()
    tokens = model.patches(x).flatten(2).transpose(1, 2)
    tokens = model.norm(torch.cat([model.start.expand(2, -1, -1), tokens], 1)).detach()
    reading = network.run(x, "mlp.1", "norm", differentiate="target")
    torch.testing.assert_close(reading.through, tokens.transpose(1, 2)[..., None])
    value = attribute(network, x, "mlp.1:7@5,0", "norm")
    hidden = tokens + model.attention(tokens, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(value.activation, model.mlp[0](hidden)[:, 5, 7].detach())
    assert value.attribution.shape == (2, 8, 9, 1)
    assert receptive_field(network, "norm:3@2,0").slices == (slice(0, 4), slice(4, 8))
    assert receptive_field(network, "logits:3", "norm").slices == (slice(0, 9), slice(0, 1))


@given(st.integers(2, 4), st.data())
def test_as_map_and_from_map_are_inverse(axes: int, data: Any) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * axes))
    tensor = torch.arange(float(np.prod(shape))).reshape(shape)
    maps = as_map(tensor)
    assert maps.ndim == 4
    assert torch.equal(from_map(maps, tensor), tensor)
    index = [data.draw(st.integers(0, n - 1)) for n in shape]
    where = {2: [*index, 0, 0], 3: [index[0], index[-1], index[1], 0], 4: index}[axes]
    assert maps[tuple(where)] == tensor[tuple(index)]


def test_a_layer_of_five_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 to 4 axes, got shape \(1, 2, 3, 4, 5\)"):
        as_map(torch.zeros(1, 2, 3, 4, 5))


# The model comes back as it was


def in_use(network: Network) -> nn.Module:
    """The model in the midst of a user's training: mixed modes, frozen parts, gradients, hooks."""
    model = network.module.train()
    model.block.bn1.eval()
    model.body.eval()
    model.body[1].train()
    model.stem[0].weight.requires_grad_(False)
    model.last.weight.grad = torch.ones_like(model.last.weight)
    return model


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_model_as_it_was(name: str) -> None:
    network = odd()
    model, x = in_use(network), images()
    given = x.clone()
    seen: list[int] = []
    handle = model.block.register_forward_hook(lambda *_: seen.append(1))
    with untouched(model):
        CALLS[name](network, x)
    assert torch.equal(x, given)
    assert x._version == 0
    assert seen or name == "sha", "a hook of the user's own was not called"
    handle.remove()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "sha"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_the_midst_leaves_the_model_as_it_was(
    name: str, error: type[BaseException]
) -> None:
    network = odd()
    model = in_use(network)
    assert network.layers
    model.fuse.raises = error("the fuse blew")
    call = CALLS[name]
    if name == "placement":  # of a layer that comes after the fuse
        call = lambda n, x: placement(n, "block")  # noqa: E731
        model.stem.insert(1, model.fuse)
    if error is ZeroDivisionError and name in {"window", "reaches", "placement"}:
        # Boxes go by coordinates, on which a sound model may fail: their reach is not known.
        with untouched(model), pytest.raises(UnknownGeometry, match="the fuse blew"):
            receptive_fields_by_layer(network)
        with untouched(model):
            assert receptive_field(network, "logits:1").slices == (slice(0, 11), slice(0, 17))
            assert name != "placement" or call(network, images()) is None
        return
    with untouched(model), pytest.raises(error, match="the fuse blew"):
        call(network, images())


def test_what_does_not_fit_leaves_the_model_as_it_was() -> None:
    network = odd()
    model, x = in_use(network), images()
    for feature, through, match in (
        ("nowhere:1", "stem", "no layer 'nowhere'"),
        ("block:4", "stem", "has 4 channels"),
        ("block:1@5,0", "stem", "lies outside"),
        ("stem:1", "block", "does not lie before"),
        (Feature.direction("block", [1.0, 2.0]), "stem", "2 weights"),
    ):
        with untouched(model), pytest.raises(ValueError, match=match):
            attribute(network, x, feature, through)
    with untouched(model), pytest.raises(RuntimeError, match="size"):
        attribute(network, images(2, 3, 2, 2), "block:1", "stem")


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_calls_within_no_grad_and_inference_mode(around: Callable[[], Any]) -> None:
    network = odd()
    model, x = in_use(network), images()
    plain = attribute(network, x, "logits:1", "block")
    everywhere = receptive_fields_by_layer(network)
    for through in ("block", "stem.2", "pixels"):
        expected = attribute(network, x, "logits:1", through)
        with around():
            inside = images()  # in inference mode, a tensor that autograd must not save
            fresh = Network(model, preprocessing=SMALL)
            with untouched(model):
                result = attribute(fresh, inside, "logits:1", through)
        assert torch.equal(result.attribution, expected.attribution)
        assert torch.equal(result.activation, expected.activation)
        # Results are tensors like any other, once the user is outside again.
        result.attribution.mul_(2), result.activation.mul_(2)
        assert not result.attribution.requires_grad
    with around(), untouched(model):
        assert receptive_field(network, "block:1") == receptive_field(odd(), "block:1")
        assert placement(network, "block") == (1.0, 1.0, 2.0, 2.0)
        found = receptive_fields_by_layer(network)
        wanted = images().requires_grad_()
        reading = network.run(wanted, "logits", "stem", differentiate="images")
    assert all(torch.equal(found[name], everywhere[name]) for name in everywhere)
    [gradient] = torch.autograd.grad(reading.through.sum(), wanted)
    assert gradient.count_nonzero()
    assert plain.attribution.count_nonzero()


def test_dropout_and_batch_statistics_do_not_act() -> None:
    network = odd()
    expected = attribute(network, images(), "logits:1", "stem")
    network.module.train()
    for _ in range(3):
        result = attribute(network, images(), "logits:1", "stem")
        assert torch.equal(result.attribution, expected.attribution)
        assert torch.equal(result.activation, expected.activation)


def test_a_module_that_draws_random_numbers_all_the_same_leaves_their_state() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            # It forgets `training=self.training`.
            return self.last(F.dropout(self.conv(x).relu(), 0.5, training=True))

    network = Network(seeded(Noisy), preprocessing=SMALL)
    for call in (
        lambda: network.layers,
        lambda: attribute(network, images(), "logits:1", "conv"),
        lambda: receptive_field(network, "logits:1"),
        lambda: receptive_fields_by_layer(network),
    ):
        with untouched(network.module):
            call()


def test_an_input_is_not_written_to_by_a_layer_in_place() -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv = nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.first(x.sub_(0.1)))

    network = Network(seeded(Normalising), preprocessing=SMALL)
    for name in ("first", "pixels"):
        x = images()
        result = attribute(network, x, "logits:1", name)
        assert torch.equal(x, images())
        assert result.attribution.count_nonzero()
    x = images().requires_grad_()
    reading = network.run(x, "logits", differentiate="images")
    [gradient] = torch.autograd.grad(reading.target.sum(), x)
    assert gradient.count_nonzero()
    network.visit(x.detach(), lambda name, output: None)
    assert torch.equal(x, images())


def test_results_are_the_users_own() -> None:
    class Passing(nn.Module):
        """Gives back its input, its own parameter, and a view of its buffer."""

        def __init__(self) -> None:
            super().__init__()
            self.same, self.again = nn.Identity(), nn.Identity()
            self.own = nn.Parameter(torch.ones(1, 3, 11, 17))

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.same(x) * self.own)

    network = Network(seeded(Passing), preprocessing=SMALL)
    x = images()
    for through in ("pixels", "same"):
        result = attribute(network, x, "again:1", through)
        with untouched(network.module):
            for tensor in (result.activation, result.attribution):
                tensor.add_(1)
            for differentiate in (None, "target"):
                reading = network.run(x, "again", through, differentiate=differentiate)
                reading.target.detach().add_(1)
                reading.through.detach().add_(1)
        assert torch.equal(x, images())
    # Nor do a few numbers hold on to a whole layer's map.
    assert result.activation.untyped_storage().nbytes() == 2 * 4


# No further than the target, no graph before the through layer


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.requires_grad, torch.is_grad_enabled()))
        return x


def test_the_pass_ends_at_the_target_and_keeps_a_graph_only_where_it_must() -> None:
    parts = a, b, c, d = [Counting() for _ in range(4)]
    conv = partial(nn.Conv2d, 3, 3, 1)
    model = seeded(lambda: nn.Sequential(a, conv(), b, conv(), c, nn.ReLU(), conv(), d))
    network = Network(model, preprocessing=SMALL)
    assert network.layers

    def seen(target: str, *through: str, **how: Any) -> list[list[tuple[bool, bool]]]:
        for part in parts:
            part.seen.clear()
        network.run(images(), target, *through, **how)
        return [part.seen for part in parts]

    off, on = (False, False), (True, True)
    assert seen("5", "1", differentiate="target") == [[off], [on], [on], []]
    assert seen("5", "1") == [[off], [off], [off], []]
    assert seen("3", "0", differentiate="target") == [[off], [on], [], []]
    assert seen("logits", "3", differentiate="target") == [[off], [off], [on], [on]]
    assert seen("1") == [[off], [], [], []]
    assert seen("0") == [[off], [], [], []]
    # Toward the images, parameters ask for gradients before the through layer, nothing after it.
    half = (False, True)
    assert seen("7", "3", differentiate="images") == [[half], [on], [off], [off]]

    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        reading = network.run(images(), "5", "3", differentiate="target")
    assert reading.through.is_leaf
    assert reading.through.requires_grad
    assert saved == []  # between them lies nothing that needs anything kept


def test_only_the_through_layer_is_differentiated() -> None:
    network = odd()
    asked: list[str] = []
    handles = [
        parameter.register_hook(lambda gradient, name=name: asked.append(name))
        for name, parameter in network.module.named_parameters()
    ]
    attribute(network, images(), "logits:1", "block.relu#1")
    for handle in handles:
        handle.remove()
    assert asked == []
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_a_pass_that_does_not_come_by_the_target_says_so() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            # Zeros, with which the layers are found, go all the way.
            y = self.conv(x)
            return y if x.any() else self.last(y)

    network = Network(seeded(Early), preprocessing=SMALL)
    with pytest.raises(RuntimeError, match="Early: the pass ended without reaching 'last'"):
        network.run(images(), "last")


def test_models_that_catch_exceptions_or_name_their_arguments() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                y = self.relu(input=self.conv(input=x))
            except Exception:
                y = torch.zeros(len(x), 4, 1, 1)
            return self.last(input=y)

    module = seeded(Careful)
    network = Network(module, preprocessing=SMALL)
    torch.testing.assert_close(network.run(images(), "relu").target, module.conv(images()).detach())
    through = network.run(images(), "logits", "relu").through
    torch.testing.assert_close(through, module.conv(images()).relu().detach())


def test_power_iterations_of_a_model_in_training_do_not_go_on() -> None:
    norm = nn.utils.parametrizations.spectral_norm
    model = seeded(lambda: nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    network = Network(model.train(), preprocessing=SMALL)
    with untouched(model):
        attribute(network, images(), "logits:1", "0")
        receptive_fields_by_layer(network)


# What a network knows of itself


def test_weights_sha256_tells_weights_apart_and_nothing_else() -> None:
    def digest(change: Callable[[nn.Module], Any] = lambda model: None) -> str:
        model = seeded(Odd)
        change(model)
        return Network(model).weights_sha256()

    @torch.no_grad()
    def nudge(tensor: Tensor) -> None:
        tensor.view(-1)[0] += 1e-3

    same = digest()
    assert len(same) == 64
    assert digest(lambda m: m.train()) == same
    assert digest(lambda m: m.to(memory_format=torch.channels_last)) == same
    assert digest(lambda m: m.requires_grad_(False)) == same
    others = [
        digest(lambda m: nudge(m.stem[0].weight)),
        digest(lambda m: nudge(m.stem[1].running_mean)),
        digest(lambda m: m.stem[1].num_batches_tracked.add_(1)),
        digest(lambda m: m.double()),
        digest(lambda m: m.bfloat16()),
        digest(lambda m: setattr(m, "renamed", m._modules.pop("last"))),
        digest(lambda m: m.register_buffer("more", torch.tensor([True, False]))),
        digest(lambda m: m.register_buffer("more", torch.zeros(0, 3))),
        digest(lambda m: m.register_buffer("more", torch.zeros(3, 0))),
        digest(lambda m: m.register_buffer("more", torch.tensor(1 + 2j))),
    ]
    assert len({same, *others}) == len(others) + 1
    # What counts is the state dict: values under their names, not the modules around them.
    flat = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2)))
    other = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=1)))
    assert Network(flat).weights_sha256() == Network(other).weights_sha256()


def test_names_types_and_classes() -> None:
    network = odd(classes=["cat", "dog"])
    assert (network.class_name(0), network.class_name(1)) == ("cat", "dog")
    assert network.class_name(2) is None
    assert odd().class_name(0) is None
    assert repr(network) == "Network('Odd')"
    assert (network.dtype, network.device) == (torch.float32, torch.device("cpu"))
    bare = Network(nn.Sequential(nn.ReLU()), preprocessing=SMALL)
    assert (bare.dtype, bare.device) == (torch.float32, torch.device("cpu"))
    assert list(bare.layers) == ["0", "logits"]
    assert network.map_shape("pixels") == (3, 11, 17)
    double = Network(seeded(Odd).double(), preprocessing=SMALL)
    pixels = np.zeros((2, 11, 17, 3), np.uint8)
    assert double.inputs(pixels).dtype == double.dtype == torch.float64


def test_preprocessing_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    prepared = Preprocessing().from_bytes(pixels)
    assert (prepared.shape, prepared.dtype) == ((2, 3, 3, 4), torch.float32)
    for n, row, column, channel in np.ndindex(*pixels.shape):
        expected = (pixels[n, row, column, channel] / 255 - IMAGENET_MEAN[channel]) / (
            IMAGENET_STD[channel]
        )
        assert prepared[n, channel, row, column].item() == pytest.approx(expected, abs=1e-6)
    grey = Preprocessing(mean=(117 / 255,) * 3, std=(1 / 255,) * 3).from_bytes(pixels)
    expected = torch.tensor(pixels).permute(0, 3, 1, 2) - 117.0
    torch.testing.assert_close(grey, expected, atol=1e-4, rtol=0)


def test_preprocessing_takes_arrays_of_any_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    prepared = Preprocessing().from_bytes(pixels)
    fixed = pixels.copy()
    fixed.flags.writeable = False
    assert torch.equal(Preprocessing().from_bytes(fixed), prepared)
    turned = Preprocessing().from_bytes(pixels[:, ::-1, :, ::-1])
    assert turned.shape == prepared.shape
    backwards = np.ascontiguousarray(pixels[:, ::-1, :, ::-1])
    assert torch.equal(turned, Preprocessing().from_bytes(backwards))


# Many layers in one pass


def test_a_record_gives_every_gradient_that_a_pass_of_its_own_gives() -> None:
    network = load("inceptionv1-mini")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets, throughs = ["conv2d1", "mixed3b", "logits"], ["pixels", "conv2d0", "mixed3a"]
    record = network.record(images, targets=targets, throughs=throughs)
    for target in targets:
        for through in throughs:
            if (target, through) == ("conv2d1", "mixed3a"):
                continue  # it does not lie before
            maps = record.targets[target]
            f = maps[:, 3, maps.shape[2] // 2, maps.shape[3] // 2]
            hidden = record.throughs[through]
            [gradient] = torch.autograd.grad(f.sum(), hidden, retain_graph=True)
            one = attribute(network, images, f"{target}:3", through)
            assert torch.equal(f, one.activation)
            assert torch.equal(hidden, one.hidden)
            assert torch.allclose(gradient * hidden, one.attribution, atol=1e-6)


def test_a_record_goes_no_further_than_it_must() -> None:
    network = load("inceptionv1-mini")
    assert network.layers  # which takes a pass of its own
    calls: list[str] = []
    handle = network.module.mixed4a.register_forward_hook(lambda *_: calls.append("late"))
    images = torch.zeros(1, 3, 64, 64)
    try:
        record = network.record(images, targets=["mixed3b"], throughs=["conv2d2"])
    finally:
        handle.remove()
    assert not calls
    # What lies before the first through layer has no graph.
    assert record.throughs["conv2d2"].is_leaf


def test_a_record_may_put_other_maps_in_place() -> None:
    network = load("inceptionv1-mini")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    record = network.record(
        images,
        targets=["mixed3b"],
        throughs=["conv2d2", "mixed3a"],
        substitute=lambda name, maps: maps * (name == "conv2d2"),
    )
    silent = network.run(images, "mixed3b", "mixed3a", substitute=torch.zeros_like).target
    assert torch.equal(record.targets["mixed3b"], silent)
    assert not record.throughs["mixed3a"].any()


def test_a_record_needs_a_through_layer_and_known_names() -> None:
    network = load("inceptionv1-mini")
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="at least one through layer"):
        network.record(images, targets=["mixed3b"], throughs=[])
    with pytest.raises(ValueError, match="has no layer 'mixed9z'"):
        network.record(images, targets=["mixed9z"], throughs=["mixed3a"])
