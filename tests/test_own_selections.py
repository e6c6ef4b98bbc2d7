"""Selections of the user's own: by object and by name, in figures and pages; what is refused."""

import re
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tests.support.figures import pictures, words
from tests.support.pictures import paint_noise
from tests.support.plain import plain_network
from tests.support.threads import single_thread

from opponent import Run, RunError, Selection, SynthesisSettings, scan_images, select
from opponent.core.colour import group_colours
from opponent.explain.crops import run_tiles
from opponent.plots import plot_energies, plot_groups, write_figures
from opponent.reports.report import write_report
from opponent.selection import SELECTIONS, exciting, parse_selection
from opponent.storage.columns import Columns, Indices
from opponent.synthesis.transforms import Transforms

pytestmark = pytest.mark.usefixtures("one_thread")

COLOUR = "#12ab56"
MODULE = '''"""A selection of the user's own."""

import numpy as np

from opponent import Selection


def rule(columns, k):
    return np.argsort(-columns.excitation, kind="stable")[:k]


EXCITED = Selection("most_excited", "largest excitation", rule)
COLOURED = Selection("coloured", "in a colour", rule, colour="#12ab56")
NUMBER = 3
'''


def by_excitation(columns: Columns, k: int) -> Indices:
    return np.argsort(-columns.excitation, kind="stable")[:k]


OWN = Selection("most_excited", "largest <excitation> of all", by_excitation, colour=COLOUR)


@pytest.fixture(scope="session")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Thirty pictures of noise, and two features."""
    folder = tmp_path_factory.mktemp("own")
    images = paint_noise(folder / "pictures", 30, (20, 14))
    with single_thread():
        return scan_images(
            plain_network(), images, ["after:0", "after:1@0,4"], "relu", out=folder / "run"
        )


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder, which no other test imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "selections_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "selections_of_mine"
    sys.modules.pop("selections_of_mine", None)


def excited(run: Run, k: int, feature: str = "after:0") -> list[str]:
    """The images with the largest excitation, by a sort of Python's."""
    columns = run.columns(feature)
    order = sorted(range(len(columns.images)), key=lambda i: -columns.excitation[i])
    return [columns.images[i] for i in order[:k]]


def test_a_selection_by_object(own_run: Run) -> None:
    selected = select(own_run, 4, feature="after:0", selections=["tense", OWN])
    assert list(selected) == ["tense", "most_excited"]
    group = selected["most_excited"]
    assert list(group.images) == excited(own_run, 4)
    assert [own_run.columns(own_run.features[0]).images[row] for row in group.rows] == list(
        group.images
    )
    assert len(group) == 4
    assert group.selection == OWN


def test_a_selection_by_the_name_of_its_object(own_run: Run, module: str) -> None:
    text = f"module:{module}:EXCITED"
    assert parse_selection(text).meaning == "largest excitation"
    [group] = select(own_run, 4, feature="after:0", selections=[text]).values()
    assert group.selection.name == "most_excited"
    assert list(group.images) == excited(own_run, 4)
    assert parse_selection(f"module:{module}:COLOURED").colour == COLOUR


def test_a_list_of_rows_will_do(own_run: Run) -> None:
    last = Selection("last", "the last of all", lambda columns, k: [len(columns.images) - 1])  # type: ignore[arg-type,return-value]
    nothing = Selection("nothing", "none", lambda columns, k: [])  # type: ignore[arg-type,return-value]
    selected = select(own_run, 2, feature="after:0", selections=[last, nothing])
    assert selected["last"].images == ("029.png",)
    assert selected["last"].rows.tolist() == [29]
    assert selected["nothing"].images == ()


