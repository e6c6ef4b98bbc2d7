"""Training: the plain loop, independence of neighbours and threads, what it refuses."""

from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from tests.support.toys import compiled_sampler, flat_of, loss_of, module

from opponent.paper.toy.models import flatten
from opponent.paper.toy.study import train_study
from opponent.paper.toy.tasks import TASKS, inputs
from opponent.paper.toy.train import RATE, initialise, train


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("settle", [0.0, 0.4])
def test_training_is_the_plain_loop(task: str, settle: float) -> None:
    steps, which = 150, 3
    start, seeds = initialise(task, 5, range(which, which + 1), seed=9)
    draw = compiled_sampler(task, int(seeds[0]))
    model = module(start)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    for t in range(steps):
        left = (steps - t) / (settle * steps) if settle else 1
        optimiser.param_groups[0]["lr"] = RATE * min(left, 1)
        x, _, weight = draw()
        optimiser.zero_grad()
        loss_of(model, task, np.repeat(x, weight.astype(int), axis=0)).backward()
        optimiser.step()
    ours = train(task, 5, range(which, which + 1), seed=9, steps=steps, settle=settle)
    moved = np.abs(flatten(ours) - flatten(start)).max()
    assert moved > 0.01
    np.testing.assert_allclose(
        flatten(ours)[0], flat_of(list(model.parameters())), rtol=0, atol=1e-9
    )


def test_a_model_does_not_depend_on_its_neighbours_or_the_threads() -> None:
    many = train("abs", 4, range(5), steps=60)
    alone = train("abs", 4, range(3, 4), steps=60)
    assert (flatten(alone)[0] == flatten(many)[3]).all()
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert (flatten(train("abs", 4, range(5), steps=60)) == flatten(many)).all()
    finally:
        numba.set_num_threads(threads)
    assert len(np.unique(flatten(many)[:, 0])) == 5
    assert (flatten(train("abs", 4, range(5), steps=60, seed=1)) != flatten(many)).any(1).all()


@pytest.mark.parametrize("task", TASKS)
def test_begins_xavier_normal(task: str) -> None:
    toys, seeds = initialise(task, 8, range(300))
    n = inputs(task)
    assert toys.w1.std() == pytest.approx(np.sqrt(2 / (n + 8)), rel=0.02)
    assert np.sqrt((toys.w2**2).mean()) == pytest.approx(np.sqrt(2 / 14), rel=0.02)
    assert not toys.b1.any()
    assert not toys.b2.any()
    assert len(set(seeds.tolist())) == 300


@pytest.mark.parametrize("task", TASKS)
def test_training_learns(task: str) -> None:
    before, _ = initialise(task, 12, range(4))
    after = train(task, 12, range(4), steps=2500)
    assert after.expected.min() < before.expected.min() / 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("and", 3, range(1)), "there is no toy model of 'and'; there are abs and xor"),
        (("abs", 0, range(1)), "at least one hidden unit"),
    ],
)
def test_what_cannot_be_trained(arguments: tuple[str, int, range], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(*arguments)


def test_other_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a seed is at least 0"):
        train("abs", 3, range(1), seed=-1)
    with pytest.raises(ValueError, match="at least one step"):
        train("abs", 3, range(1), steps=0)
    with pytest.raises(ValueError, match="share of the steps"):
        train("abs", 3, range(1), settle=1.5)
    with pytest.raises(ValueError, match="give each width once"):
        train_study("abs", out=tmp_path / "a", hidden=(3, 3))
    with pytest.raises(ValueError, match="at least one seed"):
        train_study("abs", out=tmp_path / "a", seeds=0)
    with pytest.raises(ValueError, match="at least 0"):
        train_study("abs", out=tmp_path / "a", seed=-1)
    assert not (tmp_path / "a").exists()
