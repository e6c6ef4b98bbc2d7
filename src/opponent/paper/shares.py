"""What f - E is made of: how much each module between a layer and a feature adds by itself.

A module whose output y doubles with its input x hands on what it was given. What it adds of its own
is y less its derivative along x: of a convolution the bias, of a norm its shift and more. The sum
of that times the derivative of f by y is the module's share, and f - E is the sum of all shares.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.feature import Feature
from opponent.models.forward import changing
from opponent.models.network import Network
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
    """Ones, one for each image, by which each module's input and output are multiplied."""

    def __init__(self) -> None:
        self.names, self.inputs, self.outputs = list[str](), list[Tensor](), list[Tensor]()
        self._calls, self._given = Counter[str](), dict[str, Tensor]()

    def multiply(self, name: str, is_output: bool, tensor: Tensor) -> Tensor:
        """The tensor times ones, which are kept."""
        if not tensor.is_floating_point() or (is_output and name not in self._given):
            return tensor
        ones = tensor.new_ones(len(tensor)).requires_grad_()
        if not is_output:
            self._given[name] = ones
        else:
            self._calls[name] += 1
            call = self._calls[name]
            self.names.append(name if call == 1 else f"{name}#{call}")
            self.inputs.append(self._given.pop(name))
            self.outputs.append(ones)
        return tensor * ones.view(-1, *[1] * (tensor.ndim - 1))


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
    >>> network = opponent.load()
    >>> inputs = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> f, e, parts = shares(network, inputs, [network.resolve("mixed3b:189")], "conv2d1")
    >>> missing = parts.share[:, 0].abs().amax(0)
    >>> [name for name, most in zip(parts.modules, missing) if most > 1e-4]
    ['conv2d2_pre_relu_conv']
    """
    factors = _Factors()
    ones: list[Tensor] = []

    def times_one(_name: str, hidden: Tensor) -> Tensor:
        ones.append(hidden.new_ones(len(hidden)).requires_grad_())
        return hidden * ones[0].view(-1, 1, 1, 1)

    # The layers are looked up before the hooks are there, which would count those passes too.
    network.layers.check(features[0].layer, through)
    with changing(network.module, factors.multiply):
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
