"""Which axis of a layer's output is which: its maps, and back."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.odd_network import images
from torch import Tensor

from opponent.core.box import Box
from opponent.core.errors import UnknownLayout
from opponent.models.layout import Layout


def test_axes_move_to_images_channels_rows_columns() -> None:
    tensor = torch.arange(2 * 3 * 4 * 5.0).view(2, 4, 5, 3)
    maps = Layout(axes="nhwc").to_map(tensor)
    assert maps.shape == (2, 3, 4, 5)
    assert maps[1, 2, 3, 4] == tensor[1, 3, 4, 2]
    first = torch.arange(6 * 2 * 3.0).view(6, 2, 3)
    layout = Layout.of_tokens("tnc", (2, 3))
    assert layout.to_map(first).shape == (2, 3, 2, 3)
    assert layout.to_map(first)[1, 2, 1, 2] == first[5, 1, 2]
    assert Layout(axes="nc").to_map(torch.zeros(2, 7)).shape == (2, 7, 1, 1)
    assert Layout(axes="n1c").to_map(torch.zeros(2, 1, 7)).shape == (2, 7, 1, 1)
    assert Layout(axes="n").to_map(torch.zeros(2)).shape == (2, 1, 1, 1)
    assert Layout(axes="nwc").to_map(torch.zeros(2, 4, 7)).shape == (2, 7, 1, 4)


def test_tokens_lie_in_their_grid_and_the_others_below() -> None:
    layout = Layout.of_tokens("ntc", (2, 3), extras=[0, 1], names=["cls", "reg0"])
    tokens = torch.arange(8.0).view(1, 8, 1)
    assert layout.to_map(tokens)[0, 0].tolist() == [[2, 3, 4], [5, 6, 7], [0, 1, 0]]
    assert layout.shape((1, 8, 1)) == (1, 3, 3)
    assert layout.grid_box((1, 8, 1)) == Box(top=0, left=0, height=2, width=3)
    assert layout.text == "n 2+2x3 c"
    # In any order: windows of 1 x 2 one after the other, and a token at the end.
    turned = Layout.of_tokens("nct", (2, 4), places=[0, 1, 4, 5, 2, 3, 6, 7], extras=[8])
    rows = turned.to_map(torch.arange(9.0).view(1, 1, 9))[0, 0].tolist()
    assert rows == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 0, 0, 0]]


@given(st.data())
def test_to_map_and_from_map_are_inverse(data: Any) -> None:
    draw = data.draw
    letters = draw(st.sampled_from(["nchw", "nhwc", "nhc", "nwc", "nc", "n", "ntc", "nct", "nt"]))
    letters = "".join(draw(st.permutations(letters)))
    if len(letters) < 4 and draw(st.booleans()):
        place = draw(st.integers(0, len(letters)))
        letters = letters[:place] + "1" + letters[place:]
    sizes = {axis: draw(st.integers(1, 4)) for axis in letters if axis != "1"} | {"1": 1}
    layout = Layout(axes=letters)
    if "t" in letters:
        grid = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        extra = draw(st.integers(0, 5))
        order = draw(st.permutations(range(grid[0] * grid[1] + extra)))
        layout = Layout.of_tokens(letters, grid, order[extra:], order[:extra])
        sizes["t"] = len(order)
    shape = tuple(sizes[axis] for axis in letters)
    tensor = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    maps = layout.to_map(tensor)
    assert maps.ndim == 4
    assert maps.shape[1:] == layout.shape(shape)
    assert maps.sum() == tensor.sum()  # each element once, and zeros
    back = layout.from_map(maps)
    assert torch.equal(back, tensor)
    assert back.is_contiguous()
    with pytest.raises(UnknownLayout, match=r"has shape .* is expected"):
        layout.to_map(tensor[None])
    if layout.grid is not None:
        for other in (maps[:, :, :-1], maps[..., :-1]):
            with pytest.raises(UnknownLayout, match=r"positions, where .* is expected"):
                layout.from_map(other)


def test_another_number_of_tokens_is_refused() -> None:
    layout = Layout.of_tokens("ntc", (2, 3))
    with pytest.raises(UnknownLayout, match=r"has 7 tokens, where 'n 2x3 c' is expected"):
        layout.to_map(torch.zeros(1, 7, 2))


@pytest.mark.parametrize(
    ("text", "shape", "maps"),
    [
        ("n c h w", (1, 2, 3, 4), (2, 3, 4)),
        ("n h w c", (1, 2, 3, 4), (4, 2, 3)),
        ("t n c", (5, 1, 3), (3, 5, 1)),
        ("n 2x3 c", (1, 6, 4), (4, 2, 3)),
        ("n c 1+2x3", (1, 4, 7), (4, 3, 3)),
        ("n c", (1, 9), (9, 1, 1)),
        ("n 1 c", (1, 1, 9), (9, 1, 1)),
    ],
)
def test_a_layout_that_a_user_says(
    text: str, shape: tuple[int, ...], maps: tuple[int, int, int]
) -> None:
    layout = Layout.parse(text, shape)
    assert layout.shape(shape) == maps
    tensor = images(*shape)
    assert torch.equal(layout.from_map(layout.to_map(tensor)), tensor)
    assert layout.names == (("cls",) if "1+" in text else ())


@pytest.mark.parametrize("text", ["", "c h w", "n c c", "n x", "nchw", "n h t c", "n c -1x3"])
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no layout; write the axes in order, such as"):
        Layout.parse(text, (1, 2, 3))


@pytest.mark.parametrize("text", ["n c", "n 2x2 c", "n 1+2x3 c", "n c h w"])
def test_a_layout_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"'{text.replace('+', '.')}' does not fit .*\(1, 6, 4\)"):
        Layout.parse(text, (1, 6, 4))


def maps_of(tensor: Tensor, axes: str) -> Tensor:
    return Layout(axes=axes).to_map(tensor)


def test_gradients_come_back_as_the_output_lies() -> None:
    leaf = images(2, 3, 4, 5).requires_grad_()
    maps_of(leaf, "nhwc")[0, 1, 2, 3].backward()
    assert leaf.grad is not None
    assert leaf.grad.nonzero().tolist() == [[0, 2, 3, 1]]
