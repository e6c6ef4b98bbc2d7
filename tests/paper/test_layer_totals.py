"""f and E of all layers: by hand, by slow twins, integrated."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.chains import Residual, chain, double
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, attribute
from opponent.attribution.attribute import attribute_each
from opponent.attribution.rules import IntegratedGradients, parse_rule
from opponent.geometry.bottlenecks import through_layers
from opponent.paper.layer_totals import (
    integrated_totals,
    rule_totals,
    totals,
    totals_by_feature,
    totals_by_layer,
)

pytestmark = pytest.mark.usefixtures("one_thread", "random_weights")


def whole_numbers(*shape: int, low: int = -3, high: int = 4, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(low, high, shape).astype(np.float64))


def test_what_is_missing_is_what_the_biases_add_by_hand() -> None:
    """f = 2 relu(x1 - x2 + 1) - 3 relu(x1 + 2 x2 - 2) + 5, through the pixels and the ReLU."""
    module = nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 2, 1), relu=nn.ReLU(), flat=nn.Flatten(), head=nn.Linear(2, 1)
    ))  # fmt: skip
    with torch.no_grad():
        module.conv.weight.copy_(torch.tensor([[1, -1, 0], [1, 2, 0]])[..., None, None])
        module.conv.bias.copy_(torch.tensor([1, -2]))
        module.head.weight.copy_(torch.tensor([[2, -3]]))
        module.head.bias.fill_(5)
    network = Network(module.double(), preprocessing=Preprocessing(size=(1, 1)))
    x = torch.tensor([[3, 1, 7], [0, 4, 7], [-5, 1, 7]], dtype=torch.float64)[..., None, None]
    f, e = totals(network, x, [Feature(layer="logits", unit=0)], ["pixels", "relu"])
    # Both units on: 2 * 3 - 3 * 3 + 5; only the second: -3 * 6 + 5; none: 5.
    assert f[:, 0].tolist() == [2, -13, 5]
    # Through the ReLU, the head's bias is missing; through the pixels, those of the units that are
    # on too: 2 * 1 - 3 * -2 + 5 = 13, -3 * -2 + 5 = 11, 5.
    assert (f - e[:, :, 1])[:, 0].tolist() == [5, 5, 5]
    assert (f - e[:, :, 0])[:, 0].tolist() == [13, 11, 5]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_missing_is_what_the_biases_add(seed: int) -> None:
    """Whole numbers: f - E equals the biases sent on through the units that are on, exactly."""
    module = chain()
    for i, parameter in enumerate(module.parameters()):
        values = whole_numbers(*parameter.shape, low=-2, high=3, seed=100 * seed + i)
        parameter.data = values.clone()
    module.pool = nn.MaxPool2d(3, 3)  # a mean would leave the whole numbers
    module.head = nn.Linear(6 * 2 * 3, 3)
    module.head.weight.data = whole_numbers(3, 36, seed=seed)
    module.head.bias.data = whole_numbers(3, seed=seed)
    network = double(module)
    x = whole_numbers(4, 3, 7, 10, seed=seed)
    features = [Feature(layer="logits", unit=unit) for unit in range(3)]
    throughs = ["pixels", "relu1", "relu2", "relu3"]
    f, e = totals(network, x, features, throughs)
    assert f.abs().max() > 100
    # The slow twin: the same units on, as in the real pass, all numbers 0 but the biases.
    hidden, on = x, []
    for child in module:
        before, hidden = hidden, child(hidden)
        if isinstance(child, nn.ReLU):
            on.append((before > 0).double() if before is not hidden else (hidden > 0).double())
        if isinstance(child, nn.MaxPool2d):
            _, where = nn.functional.max_pool2d(before, 3, 3, return_indices=True)
    for number in range(len(throughs)):
        biases, layer = torch.zeros_like(x), 0
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                layer += 1
                biases = (
                    biases * on[layer - 1] if layer > number else torch.zeros_like(on[layer - 1])
                )
            elif isinstance(child, nn.MaxPool2d):
                biases = biases.flatten(2).gather(2, where.flatten(2)).view(where.shape)
            elif name == "flat" or layer >= number:
                biases = child(biases)
        assert torch.equal(f - e[:, :, number], biases)


@pytest.mark.parametrize("through", ["norm", "direction"])
def test_both_ways_are_the_same(through: str) -> None:
    network = double(chain(norm=through == "norm"))
    x = torch.randn(4, 3, 7, 10, dtype=torch.float64)
    features = [network.resolve(f"conv3:{k}@1,6") for k in range(5)]
    if through == "direction":
        features = [
            network.resolve(
                Feature.direction(
                    "conv3", [0.1 * k, 1.0, -2.0, 0.0, 1.0, 3.0], position=(2, 1), power=2 * k
                )
            )
            for k in range(4)
        ]
    throughs = ["pixels", "relu1", "relu2"]
    by_feature = totals_by_feature(network, x, features, throughs)
    for way in (totals_by_layer, totals):
        for ours, expected in zip(way(network, x, features, throughs), by_feature, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


class _Backward(torch.autograd.Function):
    """Twice the input, which cannot be differentiated forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Backward.apply(x)


