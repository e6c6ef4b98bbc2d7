"""Inversions, accentuations and visualisations: targets, sides, batches, photographs."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.synthesis import QUICK, SIZE, Call, Recorder, Toy, paint, seeded, toy
from torch import nn
from torch.nn import functional as F

import opponent
from opponent import (
    Columns,
    EmptyTarget,
    Feature,
    ImageSet,
    Network,
    Preprocessing,
    Synthesis,
    SynthesisSettings,
    Transforms,
    accentuate,
    attribute,
    invert,
    mean_activation,
    open_images,
    visualise,
)
<<<<<<< HEAD
from opponent.attribution.attribute import attribute_each, network_input
from opponent.core.box import Box
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.images.decode import load_image
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.selection import tense
from opponent.storage.columns import Columns
from opponent.synthesis import cache as store
from opponent.synthesis import inversion, optimise
from opponent.synthesis import parameterisations as parameters
from opponent.synthesis.objectives import LEAST_COSINE, dot_cosine
from opponent.synthesis.optimise import ascend
from opponent.synthesis.parameterisations import (
    PARAMETERISATIONS,
    Fourier,
    Parameterisation,
    Phases,
    Photographs,
    Pixels,
)
from opponent.synthesis.spectrum import Spectrum, measure
from opponent.synthesis.spectrum import photographs as shipped
from opponent.synthesis.transforms import Transforms, resize


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZES = [(16, 16), (15, 17), (12, 21), (23, 8)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Objective


def slow_dot_cosine(hidden: torch.Tensor, target: torch.Tensor, power: float) -> list[float]:
    """Equation 5, with the cosine clamped from below at 0.1."""
    found = []
    for h, t in zip(hidden.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        dot = sum(a * b for a, b in zip(h, t, strict=True))
        norms = math.sqrt(sum(a * a for a in h)) * math.sqrt(sum(b * b for b in t))
        cosine = dot / norms if norms else 0.0
        found.append(dot * max(cosine, 0.1) ** power)
    return found


@given(
    seed=st.integers(0, 9999),
    power=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    shape=st.tuples(*[st.integers(1, 3)] * 4),
)
@settings(deadline=None, max_examples=60)
def test_the_objective_equals_its_slow_twin(
    seed: int, power: float, shape: tuple[int, int, int, int]
) -> None:
    generator = seeded(seed)
    hidden = torch.randint(-3, 4, shape, generator=generator).double()
    target = torch.randint(-3, 4, shape, generator=generator).double()
    expected = slow_dot_cosine(hidden, target, power)
    found = dot_cosine(hidden, target, power)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert power != 0 or found.tolist() == (hidden * target).sum((1, 2, 3)).tolist()


def test_without_the_clamp_it_is_the_papers_equation() -> None:
    hidden, target = torch.rand(2, 3, 2, 4, 5, dtype=torch.float64, generator=seeded())
    dot = (hidden * target).sum((1, 2, 3))
    norms = hidden.flatten(1).norm(dim=1) * target.flatten(1).norm(dim=1)
    assert (dot / norms > LEAST_COSINE).all()
    for power in (1.0, 2.0):
        expected = dot ** (power + 1) / norms**power
        torch.testing.assert_close(dot_cosine(hidden, target, power), expected)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_for_a_dead_layer_and_a_layer_that_points_away(
    power: float, dtype: torch.dtype
) -> None:
    target = torch.ones(3, 2, 1, 1, dtype=dtype)
    hidden = torch.tensor([[0.0, 0], [-1, -1], [1, -1.5]], dtype=dtype)[..., None, None]
    hidden.requires_grad_()
    values = dot_cosine(hidden, target, power)
    assert values[0] == 0
    [gradient] = torch.autograd.grad(values.sum(), hidden)
    # Under the clamp the objective is a tenth, to the power, of the dot product: it still climbs.
    torch.testing.assert_close(gradient, target * 0.1**power)


def test_pointing_away_is_never_rewarded() -> None:
    away = torch.tensor([[-5.0, -5.0]])[..., None, None]
    assert dot_cosine(away, torch.ones(1, 2, 1, 1)) < dot_cosine(away / 5, torch.ones(1, 2, 1, 1))


# Spectrum

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


# Parameterisations


def logits_of(images: torch.Tensor) -> torch.Tensor:
    return torch.logit(images.detach().double())


def decorrelated(logits: torch.Tensor) -> torch.Tensor:
    back = torch.from_numpy(np.linalg.inv(shipped().recolour))
    return torch.einsum("ij,njhw->nihw", back, logits)


@pytest.mark.parametrize("size", SIZES)
def test_phases_have_the_magnitudes_of_photographs(size: tuple[int, int]) -> None:
    logits = logits_of(Phases(2, size, generator=seeded()).images())
    torch.testing.assert_close(logits.mean((1, 2, 3)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    deviation = logits.std((1, 2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.ones(2).double(), atol=1e-4, rtol=0)
    found = torch.fft.rfft2(decorrelated(logits)).abs()
    ratio = found / shipped().magnitude(*size)
    ratio[:, :, 0, 0] = ratio[:, :, 0, 1]  # the constant term is what standardising leaves of it
    # Single precision leaves little of the logits of nearly white pixels.
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=0.04, atol=0)


def test_magnitudes_stay_while_phases_change() -> None:
    start, rate = Phases(1, (16, 14), generator=seeded()), 0.05
    adam = torch.optim.Adam(start.parameters, lr=rate, eps=1e-16)
    before = start.images().detach()
    goal = torch.rand(1, 3, 16, 14, generator=seeded(1))
    for _ in range(30):
        [start.parameters[0].grad] = torch.autograd.grad(
            (start.images() - goal).square().sum(), start.parameters
        )
        adam.step()
    after = start.images().detach()
    assert (after - goal).square().sum() < 0.8 * (before - goal).square().sum()
    found = torch.fft.rfft2(decorrelated(logits_of(after))).abs()
    ratio = found / shipped().magnitude(16, 14)
    # All but the waves that are real, whose phases are 0 or a half turn.
    ratio[:, :, [0, 0, 8, 8], [0, 7, 0, 7]] = ratio[:, :, 1, 1, None]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_a_start_depends_on_its_seed_alone(name: str, size: tuple[int, int]) -> None:
    make = PARAMETERISATIONS[name]
    one = make(1, size, generator=seeded()).images()
    three = make(3, size, generator=seeded()).images()
    other = make(1, size, generator=seeded(1)).images()
    assert three.shape == (3, 3, *size)
    assert (three >= 0).all()
    assert (three <= 1).all()
    assert three.isfinite().all()
    torch.testing.assert_close(three, one.expand_as(three))
    assert (one - other).abs().max() > 0.01
    assert one.std() > 0.01


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_every_image_of_a_batch_has_parameters_of_its_own(name: str) -> None:
    start = PARAMETERISATIONS[name](2, (9, 12), generator=seeded())
    images = start.images()
    gradients = torch.autograd.grad(images[1].sum() + images[1].square().sum(), start.parameters)
    for parameter, gradient in zip(start.parameters, gradients, strict=True):
        assert parameter.is_leaf
        assert gradient.isfinite().all()
        assert not gradient[0].any()
        assert gradient[1].any()


def test_faint_starts_are_faint() -> None:
    for start in (
        Fourier(1, (60, 80), generator=seeded()),
        Pixels(1, (60, 80), generator=seeded()),
    ):
        assert 0.05 < logits_of(start.images()).std() < 0.3


def test_fourier_starts_with_the_magnitudes_of_photographs() -> None:
    found = torch.zeros(3, 24, 16)
    for seed in range(40):
        logits = logits_of(Fourier(1, (24, 30), generator=seeded(seed)).images())
        found += torch.fft.rfft2(decorrelated(logits))[0].abs().square().float()
    ratio = (found.sqrt() / shipped().magnitude(24, 30))[:, 1:, 1:-1]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=0.5, atol=0)
    assert ratio.std() / ratio.mean() < 0.1


@pytest.mark.parametrize("size", SIZES)
def test_photographs_start_as_themselves(size: tuple[int, int]) -> None:
    photos = torch.rand(2, 3, *size, generator=seeded())
    photos[0, :, :3] = 0
    photos[1, :, :, :3] = 1
    start = Photographs(photos)
    assert (start.images() - photos).abs().max() <= 1 / 255
    inside = (photos > 0.01) & (photos < 0.99)
    torch.testing.assert_close(start.images()[inside], photos[inside], atol=1e-4, rtol=0)


def test_gates_double_a_frequency_or_take_it_away() -> None:
    photos = torch.rand(1, 3, 15, 18, generator=seeded()).clamp(0.1, 0.9)
    start = Photographs(photos)
    phases, gates = start.parameters
    assert gates.shape == (1, 1, 10, 15)  # columns last
    before = torch.fft.rfft2(torch.logit(photos).double())
    for value, factor in ((30.0, 2.0), (-30.0, 0.0), (0.0, 1.0)):
        with torch.no_grad():
            gates[0, 0, 3, 2] = value
        after = torch.fft.rfft2(logits_of(start.images()))
        expected = before.clone()
        expected[:, :, 2, 3] *= factor
        torch.testing.assert_close(after, expected, atol=2e-3, rtol=1e-3)
    [to_phases, to_gates] = torch.autograd.grad(start.images().square().sum(), start.parameters)
    assert to_phases.isfinite().all()
    assert to_gates.isfinite().all()
    assert phases.shape == (1, 3, 10, 15)


def test_a_grey_photograph_has_finite_gradients() -> None:
    start = Photographs(torch.full((1, 3, 8, 9), 0.5))
    gradients = torch.autograd.grad(start.images().square().sum(), start.parameters)
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(start.images(), torch.full((1, 3, 8, 9), 0.5))


# Views


def views_of(
    transforms: Transforms,
    images: torch.Tensor,
    size: tuple[int, int],
    window: Box | None = None,
    seed: int = 0,
) -> torch.Tensor:
    generator = seeded(seed)
    height, width = images.shape[2:]
    seen, boxes = transforms.draw((height, width), size, generator, window)
    return transforms(images[:, :, *seen.slices], boxes, size, generator, window)


@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(deadline=None)
def test_boxes_are_shares_of_the_image_within_it(seed: int, size: tuple[int, int]) -> None:
    box = Transforms()._box(size, seeded(seed))
    for start, side, length in zip((box.top, box.left), (box.height, box.width), size, strict=True):
        assert 0.9 - 0.5 / length <= side / length <= 0.99 + 0.5 / length
        assert 0 <= start <= length - side


def test_boxes_wander() -> None:
    canvas = (1000, 1000)
    generator, transforms = seeded(), Transforms(smallest=0.5, largest=0.5)
    for side in ("top", "left"):  # the middle box starts at 250
        starts = [getattr(transforms._box(canvas, generator), side) for _ in range(300)]
        assert np.mean(starts) == pytest.approx(250, abs=10)
        assert np.std(starts) == pytest.approx(50, rel=0.15)
    shares = [Transforms()._box(canvas, generator).width / 1000 for _ in range(300)]
    assert min(shares) < 0.91
    assert max(shares) > 0.98
    assert np.mean(shares) == pytest.approx(0.945, abs=0.01)


def test_a_share_that_is_none_is_refused() -> None:
    for shares in ((0.9, 1.1), (0.0, 0.5), (0.8, 0.7)):
        with pytest.raises(ValueError, match="give shares between 0 and 1, the smallest first"):
            Transforms(smallest=shares[0], largest=shares[1])


def test_noise_is_uniform_and_gaussian() -> None:
    images = torch.rand(1, 3, 100, 120, generator=seeded())
    whole = {"smallest": 1.0, "largest": 1.0, "draws": 1}
    for uniform, gaussian in ((0.3, 0.0), (0.0, 0.1), (0.05, 0.05)):
        transforms = Transforms(**whole, uniform=uniform, gaussian=gaussian)
        noise = views_of(transforms, images, (100, 120)) - images
        assert noise.mean() == pytest.approx(0, abs=0.005)
        assert noise.std() == pytest.approx(math.hypot(uniform / 3**0.5, gaussian), rel=0.02)
        if not gaussian:
            assert noise.abs().max() <= uniform + 1e-6


@pytest.mark.parametrize("size", [(20, 31), (50, 40)])
def test_views_of_an_image_depend_on_no_other(size: tuple[int, int]) -> None:
    images = torch.rand(3, 3, 33, 40, generator=seeded(5))
    transforms = Transforms(draws=4)
    views = views_of(transforms, images, size)
    assert views.shape == (12, 3, *size)
    for number in range(3):
        alone = views_of(transforms, images[number : number + 1], size)
        # One draw after the other, each of all images.
        torch.testing.assert_close(views[number::3], alone)
    assert not torch.equal(views[:3], views[3:6])
    assert torch.equal(views, views_of(transforms, images, size))


def test_resizing_does_not_alias() -> None:
    stripes = torch.zeros(1, 3, 60, 60)
    stripes[..., ::2] = 1
    small = resize(stripes, (20, 20))
    torch.testing.assert_close(small[..., 2:-2], torch.full((1, 3, 20, 16), 0.5), atol=0.1, rtol=0)
    ramp = torch.arange(60.0)[:, None].expand(1, 3, 60, 60)
    middle = resize(ramp, (20, 30))[0, 0, 5:15, 7]
    torch.testing.assert_close(middle, torch.arange(5.0, 15) * 3 + 1)


# Ascent


class Toy(nn.Module):
    """Two layers with weights that are fixed; optionally with batch norm or another activation."""

    def __init__(
        self, *, norm: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one = nn.Conv2d(3, 6, 5, padding=2)
            self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
            self.relu = activation()
            self.two = nn.Conv2d(6, 4, 3, padding=1)
            self.end = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.two(self.relu(self.norm(self.one(x)))))


SIZE = (20, 16)
QUICK = SynthesisSettings(steps=12, canvas=(24, 22), transforms=Transforms(draws=1))


def toy(**options: Any) -> Network:
    return Network(Toy(**options), preprocessing=Preprocessing(size=SIZE), name="toy")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_the_objective_rises(name: str, sign: int) -> None:
    quiet = Transforms(draws=1, uniform=0.0, gaussian=0.0, wander=0.0, smallest=1.0, largest=1.0)
    quick = replace(QUICK, parameterisation=name, transforms=quiet, steps=20)
    made = visualise(toy(), "end:2", sign=sign, settings=quick)
    objective = made.objective[:, 0]
    assert objective[-5:].mean() > objective[:5].mean() + 0.05
    torch.testing.assert_close(made.activation, sign * made.objective)
    assert sign * (made.final[0] - made.activation[0, 0]) > 0
=======
from opponent.attribution.attribute import attribute_each
from opponent.core.progress import silent
from opponent.core.side import SIDES, Side
from opponent.images.decode import Fit, load_image
from opponent.selection import tense
from opponent.synthesis import objectives
from opponent.synthesis.objectives import DotCosine, dot_cosine
from opponent.synthesis.transforms import resize

pytestmark = pytest.mark.usefixtures("one_thread")
>>>>>>> h-t3


def test_visualisations_go_both_ways() -> None:
    up, down = (visualise(toy(), "end:1", side=side, settings=QUICK) for side in SIDES)
    assert up.final > down.final
    assert (up.side, down.side) == SIDES
    assert up.feature == Feature(layer="end", unit=1, position=(10, 8))


def test_what_comes_back_is_whole() -> None:
    calls: list[Call] = []
    network = toy()
    made = visualise(network, "end:1", settings=QUICK, progress=lambda *call: calls.append(call))
    assert calls == [("optimising", step, 12) for step in range(1, 13)]
    assert made.image.shape == (1, 3, 24, 22)
    assert made.opacity.shape == (1, 24, 22)
    assert made.objective.shape == made.activation.shape == (12, 1)
    for values in (made.image, made.opacity):
        assert not values.requires_grad
        assert values.min() >= 0
        assert values.max() <= 1
    assert made.opacity.max() == 1
    # The feature's activation in the image itself.
    inputs = network.preprocessing.normalise(resize(made.image, SIZE))
    maps = network.run(inputs, "end").target
    torch.testing.assert_close(made.final, maps[:, 1, 10, 8])
    rgba = made.rgba()
    assert rgba.shape == (1, 24, 22, 4)
    np.testing.assert_allclose(rgba[0, ..., :3] / 255, made.image[0].permute(1, 2, 0), atol=0.003)
    np.testing.assert_allclose(rgba[0, ..., 3] / 255, made.opacity[0], atol=0.003)


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "gradients": [parameter.grad for parameter in module.parameters()],
        "required": [parameter.requires_grad for parameter in module.parameters()],
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_comes_back_as_it_was(training: bool, frozen: bool) -> None:
    network = toy(norm=True)
    network.module.train(training).requires_grad_(not frozen)
    before = snapshot(network.module)
    images = torch.rand(2, 3, *SIZE, generator=seeded())
    visualise(network, "end:1", settings=QUICK)
    invert(network, images, "end:1", "relu", side="excitation", settings=QUICK)
    after = snapshot(network.module)
    assert before.keys() == after.keys()
    for name, value in before["state"].items():
        assert torch.equal(value, after["state"][name]), name
    assert after["modes"] == before["modes"]
    assert after["required"] == before["required"]
    assert after["gradients"] == [None] * len(before["gradients"])


def test_training_mode_changes_nothing() -> None:
    results = []
    for training in (True, False):
        network = toy(norm=True)
        network.module.train(training)
        results.append(visualise(network, "end:1", settings=QUICK))
    assert torch.equal(results[0].image, results[1].image)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_changes_nothing(mode: Callable[[], Any], tmp_path: Path) -> None:
    photo = paint(tmp_path, 1)
    images = torch.rand(1, 3, *SIZE, generator=seeded())

    network = toy()

    def all_three() -> list[Synthesis]:
        return [
            visualise(network, "end:1", settings=QUICK),
            invert(network, images.clone(), "end:1", "relu", side="inhibition", settings=QUICK),
            accentuate(network, photo, "end:1", "relu", side="excitation", settings=QUICK),
        ]

    expected = all_three()
    with mode():
        found = all_three()
        assert not torch.is_grad_enabled()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.image, other.image)


def test_in_place_relus_change_nothing() -> None:
    images = torch.rand(1, 3, *SIZE, generator=seeded())
    made = [
        invert(
            toy(activation=lambda inplace=inplace: nn.ReLU(inplace=inplace)),
            images,
            "end:1",
            "one",
            side="excitation",
            settings=QUICK,
        )
        for inplace in (True, False)
    ]
    assert torch.equal(made[0].image, made[1].image)


def test_a_batch_is_as_good_as_one_by_one(tmp_path: Path) -> None:
    images = paint(tmp_path, 3)
    few = replace(QUICK, steps=5)
    calls: list[Call] = []
    for do in (invert, accentuate):
        batch, singles = (
            do(
                toy(),
                images,
                "end:1",
                "relu",
                side="excitation",
                settings=replace(few, batch=size),
                progress=lambda *call: calls.append(call),
            )
            for size in (3, 1)
        )
        assert batch.image.shape == (3, 3, 24, 22)
        for part in ("image", "objective", "activation", "final", "opacity"):
            torch.testing.assert_close(
                getattr(batch, part), getattr(singles, part), atol=0.02, rtol=0.02
            )
        # Uneven batches, and each image against itself alone.
        uneven = do(
            toy(), images, "end:1", "relu", side="excitation", settings=replace(few, batch=2)
        )
        torch.testing.assert_close(uneven.image, singles.image, atol=0.02, rtol=0)
        alone = do(
            toy(),
            [images[1].path],
            "end:1",
            "relu",
            side="excitation",
            settings=replace(few, batch=2),
        )
        torch.testing.assert_close(alone.image[0], singles.image[1], atol=0.02, rtol=0)
    one_batch = [("optimising", step, 5) for step in range(1, 6)]
    assert calls == (one_batch + [("optimising", step, 15) for step in range(1, 16)]) * 2


def targets(
    network: Network, images: Any, feature: str, through: str, side: Side
) -> tuple[torch.Tensor, Synthesis]:
    """What an inversion's objective is given as its target, one an image; and the result."""
    recorder = Recorder(DotCosine())
    made = invert(
        network, images, feature, through, side=side,
        settings=replace(QUICK, steps=1, objective=recorder),
    )  # fmt: skip
    [views] = recorder.seen
    assert views.target is not None
    return views.target, made


