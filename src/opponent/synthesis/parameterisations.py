"""What is optimised in place of pixels: the built-in parameterisations, and the protocol.

A parameterisation holds the tensors that are optimised and turns them into images in [0, 1]. All
images of a batch start from the same noise, so that no image depends on the rest of the batch.
"""

from functools import lru_cache
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from opponent.core.box import Box
from opponent.core.plugins import load_object, names_object
from opponent.synthesis.spectrum import photographs

# Black and white have no logit: half a step of 8 bits away from them.
EDGE = 0.5 / 255


@runtime_checkable
class Parameterisation(Protocol):
    """Tensors to optimise, and the images that they stand for.

    A user's class with these members, and the constructor of `ParameterisationClass`, can be given
    as `SynthesisSettings.parameterisation`.

    >>> import opponent, torch
    >>> class Grey:
    ...     label = "grey"
    ...     def __init__(self, count, size, *, generator, device="cpu"):
    ...         noise = torch.randn(1, 1, *size, generator=generator).expand(count, -1, -1, -1)
    ...         self.size, self.parameters = size, [noise.clone().to(device).requires_grad_()]
    ...     def images(self, box=None):
    ...         box = box or opponent.Box.of([0, 0, *self.size])
    ...         return torch.sigmoid(self.parameters[0])[:, :, *box.slices].expand(-1, 3, -1, -1)
    >>> settings = opponent.SynthesisSettings(steps=2, parameterisation=Grey)
    >>> opponent.visualise("inceptionv1-small", "mixed3b:189", settings=settings)
    Synthesis('mixed3b:189@7,7', excitation: 1 image of 256 x 256)
    """

    parameters: list[Tensor]
    """What Adam changes: leaves that require gradients, with the images as their first axis."""
    size: tuple[int, int]
    """(height, width) of the images."""

    def images(self, box: Box | None = None) -> Float[Tensor, "n 3 y x"]:
        """The images, or a box of them, in [0, 1], with the graph to the parameters.

        Args:
            box: in pixels of the images; None is all of them.
        """
        ...


