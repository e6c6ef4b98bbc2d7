"""What inversions of one side have done, counted by hand."""

import numpy as np

from opponent.core.side import Side
from opponent.paper.inversion_traces import InversionTraces


def test_moved_counts_by_hand() -> None:
    traces = InversionTraces(
        units=np.array([1, 1, 2]),
        images=("a", "b", "a"),
        own=np.array([-0.5, -0.25, -0.125]),
        activation=np.array([[0.0, 1.0], [0.0, 3.0], [0.0, -1.0]]),
        final=np.array([2.0, -1.0, -0.125]),
    )
    assert traces.moved(Side.EXCITATION) == 1  # an activation that stays has not moved
    assert traces.moved(Side.INHIBITION) == 1
    described = traces.describe(Side.EXCITATION)
    assert described["inversions"] == 3
    assert described["steps"][1] == {"median": 1.0, "least": -1.0, "most": 3.0}
    assert described["own"]["median"] == -0.25
    assert described["each"][2] == {"unit": 2, "image": "a", "own": -0.125, "final": -0.125}
