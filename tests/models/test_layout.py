"""Which axis of a layer's output is which."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.odd_network import SMALL, images, seeded
from torch import Tensor, nn

from opponent import Network, attribute
from opponent.geometry.receptive_field import receptive_field
from opponent.models.layout import as_map, from_map, has_map, map_shape


class Tokens(nn.Module):
    """Patches, a class token, attention and a vector, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.start = nn.Parameter(torch.full((1, 1, 8), 3.0))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.start.expand(len(x), -1, -1), x], 1))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        logits: Tensor = self.head((x + self.mlp(x))[:, 0])
        return logits


def test_tokens_are_columns_of_rows_and_vectors_are_one_by_one() -> None:
    model = seeded(Tokens)
    network = Network(model, preprocessing=SMALL)
    assert "attention" not in network.layers  # it gives a pair
    assert network.layer("patches").shape == (8, 2, 4)
    assert network.layer("norm").shape == network.layer("mlp").shape == (8, 9, 1)
    assert network.layer("mlp.1").shape == (16, 9, 1)
    assert network.layer("logits").shape == (5, 1, 1)
    assert network.resolve("norm:3").position == (4, 0)
    x = images()
    tokens = model.patches(x).flatten(2).transpose(1, 2)
    tokens = model.norm(torch.cat([model.start.expand(2, -1, -1), tokens], 1)).detach()
    reading = network.run(x, "mlp.1", "norm", differentiate="target")
    torch.testing.assert_close(reading.through, tokens.transpose(1, 2)[..., None])
    value = attribute(network, x, "mlp.1:7@5,0", "norm")
    hidden = tokens + model.attention(tokens, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(value.activation, model.mlp[0](hidden)[:, 5, 7].detach())
    assert value.attribution.shape == (2, 8, 9, 1)
    assert receptive_field(network, "norm:3@2,0").slices == (slice(0, 4), slice(4, 8))
    assert receptive_field(network, "logits:3", "norm").slices == (slice(0, 9), slice(0, 1))


@given(st.integers(2, 4), st.data())
def test_as_map_and_from_map_are_inverse(axes: int, data: Any) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * axes))
    tensor = torch.arange(float(np.prod(shape))).reshape(shape)
    maps = as_map(tensor)
    assert maps.ndim == 4
    assert torch.equal(from_map(maps, tensor), tensor)
    index = [data.draw(st.integers(0, n - 1)) for n in shape]
    where = {2: [*index, 0, 0], 3: [index[0], index[-1], index[1], 0], 4: index}[axes]
    assert maps[tuple(where)] == tensor[tuple(index)]


def test_a_layer_of_five_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 to 4 axes, got shape \(1, 2, 3, 4, 5\)"):
        as_map(torch.zeros(1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((1, 7), (7, 1, 1)), ((1, 9, 7), (7, 9, 1)), ((1, 7, 4, 5), (7, 4, 5)), ((2, 1), (1, 1, 1))],
)
def test_shapes_of_maps(shape: tuple[int, ...], wanted: tuple[int, int, int]) -> None:
    assert has_map(shape)
    assert map_shape(shape) == wanted == tuple(as_map(torch.zeros(shape)).shape[1:])


def test_what_has_no_map() -> None:
    for shape in (None, (), (3,), (1, 2, 3, 4, 5)):
        assert not has_map(shape)
    with pytest.raises(ValueError, match=r"2 to 4 axes, got shape \(3,\)"):
        map_shape((3,))
