"""One pass up to a target: where layers are read, no further than it must, many layers at once."""

from functools import partial
from typing import Any

import pytest
import torch
from tests.support.odd_network import SMALL, Odd, images, odd, seeded
from torch import Tensor, nn

from opponent import Network, Preprocessing, attribute
from opponent.attribution.attribute import attribute_each
from opponent.core.box import Box
from opponent.models.registry import load

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


def test_a_crop_of_a_layer_goes_on_in_its_place() -> None:
    network = odd()
    x, box = images(), Box(top=1, left=2, height=3, width=4)
    stem = network.run(x, "stem.0").target  # read whole, and nothing is left of a crop
    block = network.module.block
    with torch.no_grad():
        piece = network.module.stem[1](stem).relu()[:, :, 1:4, 2:6]
        wanted = block.bn1(block.conv1(piece))
    result = network.run(x, "block.relu#1", "stem", crops={"stem": box})
    torch.testing.assert_close(result.target, wanted)
    # What is read at the same place has been cropped.
    torch.testing.assert_close(result.through, piece)
    assert network.run(x, "block.relu#1", "stem").through.shape == (2, 4, 5, 8)


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
        network.run(how.pop("images", images()), target, *through, **how)
        return [part.seen for part in parts]

    off, on = (False, False), (True, True)
    # Before the through layer nothing needs a gradient, parameters neither.
    before = (False, True)
    assert seen("5", "1", differentiate="target") == [[before], [on], [on], []]
    assert seen("5", "1") == [[off], [off], [off], []]
    assert seen("3", "0", differentiate="target") == [[before], [on], [], []]
    assert seen("logits", "3", differentiate="target") == [[before], [before], [on], [on]]
    assert seen("1") == [[off], [], [], []]
    assert seen("0") == [[off], [], [], []]
    inputs = images().requires_grad_()
    assert seen("7", "3", differentiate="images", images=inputs) == [[on], [on], [off], [off]]
    assert all(parameter.requires_grad for parameter in model.parameters())

    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        reading = network.run(images(), "5", "3", differentiate="target")
    assert reading.through.is_leaf
    assert reading.through.requires_grad
    assert saved == []  # between them lies nothing that needs anything kept


class GrownInPlace(nn.Module):
    """A part of a map is added to in place, and what is added comes through another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shortcut = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)[:, 2:6]
        y += self.shortcut(x).relu()
        return y


def test_a_view_of_before_the_through_layer_may_change_after_it() -> None:
    network = Network(seeded(GrownInPlace), preprocessing=SMALL)
    result = attribute(network, images(), "logits:1@2,3", "shortcut")
    hidden = network.module.shortcut(images()).detach()
    torch.testing.assert_close(result.excitation, hidden[:, 1, 2, 3].relu())
    assert result.inhibition.count_nonzero() == 0
    record = network.record(images(), targets=["logits"], throughs=["shortcut"])
    [gradient] = torch.autograd.grad(record.targets["logits"].sum(), record.throughs["shortcut"])
    torch.testing.assert_close(gradient, (hidden > 0).float())


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
            # The noise with which the layers are found goes all the way.
            y = self.conv(x)
            return self.last(y) if x.any() else y

    network = Network(seeded(Early), preprocessing=SMALL)
    with pytest.raises(RuntimeError, match="Early: the pass ended without reaching 'last'"):
        network.run(torch.zeros(2, 3, 11, 17), "last")


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


# Many layers in one pass


def test_a_record_gives_every_gradient_that_a_pass_of_its_own_gives() -> None:
    network = load()
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
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
            feature = network.resolve(f"{target}:3")
            [one] = attribute_each(network, images, [feature], through)
            assert torch.equal(f, one.activation)
            assert torch.equal(hidden[:, :, *one.window.slices], one.hidden)
            assert torch.allclose(gradient * hidden, one.attribution, atol=1e-6)


def test_a_record_goes_no_further_than_it_must() -> None:
    network = load()
    assert network.layers  # which takes a pass of its own
    calls: list[str] = []
    handle = network.module.mixed4a.register_forward_hook(lambda *_: calls.append("late"))
    images = torch.zeros(1, 3, 112, 112)
    try:
        record = network.record(images, targets=["mixed3b"], throughs=["conv2d2"])
    finally:
        handle.remove()
    assert not calls
    # What lies before the first through layer has no graph.
    assert record.throughs["conv2d2"].is_leaf


def test_a_record_may_put_other_maps_in_place() -> None:
    network = load()
    images = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
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
    network = load()
    images = torch.zeros(1, 3, 112, 112)
    with pytest.raises(ValueError, match="at least one through layer"):
        network.record(images, targets=["mixed3b"], throughs=[])
    with pytest.raises(ValueError, match="has no layer 'mixed9z'"):
        network.record(images, targets=["mixed9z"], throughs=["mixed3a"])
