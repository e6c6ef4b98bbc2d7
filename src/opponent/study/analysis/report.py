"""The analysis of a study's answers, as a JSON file and as figure 10.

Source: paper, appendix B and figure 10.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from scipy import stats

from opponent.core.errors import RunError
from opponent.core.progress import Progress, displayed, silent
from opponent.plots.experiment import ExperimentBar, ExperimentLayer, experiment_figure
from opponent.plots.layout import save
from opponent.storage.files import write_text
from opponent.storage.manifest import versions
from opponent.study.analysis.exclusions import ROLES, Kept, keep
from opponent.study.analysis.results import (
    AnswersOfLayer,
    FeatureResults,
    LayerResults,
    NoTest,
    Pair,
    Participants,
    PlannedTest,
    Power,
    Results,
)
from opponent.study.analysis.statistics import (
    accuracy,
    bootstrap,
    contrast,
    first_against_others,
    interval,
    person_spread,
    power,
)
from opponent.study.design.settings import QUESTIONS, Plan, read_simulation, to_json
from opponent.study.design.study import Study
from opponent.study.server.store import Store

# Nine choices, and eight once the first is taken. Source: paper, appendix B and figure 10.
CHANCE = {"mei": 1 / 9, "mii": 1 / 8}


@displayed
def analyse(
    study: Study, participants: pa.Table, answers: pa.Table, *, progress: Progress | None = None
) -> Results:
    """Analyse a study's answers by the plan in its settings.

    Args:
        study: the study.
        participants, answers: tables of its `Store`.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        What analysis.json holds.
    Raises:
        RunError: no participant can be analysed; the message counts the reasons.
    """
    plan, seed = study.settings.analysis, study.settings.seed
    kept = keep(study, participants, answers, plan)
    if not kept.people:
        reasons = ", ".join(f"{count} {why}" for why, count in kept.excluded.items())
        raise RunError(
            f"{study.folder} has no participant to analyse: "
            + (f"{len(participants)} began ({reasons})" if reasons else "nobody has taken part")
        )
    count = len(study.layers)
    draws = {
        question: bootstrap(kept.correct(question), kept.layers, count, plan.draws, seed)
        for question in QUESTIONS
    }
    correct = {question: kept.correct(question) for question in QUESTIONS}
    return Results(
        title=study.settings.title,
        study_sha256=study.fingerprint(),
        runs=study.settings.runs,
        versions=versions(),
        seed=seed,
        plan=plan,
        participants=Participants(
            began=len(participants),
            analysed=len(kept.people),
            excluded=dict(sorted(kept.excluded.items())),
        ),
        chance=CHANCE,
        layers=tuple(
            LayerResults(
                layer=layer,
                label=study.label(layer),
                **{question: _answers(kept, question, i, draws, plan) for question in QUESTIONS},
            )
            for i, layer in enumerate(study.layers)
        ),
        features=tuple(
            FeatureResults(
                layer=layer,
                feature=feature,
                **{question: _share(correct[question][:, i]) for question in QUESTIONS},
            )
            for i, (layer, feature) in enumerate(kept.features)
        ),
        test=_test(study, kept, draws[plan.question], plan),
        simulated=read_simulation(study.folder / "simulated.json"),
        power=_power(kept, plan, count, seed, progress or silent),
    )


@displayed
def analyse_folder(study: Study, *, progress: Progress | None = None) -> Results:
    """Analyse the answers in a study's own folder.

    Args:
        study: the study.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        What analysis.json holds.
    Raises:
        RunError: nobody has taken part yet, or no participant can be analysed.
    """
    with Store(study.folder / "answers.sqlite3") as store:
        return analyse(study, store.participants(), store.answers(), progress=progress or silent)


def write_analysis(results: Results, folder: Path, *, suffix: str = "png") -> list[Path]:
    """Write analysis.json and the figure.

    Args:
        results: of `analyse`.
        folder: where the files go.
        suffix: format of the figure: png, pdf or svg.
    Returns:
        The paths of the files.
    """
    table, picture = folder / "analysis.json", folder / f"figure10.{suffix}"
    write_text(table, to_json(results))
    figure = experiment_figure(
        _figure_layers(results),
        chance=results.chance,
        level=results.plan.level,
        participants=results.participants.analysed,
        simulated=None if results.simulated is None else results.simulated.skill,
    )
    save(figure, picture)
    return [table, picture]


def _figure_layers(results: Results) -> list[ExperimentLayer]:
    """The bars of figure 10."""
    layers = []
    for layer in results.layers:
        bars = {}
        for question in QUESTIONS:
            answers: AnswersOfLayer = getattr(layer, question)
            ms = answers.reaction_ms
            of_features = [getattr(x, question) for x in results.features if x.layer == layer.layer]
            bars[question] = ExperimentBar(
                accuracy=answers.accuracy,
                low=answers.low,
                high=answers.high,
                features=[x for x in of_features if x is not None],
                chosen=answers.chosen,
                seconds=None if ms is None else (ms[0] / 1000, ms[1] / 1000, ms[2] / 1000),
            )
        layers.append(ExperimentLayer(name=layer.layer, label=layer.label, **bars))
    return layers


def _share(values: Float[np.ndarray, " n"]) -> float | None:
    """The mean of the finite values; None where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _answers(
    kept: Kept, question: str, layer: int, draws: Mapping[str, np.ndarray], plan: Plan
) -> AnswersOfLayer:
    here = kept.layers == layer
    correct, chosen = kept.correct(question)[:, here], kept.chosen[question][:, here]
    ms = kept.ms[question][:, here]
    ms = ms[np.isfinite(ms)]
    # One participant, or one feature, does not show how much others differ.
    varied = len(kept.people) > 1 and here.sum() > 1
    low, high = interval(draws[question][:, layer], plan.level) if varied else (None, None)
    where_open = {}
    if question == "mii":
        # A participant who took the MII for the MEI cannot choose it any more.
        first = kept.chosen["mei"][:, here]
        open_ = np.where(first != ROLES.index("mii"), correct, np.nan).ravel()
        where_open["accuracy_where_open"] = _share(open_)
    return AnswersOfLayer(
        answers=int((chosen >= 0).sum()),
        right=int((chosen == ROLES.index(question)).sum()),
        accuracy=_share(correct.ravel()),
        low=low,
        high=high,
        chosen={
            role: _share(np.where(chosen < 0, np.nan, chosen == i).ravel())
            for i, role in enumerate(ROLES)
        },
        reaction_ms=_quartiles(ms) if ms.size else None,
        **where_open,
    )


