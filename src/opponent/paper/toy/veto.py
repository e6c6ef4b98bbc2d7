"""A toy task that cannot be done without inhibition: f_i = ReLU(|a_i| - |b_i|), six pairs (a, b).

XOR can be done without: |a - b| is a sum of two hidden units with positive weights, and most models
that are trained find it. A sum of hidden units with weights >= 0 is convex. Before its ReLU, f_i has
to be |a_i| - |b_i| wherever that is positive, which is not convex in b_i. So some weight of every
exact model is negative, whatever its first layer does: with a and b on, b takes away what a adds.
That is functional inhibition by proof. With fewer than 24 hidden units, pairs share them, and outputs
are driven by pairs with which they have nothing to do: interference. A model has both at once.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit, prange

from opponent.core.compiled import keep_compiled
from opponent.paper.toy.kernel import BATCH, FEATURES, adam, gradient, uniform
from opponent.paper.toy.models import ToyModels, unflatten
from opponent.paper.toy.tasks import IMPORTANCE, ON, inputs
from opponent.paper.toy.train import RATE, SETTLE, STEPS, check_training

# The number of the task in the seeds of its models; those of abs and XOR are 0 and 1.
_NUMBER = 2
keep_compiled(__name__)
_jit: Any = njit(cache=True, error_model="numpy", forceinline=True)


@_jit
@no_type_check
def draw_veto(on, state, x, wanted, weight):
    """Draw a batch: a pair is on with some chance; a, b, both or neither are then a number.

    Args:
        on: the chance that a pair is on.
        state: of the random numbers.
        x, wanted: inputs and what the outputs should be, one column an input, to be filled; the
            first is the input that is zero.
        weight: how often each was drawn; the sum is the batch's size.
    Returns:
        How many columns are in use.
    """
    weight[0], count = 0.0, 1
    for _ in range(BATCH):
        drawn = False
        for i in range(FEATURES):
            a, b = 0.0, 0.0
            if uniform(state) < on:
                which = int(4 * uniform(state))
                if which & 1:
                    a = 2 * uniform(state) - 1
                if which & 2:
                    b = 2 * uniform(state) - 1
                drawn = drawn or which > 0
            x[2 * i, count], x[2 * i + 1, count] = a, b
            wanted[i, count] = max(abs(a) - abs(b), 0.0)
        if drawn:
            weight[count] = 1.0
            count += 1
        else:
            weight[0] += 1.0
    return count


@njit(parallel=True, cache=True, error_model="numpy")
@no_type_check
def train_all_veto(on, seeds, rates, importance, flats, m):
    """All steps of each model, in place, one model a thread.

    Args:
        on: the chance that a pair is on.
        seeds: of each model, the first state of the random numbers.
        rates: the learning rate of each step.
        importance: of each feature.
        flats: of each model W1, b1, W2, b2, one after another.
        m: hidden units.
    """
    for s in prange(len(seeds)):
        flat, n, f = flats[s], 2 * FEATURES, FEATURES
        # Room for one more: the last draw is written before it is known whether it counts.
        room = BATCH + 2
        state = np.full(1, seeds[s], np.uint64)
        x, wanted, weight = np.zeros((n, room)), np.zeros((f, room)), np.zeros(room)
        h, back, slope = np.empty((m, room)), np.empty((m, room)), np.empty((f, room))
        grad, first, second = np.zeros_like(flat), np.zeros_like(flat), np.zeros_like(flat)
        for t in range(len(rates)):
            count = draw_veto(on, state, x, wanted, weight)
            gradient(x, wanted, weight, count, importance, flat, m, grad, h, back, slope)
            adam(flat, grad, first, second, t + 1, rates[t])


def train_veto(
    hidden: int, numbers: range, *, seed: int = 0, steps: int = STEPS, settle: float = SETTLE
) -> ToyModels:
    """Train each model by Adam, begun and slowed down as `train` does for the other tasks.

    Args:
        hidden: units; 24 are enough for an exact model.
        numbers: of the models; a model depends on its own number alone.
        seed: of all of them.
        steps: of 600 inputs each.
        settle: the share of the steps over which the rate falls to zero.
    Returns:
        The trained models.
    Raises:
        ValueError: no hidden unit, no step, or a share or seed that is none.
    """
    check_training("xor", [hidden], steps, settle, seed)  # which has as many inputs
    n, m, f = inputs("veto"), hidden, FEATURES
    rows, seeds = list[np.ndarray](), list[np.uint64]()
    for number in numbers:
        generator = np.random.default_rng([seed, _NUMBER, hidden, number])
        w1 = generator.normal(0, np.sqrt(2 / (n + m)), (m, n))
        w2 = np.abs(generator.normal(0, np.sqrt(2 / (m + f)), (f, m)))
        rows.append(np.concatenate([w1.ravel(), np.zeros(m), w2.ravel(), np.zeros(f)]))
        seeds.append(generator.integers(2**64, dtype=np.uint64))
    last = max(round(settle * steps), 1)
    rates = RATE * np.minimum((steps - np.arange(steps)) / last, 1)
    flats = np.stack(rows)
    train_all_veto(ON["veto"], np.array(seeds), rates, IMPORTANCE, flats, hidden)
    return unflatten("veto", hidden, flats)


