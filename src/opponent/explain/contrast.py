"""Two features of one layer at one place, and their difference, which is a direction as well."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.feature import Feature
from opponent.models.network import Network


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The feature that a first one is compared with, and what both give in one image.

    Args:
        feature: the second feature, with its position written out.
        meaning: what it stands for, where that is known: a logit's class.
        activations: of the first feature and of this one.
        rank: of this one among the answers, from 1, where it is a logit.

    >>> import opponent
    >>> from opponent.explain.contrast import Rival
    >>> feature = opponent.Feature.parse("logits:39")
    >>> Rival(feature=feature, meaning="iguana", activations=(2.0, 0.5), rank=None).title
    'logits:39 (iguana)'
    """

    feature: Feature
    meaning: str | None
    activations: tuple[float, float]
    rank: int | None

    @property
    def title(self) -> str:
        """The second feature's label and, where known, its meaning."""
        return named(self.feature, self.meaning)


def named(feature: Feature, meaning: str | None) -> str:
    """A feature's label and, where known, its meaning."""
    return f"{feature.label} ({meaning})" if meaning else feature.label


def rival_feature(network: Network, first: Feature, second: Feature | str) -> Feature:
    """The feature that a first one is compared with, checked to be of its layer and place.

    Args:
        network: the network.
        first: the first feature, with its position written out.
        second: the second one; without a position of its own, it is read at the first one's.
    Returns:
        The second feature, with its position written out.
    Raises:
        ValueError: it is of another layer, at another position or the same as the first; either has
            a cosine in its activation; a unit or position that does not fit.
    """
    second = Feature.of(second)
    if second.layer != first.layer:
        raise ValueError(
            f"{first.label} and {second.label} are of two layers and have no scale in common; "
            f"compare with a feature of {first.layer!r}"
        )
    if second.position is None and second.token is None:
        second = replace(second, position=first.position, token=first.token)
    second = network.resolve(second)
    if second.position != first.position:
        there = replace(second, position=first.position, token=first.token)
        raise ValueError(
            f"{first.label} and {second.label} are read at two places; compare with {there.label}"
        )
    for feature in (first, second):
        if feature.power:
            raise ValueError(
                f"the activation of {feature.label} has a cosine in it, which is not linear; "
                "compare plain dot products: leave the power out"
            )
    return second


def difference(network: Network, first: Feature, second: Feature) -> Feature:
    """The direction whose activation is the first feature's less the second's.

    S is linear in the activation, so that its S is the first one's less the second's, too.

    Args:
        network: the network.
        first, second: features of one layer at one place, without a cosine, positions written out.
    Returns:
        The direction, at their place.
    Raises:
        ValueError: both are the same direction.
    """
    channels = network.map_shape(first.layer)[0]
    vector = _weights(first, channels) - _weights(second, channels)
    if not vector.any():
        raise ValueError(
            f"{first.label} and {second.label} are the same feature; compare with another"
        )
    names = [x.name or "direction" if x.unit is None else str(x.unit) for x in (first, second)]
    direction = Feature.direction(
        first.layer, vector, name=" minus ".join(names), position=first.position
    )
    return replace(direction, token=first.token)


def _weights(feature: Feature, channels: int) -> Float[Tensor, " c"]:
    if feature.vector is not None:
        return torch.tensor(feature.vector, dtype=torch.float64)
    weights = torch.zeros(channels, dtype=torch.float64)
    weights[feature.unit] = 1
    return weights
