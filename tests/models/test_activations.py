"""The table of activation functions: what is in it, what PyTorch calls it, and who uses it."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from opponent.attribution.jacobian_rules import RULES
from opponent.geometry.bottlenecks import _ACTIVATION_NODES
from opponent.models.activations import ACTIVATION_FUNCTIONS, ACTIVATIONS
from opponent.models.operations import UNARY

aten: Any = torch.ops.aten


class Recorded(TorchDispatchMode):
    """The ATen operations that are called while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.operations.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))


def test_layers_that_are_activation_functions() -> None:
    assert set(ACTIVATIONS) == {
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU,
        nn.Hardswish, nn.Mish, nn.Softplus,
    }  # fmt: skip
    assert len(ACTIVATIONS) == 12


def test_nodes_that_count_for_depth() -> None:
    assert sorted(_ACTIVATION_NODES) == [
        "CeluBackward", "EluBackward", "GeluBackward", "HardswishBackward", "HardtanhBackward",
        "LeakyReluBackward", "MishBackward", "PreluKernelBackward", "ReluBackward", "SiluBackward",
        "SoftplusBackward",
    ]  # fmt: skip


def test_operations_that_keep_each_elements_extents() -> None:
    assert {
        aten.relu, aten.relu_, aten.relu6, aten.hardtanh, aten.hardtanh_, aten.leaky_relu,
        aten.leaky_relu_, aten._prelu_kernel, aten.elu, aten.elu_, aten.celu, aten.gelu, aten.silu,
        aten.silu_, aten.hardswish, aten.hardswish_, aten.mish, aten.mish_, aten.softplus,
        aten.sigmoid, aten.sigmoid_, aten.hardsigmoid, aten.hardsigmoid_, aten.tanh,
        aten.exp, aten.log, aten.erf, aten.pow, aten.square, aten.sqrt, aten.rsqrt,
        aten.reciprocal, aten.abs, aten.neg, aten.clamp, aten.clamp_, aten.clamp_min,
        aten.clamp_min_, aten.native_dropout,
    } == UNARY  # fmt: skip


def test_nodes_that_are_rules_of_the_walk() -> None:
    relu = RULES["Relu"]
    assert sorted(name for name, rule in RULES.items() if rule is relu) == [
        "Elu", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "Mish", "Relu",
        "Sigmoid", "Silu", "Softplus", "Tanh", "Threshold",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("node", "operations", "module"),
    [
        pytest.param(function.node, function.operations, kind, id=kind.__name__)
        for function in ACTIVATION_FUNCTIONS
        for kind in (
            *function.modules,
            *{"Sigmoid": [nn.Sigmoid], "Hardsigmoid": [nn.Hardsigmoid], "Tanh": [nn.Tanh]}.get(
                function.node, []
            ),
        )
    ],
)
def test_names_are_those_that_torch_gives(
    node: str, operations: tuple[Any, ...], module: type[nn.Module]
) -> None:
    x = torch.linspace(-3, 3, 8).view(2, 4).requires_grad_()
    with Recorded() as recorded:
        y = module()(x)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == f"{node}Backward0"
    # PReLU's weight is looked at in another shape.
    moves = {aten.detach, aten.view, aten.fill_, aten.full, aten.empty}
    assert recorded.operations - moves <= set(operations)
    assert recorded.operations & set(operations)
