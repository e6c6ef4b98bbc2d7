"""Receptive fields found by brute force, and modules to build small networks of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

SIZE = (10, 13)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights from a seed of its own, in evaluation mode and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval().double()


def rand(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def rising(module: nn.Module) -> nn.Module:
    """Weights that are all positive, so that a pixel raised raises all that depends on it."""
    with torch.no_grad():
        for layer in module.modules():
            for name, value in [*layer.named_parameters(recurse=False)]:
                if value.ndim > 1:
                    value.copy_((0.5 + value.abs().clamp(max=1)) / value[0].numel())
                else:
                    value.fill_(1.0 if "weight" in name else 0.01)
    return module


def boxes(depends: Tensor) -> Tensor:
    """Extents of elements, from (c, h, w, rows, columns): which pixels each depends on."""
    extents = []
    for axis in (3, 4):
        along = depends.any(7 - axis)
        place = torch.arange(depends.shape[axis], dtype=torch.float64)
        for sign in (-1, 1):
            extents.append(torch.where(along, sign * place, -torch.inf).amax(-1))
    return torch.stack(extents)


def by_raising_pixels(run: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The box of every element, found by raising one position of the source after the other."""
    height, width = shape[1:]
    base = rand(1, *shape)
    # So far that the least weight of several layers lifts it over its neighbours in a pool.
    raised = base + 1e9 * torch.eye(height * width).view(-1, 1, height, width)
    with torch.no_grad():
        # One image and many are summed in another order: the last digit is no dependence.
        depends = run(raised) > run(base) + 1e-9
    return boxes(depends.permute(1, 2, 3, 0).unflatten(3, (height, width)))


class Parallel(nn.Module):
    """Branches side by side, each with half of the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Around(nn.Module):
    """A sum, in place, of a branch and what goes around it."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x
        return y


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def squeeze_excite(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).flip(1).sigmoid()


def torchvision_model(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    more = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    return models.get_model(name, weights=None, **more)


def timm_model(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name)
