"""Figure 5: on white, what was not made."""

import numpy as np
import pytest
from tests.support.figures import pictures, synthetic, tile, words

from opponent.explain.crops import Synthetic
from opponent.plots import InversionRow, inversions_figure


def test_inversions_lie_on_white_and_unmade_kinds_have_no_column() -> None:
    clear = Synthetic(image=np.zeros((4, 4, 4)))
    half = Synthetic(image=np.full((4, 4, 4), 51, np.uint8))
    figure = inversions_figure(
        [InversionRow(photo=tile(), excitatory_inversion=clear, inhibitory_inversion=half)],
        label="f",
    )
    _, first, second = pictures(figure)
    assert (first == 255).all()
    # 1 - 0.2 (1 - 0.2) = 0.84.
    assert (second == round(0.84 * 255)).all()
    assert "accentuation" not in words(figure)


def test_what_was_not_made_is_said() -> None:
    figure = inversions_figure(
        [InversionRow(photo=tile(), excitatory_inversion=synthetic())], label="f"
    )
    assert words(figure).splitlines().count("not made") == 1


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        inversions_figure([], label="f")
