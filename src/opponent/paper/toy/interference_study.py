"""A study of toy models whose features are known: which tension is functional, which interference.

DIR/question.json, DIR/checkpoints/   the question; models of a task and width, and their numbers
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from opponent.core.progress import Progress, displayed, silent
from opponent.dictionaries.learnt import TrainingSettings
from opponent.paper.toy.features import (
    FEATURE_TASKS,
    KINDS,
    drawn_inputs,
    feature_names,
    few_on,
    kinds,
    opposed_inputs,
    pull,
)
from opponent.paper.toy.interference import (
    codes_of,
    dictionaries_of,
    mean_by_kind,
    recovered,
    scores,
    separation,
    true_codes,
)
from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.tasks import truth
from opponent.paper.toy.train import STEPS, check_training, train
from opponent.paper.toy.veto import train_veto
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath
from opponent.storage.manifest import versions

# Source of the widths: paper, appendix G.
HIDDEN = (12, 10, 8, 6)
# Cases count in curves whose tension in units, and pull where they are functional, is at least
# this: a tenth of what a feature at 1 is to bring. Of what is hardly tense a share says nothing.
LEAST = 0.1
# From which inputs the cases of curves are.
INPUTS = ("opposed", "drawn")
# Drawn inputs: to learn a dictionary from, and for what is measured; and opposed ones.
_LEARN, _DRAWN, _OPPOSED = 8192, 4096, 600


@dataclass(frozen=True, kw_only=True)
class InterferenceSettings:
    """How models and dictionaries are trained.

    Args:
        seeds: models of each task and width, each with dictionaries of its own.
        steps: of a model's training.
        active: latents of a dictionary that are on at once; of 'learnt, more on' twice as many.
        dictionary_steps: of a dictionary's training.
        seed: of all random numbers.
    Raises:
        ValueError: a number out of range.
    """

    seeds: int = 6
    steps: int = STEPS
    active: int = 2
    dictionary_steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "active", "dictionary_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"a seed is at least 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class InterferenceStudy:
    """What was measured.

    Args:
        question: what determines the numbers.
        measured: by task and hidden units, the arrays of `measure_models`.
    """

    question: Mapping[str, Any]
    measured: Mapping[tuple[str, int], Mapping[str, np.ndarray]]


@displayed
def study_interference(
    *,
    out: str | AnyPath,
    tasks: Sequence[str] = FEATURE_TASKS,
    hidden: Sequence[int] = HIDDEN,
    settings: InterferenceSettings | None = None,
    progress: Progress | None = None,
) -> InterferenceStudy:
    """Train toy models and dictionaries of their hidden layers, and measure tension in both.

    An interrupted study goes on after the last task and width that was finished.

    Args:
        out: the folder, new or that of the same question.
        tasks: which of 'abs', 'xor' and 'veto'.
        hidden: the widths.
        settings: of models and dictionaries.
        progress: called with what is being done, the models done and the models in all.
    Returns:
        What was measured.
    Raises:
        ValueError: an unknown task, or a width that is none.
        RunError: the folder holds another question's results.
    """
    import numba

    settings, report = settings or InterferenceSettings(), progress or silent
    if not tasks or not set(tasks) <= set(FEATURE_TASKS) or len(set(tasks)) < len(tasks):
        raise ValueError(
            f"tasks are some of {', '.join(FEATURE_TASKS)}, each once; got {', '.join(tasks)}"
        )
    check_training("abs", hidden, settings.steps, 0.0, settings.seed)
    question = {
        "experiment": "toy interference",
        "tasks": list(tasks),
        "hidden": list(hidden),
        **asdict(settings),
        "versions": versions() | {"numba": numba.__version__},
    }
    checkpoints = CheckpointFolder(out, question)
    total = len(tasks) * len(hidden) * settings.seeds
    measured = dict[tuple[str, int], Mapping[str, np.ndarray]]()
    what = "toy models and dictionaries"
    for task in tasks:
        for width in hidden:
            name, done = f"{task}-{width}", len(measured) * settings.seeds
            report(what, done, total)
            if not checkpoints.has(name):
                models = _trained(task, width, settings)

                def count(number: int, done: int = done) -> None:
                    report(what, done + number, total)

                arrays = measure_models(models, settings, count)
                checkpoints.write(name, {**models.parameters, **arrays})
            measured[task, width] = checkpoints.read(name)[0]
    report(what, total, total)
    return InterferenceStudy(question=question, measured=measured)


def _trained(task: str, hidden: int, settings: InterferenceSettings) -> ToyModels:
    numbers, how = range(settings.seeds), {"seed": settings.seed, "steps": settings.steps}
    return train_veto(hidden, numbers, **how) if task == "veto" else train(
        task, hidden, numbers, **how
    )  # fmt: skip


def measure_models(
    models: ToyModels, settings: InterferenceSettings, progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Everything that is measured of the models of one task and width, one row a model.

    Args:
        models: the models.
        settings: of their dictionaries.
        progress: called with the number of models done.
    Returns:
        explained, worst: the share of the outputs' variance, and the largest squared error, over
        drawn inputs; left, found: of dictionaries that are learnt, what they leave of the variance,
        and the share of true features that they have; tension: see `mean_by_kind`, over
        `few_on`, by dictionary; areas.I, curves.I, cases.I: see `separation`, over inputs of each
        sort of `INPUTS`, and how many cases are functional and not; example.D: S of each output in
        units, in true features and in learnt latents, for the first input of `opposed_inputs` at 1.
    """
    rows = list[dict[str, np.ndarray]]()
    for number in range(len(models)):
        rows.append(_measure_one(models.only([number]), number, settings))
        progress(number + 1)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _measure_one(
    model: ToyModels, number: int, settings: InterferenceSettings
) -> dict[str, np.ndarray]:
    task, outputs, weights = model.task, model.w2.shape[1], model.w2[0]

    def drawn(count: int, which: int) -> Float[np.ndarray, "b n"]:
        seeds = [settings.seed, FEATURE_TASKS.index(task), model.hidden, number, which]
        return drawn_inputs(task, count, np.random.default_rng(seeds))

    how = TrainingSettings(
        latents=len(feature_names(task, outputs)),
        active=settings.active,
        steps=settings.dictionary_steps,
        batch=512,
        rate=5e-3,
        seed=settings.seed + number,
    )
    learnt, left = dictionaries_of(model.layer(drawn(_LEARN, 0))[0], how)

    def measured(x: Float[np.ndarray, "b n"]) -> list[Float[np.ndarray, "b f 7"]]:
        hidden = model.layer(x)[0]
        codes = [true_codes(model, x), *(codes_of(d, hidden) for d in learnt.values())]
        return [one.measure(hidden, weights) for one in codes]

    few, x = few_on(task), drawn(_DRAWN, 1)
    kind, right = kinds(task, few, outputs), truth(task, x)
    error = (model.outputs(x)[0] - right) ** 2
    true = true_codes(model, few[:1]).decoder
    result = {
        "explained": np.asarray(1 - error.sum() / ((right - right.mean(0)) ** 2).sum()),
        "worst": np.asarray(error.max()),
        "left": np.array([left[name] for name in left]),
        "found": np.array(
            [recovered(true, learnt[name].decoder.cpu().double().numpy()) for name in left]
        ),
        "tension": np.stack([mean_by_kind(one, kind, len(KINDS)) for one in measured(few)]),
        "cases": np.array([(kind == k).sum() for k in range(len(KINDS))]),
    }
    if task != "abs":
        opposed = opposed_inputs(task, _OPPOSED, np.random.default_rng([settings.seed, 2]))
        for name, inputs in zip(INPUTS, (opposed, x), strict=True):
            matched = name == "opposed"
            areas, curves, cases = _separated(model, inputs, measured(inputs), matched=matched)
            result |= {f"areas.{name}": areas, f"curves.{name}": curves, f"cases.{name}": cases}
        # Both at 1, so that what each adds and takes away is one.
        one = (opposed[:1] > 0).astype(float)
        hidden = model.layer(one)[0]
        result["example.units"] = hidden[0] * weights
        result["example.true"] = true_codes(model, one).terms(weights)[0]
        result["example.learnt"] = codes_of(learnt["learnt"], hidden).terms(weights)[0]
    return result


