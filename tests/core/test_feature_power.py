"""The power of the cosine in a feature's activation."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.directions import BLACK_IS_ZERO, SIZE, Small
from torch import Tensor, nn

from opponent import Box, Feature, Network, Preprocessing, attribute
from opponent.geometry.receptive_field import receptive_field

pytestmark = pytest.mark.usefixtures("one_thread")


class Parallel(nn.Module):
    """Branches side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0, 2, 4, 6]),
    st.booleans(),
    st.data(),
)
def test_a_power_is_that_of_the_cosine_element_by_element(
    shape: tuple[int, int, int, int], power: int, one_hot: bool, data: Any
) -> None:
    n, c, h, w = shape
    seed = data.draw(st.integers(0, 99))
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    row, column = data.draw(st.tuples(st.integers(0, h - 1), st.integers(0, w - 1)))
    unit = data.draw(st.integers(0, c - 1))
    weights = [float(k == unit) for k in range(c)]
    if not one_hot:
        rest = st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), min_size=c, max_size=c)
        weights = [a + 5 * b for a, b in zip(data.draw(rest), weights, strict=True)]
    what = {"unit": unit} if one_hot else {"vector": tuple(weights)}
    feature = Feature(layer="a", position=(row, column), power=power, **what)
    read = feature.read(maps)
    plain = Feature(layer="a", position=(row, column), **what).read(maps)
    for i in range(n):
        hidden = [maps[i, k, row, column].item() for k in range(c)]
        dot = sum(a * b for a, b in zip(hidden, weights, strict=True))
        lengths = math.sqrt(sum(a * a for a in hidden)) * math.sqrt(sum(b * b for b in weights))
        assert read[i].item() == pytest.approx(dot * (dot / lengths) ** power, rel=1e-9, abs=1e-15)
    assert (read * plain >= 0).all()
    assert (read.abs() <= plain.abs() * (1 + 1e-12)).all()
    if power == 0:
        assert torch.equal(read, plain)


