"""One side of S, as the direction that an inversion takes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.attribute import attribute
from opponent.attribution.rules import AttributionRule
from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.core.progress import silent
from opponent.core.side import Side
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan
from opponent.geometry.planning import plan_crop
from opponent.models.network import Network


@dataclass(frozen=True, kw_only=True)
class Targets:
    """For each image a direction of the through layer, within the window where S is not zero.

    Args:
        feature: what S explains, with its position written out.
        side: the side of S.
        plan: what a pass computes.
        direction: the directions.
        origin: what the layer is measured from: a dictionary's bias; None is zero.
    """

    feature: Feature
    side: Side
    plan: CropPlan
    direction: Float[Tensor, "n k y x"]
    origin: Float[Tensor, " k"] | None = None


def targets_in(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    feature: Feature | str,
    through: str,
    side: Side,
    *,
    rule: AttributionRule | str = "gradient",
    baseline: Float[Tensor, "k y x"] | None = None,
    dictionary: Dictionary | str | Path | None = None,
) -> Targets:
    """For each image one side of S, as a direction of the through layer.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        feature: the feature, or its name.
        through: the layer that it is explained through.
        side: the side of S.
        rule: how S is computed.
        baseline: the through layer's mean, for a rule that starts there.
        dictionary: of the through layer, or its file: S is then of its latents.
    Raises:
        EmptyTarget: that side of S is empty in an image.
        ValueError: a name, unit, position or dictionary that does not fit.
    """
    feature = network.resolve(feature)
    # Silent: it takes a hundredth of the time of what follows, which has a display.
    result = attribute(
        network, inputs, feature, through, rule=rule, baseline=baseline, dictionary=dictionary,
        progress=silent,
    )  # fmt: skip
    return targets_of(
        network,
        result.window_attribution,
        result.change,
        feature,
        through,
        side,
        dictionary=result.dictionary,
    )


def targets_of(
    network: Network,
    attribution: Float[Tensor, "n l y x"],
    change: Float[Tensor, "n l y x"] | None,
    feature: Feature,
    through: str,
    side: Side,
    *,
    dictionary: Dictionary | None = None,
) -> Targets:
    """One side of given S, as a direction of the through layer.

    Args:
        network: the network.
        attribution: S within the window, of channels or of latents.
        change: what S weighs: h less its baseline, or the code; None where it is >= 0.
        feature: what S explains, with its position written out.
        through: the layer that S belongs to.
        side: the side of S.
        dictionary: of the through layer, where S is of its latents.
    Raises:
        EmptyTarget: that side of an S is empty, or the latents' directions cancel.
        ValueError: an S is not finite.
    """
    direction = one_side(attribution, side, feature, through)
    if change is not None:
        # Where the layer lies under what S starts from (GELU, before a ReLU, a mean as the
        # baseline), growing drive means a more negative layer; so does a code below zero.
        direction = change.sign() * direction
    origin = None
    if dictionary is not None:
        direction = decoded(direction, dictionary)
        if not direction.flatten(1).any(1).all():
            raise EmptyTarget(
                f"the latents that drive {feature.label} on the side {side!r} cancel: they write "
                "opposite directions; take one side alone"
            )
        origin = dictionary.bias.to(network.device, network.dtype)
    return Targets(
        feature=feature,
        side=side,
        plan=plan_crop(network, [feature], through),
        direction=direction.to(network.device, network.dtype),
        origin=origin,
    )


def decoded(weights: Float[Tensor, "n l y x"], dictionary: Dictionary) -> Float[Tensor, "n k y x"]:
    """The direction in channels of weights on latents: their sum of unit vectors.

    A latent's decoder counts at unit length, as a channel's does: S_z stays the same where a
    decoder is twice as long and its code half as large, and so must the direction.

    Args:
        weights: one number a latent and position.
        dictionary: whose latents they are.
    Source: ours.
    """
    directions = dictionary.to(weights).directions
    return torch.einsum("nlyx,lk->nkyx", weights, directions).contiguous()


def one_side(
    attribution: Float[Tensor, "n k y x"], side: Side, feature: Feature, through: str
) -> Float[Tensor, "n k y x"]:
    """The positive part of S, the positive part of -S, or |S|; all >= 0.

    Args:
        attribution: S.
        side: which of them.
        feature: what S explains, for the message.
        through: the layer that S belongs to, for the message.
    Raises:
        EmptyTarget: that side of an S is empty, or the latents' directions cancel.
        ValueError: an S is not finite.
    Source: paper, section 4.
    """
    finite = attribution.flatten(1).isfinite().all(1)
    if not finite.all():
        wrong = ", ".join(map(str, (~finite).nonzero().flatten().tolist()))
        raise ValueError(
            f"S of {feature.label} through {through!r} is not finite in image {wrong} of "
            f"{len(attribution)} (counted from 0): there is no direction to invert"
        )
    both = side is Side.BOTH
    target = attribution.abs() if both else (side.sign * attribution).clamp(min=0)
    empty = (~target.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        verb = {"excitation": "excites", "inhibition": "inhibits", "both": "drives"}[side]
        raise EmptyTarget(
            f"nothing {verb} {feature.label} through {through!r} in image "
            f"{', '.join(map(str, empty))} of {len(target)} (counted from 0): there is no "
            "direction to invert"
        )
    return target
