"""The figure of toy models with known features: text inside the page, what it refuses."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from opponent.plots import (
    PAGE,
    RocPanel,
    TensionPanel,
    TermMatrix,
    toy_interference_figure,
)

NAMES = ("hidden units", "true features", "learnt latents")


def _figure(matrices: int = 3, tasks: int = 3, widths: int = 4) -> Figure:
    generator, line = np.random.default_rng(0), np.array([1.0, 2.0, 0.5])
    grid = np.linspace(0, 1, 11)
    scores = ("tension in units", *NAMES[1:], "learnt, more on", "random directions")
    return toy_interference_figure(
        [TermMatrix(name=name, terms=generator.normal(size=(12, 8))) for name in NAMES[:matrices]],
        [
            TensionPanel(
                name="absolute values",
                hidden=(12, 8, 6),
                functional={} if task == 0 else {"true features": line},
                interference=dict.fromkeys(NAMES, line),
            )
            for task in range(tasks)
        ],
        [
            RocPanel(
                name="12 hidden units",
                grid=grid,
                curves=dict.fromkeys(scores, grid**0.5),
                areas=dict.fromkeys(scores, 0.67),
            )
            for _ in range(widths)
        ],
        about="a model",
    )


@pytest.mark.parametrize(("tasks", "widths"), [(1, 1), (3, 4)])
def test_text_stays_inside_the_figure(tasks: int, widths: int) -> None:
    figure = _figure(tasks=tasks, widths=widths)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches()
    assert width == PAGE
    box = figure.get_tightbbox(canvas.get_renderer())
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert shown == 5 * widths * ["0.67"]


def test_bars_are_the_smaller_of_both_signs() -> None:
    terms = np.array([[2.0, -1.0, 0.5], [1.0, 1.0, 1.0], [-3.0, 2.0, 0.0]])
    figure = toy_interference_figure(
        [TermMatrix(name="units", terms=terms)],
        [TensionPanel(name="t", hidden=(2,), functional={}, interference={"u": np.ones(1)})],
        [RocPanel(name="w", grid=np.arange(2.0), curves={"u": np.arange(2.0)}, areas={"u": 0.5})],
        about="by hand",
    )
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == [1.0, 0.0, 2.0]  # type: ignore[attr-defined]


def test_figure_refuses_what_does_not_fit() -> None:
    for counts, message in (
        ((0, 1, 1), "0 matrices, expected 1 to 3"),
        ((1, 0, 1), "0 tasks, expected 1 to 3"),
        ((1, 1, 5), "5 widths, expected 1 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            _figure(*counts)
