"""What users write in a file of their own: rules, an image source, selections, an executor."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pickle import dumps, loads
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opponent import AttributionRule, Network, Segment


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(AttributionRule):
    """The mean gradient at h with noise added, times h. The noise is the same for all images."""

    copies: int = 3
    spread: float = 0.5
    seed: int = 0

    @property
    def label(self) -> str:
        return f"smoothgrad-{self.spread}/{self.copies}-{self.seed}"

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """What is added to maps of that shape, a copy after the other."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.spread * torch.randn(self.copies, *shape, generator=generator).to(like)

    def attribute(self, segment: Segment) -> Iterable[Tensor]:
        hidden = segment.hidden
        noise = self.noise(hidden.shape[1:], hidden)[:, None]
        noisy = segment.forward(
            lambda maps: (maps.unflatten(0, (self.copies, -1)) + noise).flatten(0, 1),
            copies=self.copies,
        )
        for gradient in noisy.gradients():
            yield gradient.unflatten(0, (self.copies, -1)).mean(0) * hidden


class PositiveGradient:
    """The positive task of the gradient, times h; a class that inherits from nothing."""

    label = "positive-gradient"
    needs_mean = False
    copies = 1

    def attribute(self, segment: Segment) -> list[Tensor]:
        hidden = segment.hidden
        return [gradient.clamp(min=0) * hidden for gradient in segment.unchanged.gradients()]


class FromMean(AttributionRule):
    """The gradient, times h less its mean over images."""

    label = "from-mean"
    needs_mean = True

    def attribute(self, segment: Segment) -> Iterable[Tensor]:
        assert segment.baseline is not None
        change = segment.hidden - segment.baseline
        return (gradient * change for gradient in segment.unchanged.gradients())


@dataclass
class InMemory:
    """An image source that holds arrays; what is no array cannot be read."""

    arrays: dict[str, Any]
    name: str = "in memory"

    def ids(self) -> list[str]:
        return list(self.arrays)

    def image(self, id: str) -> np.ndarray:
        if not isinstance(self.arrays[id], np.ndarray):
            raise ValueError("it is no picture")
        return self.arrays[id]


def noise_source(count: int = 7, *, size: tuple[int, int] = (20, 24)) -> InMemory:
    """Pictures of noise and, in the middle, one that cannot be read."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        f"class/{number}": generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        for number in range(count)
    }
    arrays[f"class/{count // 2}"] = None
    return InMemory(arrays)


@dataclass
class Workers:
    """An executor in this process: what it is given is pickled, as for processes elsewhere.

    Args:
        count: workers, among which tasks go round; the last task comes first.
        fails_after: tasks after which it fails.
    """

    count: int = 2
    fails_after: int | None = None
    checked: list[tuple[str, bool]] = field(default_factory=list)
    started: int = 0
    open: bool = False

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def check(self, network: Network, *, by_name: bool) -> None:
        self.checked.append((network.name, by_name))
        if network.dtype == torch.bfloat16:
            raise ValueError("these workers do not compute in bfloat16")

    def map(
        self, make: Callable[[], Callable[[Any], object]], tasks: Sequence[Any]
    ) -> Generator[Any, None, None]:
        self.open = True
        try:
            workers = [loads(dumps(make))() for _ in range(min(self.count, len(tasks)))]
            self.started += len(workers)
            for number, task in enumerate(reversed(tasks)):
                if number == self.fails_after:
                    raise ConnectionError("a worker is gone")
                workers[number % len(workers)](loads(dumps(task)))
                yield task
        finally:
            self.open = False