@pytest.mark.parametrize("side", SIDES)
def test_the_target_is_one_side_of_s_within_its_window(side: Side) -> None:
    network = toy()
    images = torch.rand(3, 3, *SIZE, generator=seeded())
    target, made = targets(network, images, "end:3@4,5", "relu", side)
    [result] = attribute_each(network, images, [Feature.parse("end:3@4,5")], "relu")
    window = result.window
    assert (window.top, window.left) == (3, 4)
    assert (window.height, window.width) == (3, 3)
    expected = (side.sign * result.attribution[:, :, 3:6, 4:7]).clamp(min=0)
    torch.testing.assert_close(target, expected)
    assert made.feature == Feature.parse("end:3@4,5")


def test_of_both_sides_the_target_is_the_size_of_s() -> None:
    network = toy()
    images = torch.rand(3, 3, *SIZE, generator=seeded())
    target, made = targets(network, images, "end:3@4,5", "relu", Side.BOTH)
    [result] = attribute_each(network, images, [Feature.parse("end:3@4,5")], "relu")
    torch.testing.assert_close(target, result.attribution[:, :, 3:6, 4:7].abs())
    assert (result.attribution < 0).any()
    assert made.side is Side.BOTH


def test_what_is_optimised_is_equation_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective gets the hidden layer of each view beside the target of its image."""
    given: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def spy(hidden: torch.Tensor, target: torch.Tensor, power: float) -> torch.Tensor:
        given.append((hidden.detach(), target, power))
        return dot_cosine(hidden, target, power)

    monkeypatch.setattr(objectives, "dot_cosine", spy)
    network, images = toy(), torch.rand(2, 3, *SIZE, generator=seeded())
    quick = replace(QUICK, steps=3, power=2.0, transforms=Transforms(draws=3))
    made = invert(network, images, "end:3", "relu", side="inhibition", settings=quick)
    [result] = attribute_each(network, images, [network.resolve("end:3")], "relu")
    part = (-result.window_attribution).clamp(min=0)
    assert len(given) == 3
    for step, (hidden, target, power) in enumerate(given):
        assert power == 2
        assert hidden.shape == target.shape == (6, 6, 3, 3)
        for i in range(6):
            torch.testing.assert_close(target[i], part[i % 2])
        values = dot_cosine(hidden, target, 2.0)
        torch.testing.assert_close(
            made.objective[step], torch.stack([values[::2].mean(), values[1::2].mean()])
        )


class Gelu(nn.Module):
    """Three channels that are the input's, a GELU, and one unit with weights 1, -2 and -1."""

    def __init__(self) -> None:
        super().__init__()
        self.gelu = nn.GELU()
        self.out = nn.utils.skip_init(nn.Conv2d, 3, 1, 1, bias=False)
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([1.0, -2.0, -1.0]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gelu(x))


