"""What is done to an image before the network sees it, anew at each step."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from opponent.window import Window


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """A box of the image, scaled to the network's size, with noise.

    Args:
        smallest, largest: the box's side as a share of the image's.
        wander: standard deviation of the box's centre, as a share of the side.
        uniform: half the width of the uniform noise, for pixels in [0, 1].
        gaussian: standard deviation of the Gaussian noise.
        draws: how many boxes a step.
    Source: paper, section 4, for boxes and kinds of noise; the rest is ours.
    """

    smallest: float = 0.9
    largest: float = 0.99
    wander: float = 0.05
    uniform: float = 0.05
    gaussian: float = 0.05
    draws: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(
                f"boxes of {self.smallest} to {self.largest} of the image: give shares between 0 "
                "and 1, the smallest first"
            )

    def __call__(
        self,
        images: Float[Tensor, "n 3 h w"],
        size: tuple[int, int],
        generator: torch.Generator,
        window: Window | None = None,
    ) -> Float[Tensor, "m 3 y x"]:
        """`draws` views of each image, one draw after the other.

        Box and noise are drawn once for all images of a batch, so that none depends on the others.

        Args:
            images: what is seen.
            size: (height, width) of a view.
            generator: of boxes and noise.
            window: the part of each view that is wanted; None is all of it.
        """
        views = self.boxed(images, size, generator, window)
        # No more noise than is wanted: to draw a whole view's takes as long as its gradient.
        noise = self.noise((self.draws, 1, *views.shape[1:]), generator).to(views)
        noisy: Tensor = views.unflatten(0, (self.draws, -1)) + noise
        return noisy.flatten(0, 1)

    def boxed(
        self,
        images: Float[Tensor, "n 3 h w"],
        size: tuple[int, int],
        generator: torch.Generator,
        window: Window | None = None,
    ) -> Float[Tensor, "m 3 y x"]:
        """The views before noise is added; arguments as for these."""
        boxes = [self._box(images, generator) for _ in range(self.draws)]
        return torch.cat([resize(images, size, window, box) for box in boxes])

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise of both kinds; the generator's state after it does not depend on the shape."""
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator().manual_seed(seed)
        uniform = torch.rand(shape, generator=own) * 2 - 1
        return self.uniform * uniform + self.gaussian * torch.randn(shape, generator=own)

    def _box(self, images: Tensor, generator: torch.Generator) -> Window:
        share = self.smallest + (self.largest - self.smallest) * torch.rand((), generator=generator)
        centres = 0.5 + self.wander * torch.randn(2, generator=generator)
        sides, starts = [], []
        for length, centre in zip(images.shape[2:], centres.tolist(), strict=True):
            side = max(1, round(length * float(share)))
            sides.append(side)
            starts.append(min(max(round(length * centre - side / 2), 0), length - side))
        return Window.of([*starts, *sides])


def resize(
    images: Float[Tensor, "n 3 h w"],
    size: tuple[int, int],
    window: Window | None = None,
    box: Window | None = None,
) -> Float[Tensor, "n 3 y x"]:
    """Images, or a box of them, at another size, without aliasing; of it all, or a window."""
    box = box or Window.of([0, 0, *images.shape[2:]])
    if window is None:
        return F.interpolate(
            images[:, :, *box.slices], size, mode="bilinear", antialias=True, align_corners=False
        )
    # Each side is a linear map of its own.
    weights, needed = [], []
    for part, wanted, length in zip(box.slices, window.slices, size, strict=True):
        first, each = _weights(part.stop - part.start, length, wanted.start, wanted.stop)
        weights.append(each.to(images))
        needed.append(slice(part.start + first, part.start + first + each.shape[1]))
    return weights[0] @ images[:, :, *needed] @ weights[1].T


@lru_cache(maxsize=256)
def _weights(length: int, resized: int, start: int, stop: int) -> tuple[int, Float[Tensor, "y h"]]:
    """What the places from start to stop of a resized side take from the places of the side.

    Returns:
        The first place that they take anything from, and triangles, each of sum 1.
    """
    step = length / resized
    centres = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * step
    distance = (torch.arange(length, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    weights = (1 - distance / max(1, step)).clamp(min=0)
    weights /= weights.sum(1, keepdim=True)
    used = weights.any(0).nonzero().flatten()
    first, last = int(used[0]), int(used[-1])
    return first, weights[:, first : last + 1]
