"""The features of toy models, which are known: values, and what each adds to the hidden layer.

task    features                         what output i is made of, before its ReLU
abs     ReLU(x_i), ReLU(-x_i)            their sum
xor     a, b and ab of each pair         a + b - 2 ab
veto    x_i                              x_i - x_(i+1)

For XOR, a function of two bits that is zero at [0, 0] is a sum of a, b and ab in one way alone. Of
the paper's features, 'or' is a and b together, as a hidden unit ReLU(a + b) has it; 'and' is ab.
"""

from itertools import combinations, product

import numpy as np
from jaxtyping import Bool, Float, Int

from opponent.paper.toy.kernel import FEATURES
from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.tasks import ON, inputs

# In which tasks features are compared with units.
FEATURE_TASKS = ("abs", "xor", "veto")
# Which case an output is for an input; see `kinds`.
KINDS = ("functional", "own", "other, one", "other, several")


def feature_values(task: str, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b l"]:
    """The value of each true feature: the first kind of all inputs or pairs, then the next.

    Args:
        task: 'abs', 'xor' or 'veto'.
        x: inputs.
    """
    if task == "abs":
        return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)
    if task == "veto":
        return x
    a, b = x[:, ::2], x[:, 1::2]
    return np.concatenate([a, b, a * b], axis=1)


def feature_weights(task: str, outputs: int) -> Float[np.ndarray, "f l"]:
    """How much of each true feature each output is to have, before its ReLU.

    Args:
        task: as above.
        outputs: how many there are.
    """
    one = np.eye(outputs)
    if task == "veto":
        return np.asarray(one - np.roll(one, 1, axis=1))
    return np.concatenate([one, one] if task == "abs" else [one, one, -2 * one], axis=1)


def feature_names(task: str, outputs: int) -> tuple[str, ...]:
    """A name for each true feature.

    Args:
        task: as above.
        outputs: how many there are.
    """
    groups = {"abs": ("x", "−x"), "xor": ("a", "b", "ab"), "veto": ("x",)}[task]
    return tuple(f"{kind}{i + 1}" for kind in groups for i in range(outputs))


def true_decoders(models: ToyModels) -> Float[np.ndarray, "s l m"]:
    """What each true feature adds to the hidden layer of each model when it alone is 1.

    That is h(x) - h(0) for the input x in which it is 1 and no other is; for XOR's ab, which is not
    alone, h of [1, 1] less what a, b and the bias bring.

    Args:
        models: of one task and width.
    """
    outputs, n = models.w2.shape[1], models.w1.shape[2]
    one = np.eye(outputs)
    if models.task == "xor":
        x = np.concatenate([np.kron(one, [bits]) for bits in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])])
    else:
        x = np.concatenate([one, -one]) if models.task == "abs" else one
    added = models.layer(x) - models.layer(np.zeros((1, n)))
    if models.task == "xor":
        first, second, both = np.split(added, 3, axis=1)
        added = np.concatenate([first, second, both - first - second], axis=1)
    return np.asarray(added)


def pull(task: str, x: Float[np.ndarray, "b n"], outputs: int) -> Float[np.ndarray, "b f"]:
    """The tension of each output as the task has it: the smaller of what adds and what takes away.

    Args:
        task, x, outputs: as above.
    """
    terms = feature_values(task, x)[:, None] * feature_weights(task, outputs)
    return np.asarray(np.minimum(np.maximum(terms, 0).sum(2), np.maximum(-terms, 0).sum(2)))


def kinds(task: str, x: Float[np.ndarray, "b n"], outputs: int) -> Int[np.ndarray, "b f"]:
    """Which case each output of each input is, as a number in `KINDS`; -1 where nothing is on.

    'functional': the output's own features pull against each other. 'own': some of its own are on,
    and do not. 'other, one': its own are off, and one other is on. 'other, several': several are.

    Args:
        task, x, outputs: as above.
    """
    on: Bool[np.ndarray, "b l"] = feature_values(task, x) > 0
    count = on.sum(1)[:, None]
    own = on.astype(int) @ (feature_weights(task, outputs) != 0).T > 0
    found = np.where(own, 1, np.where(count == 1, 2, np.where(count > 1, 3, -1)))
    return np.where(pull(task, x, outputs) > 0, 0, found)


def few_on(task: str) -> Float[np.ndarray, "b n"]:
    """All inputs of 0 and 1 (abs: -1 too) in which one or two inputs, or pairs, are on.

    Args:
        task: as above.
    """
    all_patterns: dict[str, list[tuple[float, ...]]] = {
        "abs": [(1.0,), (-1.0,)],
        "xor": [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)],
        "veto": [(1.0,)],
    }
    patterns = all_patterns[task]
    groups, width = inputs(task) // len(patterns[0]), len(patterns[0])
    rows = list[np.ndarray]()
    for count in (1, 2):
        for places in combinations(range(groups), count):
            for chosen in product(patterns, repeat=count):
                row = np.zeros((groups, width))
                row[list(places)] = chosen
                rows.append(row.ravel())
    return np.stack(rows)


def drawn_inputs(task: str, count: int, generator: np.random.Generator) -> Float[np.ndarray, "b n"]:
    """Inputs as training draws them, but for those that are zero.

    Args:
        task: as above.
        count: how many.
        generator: of the random numbers.
    """
    rows, done = list[np.ndarray](), 0
    while done < count:
        size = (4 * count, inputs(task))
        if task == "xor":
            on = np.repeat(generator.random((4 * count, FEATURES)) < ON[task], 2, axis=1)
            x = on * generator.integers(0, 2, size).astype(float)
        else:
            on = generator.random(size) < ON[task]
            x = on * generator.uniform(-1 if task == "abs" else 0, 1, size)
        rows.append(x[x.any(1)])
        done += len(rows[-1])
    return np.concatenate(rows)[:count]


def opposed_inputs(
    task: str, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "b n"]:
    """Inputs that are functional for one output, and have nothing to do with most others.

    x_i and x_(i+1) are on for veto, [1, 1] of one pair for XOR. Both kinds of cases then have the
    same hidden vectors, so that nothing that is a number of the hidden vector alone, such as its
    length or how many latents are on, tells them apart.

    Args:
        task: 'xor' or 'veto'.
        count: how many.
        generator: of the random numbers.
    """
    x, rows = np.zeros((count, inputs(task))), np.arange(count)
    step = 2 if task == "xor" else 1
    first = step * rows % inputs(task)
    for place in (first, (first + 1) % inputs(task)):
        x[rows, place] = 1.0 if task == "xor" else generator.random(count)
    return x
