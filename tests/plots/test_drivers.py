"""The figure of `who`: what it says, bars on one scale, text inside the paper."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tests.support.figures import (
    LONG,
    check_axes,
    check_texts,
    driver,
    drivers,
    synthetic,
    tile,
    words,
)

from opponent.explain.drivers import Driver
from opponent.plots import PAGE, drivers_figure, save


def row(name: str, excitation: float, inhibition: float, tiles: int = 0, **named: Any) -> Driver:
    return driver(
        name,
        excitation,
        inhibition,
        exemplars=tuple(tile(k, caption="12.3") for k in range(tiles)),
        **named,
    )


def drawn(exciting: list[Driver], inhibiting: list[Driver], **named: Any) -> Figure:
    named = {"title": "mixed3b:189@7,7", "about": "channels of mixed3a"} | named
    return drivers_figure(drivers(exciting, inhibiting), **named)


FIGURES: dict[str, Callable[[], Figure]] = {
    "usual": lambda: drawn(
        [row(f"mixed3a:{k}", 9.0 / (k + 1), 1.0 * k, 4, excitation_sd=1.0) for k in range(3)],
        [row(f"mixed3a:{k}", 0.5, 7.0 / (k + 1), 4, visualisation=synthetic(k)) for k in range(2)],
    ),
    "uneven": lambda: drawn([row("a:1", 2.0, 3.0, 9)], [row("b:2", 0.0, 1.0)] * 5),
    "nothing": lambda: drawn([], []),
    "one side": lambda: drawn([], [row("early:3", 0.0, 0.25, 1, inhibition_sd=0.125)]),
    "numbers alone": lambda: drawn([row("pixels:0", 1.0, 0.5)], [row("pixels:2", 0.5, 3.0)]),
    "one image": lambda: drawn([row("mixed3a:5", 3.0, 0.0, 1)], []),
    "one visualisation": lambda: drawn([row("m:5", 3.0, 0.0, visualisation=synthetic(1))], []),
    "long names": lambda: drawn(
        [row(LONG, 1.0, 0.1, 2), row(LONG + "x", 0.5, 0.1)], [], title=LONG * 2, about=LONG * 2
    ),
    "nothing moves it": lambda: drawn([row("a:1", 0.0, 0.0)], [row("a:2", 0.0, 0.0)]),
    "tall and wide": lambda: drawn(
        [driver("a:1", 1.0, 0.1, exemplars=(tile(0, 9, 40), tile(1, 40, 9)))], []
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_the_figure_keeps_to_the_paper(make: Callable[[], Figure]) -> None:
    figure = make()
    across, down = figure.get_size_inches()
    assert across == PAGE
    assert 0 < down < 30
    check_texts(figure)
    check_axes(figure)


def test_the_figure_says_what_it_shows() -> None:
    figure = FIGURES["uneven"]()
    texts = words(figure).splitlines()
    assert texts[:2] == ["mixed3b:189@7,7", "channels of mixed3a"]
    assert texts[2] == "50 % of the tension lies within single channels"
    assert {"excite it: 50 % of all excitation", "inhibit it: 50 % of all inhibition"} < set(texts)
    assert {"a:1", "b:2", "+2", "−3", "−1", "0"} < set(texts)
    assert texts.count("never active") == 5
    assert "no channel does" not in texts
    pictures = [image for axes in figure.axes for image in axes.get_images()]
    assert len(pictures) == 9
    np.testing.assert_array_equal(pictures[4].get_array(), tile(4).image)
    assert words(FIGURES["nothing"]()).splitlines().count("no channel does") == 2
    assert words(FIGURES["one side"]()).splitlines().count("no channel does") == 1
    assert "never active" not in words(FIGURES["numbers alone"]()).splitlines()


def test_bars_are_as_long_as_the_means() -> None:
    """To the left what inhibits, on both sides by one scale that holds the longest whiskers."""
    figure = drawn(
        [driver("a:1", 4.0, 1.0, excitation_sd=1.0), driver("a:2", 2.0, 0.0, excitation_sd=3.5)],
        [driver("a:3", 0.5, 3.0, inhibition_sd=1.0)],
    )
    bars, whiskers = {}, {}
    for axes, name in zip(figure.axes, ("a:1", "a:2", "a:3"), strict=True):
        assert axes.get_xlim() == (-4, 5.5)
        bars[name] = [bar.get_width() for bar in axes.patches]
        whiskers[name] = [line.get_xdata().tolist() for line in axes.lines[:-1]]
    assert bars == {"a:1": [-1, 4], "a:2": [0, 2], "a:3": [-3, 0.5]}
    assert whiskers == {"a:1": [[3, 5]], "a:2": [[0, 5.5]], "a:3": [[-2, -4]]}


def test_equal_figures_have_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.svg" for k in range(2)]
    for path in paths:
        save(FIGURES["usual"](), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 5000


@pytest.mark.parametrize(
    ("excitation", "inhibition"), [(1.234e-5, 1.234e-6), (1234567.0, 123456.0)]
)
def test_numbers_do_not_lie_on_their_bar(excitation: float, inhibition: float) -> None:
    figure = drawn([driver("mixed3a:12", excitation, inhibition)], [])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    numbers = [x for x in figure.texts if x.get_text()[0] in "−+"]
    assert len(numbers) == 2
    bar = figure.axes[0].get_window_extent()
    assert all(x.get_window_extent(canvas.get_renderer()).x0 >= bar.x1 for x in numbers)