def test_powers_by_hand() -> None:
    maps = torch.tensor([[3.0, 4.0], [-3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)[..., None, None]
    for what, expected in (
        ({"unit": 0, "power": 2}, [3 * 0.6**2, -3 * 0.6**2, 0]),
        ({"unit": 0, "power": 4}, [3 * 0.6**4, -3 * 0.6**4, 0]),
        ({"vector": (10.0, 0.0), "power": 2}, [30 * 0.6**2, -30 * 0.6**2, 0]),
        ({"vector": (3.0, 4.0), "power": 2}, [25, 7 * 0.28**2, 8 * 0.8**2]),
    ):
        read = Feature(layer="a", **what).read(maps)
        np.testing.assert_allclose(read, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("power", [2, 4])
def test_where_all_is_zero_the_activation_is_and_its_gradient_is_finite(
    dtype: torch.dtype, power: int
) -> None:
    maps = torch.zeros(2, 3, 1, 1, dtype=dtype)
    maps[1] = 1
    maps.requires_grad_()
    for what in ({"unit": 1}, {"vector": (1.0, -2.0, 0.5)}):
        read = Feature(layer="a", power=power, **what).read(maps)
        assert read.dtype == dtype
        assert read[0] == 0
        assert read[1] != 0
        [gradient] = torch.autograd.grad(read.sum(), maps)
        assert gradient.isfinite().all()
        assert gradient[1].any()


@pytest.mark.parametrize("power", [-2, -1, 1, 3])
def test_a_power_that_would_lose_the_sign_is_refused(power: int) -> None:
    with pytest.raises(ValueError, match=f"power is 0, 2 or another even number, not {power}$"):
        Feature(layer="a", unit=1, power=power)
    with pytest.raises(ValueError, match=f"even number, not {power}$"):
        Feature.direction("a", [1.0, 2.0], power=power)


@pytest.mark.parametrize("power", [0, 2, 4])
def test_a_power_is_described_and_restored_through_json(power: int) -> None:
    for feature in (
        Feature(layer="a", unit=3, power=power),
        Feature.direction("a", [1.0, -0.5], name="edge", position=(0, 2), power=power),
    ):
        described = feature.describe()
        assert ("power" in described) == bool(power)
        assert Feature.restore(json.loads(json.dumps(described))) == feature
        placed = feature.placed(2 if feature.unit is None else 4, 3, 3)
        assert placed.power == feature.at(None).power == power


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1.0, 1e19, 1e30])
def test_a_cosine_depends_on_no_scale(scale: float) -> None:
    hidden = (torch.tensor([1.0, 2.0, 3.0]) * scale).view(1, 3, 1, 1).requires_grad_()
    value = Feature(layer="a", vector=(1.0, 1.0, 0.0), power=2).read(hidden)
    # 3 * (3 / sqrt(14 * 2))^2
    torch.testing.assert_close(value / scale, torch.tensor([27 / 28]), rtol=1e-5, atol=0)
    [gradient] = torch.autograd.grad(value.sum(), hidden)
    # Homogeneous of degree 1: the sum of S is the activation.
    total = (gradient.double() * hidden.detach().double()).sum() / scale
    torch.testing.assert_close(float(total), 27 / 28, rtol=1e-4, atol=0)


@pytest.mark.parametrize("through", ["early", "stem", "pixels"])
@pytest.mark.parametrize("power", [2, 4])
def test_without_biases_attributions_sum_to_the_weighted_activation(
    generator: torch.Generator, through: str, power: int
) -> None:
    network = Network(Small().double(), preprocessing=BLACK_IS_ZERO)
    images = torch.randn(5, 3, *SIZE, generator=generator, dtype=torch.float64)
    # dot * cos^p is homogeneous of degree 1 in the hidden vector.
    for what in ({"vector": (1.0, -0.5, 0.25, 2.0, -1.0, 0.0)}, {"unit": 2}):
        feature = Feature(layer="mixed", power=power, **what)
        result = attribute(network, images, feature, through)
        assert result.feature.power == power
        assert result.activation.abs().max() > 1e-4
        total = result.attribution.sum((1, 2, 3))
        torch.testing.assert_close(total, result.activation, rtol=1e-10, atol=1e-12)
        difference = result.excitation - result.inhibition
        torch.testing.assert_close(difference, result.activation, rtol=1e-10, atol=1e-12)


def test_a_power_looks_through_the_boxes_of_all_channels(generator: torch.Generator) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        branches = Parallel(
            nn.Conv2d(3, 1, 1),
            nn.Conv2d(3, 1, (5, 1), padding=(2, 0)),
            nn.Conv2d(3, 1, (1, 3), padding=(0, 1)),
        )
    module = nn.Sequential(branches, nn.Identity()).double()
    network = Network(module, preprocessing=Preprocessing(size=(11, 9)))
    own = Box(top=5, left=4, height=1, width=1)
    union = Box(top=3, left=3, height=5, width=3)
    assert receptive_field(network, "0:0") == own
    assert receptive_field(network, Feature.direction("0", [2.0, 0.0, 0.0])) == own
    corner = Box(top=0, left=0, height=3, width=2)
    images = torch.randn(1, 3, 11, 9, generator=generator, dtype=torch.float64)
    for what in ({"unit": 0}, {"unit": 1}, {"vector": (2.0, 0.0, 0.0)}):
        feature = Feature(layer="0", power=2, **what)
        assert receptive_field(network, feature) == union
        assert receptive_field(network, feature.at((0, 0))) == corner
        moved = attribute(network, images, feature, "pixels").attribution[0].any(0)
        rows, columns = moved.nonzero().unbind(1)
        assert (rows.min(), rows.max()) == (3, 7)
        assert (columns.min(), columns.max()) == (3, 5)
