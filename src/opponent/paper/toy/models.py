"""Toy models with more features than hidden units: absolute value and XOR.

Many models train at once, each from a seed of its own and on inputs of its own (`kernel.py`).

Source: paper, section 6 and appendix G; after Elhage et al. (2022).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64
from matplotlib.figure import Figure
from safetensors.numpy import save as to_bytes

from opponent.paper.toy.kernel import FEATURES, patterns, train_all
from opponent.plots import ToyWidth, save, toy_figure
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import whole, write_text
from opponent.storage.run import versions

# Source: paper, appendix G.
STEPS, RATE, HIDDEN, SEEDS = 20_000, 1e-3, (12, 10, 8, 6), 1000
IMPORTANCE = 0.9 ** np.arange(FEATURES)
TASKS = ("abs", "xor")
# How often an input, or a pair, is on. Source: paper, appendix G, for abs. The paper gives none for
# XOR: with 0.05 and 0.1 the best of 1,000 models of 12 hidden units still lose 4e-3 and 1e-3 for
# some input after 20,000 steps.
ON = {"abs": 0.01, "xor": 0.2}
# The share of the steps over which the learning rate falls to zero, at the end; ours, see `train`.
SETTLE = 0.1
# A model is called exact whose loss is below this for every input of the domain; ours.
EXACT = 1e-4
# Models between two files, and so what an interruption loses: a few seconds of two cores.
_CHUNK = 16
_PARTS = ("w1", "b1", "w2", "b2")


@dataclass(frozen=True, kw_only=True)
class Toys:
    """Models of one task and width, one a seed: f' = ReLU(W2 ReLU(W1 x + b1) + b2).

    Args:
        task: 'abs' or 'xor'.
        w1, b1, w2, b2: the parameters.
    Source: paper, eqs. 7 and 8.
    """

    task: str
    w1: Float[np.ndarray, "s m n"]
    b1: Float[np.ndarray, "s m"]
    w2: Float[np.ndarray, "s f m"]
    b2: Float[np.ndarray, "s f"]

    def __len__(self) -> int:
        """How many models."""
        return len(self.b1)

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return int(self.b1.shape[1])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """By name."""
        return {name: getattr(self, name) for name in _PARTS}

    def layer(self, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b m"]:
        """h, after the ReLU. Source: paper, eq. 7."""
        h: Float[np.ndarray, "s b m"] = x @ self.w1.swapaxes(1, 2) + self.b1[:, None]
        return np.asarray(np.maximum(h, 0))

    def outputs(self, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b f"]:
        """f' of each input. Source: paper, eq. 8."""
        f: Float[np.ndarray, "s b f"] = self.layer(x) @ self.w2.swapaxes(1, 2) + self.b2[:, None]
        return np.asarray(np.maximum(f, 0))

    def losses(self, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b"]:
        """The squared error of each input, weighted by importance. Source: paper, eq. 9."""
        loss: Float[np.ndarray, "s b"] = (self.outputs(x) - truth(self.task, x)) ** 2 @ IMPORTANCE
        return loss

    def attributions(
        self, x: Float[np.ndarray, "b n"]
    ) -> tuple[Float[np.ndarray, "s b f"], Float[np.ndarray, "s b f"]]:
        """Excitation and inhibition of each output, before its ReLU, through the hidden layer.

        Source: paper, eqs. 1 and 2; figure 7.
        """
        h = self.layer(x)
        # h >= 0: the sign of S is the weight's.
        return h @ np.maximum(self.w2, 0).swapaxes(1, 2), h @ np.maximum(-self.w2, 0).swapaxes(1, 2)

    @cached_property
    def expected(self) -> Float[np.ndarray, " s"]:
        """Mean loss over the domain, each input as likely as training draws its like."""
        return self._over_domain[0]

    @cached_property
    def worst(self) -> Float[np.ndarray, " s"]:
        """The largest loss over the domain."""
        return self._over_domain[1]

    @property
    def best(self) -> int:
        """Which model is the best: the smallest `expected`, the first of equals."""
        return int(np.argmin(self.expected))

    def tense(self) -> Int[np.ndarray, " s"]:
        """How many outputs the second of their `probes` excites and inhibits at once.

        For XOR, [1, 1]: an output is silent there because 'or' less 'and' is zero, or because the
        hidden layer is silent, as in |a - b|. At once: the smaller of the two is over half the
        larger, and the larger over a tenth of what [1, 0] brings.
        """
        excitation, inhibition = (
            s.reshape(len(self), 2, FEATURES, FEATURES).diagonal(axis1=2, axis2=3)
            for s in self.attributions(probes(self.task))
        )
        smaller = np.minimum(excitation, inhibition)[:, 1]
        larger = np.maximum(excitation, inhibition)
        at_once = (smaller > larger[:, 1] / 2) & (larger[:, 1] > larger[:, 0] / 10)
        return np.asarray(at_once.sum(axis=1))

    @cached_property
    def _over_domain(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        x, weight = domain(self.task)
        # One by one: a thousand models and 4,096 inputs at once would take a gigabyte.
        losses = (self.only([k]).losses(x)[0] for k in range(len(self)))
        both = np.array([(loss @ weight, loss.max()) for loss in losses]).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def only(self, which: Sequence[int]) -> "Toys":
        """Some of the models."""
        index = list(which)
        return Toys(task=self.task, **{name: x[index] for name, x in self.parameters.items()})


def truth(task: str, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b f"]:
    """What the outputs should be: |x_i|, or XOR of each pair."""
    if task == "abs":
        return np.asarray(np.abs(x))
    pairs = x.reshape(len(x), FEATURES, 2)
    return np.asarray(np.abs(pairs[..., 0] - pairs[..., 1]))


def inputs(task: str) -> int:
    """How many numbers an input has."""
    return FEATURES if task == "abs" else 2 * FEATURES


def domain(task: str) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, " b"]]:
    """Inputs that span the domain, and how likely training draws the like of each.

    Every combination of -1, 0 and 1 for abs, of 0 and 1 for XOR. For abs, 1 stands for all that is
    above 0 and -1 for all below.

    Source: paper, appendix G.
    """
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

    Source: paper, section 6.
    """
    if task == "abs":
        return np.concatenate([np.eye(FEATURES), -np.eye(FEATURES)])
    return np.concatenate(
        [np.kron(np.eye(FEATURES), bits) for bits in ([[1.0, 0.0]], [[1.0, 1.0]])]
    )


def _check(task: str, hidden: Sequence[int], steps: int, settle: float, seed: int) -> None:
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


def begin(
    task: str, hidden: int, numbers: range, *, seed: int = 0
) -> tuple[Toys, UInt64[np.ndarray, " s"]]:
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
        numbers: which models; what is begun beside a model makes no difference to it.
        seed: of all of them.
    """
    n, m, f = inputs(task), hidden, FEATURES
    parts: dict[str, list[Any]] = {name: [] for name in _PARTS}
    seeds = []
    for number in numbers:
        generator = np.random.default_rng([seed, TASKS.index(task), hidden, number])
        parts["w1"].append(generator.normal(0, np.sqrt(2 / (n + m)), (m, n)))
        parts["w2"].append(np.abs(generator.normal(0, np.sqrt(2 / (m + f)), (f, m))))
        parts["b1"].append(np.zeros(m))
        parts["b2"].append(np.zeros(f))
        seeds.append(generator.integers(2**64, dtype=np.uint64))
    return Toys(task=task, **{k: np.stack(v) for k, v in parts.items()}), np.array(seeds)


def train(
    task: str,
    hidden: int,
    numbers: range,
    *,
    seed: int = 0,
    steps: int = STEPS,
    settle: float = SETTLE,
) -> Toys:
    """Train each model by Adam, on inputs of its own.

    The paper's learning rate is constant. Adam's steps are then never small: of 1,000 models of
    abs with 12 hidden units, the six best lose 2e-3 to 7e-3 for some input. Hence the rate falls
    linearly to zero over the last steps, and they lose 5e-6 to 2e-4.

    Args:
        task, hidden, numbers, seed: as for `begin`.
        steps: of 600 inputs each.
        settle: the share of the steps over which the rate falls; 0 for the paper's.
    Raises:
        ValueError: another task, no hidden unit, no step, or a share or seed that is none.
    Source: paper, appendix G.
    """
    _check(task, [hidden], steps, settle, seed)
    toys, seeds = begin(task, hidden, numbers, seed=seed)
    last = max(round(settle * steps), 1)
    rates = RATE * np.minimum((steps - np.arange(steps)) / last, 1)
    flats = flatten(toys)
    xor = task == "xor"
    train_all(xor, *patterns(xor, ON[task]), seeds, rates, IMPORTANCE, flats, hidden)
    return unflatten(task, hidden, flats)


def flatten(toys: Toys) -> Float[np.ndarray, "s p"]:
    """One row of parameters a model: W1, b1, W2, b2."""
    return np.concatenate([x.reshape(len(toys), -1) for x in toys.parameters.values()], axis=1)


def unflatten(task: str, hidden: int, flats: Float[np.ndarray, "s p"]) -> Toys:
    """The models of such rows."""
    n, m, f = inputs(task), hidden, FEATURES
    shapes = {"w1": (m, n), "b1": (m,), "w2": (f, m), "b2": (f,)}
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    rows = np.split(flats, ends[:-1], axis=1)
    return Toys(
        task=task,
        **{
            name: np.ascontiguousarray(row.reshape(len(flats), *shape))
            for (name, shape), row in zip(shapes.items(), rows, strict=True)
        },
    )


@dataclass(frozen=True, kw_only=True)
class Study:
    """All models of one task.

    Attributes:
        asked: what determines the numbers.
        models: by hidden units.
    """

    asked: dict[str, Any]
    models: dict[int, Toys]


def study(
    task: str,
    *,
    out: str | Path,
    hidden: Sequence[int] = HIDDEN,
    seeds: int = SEEDS,
    steps: int = STEPS,
    settle: float = SETTLE,
    seed: int = 0,
    ray: str | None = None,
    cpus: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Train many models of each width.

    Interrupted, it goes on where it stopped, and ends with the same numbers.

    Args:
        task, steps, settle, seed: as for `train`.
        out: the folder, new or that of the same question.
        hidden: the widths.
        seeds: models of each width.
        ray: train on Ray's actors: 'local', 'auto' or HOST:PORT. All machines must see `out`.
        cpus: processors for each of them.
        progress: called with the models done and the models in all.
    Raises:
        ValueError: as for `train`, or no model.
        RunError: the folder holds another question's results.
    Source: paper, section 6 and appendix G.
    """
    import numba

    _check(task, hidden, steps, settle, seed)
    if seeds < 1:
        raise ValueError(f"give at least one seed, got {seeds}")
    asked = {
        "question": "toy",
        "task": task,
        "hidden": list(hidden),
        "seeds": seeds,
        "steps": steps,
        "settle": settle,
        "seed": seed,
        "versions": versions() | {"numba": numba.__version__},
    }
    parts = CheckpointFolder(out, asked)
    blocks = [
        (m, first, min(first + _CHUNK, seeds)) for m in hidden for first in range(0, seeds, _CHUNK)
    ]
    missing = [block for block in blocks if not parts.has(_name(block))]
    total = len(hidden) * seeds
    done = total - sum(last - first for _, first, last in missing)
    if ray is None:
        finished: Iterable[_Block] = _in_turn(_trainer(parts.folder, asked), missing)
    else:
        from opponent.scan.ray import map_parts

        finished = map_parts(
            partial(_trainer, parts.folder.absolute(), asked, cpus), missing, address=ray, cpus=cpus
        )
    if progress is not None:
        progress(done, total)
    for _, first, last in finished:
        done += last - first
        if progress is not None:
            progress(done, total)
    models = {}
    for m in hidden:
        rows = [parts.read(_name(block))[0] for block in blocks if block[0] == m]
        models[m] = Toys(task=task, **{k: np.concatenate([x[k] for x in rows]) for k in _PARTS})
    return Study(asked=asked, models=models)


_Block = tuple[int, int, int]  # width, first model and the one after the last


def _name(block: _Block) -> str:
    return f"hidden-{block[0]}-{block[1]:06d}"


def _in_turn(compute: Callable[[_Block], None], blocks: Sequence[_Block]) -> Iterator[_Block]:
    for block in blocks:
        compute(block)
        yield block


def _trainer(
    folder: Path, asked: Mapping[str, Any], cpus: float | None = None
) -> Callable[[_Block], None]:
    """What trains a block of a study and writes it, on this machine or another."""
    parts = CheckpointFolder(folder, asked)
    if cpus is not None:
        import numba

        numba.set_num_threads(max(1, min(int(cpus), numba.get_num_threads())))

    def compute(block: _Block) -> None:
        hidden, first, last = block
        task, numbers = asked["task"], range(first, last)
        some = train(
            task, hidden, numbers, seed=asked["seed"], steps=asked["steps"], settle=asked["settle"]
        )
        parts.write(_name(block), some.parameters)

    return compute


def describe(toys: Toys) -> dict[str, Any]:
    """What is known of the models of one width, ready for JSON."""
    best = toys.only([toys.best])
    x, _ = domain(toys.task)
    losses, active = best.losses(x)[0], _active(toys.task, x)
    excitation, inhibition = (s[0] for s in best.attributions(probes(toys.task)))
    return {
        "hidden": toys.hidden,
        "best": toys.best,
        "expected_loss": float(toys.expected[toys.best]),
        "largest_loss": float(toys.worst[toys.best]),
        "loss_by_active_features": [
            {
                "active": k,
                "inputs": int((active == k).sum()),
                "mean": float(losses[active == k].mean()),
                "median": float(np.median(losses[active == k])),
                "largest": float(losses[active == k].max()),
            }
            for k in range(FEATURES + 1)
        ],
        "excitation": excitation.tolist(),
        "inhibition": inhibition.tolist(),
        "off_diagonal": off_diagonal(excitation, inhibition),
        "tense_outputs": int(best.tense()[0]),
        "exact_models": int((toys.worst < EXACT).sum()),
        "all_expected_losses": toys.expected.tolist(),
        "all_largest_losses": toys.worst.tolist(),
        "all_tense_outputs": toys.tense().tolist(),
    }


def off_diagonal(
    excitation: Float[np.ndarray, "b f"], inhibition: Float[np.ndarray, "b f"]
) -> dict[str, float]:
    """How much probes drive the outputs that they have nothing to do with.

    Args:
        excitation, inhibition: of each output by each of `probes`.
    Returns:
        The largest and the mean off-diagonal value of either sign, each over the largest
        diagonal value of its column.
    """
    both = np.stack([excitation, inhibition])
    own = np.tile(np.eye(FEATURES, dtype=bool), (2, 1))
    scale = np.where(own, both, 0).max(axis=(0, 1))
    others = (both / np.where(scale > 0, scale, np.nan))[:, ~own]
    return {"largest": float(others.max()), "mean": float(others.mean())}


def _active(task: str, x: Float[np.ndarray, "b n"]) -> Int[np.ndarray, " b"]:
    """How many outputs should not be zero."""
    return np.asarray(np.count_nonzero(truth(task, x), axis=1))


def write_study(found: Study, folder: str | Path, *, suffix: str = "png") -> list[Path]:
    """Write all models, what is known of them, and the figure.

    Args:
        found: as `study` returns it.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths.
    """
    folder = Path(folder)
    models, table, picture = (
        folder / name for name in ("models.safetensors", "toy.json", f"toy.{suffix}")
    )
    content = to_bytes(
        {f"{m}.{k}": x for m, toys in found.models.items() for k, x in toys.parameters.items()}
    )
    with whole(models) as part:
        part.write_bytes(content)
    values = {
        "asked": found.asked,
        "models_sha256": sha256(content).hexdigest(),
        "widths": [describe(toys) for toys in found.models.values()],
    }
    write_text(table, json.dumps(values, indent=1) + "\n")
    save(draw(found), picture)
    return [table, models, picture]


def draw(found: Study) -> Figure:
    """The paper's figures 7 and 15 of one task, and how the seeds spread."""
    asked, names = found.asked, [str(i + 1) for i in range(FEATURES)]
    task = asked["task"]
    signs = ("e", "−e") if task == "abs" else ("[1, 0] ", "[1, 1] ")
    x, _ = domain(task)
    widths = []
    for m, toys in found.models.items():
        best = toys.only([toys.best])
        excitation, inhibition = (s[0] for s in best.attributions(probes(task)))
        widths.append(
            ToyWidth(
                hidden=m,
                excitation=excitation,
                inhibition=inhibition,
                losses=best.losses(x)[0],
                active=_active(task, x),
                seeds=toys.expected,
            )
        )
    return toy_figure(
        widths,
        label={"abs": "Absolute values", "xor": "XOR of pairs"}[task],
        about=f"the best of {asked['seeds']:,} models of each width, {asked['steps']:,} steps; "
        f"E⁺ and E⁻ through the hidden layer",
        rows=[sign + name for sign in signs for name in names],
        columns=["f" + name for name in names],
    )