def test_of_a_negative_layer_growing_drive_is_more_negative() -> None:
    prepared = Preprocessing(size=(1, 1), mean=(0.5,) * 3, std=(0.25,) * 3)
    network = Network(Gelu(), preprocessing=prepared)
    x = torch.tensor([0.4, -0.6, 0.8]).view(1, 3, 1, 1)
    h = F.gelu(x).flatten()
    assert (h > 0).tolist() == [True, False, True]
    # S is 1 h0, -2 h1, -1 h2: the second is excitation, though the layer is negative there.
    excitatory = targets(network, x, "out:0", "gelu", Side.EXCITATION)[0].flatten()
    torch.testing.assert_close(excitatory, torch.stack([h[0], 2 * h[1], h[0] * 0]))
    inhibitory = targets(network, x, "out:0", "gelu", Side.INHIBITION)[0].flatten()
    torch.testing.assert_close(inhibitory, torch.stack([h[0] * 0, h[0] * 0, h[2]]))
    both = targets(network, x, "out:0", "gelu", Side.BOTH)[0].flatten()
    torch.testing.assert_close(both, torch.stack([h[0], 2 * h[1], h[2]]))
    quick = SynthesisSettings(steps=60, canvas=(6, 6), transforms=Transforms(draws=1))
    quick = replace(quick, parameterisation="pixels")
    up, down = (invert(network, x, "out:0", "gelu", side=side, settings=quick) for side in SIDES)
    own = network.run(x, "out").target.flatten()
    assert up.final > own > down.final
    # The excitatory image is light in the first channel and dark in the second.
    means = up.image.mean((0, 2, 3))
    assert means[0] > 0.55
    assert means[1] < 0.45


