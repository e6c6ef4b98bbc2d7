"""Training of toy models: many at once, each from a seed of its own and on inputs of its own.

Source: paper, appendix G.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt64

from opponent.paper.toy.kernel import FEATURES, patterns, train_all
from opponent.paper.toy.models import PARAMETERS, ToyModels, flatten, unflatten
from opponent.paper.toy.tasks import IMPORTANCE, ON, TASKS, inputs

# Source: paper, appendix G.
STEPS, RATE = 20_000, 1e-3
# The share of the steps over which the learning rate falls to zero, at the end; ours, see `train`.
SETTLE = 0.1


def initialise(
    task: str, hidden: int, numbers: range, *, seed: int = 0
) -> tuple[ToyModels, UInt64[np.ndarray, " s"]]:
    """Models before training, and the seed of each one's inputs.

    Weights are Xavier-normal and biases zero, as in Elhage et al.'s models; but the output weights
    are made positive. With either sign half the outputs start below zero for the inputs that
    should excite them, where their ReLU gives no gradient, and interference is hidden there too:
    of 1,000 models of 12 hidden units so begun, none came near zero loss for all inputs. PyTorch's
    own way (uniform, biases too) does worse.

    For XOR this favours one of its two exact forms, |a - b|, over the other, 'or' less 'and'.

    Args:
        task: 'abs' or 'xor'.
        hidden: units.
        numbers: of the models; a model depends on its own number alone.
        seed: of all of them.
    Returns:
        The models, and one seed a model.
    """
    n, m, f = inputs(task), hidden, FEATURES
    parameters: dict[str, list[np.ndarray]] = {name: [] for name in PARAMETERS}
    seeds = []
    for number in numbers:
        generator = np.random.default_rng([seed, TASKS.index(task), hidden, number])
        parameters["w1"].append(generator.normal(0, np.sqrt(2 / (n + m)), (m, n)))
        parameters["w2"].append(np.abs(generator.normal(0, np.sqrt(2 / (m + f)), (f, m))))
        parameters["b1"].append(np.zeros(m))
        parameters["b2"].append(np.zeros(f))
        seeds.append(generator.integers(2**64, dtype=np.uint64))
    models = ToyModels(task=task, **{name: np.stack(x) for name, x in parameters.items()})
    return models, np.array(seeds)


def train(
    task: str,
    hidden: int,
    numbers: range,
    *,
    seed: int = 0,
    steps: int = STEPS,
    settle: float = SETTLE,
) -> ToyModels:
    """Train each model by Adam, on inputs of its own.

    The paper's learning rate is constant. Adam's steps are then never small: of 1,000 models of
    abs with 12 hidden units, the six best lose 2e-3 to 7e-3 for some input. Hence the rate falls
    linearly to zero over the last steps, and they lose 5e-6 to 2e-4.

    Args:
        task: 'abs' or 'xor'.
        hidden: units.
        numbers: of the models; a model depends on its own number alone.
        seed: of all of them.
        steps: of 600 inputs each.
        settle: the share of the steps over which the rate falls; 0 for the paper's.
    Returns:
        The trained models.
    Raises:
        ValueError: another task, no hidden unit, no step, or a share or seed that is none.
    Source: paper, appendix G.
    """
    check_training(task, [hidden], steps, settle, seed)
    models, seeds = initialise(task, hidden, numbers, seed=seed)
    last = max(round(settle * steps), 1)
    rates = RATE * np.minimum((steps - np.arange(steps)) / last, 1)
    rows = flatten(models)
    xor = task == "xor"
    train_all(xor, *patterns(xor, ON[task]), seeds, rates, IMPORTANCE, rows, hidden)
    return unflatten(task, hidden, rows)


def check_training(task: str, hidden: Sequence[int], steps: int, settle: float, seed: int) -> None:
    """Check what models are trained with.

    Args:
        task: 'abs' or 'xor'.
        hidden: widths.
        steps, settle, seed: as for `train`.
    Raises:
        ValueError: one of them does not fit; the message says which.
    """
    if task not in TASKS:
        raise ValueError(f"there is no toy model of {task!r}; there are {' and '.join(TASKS)}")
    if not hidden or min(hidden) < 1:
        raise ValueError(f"a toy model needs at least one hidden unit, got {list(hidden)}")
    if len(set(hidden)) < len(hidden):
        raise ValueError(f"give each width once, got {list(hidden)}")
    if steps < 1:
        raise ValueError(f"training takes at least one step, got {steps}")
    if not 0 <= settle <= 1:
        raise ValueError(f"settle is a share of the steps, 0 to 1, got {settle}")
    if seed < 0:
        raise ValueError(f"a seed is at least 0, got {seed}")
