"""A toy task with both kinds of inhibition at once: f_i = ReLU(x_i - x_(i+1)), twelve in a ring.

A model that is free computes with its first layer what it likes. Of XOR most learn |a - b|, whose
hidden units are silent on [1, 1]: nothing is left to be held back. So here x >= 0, W1 >= 0 and
b1 = 0. Then h = W1 x exactly: each input is a feature that adds its column of W1, its code is the
input, and there is neither bias nor rest. No hidden unit falls when x_(i+1) rises, and f_i has to:
in every model that learns the task, x_(i+1) acts by negative weights of W2. With x_i and x_(i+1) on
that is functional inhibition, by how the model is made. The weights of the task have rank 11. Fewer
hidden units cannot hold them, and drive outputs by inputs with which these have nothing to do:
interference, in the same model, for the same inputs.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit, prange

from opponent.core.compiled import keep_compiled
from opponent.paper.toy.kernel import BATCH, adam, gradient, uniform
from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.tasks import ON, inputs
from opponent.paper.toy.train import RATE, SETTLE, STEPS, check_training

# The number of the task in the seeds of its models; those of abs and XOR are 0 and 1.
_NUMBER = 2
keep_compiled(__name__)
_jit: Any = njit(cache=True, error_model="numpy", forceinline=True)


@_jit
@no_type_check
def draw_veto(on, state, x, wanted, weight):
    """Draw a batch: each input is on with some chance, and then a number in [0, 1).

    Args:
        on: the chance.
        state: of the random numbers.
        x, wanted: inputs and what the outputs should be, one column an input, to be filled; the
            first is the input that is zero.
        weight: how often each was drawn; the sum is the batch's size.
    Returns:
        How many columns are in use.
    """
    n = len(x)
    weight[0], count = 0.0, 1
    for _ in range(BATCH):
        drawn = False
        for i in range(n):
            x[i, count] = 0.0
            if uniform(state) < on:
                x[i, count] = uniform(state)
                drawn = True
        for i in range(n):
            wanted[i, count] = max(x[i, count] - x[(i + 1) % n, count], 0.0)
        if drawn:
            weight[count] = 1.0
            count += 1
        else:
            weight[0] += 1.0
    return count


@njit(parallel=True, cache=True, error_model="numpy")
@no_type_check
def train_all_veto(on, seeds, rates, importance, flats, m):
    """All steps of each model, in place, one model a thread; W1 stays >= 0, and b1 zero.

    Args:
        on: the chance that an input is on.
        seeds: of each model, the first state of the random numbers.
        rates: the learning rate of each step.
        importance: of each output.
        flats: of each model W1, b1, W2, b2, one after another.
        m: hidden units.
    """
    for s in prange(len(seeds)):
        flat, n = flats[s], len(importance)
        # Room for one more: the last draw is written before it is known whether it counts.
        room = BATCH + 2
        state = np.full(1, seeds[s], np.uint64)
        x, wanted, weight = np.zeros((n, room)), np.zeros((n, room)), np.zeros(room)
        h, back, slope = np.empty((m, room)), np.empty((m, room)), np.empty((n, room))
        grad, first, second = np.zeros_like(flat), np.zeros_like(flat), np.zeros_like(flat)
        for t in range(len(rates)):
            count = draw_veto(on, state, x, wanted, weight)
            gradient(x, wanted, weight, count, importance, flat, m, grad, h, back, slope)
            adam(flat, grad, first, second, t + 1, rates[t])
            for k in range(m * n):
                flat[k] = max(flat[k], 0.0)
            for k in range(m * n, m * n + m):
                flat[k] = 0.0


def train_veto(
    hidden: int, numbers: range, *, seed: int = 0, steps: int = STEPS, settle: float = SETTLE
) -> ToyModels:
    """Train each model by Adam, begun and slowed down as `train` does for the other tasks.

    All outputs are equally important.

    Args:
        hidden: units; 12 are enough for an exact model.
        numbers: of the models; a model depends on its own number alone.
        seed: of all of them.
        steps: of 600 inputs each.
        settle: the share of the steps over which the rate falls to zero.
    Returns:
        The trained models.
    Raises:
        ValueError: no hidden unit, no step, or a share or seed that is none.
    """
    check_training("xor", [hidden], steps, settle, seed)  # as for any task
    n, m = inputs("veto"), hidden
    rows, seeds = list[np.ndarray](), list[np.uint64]()
    for number in numbers:
        generator = np.random.default_rng([seed, _NUMBER, hidden, number])
        parts = (np.abs(generator.normal(0, np.sqrt(2 / (n + m)), n * m)) for _ in range(2))
        first, second = parts
        rows.append(np.concatenate([first, np.zeros(m), second, np.zeros(n)]))
        seeds.append(generator.integers(2**64, dtype=np.uint64))
    last = max(round(settle * steps), 1)
    rates = RATE * np.minimum((steps - np.arange(steps)) / last, 1)
    flats = np.stack(rows)
    train_all_veto(ON["veto"], np.array(seeds), rates, np.ones(n), flats, hidden)
    w1, b1, w2, b2 = np.split(flats, np.cumsum([n * m, m, n * m]), axis=1)
    return ToyModels(task="veto", w1=w1.reshape(-1, m, n), b1=b1, w2=w2.reshape(-1, n, m), b2=b2)