@pytest.mark.parametrize(
    ("side", "verb"), [("excitation", "excites"), ("inhibition", "inhibits"), ("both", "drives")]
)
def test_an_image_without_that_side_is_named(side: str, verb: str) -> None:
    network = toy()
    images = torch.rand(4, 3, *SIZE, generator=seeded())
    # A layer that is dead for an image has no S at all.
    with torch.no_grad():
        network.module.get_parameter("one.bias").fill_(-10)
        network.module.get_parameter("one.weight").abs_()
    images[1], images[3] = -5, -5
    images[[0, 2]] += 5
    with pytest.raises(
        EmptyTarget, match=rf"nothing {verb} end:1@10,8 through 'relu' in image 1, 3 of 4"
    ) as error:
        invert(network, images, "end:1", "relu", side=side, settings=QUICK)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("side", ["", "up", "+1", "Excitation"])
def test_a_side_is_one_of_three(side: str, tmp_path: Path) -> None:
    images = paint(tmp_path, 1)
    message = rf"a side is excitation, inhibition or both, not '{re.escape(side)}'"
    with pytest.raises(ValueError, match=message):
        visualise(toy(), "end:1", side=side, settings=QUICK)
    for do in (invert, accentuate):
        with pytest.raises(ValueError, match=message):
            do(toy(), images, "end:1", "relu", side=side, settings=QUICK)


