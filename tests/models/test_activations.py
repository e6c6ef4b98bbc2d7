"""The table of activation functions: what is in it, what PyTorch calls it, and who uses it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from opponent import Network, Preprocessing, attribute
from opponent.attribution.jacobian_rules import RULES
from opponent.geometry.bottlenecks import _ACTIVATION_NODES
from opponent.models.activations import ACTIVATION_FUNCTIONS, ACTIVATIONS, is_activation
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
        nn.ReLU, nn.Hardtanh, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU,
        nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Softplus, nn.Threshold, nn.Hardshrink,
        nn.Softshrink, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.LogSigmoid,
    }  # fmt: skip
    assert len(ACTIVATIONS) == 21


def test_nodes_that_count_for_depth() -> None:
    assert sorted(_ACTIVATION_NODES) == [
        "CeluBackward", "EluBackward", "GeluBackward", "HardshrinkBackward", "HardswishBackward",
        "HardtanhBackward", "LeakyReluBackward", "MishBackward", "PreluKernelBackward",
        "ReluBackward", "RreluWithNoiseBackward", "SiluBackward", "SoftplusBackward",
        "SoftshrinkBackward", "ThresholdBackward",
    ]  # fmt: skip


def test_operations_that_keep_each_elements_extents() -> None:
    assert {
        aten.relu, aten.relu_, aten.relu6, aten.hardtanh, aten.hardtanh_, aten.leaky_relu,
        aten.leaky_relu_, aten.rrelu_with_noise, aten.rrelu_with_noise_, aten._prelu_kernel,
        aten.elu, aten.elu_, aten.celu, aten.celu_, aten.gelu, aten.gelu_, aten.silu, aten.silu_,
        aten.hardswish, aten.hardswish_, aten.mish, aten.mish_, aten.softplus, aten.threshold,
        aten.threshold_, aten.hardshrink, aten.softshrink,
        aten.sigmoid, aten.sigmoid_, aten.hardsigmoid, aten.hardsigmoid_, aten.tanh, aten.tanh_,
        aten.exp, aten.log, aten.erf, aten.pow, aten.square, aten.sqrt, aten.rsqrt,
        aten.reciprocal, aten.abs, aten.neg, aten.clamp, aten.clamp_, aten.clamp_min,
        aten.clamp_min_, aten.native_dropout,
    } == UNARY  # fmt: skip


def test_nodes_that_are_rules_of_the_walk() -> None:
    relu = RULES["Relu"]
    names = [name for name, rule in RULES.items() if rule is relu]
    assert names == [function.node for function in ACTIVATION_FUNCTIONS]


@pytest.mark.parametrize(
    ("node", "operations", "module"),
    [
        pytest.param(function.node, function.operations, kind, id=kind.__name__)
        for function in ACTIVATION_FUNCTIONS
        for kind in function.modules
    ],
)
def test_names_are_those_that_torch_gives(
    node: str, operations: tuple[Any, ...], module: type[nn.Module]
) -> None:
    x = torch.linspace(-3, 3, 8).view(2, 4).requires_grad_()
    settings = (0.1, 0.0) if module is nn.Threshold else ()
    with Recorded() as recorded:
        y = module(*settings).eval()(x)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == f"{node}Backward0"
    # PReLU's weight is looked at in another shape.
    moves = {aten.detach, aten.view, aten.fill_, aten.full, aten.empty, aten.empty_like}
    assert recorded.operations - moves <= {*operations, aten.log_sigmoid_forward}
    assert recorded.operations & {*operations, aten.log_sigmoid_forward}


# What is recognised by what it does


class Swish(nn.Module):
    """As packages write it."""

    def __init__(self, *, trained: bool = False, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        if trained:
            self.beta = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        gate = (x * self.beta if hasattr(self, "beta") else x).sigmoid()
        return x.mul_(gate) if self.in_place else x * gate


class WithChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def made(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
    assert isinstance(module, nn.Module)
    return module


ARE = {
    "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink,
    "swish": Swish,
    "swish, trained": lambda: Swish(trained=True),
    "swish in place": lambda: Swish(in_place=True),
    "swish of a module": WithChild,
    "quick gelu": lambda: Of(lambda x: x * (1.702 * x).sigmoid()),
    "relu6": lambda: Of(lambda x: functional.relu6(x, inplace=True)),
    "clamped": lambda: Of(lambda x: x.clamp(-1, 1)),
    "a sequence": lambda: nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "random in training only": lambda: Of(lambda x: functional.rrelu(x)).train(),
    "square": lambda: Of(torch.square),
}
ARE_NOT = {
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "a scale": lambda: Of(lambda x: 3 * x - 2),
    "batch norm": lambda: nn.BatchNorm2d(6),
    "batch norm and relu": lambda: nn.Sequential(nn.BatchNorm2d(6, affine=False), nn.ReLU()),
    "layer norm": lambda: nn.LayerNorm(5),
    "instance norm": lambda: nn.InstanceNorm2d(6),
    "a convolution": lambda: nn.Conv2d(6, 6, 1),
    "of each channel, and relu": lambda: nn.Sequential(
        nn.Conv2d(6, 6, 1, groups=6, bias=False), nn.ReLU()
    ),
    "glu": lambda: nn.GLU(1),
    "softmax": lambda: nn.Softmax(1),
    "softmin": lambda: nn.Softmin(1),
    "local response norm": lambda: nn.LocalResponseNorm(3),
    "pool": lambda: nn.MaxPool2d(3, 1, 1),
    "pool and relu": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1)),
    "moved": lambda: Of(lambda x: x.roll(1, 3).relu()),
    "mirrored": lambda: Of(lambda x: x.flip(1).relu()),
    "two inputs": lambda: nn.Bilinear(5, 5, 5, bias=False),
    "a pair": lambda: Of(lambda x: (x.relu(), x)),
    "another shape": lambda: Of(lambda x: x.relu().flatten(1)),
    "signs": lambda: Of(lambda x: x > 0),
}


@pytest.mark.parametrize("name", [*ARE, *ARE_NOT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_an_activation_function(name: str, dtype: torch.dtype) -> None:
    module = made((ARE | ARE_NOT)[name]).to(dtype)
    modes = [x.training for x in module.modules()]
    assert is_activation(module, (1, 6, 4, 5)) == (name in ARE)
    assert [x.training for x in module.modules()] == modes


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_torchs_own_are_found_by_what_they_do_too(kind: type[nn.Module]) -> None:
    own = (kind(0.1, 0.0) if kind is nn.Threshold else kind()).eval()
    assert is_activation(own, (1, 6, 4, 5))
    assert is_activation(Of(own.forward), (1, 6, 4, 5))


def test_those_of_timm() -> None:
    pytest.importorskip("timm")
    from timm.layers import activations, norm_act

    own = [
        activations.Swish(), activations.Mish(), activations.Sigmoid(), activations.Tanh(),
        activations.HardSwish(), activations.HardSigmoid(), activations.HardMish(),
        activations.PReLU(), activations.GELU(), activations.GELUTanh(), activations.QuickGELU(),
    ]  # fmt: skip
    assert [type(x).__name__ for x in own if not is_activation(x, (1, 6, 4, 5))] == []
    assert not is_activation(norm_act.BatchNormAct2d(6).eval(), (1, 6, 4, 5))
    assert not is_activation(norm_act.GroupNormAct(6, 2), (1, 6, 4, 5))
    assert not is_activation(norm_act.LayerNormAct2d(6), (1, 6, 4, 5))


def test_a_target_is_read_before_and_a_through_layer_after() -> None:
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(nn.Conv2d(3, 4, 1), Swish(), nn.Conv2d(4, 2, 1), nn.Sigmoid())
    network = Network(module.eval(), preprocessing=Preprocessing(size=(6, 5)))
    images = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    first = module[0](images)
    assert torch.equal(network.run(images, "1").target, first)
    assert torch.equal(network.activations(images, "1")["1"], first * first.sigmoid())
    before = module[2](first * first.sigmoid())
    assert torch.equal(network.run(images, "3").target, before)
    assert torch.equal(network.activations(images, "3")["3"], before.sigmoid())
    result = attribute(network, images, "3:1@2,2", "1")
    torch.testing.assert_close(result.activation, before[:, 1, 2, 2].detach())
