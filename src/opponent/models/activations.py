"""The activation functions that the package knows, by the names that PyTorch gives them.

To add one, add a row to `ACTIVATION_FUNCTIONS`. Four files derive their own sets from it:
`models.layers` (modules), `models.operations` (ATen operations), `geometry.bottlenecks` and
`attribution.jacobian_rules` (autograd's nodes).

Modules of other packages, and of the user, are recognised by what they do: see `is_activation`.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opponent.core.errors import out_of_memory
from opponent.models.state import apply_alone

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class ActivationFunction:
    """An element-wise function, as autograd, ATen and modules name it.

    Args:
        node: the name of its backward node in autograd's graph, without 'Backward0'.
        operations: the ATen operations that compute it, those in place too.
        modules: the module classes that compute it.
        gate: whether networks mostly multiply by it, as squeeze and excitation does. Then it does
            not count among the activation functions that the depth of a layer is measured in.
    """

    node: str
    operations: tuple[object, ...]
    modules: tuple[type[nn.Module], ...] = ()
    gate: bool = False


ACTIVATION_FUNCTIONS = (
    ActivationFunction("Relu", (aten.relu, aten.relu_), (nn.ReLU,)),
    ActivationFunction(
        "Hardtanh", (aten.hardtanh, aten.hardtanh_, aten.relu6), (nn.Hardtanh, nn.ReLU6)
    ),
    ActivationFunction("LeakyRelu", (aten.leaky_relu, aten.leaky_relu_), (nn.LeakyReLU,)),
    ActivationFunction(
        "RreluWithNoise", (aten.rrelu_with_noise, aten.rrelu_with_noise_), (nn.RReLU,)
    ),
    ActivationFunction("PreluKernel", (aten._prelu_kernel,), (nn.PReLU,)),
    ActivationFunction("Elu", (aten.elu, aten.elu_), (nn.ELU, nn.SELU)),
    ActivationFunction("Celu", (aten.celu, aten.celu_), (nn.CELU,)),
    ActivationFunction("Gelu", (aten.gelu, aten.gelu_), (nn.GELU,)),
    ActivationFunction("Silu", (aten.silu, aten.silu_), (nn.SiLU,)),
    ActivationFunction("Hardswish", (aten.hardswish, aten.hardswish_), (nn.Hardswish,)),
    ActivationFunction("Mish", (aten.mish, aten.mish_), (nn.Mish,)),
    ActivationFunction("Softplus", (aten.softplus,), (nn.Softplus,)),
    ActivationFunction("Threshold", (aten.threshold, aten.threshold_), (nn.Threshold,)),
    ActivationFunction("Hardshrink", (aten.hardshrink,), (nn.Hardshrink,)),
    ActivationFunction("Softshrink", (aten.softshrink,), (nn.Softshrink,)),
    ActivationFunction("Sigmoid", (aten.sigmoid, aten.sigmoid_), (nn.Sigmoid,), gate=True),
    ActivationFunction(
        "Hardsigmoid", (aten.hardsigmoid, aten.hardsigmoid_), (nn.Hardsigmoid,), gate=True
    ),
    ActivationFunction("Tanh", (aten.tanh, aten.tanh_), (nn.Tanh,), gate=True),
    # Its operation has two outputs, which `models.operations` takes for one.
    ActivationFunction("LogSigmoid", (), (nn.LogSigmoid,), gate=True),
)

ACTIVATIONS = tuple(kind for function in ACTIVATION_FUNCTIONS for kind in function.modules)
# Of the random inputs that modules are tried on: most functions differ from a line within it.
_SPREAD = 5.0


def is_activation(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a module is an activation function: of each element alone, and not linear.

    Such a layer is read at its input as a target, at its output as a through layer. Gates are no
    exception: what a sigmoid is given is, as before a ReLU, a sum of what excites and inhibits.

    torch's own are known by their class. Others (those of timm and transformers, the user's) are
    tried on random numbers: each output must depend on the input at its place alone, and not
    linearly. They may have one parameter, as PReLU has, but no buffers: a batch norm with an
    activation function in it is none, since what lies before it is not what the function is given.

    Args:
        module: the module.
        shape: of its output in a pass.
    """
    if isinstance(module, ACTIVATIONS):
        return True
    parameters, has_children = list(module.parameters()), any(True for _ in module.children())
    if len(parameters) > (0 if has_children else 1) or any(True for _ in module.buffers()):
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = _SPREAD * torch.randn(2, *shape, generator=generator)
    mixed = torch.where(torch.rand(shape, generator=generator) < 0.5, a, b)
    like = parameters[0] if parameters else a
    inputs = [x.to(like) for x in (a, b, mixed, (a + b) / 2)]
    try:
        # A copy, since a module may remember what it was given.
        copy = deepcopy(module)
        of_a, of_b, of_mixed, of_middle = (apply_alone(copy, x) for x in inputs)
    except Exception as error:  # a module that takes something else fails in a way of its own
        if out_of_memory(error):
            raise
        return False
    if not isinstance(of_a, Tensor) or of_a.shape != shape or not of_a.is_floating_point():
        return False
    alone = torch.where(inputs[2] == inputs[0], of_a, of_b)
    middle = (of_a + of_b) / 2
    rounding = 16 * torch.finfo(of_a.dtype).eps * middle.nan_to_num().abs().max()
    is_line = ((of_middle - middle).abs() <= rounding).all()
    return bool(torch.equal(of_mixed.nan_to_num(), alone.nan_to_num()) and not is_line)
