"""Ways to take a feature's inhibition out of the through layer's output.

all              h where S >= 0, and 0 where S < 0
most             the same in the k channels that inhibit the feature most, a fixed set
random           the same in k of the channels that inhibit it, drawn at random
functional       h less z D of all latents and positions where S of the latent is negative
most-latents     the same for the k latents that inhibit the feature most
random-latents   the same for k of the latents that inhibit it, drawn at random
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.through_dictionary import Written

CHANNELS, LATENTS = ("all", "most", "random"), ("functional", "most-latents", "random-latents")


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One way to take inhibition away, of each of several features.

    Args:
        name: one of `CHANNELS` or `LATENTS`.
        draw: which draw, of those at random.
        members: for each feature the channels or latents that it is taken from; None is all.
    """

    name: str
    draw: int = 0
    members: tuple[tuple[int, ...], ...] | None = None

    @property
    def of_latents(self) -> bool:
        """Whether it takes latents away, and not channels."""
        return self.name in LATENTS

    @property
    def at_random(self) -> bool:
        """Whether its members are drawn."""
        return self.name.startswith("random")

    def of(self, feature: int) -> tuple[int, ...] | None:
        """The members for one feature.

        Args:
            feature: its number.
        """
        return None if self.members is None else self.members[feature]


def take_channels(
    hidden: Float[Tensor, "n k h w"],
    attribution: Float[Tensor, "n k h w"],
    members: Sequence[int] | None,
) -> Float[Tensor, "n k h w"]:
    """h with zeros where S is negative.

    Args:
        hidden: h.
        attribution: S of one feature.
        members: only in these channels; None is all.
    """
    inhibits = attribution < 0
    if members is not None:
        chosen = torch.zeros(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        chosen[torch.tensor(list(members), dtype=torch.long, device=hidden.device)] = True
        inhibits &= chosen.view(-1, 1, 1)
    return hidden.masked_fill(inhibits, 0)


def take_latents(
    hidden: Float[Tensor, "n k h w"],
    written: Written,
    attribution: Float[Tensor, "n l h w"],
    members: Sequence[int] | None,
) -> Float[Tensor, "n k h w"]:
    """h less what those latents add to it whose S is negative, position by position.

    Args:
        hidden: h.
        written: the same as a dictionary writes it.
        attribution: S of one feature over latents.
        members: only these latents; None is all.
    """
    codes, decoder = written.codes, written.dictionary.decoder
    if members is not None:
        rows = torch.tensor(list(members), dtype=torch.long, device=hidden.device)
        codes, attribution, decoder = codes[:, rows], attribution[:, rows], decoder[rows]
    taken = codes.masked_fill(attribution >= 0, 0)
    return hidden - torch.einsum("nlhw,lk->nkhw", taken, decoder)


def clamp_at_zero(
    changed: Float[Tensor, "n k h w"], hidden: Float[Tensor, "n k h w"]
) -> Float[Tensor, "n k h w"]:
    """h' with zero in place of what has become negative, and was not.

    Args:
        changed: h'.
        hidden: h.
    """
    return changed.masked_fill((changed < 0) & (hidden >= 0), 0)


def left_range(
    changed: Float[Tensor, "n k h w"], hidden: Float[Tensor, "n k h w"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """How much of h' has become negative, and was not: where a ReLU's output never is.

    Args:
        changed: h'.
        hidden: h.
    Returns:
        The share of the elements, and the sum of their sizes over the L1 norm of h.
    """
    below = ((changed < 0) & (hidden >= 0)).flatten(1)
    # Half precision does not hold sums over a layer.
    size = (changed.flatten(1).abs() * below).float().sum(1)
    norm = hidden.flatten(1).abs().float().sum(1)
    return below.float().mean(1), size / torch.where(norm > 0, norm, 1)


def choose_ablations(
    labels: Sequence[str],
    by_channel: Float[np.ndarray, "f k"],
    by_latent: Float[np.ndarray, "f l"] | None,
    k: int,
    draws: int,
    seed: int,
) -> list[Ablation]:
    """All ways, with the channels and latents that each takes from.

    Args:
        labels: the features'; sets at random are a feature's own, whichever others there are.
        by_channel: the mean inhibition of each feature by each channel, over its tense images.
        by_latent: the same by each latent; None without a dictionary.
        k: how many channels or latents a set has; fewer where fewer inhibit.
        draws: how many sets at random.
        seed: of the sets at random.
    """
    chosen = list[Ablation]()
    for names, means in ((CHANNELS, by_channel), (LATENTS, by_latent)):
        if means is None:
            continue
        whole, most, random = names
        chosen += [Ablation(name=whole), Ablation(name=most, members=_most(means, k))]
        chosen += [
            Ablation(
                name=random,
                draw=draw,
                members=tuple(
                    _drawn(values, k, [seed, names is LATENTS, zlib.crc32(label.encode()), draw])
                    for label, values in zip(labels, means, strict=True)
                ),
            )
            for draw in range(draws)
        ]
    return chosen


def _most(means: Float[np.ndarray, "f k"], k: int) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(-means, axis=1, kind="stable")[:, :k]
    return tuple(
        tuple(x for x in row.tolist() if values[x] > 0)
        for row, values in zip(order, means, strict=True)
    )


def _drawn(means: Float[np.ndarray, " k"], k: int, seeds: list[int]) -> tuple[int, ...]:
    """k of those that inhibit at all: of others nothing can be taken."""
    inhibiting, generator = np.flatnonzero(means > 0), np.random.default_rng(seeds)
    drawn = generator.choice(inhibiting, min(k, len(inhibiting)), replace=False)
    return tuple(sorted(drawn.tolist()))
