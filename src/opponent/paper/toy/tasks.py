"""The tasks of the toy models, absolute value and XOR: inputs, right answers, probes.

Source: paper, section 6 and appendix G; after Elhage et al. (2022).
"""

from itertools import product

import numpy as np
from jaxtyping import Float

from opponent.paper.toy.kernel import FEATURES

TASKS = ("abs", "xor")
# Source: paper, appendix G.
IMPORTANCE = 0.9 ** np.arange(FEATURES)
# How often an input, or a pair, is on. Source: paper, appendix G, for abs. The paper gives none for
# XOR: with 0.05 and 0.1 the best of 1,000 models of 12 hidden units still lose 4e-3 and 1e-3 for
# some input after 20,000 steps.
ON = {"abs": 0.01, "xor": 0.2, "veto": 0.1}


def inputs(task: str) -> int:
    """How many numbers an input of a task has."""
    return FEATURES if task == "abs" else 2 * FEATURES


def truth(task: str, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b f"]:
    """What the outputs should be: |x_i|, XOR of each pair, or what the next input leaves of each.

    Args:
        task: 'abs'; 'xor'; or 'veto', ReLU(x_i - x_(i+1)), in a ring.
        x: inputs.
    """
    if task == "abs":
        return np.asarray(np.abs(x))
    if task == "veto":
        return np.asarray(np.maximum(x - np.roll(x, -1, axis=1), 0))
    pairs = x.reshape(len(x), FEATURES, 2)
    return np.asarray(np.abs(pairs[..., 0] - pairs[..., 1]))


def _check_paper(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"the paper's tasks are {' and '.join(TASKS)}, not {task!r}")


def domain(task: str) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, " b"]]:
    """Inputs that span the domain, and how likely training draws the like of each.

    Every combination of -1, 0 and 1 for abs, of 0 and 1 for XOR. For abs, 1 stands for all that is
    above 0 and -1 for all below.

    Args:
        task: 'abs' or 'xor'.
    Returns:
        The inputs, and their probabilities.
    Source: paper, appendix G.
    """
    _check_paper(task)
    values = (-1.0, 0.0, 1.0) if task == "abs" else (0.0, 1.0)
    x = np.array(list(product(values, repeat=inputs(task))))
    if task == "abs":
        weight = np.where(x == 0, 1 - ON[task], ON[task] / 2).prod(1)
    else:
        off = (x.reshape(len(x), FEATURES, 2) == 0).all(2)
        weight = np.where(off, 1 - 0.75 * ON[task], ON[task] / 4).prod(1)
    return x, weight


def probes(task: str) -> Float[np.ndarray, "b n"]:
    """The inputs of figure 7: e_i and then -e_i for abs, [1, 0] and then [1, 1] for XOR.

    Args:
        task: 'abs' or 'xor'.
    Source: paper, section 6.
    """
    _check_paper(task)
    if task == "abs":
        return np.concatenate([np.eye(FEATURES), -np.eye(FEATURES)])
    return np.concatenate(
        [np.kron(np.eye(FEATURES), bits) for bits in ([[1.0, 0.0]], [[1.0, 1.0]])]
    )
