"""A network of all that models are made of, and a watch on what a call leaves of one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from opponent import Network, Preprocessing

SMALL = Preprocessing(size=(11, 17))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights and statistics, from a seed of its own, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().eval()
        for name, value in module.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + ("var" in name) * 0.5)
    return module


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape or (2, 3, 11, 17), generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """One ReLU, in place and called twice, and a sum in place, as in torchvision's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.mean((1, 2, 3))


class Fuse(nn.Module):
    """Lets everything through, until it is told what to raise."""

    raises: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.raises is not None:
            raise self.raises
        return x


class Odd(nn.Module):
    """What models are made of: nesting, skips, tuples, parts never called, functions, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.block = Block()
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU()), nn.Dropout(0.5))
        self.pair, self.fuse = Pair(), Fuse()
        self.never = nn.Linear(6, 6)
        self.last = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.block(self.stem(x)))
        x, _ = self.pair(F.relu(x - 0.1))
        logits: Tensor = self.last(self.fuse(x).mean((2, 3)))
        return logits


def odd(**more: Any) -> Network:
    return Network(seeded(Odd), preprocessing=SMALL, **more)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a user could find changed."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lists = [(n, k, v) for n, m in model.named_modules() for k, v in vars(m).items() if "hook" in k]
    return {
        "values": {n: (id(t), t._version, t.detach().tolist()) for n, t in tensors.items()},
        "requires_grad": {n: t.requires_grad for n, t in tensors.items()},
        "grads": {
            n: None if t.grad is None else (id(t.grad), t.grad._version, t.grad.tolist())
            for n, t in tensors.items()
        },
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": [(name, key, list(value) if value else []) for name, key, value in lists],
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().tolist(),
        "dispatch": _get_current_dispatch_mode(),
    }


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    before = everything(model)
    try:
        yield
    finally:
        after = everything(model)
        assert [key for key in before if before[key] != after[key]] == []
