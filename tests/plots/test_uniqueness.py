"""Figures 8 and 16: what they show, and say where there is nothing to show."""

import numpy as np
import pytest

from opponent.explain.crops import Tile
from opponent.paper.uniqueness.measurements import KINDS, SELECTIONS
from opponent.plots import (
    SharedRow,
    TenseRow,
    UniquenessLine,
    shared_figure,
    tense_rows_figure,
    uniqueness_figure,
)


def line(kind: str, by: str, layers: int) -> UniquenessLine:
    value = np.linspace(0.9, 0.3, layers)
    return UniquenessLine(
        kind=kind, by=by, value=value, low=value - 0.1, high=value + 0.1, chance=value * 0 + 0.8
    )


def texts(figure: object) -> list[str]:
    return [text.get_text() for text in figure.texts]  # type: ignore[attr-defined]


def photo(caption: str = "") -> Tile:
    return Tile(image=np.full((8, 8, 3), 128, np.uint8), caption=caption)


def test_figure_8a() -> None:
    lines = [line(kind, by, 4) for kind in KINDS for by in SELECTIONS]
    figure = uniqueness_figure(["a", "b", "c", "x" * 60], lines, about="n = 20")
    [axes] = figure.axes
    # Two of chance, and for each line itself and its dots.
    assert len(axes.lines) == 2 + 2 * len(lines)
    assert len(axes.collections) == len(lines)
    colours = {x.get_color() for x in axes.lines[2:]}
    assert len(colours) == 3
    labels = [x.get_text() for x in axes.get_xticklabels()]
    assert labels[:3] == ["a", "b", "c"]
    assert "…" in labels[3]
    assert {"n = 20", "activation", "units", "k-means", "chance"} <= set(texts(figure))
    with pytest.raises(ValueError, match=r"2 layers and lines of \[3\] values"):
        uniqueness_figure(["a", "b"], [line("units", "l1", 3)], about="")
    with pytest.raises(ValueError, match="0 layers"):
        uniqueness_figure([], [], about="")


def test_figure_8b() -> None:
    rows = [
        TenseRow(label="7", exciting=[photo("1 of 20")] * 3, tense=[photo("9 of 20")] * 3),
        TenseRow(label="31", exciting=[photo("2 of 20")] * 3, tense=[]),
    ]
    figure = tense_rows_figure(rows, label="mixed4d", about="word " * 60)
    assert len(figure.axes) == 9
    found = texts(figure)
    assert found.count("9 of 20") == 3
    assert {"7", "31", "mixed4d", "none"} <= set(found)
    assert sum(text.startswith("word") for text in found) > 1
    with pytest.raises(ValueError, match="rows is empty"):
        tense_rows_figure([], label="")


def test_figure_16_says_what_is_empty() -> None:
    def row(layer: str, count: int = 0) -> SharedRow:
        return SharedRow(layer=layer, count=count, tiles=[photo("18 of 20")] * count)

    one = [row("a", 7), row("b"), row("c")]
    figure = shared_figure(
        {"units": one, "k-means": [row("a"), row("b", 1), row("c")]}, about="about", nothing="no"
    )
    assert len(figure.axes) == 6 + 1
    assert {"a: 7", "b: none", "a: none", "b: 1", "about"} <= set(texts(figure))
    assert not {"c: none", "no"} & set(texts(figure))
    figure = shared_figure(
        {"units": one, "k-means": [row(x) for x in "abc"]}, about="", nothing="no"
    )
    assert texts(figure).count("no") == 1
    figure = shared_figure({"units": [], "k-means": []}, about="", nothing="no")
    assert texts(figure).count("no") == 2
    for bad in ({}, {"units": one, "k-means": [row("a")]}):
        with pytest.raises(ValueError, match="expected panels, all with the same layers"):
            shared_figure(bad, about="", nothing="")
