"""An image parameterisation: a coarse grid of colours, smoothly enlarged."""

import torch
from torch import Tensor
from torch.nn import functional

import opponent


class Coarse(opponent.Parameterisation):
    """One colour for every eight pixels a side; images are smooth whatever is asked of them."""

    label = "coarse-8"
    step = 8

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        """Begin with faint noise, the same for all images."""
        self.size = size
        grid = (-(-size[0] // self.step), -(-size[1] // self.step))
        noise = 0.1 * torch.randn(1, 3, *grid, generator=generator)
        start = noise.expand(count, -1, -1, -1).clone().to(device)
        self.parameters = [start.requires_grad_()]

    def images(self, part: opponent.Box | None = None) -> Tensor:
        """The images, or a box of them, in [0, 1]."""
        [grid] = self.parameters
        images = functional.interpolate(grid, self.size, mode="bicubic").sigmoid()
        return images if part is None else images[:, :, *part.slices]
