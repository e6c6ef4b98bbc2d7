"""The figures: drawn from every awkward input, text inside the paper, one scale, equal bytes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from opponent import plots as figures
from opponent.core.colour import colour_square, overlay, subdued
from opponent.plots import (
    PAGE,
    ExemplarRow,
    InversionRow,
    Synthetic,
    Tile,
    TracePanel,
    WeightPanel,
    activation_trace_figure,
    energy_figure,
    exemplars_figure,
    group_colours,
    groups_figure,
    inversions_figure,
    objective_figure,
    overlay_scale,
    save,
    square_figure,
    weights_figure,
    why_figure,
)

LONG = "features.7.expand3x3 of a network whose layers have names without any end: 1,024 $5 to $6"


def tile(seed: int = 0, h: int = 12, w: int = 12, *, size: float = 1.0, caption: str = "") -> Tile:
    rng = np.random.default_rng(seed)
    return Tile(
        image=rng.integers(0, 256, (h, w, 3), dtype=np.uint8),
        excitation=size * rng.uniform(0, 1, (h, w)),
        inhibition=size * rng.uniform(0, 1, (h, w)),
        caption=caption,
    )


def plain(seed: int = 0) -> Tile:
    return replace(tile(seed), excitation=None, inhibition=None)


def synthetic(seed: int = 0, *, floats: bool = True, h: int = 9, w: int = 9) -> Synthetic:
    image = np.random.default_rng(seed).uniform(0, 1, (h, w, 4))
    if floats:
        return Synthetic(image=image, caption="+7.5 sd")
    return Synthetic(image=np.rint(255 * image).astype(np.uint8), caption="+7.5 sd")


def energies(n: int, seed: int = 0, size: float = 1.0) -> tuple[Any, Any, Any]:
    excitation, inhibition = size * np.random.default_rng(seed).gamma(2, 1, (2, n))
    return excitation, inhibition, excitation - inhibition


def pictures(figure: Figure) -> list[UInt8[np.ndarray, "h w 3"]]:
    """All images of a figure, in the order they were drawn."""
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.get_images()]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def trace(n: int, steps: int, panels: int = 1) -> Figure:
    rows = np.random.default_rng(0).normal(0, 2, (n, steps))
    own = np.linspace(-0.5, 0, n)
    panel = TracePanel(label=LONG, excitatory=3 + rows, inhibitory=rows - 3, own=own, notes=[LONG])
    return activation_trace_figure(np.arange(steps), [panel] * panels)


def weights_panel(layers: int = 3, *, untrained: bool = False) -> WeightPanel:
    rng = np.random.default_rng(0)
    return WeightPanel(
        label=LONG,
        histogram=rng.integers(0, 9, 10),
        share=0.503 if layers else np.nan,
        interval=(0.47, 0.55) if layers > 1 else None,
        layer_shares=rng.uniform(0.3, 0.8, layers),
        layer_sizes=rng.integers(1, 10**7, layers),
        untrained=untrained,
    )


def weights(networks: int, layers: int) -> Figure:
    panels = [weights_panel(layers, untrained=number == 1) for number in range(networks)]
    return weights_figure(panels, np.linspace(-4, 4, 9))


def objective() -> Figure:
    names = ("dot", "cosine", "dot × cosine", "dot × cosine²")
    plane = np.subtract.outer(np.arange(9.0), np.arange(9.0))
    return objective_figure(dict.fromkeys(names, plane), 2.0, clamp=0.1)


def energy(n: int, size: float = 1.0, **kwargs: Any) -> Figure:
    return energy_figure(*energies(n, size=size), label=LONG, through=LONG, **kwargs)


def row(k: int, n: int, m: int, **kwargs: Any) -> ExemplarRow:
    return ExemplarRow(
        label=LONG,
        exciting=[tile(k + j, 9, 14, caption="+3.1") for j in range(n)],
        inhibiting=[tile(k + j, caption="a longer caption") for j in range(m)],
        **kwargs,
    )


ALL = {"exciting": [0, 1], "inhibiting": [2], "silent": [], "own name": [0, 3], LONG: [4]}
FIGURES: dict[str, Callable[[], Figure]] = {
    "exemplars": lambda: exemplars_figure(
        [row(0, 6, 5, group="conv2d0"), row(20, 2, 6, group="conv2d0"), row(40, 3, 3, group=LONG)]
    ),
    "exemplars, one feature, one side": lambda: exemplars_figure([row(0, 1, 0)]),
    "exemplars, nothing": lambda: exemplars_figure([row(0, 0, 0)]),
    "energy": lambda: energy(300, groups=ALL, deviation=0.7),
    "energy, many": lambda: energy(6000),
    "energy, one image": lambda: energy(1, groups={"exciting": [0], "tense": [0]}),
    "energy, large": lambda: energy(20, 1e12),
    "energy, small": lambda: energy(20, 1e-12),
    "energy, no inhibition": lambda: energy_figure(
        np.arange(5.0), np.zeros(5), np.arange(5.0), label="f", through="l"
    ),
    "energy, little excitation": lambda: energy_figure(
        np.arange(5.0) / 1000, 9 * np.arange(5.0), -9 * np.arange(5.0), label="f", through="l"
    ),
    "energy, all zero": lambda: energy_figure(
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
        excitatory=[(f"mixed3a:{k}", 1.0 / (k + 1)) for k in range(8)],
        inhibitory=[(LONG, 0.3), ("b", 0.0)],
        title=LONG,
        facts=[("activation f", "−0.31"), (LONG, LONG), ("E⁺ rank", "12 of 50,000")],
    ),
    "why, nothing": lambda: why_figure(
        tile(0, 40, 10, size=0.0), excitatory=[], inhibitory=[], title="f", scale=2.0
    ),
}


def settings() -> dict[str, Any]:
    # To ask for the backend would choose one.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def axis_texts(axes: Axes) -> list[Text]:
    """The names of both axes and the labels of the ticks that are drawn."""
    texts = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        texts += [axis.label, *(t for tick in ticks for t in (tick.label1, tick.label2))]
    return [text for text in texts if text.get_visible()]


# --------------------------------------------------------------------------------- every figure


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_text_lies_on_the_paper_and_not_on_other_text(make: Callable[[], Figure]) -> None:
    figure = make()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Names and numbers of the figure; the labels of slanted lines only have to be on the paper.
    upright = [*figure.texts, *(text for axes in figure.axes for text in axis_texts(axes))]
    slanted = [text for axes in figure.axes for text in axes.texts]
    boxes = {
        text: text.get_window_extent(canvas.get_renderer())
        for text in (*upright, *slanted)
        if text.get_text().strip()
    }
    for text, box in boxes.items():
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for one, other in combinations([text for text in upright if text in boxes], 2):
        a, b = boxes[one], boxes[other]
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Boxes hold room for accents and tails, which may touch.
        assert min(across, up) <= 2, (one, other)


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_pictures_lie_on_the_paper_and_not_on_each_other(make: Callable[[], Figure]) -> None:
    figure = make()
    across, down = figure.get_size_inches()
    assert across <= PAGE + 1e-9
    boxes = [axes.get_position() for axes in figure.axes]
    for box in boxes:
        assert min(box.x0, box.y0, 1 - box.x1, 1 - box.y1) > 0
    for a, b in combinations(boxes, 2):
        overlap = min(
            (min(a.x1, b.x1) - max(a.x0, b.x0)) * across,
            (min(a.y1, b.y1) - max(a.y0, b.y0)) * down,
        )
        assert overlap <= 1e-9


@pytest.mark.parametrize(
    "name", ["exemplars", "energy", "groups", "inversions", "trace", "weights", "why"]
)
def test_settings_are_neither_changed_nor_heeded(name: str, tmp_path: Path) -> None:
    before = settings()
    save(FIGURES[name](), tmp_path / "one.png")
    assert settings() == before
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 20}):
        save(FIGURES[name](), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_pyplot_is_not_used() -> None:
    assert "pyplot" not in Path(figures.__file__).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------- tiles, scale


def test_tile_wants_both_maps_or_none() -> None:
    with pytest.raises(ValueError, match="both excitation and inhibition"):
        replace(tile(), inhibition=None)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_tile_refuses_maps_that_cannot_be_drawn(bad: float) -> None:
    with pytest.raises(ValueError, match="inhibition must be finite and >= 0"):
        replace(tile(), inhibition=np.full((12, 12), bad))


def test_tile_refuses_maps_of_another_size() -> None:
    one = tile()
    # Past the shape check under test, which would refuse it first.
    object.__setattr__(one, "excitation", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"excitation is \(3, 4\), the image \(12, 12\)"):
        one.__post_init__()


MAPS = hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 100))


def mapped(excitation: Any, inhibition: Any) -> Tile:
    return Tile(
        image=np.zeros((*excitation.shape, 3), np.uint8),
        excitation=excitation,
        inhibition=inhibition,
    )


@given(st.lists(st.tuples(MAPS, MAPS), max_size=4), st.permutations(range(4)))
def test_scale_depends_on_the_images_alone(maps: list[tuple[Any, Any]], order: list[int]) -> None:
    tiles = [mapped(e, i) for e, i in maps]
    scale = overlay_scale(tiles)
    assert overlay_scale([tiles[k] for k in order if k < len(tiles)]) == scale
    assert overlay_scale([*tiles, plain(), tile(size=0.0)]) == scale
    assert overlay_scale([mapped(i, e) for e, i in maps]) == scale
    assert overlay_scale([mapped(4 * e, 4 * i) for e, i in maps]) == pytest.approx(4 * scale)
    highest = max((max(e.max(), i.max()) for e, i in maps), default=0.0)
    assert 0 <= scale <= highest
    assert (scale > 0) == (highest > 0)


def test_scale_of_small_cases() -> None:
    assert overlay_scale([]) == 0
    assert overlay_scale([plain()]) == 0
    steady = mapped(np.full((5, 5), 2.0), np.full((5, 5), 3.0))
    assert overlay_scale([steady]) == 3
    assert overlay_scale([steady, mapped(np.full((9, 2), 7.0), np.zeros((9, 2)))]) == pytest.approx(
        6.6
    )


def test_one_pixel_does_not_set_the_scale_unless_it_is_alone() -> None:
    spike = np.ones((40, 40))
    spike[0, 0] = 1000
    assert overlay_scale([mapped(spike, np.zeros((40, 40)))]) == 1
    alone = np.zeros((40, 40))
    alone[0, 0] = 1000
    assert overlay_scale([mapped(alone, np.zeros((40, 40)))]) == 1000


def test_equal_values_have_equal_colours_in_all_images_of_a_figure() -> None:
    def grey(value: float, peak: float) -> Tile:
        excitation = np.full((10, 10), peak)
        excitation[0, 0] = value
        image = np.full((10, 10, 3), 90, np.uint8)
        return Tile(image=image, excitation=excitation, inhibition=np.zeros((10, 10)))

    figure = groups_figure({"exciting": [grey(1.0, 5.0)], "silent": [grey(1.0, 1.0)]}, label="f")
    photo, strong, other, weak = (p for p in pictures(figure) if p.shape == (10, 10, 3))
    np.testing.assert_array_equal(photo, other)
    np.testing.assert_array_equal(strong[0, 0], weak[0, 0])
    np.testing.assert_array_equal(weak[0, 0], weak[5, 5])
    assert (strong[5, 5] != weak[5, 5]).any()


# ------------------------------------------------------------------------------- single figures


def test_the_colour_square_stands_beside_the_maps_with_the_end_of_its_scale() -> None:
    end = mapped(np.full((6, 6), 2.5), np.zeros((6, 6)))
    for figure in (
        groups_figure({"exciting": [end]}, label="f"),
        why_figure(end, excitatory=[], inhibitory=[], title="f"),
    ):
        axes = next(axes for axes in figure.axes if axes.get_xlabel() == "excitation φ⁺")
        shown = np.asarray(axes.get_images()[0].get_array())
        np.testing.assert_array_equal(shown, colour_square(len(shown)))
        assert axes.get_ylabel() == "inhibition φ⁻"
        assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "≥ 2.5"]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "≥ 2.5"]


def test_empty_groups_are_named_and_letters_follow_the_paper() -> None:
    figure = groups_figure({"exciting": [tile()], "tense": [], "apart": []}, label="mixed3b:379")
    text = words(figure).splitlines()
    assert text.count("none among these images") == 2
    assert [line for line in text if len(line) == 1] == ["E", "B", "C", "D"]
    assert {"mixed3b:379", "exciting", "tense", "apart"} <= set(text)


def test_blank_maps_show_the_photograph_without_a_tint() -> None:
    blank = tile(size=0.0)
    figure = groups_figure({"silent": [blank]}, label="f")
    assert "every map is blank" in words(figure)
    assert any(np.array_equal(p, subdued(blank.image)) for p in pictures(figure))


def test_a_tile_without_maps_says_so() -> None:
    figure = groups_figure({"exciting": [plain()]}, label="f")
    assert "no map" in words(figure)
    assert len(pictures(figure)) == 2  # the square and the photograph


def test_exemplars_are_drawn_in_order_with_one_heading_a_layer() -> None:
    rows = [row(0, 2, 1, group="conv2d0"), row(9, 1, 1, group="conv2d0"), row(20, 1, 0)]
    figure = exemplars_figure(rows)
    expected = [t.image for r in rows for t in (*r.exciting, *r.inhibiting)]
    shown = pictures(figure)
    assert len(shown) == len(expected)
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert words(figure).splitlines().count("conv2d0") == 1
    assert words(figure).splitlines().count("none") == 1


def test_pictures_keep_their_shape() -> None:
    figure = exemplars_figure([ExemplarRow(label="f", exciting=[tile(0, 10, 30)], inhibiting=[])])
    across, down = figure.get_size_inches()
    box = figure.axes[0].get_position()
    assert (box.width * across) / (box.height * down) == pytest.approx(3)


def test_dots_and_lines_of_equal_energy_share_their_colours() -> None:
    excitation, inhibition, activation = energies(400)
    figure = energy_figure(excitation, inhibition, activation, label="f", through="l")
    axes = figure.axes[0]
    dots = axes.collections[0]
    np.testing.assert_allclose(
        np.asarray(dots.get_offsets()), np.stack([excitation, inhibition], axis=1)
    )
    assert len(axes.lines) >= 5
    for line in axes.lines:
        (x0, x1), (y0, y1) = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert x0 - y0 == pytest.approx(x1 - y1)
        np.testing.assert_allclose(
            line.get_color(), dots.cmap(dots.norm(x0 - y0)), atol=0.01, err_msg="E as f"
        )
        assert axes.get_xlim()[0] <= x0 < x1 <= axes.get_xlim()[1]
    low, high = dots.get_clim()
    assert -low == high == pytest.approx(np.quantile(np.abs(activation), 0.995))


@pytest.mark.parametrize("limit", [0.001, 0.5, 2.0, 30.0, 500.0])
def test_lines_leave_room_for_their_labels(limit: float) -> None:
    sums = np.linspace(0, 100, 11)
    figure = energy_figure(sums, sums[::-1], 0 * sums, deviation=limit / 4, label="f", through="l")
    axes = figure.axes[0]
    levels = [np.diff(np.asarray(line.get_xydata())[-1])[0] for line in axes.lines]
    assert any(abs(level) < 1e-9 for level in levels)
    side = axes.get_position().height * figure.get_size_inches()[1]
    # A slanted line of 7 points takes 0.14 inches of an edge.
    gaps = np.diff(sorted(levels)) / np.ptp(axes.get_ylim()) * side
    assert (gaps > 0.14).all()


def test_deviation_sets_the_end_of_the_colours() -> None:
    figure = energy(50, deviation=0.7)
    assert figure.axes[0].collections[0].get_clim() == pytest.approx((-2.8, 2.8))
    assert "±4 sd" in words(figure)


def test_large_numbers_are_written_in_powers_of_ten() -> None:
    figure = energy(20, 1e7)
    assert figure.axes[0].get_xlabel() == "excitation E⁺ (×10⁶)"
    assert np.asarray(figure.axes[0].collections[0].get_offsets()).max() < 1000


@pytest.mark.parametrize(("n", "expected"), [(5000, False), (5001, True)])
def test_many_dots_are_an_image(n: int, expected: bool) -> None:
    assert energy(n).axes[0].collections[0].get_rasterized() is expected


def test_chosen_images_are_ringed_in_the_colour_of_their_group() -> None:
    excitation, inhibition, activation = energies(30)
    groups = {"exciting": [3, 4], "inhibiting": [4, 9]}
    figure = energy_figure(
        excitation, inhibition, activation, groups=groups, label="f", through="l"
    )
    _, *rings = figure.axes[0].collections
    for ring, (name, members) in zip(rings, groups.items(), strict=True):
        np.testing.assert_allclose(np.asarray(ring.get_offsets())[:, 0], excitation[members])
        colour = matplotlib.colors.to_rgba(group_colours(list(groups))[name])
        np.testing.assert_allclose(ring.get_edgecolor()[0], colour)
    # Image 4 is in both: its second ring goes around the first.
    sizes = rings[1].get_sizes()
    assert sizes[0] > sizes[1] == rings[0].get_sizes()[1]


def test_group_colours_are_fixed_and_distinct() -> None:
    known = ["exciting", "inhibiting", "silent", "tense", "tense_apart", "tense_together"]
    colours = group_colours([*known, "mine", "yours"])
    assert len(set(colours.values())) == 8
    assert group_colours(["tense_together"])["tense_together"] == colours["tense_together"]


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


def test_trace_shows_median_and_range() -> None:
    up, down = np.random.default_rng(0).normal(0, 1, (2, 7, 5))
    panel = TracePanel(label="f", excitatory=up, inhibitory=down, own=np.array([-1.0, -0.5, 2.0]))
    axes = activation_trace_figure(np.arange(5), [panel]).axes[0]
    _, first, second, own = axes.lines
    assert own.get_ydata() == [-0.5, -0.5]
    for line, band, rows in zip((first, second), axes.collections, (up, down), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_ydata()), np.median(rows, axis=0))
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() == rows.min()
        assert corners[:, 1].max() == rows.max()


def test_why_shows_each_sign_alone_and_bars_on_one_scale() -> None:
    one = tile(0, 6, 8)
    figure = why_figure(
        one, excitatory=[("a", 2.0), ("b", 1.0)], inhibitory=[("c", 4.0)], title="f", scale=1.5
    )
    blank = np.zeros((6, 8))
    assert one.excitation is not None
    assert one.inhibition is not None
    expected = [
        one.image,
        overlay(one.image, one.excitation, one.inhibition, 1.5),
        overlay(one.image, one.excitation, blank, 1.5),
        overlay(one.image, blank, one.inhibition, 1.5),
    ]
    for shown, picture in zip(pictures(figure)[:4], expected, strict=True):
        np.testing.assert_array_equal(shown, picture)
    bars = [axes for axes in figure.axes if axes.patches]
    assert [[bar.get_width() for bar in axes.patches] for axes in bars] == [[2, 1], [4]]
    assert all(axes.get_xlim() == (0, 4) for axes in bars)


# -------------------------------------------------------------------------------------- refusals


def test_figures_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        exemplars_figure([])
    with pytest.raises(ValueError, match="groups is empty"):
        groups_figure({}, label="f")
    with pytest.raises(ValueError, match="nothing to draw"):
        inversions_figure([], label="f")
    with pytest.raises(ValueError, match="the tile has no maps"):
        why_figure(plain(), excitatory=[], inhibitory=[], title="f")
    with pytest.raises(ValueError, match="must be >= 0"):
        why_figure(tile(), excitatory=[], inhibitory=[("a", -1.0)], title="f")
    with pytest.raises(ValueError, match=r"excitatory of .* is \(2, 0\) for 0 steps"):
        trace(2, 0)
    with pytest.raises(ValueError, match="no panel to draw"):
        trace(2, 3, 0)
    with pytest.raises(ValueError, match="no network to draw"):
        weights(0, 1)
    with pytest.raises(ValueError, match="has 10 counts for 4 edges, expected 5"):
        weights_figure([weights_panel()], np.arange(4.0))


def test_energy_refuses_what_cannot_be_drawn() -> None:
    one, none = np.ones(3), np.zeros(0)
    with pytest.raises(ValueError, match="hold 0, 0 and 0 values"):
        energy_figure(none, none, none, label="f", through="l")
    with pytest.raises(ValueError, match="must be >= 0"):
        energy_figure(-one, one, one, label="f", through="l")
    with pytest.raises(ValueError, match="NaN or infinite"):
        energy_figure(one, one, one * np.nan, label="f", through="l")
    for outside in (3, -1):
        with pytest.raises(ValueError, match=r"group 'tense' names images .* images 0 to 2"):
            energy_figure(one, one, one, groups={"tense": [0, outside]}, label="f", through="l")


# ---------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "PNG"])
def test_equal_figures_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "folder" / f"{name}.{suffix}" for name in ("one", "two")]
    for path in paths:
        save(FIGURES["energy, many"](), path)
    one, two = (path.read_bytes() for path in paths)
    assert len(one) > 1000
    assert one == two
    assert matplotlib.__version__.encode() not in one


def test_png_is_300_dpi(tmp_path: Path) -> None:
    save(square_figure(), tmp_path / "square.png")
    with Image.open(tmp_path / "square.png") as image:
        assert image.size == (510, 510)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_figure_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "square.png"
    path.write_bytes(b"old")
    figure = square_figure()

    def half(file: Any, **_: Any) -> None:
        file.write(b"half of a pic")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in '.jpg', expected .png, .pdf or .svg"):
        save(square_figure(), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
