"""What f - E is made of: how much each module between a layer and a feature adds by itself.

A module whose output y doubles with its input x hands on what it was given. What it adds of its own
is y less its derivative along x: of a convolution the bias, of a norm its shift and more. The sum
of that times the derivative of f by y is the module's share, and f - E is the sum of all shares.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.core.feature import Feature
from opponent.models.network import Network
from opponent.models.outputs import main_tensor, with_main_tensor
from opponent.models.state import undisturbed


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The parts of f - E for k features, m modules and n images.

    Args:
        modules: their names, in the order in which they are called; 'NAME#2' for a second call.
        share: of each module, in units of the activation.
        rest: what operations outside of modules add.
    """

    modules: tuple[str, ...]
    share: Float[Tensor, "n k m"]
    rest: Float[Tensor, "n k"]


class _Factors:
    """Multiplies each module's input and output by ones, one for each image."""

    def __init__(self, module: nn.Module) -> None:
        self.names, self.inputs, self.outputs = list[str](), list[Tensor](), list[Tensor]()
        self._calls = Counter[str]()
        self._modules = {
            name: part for name, part in module.named_modules() if name and not [*part.children()]
        }

    def watch(self, stack: ExitStack) -> None:
        """Hook all modules that have no modules in them."""
        for name, part in self._modules.items():
            for handle in (
                part.register_forward_pre_hook(self._before),
                part.register_forward_hook(self._after(name)),
            ):
                stack.callback(handle.remove)

    def _times_ones(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        ones = tensor.new_ones(len(tensor)).requires_grad_()
        return tensor * ones.view(-1, *[1] * (tensor.ndim - 1)), ones

    def _before(self, _module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not given or not isinstance(given[0], Tensor) or not given[0].is_floating_point():
            self._waiting = None
            return None
        tensor, self._waiting = self._times_ones(given[0])
        return (tensor, *given[1:])

    def _after(self, name: str) -> Any:
        def after(_module: nn.Module, _given: object, output: object) -> object:
            tensor = main_tensor(output)
            if self._waiting is None or tensor is None:
                return None
            self._calls[name] += 1
            call = self._calls[name]
            self.names.append(name if call == 1 else f"{name}#{call}")
            self.inputs.append(self._waiting)
            changed, ones = self._times_ones(tensor)
            self.outputs.append(ones)
            return with_main_tensor(output, changed)

        return after


@undisturbed()
def shares(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    through: str,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"], Shares]:
    """f, E and the parts of f - E, of features of one layer through a layer before it.

    A module's share does not depend on the through layer, as long as everything goes through that.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: k features of one layer.
        through: the layer, or 'pixels'.
    Returns:
        f, E, and the shares, which add up to f - E.

    >>> import opponent, torch
    >>> from opponent.paper.shares import shares
    >>> network = opponent.load("inceptionv1-mini")
    >>> inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> f, e, parts = shares(network, inputs, [network.resolve("mixed3b:168")], "conv2d1")
    >>> missing = parts.share[:, 0].abs().amax(0)
    >>> [name for name, most in zip(parts.modules, missing) if most > 1e-4]
    ['conv2d2_pre_relu_conv']
    """
    factors = _Factors(network.module)
    ones: list[Tensor] = []

    def times_one(_name: str, hidden: Tensor) -> Tensor:
        ones.append(hidden.new_ones(len(hidden)).requires_grad_())
        return hidden * ones[0].view(-1, 1, 1, 1)

    # The layers are looked up before the hooks are there, which would count those passes too.
    network.layers.check(features[0].layer, through)
    with ExitStack() as stack:
        factors.watch(stack)
        record = network.record(
            inputs, targets=[features[0].layer], throughs=[through], substitute=times_one
        )
    [target] = record.targets.values()
    # Of a module that the target is read before, only the input counts: it is left out.
    ends = [*ones, *factors.outputs, *factors.inputs]
    f, e, share = list[Tensor](), list[Tensor](), list[Tensor]()
    reached = [False] * len(factors.names)
    with torch.enable_grad():
        for number, feature in enumerate(features, 1):
            value = feature.read(target)
            total, *slopes = torch.autograd.grad(
                value.sum(), ends, retain_graph=number < len(features), allow_unused=True
            )
            after, before = slopes[: len(factors.names)], slopes[len(factors.names) :]
            zero = torch.zeros_like(value)
            pairs = [
                (zero if y is None else y.detach()) - (zero if x is None or y is None else x)
                for y, x in zip(after, before, strict=True)
            ]
            reached = [old or y is not None for old, y in zip(reached, after, strict=True)]
            f.append(value.detach())
            e.append(zero if total is None else total)
            share.append(torch.stack(pairs, 1) if pairs else value.new_zeros(len(value), 0))
    activation, sums = torch.stack(f, 1), torch.stack(e, 1)
    kept = [number for number, is_reached in enumerate(reached) if is_reached]
    of_modules = torch.stack(share, 1)[:, :, kept]
    names = tuple(factors.names[number] for number in kept)
    rest = activation - sums - of_modules.sum(2)
    return activation, sums, Shares(modules=names, share=of_modules, rest=rest)