def test_a_visualisation_takes_one_side() -> None:
    for side in (Side.BOTH, "both"):
        with pytest.raises(ValueError, match="give one side here: excitation or inhibition"):
            visualise(toy(), "end:1", side=side, settings=QUICK)


def test_an_accentuation_starts_as_the_photograph(tmp_path: Path) -> None:
    # Taller than the canvas' shape, so that its middle is what the network sees.
    images = paint(tmp_path, 2, size=(61, 33))
    still = replace(QUICK, steps=1, rate=1e-9)
    made = accentuate(toy(), images, "end:1", "relu", side="excitation", settings=still)
    for number, entry in enumerate(images):
<<<<<<< HEAD
        photo = load_image(entry, size=(24, 22)).transpose(2, 0, 1) / 255
=======
        photo = load_image(entry, Fit(size=(24, 22))).transpose(2, 0, 1) / 255
>>>>>>> h-t3
        np.testing.assert_allclose(made.image[number], photo, atol=1 / 255)


def test_an_accentuation_sees_what_the_network_sees(tmp_path: Path) -> None:
    images = paint(tmp_path, 1, size=(90, 120))
    prepared = Preprocessing(size=(20, 16), resize=30)
    network = Network(Toy(), preprocessing=prepared)
    still = replace(QUICK, canvas=(40, 32), steps=1, rate=1e-9)
    made = accentuate(network, images, "end:1", "relu", side="excitation", settings=still)
    # The same part of the photograph: 20 of 30, and 16 of 40.
