"""The task with both kinds of inhibition: its batches, and its training against PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn

from opponent.paper.toy.kernel import BATCH
from opponent.paper.toy.tasks import ON, truth
from opponent.paper.toy.train import RATE
from opponent.paper.toy.veto import draw_veto, train_all_veto, train_veto


def _batch(state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, wanted, weight = np.zeros((12, BATCH + 2)), np.zeros((12, BATCH + 2)), np.zeros(BATCH + 2)
    count = draw_veto(ON["veto"], state, x, wanted, weight)
    return x[:, :count].T.copy(), wanted[:, :count].T.copy(), weight[:count].copy()


def test_batches_are_as_the_task_says() -> None:
    state, all_x = np.array([5], np.uint64), list[np.ndarray]()
    for _ in range(100):
        x, wanted, weight = _batch(state)
        assert weight.sum() == BATCH
        assert not x[0].any()
        assert x[1:].any(1).all()
        assert (wanted == truth("veto", x)).all()
        for row, right in zip(x[:20], wanted[:20], strict=True):
            assert right.tolist() == [max(row[i] - row[(i + 1) % 12], 0) for i in range(12)]
        all_x.append(np.repeat(x, weight.astype(int), axis=0))
    drawn = np.concatenate(all_x)
    assert (drawn > 0).mean(0) == pytest.approx(0.1, abs=0.006)
    assert drawn[drawn > 0].mean() == pytest.approx(0.5, abs=0.01)
    on = (drawn > 0).astype(float)
    assert np.corrcoef(on.T)[~np.eye(12, dtype=bool)] == pytest.approx(0, abs=0.02)


def test_steps_are_pytorchs_with_weights_kept_from_below() -> None:
    hidden, steps, n = 4, 6, 12
    generator = np.random.default_rng(0)
    flat = np.abs(generator.normal(size=(1, 2 * n * hidden + hidden + n))) * 0.3
    flat[0, : n * hidden : 5] = 1e-4  # some that want to be negative
    flat[0, n * hidden : n * hidden + hidden] = 0
    parts = np.split(flat[0].copy(), np.cumsum([n * hidden, hidden, n * hidden]))
    w1, b1, w2, b2 = (nn.Parameter(torch.from_numpy(part)) for part in parts)
    optimiser = torch.optim.Adam([w1, b1, w2, b2], lr=RATE)
    state = np.array([9], np.uint64)
    train_all_veto(
        ON["veto"], state.copy(), np.full(steps, RATE), np.ones(n), flat, hidden
    )  # fmt: skip
    for _ in range(steps):
        x, wanted, weight = (torch.from_numpy(part) for part in _batch(state))
        h = (x @ w1.view(hidden, n).T + b1).relu()
        error = (h @ w2.view(n, hidden).T + b2).relu() - wanted
        optimiser.zero_grad()
        (weight[:, None] * error**2).sum().div(BATCH).backward()
        optimiser.step()
        with torch.no_grad():
            w1.clamp_(min=0)
            b1.zero_()
    theirs = torch.cat([x.detach() for x in (w1, b1, w2, b2)]).numpy()
    assert (flat[0, : n * hidden] == 0).any()
    np.testing.assert_allclose(flat[0], theirs, rtol=0, atol=1e-12)


def test_a_model_depends_on_its_own_number_alone() -> None:
    both, one = (train_veto(3, numbers, steps=20) for numbers in (range(2), range(1, 2)))
    for name, values in one.parameters.items():
        assert (both.parameters[name][1:] == values).all()
    assert one.w1.min() >= 0
    assert not one.b1.any()
    assert one.w2.shape == (1, 12, 3)
    other = train_veto(3, range(1, 2), steps=20, seed=1)
    assert (other.w1 != one.w1).any()


@pytest.mark.parametrize(("hidden", "steps"), [(0, 5), (3, 0)])
def test_what_is_no_training_is_refused(hidden: int, steps: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        train_veto(hidden, range(1), steps=steps)
