"""The tasks: right answers, domains, probes."""

from itertools import product

import numpy as np
import pytest
from tests.support.toys import I6, plain_batch

from opponent.paper.toy.tasks import TASKS, domain, inputs, probes, truth


def test_truth() -> None:
    bits = np.array([[0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0]], dtype=float)
    assert truth("xor", bits).tolist() == [[0, 1, 1, 0, 0, 1]]
    assert truth("abs", np.array([[-2.0, 0, 1, -1, 0.5, 0]])).tolist() == [[2, 0, 1, 1, 0.5, 0]]


@pytest.mark.parametrize("task", TASKS)
def test_domain_is_weighted_as_training_draws(task: str) -> None:
    x, weight = domain(task)
    values = (-1, 0, 1) if task == "abs" else (0, 1)
    assert sorted(map(tuple, x.tolist())) == sorted(product(values, repeat=inputs(task)))
    assert weight.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([np.sign(plain_batch(task, rng)) for _ in range(500)])
    for row in (np.zeros(inputs(task)), I6[0] if task == "abs" else np.repeat(I6[2], 2)):
        [expected] = weight[(x == row).all(1)]
        seen = (drawn == row).all(1)
        assert abs(seen.mean() - expected) < 5 * np.sqrt(expected / len(drawn))


def test_probes() -> None:
    assert (probes("abs") == np.vstack([I6, -I6])).all()
    xor = probes("xor").reshape(12, 6, 2)
    assert (xor[:6] == np.stack([I6, 0 * I6], 2)).all()
    assert (xor[6:] == np.stack([I6, I6], 2)).all()
