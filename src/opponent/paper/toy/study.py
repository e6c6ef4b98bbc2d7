"""A study of toy models: many models of each width, trained block by block, with checkpoints.

DIR/question.json, DIR/checkpoints/   the question, and the parameters of each block of models
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from opponent.core.progress import Progress, displayed, silent
from opponent.paper.toy.models import PARAMETERS, ToyModels
from opponent.paper.toy.train import SETTLE, STEPS, check_training, train
from opponent.scan.executor import Executor
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath
from opponent.storage.manifest import versions

# Source: paper, appendix G.
HIDDEN, SEEDS = (12, 10, 8, 6), 1000
# Models of a block, and so what an interruption loses: a few seconds of two cores.
_BLOCK = 16


@dataclass(frozen=True, kw_only=True)
class ToyStudy:
    """All models of one task.

    Args:
        question: what determines the numbers.
        models: by hidden units.
    """

    question: Mapping[str, Any]
    models: Mapping[int, ToyModels]


class _Block(NamedTuple):
    """Models of one width: the first one's number, and the number after the last one's."""

    hidden: int
    first: int
    end: int

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return f"hidden-{self.hidden}-{self.first:06d}"


@displayed
def train_study(
    task: str,
    *,
    out: str | AnyPath,
    hidden: Sequence[int] = HIDDEN,
    seeds: int = SEEDS,
    steps: int = STEPS,
    settle: float = SETTLE,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> ToyStudy:
    """Train many models of each width.

    An interrupted study goes on where it stopped, and ends with the same numbers.

    Args:
        task: 'abs' or 'xor'.
        out: the folder, new or that of the same question.
        hidden: the widths.
        seeds: models of each width.
        steps: of training, of 600 inputs each.
        settle: the share of the steps over which the learning rate falls to zero.
        seed: of all models.
        executor: trains elsewhere, such as `opponent.Ray`; all machines must see `out`. None trains
            here.
        progress: called with what is being done, the models done and the models in all.
    Returns:
        The trained models.
    Raises:
        ValueError: as for `train`, or no model.
        RunError: the folder holds another question's results.
    Source: paper, section 6 and appendix G.
    """
    import numba

    check_training(task, hidden, steps, settle, seed)
    if seeds < 1:
        raise ValueError(f"give at least one seed, got {seeds}")
    question = {
        "experiment": "toy",
        "task": task,
        "hidden": list(hidden),
        "seeds": seeds,
        "steps": steps,
        "settle": settle,
        "seed": seed,
        "versions": versions() | {"numba": numba.__version__},
    }
    checkpoints, report = CheckpointFolder(out, question), progress or silent
    blocks = [
        _Block(width, first, min(first + _BLOCK, seeds))
        for width in hidden
        for first in range(0, seeds, _BLOCK)
    ]
    missing = [block for block in blocks if not checkpoints.has(block.name)]
    what, total = f"toy models of {task}", len(hidden) * seeds
    done = total - sum(block.end - block.first for block in missing)
    report(what, done, total)
    for block in _train_blocks(checkpoints.folder, question, missing, executor):
        done += block.end - block.first
        report(what, done, total)
    models = {}
    for width in hidden:
        rows = [checkpoints.read(block.name)[0] for block in blocks if block.hidden == width]
        models[width] = ToyModels(
            task=task, **{name: np.concatenate([x[name] for x in rows]) for name in PARAMETERS}
        )
    return ToyStudy(question=question, models=models)


def _train_blocks(
    folder: AnyPath,
    question: Mapping[str, Any],
    blocks: Sequence[_Block],
    executor: Executor | None,
) -> Iterator[_Block]:
    """Train blocks here or elsewhere; each is handed on when its checkpoint is written."""
    if executor is None:
        train_block = _block_trainer(folder, question)
        for block in blocks:
            train_block(block)
            yield block
    else:
        make = partial(_block_trainer, folder.absolute(), question, executor.threads)
        yield from executor.map(make, blocks)


def _block_trainer(
    folder: AnyPath, question: Mapping[str, Any], threads: int | None = None
) -> Callable[[_Block], None]:
    """The function that trains a block and writes its checkpoint, on this machine or another."""
    checkpoints = CheckpointFolder(folder, question)
    if threads is not None:
        import numba

        numba.set_num_threads(min(threads, numba.get_num_threads()))

    def train_block(block: _Block) -> None:
        settings = {name: question[name] for name in ("seed", "steps", "settle")}
        models = train(question["task"], block.hidden, range(block.first, block.end), **settings)
        checkpoints.write(block.name, models.parameters)

    return train_block
