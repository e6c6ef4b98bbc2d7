"""The atlas' figures: sizes, places, colours, what is missing, text inside the paper."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from tests.support.figures import LONG, check_axes, check_texts, rc_settings, words

from opponent.core.colour import ACTIVATION, activation_colours, balance_colours, on_white
from opponent.plots import COLUMN, PAGE, atlas_figure, map_figure, save, selection_figure

SD = 0.7

At = tuple[int, int]


def selection(n: int = 300, size: float = 1.0, *, label: str = LONG) -> Figure:
    excitation, inhibition = size * np.random.default_rng(0).gamma(2, 1, (2, n))
    return selection_figure(excitation, inhibition, excitation >= excitation[0], label=label)


def mapped(n: int = 300, *, grid: int = 20, deviation: float = SD) -> Figure:
    generator = np.random.default_rng(0)
    places, activation = generator.uniform(size=(n, 2)), generator.normal(size=n)
    return map_figure(places, activation, deviation=deviation, grid=grid, label=LONG)


def icon(colour: tuple[int, ...] = (200, 10, 10), *, h: int = 9, w: int = 9) -> np.ndarray:
    return np.broadcast_to(np.array([*colour, 255], np.uint8), (h, w, 4)).copy()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (9, 11, 4), dtype=np.uint8)


def atlas(
    values: dict[At, list[float | None]],
    *,
    icons: dict[At, list[np.ndarray | None]] | None = None,
    energies: dict[At, tuple[float, float]] | None = None,
    colour_by: Literal["activation", "tension"] = "activation",
    grid: int = 20,
    deviation: float = SD,
    label: str = LONG,
) -> Figure:
    if icons is None:
        icons = {at: [noise(at[0]) for _ in each] for at, each in values.items()}
    return atlas_figure(
        icons,
        grid=grid,
        label=label,
        through=label,
        colour_by=colour_by,
        activation=values,
        energies=energies or {at: (1.0 + at[0], 0.5 + at[1]) for at in values},
        deviation=deviation,
    )


def cells(down: int, across: int, each: int = 1) -> dict[At, list[float | None]]:
    generator = np.random.default_rng(0)
    return {at: generator.normal(size=each).tolist() for at in product(range(down), range(across))}


ATLASES: dict[str, Callable[[], Figure]] = {
    f"atlas, {name}, {each} icon, {colour_by}": lambda down=down, across=across, each=each, by=colour_by: (  # noqa: E501
        atlas(cells(down, across, each), colour_by=by)
    )
    for name, down, across in (("one cell", 1, 1), ("two rows", 2, 2))
    for each in (1, 2)
    for colour_by in ("activation", "tension")
}
FIGURES: dict[str, Callable[[], Figure]] = {
    "selection": selection,
    "selection, large": lambda: selection(300, 1e12),
    "selection, small": lambda: selection(300, 1e-12),
    "selection, one image": lambda: selection(1),
    "selection, many": lambda: selection(6000),
    "selection, all zero": lambda: selection_figure(
        np.zeros(4), np.zeros(4), np.array([True, False, False, True]), label="f"
    ),
    "map": mapped,
    "map, one image": lambda: mapped(1, grid=1, deviation=0.0),
    "map, many": lambda: mapped(6000, grid=60, deviation=1e-12),
    "atlas, tall": lambda: atlas(cells(5, 2)),
    "atlas, of a wide grid": lambda: atlas(cells(3, 3), grid=1000),
    "atlas, without spread": lambda: atlas(cells(2, 3), deviation=0.0),
} | ATLASES


def frames(figure: Figure) -> list[Rectangle]:
    """The cells' frames, in the order they were drawn."""
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


# Every figure


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_text_lies_on_the_paper_and_not_on_other_text(make: Callable[[], Figure]) -> None:
    check_texts(make())


@pytest.mark.parametrize("name", FIGURES)
def test_figures_keep_their_promised_width(name: str) -> None:
    figure = FIGURES[name]()
    width = figure.get_size_inches()[0]
    if name.startswith("atlas"):
        assert COLUMN <= width <= PAGE + 1e-9
    else:
        assert width == pytest.approx(COLUMN)
    check_axes(figure)


