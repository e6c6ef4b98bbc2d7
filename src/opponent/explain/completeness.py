"""What to know, and to do, where excitation - inhibition does not follow the activation."""

import numpy as np

from opponent.geometry.through import bottlenecks_before, branch_note
from opponent.models.network import PIXELS, Network
from opponent.storage.columns import COMPLETE, Columns
from opponent.storage.run import Run

# Under this share of what they add up to, excitation and inhibition cancel.
CANCELLED = 1e-3


def completeness_note(run: Run, network: Network, columns: Columns) -> str | None:
    """What to know of a feature's sides before believing them; None where they add up.

    Args:
        run: the run.
        network: the network that was scanned.
        columns: of one of the run's features.
    Returns:
        That the through layer is a branch, and which are none; where it is none and the correlation
        is low, why, and what else to scan.
    """
    note = branch_note(network, run.features[0].layer, run.through)
    if note is not None or not columns.completeness < COMPLETE:
        return note
    if _cancel(columns):
        return (
            "Excitation and inhibition cancel in every image. A layer norm does this, whose output "
            "does not change with the size of its input: explain through that output, or through "
            "a layer after it"
        )
    target = run.features[0].layer
    nearer = _after(network, target, run.through)
    through = f" Explain through a nearer layer, such as {nearer[-1]}" if nearer else ""
    note = (
        f"Where r is under {COMPLETE}, the two sides do not account for the activation: "
        f"{_own_parts(network, target, run.through)}. `opponent completeness --parts 10` measures "
        f"each layer's part.{through}"
    )
    if run.manifest.rule == "gradient" and run.manifest.dictionary is None:
        note += "; or else" if nearer else ""
        note += " a scan with --rule integrated-zero attributes all of it"
    return note


def _after(network: Network, target: str, through: str) -> list[str]:
    """The bottlenecks from a through layer on to the target, in order."""
    names = [PIXELS, *bottlenecks_before(network, target)]
    return names[names.index(through) + 1 :] if through in names else []


def _own_parts(network: Network, target: str, through: str) -> str:
    """In words, how many layers on the way add something that is in neither side."""
    begin = network.layers.through_point(through).order
    end = network.layers.target_point(target).order
    between = [
        network.layers.module(name)
        for name in network.layers
        if begin < network.layers.output_point(name).order <= end
    ]
    biases = sum(getattr(x, "bias", None) is not None for x in between)
    norms = sum("norm" in type(x).__name__.lower() for x in between)
    counted = [f"{n} {what}" for n, what in ((biases, "biases"), (norms, "norms")) if n]
    added = " and ".join(counted) or "functions that do not double with their input"
    return f"between {through} and {target} lie {added}, whose own part is in neither"


def _cancel(columns: Columns) -> bool:
    """Whether each image excites as much as it inhibits, up to rounding."""
    total = columns.total
    return bool((np.abs(total) <= CANCELLED * (columns.excitation + columns.inhibition)).all())
