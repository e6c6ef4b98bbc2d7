"""Plain reverse mode for the tests of the walk through the Jacobian, and small networks."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opponent.attribution.jacobian import excitation_inhibition_l2, jacobian_blocks
from opponent.attribution.jacobian_block import Cache, JacobianBlock

Function = Callable[[Tensor], Tensor]
N, CHANNELS, HEIGHT, WIDTH = 3, 4, 9, 12


def rand(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights, batch norm with statistics, in evaluation mode and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().eval().double()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                if layer.affine:
                    nn.init.normal_(layer.weight)
    return module


def one_by_one(target: Tensor, leaf: Tensor, directions: Tensor, at: tuple[int, int]) -> Tensor:
    """(n, u, c, h, w): plain reverse mode, a feature after the other."""
    gradients = []
    for direction in directions:
        value = (target[:, :, *at] @ direction).sum()
        gradient = None
        if value.requires_grad:
            [gradient] = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        gradients.append(torch.zeros_like(leaf) if gradient is None else gradient)
    return torch.stack(gradients, 1)


def dense(blocks: Sequence[JacobianBlock], like: Tensor, count: int) -> Tensor:
    """Blocks laid into the whole Jacobian, (n, u, c, h, w)."""
    n, c, h, w = like.shape
    jacobian = torch.zeros(n, count, h, w, c, dtype=like.dtype)
    seen: list[int] = []
    for block in blocks:
        units = block.units.tolist()
        seen += units
        assert units == sorted(set(units))
        y, x = block.derivatives.shape[2:4]
        assert min(block.top, block.left) >= 0
        assert block.top + y <= h
        assert block.left + x <= w
        box = slice(block.top, block.top + y), slice(block.left, block.left + x)
        jacobian[:, block.units, *box] = block.derivatives.expand(n, *block.derivatives.shape[1:])
    assert len(seen) == len(set(seen))
    return jacobian.permute(0, 1, 4, 2, 3)


def compare(
    function: Function, hidden: Tensor, *, at: tuple[int, int] | None = None, units: bool = True
) -> None:
    """The walk, the sums of its derivatives, and two calls with one cache, against reverse mode."""
    leaf = hidden.clone().requires_grad_()
    target = function(leaf.clone())
    target = target if target.ndim == 4 else target[:, :, None, None]
    at = at or (target.shape[2] // 2, target.shape[3] // 2)
    width = target.shape[1]
    directions = torch.eye(width, dtype=hidden.dtype) if units else rand(3, width, seed=9)
    expected = one_by_one(target, leaf, directions, at)
    blocks = jacobian_blocks(target, leaf, directions, at)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    close(dense(blocks, hidden, len(directions)), expected)
    s = (expected * hidden[:, None]).flatten(2)
    slow = torch.stack([s.clamp(min=0).sum(2), (-s).clamp(min=0).sum(2), s.norm(dim=2)], 2)
    last = hidden.permute(0, 2, 3, 1).contiguous()
    close(excitation_inhibition_l2(blocks, last, len(directions)), slow)
    cache: Cache = {}
    halves = [
        dense(jacobian_blocks(target, leaf, half, at, cache), hidden, len(half))
        for half in directions.split(-(-len(directions) // 2))
    ]
    close(torch.cat(halves, 1), expected)


def places(function: Function, hidden: Tensor) -> list[tuple[int, int]]:
    """The centre and two corners of what a function gives."""
    shape = function(hidden.clone()).shape
    h, w = shape[2:] if len(shape) == 4 else (1, 1)
    return sorted({(h // 2, w // 2), (0, w - 1), (h - 1, 0)})


@cache
def conv(inputs: int, outputs: int, *size: Any, seed: int = 0, **named: Any) -> nn.Module:
    return seeded(lambda: nn.Conv2d(inputs, outputs, *size, **named), seed)


BEFORE = seeded(lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()), 7)


def around(function: Function) -> list[Function]:
    """An operation alone, before linear and nonlinear layers, and after some."""

    def linear(x: Tensor) -> Tensor:
        x = function(x)
        return conv(x.shape[1], 5, (2, 3), padding=1, seed=5)(x) if x.ndim == 4 else x

    def nonlinear(x: Tensor) -> Tensor:
        x = F.gelu(linear(x))
        return conv(x.shape[1], 5, 3, padding=1, seed=3)(x) if x.ndim == 4 else x

    return [function, linear, nonlinear, lambda x: linear(BEFORE(x))]


class Residual(nn.Module):
    """A sum, in place, of a branch and what goes around it."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(inplace=True),
            nn.Conv2d(CHANNELS, CHANNELS, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x
        return F.relu_(y)


class Branches(nn.Module):
    """A block of four branches: one has several layers, one comes after the first branch."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(CHANNELS, 2, 1)
        self.wide = nn.Sequential(
            nn.Conv2d(CHANNELS, 3, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, (3, 5), padding=(1, 2)),
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(CHANNELS, 1, 1))
        self.more = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.narrow(x)
        branches = [first, self.wide(x), self.pool(x), self.more(F.relu(first))]
        return F.relu_(torch.cat(branches, 1))
