"""What is optimised in place of pixels, and how it becomes an image.

A parameterisation holds tensors to optimise and gives images in [0, 1]. All images of a batch start
from the same noise, so that none depends on what else is in the batch.
"""

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.synthesis.spectrum import photographs

# Black and white have no logit: half a step of 8 bits away from them.
EDGE = 0.5 / 255


class Parameterisation(ABC):
    """Tensors to optimise, and the images that they stand for."""

    parameters: list[Tensor]

    @abstractmethod
    def images(self) -> Float[Tensor, "n 3 h w"]:
        """The images, in [0, 1], with a graph to the parameters."""


@lru_cache(maxsize=4)
def _magnitude(height: int, width: int) -> Float[Tensor, "3 h w"]:
    return photographs().magnitude(height, width)


def _recolour(plain: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    matrix = plain.new_tensor(photographs().recolour)
    return torch.einsum("ij,njhw->nihw", matrix, plain)


class _Polar(torch.autograd.Function):
    """Complex numbers from magnitude and phase, differentiated by the phase.

    `torch.polar` does the same, but on processors one number at a time.
    """

    @staticmethod
    def forward(ctx: Any, magnitude: Tensor, phase: Tensor) -> Tensor:
        found = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        [found] = ctx.saved_tensors
        return None, found.real * gradient.imag - found.imag * gradient.real


class _Squashed(torch.autograd.Function):
    """Each image's values, of mean 0, with standard deviation 1, through a sigmoid."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        # In two steps: a norm adds one square after the other, and loses digits over a million.
        rows = torch.linalg.vector_norm(values, dim=3, keepdim=True)
        deviation = torch.linalg.vector_norm(rows, dim=(1, 2, 3), keepdim=True)
        deviation /= math.sqrt(values[0].numel())
        standard = values / deviation
        found: Tensor = standard.sigmoid()
        ctx.save_for_backward(standard, found, deviation)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        standard, found, deviation = ctx.saved_tensors
        inner: Tensor = torch.ops.aten.sigmoid_backward(gradient, found)
        along = (inner * standard).mean((1, 2, 3), keepdim=True)
        inner.addcmul_(standard, along, value=-1)
        inner /= deviation
        return inner


def _leaf(values: Tensor, count: int) -> Tensor:
    return values.expand(count, *values.shape[1:]).clone().requires_grad_()


@final
class Phases(Parameterisation):
    """Phases are optimised; magnitudes stay those of photographs.

    Args:
        count, size: how many images, and their (height, width).
        generator: gives the first phases, uniform over the circle.
        device: where to compute.
    Source: MACO (Fel et al., 2023), section 3.2; paper, section 4.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = size
        self.magnitude = _magnitude(*size).to(device)
        # Those of white noise: a real image's first and last columns mirror themselves, and phases
        # that do not would cost magnitude.
        phase = torch.fft.rfft2(torch.randn(1, 3, *size, generator=generator)).angle()
        self.parameters = [_leaf(phase.to(device), count)]

    def images(self) -> Float[Tensor, "n 3 h w"]:
        """Images whose logits have mean 0 and standard deviation 1."""
        spectrum = _Polar.apply(self.magnitude, self.parameters[0])  # type: ignore[no-untyped-call]
        logits = _recolour(torch.fft.irfft2(spectrum, s=self.size))
        squashed: Tensor = _Squashed.apply(logits)  # type: ignore[no-untyped-call]
        return squashed


@final
class Photographs(Parameterisation):
    """Starts as photographs: their phases change, and a gate on each frequency's magnitude.

    A gate lies between 0 and 2, starts at 1 and is shared by the three colours.

    Args:
        photographs: in [0, 1].
    Source: paper, section 4 (accentuation).
    """

    def __init__(self, photographs: Float[Tensor, "n 3 h w"]) -> None:
        self.size = (photographs.shape[2], photographs.shape[3])
        spectrum = torch.fft.rfft2(torch.logit(photographs, eps=EDGE))
        self.magnitude = spectrum.abs()
        gates = torch.zeros_like(self.magnitude[:, :1])
        self.parameters = [spectrum.angle().requires_grad_(), gates.requires_grad_()]

    def images(self) -> Float[Tensor, "n 3 h w"]:
        """The photographs as they have become."""
        phases, gates = self.parameters
        spectrum = torch.polar(self.magnitude * (2 * torch.sigmoid(gates)), phases)
        return torch.sigmoid(torch.fft.irfft2(spectrum, s=self.size))


@final
class Fourier(Parameterisation):
    """Real and imaginary parts are optimised, scaled by the magnitudes of photographs.

    Source: Olah, Mordvintsev & Schubert (2017), preconditioning.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = size
        magnitude = _magnitude(*size)
        # Logits of a faint start have a standard deviation of about a tenth.
        power = magnitude.square().sum() * 2 / (size[0] * size[1]) ** 2 / 3
        self.scale = (magnitude / power.sqrt())[..., None].to(device)
        noise = torch.randn(1, *magnitude.shape, 2, generator=generator) * 0.1
        self.parameters = [_leaf(noise.to(device), count)]

    def images(self) -> Float[Tensor, "n 3 h w"]:
        """The images that the coefficients stand for."""
        spectrum = torch.view_as_complex(self.parameters[0] * self.scale)
        return torch.sigmoid(_recolour(torch.fft.irfft2(spectrum, s=self.size)))


@final
class Pixels(Parameterisation):
    """Logits of pixels are optimised directly, from faint grey noise."""

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        noise = torch.randn(1, 3, *size, generator=generator) * 0.1
        self.parameters = [_leaf(noise.to(device), count)]

    def images(self) -> Float[Tensor, "n 3 h w"]:
        """The images that the logits stand for."""
        return torch.sigmoid(self.parameters[0])


PARAMETERISATIONS: dict[str, type[Phases | Fourier | Pixels]] = {
    "phases": Phases,
    "fourier": Fourier,
    "pixels": Pixels,
}
