"""Files of random weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def drawn(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a module's names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator).to(value.dtype)
        for name, value in module.state_dict().items()
    }


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU())


def write(file: Path, weights: Any) -> Path:
    """A file of weights, in the format that its suffix says."""
    if file.suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file
