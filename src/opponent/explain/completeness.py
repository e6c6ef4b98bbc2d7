"""What to know, and to do, where excitation - inhibition does not follow the activation."""

import numpy as np

from opponent.geometry.through import branch_note
from opponent.models.network import Network
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
    note = (
        f"Where r is under {COMPLETE}, the two sides do not account for the activation: norms, "
        "attention, biases or very early layers do this"
    )
    if run.manifest.rule == "gradient":
        note += "; a scan with --rule integrated-zero attributes all of it"
    return note


def _cancel(columns: Columns) -> bool:
    """Whether each image excites as much as it inhibits, up to rounding."""
    total = columns.excitation - columns.inhibition
    return bool((np.abs(total) <= CANCELLED * (columns.excitation + columns.inhibition)).all())