<<<<<<< HEAD
    expected = load_image(images[0], size=(40, 32), resize=60).transpose(2, 0, 1) / 255
=======
    expected = load_image(images[0], Fit(size=(40, 32), resize=60)).transpose(2, 0, 1) / 255
>>>>>>> h-t3
    np.testing.assert_allclose(made.image[0], expected, atol=1 / 255)
    inputs = network.load_inputs(images)[0]
    back = network.preprocessing.normalise(resize(made.image, (20, 16)))
    assert (back - inputs).abs().mean() < 0.1


def test_accentuations_go_both_ways(tmp_path: Path) -> None:
    images, network = paint(tmp_path, 3), toy()
    longer = replace(QUICK, steps=30)
    own = network.run(network.load_inputs(images)[0], "end").target[:, 1, 10, 8]
    up, down = (
        accentuate(network, images, "end:1", "relu", side=side, settings=longer) for side in SIDES
    )
    assert (up.final > own).all()
    assert (down.final < own).all()
    for made in (up, down):
        assert (made.objective[-5:].mean(0) > made.objective[:5].mean(0)).all()


@pytest.fixture(scope="module")
def mini() -> Network:
    """The embedded network on a smaller canvas."""
    network = opponent.load("inceptionv1-mini")
    return network.with_preprocessing(replace(network.preprocessing, size=(48, 48)))


