"""The features of toy models, which are known: their values, and what each adds to the hidden layer.

task    features of input or pair i                 what output i is made of
abs     ReLU(x), ReLU(-x)                           their sum
xor     first a, second b, both ab                  a + b - 2 ab
veto    ReLU(a), ReLU(-a), ReLU(b), ReLU(-b)        the first two less the last two, before the ReLU

For XOR a function of two bits that is zero at [0, 0] is a sum of a, b and ab in one way alone; a
and b together are the paper's 'or' as a hidden unit ReLU(a + b) has it, and ab is its 'and'.
"""

from itertools import combinations, product

import numpy as np
from jaxtyping import Bool, Float, Int

from opponent.paper.toy.kernel import FEATURES
from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.tasks import ON, inputs

# In which tasks features are compared with units.
FEATURE_TASKS = ("abs", "xor", "veto")
# The weights of the features of an input or pair in its own output.
_OWN = {"abs": (1.0, 1.0), "xor": (1.0, 1.0, -2.0), "veto": (1.0, 1.0, -1.0, -1.0)}
# Which case an output is for an input; see `kinds`.
KINDS = ("functional", "own", "other, one", "other, several")


def feature_values(task: str, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b l"]:
    """The value of each true feature: the first kind of all inputs or pairs, then the next.

    Args:
        task: 'abs', 'xor' or 'veto'.
        x: inputs.
    """
    if task == "abs":
        parts = [np.maximum(x, 0), np.maximum(-x, 0)]
    else:
        a, b = x[:, ::2], x[:, 1::2]
        if task == "xor":
            parts = [a, b, a * b]
        else:
            parts = [np.maximum(y, 0) for y in (a, -a, b, -b)]
    return np.concatenate(parts, axis=1)


def owners(task: str, count: int = FEATURES) -> Int[np.ndarray, " l"]:
    """For each true feature the output that it belongs to.

    Args:
        task: as above.
        count: how many outputs there are.
    """
    return np.tile(np.arange(count), len(_OWN[task]))


def feature_names(task: str, count: int = FEATURES) -> tuple[str, ...]:
    """A name for each true feature, such as 'a1' and '−a1'.

    Args:
        task: as above.
        count: how many outputs there are.
    """
    kinds = {"abs": ("x", "−x"), "xor": ("a", "b", "ab"), "veto": ("a", "−a", "b", "−b")}
    return tuple(f"{kind}{i + 1}" for kind in kinds[task] for i in range(count))


def true_decoders(models: ToyModels) -> Float[np.ndarray, "s l m"]:
    """What each true feature adds to the hidden layer of each model when it alone is 1.

    That is h(x) - h(0) for the input x in which it is 1 and no other is; for XOR's 'both', which is
    not alone, h([1, 1]) less what first, second and the bias bring.

    Args:
        models: of one task and width.
    """
    outputs = models.w2.shape[1]
    silent = models.layer(np.zeros((1, models.w1.shape[2])))
    one = np.eye(outputs)
    if models.task == "abs":
        x = np.concatenate([one, -one])
    else:
        patterns = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        if models.task == "veto":
            patterns = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
        x = np.concatenate([np.kron(one, [bits]) for bits in patterns])
    added = models.layer(x) - silent
    if models.task == "xor":
        first, second, both = np.split(added, 3, axis=1)
        added = np.concatenate([first, second, both - first - second], axis=1)
    return np.asarray(added)


def pull(task: str, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b f"]:
    """The tension of each output as the task has it: the smaller of what adds and what takes away.

    Args:
        task, x: as above.
    """
    weights = np.array(_OWN[task])
    values = feature_values(task, x).reshape(len(x), len(weights), -1)
    terms = values * weights[:, None]
    return np.asarray(np.minimum(np.maximum(terms, 0).sum(1), np.maximum(-terms, 0).sum(1)))


def kinds(task: str, x: Float[np.ndarray, "b n"]) -> Int[np.ndarray, "b f"]:
    """Which case each output of each input is, as a number in `KINDS`; -1 where nothing is on.

    'functional': the output's own features pull against each other. 'own': its own are on, and do
    not. 'other, one': they are off, and one other is on. 'other, several': several others are.

    Args:
        task, x: as above.
    """
    values = feature_values(task, x)
    on = values > 0
    count = on.sum(1)[:, None]
    own: Bool[np.ndarray, "b f"] = on.reshape(len(x), len(_OWN[task]), -1).any(1)
    found = np.where(own, 1, np.where(count == 1, 2, np.where(count > 1, 3, -1)))
    return np.where(pull(task, x) > 0, 0, found)


def few_on(task: str) -> Float[np.ndarray, "b n"]:
    """All inputs of -1, 0 and 1 (XOR: 0 and 1) in which one or two inputs, or pairs, are on.

    Args:
        task: as above.
    """
    if task == "abs":
        patterns = [(1.0,), (-1.0,)]
    else:
        bits = (0.0, 1.0) if task == "xor" else (-1.0, 0.0, 1.0)
        patterns = [p for p in product(bits, repeat=2) if any(p)]  # type: ignore[misc]
    width = len(patterns[0])
    rows = list[np.ndarray]()
    for count in (1, 2):
        for places in combinations(range(FEATURES), count):
            for chosen in product(patterns, repeat=count):
                row = np.zeros((FEATURES, width))
                row[list(places)] = chosen
                rows.append(row.ravel())
    return np.stack(rows)


def drawn_inputs(
    task: str, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "b n"]:
    """Inputs as training draws them, but for those that are zero.

    Args:
        task: as above.
        count: how many.
        generator: of the random numbers.
    """
    rows, done = list[np.ndarray](), 0
    while done < count:
        size = (4 * count, FEATURES)
        on = generator.random(size) < ON[task]
        if task == "abs":
            x = on * generator.uniform(-1, 1, size)
        else:
            bits = generator.integers(0, 2, (len(on), inputs(task)))
            x = np.repeat(on, 2, axis=1) * bits.astype(float)
            x = x * generator.uniform(-1, 1, x.shape) if task == "veto" else x
        rows.append(x[x.any(1)])
        done += len(rows[-1])
    return np.concatenate(rows)[:count]


def paired_inputs(
    task: str, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "b n"]:
    """Inputs of one pair, both of whose numbers are on: functional for one output, not for five.

    Both kinds of cases then have the same hidden vectors, so that nothing that is a number of the
    hidden vector alone, such as its length or how many latents are on, tells them apart.

    Args:
        task: 'xor' or 'veto'.
        count: how many.
        generator: of the random numbers.
    """
    x = np.zeros((count, FEATURES, 2))
    place = np.arange(count), np.arange(count) % FEATURES
    x[place] = 1 if task == "xor" else generator.uniform(-1, 1, (count, 2))
    return x.reshape(count, -1)
