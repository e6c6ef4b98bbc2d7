"""The compiled loops against PyTorch, and the sampler against plain draws."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.support.toys import (
    any_toys,
    compiled_sampler,
    flat_of,
    gradient_of,
    loss_of,
    module,
    plain_batch,
)
from torch import nn

from opponent.paper.toy import kernel
from opponent.paper.toy.kernel import BATCH, FEATURES
from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.tasks import ON, TASKS, truth
from opponent.paper.toy.train import RATE

# Loops against PyTorch


def test_random_numbers_are_splitmix64s() -> None:
    """The first numbers of seed 1234567, as other implementations give them."""
    state = np.array([1234567], np.uint64)
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert [kernel.uniform(state) for _ in known] == [(x >> 11) / 2**53 for x in known]


@pytest.mark.parametrize(("task", "hidden"), [("abs", 12), ("abs", 1), ("xor", 10), ("xor", 3)])
def test_gradient_is_autograds(task: str, hidden: int) -> None:
    toys, draw = any_toys(task, hidden), compiled_sampler(task, 5)
    for _ in range(3):
        x, wanted, weight = draw()
        dense = np.repeat(x, weight.astype(int), axis=0)
        assert len(dense) == BATCH
        assert (wanted == truth(task, x)).all()
        model = module(toys)
        expected = torch.autograd.grad(loss_of(model, task, dense), list(model.parameters()))
        ours = gradient_of(toys, x, wanted, weight)
        assert np.abs(expected[2].numpy()).max() > 1e-3
        np.testing.assert_allclose(ours, flat_of(list(expected)), rtol=0, atol=1e-12)


def test_adam_is_pytorchs() -> None:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=50)
    theirs = nn.Parameter(torch.from_numpy(flat.copy()))
    optimiser = torch.optim.Adam([theirs], lr=RATE)
    first, second = np.zeros(50), np.zeros(50)
    for step in range(1, 101):
        grad = generator.normal(size=50) * 10.0 ** generator.integers(-9, 2, 50)
        kernel.adam(flat, grad, first, second, step, RATE)
        theirs.grad = torch.from_numpy(grad)
        optimiser.step()
    np.testing.assert_allclose(flat, theirs.detach().numpy(), rtol=0, atol=1e-13)


# The sampler


def _statistics(toys: ToyModels, draw: Callable[[], tuple[np.ndarray, ...]], n: int) -> np.ndarray:
    return np.stack([gradient_of(toys, *draw()) for _ in range(n)])


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two samples' means and covariances, in standard errors."""
    largest = 0.0
    middle, spread = np.concatenate([a, b]).mean(0), np.concatenate([a, b]).std(0) + 1e-12
    a, b = (a - middle) / spread, (b - middle) / spread
    mix = np.random.default_rng(1).normal(size=(a.shape[1], 15)) / np.sqrt(a.shape[1])
    for first, second in ((a, b), (a @ mix, b @ mix)):
        moments = [(first, second)]
        moments.append((first**2, second**2))
        if first.shape[1] == 15:
            moments.append(
                tuple((x[:, :, None] * x[:, None]).reshape(len(x), -1) for x in (first, second))
            )
        for p, q in moments:
            error = np.sqrt(p.var(0) / len(p) + q.var(0) / len(q)) + 1e-9
            largest = max(largest, float((np.abs(p.mean(0) - q.mean(0)) / error).max()))
    return largest


@pytest.mark.parametrize("task", TASKS)
def test_batch_gradient_is_distributed_as_the_plain_samplers(task: str) -> None:
    """Mean and covariance; and a sampler that weighs wrongly is found out."""
    toys, n = any_toys(task, 6, seed=2), 2000
    rng = np.random.default_rng(0)

    def plain() -> tuple[np.ndarray, ...]:
        x = plain_batch(task, rng)
        return x, truth(task, x), np.ones(BATCH)

    expected = _statistics(toys, plain, n)
    assert _apart(expected, _statistics(toys, plain, n)) < 5
    assert _apart(expected, _statistics(toys, compiled_sampler(task, 7), n)) < 5

    def mutant(change: Callable[[np.ndarray, np.ndarray], None]) -> float:
        draw = compiled_sampler(task, 7)

        def wrong() -> tuple[np.ndarray, ...]:
            x, wanted, weight = draw()
            change(x, weight)
            return x, wanted, weight

        return _apart(expected, _statistics(toys, wrong, n))

    def all_zero(x: np.ndarray, weight: np.ndarray) -> None:
        weight[0] = BATCH

    def mean_zero(x: np.ndarray, weight: np.ndarray) -> None:
        # The right mean, the wrong covariance: the zeros do not make up for the others.
        weight[0] = BATCH * (1 - (ON[task] * (1 if task == "abs" else 0.75))) ** FEATURES

    def at_most_once(x: np.ndarray, weight: np.ndarray) -> None:
        weight[1:] = np.minimum(weight[1:], 1)

    def heavy(x: np.ndarray, weight: np.ndarray) -> None:
        weight[-1] += 3

    assert mutant(all_zero) > 8
    assert mutant(mean_zero) > 8
    assert mutant(heavy) > 8
    if task == "xor":
        assert mutant(at_most_once) > 8


@pytest.mark.parametrize("on", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("task", TASKS)
def test_patterns_have_their_chances(task: str, on: float) -> None:
    """What the table draws, worked out exactly, pattern by pattern."""
    keep, other, _ = kernel.patterns(task == "xor", on)
    chances = np.zeros(len(keep))
    np.add.at(chances, np.arange(len(keep)), keep / len(keep))
    np.add.at(chances, other, (1 - keep) / len(keep))
    base, digit_chance = (4, on / 4) if task == "xor" else (2, on)
    for number, chance in enumerate(chances):
        digits = [number // base**i % base for i in range(FEATURES)]
        off = 1 - (base - 1) * digit_chance
        expected = np.prod([digit_chance if digit else off for digit in digits])
        assert chance == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("task", TASKS)
def test_weights_sum_to_the_batch(task: str) -> None:
    draw = compiled_sampler(task, 3)
    for _ in range(200):
        x, _, weight = draw()
        assert weight.sum() == BATCH
        assert not x[0].any()
        assert x[len(x) - 1].any()