@pytest.fixture(scope="module")
def tense_images(mini: Network) -> tuple[torch.Tensor, torch.Tensor]:
    """The three tensest of a hundred crops of photographs for 'mixed3b:40', and its activation."""
    pytest.importorskip("skimage")
    crops = open_images("photos", size=mini.preprocessing.size)[::20]
    inputs = mini.load_inputs(ImageSet(source="crops", entries=crops))[0]
    [result] = attribute_each(mini, inputs, [mini.resolve("mixed3b:40")], "mixed3a")
    columns = Columns(
        images=tuple(entry.id for entry in crops),
        **{
            name: getattr(result, name).numpy()
            for name in ("activation", "excitation", "inhibition", "l1", "l2")
        },
        excitation_map=result.excitation_map.numpy(),
        inhibition_map=result.inhibition_map.numpy(),
    )
    chosen = tense(columns, 3).tolist()
    assert len(chosen) == 3
    return inputs[chosen], result.activation[chosen]


@pytest.mark.parametrize("side", SIDES)
def test_inversions_of_tense_images_show_what_they_should(
    mini: Network, tense_images: tuple[torch.Tensor, torch.Tensor], side: Side
) -> None:
    images, own = tense_images
    enough = SynthesisSettings(steps=24, canvas=(52, 52), transforms=Transforms(draws=1))
    made = invert(mini, images, "mixed3b:40", "mixed3a", side=side, settings=enough)
    assert (side.sign * (made.final - own) > 0).all()
    assert (made.objective[-5:].mean(0) > made.objective[:5].mean(0)).all()


