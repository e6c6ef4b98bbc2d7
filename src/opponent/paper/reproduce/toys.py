"""Figures 7 and 15: toy models of superposition."""

from typing import Any

from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.paper.toy.results import EXACT, describe, write_study
from opponent.paper.toy.study import train_study


def toy_entries(reproduction: Reproduction) -> list[Entry]:
    """Toy models of both tasks and all widths."""
    pictures, claims = [], list[Claim]()
    for task, name in (("abs", "absolute value"), ("xor", "XOR")):
        folder = reproduction.folder / f"toy-{task}"
        study = train_study(
            task,
            out=folder,
            seeds=reproduction.scale.seeds,
            seed=reproduction.seed,
            progress=reproduction.progress,
        )
        pictures.append(next(p for p in write_study(study, folder) if p.suffix == ".png"))
        claims += _claims(name, [describe(models) for models in study.models.values()])
    return [
        Entry(
            figure="7, 15",
            title="Toy models of superposition",
            caption=f"The best of {reproduction.scale.seeds:,} models of each width: attribution "
            "of every output in inputs with one feature, losses by the number of active "
            "features, and how the seeds spread.",
            pictures=tuple(pictures),
            claims=tuple(claims),
        )
    ]


def _claims(name: str, widths: list[dict[str, Any]]) -> list[Claim]:
    """Of one task, from what `describe` says of each width, the widest first."""
    widest, narrowest = widths[0], widths[-1]
    off = [width["off_diagonal"]["mean"] for width in widths]
    by_active = [row["mean"] for row in narrowest["loss_by_active_features"]]
    return [
        Claim(
            claim=f"{name}: with {widest['hidden']} hidden units the best model is perfect",
            paper="no loss for any of the inputs",
            ours=f"at most {widest['largest_loss']:.1e} on any input",
            agrees=widest["largest_loss"] < EXACT,
        ),
        Claim(
            claim=f"{name}: narrower models drive outputs that have nothing to do with it",
            paper="more off-diagonal attributions",
            ours="mean off-diagonal over diagonal: "
            + ", ".join(
                f"{x:.3f} (m = {width['hidden']})" for x, width in zip(off, widths, strict=True)
            ),
            agrees=off[0] < off[-1] and off == sorted(off),
        ),
        Claim(
            claim=f"{name}: the narrowest model's loss grows with the active features",
            paper="monotonically",
            ours=", ".join(f"{x:.2g}" for x in by_active) + " with 0 to 6",
            agrees=by_active == sorted(by_active),
        ),
    ]
