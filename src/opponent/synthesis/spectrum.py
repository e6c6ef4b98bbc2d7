"""Magnitude spectrum and colours of photographs, which synthesised images share.

The numbers in spectrum.json were measured by training/measure_spectrum.py.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Mean magnitude of the Fourier transform of photographs, by frequency and orientation.

    Args:
        frequencies: in cycles per short side, rising.
        orientations: of the wave's normal, in radians, evenly spaced from 0 to pi, without pi.
        log_magnitude: natural logarithm, for each uncorrelated colour; each colour has mean 0.
        recolour: logits of red, green, blue = recolour @ uncorrelated colours of unit variance.
    """

    frequencies: Float[np.ndarray, " f"]
    orientations: Float[np.ndarray, " o"]
    log_magnitude: Float[np.ndarray, "3 f o"]
    recolour: Float[np.ndarray, "3 3"]

    def magnitude(self, height: int, width: int) -> Float[Tensor, "3 h w"]:
        """Magnitudes of `torch.fft.rfft2` of an image; the constant term is 0.

        Between measured frequencies and beyond them, magnitudes follow power laws.

        Args:
            height, width: of the image, in pixels.
        """
        rows = np.fft.fftfreq(height)[:, None]
        columns = np.fft.rfftfreq(width)[None, :]
        frequency = np.hypot(rows, columns) * min(height, width)
        frequency[0, 0] = self.frequencies[0]
        turn = np.arctan2(rows, columns) % np.pi / np.pi * len(self.orientations)
        x = np.log(frequency)
        at = np.log(self.frequencies)
        step = np.clip(np.searchsorted(at, x) - 1, 0, len(at) - 2)
        fraction = (x - at[step]) / (at[step + 1] - at[step])
        low, share = np.floor(turn).astype(int), turn - np.floor(turn)
        values = sum(
            weight_f * weight_o * self.log_magnitude[:, f, o % len(self.orientations)]
            for f, weight_f in ((step, 1 - fraction), (step + 1, fraction))
            for o, weight_o in ((low, 1 - share), (low + 1, share))
        )
        magnitude = np.exp(values)
        magnitude[:, 0, 0] = 0
        return torch.from_numpy(magnitude).float()


@cache
def photographs() -> Spectrum:
    """The spectrum that ships with the library."""
    text = resources.files("opponent.synthesis").joinpath("spectrum.json").read_text()
    values = json.loads(text)
    names = ("frequencies", "orientations", "log_magnitude", "recolour")
    return Spectrum(**{name: np.array(values[name]) for name in names})


def measure(
    images: list[Float[np.ndarray, "s s 3"]], *, rings: int = 24, turns: int = 12
) -> Spectrum:
    """Measure the spectrum of square photographs.

    Args:
        images: logits of pixels, all of the same size.
        rings: number of frequencies, in even steps of their logarithm.
        turns: number of orientations.
    """
    side = len(images[0])
    pixels = np.concatenate([(x - x.mean((0, 1))).reshape(-1, 3) for x in images])
    variances, axes = np.linalg.eigh(np.cov(pixels.T))
    # Brightness, the strongest, first; its sign is fixed so that it means lighter.
    recolour = (axes * np.sqrt(variances))[:, ::-1]
    recolour = recolour * np.where(recolour.sum(0) < 0, -1, 1)
    uncolour = np.linalg.inv(recolour)
    # A window without edges keeps the border's jump from leaking along the axes.
    taper = np.hanning(side)[:, None] * np.hanning(side)[None, :]
    total = np.zeros((3, side, side // 2 + 1))
    for image in images:
        plain = np.moveaxis((image - image.mean((0, 1))) @ uncolour.T, 2, 0)
        total += np.abs(np.fft.rfft2(plain * taper))
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(rows, columns) * side
    turn = np.arctan2(rows, columns) % np.pi / np.pi * turns
    edges = np.geomspace(1, side / 2, rings + 1)
    log_magnitude = np.empty((3, rings, turns))
    for ring, (low, high) in enumerate(pairwise(edges)):
        for o in range(turns):
            # Rings of low frequency hold few elements: elements near in both senses count too.
            off = np.abs((turn - o + turns / 2) % turns - turns / 2)
            near = (frequency >= low * 0.7) & (frequency < high * 1.4) & (off <= 1.0)
            weight = near * np.exp(-(np.log(frequency.clip(0.5) / np.sqrt(low * high)) ** 2) / 0.02)
            weight = weight + near * 1e-6
            log_magnitude[:, ring, o] = np.log((total * weight).sum((1, 2)) / weight.sum())
    log_magnitude -= log_magnitude.mean((1, 2), keepdims=True)
    return Spectrum(
        frequencies=np.sqrt(edges[:-1] * edges[1:]),
        orientations=np.arange(turns) * np.pi / turns,
        log_magnitude=log_magnitude,
        recolour=recolour,
    )