def test_every_selection_has_a_colour(own_run: Run) -> None:
    """Its own, or the one that figures and pages give a group of its name."""
    plain = Selection("plain", "without a colour", by_excitation)
    selected = select(own_run, 3, feature="after:0", selections=[*SELECTIONS, OWN, plain])
    colours = {name: group.selection.colour for name, group in selected.items()}
    expected = group_colours([*SELECTIONS, "most_excited", "plain"])
    assert colours == {**expected, "most_excited": COLOUR}
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours.values())
    # What the user gave stays as it was.
    assert plain.colour == ""
    assert SELECTIONS["tense"].colour == ""


def test_a_run_and_its_columns_give_the_same(own_run: Run) -> None:
    for feature in ("after:0", "after:1", own_run.features[1]):
        of_run = select(own_run, 5, feature=feature)
        of_columns = select(own_run.columns(feature), 5)
        assert list(of_run) == list(of_columns) == list(SELECTIONS)
        for name, group in of_run.items():
            assert group.rows.tolist() == of_columns[name].rows.tolist()
            assert group.images == of_columns[name].images
            assert group.selection == of_columns[name].selection
            images = own_run.columns(feature).images
            assert group.images == tuple(images[row] for row in group.rows)
    assert (
        select(own_run, feature="after:0")["exciting"].images
        == select(own_run, 10, feature="after:0")["exciting"].images
    )
    first, second = (select(own_run, 5, feature=x)["exciting"].images for x in own_run.features)
    assert first != second


# What is refused


def test_names_that_are_no_selection(own_run: Run, module: str) -> None:
    message = "there is no group 'tens'; there are exciting, inhibiting, silent, tense, tense_apart"
    with pytest.raises(ValueError, match=message):
        select(own_run, 3, feature="after:0", selections=["exciting", "tens"])
    for name, message in (
        (f"module:{module}:NUMBER", "'module:selections_of_mine:NUMBER' is no opponent.Selection"),
        (f"module:{module}:rule", "is no opponent.Selection but function"),
        (f"module:{module}:GONE", "has no attribute 'GONE'"),
        ("module:no_such_module:X", "No module named 'no_such_module'"),
        ("module:X", "must read module:PACKAGE.MODULE:NAME"),
    ):
        with pytest.raises(ValueError, match=message):
            select(own_run, 3, feature="after:0", selections=[name])


def test_two_selections_of_one_name(own_run: Run) -> None:
    twin = Selection("tense", "another", exciting)
    for selections in (["tense", twin], [twin, twin], ["tense", "silent", "tense"]):
        with pytest.raises(ValueError, match="two selections have one name among tense, "):
            select(own_run, 3, feature="after:0", selections=selections)


@pytest.mark.parametrize("k", [0, -1])
def test_less_than_one_image(own_run: Run, k: int) -> None:
    for source in (own_run, own_run.columns(own_run.features[0])):
        with pytest.raises(ValueError, match=f"k is {k}, expected at least 1 image a selection"):
            select(source, k)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda columns, k: np.arange(k + 1),
            "'mine' must return at most 3 images, each of",
        ),
        (
            lambda columns, k: np.array([4, 4]),
            "'mine' must return at most 3 images, each of",
        ),
        (
            lambda columns, k: np.array([0, 30]),
            "'mine' names image 30, but there are images 0 to 2",
        ),
        (
            lambda columns, k: np.array([0, -1]),
            "'mine' names image -1, but there are images 0 to 2",
        ),
        (lambda columns, k: np.array([0.0, 1.0]), "'mine' must return a vector of indices"),
        (lambda columns, k: columns.activation > 0, "'mine' must return a vector of indices"),
        (lambda columns, k: np.array([[0, 1]]), "'mine' must return a vector of indices"),
        (lambda columns, k: np.array(2), "'mine' must return a vector of indices"),
        (lambda columns, k: ["000.png"], "'mine' must return a vector of indices"),
        (lambda columns, k: None, "'mine' must return a vector of indices"),
    ],
)
def test_rows_that_are_none(own_run: Run, rule: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"selection {message}"):
        select(
            own_run, 3, feature="after:0", selections=["tense", Selection("mine", "wrong", rule)]
        )


