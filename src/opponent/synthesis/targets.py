"""One side of S, as the direction that an inversion takes."""

from jaxtyping import Float
from torch import Tensor

from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.core.side import Side


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
        EmptyTarget: that side of an S is empty.
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
