"""A rule of attribution: the mean gradient over noisy copies of h, times h.

Source: Smilkov et al. (2017), with the gradient multiplied by h.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import opponent


@dataclass(frozen=True)
class SmoothGrad(opponent.AttributionRule):
    """Noise of a share of h's largest value is added to h before each gradient is taken."""

    noise: float = 0.1
    draws: int = 8
    seed: int = 0

    @property
    def label(self) -> str:
        """Names the rule in files: other numbers, another label."""
        return f"smoothgrad-{self.noise:g}/{self.draws}/{self.seed}"

    @property
    def copies(self) -> int:
        """How many copies of each image go through at once."""
        return self.draws

    def attribute(self, segment: opponent.Segment) -> Iterable[Tensor]:
        """S of each of the segment's features."""
        hidden = segment.hidden
        generator = torch.Generator().manual_seed(self.seed)
        # The same noise for every image: results do not depend on what else is in the batch.
        noise = torch.randn(self.draws, 1, *hidden.shape[1:], generator=generator).to(hidden)
        largest = hidden.amax((1, 2, 3), keepdim=True)
        noisy = (hidden + self.noise * largest * noise).flatten(0, 1)
        for gradient in segment.forward(lambda _: noisy, copies=self.draws).gradients():
            yield gradient.unflatten(0, (self.draws, -1)).mean(0) * hidden
