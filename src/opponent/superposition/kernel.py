"""The compiled loops that train toy models: one model a thread, no input computed twice.

All inputs that are zero share one gradient, and so do all inputs of one XOR pattern: a batch is a
short list of inputs, each with the number of times that it was drawn. Loops run over that list, so
that they vectorise.
"""

# Annotations would be checked at run time in tests, inside compiled code: hence no_type_check.
from typing import Any, no_type_check

import numpy as np
from numba import njit, prange

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
# once compiled, so that results repeat bit by bit on one machine.
_SUMS = {"reassoc", "nsz", "contract"}
_jit: Any = njit(cache=True, error_model="numpy", fastmath=_SUMS)


@_jit
@no_type_check
def uniform(state):
    """A number in [0, 1) from a state of one 64-bit integer."""
    state[0] += _GOLDEN
    z = state[0]
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return ((z ^ (z >> _S31)) >> _S11) * 2.0**-53


@_jit
@no_type_check
def begin_batch(xor, x, wanted):
    """Write the inputs that are counted: zero, and for XOR each pattern of a single pair.

    Returns how many.
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
def draw(xor, on, state, counted, x, wanted, weight):
    """Draw a batch: as if each feature of each input were drawn, by gaps between those not zero.

    Args:
        xor: the task.
        on: the chance that a feature (for XOR, a pair) is not zero.
        state: of the random numbers.
        counted: what `begin_batch` returned.
        x, wanted: inputs and what the outputs should be, one column an input, to be filled.
        weight: how often each was drawn; the sum is the batch's size.
    Returns how many columns are in use.
    """
    gap = 1 / np.log1p(-on)
    for a in range(counted):
        weight[a] = 0.0
    count, seen, entries = counted, 0, 0
    position = int(np.log(1 - uniform(state)) * gap)
    while position < BATCH * FEATURES:
        row, i = position // FEATURES, position % FEATURES
        u = uniform(state)
        position += 1 + int(np.log(1 - uniform(state)) * gap)
        last = position >= (row + 1) * FEATURES
        # Of the four pairs of fair bits, 00 is as good as off: `on` leaves it out.
        bits = 1 + int(3 * u)
        if xor and last and entries == 0:
            weight[3 * i + bits] += 1
            seen += 1
            continue
        if entries == 0:
            x[:, count] = 0
            wanted[:, count] = 0
        if xor:
            x[2 * i, count], x[2 * i + 1, count] = bits & 1, bits >> 1
            wanted[i, count] = bits != 3
        else:
            x[i, count], wanted[i, count] = 2 * u - 1, abs(2 * u - 1)
        entries += 1
        if last:
            weight[count] = 1
            count += 1
            seen += 1
            entries = 0
    weight[0] = BATCH - seen
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
        for j in range(n):
            w = flat[k * n + j]
            for a in range(count):
                h[k, a] += w * x[j, a]
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
        for i in range(f):
            w = flat[o2 + i * m + k]
            for a in range(count):
                back[k, a] += w * slope[i, a]
        total = 0.0
        for a in range(count):
            back[k, a] = back[k, a] if h[k, a] > 0 else 0.0
            total += back[k, a]
        grad[o1 + k] = total
        for j in range(n):
            total = 0.0
            for a in range(count):
                total += back[k, a] * x[j, a]
            grad[k * n + j] = total


@_jit
@no_type_check
def adam(flat, grad, first, second, step, rate):
    """One step of Adam, in place; `step` counts from 1."""
    size = rate / (1 - BETA1**step)
    scale = 1 / np.sqrt(1 - BETA2**step)
    for k in range(len(flat)):
        first[k] = BETA1 * first[k] + (1 - BETA1) * grad[k]
        second[k] = BETA2 * second[k] + (1 - BETA2) * grad[k] * grad[k]
        flat[k] -= size * first[k] / (np.sqrt(second[k]) * scale + EPSILON)


@_jit
@no_type_check
def train_one(xor, on, seed, rates, importance, flat, m):
    """All steps of one model, in place.

    Args:
        xor, on: as for `draw`.
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
        count = draw(xor, on, state, counted, x, wanted, weight)
        gradient(x, wanted, weight, count, importance, flat, m, grad, h, back, slope)
        adam(flat, grad, first, second, t + 1, rates[t])


@njit(parallel=True, cache=True)
@no_type_check
def train_all(xor, on, seeds, rates, importance, flats, m):
    """`train_one` for each row of `flats`, one model a thread."""
    for s in prange(len(seeds)):
        train_one(xor, on, seeds[s], rates, importance, flats[s], m)
