"""What a network computes of made-up images: the same weights may go another way."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.models.network import Network

# How far two signatures may lie apart, relative to the size of the maps: where both come from a
# CPU, in which sums differ by their order alone; elsewhere, where convolutions may be in TF32; and
# in half precision. Ours.
_CPU, _ELSEWHERE, _HALF = 1e-4, 1e-2, 5e-2
# What the inputs of the last image are multiplied by. Ours.
_BEYOND = 8


def signature(
    network: Network, target: str, through: str | None = None, *, after: bool = False
) -> list[float]:
    """A few numbers of the maps that a network gives for three made-up images.

    Args:
        network: the network.
        target: the layer to stop at.
        through: a layer before it, whose map counts too.
        after: read the target at its output, even if it is an activation function.
    Returns:
        Of each image and map its root mean square, and its product with fixed numbers.
    Raises:
        ValueError: an unknown layer.
    """
    with torch.random.fork_rng(devices=[network.device] if network.device.type == "cuda" else []):
        torch.manual_seed(0)  # of a network that draws random numbers
        soft, hard = network.inputs(_images(network)).split(1)
        # The last one is beyond all photographs, where functions that cut off differ.
        result = network.run(torch.cat([soft, hard, _BEYOND * hard]), target, through, after=after)
    maps = [x for x in (result.through, result.target) if x is not None]
    return [number for each in maps for image in each for number in _numbers(image)]


def is_other(
    ours: Sequence[float], theirs: Sequence[float], *, on_cpu: bool, dtype: torch.dtype
) -> bool:
    """Whether two signatures are those of different computations.

    Args:
        ours, theirs: of the same layers.
        on_cpu: whether both were computed on a CPU.
        dtype: what both were computed in.
    """
    if len(ours) != len(theirs):
        return True
    half = torch.finfo(dtype).bits < 32
    apart = _HALF if half else _CPU if on_cpu else _ELSEWHERE
    sizes = np.repeat(np.maximum(ours[::2], theirs[::2]), 2)
    return bool((np.abs(np.subtract(ours, theirs)) > apart * sizes).any())


def _images(network: Network) -> np.ndarray:
    """Two images as files give them, the same for ever: noise, and that in black and white."""
    fit = network.preprocessing.fit
    height, width = fit.size
    # The only generator of numpy whose numbers are promised not to change.
    random = np.random.RandomState(0)
    coarse = random.rand(8, 8, fit.channels)
    rows, columns = (np.arange(n) * 8 // n for n in (height, width))
    soft = (coarse[rows][:, columns] + random.rand(height, width, fit.channels)) / 2
    both = np.stack([soft, soft > soft.mean()])
    return (255 * both).astype(np.uint8) if fit.in_bytes else both.astype(np.float32)


def _numbers(maps: Float[Tensor, "c h w"]) -> tuple[float, float]:
    values = maps.detach().flatten().cpu().double().nan_to_num(posinf=0.0, neginf=0.0)
    weights = torch.arange(len(values), dtype=torch.float64).mul(2.399963).cos()
    return float(values.square().mean().sqrt()), float((values @ weights) / len(values) ** 0.5)
