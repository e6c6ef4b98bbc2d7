"""The figure of the toy models: scales, text inside the page, what it refuses."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tests.support.toys import any_toys, by_hand

from opponent.paper.toy.models import ToyModels
from opponent.paper.toy.tasks import domain, probes, truth
from opponent.plots import PAGE, ToyWidth, toy_figure
from opponent.plots.toy import _matrix


def _width_of(toys: ToyModels, seeds: int = 3) -> ToyWidth:
    excitation, inhibition = (s[0] for s in toys.attributions(probes(toys.task)))
    x, _ = domain(toys.task)
    active = np.count_nonzero(truth(toys.task, x), axis=1)
    return ToyWidth(
        hidden=toys.hidden,
        excitation=excitation,
        inhibition=inhibition,
        losses=toys.losses(x)[0],
        active=active,
        seeds=np.linspace(0, 1, seeds),
    )


def _figure(widths: list[ToyWidth]) -> Figure:
    rows, columns = [f"[1, 0] {i}" for i in range(12)], [f"f{i}" for i in range(6)]
    return toy_figure(widths, label="XOR", about="1,000 models", rows=rows, columns=columns)


def test_matrices_are_normalised_within_columns() -> None:
    hand = by_hand("xor")
    white = _matrix(_width_of(hand))
    twice = ToyModels(task="xor", **hand.parameters | {"w2": 3 * hand.w2})
    assert (white == _matrix(_width_of(twice))).all()
    one, both = white[0, 0].astype(int), white[6, 0].astype(int)
    assert (white[0, 1] == 255).all()
    assert one[0] > one[1] + 20  # red: excitation alone
    assert one[0] > one[2] + 20
    assert both[1] > both[0] + 20  # green: both at once
    assert both[1] > both[2] + 20
    dead = ToyModels(task="xor", **hand.parameters | {"w2": 0 * hand.w2})
    assert (_matrix(_width_of(dead)) == 255).all()


@pytest.mark.parametrize("count", [1, 4, 5])
def test_text_stays_inside_the_figure(count: int) -> None:
    widths = [_width_of(any_toys("xor", 12 - k), 2 + 400 * k) for k in range(count)]
    figure = _figure(widths)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches()
    assert width == PAGE
    box = figure.get_tightbbox(canvas.get_renderer())
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_figure_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="0 models, expected 1 to 5"):
        _figure([])
    with pytest.raises(ValueError, match="6 models"):
        _figure([_width_of(by_hand("xor"))] * 6)
