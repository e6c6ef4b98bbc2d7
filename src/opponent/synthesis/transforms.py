"""What is done to an image before the network sees it, anew at each step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from opponent.core.box import Box, bounding_box


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

    def draw(
        self,
        canvas: tuple[int, int],
        size: tuple[int, int],
        generator: torch.Generator,
        window: Box | None = None,
    ) -> tuple[Box, list[Box]]:
        """The boxes of a step.

        Args:
            canvas: (height, width) of the images.
            size: of a view.
            generator: of the boxes.
            window: the part of each view that is wanted; None is all of it.
        Returns:
            The part of the images that the views' parts show, and the boxes, counted from where it
            begins. They may reach beyond it.
        """
        boxes = [self._box(canvas, generator) for _ in range(self.draws)]
        seen = bounding_box([_seen(box, size, window) for box in boxes])
        return seen, [replace(x, top=x.top - seen.top, left=x.left - seen.left) for x in boxes]

    def __call__(
        self,
        images: Float[Tensor, "n 3 h w"],
        boxes: Sequence[Box],
        size: tuple[int, int],
        generator: torch.Generator,
        window: Box | None = None,
    ) -> Float[Tensor, "m 3 y x"]:
        """Views of each image, one box after the other, with noise.

        Box and noise are those of all images of a batch, so that none depends on the others.

        Args:
            images: the part of them that `draw` gave.
            boxes: as it gave them.
            size: (height, width) of a view.
            generator: of noise.
            window: the part of each view that is wanted; None is all of it.
        """
        views = torch.cat([resize(images, size, window, box) for box in boxes])
        # No more noise than is wanted: to draw a whole view's takes as long as its gradient.
        noise = self.noise((len(boxes), 1, *views.shape[1:]), generator).to(views)
        noisy: Tensor = views.unflatten(0, (len(boxes), -1)) + noise
        return noisy.flatten(0, 1)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise of both kinds; the generator's state after it does not depend on the shape."""
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator().manual_seed(seed)
        uniform = torch.rand(shape, generator=own) * 2 - 1
        return self.uniform * uniform + self.gaussian * torch.randn(shape, generator=own)

    def _box(self, canvas: tuple[int, int], generator: torch.Generator) -> Box:
        share = self.smallest + (self.largest - self.smallest) * torch.rand((), generator=generator)
        centres = 0.5 + self.wander * torch.randn(2, generator=generator)
        sides, starts = [], []
        for length, centre in zip(canvas, centres.tolist(), strict=True):
            side = max(1, round(length * float(share)))
            sides.append(side)
            starts.append(min(max(round(length * centre - side / 2), 0), length - side))
        return Box.of([*starts, *sides])


def resize(
    images: Float[Tensor, "n 3 h w"],
    size: tuple[int, int],
    window: Box | None = None,
    box: Box | None = None,
) -> Float[Tensor, "n 3 y x"]:
    """Images, or a box of them, at another size, without aliasing; of it all, or a window.

    With a window the box may reach beyond the images, where the window shows nothing of that.
    """
    box = box or Box.of([0, 0, *images.shape[2:]])
    if window is None:
        return F.interpolate(
            images[:, :, *box.slices], size, mode="bilinear", antialias=True, align_corners=False
        )
    # Each side is a linear map of its own.
    rows, columns = (x.to(images) for _, x in _sides(box, size, window))
    return rows @ images[:, :, *_seen(box, size, window).slices] @ columns.T


def _seen(box: Box, size: tuple[int, int], window: Box | None) -> Box:
    """What a window of a box at another size shows of the image."""
    if window is None:
        return box
    (top, rows), (left, columns) = _sides(box, size, window)
    return Box.of([box.top + top, box.left + left, rows.shape[1], columns.shape[1]])


def _sides(
    box: Box, size: tuple[int, int], window: Box
) -> tuple[tuple[int, Tensor], tuple[int, Tensor]]:
    (top, bottom), (left, right) = ((x.start, x.stop) for x in window.slices)
    return _weights(box.height, size[0], top, bottom), _weights(box.width, size[1], left, right)


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
