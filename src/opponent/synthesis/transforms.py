"""Random views of the images, drawn at each step: boxes, resized, with noise."""

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
    """How views are drawn: a box of the image, resized to the network's input size, with noise.

    Args:
        smallest, largest: limits of the box's side, as shares of the image's side.
        wander: standard deviation of the box's centre, as a share of the image's side.
        uniform: half the width of the uniform noise, for pixels in [0, 1].
        gaussian: standard deviation of the Gaussian noise, for pixels in [0, 1].
        draws: number of boxes in a step.
    Raises:
        ValueError: a share is not between 0 and 1, or the largest is below the smallest.
    Source: paper, section 4, for boxes and kinds of noise; the rest is ours.

    >>> import opponent, torch
    >>> transforms = opponent.Transforms(draws=2)
    >>> generator = torch.Generator().manual_seed(0)
    >>> seen, boxes = transforms.draw((146, 146), (64, 64), generator)
    >>> image = torch.rand(1, 3, 146, 146, generator=generator)
    >>> transforms(image[:, :, *seen.slices], boxes, (64, 64), generator).shape
    torch.Size([2, 3, 64, 64])
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
        """Draw the boxes of a step.

        Args:
            canvas: (height, width) of the images.
            size: (height, width) of a view.
            generator: source of the boxes.
            window: the box of each view that is computed; None is the whole view.
        Returns:
            The box of the images that the windows show, and the drawn boxes relative to its top
            left corner. They may extend beyond it.
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
        """Views of the images, box after box, with noise.

        All images of a batch share boxes and noise, so that no image depends on the others.

        Args:
            images: the box of the images that `draw` returned.
            boxes: the boxes that `draw` returned.
            size: (height, width) of a view.
            generator: source of the noise.
            window: the box of each view that is computed; None is the whole view.
        Returns:
            The views of all images by the first box, then by the second, and so on.
        """
        views = torch.cat([resize(images, size, window, box) for box in boxes])
        # Only the window's noise: drawing that of a whole view takes as long as its gradient.
        noise = self.noise((len(boxes), 1, *views.shape[1:]), generator).to(views)
        noisy: Tensor = views.unflatten(0, (len(boxes), -1)) + noise
        return noisy.flatten(0, 1)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform plus Gaussian noise. The generator's next state does not depend on the shape.

        Args:
            shape: of the noise.
            generator: its source.
        """
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
    """Resize images, or a box of them, without aliasing.

    Args:
        images: the images.
        size: (height, width) of the result.
        window: the box of the result that is computed; None is all of it.
        box: the box of the images that is resized; None is all of them. With a window it may
            extend beyond the images, where the window does not show it.
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
    """The box of the image that a window of a resized box shows."""
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
    """Weights by which pixels from start to stop of a resized side sum pixels of the side.

    Returns:
        The first pixel with a weight, and for each resized pixel a triangle of weights of sum 1.
    """
    step = length / resized
    centres = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * step
    distance = (torch.arange(length, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    weights = (1 - distance / max(1, step)).clamp(min=0)
    weights /= weights.sum(1, keepdim=True)
    used = weights.any(0).nonzero().flatten()
    first, last = int(used[0]), int(used[-1])
    return first, weights[:, first : last + 1]
