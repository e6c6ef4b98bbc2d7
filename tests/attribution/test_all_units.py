"""All units at once: their scores are those of one unit after the other."""

import re
from itertools import product

import pytest
import torch
from tests.support.scans import gated as gated_network
from torch import Tensor, nn

import opponent
from opponent import Feature, Network, Preprocessing
from opponent.attribution.all_units import AllUnits, scores, scores_everywhere
from opponent.attribution.attribute import attribute_each
from opponent.attribution.jacobian import jacobian_blocks
from opponent.attribution.jacobian_block import NoRule
from opponent.geometry.crop import plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.storage.summary import SCORES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def embedded() -> Network:
    return opponent.load()


@pytest.fixture(scope="module")
def gated() -> Network:
    return gated_network()


def slow_scores(network: Network, inputs: Tensor, name: str, through: str, step: int = 1) -> Tensor:
    """One unit after the other, by itself and in the whole image."""
    layer, _, place = name.partition(":*")
    units = range(0, network.layer(layer).shape[0], step)
    features = [network.resolve(f"{layer}:{unit}{place}") for unit in units]
    by_unit = []
    for one in attribute_each(network, inputs, features, through):
        plus, minus = one.excitation, one.inhibition
        columns = [one.activation, plus, minus, torch.minimum(plus, minus), one.l1, one.l2]
        by_unit.append(torch.stack(columns, 1))
    return torch.stack(by_unit, 1)


@pytest.mark.parametrize(
    ("name", "through"),
    [
        ("mixed3b:*", "mixed3a"),
        ("mixed3a:*@0,13", "conv2d2"),
        ("mixed3a:*@13,7", "pixels"),
        ("logits:*", "mixed5a"),
    ],
)
def test_scores_are_those_of_one_unit_after_the_other(
    embedded: Network, name: str, through: str, generator: torch.Generator
) -> None:
    inputs = torch.randn(2, 3, *embedded.preprocessing.size, generator=generator)
    units = AllUnits.parse(name)
    assert units is not None
    widest = units.widest(embedded)
    for plan in (
        plan_crop(embedded, [widest], through),
        plan_whole_image(embedded, [widest], through, ""),
    ):
        result = scores(embedded, inputs, plan)
        assert result.shape == (2, embedded.layer(units.layer).shape[0], len(SCORES))
        # Of each branch some.
        expected = slow_scores(embedded, inputs, name, through, step=9)
        torch.testing.assert_close(result[:, ::9], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["last.0:*", "last.1:*@9,0", "logits:*"])
def test_scores_where_the_walk_has_no_rule(
    gated: Network, name: str, generator: torch.Generator
) -> None:
    inputs = torch.randn(3, 3, 10, 12, generator=generator)
    units = AllUnits.parse(name)
    assert units is not None
    widest = units.widest(gated)
    plan = plan_crop(gated, [widest], "stem.1")
    reading = plan.run(gated, inputs, differentiate="target")
    assert reading.through is not None
    with pytest.raises(NoRule, match="the walk has no rule"):
        jacobian_blocks(
            reading.target, reading.through, torch.eye(reading.target.shape[1]),
            plan.feature.position or (0, 0),
        )  # fmt: skip
    expected = slow_scores(gated, inputs, name, "stem.1")
    torch.testing.assert_close(scores(gated, inputs, plan), expected, rtol=1e-5, atol=1e-6)


def test_scores_within_inference_mode(gated: Network, embedded: Network) -> None:
    for network, name, through in (
        (gated, "last.0:*", "stem.1"),
        (embedded, "mixed3a:*", "conv2d2"),
    ):
        inputs = torch.zeros(1, 3, *network.preprocessing.size)
        units = AllUnits.parse(name)
        assert units is not None
        plan = plan_crop(network, [units.widest(network)], through)
        expected = scores(network, inputs, plan)
        with torch.inference_mode():
            result = scores(network, inputs, plan)
        assert torch.equal(result, expected)


