"""The colour square beside maps."""

import numpy as np
from tests.support.figures import drivers, mapped

from opponent.core.colour import colour_square
from opponent.plots import groups_figure, why_figure


def test_the_colour_square_stands_beside_the_maps_with_the_end_of_its_scale() -> None:
    end = mapped(np.full((6, 6), 2.5), np.zeros((6, 6)))
    for figure in (
        groups_figure({"exciting": [end]}, label="f"),
        why_figure(end, drivers=drivers([], []), title="f"),
    ):
        axes = next(axes for axes in figure.axes if axes.get_xlabel() == "excitation φ⁺")
        shown = np.asarray(axes.get_images()[0].get_array())
        np.testing.assert_array_equal(shown, colour_square(len(shown)))
        assert axes.get_ylabel() == "inhibition φ⁻"
        assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "≥ 2.5"]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "≥ 2.5"]
