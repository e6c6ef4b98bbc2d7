"""Panels of lines by layer: what is drawn where, and what is refused."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from opponent.plots.by_layer import LayerLine, LayerPanel, by_layer_figure


def panel(names: tuple[str, ...], count: int) -> LayerPanel:
    values = np.linspace(0.2, 0.6, count)
    lines = [
        LayerLine(
            name=name, colour="#112233", dashes="dashed", value=values, low=values - 0.1,
            high=values + 0.1,
        )
        for name in names
    ]  # fmt: skip
    chance = LayerLine(name="chance", colour="#aaaaaa", dashes="dotted", value=values + 0.2)
    return LayerPanel(title="A title", ylabel="U", lines=[*lines, chance], bounds=(0.0, 1.0))


def texts(figure: Figure) -> list[str]:
    return [x.get_text() for x in figure.texts]


def test_the_legend_names_each_look_once() -> None:
    rows = [[panel(("one", ""), 3)] * 2, [panel(("one", "two"), 3)] * 2]
    figure = by_layer_figure(["a", "b", "c"], rows, about="what it is")
    found = texts(figure)
    assert [found.count(x) for x in ("one", "two", "chance", "", "what it is")] == [1, 1, 1, 0, 1]
    assert [x for x in found if x in "ABCD"] == ["A", "B", "C", "D"]
    assert len(figure.axes) == 4
    assert figure.axes[0].get_ylim() == (0.0, 1.0)
    # Names stand below the last row alone, what is shown beside the first column alone.
    labels = [[x.get_text() for x in axes.get_xticklabels()] for axes in figure.axes]
    assert labels == [[""] * 3, [""] * 3, ["a", "b", "c"], ["a", "b", "c"]]
    assert [axes.get_ylabel() for axes in figure.axes] == ["U", "", "U", ""]


def test_long_names_stay_within_the_figure() -> None:
    names = [f"features.{i}.squeeze_activation" for i in range(3, 12)]
    figure = by_layer_figure(names, [[panel(("one",), 9)] * 3], about="")
    figure.canvas.draw()
    width, height = figure.bbox.width, figure.bbox.height
    for axes in figure.axes:
        for label in axes.get_xticklabels():
            box = label.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height


def test_a_single_layer_has_chance_as_a_level() -> None:
    figure = by_layer_figure(["a"], [[panel(("one",), 1)]], about="")
    [axes] = figure.axes
    levels = [line for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in levels] == [0.4]  # type: ignore[index]


def test_what_does_not_fit_is_refused() -> None:
    for layers, rows in (
        ([], [[panel(("one",), 0)]]),
        (["a", "b"], [[panel(("one",), 3)]]),
        (["a"], [[panel(("one",), 1)], [panel(("one",), 1)] * 2]),
        (["a"], []),
    ):
        with pytest.raises(ValueError, match="expected panels in equal rows, all of all layers"):
            by_layer_figure(layers, rows, about="")
