"""What a study of toy models and dictionaries found: two tables, a summary, a figure."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.figure import Figure
from pyarrow import csv

from opponent.paper.toy.features import KINDS
from opponent.paper.toy.interference import DICTIONARIES, GRID, MEASURES, PREDICTORS
from opponent.paper.toy.interference_study import INPUTS, LEAST, InterferenceStudy
from opponent.paper.toy.results import EXACT
from opponent.plots import (
    RocPanel,
    TensionPanel,
    TermMatrix,
    save,
    toy_interference_figure,
)
from opponent.storage.files import AnyPath, atomic_write, to_path, write_text

# Draws of models with repetition, of which the middle 95 % are the interval of a mean.
_DRAWS = 10_000
# What figures show, by what they call it.
_COUNTED = {"hidden units": None, "true features": "true", "learnt latents": "learnt"}
_SHOWN = {
    "tension in units": "tension, units",
    "true features": "remaining, true",
    "learnt latents": "remaining, learnt",
    "learnt, more on": "remaining, learnt, more on",
    "random directions": "remaining, random",
}


def tension_table(study: InterferenceStudy) -> pa.Table:
    """One row a model, dictionary and kind of case: the mean of each measure over the cases.

    Args:
        study: as `study_interference` returns it.
    """
    rows = list[dict[str, Any]]()
    for (task, hidden), arrays in study.measured.items():
        tensions = arrays["tension"]
        for model, (d, dictionary), (k, kind) in product(
            range(len(tensions)), enumerate(DICTIONARIES), enumerate(KINDS)
        ):
            if arrays["cases"][model, k]:
                rows.append(
                    {
                        "task": task, "hidden": hidden, "model": model, "dictionary": dictionary,
                        "kind": kind, "cases": int(arrays["cases"][model, k]),
                        **dict(zip(MEASURES, tensions[model, d, k].tolist(), strict=True)),
                    }
                )  # fmt: skip
    return pa.Table.from_pylist(rows)


def separation_table(study: InterferenceStudy) -> pa.Table:
    """One row a model, sort of inputs and predictor: the area under its curve.

    Args:
        study: as `study_interference` returns it.
    """
    names = ("task", "hidden", "model", "inputs", "functional", "interference", "predictor", "area")
    rows = list[dict[str, Any]]()
    for (task, hidden), arrays in study.measured.items():
        for inputs in (x for x in INPUTS if f"areas.{x}" in arrays):
            areas, cases = arrays[f"areas.{inputs}"], arrays[f"cases.{inputs}"].tolist()
            for model, (p, name) in product(range(len(areas)), enumerate(PREDICTORS)):
                area = None if np.isnan(areas[model, p]) else float(areas[model, p])
                values = (task, hidden, model, inputs, *cases[model], name, area)
                rows.append(dict(zip(names, values, strict=True)))
    kinds = [pa.string(), *[pa.int64()] * 2, pa.string(), *[pa.int64()] * 2]
    schema = pa.schema(list(zip(names, [*kinds, pa.string(), pa.float64()], strict=True)))
    return pa.Table.from_pylist(rows, schema=schema)


def summarise(study: InterferenceStudy) -> list[dict[str, Any]]:
    """Means over the models of each task and width, ready for JSON.

    Args:
        study: as `study_interference` returns it.
    """
    return [_summary(task, m, arrays) for (task, m), arrays in study.measured.items()]


def _summary(task: str, hidden: int, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    there = [k for k in range(len(KINDS)) if arrays["cases"][0, k]]
    means = arrays["tension"].mean(0)
    result: dict[str, Any] = {
        "task": task,
        "hidden": hidden,
        "models": len(arrays["explained"]),
        "exact_models": int((arrays["worst"] < EXACT).sum()),
        "explained": float(arrays["explained"].mean()),
        "left": dict(zip(_LEARNT, arrays["left"].mean(0).tolist(), strict=True)),
        "found": dict(zip(_LEARNT, arrays["found"].mean(0).tolist(), strict=True)),
        "tension": {
            dictionary: {
                KINDS[k]: dict(zip(MEASURES, means[d, k].tolist(), strict=True)) for k in there
            }
            for d, dictionary in enumerate(DICTIONARIES)
        },
    }
    for inputs in INPUTS:
        if f"areas.{inputs}" in arrays:
            areas = arrays[f"areas.{inputs}"]
            areas = areas[np.isfinite(areas).all(1)]
            result[f"area_{inputs}"] = {
                name: interval(areas[:, p]) if len(areas) else None
                for p, name in enumerate(PREDICTORS)
            } | {"models": len(areas)}
    return result


_LEARNT = tuple(name for name in DICTIONARIES if name.startswith("learnt"))


def interval(values: Float[np.ndarray, " s"]) -> dict[str, float]:
    """A mean, and the middle 95 % of the means of models drawn with repetition.

    Args:
        values: one a model; at least one.
    """
    generator = np.random.default_rng(0)
    drawn = values[generator.integers(0, len(values), (_DRAWS, len(values)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def write_interference(
    study: InterferenceStudy, folder: str | AnyPath, *, suffix: str = "png"
) -> list[AnyPath]:
    """Write the tables, the summary with what determines it, and the figure.

    Args:
        study: as `study_interference` returns it.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths; no figure without the task 'veto'.
    """
    folder, paths = to_path(folder), list[AnyPath]()
    for name, table in (
        ("tension.csv", tension_table(study)),
        ("separation.csv", separation_table(study)),
    ):
        paths.append(folder / name)
        with atomic_write(paths[-1]) as temporary, temporary.open("wb") as file:
            csv.write_csv(table, file)
    paths.append(folder / "toy-interference.json")
    values = {"question": study.question, "least_tension": LEAST, "widths": summarise(study)}
    write_text(paths[-1], json.dumps(values, indent=1) + "\n")
    if any(task == "veto" for task, _ in study.measured):
        paths.append(folder / f"toy-interference.{suffix}")
        save(draw_interference(study), paths[-1])
    return paths


def draw_interference(study: InterferenceStudy) -> Figure:
    """The example, tension by width and curves by width of a study that has the task 'veto'.

    Args:
        study: as `study_interference` returns it.
    """
    widths = [m for task, m in study.measured if task == "veto"]
    shown = widths[min(len(widths) - 1, 1)]
    arrays = study.measured["veto", shown]
    best = int(np.argmax(arrays["explained"]))
    names = dict(zip(("units", "true", "learnt"), _COUNTED, strict=True))
    example = [
        TermMatrix(name=f"S over {name}", terms=arrays[f"example.{key}"][best])
        for key, name in names.items()
    ]
    tasks = dict.fromkeys(task for task, _ in study.measured)
    titles = {"abs": "absolute values", "xor": "XOR of pairs", "veto": "veto: x − the next x"}
    return toy_interference_figure(
        example,
        [_panel(study, task, titles[task]) for task in tasks],
        [_roc(study.measured["veto", m], m) for m in widths[:4]],
        about=f"a veto model of {shown} hidden units, inputs 1 and 2 on: x2 holds f1 back by the "
        "task's own rule; f3 to f11 have nothing to do with them",
    )


def _panel(study: InterferenceStudy, task: str, name: str) -> TensionPanel:
    widths = [m for t, m in study.measured if t == task]

    def lines(kind: str) -> dict[str, np.ndarray]:
        k, found = KINDS.index(kind), dict[str, np.ndarray]()
        for label, dictionary in _COUNTED.items():
            place = (0, k, 0) if dictionary is None else (DICTIONARIES.index(dictionary), k, 1)
            means = [study.measured[task, m]["tension"].mean(0)[place] for m in widths]
            if np.isfinite(means).all():
                found[label] = np.array(means)
        return found

    return TensionPanel(
        name=name,
        hidden=widths,
        functional=lines("functional"),
        interference=lines("other, several"),
    )


def _roc(arrays: Mapping[str, np.ndarray], hidden: int) -> RocPanel:
    places = {label: PREDICTORS.index(name) for label, name in _SHOWN.items()}
    curves, areas = arrays["curves.opposed"], arrays["areas.opposed"]
    known = np.isfinite(areas).all(1)
    return RocPanel(
        name=f"{hidden} hidden units",
        grid=GRID,
        curves={label: _mean(curves[known, p]) for label, p in places.items()},
        areas={label: float(_mean(areas[known, p])) for label, p in places.items()},
    )


def _mean(values: Float[np.ndarray, "s ..."]) -> Float[np.ndarray, "..."]:
    """The mean over models; NaN where no model has cases of both kinds."""
    return np.asarray(values.mean(0)) if len(values) else np.full(values.shape[1:], np.nan)
