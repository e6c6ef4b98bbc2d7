"""What the objectives of an inversion reward: the paper's figure 11."""

import torch
from jaxtyping import Float
from numpy import ndarray
from torch.nn import functional as F

from opponent.synthesis.objectives import dot_cosine

# Half the side of figure 11's plane, in lengths of v.
EXTENT = 2.0


def objective_planes(size: int = 401) -> dict[str, Float[ndarray, "n n"]]:
    """The objectives' values at each hidden vector h of a plane, for v = (1, 0).

    Args:
        size: points a side, from -EXTENT to EXTENT.
    Returns:
        By the objective's name, rows of y from -EXTENT to EXTENT.
    Source: paper, appendix C and figure 11.
    """
    line = torch.linspace(-EXTENT, EXTENT, size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    hidden = torch.stack([x.ravel(), y.ravel()], 1)
    target = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand_as(hidden)
    powers = {"dot": 0.0, "dot × cosine": 1.0, "dot × cosine²": 2.0}
    maps = (hidden[:, :, None, None], target[:, :, None, None])
    planes = {name: dot_cosine(*maps, power) for name, power in powers.items()}
    planes["cosine"] = F.cosine_similarity(hidden, target)
    order = ("dot", "cosine", "dot × cosine", "dot × cosine²")
    return {name: planes[name].view(size, size).numpy() for name in order}
