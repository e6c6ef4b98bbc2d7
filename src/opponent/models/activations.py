"""The activation functions that the package knows, by the names that PyTorch gives them.

To add one, add a row to `ACTIVATION_FUNCTIONS`. Four files derive their own sets from it:
`models.layers` (modules), `models.operations` (ATen operations), `geometry.bottlenecks` and
`attribution.jacobian_rules` (autograd's nodes).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class ActivationFunction:
    """An element-wise function, as autograd, ATen and modules name it.

    Args:
        node: the name of its backward node in autograd's graph, without 'Backward0'.
        operations: the ATen operations that compute it, those in place too.
        modules: the module classes that compute it. Gates, such as the sigmoid of squeeze and
            excitation, have none: a layer that is a gate is read like any other layer.
    """

    node: str
    operations: tuple[object, ...]
    modules: tuple[type[nn.Module], ...] = ()


ACTIVATION_FUNCTIONS = (
    ActivationFunction("Relu", (aten.relu, aten.relu_), (nn.ReLU,)),
    ActivationFunction("Hardtanh", (aten.hardtanh, aten.hardtanh_, aten.relu6), (nn.ReLU6,)),
    ActivationFunction("LeakyRelu", (aten.leaky_relu, aten.leaky_relu_), (nn.LeakyReLU,)),
    ActivationFunction("PreluKernel", (aten._prelu_kernel,), (nn.PReLU,)),
    ActivationFunction("Elu", (aten.elu, aten.elu_), (nn.ELU, nn.SELU)),
    ActivationFunction("Celu", (aten.celu,), (nn.CELU,)),
    ActivationFunction("Gelu", (aten.gelu,), (nn.GELU,)),
    ActivationFunction("Silu", (aten.silu, aten.silu_), (nn.SiLU,)),
    ActivationFunction("Hardswish", (aten.hardswish, aten.hardswish_), (nn.Hardswish,)),
    ActivationFunction("Mish", (aten.mish, aten.mish_), (nn.Mish,)),
    ActivationFunction("Softplus", (aten.softplus,), (nn.Softplus,)),
    # Gates.
    ActivationFunction("Sigmoid", (aten.sigmoid, aten.sigmoid_)),
    ActivationFunction("Hardsigmoid", (aten.hardsigmoid, aten.hardsigmoid_)),
    ActivationFunction("Tanh", (aten.tanh,)),
)

# A layer that is one of these is read at its input as a target, at its output as a through layer.
ACTIVATIONS = tuple(kind for function in ACTIVATION_FUNCTIONS for kind in function.modules)
