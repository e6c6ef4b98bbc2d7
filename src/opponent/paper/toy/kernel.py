"""The compiled loops that train toy models: one model a thread, no input computed twice.

All inputs that are zero share one gradient, and so do all that have one and the same XOR pair on: a
batch is a short list of inputs, each with the number of times that it was drawn. Loops run over
that list, so that they vectorise.
"""

# Annotations would be checked at run time in tests, inside compiled code: hence no_type_check.
from itertools import product
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float, Int
from numba import njit, prange

from opponent.core.compiled import keep_compiled

FEATURES = 6
# Source: paper, appendix G.
BATCH = 600
# Adam's as PyTorch has them. Source: Kingma & Ba (2017).
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# SplitMix64. Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
# Sums may be taken in another order: the compiler needs it to vectorise them. The order is fixed
# once compiled, so that results repeat bit by bit on one machine. Inlined, since a process that has
# just compiled a function by itself calls that one, and one that loads the whole from the cache
# calls the copy in it, whose sums may have another order.
_SUMS = {"reassoc", "nsz", "contract"}
keep_compiled(__name__)
_jit: Any = njit(cache=True, error_model="numpy", fastmath=_SUMS, forceinline=True)


@_jit
@no_type_check
def uniform(state):
    """A number in [0, 1) from a state of one 64-bit integer."""
    state[0] += _GOLDEN
    z = state[0]
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return ((z ^ (z >> _S31)) >> _S11) * 2.0**-53


