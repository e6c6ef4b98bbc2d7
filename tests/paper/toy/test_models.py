"""Toy models: nets built by hand, losses, attributions, what counts as tense and as best."""

import numpy as np
import pytest
import torch
from tests.support.toys import I6, any_toys, by_hand, module, net

from opponent.paper.toy.kernel import FEATURES
from opponent.paper.toy.models import ToyModels, flatten, unflatten
from opponent.paper.toy.results import off_diagonal
from opponent.paper.toy.tasks import TASKS, domain, probes


@pytest.mark.parametrize("task", TASKS)
def test_nets_by_hand_are_exact_and_drive_their_own_outputs_only(task: str) -> None:
    toys = by_hand(task)
    x, _ = domain(task)
    assert not toys.losses(x).any()
    assert not toys.worst.any()
    excitation, inhibition = toys.attributions(probes(task))
    if task == "abs":
        assert (excitation == np.vstack([I6, I6])).all()
        assert not inhibition.any()
    else:
        # [1, 0]: or alone. [1, 1]: or gives 2, and takes 2 away.
        assert (excitation == np.vstack([I6, 2 * I6])).all()
        assert (inhibition == np.vstack([0 * I6, 2 * I6])).all()
    assert off_diagonal(excitation[0], inhibition[0]) == {"largest": 0.0, "mean": 0.0}


def test_xor_has_an_exact_net_without_tension() -> None:
    """|a - b| too: the hidden layer is silent for [1, 1], and no output weight is negative."""
    w1 = np.vstack([np.kron(I6, [[1.0, -1.0]]), np.kron(I6, [[-1.0, 1.0]])])
    toys = net("xor", w1, np.zeros(12), np.hstack([I6, I6]))
    assert not toys.losses(domain("xor")[0]).any()
    excitation, inhibition = toys.attributions(probes("xor"))
    assert (excitation == np.vstack([I6, 0 * I6])).all()
    assert not inhibition.any()
    assert toys.tense().tolist() == [0]


def test_tense_outputs_are_counted() -> None:
    assert by_hand("xor").tense().tolist() == [6]
    assert by_hand("abs").tense().tolist() == [0]
    two = by_hand("xor")
    two.w2[0, 2:, FEATURES:] *= 0.4
    assert two.tense().tolist() == [2]
    two.w2[0, 0] *= -1  # as tense as before: its signs alone have changed
    assert two.tense().tolist() == [2]


def test_losses_weigh_importance() -> None:
    dead = net("abs", np.zeros((1, 6)), np.zeros(1), np.zeros((6, 1)))
    assert dead.losses(2 * I6)[0] == pytest.approx([4 * 0.9**i for i in range(6)])


def test_excitation_less_inhibition_is_the_sum_of_s() -> None:
    toys = any_toys("xor", 7)
    x = probes("xor")
    excitation, inhibition = toys.attributions(x)
    model = module(toys)
    h = model[:2](torch.from_numpy(x)).detach().requires_grad_()  # type: ignore[index]
    for i in range(FEATURES):
        total = model[2](h)[:, i].sum()  # type: ignore[index]
        s = (torch.autograd.grad(total, h)[0] * h).detach().numpy()
        assert excitation[0, :, i] == pytest.approx(np.where(s > 0, s, 0).sum(1))
        assert inhibition[0, :, i] == pytest.approx(-np.where(s < 0, s, 0).sum(1))


def test_rows_and_models_are_one() -> None:
    toys = any_toys("xor", 4)
    again = unflatten("xor", 4, flatten(toys))
    assert all((again.parameters[k] == x).all() for k, x in toys.parameters.items())


def test_best_counts_inputs_as_drawn() -> None:
    """A net that errs for one feature alone is worse than one that errs for all six at once."""
    exact = by_hand("abs")
    rare, often = exact.w2[0].copy(), exact.w2[0].copy()
    often[5, 5] = 0.9
    rare_w1, rare_b1 = exact.w1[0].copy(), exact.b1[0].copy()
    rare_w1 = np.vstack([rare_w1, np.ones(6)])
    rare_b1 = np.append(rare_b1, -5.0)
    parts = {
        "w1": np.stack([np.vstack([exact.w1[0], np.zeros(6)]), rare_w1]),
        "b1": np.stack([np.append(exact.b1[0], 0), rare_b1]),
        "w2": np.stack([np.hstack([often, np.zeros((6, 1))]), np.hstack([rare, np.ones((6, 1))])]),
        "b2": np.zeros((2, 6)),
    }
    toys = ToyModels(task="abs", **parts)
    assert toys.worst[0] < toys.worst[1]
    assert toys.best == 1
    tied = toys.only([1, 1])
    assert tied.best == 0