def test_the_law_holds_for_all_units(embedded: Network, generator: torch.Generator) -> None:
    """Excitation - inhibition is the sum of S, here all of the activation: there are no biases."""
    units = AllUnits(layer="mixed3b", position=(3, 13))
    inputs = torch.randn(3, 3, *embedded.preprocessing.size, generator=generator)
    result = scores(embedded, inputs, plan_crop(embedded, [units.widest(embedded)], "mixed3a"))
    activation, plus, minus, tension, l1, l2 = result.unbind(2)
    torch.testing.assert_close(plus - minus, activation, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.minimum(plus, minus), tension)
    assert torch.equal(plus + minus, l1)
    assert (result[:, :, 1:] >= 0).all()
    assert (l2 <= l1 * (1 + 1e-5)).all()
    assert l2.any()


@pytest.mark.parametrize(
    ("text", "layer", "position"),
    [
        ("mixed3b:*", "mixed3b", None),
        (" features.7.squeeze:*@3,10 ", "features.7.squeeze", (3, 10)),
    ],
)
def test_all_units_have_a_name(text: str, layer: str, position: tuple[int, int] | None) -> None:
    assert AllUnits.parse(text) == AllUnits(layer=layer, position=position)


def test_what_is_no_name_of_all_units() -> None:
    assert AllUnits.parse("mixed3b:7") is None
    assert AllUnits.parse("mixed3b") is None
    for wrong in ("mixed3b:**", "mixed3b:*@", "mixed3b:*@3", "mixed3b:*7", ":*"):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            AllUnits.parse(wrong)


# Every position


@pytest.mark.parametrize("normed", [False, True])
def test_every_position_is_what_each_position_gives(normed: bool) -> None:
    """One convolution, stride, padding, groups, an h that may be negative; place by place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 4, 3, padding=1), nn.GELU(),
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
        ]  # fmt: skip
        if normed:
            layers.append(nn.BatchNorm2d(6))
        module = nn.Sequential(*layers, nn.ReLU()).double()
        if normed:
            norm = module[3]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.normal_(norm.weight)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    network = Network(module, preprocessing=Preprocessing(size=(9, 11)))
    layer = "4" if normed else "3"
    inputs = torch.randn(
        3, 3, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    result = scores_everywhere(network, inputs, layer, "1")
    _, height, width = network.layer(layer).shape
    for unit in (0, 5):
        each = []
        for place in product(range(height), range(width)):
            feature = Feature(layer=layer, unit=unit, position=place)
            [one] = attribute_each(network, inputs, [feature], "1")
            tension = torch.minimum(one.excitation, one.inhibition)
            each.append([one.activation, one.excitation, one.inhibition, tension, one.l1, one.l2])
        largest = torch.stack([torch.stack(x) for x in each]).amax(0)
        torch.testing.assert_close(result[:, unit], largest.T)
    with pytest.raises(ValueError, match="needs a layer that one convolution makes"):
        scores_everywhere(network, inputs, layer, "pixels")


class _OwnWeights(nn.Module):
    """A convolution whose weights the image makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        weight = h.mean((0, 2, 3))[None, :, None, None].expand(5, 4, 1, 1)
        return self.last(torch.conv2d(h, weight))


def test_weights_that_the_image_makes_are_no_linear_map() -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network(_OwnWeights(), preprocessing=Preprocessing(size=(5, 6)))
    with pytest.raises(ValueError, match="depends on the images beside it"):
        scores_everywhere(network, torch.ones(1, 3, 5, 6), "last", "first")


class _Halved(nn.Module):
    """A hook on a tensor in the midst, which autograd's graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.relu, self.last = nn.ReLU(), nn.Conv2d(5, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.second(self.first(x).relu()))
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient * torch.linspace(0, 1, 5)[:, None, None])
        logits: Tensor = self.last(hidden)
        return logits


def test_what_the_walk_cannot_see_is_found_by_a_backward_pass() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = Network(_Halved(), preprocessing=Preprocessing(size=(9, 11)))
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(3, 3, 9, 11, generator=generator)
    plan = plan_crop(network, [AllUnits(layer="last").widest(network)], "first")
    every = scores(network, inputs, plan)
    for unit in range(6):
        result = opponent.attribute(network, inputs, f"last:{unit}", "first")
        torch.testing.assert_close(every[:, unit, 1], result.excitation)
        torch.testing.assert_close(every[:, unit, 2], result.inhibition)
    with pytest.raises(ValueError, match="a backward pass gives other numbers of 'last'"):
        scores_everywhere(network, inputs, "last", "relu")
