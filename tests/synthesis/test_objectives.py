"""Objectives: the paper's, the activation, sums and multiples, and one of the user's own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.synthesis import seeded

from opponent.synthesis.objectives import LEAST_COSINE, dot_cosine


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