def test_photographs_are_known_by_their_ids_and_equal_their_tensor(tmp_path: Path) -> None:
    network, photos = toy(), paint(tmp_path, 3)
    inputs, ids = network.load_inputs(photos)
    assert ids == ("0.png", "1.png", "2.png")
    quick = replace(QUICK, steps=4, batch=2)
    given = {"side": "excitation", "settings": quick}
    by_file, by_tensor, by_folder = (
        invert(network, x, "end:1", "relu", **given) for x in (photos, inputs, tmp_path)
    )
    for part in ("image", "opacity", "objective", "activation", "final"):
        assert torch.equal(getattr(by_file, part), getattr(by_tensor, part)), part
        assert torch.equal(getattr(by_file, part), getattr(by_folder, part)), part
    assert by_file.images == by_folder.images == ids
    assert by_tensor.images is None
    assert accentuate(network, photos, "end:1", "relu", **given).images == ids
    assert visualise(network, "end:1", settings=quick).images is None
    assert len(by_file) == 3


@pytest.mark.parametrize("do", [invert, accentuate])
def test_the_mean_that_s_starts_from_is_taken_over_the_images(
    do: Callable[..., Synthesis], tmp_path: Path
) -> None:
    network, photos = toy(), paint(tmp_path, 3)
    mean = mean_activation(network, photos, "relu")
    given = {"side": "excitation", "settings": replace(QUICK, steps=2), "rule": "integrated-mean"}
    own = do(network, photos, "end:1", "relu", **given)
    handed = do(network, photos, "end:1", "relu", **given, baseline=mean)
    other = do(network, photos, "end:1", "relu", **given, baseline=torch.zeros_like(mean))
    torch.testing.assert_close(own.image, handed.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(own.objective, handed.objective)
    assert (own.objective - other.objective).abs().max() > 1e-3
    with pytest.raises(ValueError, match="starts from the mean over images, and there is one"):
        do(network, [photos[0].path], "end:1", "relu", **given)


def test_from_a_mean_the_target_follows_what_s_weighs() -> None:
    """Where h lies under its mean, growing drive is less of the layer."""
    network, images = toy(), torch.rand(3, 3, *SIZE, generator=seeded())
    recorder = Recorder(DotCosine())
    invert(
        network, images, "end:3", "relu", side="excitation", rule="integrated-mean/8",
        settings=replace(QUICK, steps=1, objective=recorder),
    )  # fmt: skip
    result = attribute(network, images, "end:3", "relu", rule="integrated-mean/8")
    assert (result.change < 0).any()
    part = result.window_attribution.clamp(min=0)
    [views] = recorder.seen
    assert views.target is not None
    torch.testing.assert_close(views.target, result.change.sign() * part)


def test_progress_is_shown_by_none_but_the_callback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, a display appears; `silent` shows nothing, not even of S."""
    minutes = count(step=100)  # between any two looks at the clock
    clock = SimpleNamespace(monotonic=lambda: float(next(minutes)))
    monkeypatch.setattr("opponent.core.progress.time", clock)
    network, photos, quick = toy(), paint(tmp_path, 2), replace(QUICK, steps=2)
    given = {"side": "excitation", "settings": quick}
    for progress in (silent, None):
        invert(network, photos, "end:1", "relu", **given, progress=progress)
        accentuate(network, photos, "end:1", "relu", **given, progress=progress)
        visualise(network, "end:1", settings=quick, progress=progress)
        printed = capsys.readouterr()
        assert not printed.out
        lines = printed.err.splitlines()
        assert (len(lines) > 0) == (progress is None)
        assert all(line.startswith("optimising: ") for line in lines)
