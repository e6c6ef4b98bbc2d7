"""What an image is optimised for."""

import torch
from jaxtyping import Float
from torch import Tensor

# A start that points away from the target still climbs; without it dot * cos = dot^2 / norms would
# reward pointing away. Source: as in Lucid's activation atlas objective.
LEAST_COSINE = 0.1


def dot_cosine(
    hidden: Float[Tensor, "n k h w"], target: Float[Tensor, "n k h w"], power: float = 1.0
) -> Float[Tensor, " n"]:
    """The dot product times a power of the cosine, clamped from below.

    Args:
        hidden: h, a layer's output.
        target: the direction that it should take, S's positive or negative part.
        power: p; 0 is the dot product alone.
    Returns:
        One value an image.
    Source: paper, eq. 5 and appendix C.
    """
    h, t = hidden.flatten(1), target.flatten(1)
    dot = (h * t).sum(1)
    if power == 0:
        return dot
    # A dead layer, all zero, has no direction; its dot product is zero as well.
    norms = (h.norm(dim=1) * t.norm(dim=1)).clamp(min=torch.finfo(h.dtype).tiny)
    weighted: Tensor = dot * (dot / norms).clamp(min=LEAST_COSINE) ** power
    return weighted
