"""The walk over autograd's graph, against one backward pass a feature."""

import pytest
import torch
from tests.support.jacobian import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    Branches,
    Function,
    N,
    Residual,
    compare,
    conv,
    rand,
    seeded,
)
from torch import Tensor, nn
from torch.nn import functional as F

from opponent.attribution.jacobian import excitation_inhibition_l2, jacobian_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


def test_blocks_by_hand() -> None:
    """Two units of a convolution of 1 x 2 with whole numbers, and a third that is dead."""
    leaf = torch.tensor([[[[1.0, -2.0, 3.0]]]]).requires_grad_()
    weight = torch.tensor([[[[2.0, -1.0]]], [[[0.0, 5.0]]], [[[0.0, 0.0]]]])
    target = F.conv2d(leaf.clone(), weight)
    [block] = jacobian_blocks(target, leaf, torch.eye(3), (0, 1))
    assert (block.top, block.left) == (0, 1)
    assert block.units.tolist() == [0, 1, 2]
    assert block.derivatives.tolist() == [[[[[2.0], [-1.0]]], [[[0.0], [5.0]]], [[[0.0], [0.0]]]]]
    hidden = leaf.detach().permute(0, 2, 3, 1)
    # Unit 0: 2 * -2 = -4 and -1 * 3 = -3, unit 1: 5 * 3 = 15.
    assert excitation_inhibition_l2([block], hidden, 3).tolist() == [
        [[0.0, 7.0, 5.0], [15.0, 0.0, 15.0], [0.0] * 3]
    ]


def test_a_unit_begins_in_its_own_branch_only() -> None:
    leaf = rand(2, CHANNELS, HEIGHT, WIDTH).requires_grad_()
    target = torch.cat([conv(4, 2, 1)(leaf), conv(4, 3, 5, padding=2)(leaf)], 1)
    blocks = jacobian_blocks(target, leaf, torch.eye(5).double(), (4, 6))
    boxes = {tuple(x.units.tolist()): tuple(x.derivatives.shape[2:4]) for x in blocks}
    assert boxes == {(0, 1): (1, 1), (2, 3, 4): (5, 5)}


def test_branches_that_share_some_units() -> None:
    """Blocks meet of which some have features in common and others none."""

    def function(x: Tensor) -> Tensor:
        first, second = conv(4, 2, 1)(x), conv(4, 2, 3, padding=1)(x)
        third = torch.cat([F.relu(first), torch.zeros_like(first)], 1)
        return torch.cat([first, second], 1) + third + torch.cat([x[:, 1:3], x[:, 2:]], 1)

    compare(function, rand(N, CHANNELS, HEIGHT, WIDTH))


@pytest.mark.parametrize("function", [seeded(Branches), seeded(Residual)])
def test_an_h_of_zeros_has_sums_of_zero(function: Function) -> None:
    hidden = torch.zeros(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    compare(function, hidden)
    leaf = hidden.clone().requires_grad_()
    target = function(leaf.clone())
    directions = torch.eye(target.shape[1], dtype=target.dtype)
    blocks = jacobian_blocks(target, leaf, directions, (3, 3))
    sums = excitation_inhibition_l2(blocks, hidden.permute(0, 2, 3, 1), len(directions))
    assert not sums.any()


def test_through_the_pixels() -> None:
    """A small network from its three channels on."""
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 5, 2, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(6, 8, 3, padding=1),
        )
    )
    compare(network, rand(2, 3, 21, 17))


def test_what_does_not_depend_on_the_leaf_has_no_block() -> None:
    leaf = rand(2, CHANNELS, HEIGHT, WIDTH).requires_grad_()
    constant = rand(2, CHANNELS, HEIGHT, WIDTH)
    assert jacobian_blocks(constant, leaf, torch.eye(4).double(), (0, 0)) == []
    weight = rand(5, CHANNELS, 1, 1).requires_grad_()
    assert jacobian_blocks(F.conv2d(constant, weight), leaf, torch.eye(5).double(), (0, 0)) == []


def test_frozen_and_learning_weights_are_alike() -> None:
    for function in (seeded(Branches), seeded(Residual)):
        for learns in (False, True):
            compare(function.requires_grad_(learns), rand(N, CHANNELS, HEIGHT, WIDTH))


def test_half_precision_keeps_the_norm_in_range() -> None:
    leaf = torch.full((1, 2, 1, 1), 300.0, dtype=torch.float16, requires_grad=True)
    weight = torch.ones(1, 2, 1, 1, dtype=torch.float16)
    one = torch.ones(1, 1, dtype=torch.float16)
    blocks = jacobian_blocks(F.conv2d(leaf, weight), leaf, one, (0, 0))
    sums = excitation_inhibition_l2(blocks, leaf.detach().permute(0, 2, 3, 1), 1)
    [[[excitation, inhibition, norm]]] = sums.tolist()
    assert (excitation, inhibition) == (600.0, 0.0)
    assert norm == pytest.approx(300 * 2**0.5, rel=1e-3)