def test_an_operation_that_is_not_differentiated_forward_is_differentiated_backward() -> None:
    module = chain()
    module.pool = nn.Sequential(Doubled(), module.pool)
    network = double(module)
    x = torch.randn(4, 3, 7, 10, dtype=torch.float64)
    features = [Feature(layer="logits", unit=unit) for unit in range(3)]
    with pytest.raises(NotImplementedError):
        totals_by_layer(network, x, features, ["relu1"])
    _, e = totals(network, x, features, ["relu1"])
    assert torch.equal(e, totals_by_feature(network, x, features, ["relu1"])[1])


def test_without_biases_nothing_is_missing() -> None:
    network = double(chain(bias=False))
    x = torch.randn(5, 3, 7, 10, dtype=torch.float64)
    f, e = totals(network, x, [Feature(layer="logits", unit=1)], ["pixels", "relu2"])
    assert torch.allclose(e, f[:, :, None].expand_as(e), rtol=1e-12)


def test_totals_are_the_sums_of_s() -> None:
    network = double(chain(norm=True))
    x = torch.randn(4, 3, 7, 10, dtype=torch.float64)
    features = [network.resolve(name) for name in ("conv3:2@1,6", "conv3:5@6,0")]
    throughs = ["pixels", "relu1", "relu2"]
    f, e = totals(network, x, features, throughs)
    for k, feature in enumerate(features):
        for i, through in enumerate(throughs):
            # Over all of the image, without a crop, which would round otherwise.
            [result] = attribute_each(network, x, [feature], through)
            assert torch.equal(f[:, k], result.activation)
            assert torch.allclose(e[:, k, i], result.excitation - result.inhibition, atol=1e-12)


@pytest.mark.parametrize("rule", ["integrated-zero/5", "integrated-mean/5"])
def test_integrated_totals_are_the_sums_of_s(rule: str) -> None:
    network = double(Residual())
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    features = [network.resolve(f"logits:{unit}") for unit in range(2)]
    throughs = [through.layer for through in through_layers(network)]
    baselines: dict[str, Tensor] = {}
    if "mean" in rule:
        baselines = {
            name: torch.rand(network.map_shape(name), dtype=torch.float64) for name in throughs
        }
    integrated = parse_rule(rule)
    assert isinstance(integrated, IntegratedGradients)
    f, e = integrated_totals(network, x, features, throughs, integrated, baselines)
    assert e.shape == (3, 2, len(throughs))
    for i, through in enumerate(throughs):
        for k, feature in enumerate(features):
            result = attribute(
                network, x, feature, through, rule=rule, baseline=baselines.get(through)
            )
            assert torch.allclose(f[:, k], result.activation)
            assert torch.allclose(e[:, k, i], result.excitation - result.inhibition, atol=1e-12)


@pytest.mark.parametrize("rule", ["gradient", "integrated-mean/5"])
def test_totals_of_any_rule_are_the_sums_of_s(rule: str) -> None:
    network = double(Residual())
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    features = [network.resolve(f"logits:{unit}") for unit in range(2)]
    throughs = [through.layer for through in through_layers(network)]
    any_rule = parse_rule(rule)
    baselines: dict[str, Tensor] = {}
    if any_rule.needs_mean:
        baselines = {
            name: torch.rand(network.map_shape(name), dtype=torch.float64) for name in throughs
        }
    f, e = rule_totals(network, x, features, throughs, any_rule, baselines)
    if isinstance(any_rule, IntegratedGradients):
        expected = integrated_totals(network, x, features, throughs, any_rule, baselines)
    else:
        expected = totals(network, x, features, throughs)
    assert torch.allclose(f, expected[0])
    assert torch.allclose(e, expected[1], atol=1e-12)
