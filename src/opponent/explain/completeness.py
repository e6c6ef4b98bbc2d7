"""What to know, and to do, where excitation - inhibition does not follow the activation."""

from opponent.geometry.through import branch_note
from opponent.models.network import Network
from opponent.storage.columns import COMPLETE, Columns
from opponent.storage.run import Run


def completeness_note(run: Run, network: Network, columns: Columns) -> str | None:
    """What to know of a feature's sides before believing them; None where they add up.

    Args:
        run: the run.
        network: the network that was scanned.
        columns: of one of the run's features.
    Returns:
        That the through layer is a branch, and which are none; where it is none and the correlation
        is low, the rule that attributes all of the activation.
    """
    note = branch_note(network, run.features[0].layer, run.through)
    if note is not None or not columns.completeness < COMPLETE:
        return note
    note = (
        f"Where r is under {COMPLETE}, the two sides do not account for the activation: batch "
        "norm, biases or very early layers do this"
    )
    if run.manifest.rule == "gradient":
        note += "; a scan with --rule integrated-zero attributes all of it"
    return note
