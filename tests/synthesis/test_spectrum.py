"""The magnitude spectrum of photographs: interpolation, measurement, and what ships."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.support.synthesis import SIZES, seeded

from opponent.synthesis.spectrum import Spectrum, measure
from opponent.synthesis.spectrum import photographs as shipped

TOY = Spectrum(
    frequencies=np.array([1.0, 3.0, 8.0]),
    orientations=np.arange(4) * np.pi / 4,
    log_magnitude=np.random.default_rng(1).normal(size=(3, 3, 4)),
    recolour=np.eye(3),
)


def slow_magnitude(spectrum: Spectrum, height: int, width: int) -> np.ndarray:
    """Power laws between frequencies and beyond them, linear (in the logarithm) between turns."""
    result = np.zeros((3, height, width // 2 + 1))
    at, turns = np.log(spectrum.frequencies), len(spectrum.orientations)
    for y in range(height):
        for x in range(width // 2 + 1):
            # Cycles a pixel, downwards and to the right.
            down, right = (y if y < height / 2 else y - height) / height, x / width
            if y == x == 0:
                continue
            length = np.log(np.hypot(down, right) * min(height, width))
            angle = np.arctan2(down, right) % np.pi
            turn = angle / (np.pi / turns)
            first, second = int(turn) % turns, (int(turn) + 1) % turns
            for colour in range(3):
                ring = (1 - turn % 1) * spectrum.log_magnitude[colour, :, first]
                ring = ring + (turn % 1) * spectrum.log_magnitude[colour, :, second]
                k = 0
                while k < len(at) - 2 and length > at[k + 1]:
                    k += 1
                slope = (ring[k + 1] - ring[k]) / (at[k + 1] - at[k])
                result[colour, y, x] = np.exp(ring[k] + slope * (length - at[k]))
    return result


@pytest.mark.parametrize(("height", "width"), [*SIZES, (2, 2), (40, 10)])
def test_magnitudes_equal_their_slow_twin(height: int, width: int) -> None:
    for spectrum in (TOY, shipped()):
        found = spectrum.magnitude(height, width)
        assert found.dtype == torch.float32
        expected = slow_magnitude(spectrum, height, width)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert not found[:, 0, 0].any()
        assert (found.flatten(1)[:, 1:] > 0).all()


def test_magnitudes_are_those_of_a_real_image() -> None:
    for height, width in SIZES:
        found = TOY.magnitude(height, width)
        # The first column holds each wave twice, once for each direction along its normal.
        torch.testing.assert_close(found[:, 1:, 0], found[:, 1:, 0].flip(1))


def test_what_was_measured_is_kept_where_it_was_measured() -> None:
    found = TOY.magnitude(16, 16).log()
    for ring, frequency in enumerate((1, 3, 8)):
        for x, y, turn in ((frequency, 0, 0), (0, frequency, 2)):
            np.testing.assert_allclose(found[:, y, x], TOY.log_magnitude[:, ring, turn], rtol=1e-4)


def striped(axis: int, generator: np.random.Generator) -> np.ndarray:
    """Stripes that change along one axis only, all three colours alike but for some noise."""
    brightness = np.cumsum(generator.normal(size=64))
    plane = np.broadcast_to(np.expand_dims(brightness, 1 - axis), (64, 64))
    return plane[..., None] + generator.normal(size=(64, 64, 3)) * 0.3


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_keep_their_direction(axis: int) -> None:
    generator = np.random.default_rng(0)
    spectrum = measure([striped(axis, generator) for _ in range(6)])
    # Horizontal stripes change along the rows: the wave's normal points down, a quarter turn.
    turns = len(spectrum.orientations)
    strong, weak = (turns // 2, 0) if axis == 0 else (0, turns // 2)
    log = spectrum.log_magnitude[0]
    assert (log[:, strong] > log[:, weak] + 1).all()
    assert spectrum.orientations[turns // 2] == pytest.approx(np.pi / 2)
    for height, width in ((48, 48), (30, 55)):
        down, right = 5, round(5 * width / min(height, width))
        found = spectrum.magnitude(height, width)[0]
        along = found[round(5 * height / min(height, width)), 0], found[0, right]
        assert along[axis] > 3 * along[1 - axis]
        assert down == 5
        # And so do images made from it.
        magnitude = spectrum.magnitude(height, width)[0]
        phases = torch.rand(magnitude.shape, generator=seeded()) * 2 * torch.pi
        made = torch.fft.irfft2(torch.polar(magnitude, phases), s=(height, width))
        changes = made.diff(dim=0).std(), made.diff(dim=1).std()
        assert changes[axis] > 1.5 * changes[1 - axis]


def noise(slope: float, side: int, generator: np.random.Generator) -> np.ndarray:
    """Three independent colours whose magnitudes fall off as a power of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(generator.normal(size=(3, side, side)))
    return np.moveaxis(np.fft.irfft2(white * frequency**slope, s=(side, side)), 0, 2)


