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
        rows, columns = (slice(None), slice(None)) if window is None else window.slices
        views = []
        for _ in range(self.draws):
            view = resize(self._box(images, generator), size, window)
            # The window's noise is the same as in the whole.
            noise = torch.rand(1, 3, *size, generator=generator)[:, :, rows, columns] * 2 - 1
            normal = torch.randn(1, 3, *size, generator=generator)[:, :, rows, columns]
            views.append(view + (noise * self.uniform + normal * self.gaussian).to(view))
        return torch.cat(views)

    def _box(self, images: Tensor, generator: torch.Generator) -> Tensor:
        share = self.smallest + (self.largest - self.smallest) * torch.rand((), generator=generator)
        centres = 0.5 + self.wander * torch.randn(2, generator=generator)
        slices = []
        for length, centre in zip(images.shape[2:], centres.tolist(), strict=True):
            side = max(1, round(length * float(share)))
            start = min(max(round(length * centre - side / 2), 0), length - side)
            slices.append(slice(start, start + side))
        return images[:, :, *slices]


def resize(
    images: Float[Tensor, "n 3 h w"], size: tuple[int, int], window: Window | None = None
) -> Float[Tensor, "n 3 y x"]:
    """Images at another size, without aliasing; with a window, that part of the result alone."""
    if window is None:
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    # Each side is a linear map of its own.
    for axis, wanted, length in zip((2, 3), window.slices, size, strict=True):
        weights = _weights(images.shape[axis], length)[wanted]
        needed = weights.any(0).nonzero().flatten()
        first, last = int(needed[0]), int(needed[-1]) + 1
        weights = weights[:, first:last].to(images)
        images = images.narrow(axis, first, last - first)
        images = weights @ images if axis == 2 else images @ weights.T
    return images


@lru_cache(maxsize=128)
def _weights(length: int, resized: int) -> Float[Tensor, "y h"]:
    """What each place of a resized side takes from the places of the side."""
    each = torch.eye(length, dtype=torch.float64)[None, None]
    weights = F.interpolate(
        each, (resized, length), mode="bilinear", antialias=True, align_corners=False
    )
    return weights[0, 0]
