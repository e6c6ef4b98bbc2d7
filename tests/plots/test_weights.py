"""Figure 12: what is refused."""

import numpy as np
import pytest
from tests.support.figures import weights, weights_panel

from opponent.plots import weights_figure


def test_weights_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no network to draw"):
        weights(0, 1)
    with pytest.raises(ValueError, match="has 10 counts for 4 edges, expected 5"):
        weights_figure([weights_panel()], np.arange(4.0))