@pytest.mark.parametrize("slope", [-1.0, -1.4, 0.0])
def test_the_slope_of_noise_is_recovered(slope: float) -> None:
    generator = np.random.default_rng(0)
    spectrum = measure([noise(slope, 96, generator) for _ in range(8)])
    # The lowest rings hold a few elements only, and the taper blurs them.
    inner = slice(6, -1)
    x = np.log(spectrum.frequencies[inner])
    for colour in range(3):
        y = spectrum.log_magnitude[colour].mean(1)[inner]
        assert np.polyfit(x, y, 1)[0] == pytest.approx(slope, abs=0.08)
    spread = spectrum.log_magnitude[:, inner].std(2)
    assert spread.mean() < 0.15
    made = spectrum.magnitude(200, 150)
    assert torch.log(made[0, 0, 40] / made[0, 0, 10]).item() / np.log(4) == pytest.approx(
        slope, abs=0.25
    )


def test_colours_are_recovered_from_their_covariance() -> None:
    generator = np.random.default_rng(0)
    mixing = np.array([[2.0, 0.3, 0.0], [1.8, 0.0, 0.4], [1.9, -0.5, -0.2]])
    images = [generator.normal(size=(48, 48, 3)) @ mixing.T + 5 for _ in range(8)]
    found = measure(images).recolour
    np.testing.assert_allclose(found @ found.T, mixing @ mixing.T, rtol=0.1, atol=0.05)
    # Uncorrelated colours: columns at right angles, brightness first, and lighter is positive.
    gram = found.T @ found
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert np.diag(gram)[0] == np.diag(gram).max()
    assert (found[:, 0] > 0).all()


@pytest.mark.parametrize("side", [16, 33, 64])
def test_small_photographs_can_be_measured(side: int) -> None:
    generator = np.random.default_rng(0)
    spectrum = measure([generator.normal(size=(side, side, 3)) for _ in range(2)])
    assert np.isfinite(spectrum.log_magnitude).all()
    np.testing.assert_allclose(spectrum.log_magnitude.mean((1, 2)), 0, atol=1e-9)


def test_the_spectrum_that_ships_is_that_of_photographs() -> None:
    spectrum = shipped()
    assert all(low < high for low, high in pairwise(spectrum.frequencies))
    assert np.isfinite(spectrum.log_magnitude).all()
    slopes = [
        np.polyfit(np.log(spectrum.frequencies), colour.mean(1), 1)[0]
        for colour in spectrum.log_magnitude
    ]
    # Field (1987): the magnitudes of photographs fall off about as one over the frequency.
    assert all(-1.6 < slope < -0.7 for slope in slopes)
    # Upright and level things make the two axes stronger than the diagonals.
    around = spectrum.log_magnitude[0].mean(0)
    turns = len(around)
    assert min(around[0], around[turns // 2]) > max(around[turns // 4], around[3 * turns // 4])
    assert (spectrum.recolour[:, 0] > 0).all()
