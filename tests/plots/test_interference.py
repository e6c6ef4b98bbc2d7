"""The figure of what remains of the tension."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.support.figures import (
    LONG,
    check_axes,
    check_texts,
    driver,
    drivers,
    pictures,
    plain,
    tile,
    words,
)

from opponent.explain.crops import Tile
from opponent.explain.interference_images import InterferenceImage
from opponent.plots import PAGE, interference_figure, save, tensions_figure


def image(row: int, picture: Tile, listed: int = 4, name: str = "a.png") -> InterferenceImage:
    each = [driver(f"m/latent:{k}", 2.0, 1.0, exemplars=(tile(k),)) for k in range(listed)]
    return InterferenceImage(
        image=name, row=row, tension=(8.0, 2.0), activation="+1.0 sd", channels=picture,
        latents=picture, by_channels=drivers(each, each[:1]), by_latents=drivers([], each),
        bias=0.5, rest=-12.5, written_sides=(4.0, 3.0), rest_sides=(1.0, 3.0), l1=16.0,
    )  # fmt: skip


def drawn(n: int, goes: int = 0, stays: int = 0, shown: object = None, **other: object) -> Figure:
    channels = np.random.default_rng(0).gamma(2, 9, n).astype(np.float32)
    given: dict[str, object] = {
        "title": "mixed3b:189", "scale": 1.0, "facts": [("mean tension", "8 and 2")],
        "goes": shown or [image(k, tile(k), name=LONG) for k in range(goes)],
        "stays": [image(n - 1 - k, tile(k, 9, 14)) for k in range(stays)],
    }  # fmt: skip
    return interference_figure(channels, channels / 3, **(given | other))  # type: ignore[arg-type]


FIGURES: dict[str, Callable[[], Figure]] = {
    "usual": lambda: drawn(300, 3, 3, facts=[(LONG, LONG)] * 6),
    "none": lambda: drawn(40, 0, 0, notes=[f"No image is tense, {LONG}."]),
    "one end": lambda: drawn(1, 1, 0),
    "many dots": lambda: drawn(6000, 1, 2),
    "no places": lambda: drawn(9, shown=[image(0, plain())], scale=0.0),
    "no drivers": lambda: drawn(9, shown=[image(0, tile(), 0)]),
    "nothing at all": lambda: interference_figure(
        np.zeros(3, np.float32), np.zeros(3, np.float32), title=LONG
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
    figure = FIGURES["usual"]()
    texts = words(figure).splitlines()
    assert {"least remains", "most remains", "in channels", "in latents"} < set(texts)
    assert {"8 → 2", "25% stays", "rest: −12.5,", "25% of |S|"} < set(texts)
    # Six images with three pictures, one crop a listed channel or latent, at most three a side.
    assert len(pictures(figure)) == 6 * (3 + 3 + 3 + 1) + 1
    assert texts.count("none") == 6
    marks = [text.get_text() for text in figure.axes[0].texts]
    assert set(marks) == {"all remains", "half", "a1", "a2", "a3", "b1", "b2", "b3"}
    assert "no image" in words(FIGURES["one end"]()).splitlines()
    assert words(FIGURES["no places"]()).splitlines().count("no places") == 2


def test_marks_lie_on_their_images() -> None:
    channels = np.array([1.0, 4.0, 9.0, 16.0], np.float32)
    figure = tensions_figure(channels, channels / 2, goes=[3], stays=[1])
    axes = figure.axes[0]
    marked = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() != "None"]
    assert marked == [[[16.0, 8.0]], [[4.0, 2.0]]]
    check_texts(figure)


def test_equal_figures_have_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.svg" for k in range(2)]
    for path in paths:
        save(FIGURES["usual"](), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_does_not_fit_is_refused() -> None:
    some = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="of 0 images in channels"):
        tensions_figure(some[:0], some[:0])
