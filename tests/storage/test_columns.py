"""One feature over many images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opponent import Columns
from opponent.storage.columns import COMPLETE, positive_part


def columns(activation: list[float], excitation: list[float], inhibition: list[float]) -> Columns:
    values = [np.array(x, np.float32) for x in (activation, excitation, inhibition)]
    zeros = np.zeros(len(activation), np.float32)
    maps = np.zeros((len(activation), 0, 0), np.float32)
    return Columns(
        images=tuple(str(i) for i in range(len(activation))),
        activation=values[0],
        excitation=values[1],
        inhibition=values[2],
        l1=zeros,
        l2=zeros,
        excitation_map=maps,
        inhibition_map=maps,
    )


def repeated(*values: list[float]) -> Columns:
    """Each image seven times, which changes neither a correlation nor a mean: 21 of three."""
    return columns(*(7 * x for x in values))


def test_completeness_by_hand() -> None:
    # The law holds up to a constant and a factor, which a correlation does not see.
    assert repeated([1, 2, 3], [5, 7, 9], [5, 5, 5]).completeness == pytest.approx(1)
    assert repeated([1, 2, 3], [1, 1, 1], [0, 1, 2]).completeness == pytest.approx(-1)
    # Deviations -1, 0, 1 and -1, 2, -1: their products sum to 0.
    assert repeated([1, 2, 3], [0, 3, 0], [0, 0, 0]).completeness == pytest.approx(0)
    # -3, 1, 2 and -1, -1, 2: (3 - 1 + 4) / sqrt(14 * 6).
    found = repeated([0, 4, 5], [0, 0, 3], [0, 0, 0])
    assert found.completeness == pytest.approx(6 / np.sqrt(84))
    assert found.no_r is None
    assert 0 < found.completeness < COMPLETE < 1


def test_the_distance_by_hand_sees_the_constant_and_the_factor() -> None:
    # E is 0, 2, 4 and f 1, 2, 3: |E - f| is 1, 0, 1; the deviations of f are -1, 0, 1.
    far = repeated([1, 2, 3], [5, 7, 9], [5, 5, 5])
    assert far.distance == pytest.approx((2 / 3) / np.sqrt(2 / 3))
    assert far.agreement == "r = 1.0000, mean |E - f| = 0.82 sd of f"
    # In any unit of f it is the same.
    assert repeated([10, 20, 30], [50, 70, 90], [50, 50, 50]).distance == pytest.approx(
        far.distance
    )
    assert repeated([1, 2, 3], [6, 7, 8], [5, 5, 5]).distance == 0


@pytest.mark.parametrize(
    ("activation", "excitation", "why"),
    [
        ([], [], "0 images; r takes 20 or more"),
        ([1.0, 2.0], [1.0, 2.0], "2 images; r takes 20 or more"),
        ([*range(19)], [*range(19)], "19 images; r takes 20 or more"),
        ([0.1] * 20, [*range(20)], "the activation is the same in all images"),
        ([*range(20)], [0.1] * 20, "the sum of S is the same in all images"),
    ],
)
def test_completeness_that_is_not_defined(
    activation: list[float], excitation: list[float], why: str
) -> None:
    found = columns(activation, excitation, [0.0] * len(activation))
    assert np.isnan(found.completeness)
    assert found.no_r == why
    constant = len(set(activation)) < 2
    assert np.isnan(found.distance) == constant
    assert found.agreement.startswith(f"no r ({why})")
    assert ("mean |E - f|" in found.agreement) == (not constant)
    enough = columns([*range(20)], [*range(20)], [0.0] * 20)
    assert enough.completeness == pytest.approx(1)


@given(st.lists(st.tuples(*[st.floats(0, 100, width=32)] * 2), max_size=5))
def test_tension_is_the_smaller_side(sides: list[tuple[float, float]]) -> None:
    excitation, inhibition = ([pair[i] for pair in sides] for i in (0, 1))
    found = columns([0.0] * len(sides), excitation, inhibition).tension
    assert found.tolist() == [min(pair) for pair in sides]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_positive_part_comes_from_two_rounded_sums(dtype: torch.dtype) -> None:
    """Against the sums of the positive values; what is only rounding is none."""
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(40, 30, 9, 9, generator=generator, dtype=torch.float64)
    s[:, 10:20] = -s[:, 10:20].abs()
    s[:, 20:25] = s[:, 20:25].abs()
    s[:, 25:] = 0
    s = s.to(dtype)
    total, negative = (x.sum((2, 3)).float().numpy() for x in (s, (-s).clamp(min=0)))
    positive = positive_part(total, negative, str(dtype).removeprefix("torch."))
    exact = s.double().clamp(min=0).sum((2, 3)).numpy()
    assert positive.dtype == np.float32
    assert (positive[:, 10:20] == 0).all()
    assert (positive[:, 25:] == 0).all()
    assert (positive[:, :10] > 0).all()
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(positive, exact, rtol=tolerance)