def patterns(
    xor: bool, on: float
) -> tuple[Float[np.ndarray, " p"], Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """A table from which to draw which features of an input are on, in constant time.

    A pattern is a number: for abs one bit a feature, for XOR the two bits of each pair.

    Args:
        xor: the task.
        on: the chance that a feature or pair is on; a pair then has two fair bits.
    Returns:
        For each pattern the chance to keep it; the pattern to take instead; and the column of
        `begin_batch` that it is, or -1.
    Source: Walker, "An efficient method for generating discrete random variables" (1977); built
    as by Vose (1991).
    """
    state = [1 - 0.75 * on, on / 4, on / 4, on / 4] if xor else [1 - on, on]
    chances: np.ndarray = np.ones(1)
    for _ in range(FEATURES):
        chances = np.kron(state, chances)
    keep = np.asarray(len(chances) * chances)
    other, column = np.arange(len(chances)), np.full(len(chances), -1)
    column[0] = 0
    if xor:
        for i, bits in product(range(FEATURES), range(1, 4)):
            column[bits << 2 * i] = 3 * i + bits
    small, large = (list(np.flatnonzero(x)) for x in (keep < 1, keep >= 1))
    while small and large:
        low, high = small.pop(), large[-1]
        other[low] = high
        keep[high] -= 1 - keep[low]
        if keep[high] < 1:
            small.append(large.pop())
    keep[small + large] = 1  # but for rounding, they are
    return keep, other, column


@_jit
@no_type_check
def begin_batch(xor, x, wanted):
    """Write the inputs that are counted: zero, and for XOR each pattern of a single pair.

    Args:
        xor: the task.
        x: inputs, one column each, to be filled.
        wanted: what the outputs should be, one column an input, to be filled.
    Returns:
        How many.
    """
    if not xor:
        return 1
    for i in range(FEATURES):
        for bits in range(1, 4):
            a = 3 * i + bits
            x[2 * i, a], x[2 * i + 1, a] = bits & 1, bits >> 1
            wanted[i, a] = bits != 3
    return 1 + 3 * FEATURES


@_jit
@no_type_check
def draw(xor, keep, other, column, state, counted, x, wanted, weight):
    """Draw a batch.

    Args:
        xor: the task.
        keep, other, column: as `patterns` returns them.
        state: of the random numbers.
        counted: what `begin_batch` returned.
        x, wanted: inputs and what the outputs should be, one column an input, to be filled.
        weight: how often each was drawn; the sum is the batch's size.
    Returns:
        How many columns are in use.
    """
    for a in range(counted):
        weight[a] = 0.0
    count = counted
    for _ in range(BATCH):
        u = len(keep) * uniform(state)
        pattern = int(u)
        if u - pattern >= keep[pattern]:
            pattern = other[pattern]
        if column[pattern] >= 0:
            weight[column[pattern]] += 1
            continue
        if xor:
            for i in range(FEATURES):
                first, second = pattern >> 2 * i & 1, pattern >> 2 * i + 1 & 1
                x[2 * i, count], x[2 * i + 1, count] = first, second
                wanted[i, count] = first ^ second
        else:
            for i in range(FEATURES):
                value = 2 * uniform(state) - 1 if pattern >> i & 1 else 0.0
                x[i, count], wanted[i, count] = value, abs(value)
        weight[count] = 1
        count += 1
    return count


@_jit
@no_type_check
def gradient(x, wanted, weight, count, importance, flat, m, grad, h, back, slope):
    """The gradient of the mean of eq. 9 over a batch.

    Args:
        x, wanted, weight, count: as `draw` leaves them.
        importance: of each feature.
        flat: W1, b1, W2, b2, one after another.
        m: hidden units.
        grad: to be filled, as flat.
        h, back, slope: room for the hidden units, their gradients, those of the outputs.
    """
    n, f = len(x), len(importance)
    o1, o2, o3 = m * n, m * n + m, m * n + m + f * m
    for k in range(m):
        for a in range(count):
            h[k, a] = flat[o1 + k]
        # Two at a time, here and below (both n and f are even): half as many loads and stores.
        for j in range(0, n, 2):
            w, v = flat[k * n + j], flat[k * n + j + 1]
            for a in range(count):
                h[k, a] += w * x[j, a] + v * x[j + 1, a]
        for a in range(count):
            h[k, a] = h[k, a] if h[k, a] > 0 else 0.0
    for i in range(f):
        for a in range(count):
            slope[i, a] = flat[o3 + i]
        for k in range(m):
            w = flat[o2 + i * m + k]
            for a in range(count):
                slope[i, a] += w * h[k, a]
        scale, total = 2 * importance[i] / BATCH, 0.0
        for a in range(count):
            y = slope[i, a]
            slope[i, a] = scale * weight[a] * (y - wanted[i, a]) if y > 0 else 0.0
            total += slope[i, a]
        grad[o3 + i] = total
        for k in range(m):
            total = 0.0
            for a in range(count):
                total += slope[i, a] * h[k, a]
            grad[o2 + i * m + k] = total
    for k in range(m):
        for a in range(count):
            back[k, a] = 0.0
        for i in range(0, f, 2):
            w, v = flat[o2 + i * m + k], flat[o2 + i * m + m + k]
            for a in range(count):
                back[k, a] += w * slope[i, a] + v * slope[i + 1, a]
        total = 0.0
        for a in range(count):
            back[k, a] = back[k, a] if h[k, a] > 0 else 0.0
            total += back[k, a]
        grad[o1 + k] = total
        for j in range(0, n, 2):
            total, other = 0.0, 0.0
            for a in range(count):
                total += back[k, a] * x[j, a]
                other += back[k, a] * x[j + 1, a]
            grad[k * n + j], grad[k * n + j + 1] = total, other


@_jit
@no_type_check
def adam(flat, grad, first, second, step, rate):
    """One step of Adam, in place.

    Args:
        flat: the parameters.
        grad: their gradient.
        first: the running mean of gradients.
        second: the running mean of their squares.
        step: the step's number, from 1.
        rate: the learning rate.
    """
    size = rate / (1 - BETA1**step)
    scale = 1 / np.sqrt(1 - BETA2**step)
    for k in range(len(flat)):
        first[k] = BETA1 * first[k] + (1 - BETA1) * grad[k]
        second[k] = BETA2 * second[k] + (1 - BETA2) * grad[k] * grad[k]
        flat[k] -= size * first[k] / (np.sqrt(second[k]) * scale + EPSILON)


@_jit
@no_type_check
def train_one(xor, keep, other, column, seed, rates, importance, flat, m):
    """All steps of one model, in place.

    Args:
        xor, keep, other, column: as for `draw`.
        seed: the first state of the random numbers.
        rates: the learning rate of each step.
        importance, flat, m: as for `gradient`.
    """
    n = 2 * FEATURES if xor else FEATURES
    state = np.array([seed], np.uint64)
    room = BATCH + 1 + 3 * FEATURES
    x, wanted, weight = np.zeros((n, room)), np.zeros((FEATURES, room)), np.zeros(room)
    h, back, slope = np.empty((m, room)), np.empty((m, room)), np.empty((FEATURES, room))
    grad, first, second = np.zeros_like(flat), np.zeros_like(flat), np.zeros_like(flat)
    counted = begin_batch(xor, x, wanted)
    for t in range(len(rates)):
        count = draw(xor, keep, other, column, state, counted, x, wanted, weight)
        gradient(x, wanted, weight, count, importance, flat, m, grad, h, back, slope)
        adam(flat, grad, first, second, t + 1, rates[t])


@njit(parallel=True, cache=True)
@no_type_check
def train_all(xor, keep, other, column, seeds, rates, importance, flats, m):
    """`train_one` for each row of `flats`, one model a thread.

    Args:
        xor, keep, other, column: as for `draw`.
        seeds: of each model, the first state of the random numbers.
        rates: the learning rate of each step.
        importance, m: as for `gradient`.
        flats: of each model the parameters, as `gradient` takes them.
    """
    for s in prange(len(seeds)):
        train_one(xor, keep, other, column, seeds[s], rates, importance, flats[s], m)
