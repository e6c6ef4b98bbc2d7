"""Whether something that a participant gets tells the right answers: exact tests against chance."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scipy.stats import binomtest

from opponent.study.design.settings import QUESTIONS
from opponent.study.design.study import Trial


def least_p(trials: Iterable[tuple[Trial, Callable[[str], Any]]]) -> float:
    """The smallest p of all tests of where the right answers stand among their nine.

    For each question and each rank: whether the right answer has it, or has it or a lower one, more
    or less often than one of nine that is drawn at random.

    Args:
        trials: each with what its choices are ordered by.
    """
    ranked = list(trials)
    least = 1.0
    for question in QUESTIONS:
        ranks = []
        for trial, key in ranked:
            values = [key(choice) for choice in trial.choices]
            assert len(set(values)) > 1, "nothing to order them by"
            right = key(trial.answer(question))
            # Among equals any order is as good; the one of ids is none of the study's.
            same = sorted(x for x in trial.choices if key(x) == right)
            ranks.append(sum(x < right for x in values) + same.index(trial.answer(question)))
        for rank in range(9):
            there = sum(x == rank for x in ranks)
            least = min(least, binomtest(there, len(ranks), 1 / 9).pvalue)
            if rank < 8:
                below = sum(x <= rank for x in ranks)
                least = min(least, binomtest(below, len(ranks), (rank + 1) / 9).pvalue)
    return least


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    """Every value of JSON that holds no others, with the names that lead to it.

    Args:
        value: any.
        path: the names that lead to `value`; places in lists have none.
    """
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path, value
