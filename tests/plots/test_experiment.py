"""Figure 10, and the figure of a contact sheet."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from opponent.explain.crops import Tile
from opponent.plots.experiment import (
    ExperimentBar,
    ExperimentLayer,
    SheetRow,
    experiment_figure,
    sheet_figure,
)


def bar(accuracy: float | None, **more: Any) -> ExperimentBar:
    given: dict[str, Any] = {
        "low": 0.2, "high": 0.9, "features": [0.1, 0.5],
        "chosen": {"mei": 0.5, "mii": 0.2, "distractor": 0.3}, "seconds": (1.0, 2.0, 4.0),
    }  # fmt: skip
    return ExperimentBar(accuracy=accuracy, **given | more)


def test_figure_10_shows_the_numbers() -> None:
    layers = [
        ExperimentLayer(name="a", label="early", mei=bar(0.8), mii=bar(0.6)),
        ExperimentLayer(name="b", label="late", mei=bar(0.7), mii=bar(None, seconds=None)),
    ]
    figure = experiment_figure(layers, chance={"mei": 1 / 9, "mii": 1 / 8}, level=0.95,
                               participants=7)  # fmt: skip
    first, second, third = figure.axes
    heights = [patch.get_height() for patch in first.patches]
    assert heights == [0.8, 0.7, 0.6]
    lines = [line.get_ydata()[0] for line in first.lines if len(line.get_ydata()) == 2]
    assert sum(y == pytest.approx(1 / 9) for y in lines) == 2
    assert sum(y == pytest.approx(1 / 8) for y in lines) == 1
    assert len(second.patches) == 12
    assert len(third.lines) == 6
    assert [x.get_text() for x in first.get_xticklabels()] == ["early\na", "late\nb"]
    assert any("7 participants, 2 features" in x.get_text() for x in figure.texts)
    long = [
        replace(layer, name=f"features.{number}.expand3x3_activation")
        for layer, number in zip(layers, (3, 12), strict=True)
    ]
    figure = experiment_figure(long, chance={"mei": 1 / 9, "mii": 1 / 8}, level=0.95,
                               participants=7)  # fmt: skip
    for axes in figure.axes:
        names = [x.get_text() for x in axes.get_xticklabels()]
        assert names == ["early", "late"]
    named = "early: features.3.expand3x3_activation; late: features.12.expand3x3_activation"
    assert any(x.get_text() == named for x in figure.texts)
    made_up = experiment_figure(layers, chance={"mei": 1 / 9, "mii": 1 / 8}, level=0.95,
                                participants=7, simulated="perfect")  # fmt: skip
    told = " ".join(x.get_text() for x in made_up.texts)
    assert "7 simulated participants (perfect)" in told
    assert "made up" in told
    with pytest.raises(ValueError, match="at least one layer"):
        experiment_figure([], chance={}, level=0.95, participants=0)


def test_a_sheet_s_figure() -> None:
    tile = Tile(image=np.zeros((5, 5, 3), np.uint8), caption="+1.0")
    row = SheetRow(
        label="a", about="x\ny", examples=[tile] * 6, mei=tile, mii=tile, distractors=[tile] * 7
    )
    figure = sheet_figure("a layer", [row, row])
    assert len(figure.axes) == 30
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("+1.0") == 30
    assert {"a layer", "examples", "MEI", "MII", "distractors", "x", "y"} <= set(texts)
    with pytest.raises(ValueError, match="at least one trial"):
        sheet_figure("nothing", [])
