"""What toy models have learnt, as tables and as the paper's figures 7 and 15."""

import json
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from safetensors.numpy import save as to_bytes

from opponent.paper.toy.kernel import FEATURES
from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.study import ToyStudy
from opponent.paper.toy.tasks import domain, probes, truth
from opponent.plots import ToyWidth, save, toy_figure
from opponent.storage.files import AnyPath, atomic_write, to_path, write_text

# A model is called exact whose loss is below this for every input of the domain; ours.
EXACT = 1e-4


def describe(models: ToyModels) -> dict[str, Any]:
    """The losses and attributions of the models of one width, ready for JSON."""
    best = models.only([models.best])
    x, _ = domain(models.task)
    losses, active = best.losses(x)[0], _active(models.task, x)
    excitation, inhibition = (s[0] for s in best.attributions(probes(models.task)))
    return {
        "hidden": models.hidden,
        "best": models.best,
        "expected_loss": float(models.expected[models.best]),
        "largest_loss": float(models.worst[models.best]),
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
        "exact_models": len(exact_models(models)),
        "exact_models_with_tense_outputs": int(
            np.count_nonzero(models.tense()[exact_models(models)])
        ),
        "all_expected_losses": models.expected.tolist(),
        "all_largest_losses": models.worst.tolist(),
        "all_tense_outputs": models.tense().tolist(),
    }


def exact_models(models: ToyModels) -> Int[np.ndarray, " k"]:
    """The numbers of the models of one width that are exact for every input, the best first."""
    which = models.worst < EXACT
    order = np.argsort(models.expected, kind="stable")
    return order[which[order]]


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


def write_study(study: ToyStudy, folder: str | AnyPath, *, suffix: str = "png") -> list[AnyPath]:
    """Write the table, all models, and the figure.

    Args:
        study: as `train_study` returns it.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths, in this order.
    """
    folder = to_path(folder)
    table, parameters, picture = (
        folder / name for name in ("toy.json", "models.safetensors", f"toy.{suffix}")
    )
    content = to_bytes(
        {
            f"{hidden}.{name}": x
            for hidden, models in study.models.items()
            for name, x in models.parameters.items()
        }
    )
    with atomic_write(parameters) as file:
        file.write_bytes(content)
    values = {
        "question": study.question,
        "models_sha256": sha256(content).hexdigest(),
        "widths": [describe(models) for models in study.models.values()],
    }
    write_text(table, json.dumps(values, indent=1) + "\n")
    save(draw(study), picture)
    return [table, parameters, picture]


def draw(study: ToyStudy) -> Figure:
    """The paper's figures 7 and 15 of one task, and how the seeds spread.

    Args:
        study: as `train_study` returns it.
    """
    question, names = study.question, [str(i + 1) for i in range(FEATURES)]
    task = question["task"]
    signs = ("e", "−e") if task == "abs" else ("[1, 0] ", "[1, 1] ")
    x, _ = domain(task)

    def drawn(models: ToyModels, number: int, name: str = "") -> ToyWidth:
        one = models.only([number])
        excitation, inhibition = (s[0] for s in one.attributions(probes(task)))
        return ToyWidth(
            hidden=models.hidden,
            excitation=excitation,
            inhibition=inhibition,
            losses=one.losses(x)[0],
            active=_active(task, x),
            seeds=models.expected,
            name=name,
        )

    widths = [drawn(models, models.best) for models in study.models.values()]
    others, how_often = [], ""
    for models in study.models.values():
        exact, tense = exact_models(models), models.tense()
        if task == "xor" and tense[exact].any() and len(widths) < 5:
            most = exact[np.argmax(tense[exact])]
            others = [drawn(models, int(most), f"{tense[most]} of {FEATURES} tense")]
            how_often = f"; of {len(exact):,} exact models {np.count_nonzero(tense[exact]):,} have "
            how_often += "outputs that are tense on [1, 1]"
            break
    return toy_figure(
        widths,
        label={"abs": "Absolute values", "xor": "XOR of pairs"}[task],
        about=f"the best of {question['seeds']:,} models of each width, {question['steps']:,} "
        + (f"steps{how_often}" if how_often else "steps; E⁺ and E⁻ through the hidden layer"),
        others=others,
        rows=[sign + name for sign in signs for name in names],
        columns=["f" + name for name in names],
    )
