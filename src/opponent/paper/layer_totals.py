"""The sum of S through all layers of a network: with gradients, and with integrated gradients.

Backward differentiation gives E of one feature through all layers; forward differentiation gives E
of all features through one layer. The latter takes over where features are many.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.autograd.forward_ad as forward
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.attribute import attribute_each
from opponent.attribution.rules import AttributionRule, IntegratedGradients
from opponent.attribution.segment import AT_ONCE
from opponent.core.feature import Feature
from opponent.models.network import Network
from opponent.models.state import undisturbed


def totals(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and E_l of features of one layer, the way that takes fewer passes.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: k features of one layer.
        throughs: l layers before it, or 'pixels'.
    Returns:
        f, and E_l, the sum of S through each layer; both in units of the activation.
    Source: paper, section 2.
    """
    if len(features) > len(throughs):
        try:
            return totals_by_layer(network, inputs, features, throughs)
        except NotImplementedError:
            pass  # an operation that PyTorch differentiates backward alone
    return totals_by_feature(network, inputs, features, throughs)


@undisturbed()
def totals_by_layer(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and E_l of features of one layer, through one layer after another.

    E_l is the derivative of f along h, the through layer itself: forward differentiation gives it
    for all features in one pass.

    Args:
        network, inputs, features, throughs: as for `totals`.
    Returns:
        f, and E_l.
    Raises:
        NotImplementedError: an operation that PyTorch cannot differentiate forward.
    """
    target = network.run(inputs, features[0].layer).target
    activation = torch.stack([feature.read(target) for feature in features], 1)
    sums = [
        _slopes(network, inputs, features, name, lambda hidden: (hidden, hidden))
        for name in throughs
    ]
    return activation, torch.stack(sums, 2)


@undisturbed()
def totals_by_feature(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and E_l of features of one layer, through all layers in one forward pass.

    Each layer is multiplied by a number, one, for each image. The derivative of f by that number is
    the sum of the gradient times the layer: E itself, without S. One backward pass a feature gives
    it for all layers at once.

    Args:
        network, inputs, features, throughs: as for `totals`.
    Returns:
        f, and E_l.
    """
    ones: dict[str, Tensor] = {}

    def times_one(name: str, hidden: Tensor) -> Tensor:
        ones[name] = hidden.new_ones(len(hidden)).requires_grad_()
        return hidden * ones[name].view(-1, 1, 1, 1)

    record = network.record(
        inputs, targets=[features[0].layer], throughs=throughs, substitute=times_one
    )
    [target] = record.targets.values()
    factors = [ones[name] for name in throughs]
    activations, sums = [], []
    with torch.enable_grad():
        for number, feature in enumerate(features, 1):
            f = feature.read(target)
            # One backward pass for several features, batched, takes longer on a CPU.
            e = torch.autograd.grad(f.sum(), factors, retain_graph=number < len(features))
            activations.append(f.detach())
            sums.append(torch.stack(e, 1))
    return torch.stack(activations, 1), torch.stack(sums, 1)


@undisturbed()
def integrated_totals(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
    rule: IntegratedGradients,
    baselines: Mapping[str, Float[Tensor, "_ _ _"]],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and the sums of integrated gradients, through one layer after another.

    The sum of S is the mean derivative of f along the integration path from the baseline to h:
    forward differentiation gives it for all features in one pass a point.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: k features of one layer.
        throughs: l layers before it, or 'pixels'.
        rule: integrated gradients, with the number of points.
        baselines: by layer; zero for layers that are not in it.
    Returns:
        f, and E_l, the sum of S through each layer; both in units of the activation.
    Source: Sundararajan et al. (2017), eq. 1, summed over the layer.
    """
    target = network.run(inputs, features[0].layer).target
    activation = torch.stack([feature.read(target) for feature in features], 1)
    at_once = max(1, AT_ONCE // rule.steps)
    sums = [
        torch.cat(
            [
                _integrated_total(network, batch, features, name, rule, baselines.get(name))
                for batch in inputs.split(at_once)
            ]
        )
        for name in throughs
    ]
    return activation, torch.stack(sums, 2)


def _integrated_total(
    network: Network,
    inputs: Tensor,
    features: Sequence[Feature],
    through: str,
    rule: IntegratedGradients,
    baseline: Tensor | None,
) -> Float[Tensor, "n k"]:
    """E through one layer: all points of the integration path in one pass."""
    count = len(inputs)
    points = inputs.new_tensor(rule.path()[0]).view(-1, 1, 1, 1, 1)
    weights = inputs.new_tensor(rule.path()[1])

    def path(copies: Tensor) -> tuple[Tensor, Tensor]:
        hidden = copies[:count]
        start = torch.zeros_like(hidden[0]) if baseline is None else baseline
        change = hidden - start
        path = start + points * change
        return path.flatten(0, 1), change.expand(path.shape).flatten(0, 1)

    # As many copies as points from the start: a network may remember how many images came.
    copies = inputs.repeat(rule.steps, 1, 1, 1)
    slopes = _slopes(network, copies, features, through, path)
    return torch.einsum("s,snk->nk", weights, slopes.unflatten(0, (-1, count)))


def _slopes(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    through: str,
    along: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Float[Tensor, "n k"]:
    """Derivatives of features at some place, along some direction, of the through layer.

    Args:
        network, inputs, features: as for `totals`.
        through: the layer.
        along: from its maps the place and the direction.
    """

    def dual(hidden: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # torch's own, about what it does on the first call.
            warnings.simplefilter("ignore", DeprecationWarning)
            made: Tensor = forward.make_dual(*along(hidden))
        return made

    with forward.dual_level():
        target = network.run(inputs, features[0].layer, through, substitute=dual).target
        slopes = list[Tensor]()
        for feature in features:
            value, slope = forward.unpack_dual(feature.read(target))
            slopes.append(torch.zeros_like(value) if slope is None else slope)
        return torch.stack(slopes, 1)


@undisturbed()
def rule_totals(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
    rule: AttributionRule,
    baselines: Mapping[str, Float[Tensor, "_ _ _"]],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and the sums of S by any rule, through one layer after another.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: k features of one layer.
        throughs: l layers before it, or 'pixels'.
        rule: how S is computed.
        baselines: by layer; none for a rule that takes none.
    Returns:
        f, and E_l, the sum of S through each layer; both in units of the activation.
    """
    sums = []
    for name in throughs:
        results = attribute_each(
            network, inputs, features, name, rule=rule, baseline=baselines.get(name)
        )
        sums.append(torch.stack([x.window_attribution.flatten(1).sum(1) for x in results], 1))
    return torch.stack([x.activation for x in results], 1), torch.stack(sums, 2)
