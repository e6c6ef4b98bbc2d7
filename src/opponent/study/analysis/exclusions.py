"""Who and what is analysed: exclusions, and the answers of the others as arrays."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from opponent.core.errors import RunError
from opponent.study.analysis.statistics import Grid
from opponent.study.design.settings import QUESTIONS, Plan
from opponent.study.design.study import Study

# What a choice is, in this order.
ROLES = ("mei", "mii", "distractor")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The answers that are analysed.

    Args:
        people: ids of the participants who are analysed.
        excluded: how many others, by reason.
        features: (layer, feature) of each trial.
        layers: the layer of each trial, from 0.
        chosen: for each question, each participant's choice in each trial, as an index into
            `ROLES`; -1 where there is no answer.
        ms: for each question the reaction times in milliseconds, NaN where there is no answer.
    """

    people: tuple[str, ...]
    excluded: Mapping[str, int]
    features: tuple[tuple[str, str], ...]
    layers: Int[np.ndarray, " f"]
    chosen: Mapping[str, Int[np.ndarray, "p f"]]
    ms: Mapping[str, Grid]

    def correct(self, question: str) -> Grid:
        """Right and wrong answers.

        Args:
            question: 'mei' or 'mii'.
        Returns:
            1 or 0 for each participant and feature, NaN where there is no answer.
        """
        chosen = self.chosen[question]
        right = (chosen == ROLES.index(question)).astype(np.float64)
        values: Grid = np.where(chosen < 0, np.nan, right)
        return values


def keep(study: Study, participants: pa.Table, answers: pa.Table, plan: Plan) -> Kept:
    """The answers that are analysed. Catch trials exclude from the analysis, not from payment.

    Args:
        study: the study.
        participants, answers: tables of its `Store`.
        plan: the rules of exclusion.
    Returns:
        Answers to the trials that are neither practice nor catch trials.
    Raises:
        RunError: the answers are to another study's trials.
    """
    people = participants.sort_by("number").to_pylist()
    rows: dict[str, list[dict[str, Any]]] = {row["participant"]: [] for row in people}
    known = {trial.id for trial in study.trials}
    for row in answers.to_pylist():
        if row["trial"] not in known:
            raise RunError(f"the answers name trial {row['trial']}, which {study.folder} lacks")
        rows.setdefault(row["participant"], []).append(row)
    excluded, kept, seen = Counter[str](), list[str](), set[str]()
    trials = [trial for trial in study.trials if trial.kind == "trial"]
    expected = len(QUESTIONS) * len(trials)
    for person in people:
        reason = _exclusion(person, rows[person["participant"]], expected, plan, seen)
        # A second session is excluded even where the first was not finished.
        if person["prolific_pid"]:
            seen.add(person["prolific_pid"])
        if reason:
            excluded[reason] += 1
        else:
            kept.append(person["participant"])
    place = {trial.id: i for i, trial in enumerate(trials)}
    shape = (len(kept), len(trials))
    chosen = {question: np.full(shape, -1) for question in QUESTIONS}
    ms = {question: np.full(shape, np.nan) for question in QUESTIONS}
    for number, id in enumerate(kept):
        for row in rows[id]:
            if row["trial"] in place:
                at, trial = place[row["trial"]], trials[place[row["trial"]]]
                role = {trial.mei: 0, trial.mii: 1}.get(row["choice"], 2)
                chosen[row["question"]][number, at] = role
                ms[row["question"]][number, at] = row["reaction_ms"]
    return Kept(
        people=tuple(kept),
        excluded=dict(excluded),
        features=tuple((trial.layer, trial.feature) for trial in trials),
        layers=np.array([study.layers.index(trial.layer) for trial in trials], dtype=np.int64),
        chosen=chosen,
        ms=ms,
    )


def _exclusion(
    person: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    expected: int,
    plan: Plan,
    seen: set[str],
) -> str | None:
    """The first reason to exclude a participant, or None."""
    if person["state"] != "complete":
        return "not finished" if person["state"] == "started" else str(person["state"])
    if person["prolific_pid"] and person["prolific_pid"] in seen:
        return "took part before"
    trials = [row for row in rows if row["kind"] == "trial"]
    if len(trials) < expected:
        return "answers missing"
    catch = [row["correct"] for row in rows if row["kind"] == "catch" and row["question"] == "mei"]
    if catch and sum(catch) / len(catch) < plan.catch_share:
        return "catch trials"
    if np.median([row["reaction_ms"] for row in trials]) < plan.min_median_ms:
        return "too fast"
    return None