def _separated(
    model: ToyModels,
    x: Float[np.ndarray, "b n"],
    measured: list[Float[np.ndarray, "b f 7"]],
    *,
    matched: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Functional cases against those of other inputs' features, where units are tense.

    Matched, both sorts count as much in each input, and inputs without one of them do not: nothing
    that is a number of the hidden vector alone can then tell one from the other.
    """
    outputs = model.w2.shape[1]
    kind = kinds(model.task, x, outputs)
    functional = (kind == 0) & (pull(model.task, x, outputs) >= LEAST)
    kept = (functional | (kind >= KINDS.index("other, one"))) & (measured[0][..., 0] >= LEAST)
    weights = None
    if matched:
        sorts = [kept & functional, kept & ~functional]
        counts = np.stack([x.sum(1) for x in sorts])
        kept &= ((counts[0] > 0) & (counts[1] > 0))[:, None]
        each = np.divide(1.0, counts, where=counts > 0, out=np.zeros(counts.shape))
        weights = np.where(functional, each[0][:, None], each[1][:, None])[kept]
    lengths = np.broadcast_to(np.linalg.norm(model.layer(x)[0], axis=1)[:, None], kind.shape)
    predicted = scores([one[kept] for one in measured], lengths[kept])
    areas, curves = separation(functional[kept], predicted, weights)
    count = int(functional[kept].sum())
    return areas, curves, np.array([count, int(kept.sum()) - count])
