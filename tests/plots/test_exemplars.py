"""Figure 2: order, headings, proportions."""

import numpy as np
import pytest
from tests.support.figures import exemplar_row, pictures, tile, words

from opponent.plots import ExemplarRow, exemplars_figure


def test_exemplars_are_drawn_in_order_with_one_heading_a_layer() -> None:
    rows = [
        exemplar_row(0, 2, 1, group="conv2d0"),
        exemplar_row(9, 1, 1, group="conv2d0"),
        exemplar_row(20, 1, 0),
    ]
    figure = exemplars_figure(rows)
    expected = [t.image for r in rows for t in (*r.exciting, *r.inhibiting)]
    shown = pictures(figure)
    assert len(shown) == len(expected)
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert words(figure).splitlines().count("conv2d0") == 1
    assert words(figure).splitlines().count("none") == 1


def test_pictures_keep_their_shape() -> None:
    figure = exemplars_figure([ExemplarRow(label="f", exciting=[tile(0, 10, 30)], inhibiting=[])])
    across, down = figure.get_size_inches()
    box = figure.axes[0].get_position()
    assert (box.width * across) / (box.height * down) == pytest.approx(3)


def test_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        exemplars_figure([])
