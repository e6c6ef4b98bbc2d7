"""Every figure: drawn from every awkward input, text inside the paper, equal bytes."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.support.figures import (
    LONG,
    check_axes,
    check_texts,
    driver,
    drivers,
    energies_drawn,
    exemplar_row,
    objective,
    plain,
    rc_settings,
    synthetic,
    tile,
    trace,
    weights,
)

from opponent import plots
from opponent.plots import (
    PAGE,
    InversionRow,
    energies_figure,
    exemplars_figure,
    groups_figure,
    inversions_figure,
    save,
    square_figure,
    why_figure,
)

ALL = {"exciting": [0, 1], "inhibiting": [2], "silent": [], "own name": [0, 3], LONG: [4]}
FIGURES: dict[str, Callable[[], Figure]] = {
    "exemplars": lambda: exemplars_figure(
        [
            exemplar_row(0, 6, 5, group="conv2d0"),
            exemplar_row(20, 2, 6, group="conv2d0"),
            exemplar_row(40, 3, 3, group=LONG),
        ]
    ),
    "exemplars, one feature, one side": lambda: exemplars_figure([exemplar_row(0, 1, 0)]),
    "exemplars, nothing": lambda: exemplars_figure([exemplar_row(0, 0, 0)]),
    "energy": lambda: energies_drawn(300, groups=ALL, deviation=0.7),
    "energy, many": lambda: energies_drawn(6000),
    "energy, one image": lambda: energies_drawn(1, groups={"exciting": [0], "tense": [0]}),
    "energy, large": lambda: energies_drawn(20, 1e12),
    "energy, small": lambda: energies_drawn(20, 1e-12),
    "energy, no inhibition": lambda: energies_figure(
        np.arange(5.0), np.zeros(5), np.arange(5.0), label="f", through="l"
    ),
    "energy, little excitation": lambda: energies_figure(
        np.arange(5.0) / 1000, 9 * np.arange(5.0), -9 * np.arange(5.0), label="f", through="l"
    ),
    "energy, all zero": lambda: energies_figure(
        np.zeros(3), np.zeros(3), np.zeros(3), groups={"silent": [0, 1, 2]}, label="f", through="l"
    ),
    "groups": lambda: groups_figure(
        {
            "exciting": [tile(k, caption="+3.1") for k in range(6)],
            "inhibiting": [],
            "silent": [tile(9, size=0.0)],
            "apart": [tile(10, 4, 20), tile(11, 20, 4)],
            LONG: [plain()],
        },
        label=LONG,
    ),
    "groups, all empty": lambda: groups_figure({"tense": []}, label="f"),
    "groups, all blank": lambda: groups_figure({"silent": [tile(size=0.0)]}, label="f"),
    "groups, one pixel": lambda: groups_figure({"exciting": [tile(0, 1, 1)]}, label="f"),
    "inversions": lambda: inversions_figure(
        [
            InversionRow(
                photo=tile(caption="−0.2 sd"),
                excitatory_accentuation=synthetic(1),
                excitatory_inversion=synthetic(2, floats=False),
                inhibitory_inversion=synthetic(3, h=5, w=11),
            ),
            InversionRow(photo=plain()),
        ],
        label=LONG,
        visualisation=(synthetic(4), None),
    ),
    "inversions, a photograph alone": lambda: inversions_figure(
        [InversionRow(photo=tile(0, 20, 8))], label="f"
    ),
    "inversions, the feature alone": lambda: inversions_figure(
        [], label="f", visualisation=(synthetic(), synthetic(1))
    ),
    "square": square_figure,
    "square, with its end": lambda: square_figure(0.012345),
    "trace": lambda: trace(5, 20),
    "trace, one of each": lambda: trace(1, 1),
    "trace, nothing": lambda: trace(0, 3),
    "trace, five layers": lambda: trace(4, 30, 5),
    "weights": lambda: weights(1, 58),
    "weights, five networks": lambda: weights(5, 3),
    "weights, only zeros": lambda: weights(2, 0),
    "objective": objective,
    "why": lambda: why_figure(
        tile(0, 30, 40),
        drivers=drivers(
            [driver(f"mixed3a:{k}", 1.0 / (k + 1), 0.3 * k) for k in range(8)],
            [driver(LONG, 0.0123, 0.3), driver("b", 0.0, 0.0)],
        ),
        title=LONG,
        facts=[("activation f", "−0.31"), (LONG, LONG), ("E⁺ rank", "12 of 50,000")],
    ),
    "why, two features and crops": lambda: why_figure(
        tile(0, 40, 30),
        drivers=drivers(
            [
                driver(f"{LONG}:{k}", 1e-4 / (k + 7), 3e-5, exemplars=(tile(k, 4 + k, 9),))
                for k in range(8)
            ],
            [driver("a", 0.0123, 0.3), driver("b", 0.0, 2e5, exemplars=(tile(),))],
        ),
        title=f"{LONG} rather than {LONG}",
        facts=[(LONG, "−0.31"), (LONG, "12")],
        rivals=(LONG, LONG),
    ),
    "why, nothing for the first": lambda: why_figure(
        tile(0, 40, 10, size=0.0),
        drivers=drivers([], [driver("b", 0.0, 2.0, exemplars=(tile(),))]),
        title="f",
        rivals=("f", "g"),
    ),
    "why, nothing": lambda: why_figure(
        tile(0, 40, 10, size=0.0), drivers=drivers([], []), title="f", scale=2.0
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_text_lies_on_the_paper_and_not_on_other_text(make: Callable[[], Figure]) -> None:
    check_texts(make())


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_pictures_lie_on_the_paper_and_not_on_each_other(make: Callable[[], Figure]) -> None:
    figure = make()
    assert figure.get_size_inches()[0] <= PAGE + 1e-9
    check_axes(figure)


@pytest.mark.parametrize(
    "name", ["exemplars", "energy", "groups", "inversions", "trace", "weights", "why"]
)
def test_settings_are_neither_changed_nor_heeded(name: str, tmp_path: Path) -> None:
    before = rc_settings()
    save(FIGURES[name](), tmp_path / "one.png")
    assert rc_settings() == before
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 20}):
        save(FIGURES[name](), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_pyplot_is_not_used() -> None:
    for path in Path(plots.__file__).parent.glob("*.py"):
        assert "pyplot" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "PNG"])
def test_equal_figures_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "folder" / f"{name}.{suffix}" for name in ("one", "two")]
    for path in paths:
        save(FIGURES["energy, many"](), path)
    one, two = (path.read_bytes() for path in paths)
    assert len(one) > 1000
    assert one == two
    assert matplotlib.__version__.encode() not in one