DRAWN = [
    "selection",
    "map",
    "atlas, two rows, 1 icon, activation",
    "atlas, two rows, 2 icon, tension",
]


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, "png") for name in DRAWN), (DRAWN[3], "pdf"), (DRAWN[0], "svg")]
)
def test_equal_figures_have_equal_bytes(name: str, suffix: str, tmp_path: Path) -> None:
    for number in (1, 2):
        save(FIGURES[name](), tmp_path / f"{number}.{suffix}")
    one, two = (tmp_path / f"{number}.{suffix}" for number in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 3000


@pytest.mark.parametrize("name", DRAWN[2:])
def test_settings_are_neither_changed_nor_heeded(name: str, tmp_path: Path) -> None:
    before = rc_settings()
    save(FIGURES[name](), tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 20}):
        save(FIGURES[name](), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert rc_settings() == before


def test_what_is_given_is_left_as_it_is() -> None:
    values = cells(2, 2, 2)
    icons = {at: [noise(k) for k in range(2)] for at in values}
    before = {at: [each.copy() for each in pair] for at, pair in icons.items()}
    atlas(values, icons=icons, colour_by="tension")
    assert values == cells(2, 2, 2)
    for at, pair in icons.items():
        np.testing.assert_array_equal(pair, before[at])


# Which images


def test_a_selection_shows_every_image_once() -> None:
    excitation, inhibition = np.random.default_rng(0).gamma(2, 1, (2, 400))
    selected = excitation + inhibition > 4
    figure = selection_figure(excitation, inhibition, selected, label="mixed3b:9")
    [axes] = figure.axes
    rest, chosen = (x for x in axes.collections if isinstance(x, PathCollection))
    both = np.stack([excitation, inhibition], 1)
    np.testing.assert_allclose(rest.get_offsets(), both[~selected])
    np.testing.assert_allclose(chosen.get_offsets(), both[selected])
    assert not np.array_equal(rest.get_facecolor()[0], chosen.get_facecolor()[0])
    assert f"{selected.sum()} of 400 images" in words(figure)
    assert "mixed3b:9" in words(figure)
    low, high = axes.get_xlim()
    assert (low, high) == axes.get_ylim()
    assert low <= 0
    assert high >= both.max()
    assert axes.get_xlabel() == "excitation E⁺"
    assert axes.get_ylabel() == "inhibition E⁻"


def test_contours_hold_the_shares_of_the_selected_images() -> None:
    """Counted with the points themselves: inside the outermost contour lie nine in ten."""
    excitation, inhibition = np.abs(np.random.default_rng(0).normal(5, 1, (2, 8000)))
    selected = np.arange(8000) % 2 == 0
    figure = selection_figure(excitation, inhibition, selected, label="f")
    [contours] = [x for x in figure.axes[0].collections if isinstance(x, QuadContourSet)]
    points = np.stack([excitation, inhibition], 1)[selected]
    shares = [max(float(path.contains_points(points).mean()), 0.0) for path in contours.get_paths()]
    np.testing.assert_allclose(shares, [0.9, 0.7, 0.5, 0.3, 0.1], atol=0.05)


def test_a_selection_of_all_images_leaves_none_over() -> None:
    excitation, inhibition = np.random.default_rng(0).gamma(2, 1, (2, 50))
    figure = selection_figure(excitation, inhibition, np.ones(50, bool), label="f", letter="")
    assert "50 of 50 images" in words(figure)
    [rest, chosen] = [x for x in figure.axes[0].collections if isinstance(x, PathCollection)]
    assert len(rest.get_offsets()) == 0
    assert len(chosen.get_offsets()) == 50


# The map


def test_a_map_shows_every_image_in_its_colour() -> None:
    places = np.array([[0.1, 0.9], [0.5, 0.5], [1.0, 0.0], [0.2, 0.3]])
    activation = np.array([4 * SD, -SD, -9 * SD, 0.0])
    figure = map_figure(places, activation, deviation=SD, grid=4, label="mixed3b:9")
    axes, bar = figure.axes
    FigureCanvasAgg(figure).draw()
    [dots] = [x for x in axes.collections if isinstance(x, PathCollection)]
    found = {
        tuple(place): colour
        for place, colour in zip(
            np.asarray(dots.get_offsets()).tolist(), dots.get_facecolor().tolist(), strict=True
        )
    }
    expected = activation_colours(activation, 4 * SD)
    for place, colour in zip(places.tolist(), expected, strict=True):
        np.testing.assert_allclose(found[tuple(place)], colour, atol=0.01)
    # The strongest last, over all others.
    assert np.asarray(dots.get_offsets()).tolist()[-1] == [1.0, 0.0]
    assert dots.get_clim() == (-4 * SD, 4 * SD)
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    lines = sorted(line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1)
    assert lines == [0.25, 0.5, 0.75]
    assert len(axes.lines) == 6
    assert [tick.get_text() for tick in bar.get_yticklabels()] == [
        "−4",
        "−2",
        "0",
        "+2",
        "+4",
    ]
    assert bar.get_ylabel() == "activation f, sd"
    assert "4 images" in words(figure)


# The atlas


def test_icons_lie_in_their_cells_with_row_0_on_top() -> None:
    """Cells from 2 to 4 and from 5 to 6: the borders that hold nothing are left out."""
    values: dict[At, list[float | None]] = {(2, 5): [0.0], (4, 5): [1.0], (3, 6): [-1.0]}
    icons = {at: [noise(10 * at[0] + at[1])] for at in values}
    figure = atlas(values, icons=icons)
    axes = figure.axes[0]
    assert axes.get_xlim() == (0, 2)
    assert axes.get_ylim() == (3, 0)
    for image, at in zip(axes.get_images(), values, strict=True):
        np.testing.assert_array_equal(image.get_array(), icons[at][0])
        left, right, bottom, top = image.get_extent()
        row, column = at[0] - 2, at[1] - 5
        assert column < left < right < column + 1
        assert row < top < bottom < row + 1
        assert left - column == pytest.approx(column + 1 - right)
        assert top - row == pytest.approx(row + 1 - bottom)
    for frame, at in zip(frames(figure), values, strict=True):
        middle = frame.get_x() + frame.get_width() / 2, frame.get_y() + frame.get_height() / 2
        assert middle == pytest.approx((at[1] - 5 + 0.5, at[0] - 2 + 0.5))
    width, height = figure.get_size_inches()
    box = axes.get_position()
    assert box.height * height / 3 == pytest.approx(box.width * width / 2)
    assert "3 cells of 20 x 20" in words(figure)


def drawn(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def middle_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    at = np.argwhere(np.abs(pixels - np.array(colour)).max(2) < 12)
    assert len(at) > 30
    row, column = at.mean(0)
    return row, column


def test_what_is_drawn_lies_where_the_map_has_it() -> None:
    red, green, blue, white = (250, 0, 0), (0, 250, 0), (0, 0, 250), (255, 255, 255)
    two = icon(green)
    two[5:] = (*blue, 255)
    values: dict[At, list[float | None]] = {(0, 0): [0.0], (1, 2): [0.0]}
    pixels = drawn(atlas(values, icons={(0, 0): [icon(red)], (1, 2): [two]}))
    at = {colour: middle_of(pixels, colour) for colour in (red, green, blue)}
    assert at[red][0] < at[green][0] < at[blue][0]
    assert at[red][1] < at[green][1]
    assert at[green][1] == pytest.approx(at[blue][1], abs=1)
    # Where an icon is not opaque, the paper is seen.
    clear = icon(red)
    clear[..., 3] = 0
    pixels = drawn(atlas({(0, 0): [0.0]}, icons={(0, 0): [clear]}))
    assert not (np.abs(pixels - np.array(red)).max(2) < 12).any()
    assert (pixels == np.array(white)).all(2).mean() > 0.5


@given(values=st.lists(st.floats(-20, 20), min_size=1, max_size=6), deviation=st.floats(0.01, 9))
@settings(max_examples=15, deadline=None)
def test_borders_are_coloured_by_the_activation_up_to_4_sd(
    values: list[float], deviation: float
) -> None:
    given: dict[At, list[float | None]] = {(0, k): [value] for k, value in enumerate(values)}
    figure = atlas(given, deviation=deviation, label="f")
    for frame, value in zip(frames(figure), values, strict=True):
        expected = activation_colours(np.array(value), 4 * deviation)
        np.testing.assert_allclose(frame.get_edgecolor(), expected, atol=1e-6)
        assert frame.get_facecolor() == to_rgba("white")


def test_colours_end_at_4_sd_and_are_grey_at_0() -> None:
    values = [-40 * SD, -4 * SD, 0.0, 4 * SD, 40 * SD]
    figure = atlas({(0, k): [value] for k, value in enumerate(values)})
    ends = [ACTIVATION(0.0), ACTIVATION(0.0), ACTIVATION(0.5), ACTIVATION(1.0), ACTIVATION(1.0)]
    for frame, end in zip(frames(figure), ends, strict=True):
        np.testing.assert_allclose(frame.get_edgecolor(), end, atol=1e-6)
    red, green, blue, _ = frames(figure)[2].get_edgecolor()
    assert max(red, green, blue) - min(red, green, blue) < 0.02
    bar = figure.axes[1]
    assert bar.get_ylim() == pytest.approx((-4 * SD, 4 * SD))


def test_squares_are_coloured_by_the_tension_of_the_images() -> None:
    energies: dict[At, tuple[float, float]] = {
        (0, 0): (2.0, 0.0),
        (0, 1): (0.0, 2.0),
        (1, 0): (2.0, 2.0),
        (1, 1): (0.0, 0.0),
        (2, 2): (1.0, 0.5),
    }
    values: dict[At, list[float | None]] = {at: [1.0] for at in energies}
    figure = atlas(values, energies=energies, colour_by="tension")
    colours, limit, ends = balance_colours(*np.array(list(energies.values())).T)
    assert (limit, ends) == (1.0, (0.0, 2.0))
    for frame, expected in zip(frames(figure), on_white(colours) / 255, strict=True):
        np.testing.assert_allclose(frame.get_facecolor()[:3], expected, atol=1e-6)
        np.testing.assert_allclose(frame.get_edgecolor()[:3], expected, atol=1e-6)
    white = frames(figure)[3]
    assert white.get_facecolor() == to_rgba("white")
    square = figure.axes[1]
    assert len(square.get_images()) == 1
    assert square.get_xlabel() == "(E⁺ − E⁻) / (E⁺ + E⁻)"
    assert [tick.get_text() for tick in square.get_xticklabels()] == ["−1", "0", "1"]
    assert [tick.get_text() for tick in square.get_yticklabels()] == ["0", "2"]


def test_cells_without_any_energy_are_white() -> None:
    figure = atlas({(0, 0): [1.0]}, energies={(0, 0): (0.0, 0.0)}, colour_by="tension")
    assert frames(figure)[0].get_facecolor() == to_rgba("white")


def test_both_sides_lie_side_by_side_in_their_cell() -> None:
    values: dict[At, list[float | None]] = {(0, 0): [1.0, -1.0], (1, 1): [2.0, -2.0]}
    icons = {at: [noise(k), noise(k + 1)] for k, at in enumerate(values)}
    figure = atlas(values, icons=icons)
    axes = figure.axes[0]
    assert axes.get_xlim() == (0, 4)
    lefts = [image.get_extent()[0] for image in axes.get_images()]
    assert [int(left) for left in lefts] == [0, 1, 2, 3]
    tops = [image.get_extent()[3] for image in axes.get_images()]
    assert [int(top) for top in tops] == [0, 0, 1, 1]
    flat = [value for each in values.values() for value in each]
    for frame, value in zip(frames(figure), flat, strict=True):
        expected = activation_colours(np.array(value), 4 * SD)
        np.testing.assert_allclose(frame.get_edgecolor(), expected, atol=1e-6)
    assert "left: what excites, right: what inhibits" in words(
        atlas(values, icons=icons, label="f")
    )


@pytest.mark.parametrize("colour_by", ["activation", "tension"])
def test_icons_that_are_missing_leave_their_place_empty(
    colour_by: Literal["activation", "tension"], tmp_path: Path
) -> None:
    values: dict[At, list[float | None]] = {
        (0, 0): [1.0, None],
        (0, 1): [None, -1.0],
        (1, 0): [None] * 2,
    }
    icons: dict[At, list[np.ndarray | None]] = {
        (0, 0): [noise(1), None],
        (0, 1): [None, noise(2)],
        (1, 0): [None, None],
    }
    figure = atlas(values, icons=icons, colour_by=colour_by)
    axes = figure.axes[0]
    lefts = [int(image.get_extent()[0]) for image in axes.get_images()]
    assert lefts == [0, 3]
    assert len(frames(figure)) == 2
    assert axes.get_ylim() == (2, 0)
    save(figure, tmp_path / "atlas.png")
    with Image.open(tmp_path / "atlas.png") as image:
        assert image.size == tuple(int(300 * x) for x in figure.get_size_inches())


def test_one_cell_is_an_atlas() -> None:
    for colour_by in ("activation", "tension"):
        figure = atlas({(19, 7): [0.3]}, colour_by=colour_by, label="mixed3b:9")
        axes = figure.axes[0]
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (1, 0))
        assert len(axes.get_images()) == 1
        assert "mixed3b:9" in words(figure)
        assert re.search(r"1 cells? of 20 x 20", words(figure))


def test_long_names_are_shortened_in_their_middle() -> None:
    for figure in (selection(), mapped(), atlas(cells(1, 1))):
        [name] = [x.get_text() for x in figure.texts if x.get_text().startswith("features")]
        assert "…" in name
        assert name.endswith("$6")


def test_the_letter_may_be_left_out() -> None:
    generator: Any = np.random.default_rng(0)
    places, activation = generator.uniform(size=(5, 2)), generator.normal(size=5)
    asked = {"deviation": SD, "grid": 3, "label": "f"}
    assert words(map_figure(places, activation, **asked)).startswith("B")
    assert not words(map_figure(places, activation, **asked, letter="")).startswith("B")