def test_other_features_and_unfinished_runs(own_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no 'after:7'"):
        select(own_run, 3, feature="after:7")
    with pytest.raises(RunError, match="no run folder"):
        select(Run(tmp_path), 3)


# In figures and pages


def rings(figure: Figure) -> list[tuple[float, ...]]:
    """The colours of the rings beside the groups' names."""
    return [to_rgba(x.get_markeredgecolor()) for x in figure.artists if isinstance(x, Line2D)]


def test_figures_4a_shows_its_name_and_colour(own_run: Run) -> None:
    figure = plot_energies(own_run, "after:1", k=3, selections=["silent", OWN])
    assert "most excited (3)" in words(figure).splitlines()
    silent = to_rgba(group_colours(["silent"])["silent"])
    assert rings(figure) == [silent, to_rgba(COLOUR)]
    own = [line for line in figure.axes[0].lines if line.get_markeredgecolor() == COLOUR]
    columns = own_run.columns("after:1")
    rows = select(columns, 3, selections=[OWN])["most_excited"].rows
    dots = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in own)
    pairs = sorted(zip(columns.excitation[rows], columns.inhibition[rows], strict=True))
    np.testing.assert_allclose(dots, pairs, rtol=1e-6)


def test_figure_4b_to_g_shows_its_name_colour_and_images(own_run: Run) -> None:
    figure = plot_groups(own_run, "after:0", k=2, selections=[OWN, "silent"])
    lines = words(figure).splitlines()
    assert {"most excited", "silent"} <= set(lines)
    assert not {"exciting", "inhibiting", "tense"} & set(lines)
    silent = to_rgba(group_colours(["silent"])["silent"])
    assert rings(figure) == [to_rgba(COLOUR), silent]
    columns = own_run.columns(own_run.features[0])
    rows = select(columns, 2, selections=[OWN])["most_excited"].rows.tolist()
    _, *shown = pictures(figure)
    tiles = run_tiles(own_run, own_run.features[0], columns, rows)
    # Each beside itself under its maps.
    for picture, tile in zip(shown[:4:2], tiles, strict=True):
        np.testing.assert_array_equal(picture, tile.image)


def test_all_figures_take_selections(own_run: Run, tmp_path: Path) -> None:
    for name, selections in (("own", [OWN]), ("six", None)):
        write_figures(own_run, tmp_path / name, k=2, selections=selections, suffix="svg")
    for figure in ("figure4a-after-0-3_2", "figure4b-g-after-0-3_2"):
        own, six = ((tmp_path / x / f"{figure}.svg").read_text() for x in ("own", "six"))
        assert COLOUR in own
        assert COLOUR not in six


def test_a_report_shows_its_name_meaning_colour_and_images(own_run: Run, tmp_path: Path) -> None:
    settings = SynthesisSettings(steps=1, canvas=(12, 12), transforms=Transforms(draws=1))
    path = write_report(
        own_run,
        tmp_path / "report.html",
        features=["after:0"],
        network=plain_network(),
        k=3,
        selections=["silent", OWN],
        settings=settings,
    )
    page = path.read_text()
    groups = re.findall(
        r'style="--ring: ([^"]*)">\s*<div class="name">([^<]*)<small>([^<]*)</small></div>', page
    )
    assert [tuple(map(unescape, group)) for group in groups] == [
        (group_colours(["silent"])["silent"], "silent", SELECTIONS["silent"].meaning),
        (COLOUR, "most excited", "largest <excitation> of all"),
    ]
    assert "<excitation>" not in page
    section = page[page.index("most excited<small>") :]
    captions = re.findall(r'<div class="caption">[^<]*<br>([^<]*)</div>', section)
    assert captions == excited(own_run, 3)
    # The rings and the key of the plot.
    assert f'"{COLOUR}"' in page
    assert page.count('"most excited"') >= 1