def _quartiles(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def _test(
    study: Study, kept: Kept, draws: Float[np.ndarray, "b l"], plan: Plan
) -> PlannedTest | NoTest:
    """The planned test, the comparisons of two layers, and other tests."""
    count, correct = len(study.layers), kept.correct(plan.question)
    if count < 2:
        return NoTest(question=plan.question, reason="a study of one layer compares none")
    names, first, others = study.layers, kept.layers == 0, kept.layers > 0
    difference = draws[:, 0] - draws[:, 1:].mean(1)
    shares = accuracy(correct, kept.layers, count)
    low, high = interval(difference, plan.level)
    pairs = []
    for i in range(count):
        for j in range(i + 1, count):
            weights = [float(k == i) - float(k == j) for k in range(count)]
            pairs.append(
                Pair(
                    layers=(names[i], names[j]),
                    difference=float(shares[i] - shares[j]),
                    **asdict(contrast(correct, kept.layers, weights)),
                )
            )
    people = np.nanmean(correct[:, first], 1) - np.nanmean(correct[:, others], 1)
    features = np.nanmean(correct, 0)
    return PlannedTest(
        question=plan.question,
        contrast=f"{names[0]} against {' and '.join(names[1:])}",
        **asdict(contrast(correct, kept.layers, first_against_others(count))),
        difference=float(shares[0] - shares[1:].mean()),
        difference_low=low,
        difference_high=high,
        pairs=tuple(pairs),
        others={
            "paired t over participants (features as given)": _t(people, None),
            "Welch's t over features (participants as given)": _t(
                features[first], features[others]
            ),
        },
    )


def _t(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"] | None) -> float | None:
    """The p-value of a t test of one or two samples; None where it has none."""
    samples = [a] if b is None else [a, b]
    if min(map(len, samples)) < 2 or not any(x.std() for x in samples):
        return None
    test = stats.ttest_1samp(a, 0) if b is None else stats.ttest_ind(a, b, equal_var=False)
    return float(test.pvalue)


def _power(kept: Kept, plan: Plan, count: int, seed: int, progress: Progress) -> Power | None:
    correct = kept.correct(plan.question)
    if count < 2 or contrast(correct, kept.layers, first_against_others(count)).p is None:
        return None
    weights, powers = first_against_others(count), dict[str, float]()
    for done, people in enumerate(plan.power_for):
        progress("simulating studies for the power", done, len(plan.power_for))
        powers[str(people)] = power(
            correct, kept.layers, weights, people,
            alpha=plan.alpha, draws=plan.power_draws, seed=seed,
        )  # fmt: skip
    return Power(
        question=plan.question,
        alpha=plan.alpha,
        simulations=plan.power_draws,
        person_sd=person_spread(correct),
        power=powers,
    )
