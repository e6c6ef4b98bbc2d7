"""S over the latents of a dictionary: one term a latent and position, the bias's and the rest's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.result import Attribution, energies
from opponent.attribution.segment import Segment
from opponent.core.feature import Feature
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan
from opponent.models.network import Network
from opponent.models.state import undisturbed

# Values of S over latents that are held at once: 256 MB in single precision.
_AT_ONCE = 2**26


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """Hidden vectors as a dictionary writes them: h = codes D + bias + rest.

    Args:
        dictionary: the dictionary, where the vectors are and in their type of numbers.
        codes: one number a latent and position.
        rest: what the dictionary leaves of each vector.
    """

    dictionary: Dictionary
    codes: Float[Tensor, "n l h w"]
    rest: Float[Tensor, "n k h w"]

    @classmethod
    def of(cls, hidden: Float[Tensor, "n k h w"], dictionary: Dictionary) -> "Written":
        """Write hidden vectors.

        Args:
            hidden: the through layer's output.
            dictionary: of that layer.
        Raises:
            ValueError: the dictionary is of another number of channels; it can write no negative
                value, and there are some.
        """
        moved = dictionary.to(hidden)
        if moved.never_negative and bool((hidden < 0).any()):
            raise ValueError(
                f"the layer's output is negative in places (down to {float(hidden.min()):.3g}), "
                "and a dictionary of non-negative directions and codes cannot write that; take a "
                "layer after a ReLU, or a dictionary of another kind, such as topk"
            )
        codes = moved.encode(hidden)
        rest = hidden - moved.bias.view(-1, 1, 1) - moved.decode(codes)
        return cls(dictionary=moved, codes=codes, rest=rest)

    def terms(
        self, gradient: Float[Tensor, "n k h w"]
    ) -> tuple[Float[Tensor, "n l h w"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """S over latents, the bias's term and the rest's; all sum to the gradient times h.

        Args:
            gradient: the derivative of the activation by h.
        Returns:
            S = (D df/dh) * z, and for each image df/dh * bias and df/dh * rest, summed.
        """
        pulled = torch.einsum("lk,nkhw->nlhw", self.dictionary.decoder, gradient)
        bias = torch.einsum("nkhw,k->n", gradient, self.dictionary.bias)
        return pulled * self.codes, bias, (gradient * self.rest).flatten(1).sum(1)


def attribute_written(
    network: Network,
    inputs: Tensor,
    features: Sequence[Feature],
    plan: CropPlan,
    dictionary: Dictionary,
) -> list[Attribution]:
    """Attribute one batch to a dictionary's latents.

    Args:
        network: the network.
        inputs: its own input.
        features: of one layer, with positions written out.
        plan: what a pass computes; it knows the features.
        dictionary: of the through layer.
    Returns:
        One result a feature.
    Source: paper, eq. 1, with latents for channels.
    """
    assert plan.through is not None
    assert plan.window is not None
    segment = Segment(network, inputs, plan, features, None)
    hidden = plan.within(segment.hidden)
    written = Written.of(hidden, dictionary)
    results = list[Attribution]()
    for feature, activation, gradient in zip(
        features, segment.unchanged.activations, segment.unchanged.gradients(), strict=True
    ):
        attribution, bias, rest = written.terms(plan.within(gradient.detach()))
        # It lies in memory as S over channels does, so that sums add in the same order.
        room = _room_like(gradient * segment.hidden, dictionary.latents)
        attribution = plan.within(room).copy_(attribution)
        results.append(
            Attribution(
                feature=feature,
                through=plan.through,
                activation=activation.detach().clone(),
                window_attribution=attribution,
                hidden=written.codes,
                window=plan.window,
                map_size=network.map_shape(plan.through)[1:],
                tokens=network.layers.tokens(plan.through),
                dictionary=dictionary,
                bias=bias,
                rest=rest,
            )
        )
    return results


class InChannels(NamedTuple):
    """What latents write, and what they leave, counted in channels, for each of n images.

    Args:
        written: the sums of the positive and of the negative part of df/dh * (D z), both >= 0.
        rest: those of df/dh * rest.
    """

    written: tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
    rest: tuple[Float[Tensor, " n"], Float[Tensor, " n"]]


@undisturbed()
def in_channels(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    feature: Feature,
    plan: CropPlan,
    dictionary: Dictionary,
) -> InChannels:
    """What a dictionary writes, and what it leaves, as excitation and inhibition of channels.

    A dictionary that leaves much removes tension by leaving it: what it leaves has both signs too.
    Only what it writes is counted in latents, so that tension in latents is to be compared with
    that of the same part in channels.

    Args:
        network: the network.
        inputs: its own input, of one image or more.
        feature: with its position written out.
        plan: what a pass computes; it knows the feature.
        dictionary: of the through layer.
    Returns:
        Both; excitation less inhibition of the rest is the rest's term, and of what is written the
        sum of S over latents.
    """
    parts = list[tuple[Tensor, ...]]()
    for batch in inputs.split(images_at_once(dictionary, plan)):
        segment = Segment(network, batch, plan, [feature], None)
        hidden = plan.within(segment.hidden)
        written = Written.of(hidden, dictionary)
        bias = written.dictionary.bias.view(-1, 1, 1)
        [gradient] = segment.unchanged.gradients()
        gradient = plan.within(gradient.detach())
        of_latents = energies(gradient * (hidden - bias - written.rest))
        parts.append((*of_latents, *energies(gradient * written.rest)))
    plus, minus, rest_plus, rest_minus = map(torch.cat, zip(*parts, strict=True))
    return InChannels(written=(plus, minus), rest=(rest_plus, rest_minus))


def _room_like(maps: Float[Tensor, "n k h w"], latents: int) -> Float[Tensor, "n l h w"]:
    """Zeros of another number of channels, which lie in memory in the same order."""
    last = torch.channels_last
    swapped = maps.is_contiguous(memory_format=last) and not maps.is_contiguous()
    room = maps.new_zeros(len(maps), latents, *maps.shape[2:])
    return room.contiguous(memory_format=last) if swapped else room


def check_dictionary(network: Network, dictionary: Dictionary, through: str) -> None:
    """Check that a dictionary is one of a layer.

    Args:
        network: the network.
        dictionary: the dictionary.
        through: the layer.
    Raises:
        ValueError: it is of another layer, or of another number of channels.
    """
    if dictionary.layer not in (None, through):
        raise ValueError(
            f"the dictionary is of {dictionary.layer!r}, not of {through!r}; explain the feature "
            f"through {dictionary.layer!r}, or give a dictionary of {through!r}"
        )
    channels = network.map_shape(through)[0]
    if dictionary.channels != channels:
        raise ValueError(
            f"the dictionary is of {dictionary.channels} channels, and {through!r} has {channels}; "
            "give one that was learnt from that layer of this network"
        )


def images_at_once(dictionary: Dictionary, plan: CropPlan) -> int:
    """How many images go together, so that S over latents stays within bounds.

    Args:
        dictionary: the dictionary.
        plan: whose window S lies in.
    """
    assert plan.window is not None
    return max(1, _AT_ONCE // (dictionary.latents * plan.window.height * plan.window.width))
