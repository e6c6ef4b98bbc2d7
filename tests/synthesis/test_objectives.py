"""Objectives: the paper's, the activation, sums and multiples, and one of the user's own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.synthesis import HERE, Bright, seeded
from torch import Tensor

from opponent import Activation, DotCosine, Objective, SynthesisSettings, Views
from opponent.core.side import Side
from opponent.synthesis.objectives import LEAST_COSINE, dot_cosine, parse_objective


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


# Sums and multiples


def views(*, target: bool = True, activation: bool = False) -> tuple[Views, Tensor]:
    """Two views, and the images that their values have a graph to."""
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=seeded()).requires_grad_()
    weights = torch.randn(6, 3, dtype=torch.float64, generator=seeded(1))
    hidden = torch.einsum("ij,njhw->nihw", weights, images)
    wanted = torch.rand(2, 6, 4, 5, dtype=torch.float64, generator=seeded(2))
    seen = Views(
        images=images,
        hidden=hidden,
        target=wanted if target else None,
        activation=hidden[:, 1, 2, 2] if activation else None,
    )
    return seen, images


def slopes(objective: Objective, seen: Views, images: Tensor) -> tuple[Tensor, Tensor]:
    values = objective.values(seen)
    [gradient] = torch.autograd.grad(values.sum(), images, retain_graph=True)
    return values.detach(), gradient


@given(factors=st.tuples(*[st.floats(-3, 3, allow_subnormal=False)] * 2))
@settings(deadline=None, max_examples=30)
def test_sums_and_multiples_are_those_of_values_and_gradients(
    factors: tuple[float, float],
) -> None:
    seen, images = views()
    dot, bright = DotCosine(2.0), Bright()
    (v1, g1), (v2, g2) = (slopes(x, seen, images) for x in (dot, bright))
    a, b = factors
    for objective, value, gradient in (
        (dot + bright, v1 + v2, g1 + g2),
        (dot - bright, v1 - v2, g1 - g2),
        (-dot, -v1, -g1),
        (a * dot, a * v1, a * g1),
        (dot * a, a * v1, a * g1),
        (a * dot + b * bright, a * v1 + b * v2, a * g1 + b * g2),
        (b * (dot + a * bright), b * (v1 + a * v2), b * (g1 + a * g2)),
        (dot + bright + dot, 2 * v1 + v2, 2 * g1 + g2),
    ):
        found = slopes(objective, seen, images)
        torch.testing.assert_close(found[0], value)
        torch.testing.assert_close(found[1], gradient)
        assert isinstance(objective, Objective)


def test_labels_say_what_is_added_and_tell_all_numbers_apart() -> None:
    dot, bright = DotCosine(2.0), Bright()
    assert dot.label == "dot * cos^2"
    assert DotCosine(0.5).label == "dot * cos^0.5"
    assert Activation().label == "activation"
    assert Activation(Side.INHIBITION).label == "-activation"
    assert (dot + bright).label == "dot * cos^2 + bright 1"
    assert (0.1 * bright).label == (bright * 0.1).label == "0.1 * (bright 1)"
    assert (dot - bright).label == "dot * cos^2 + -1 * (bright 1)"
    assert (2 * (dot + bright)).label == "2 * (dot * cos^2 + bright 1)"
    labels = [(dot + x * bright).label for x in (1 / 3, 0.333333, 0.3333333, 1e-9, 1e-10)]
    assert len(set(labels)) == len(labels)
    assert DotCosine(1 / 3).label != DotCosine(0.333333).label


def test_the_activation_is_raised_or_lowered() -> None:
    seen, images = views(target=False, activation=True)
    value, gradient = slopes(Activation(), seen, images)
    torch.testing.assert_close(value, seen.hidden[:, 1, 2, 2].detach())
    lowered = slopes(Activation(Side.INHIBITION), seen, images)
    assert torch.equal(lowered[0], -value)
    assert torch.equal(lowered[1], -gradient)


def test_an_objective_that_does_not_serve_says_what_does() -> None:
    with pytest.raises(ValueError, match=r"dot \* cos\^1 needs a target: it serves inversions"):
        DotCosine().values(views(target=False)[0])
    with pytest.raises(ValueError, match="-activation serves feature visualisations"):
        Activation(Side.INHIBITION).values(views()[0])


def test_an_objective_is_itself_or_named() -> None:
    mine = Bright(3.0)
    assert parse_objective(mine) is mine
    assert parse_objective(None) is None
    made = parse_objective(f"{HERE}:Bright")
    assert made is not None
    assert made.label == "bright 1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brightness", r"'brightness' must read module:PACKAGE.MODULE:NAME"),
        (f"{HERE}:Dark", r"has no attribute 'Dark'"),
        ("module:tests.support.absent:Dark", r"No module named 'tests.support.absent'"),
        (f"{HERE}:SIZE", r":SIZE' is tuple, no objective; .* inherits from opponent.Objective"),
        (f"{HERE}:Flat", r":Flat' is Flat, no objective"),
    ],
)
def test_what_is_no_objective_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisSettings(objective=name)
