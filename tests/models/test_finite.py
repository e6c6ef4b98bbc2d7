"""Numbers that are not finite: whose, and why."""

import numpy as np
import torch
from torch import nn

from opponent import Network, Preprocessing
from opponent.models.finite import likely_cause, not_finite, not_finite_weight


def network_of(module: nn.Module) -> Network:
    return Network(module.eval(), preprocessing=Preprocessing(size=(8, 8)), name="small")


def layers() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))


def test_rows_that_are_not_finite_name_their_arrays() -> None:
    a, b = np.zeros((4, 2), np.float32), np.zeros((4, 3, 5), np.float32)
    assert not_finite({"a": a, "b": b}) == {}
    a[3, 1], b[3, 2, 4], b[0, 0, 0] = np.nan, np.inf, -np.inf
    assert not_finite({"a": a, "b": b}) == {0: "not finite: b", 3: "not finite: a, b"}
    assert not_finite({"b": b[:, 0, 0]}) == {0: "not finite: b"}
    assert not_finite({}) == {}


def test_the_first_weight_that_is_not_finite() -> None:
    module = layers()
    assert not_finite_weight(network_of(module)) is None
    module[1].register_buffer("mask", torch.full((2,), -torch.inf))
    assert not_finite_weight(network_of(module)) is None
    module[1].running_var[0] = torch.nan  # type: ignore[index, operator]
    assert not_finite_weight(network_of(module)) == "1.running_var"
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = torch.inf  # type: ignore[index, operator]
    assert not_finite_weight(network_of(module)) == "0.weight"
    assert likely_cause(network_of(module)) == (
        "the weight '0.weight' of small holds NaN or infinity; load others"
    )


def test_causes_where_all_weights_are_finite() -> None:
    assert likely_cause(network_of(layers().half())) == (
        "in half precision there are no numbers over 65,504; compute in bfloat16 or float32"
    )
    assert likely_cause(network_of(layers())).startswith("all weights of small are finite, so")
