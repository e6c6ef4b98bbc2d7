"""Dictionaries of random numbers."""

from typing import Any

import torch
from torch import Tensor

from opponent import Dictionary


def made(kind: Any, latents: int = 7, channels: int = 4, seed: int = 0, **other: Any) -> Dictionary:
    """A dictionary of random numbers, in double precision."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {
        "decoder": numbers(latents, channels),
        "bias": numbers(channels),
        "encoder": None if kind == "nonnegative" else numbers(latents, channels),
        "encoder_bias": numbers(latents) * (kind != "nonnegative"),
        "active": 3 if kind == "topk" else None,
    }
    return Dictionary(kind=kind, **(values | other))