@runtime_checkable
class ParameterisationClass(Protocol):
    """The constructor of a parameterisation: a class, or a function with the same arguments.

    Its name in files is its module and name, or its `label` where it has one. Parameterisations
    that differ need different labels.
    """

    def __call__(
        self,
        count: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> Parameterisation:
        """Start from noise.

        Args:
            count: number of images, all with the same noise.
            size: (height, width) of the images.
            generator: source of the noise.
            device: where the tensors lie.
        """
        ...


# Half spectra are stored with their columns last: each column is transformed by itself, and then
# only the rows that are wanted.


@lru_cache(maxsize=4)
def _magnitude(height: int, width: int) -> Float[Tensor, "3 k h"]:
    return photographs().magnitude(height, width).mT.contiguous()


def _spectrum(images: Float[Tensor, "n 3 h w"]) -> Complex[Tensor, "n 3 k h"]:
    spectrum: Tensor = torch.fft.rfft2(images).mT.contiguous()
    return spectrum


def _inverse(
    columns: Complex[Tensor, "n 3 k h"], size: tuple[int, int], box: Box | None
) -> Float[Tensor, "n 3 y x"]:
    """The images, or a box of them, from half spectra after `torch.fft.ifft` of the columns."""
    down, across = (box or Box.of([0, 0, *size])).slices
    images: Tensor = torch.fft.irfft(columns[..., down], n=size[1], dim=2)[:, :, across].mT
    return images


def _recolour(plain: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    matrix = plain.new_tensor(photographs().recolour)
    return torch.einsum("ij,njhw->nihw", matrix, plain)


class _Polar(torch.autograd.Function):
    """Complex numbers from magnitude and phase, differentiated by the phase.

    `torch.polar` does the same, but on CPUs it takes one number at a time.
    """

    @staticmethod
    def forward(ctx: Any, magnitude: Tensor, phase: Tensor) -> Tensor:
        values = torch.complex(phase.cos().mul_(magnitude), phase.sin().mul_(magnitude))
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        [values] = ctx.saved_tensors
        return None, values.real * gradient.imag - values.imag * gradient.real


class _Deviation(torch.autograd.Function):
    """The standard deviation of recoloured images of mean 0, from columns as `_inverse` has them.

    By Parseval's theorem. Inner frequencies count twice. Of the first (and the last, if the width
    is even) only the real part counts, as in the inverse transform.
    """

    @staticmethod
    def forward(ctx: Any, columns: Tensor, width: int) -> Tensor:
        plain = torch.view_as_real(columns)
        ctx.step = width if width % 2 else columns.shape[2] - 1
        real, imaginary = plain[:, :, :: ctx.step].unbind(4)
        products = 2 * _products(plain.flatten(3)) - _products(real) - 2 * _products(imaginary)
        matrix = plain.new_tensor(photographs().recolour)
        # One element a colour and pixel.
        weights = (matrix.T @ matrix) / (3 * columns.shape[3] * width**2)
        deviation = (products * weights).sum((1, 2)).sqrt()
        ctx.save_for_backward(columns, weights, deviation)
        return deviation.view(-1, 1, 1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        columns, weights, deviation = ctx.saved_tensors
        scaled = (2 * gradient.flatten() / deviation).view(-1, 1, 1) * weights
        slope = (scaled @ torch.view_as_real(columns).flatten(2)).view(*columns.shape, 2)
        slope[:, :, :: ctx.step] *= slope.new_tensor([0.5, 0.0])
        return torch.view_as_complex(slope), None


def _products(values: Float[Tensor, "n 3 k h"]) -> Float[Tensor, "n 3 3"]:
    """The sums of all products of two colours."""
    lines = values.transpose(1, 2)
    # Line by line: a single sum adds product after product, and loses digits over a million.
    return (lines @ lines.mT).sum(1)


def _leaf(values: Tensor, count: int) -> Tensor:
    return values.expand(count, *values.shape[1:]).clone().requires_grad_()


@final
class Phases(Parameterisation):
    """Phases are optimised; magnitudes stay those of photographs.

    Args:
        count: number of images.
        size: (height, width) of the images.
        generator: source of the first phases, uniform over the circle.
        device: where the tensors lie.
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
        # The phases of white noise: a real image's first and last columns mirror themselves, and
        # phases that do not would lose magnitude.
        phase = _spectrum(torch.randn(1, 3, *size, generator=generator)).angle()
        self.parameters = [_leaf(phase.to(device), count)]

    def images(self, box: Box | None = None) -> Float[Tensor, "n 3 y x"]:
        """Images whose logits have mean 0 and standard deviation 1, or a box of them."""
        spectrum = _Polar.apply(self.magnitude, self.parameters[0])  # type: ignore[no-untyped-call]
        columns = torch.fft.ifft(spectrum)
        deviation = _Deviation.apply(columns, self.size[1])  # type: ignore[no-untyped-call]
        return torch.sigmoid(_recolour(_inverse(columns, self.size, box)) / deviation)


@final
class Photographs(Parameterisation):
    """Photographs: their phases are optimised, and a gate on each frequency's magnitude.

    A gate lies between 0 and 2, starts at 1 and is shared by the three colours.

    Args:
        photographs: in [0, 1].
    Source: paper, section 4 (accentuation).
    """

    def __init__(self, photographs: Float[Tensor, "n 3 h w"]) -> None:
        self.size = (photographs.shape[2], photographs.shape[3])
        spectrum = _spectrum(torch.logit(photographs, eps=EDGE))
        self.magnitude = spectrum.abs()
        gates = torch.zeros_like(self.magnitude[:, :1])
        self.parameters = [spectrum.angle().requires_grad_(), gates.requires_grad_()]

    def images(self, box: Box | None = None) -> Float[Tensor, "n 3 y x"]:
        """The changed photographs, or a box of them."""
        phases, gates = self.parameters
        spectrum = torch.polar(self.magnitude * (2 * torch.sigmoid(gates)), phases)
        return torch.sigmoid(_inverse(torch.fft.ifft(spectrum), self.size, box))


@final
class Fourier(Parameterisation):
    """Real and imaginary parts are optimised, scaled by the magnitudes of photographs.

    Args:
        count: number of images.
        size: (height, width) of the images.
        generator: source of the faint noise at the start.
        device: where the tensors lie.
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

    def images(self, box: Box | None = None) -> Float[Tensor, "n 3 y x"]:
        """The images of the coefficients, or a box of them."""
        spectrum = torch.view_as_complex(self.parameters[0] * self.scale)
        return torch.sigmoid(_recolour(_inverse(torch.fft.ifft(spectrum), self.size, box)))


@final
class Pixels(Parameterisation):
    """Logits of pixels are optimised directly.

    Args:
        count: number of images.
        size: (height, width) of the images.
        generator: source of the faint grey noise at the start.
        device: where the tensors lie.
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
        noise = torch.randn(1, 3, *size, generator=generator) * 0.1
        self.parameters = [_leaf(noise.to(device), count)]

    def images(self, box: Box | None = None) -> Float[Tensor, "n 3 y x"]:
        """The images of the logits, or a box of them."""
        [logits] = self.parameters
        return torch.sigmoid(logits if box is None else logits[:, :, *box.slices])


PARAMETERISATIONS: dict[str, ParameterisationClass] = {
    "phases": Phases,
    "fourier": Fourier,
    "pixels": Pixels,
}


def parse_parameterisation(parameterisation: ParameterisationClass | str) -> ParameterisationClass:
    """The parameterisation itself, or that of a name.

    Args:
        parameterisation: a class, 'phases', 'fourier', 'pixels', or 'module:PACKAGE.MODULE:NAME'.
    Raises:
        ValueError: the name is unknown.
    """
    if not isinstance(parameterisation, str):
        return parameterisation
    if names_object(parameterisation):
        own = load_object(parameterisation)
        if not callable(own):
            raise ValueError(f"{parameterisation!r} cannot be called with a number and a size")
        return own
    if parameterisation not in PARAMETERISATIONS:
        raise ValueError(
            f"no parameterisation {parameterisation!r}; there are {', '.join(PARAMETERISATIONS)}"
        )
    return PARAMETERISATIONS[parameterisation]


def parameterisation_label(parameterisation: ParameterisationClass | str) -> str:
    """A parameterisation's name in files: its own `label`, or its module and name.

    Args:
        parameterisation: as for `parse_parameterisation`.
    Raises:
        ValueError: it has neither, such as a lambda or a `functools.partial`.
    """
    chosen = parse_parameterisation(parameterisation)
    for name, known in PARAMETERISATIONS.items():
        if known is chosen:
            return name
    label = getattr(chosen, "label", None)
    if isinstance(label, str):
        return label
    name = getattr(chosen, "__qualname__", "<lambda>")
    if "<lambda>" in name:
        raise ValueError(f"{chosen!r} has no name of its own: give it a `label`")
    return f"{chosen.__module__}.{name}"
