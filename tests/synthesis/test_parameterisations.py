"""Parameterisations: their starts, what stays while they change, parts of images, gradients."""

import pytest
import torch
from tests.support.synthesis import SIZES, decorrelated, logits_of, seeded

from opponent import Box, Parameterisation
from opponent.synthesis import parameterisations
from opponent.synthesis.parameterisations import (
    PARAMETERISATIONS,
    Fourier,
    Phases,
    Photographs,
    Pixels,
)
from opponent.synthesis.spectrum import photographs as shipped

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_parameterisation_is_a_family_of_three_and_photographs() -> None:
    assert set(PARAMETERISATIONS) == {"phases", "fourier", "pixels"}
    starts = [make(1, (4, 5), generator=seeded()) for make in PARAMETERISATIONS.values()]
    for start in (*starts, Photographs(torch.full((1, 3, 4, 5), 0.5))):
        assert isinstance(start, Parameterisation)
        assert Parameterisation in type(start).__mro__


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


@pytest.mark.parametrize("name", [*PARAMETERISATIONS, "photographs"])
@pytest.mark.parametrize("size", [(14, 12), (15, 11), (9, 2), (3, 1)])
def test_a_part_of_an_image_is_what_the_whole_has(name: str, size: tuple[int, int]) -> None:
    start = (
        Photographs(torch.rand(2, 3, *size, generator=seeded()))
        if name == "photographs"
        else PARAMETERISATIONS[name](2, size, generator=seeded())
    )
    part = Box(top=1, left=size[1] // 3, height=2, width=-(-size[1] // 3))
    found, expected = start.images(part), start.images()[:, :, *part.slices]
    torch.testing.assert_close(found, expected)
    wanted = torch.rand(found.shape, generator=seeded(1))
    gradients = [
        torch.autograd.grad((x * wanted).sum(), start.parameters, materialize_grads=True)
        for x in (found, expected)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", [(14, 12), (15, 11), (512, 512)])
def test_phases_are_standardised_to_single_precision(size: tuple[int, int]) -> None:
    start = Phases(2, size, generator=seeded())
    with torch.no_grad():  # so that the waves that mirror themselves lose magnitude
        start.parameters[0] += torch.randn(start.parameters[0].shape, generator=seeded(1))
    phases = start.parameters[0].detach().double().mT
    magnitude = shipped().magnitude(*size).double()
    plain = torch.fft.irfft2(torch.polar(magnitude.expand_as(phases), phases), s=size)
    logits = torch.einsum("ij,njhw->nihw", torch.from_numpy(shipped().recolour), plain)
    expected = logits / logits.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(
        start.images().detach().double(), expected.sigmoid(), rtol=0, atol=5e-7
    )


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_gradients_by_hand_are_those_of_autograd(width: int) -> None:
    phase = torch.randn(2, 3, width // 2 + 1, 4, generator=seeded(), dtype=torch.float64)
    phase.requires_grad_()
    magnitude = torch.rand(phase.shape[1:], generator=seeded(1), dtype=torch.float64)
    found = parameterisations._Polar.apply(magnitude, phase)
    torch.testing.assert_close(found, torch.polar(magnitude.expand_as(phase), phase))
    assert torch.autograd.gradcheck(
        lambda phase: torch.view_as_real(parameterisations._Polar.apply(magnitude, phase)), (phase,)
    )
    # Complex in the first and last column too, which no real image's columns are.
    columns = torch.view_as_complex(
        torch.randn(*phase.shape, 2, generator=seeded(2), dtype=torch.float64)
    ).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: parameterisations._Deviation.apply(x, width), (columns,)
    )
    plain = torch.fft.irfft(columns, n=width, dim=2)
    logits = torch.einsum("ij,njwh->niwh", torch.from_numpy(shipped().recolour), plain)
    torch.testing.assert_close(
        parameterisations._Deviation.apply(columns, width),
        logits.square().mean((1, 2, 3), keepdim=True).sqrt(),
    )
