"""Marking images in the explorer: with lasso, box, band, keys and groups."""

import math
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from tests.support.explorer import (
    Explored,
    ExplorerVisit,
    assert_marked,
    frame,
    gap,
    ids,
    middle,
)

from opponent import select

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("one_thread")]


def test_a_lasso_marks_what_lies_inside(desk: ExplorerVisit, explored: Explored) -> None:
    places = desk.screen("map", range(90))

    def measure(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x, axis=1)

    centre, radius = gap(desk, "map", places, measure)
    angles = np.linspace(0, 2 * np.pi, 40)
    circle = places[centre] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    desk.drag(circle.tolist())
    inside = np.flatnonzero(measure(places - places[centre]) < radius)
    assert 8 < len(inside) < 41
    assert_marked(desk, inside.tolist())
    shown = desk.page.locator("#gallery figcaption").all_inner_texts()
    names = [image.rpartition("/")[2] for image in ids(explored, desk.marked())]
    assert [text.split(" · ")[1] for text in shown] == names


def test_a_box_marks_what_lies_inside(desk: ExplorerVisit) -> None:
    desk.page.locator(".bk-tool-icon-box-select").first.click()
    places = desk.screen("energies")

    def measure(x: np.ndarray) -> np.ndarray:
        return np.abs(x).max(1)

    centre, half = gap(desk, "energies", places, measure)
    desk.drag((places[centre] + half * np.linspace(-1, 1, 9)[:, None]).tolist())
    desk.page.locator(".bk-tool-icon-lasso-select").first.click()
    inside = np.flatnonzero(measure(places - places[centre]) < half)
    assert 8 < len(inside) < 41
    assert_marked(desk, inside.tolist())


def test_a_lasso_around_nothing_marks_nothing(desk: ExplorerVisit, explored: Explored) -> None:
    desk.cell(explored.atlas.cells[0].row, explored.atlas.cells[0].column).click()
    _, _, right, bottom = frame(desk, "energies")
    # Much excitation without inhibition: there is no such image.
    path = [(right - x, bottom - y) for x, y in ((50, 5), (5, 5), (5, 30), (30, 30), (50, 10))]
    desk.drag(path)
    assert_marked(desk, [])
    assert desk.pressed() == set()


def test_a_click_on_an_icon_marks_its_cells_images(desk: ExplorerVisit, explored: Explored) -> None:
    for cell in explored.atlas.cells:
        desk.cell(cell.row, cell.column).click()
        desk.settle()
        assert ids(explored, desk.marked()) == list(cell.images)
        assert ids(explored, desk.gallery()) == list(cell.images)
        assert_marked(desk, desk.marked())
        assert desk.page.locator("#mosaic.some .cell.has").count() == 1


@pytest.mark.parametrize(
    ("start", "end"), [((0, 0), (1, 1)), ((2, 2), (1, 0)), ((2, 0), (0, 2)), ((0, 2), (2, 2))]
)
def test_a_band_over_the_mosaic_marks_its_cells(
    desk: ExplorerVisit, explored: Explored, start: tuple[int, int], end: tuple[int, int]
) -> None:
    towards = [1 if a < b else -1 for a, b in zip(start, end, strict=True)]
    from_x, from_y = middle(desk, *start)
    to_x, to_y = middle(desk, *end)
    # From before the first middle to behind the last.
    path = [(from_x - 12 * towards[1], from_y - 12 * towards[0]), (from_x, from_y)]
    path += [((from_x + to_x) / 2, (from_y + to_y) / 2)]
    path += [(to_x + 12 * towards[1], to_y + 12 * towards[0])]
    desk.drag(path)
    rows, columns = (sorted(pair) for pair in zip(start, end, strict=True))
    covered = [
        cell
        for cell in explored.atlas.cells
        if rows[0] <= cell.row <= rows[1] and columns[0] <= cell.column <= columns[1]
    ]
    assert covered
    assert set(ids(explored, desk.marked())) == {x for cell in covered for x in cell.images}
    assert_marked(desk, desk.marked())
    assert desk.page.locator("#band").is_hidden()


def test_a_band_is_seen_while_it_is_drawn(desk: ExplorerVisit) -> None:
    start, end = middle(desk, 0, 0), middle(desk, 0, 2)
    desk.page.mouse.move(end[0] + 10, end[1] + 10)
    desk.page.mouse.down()
    desk.page.mouse.move(*end)
    desk.page.mouse.move(start[0] - 10, start[1] - 10)
    band = desk.page.locator("#band").bounding_box()
    desk.page.mouse.up()
    desk.settle()
    assert band is not None
    assert band["width"] == pytest.approx(end[0] - start[0] + 20, abs=2)
    assert band["height"] == pytest.approx(20, abs=2)
    assert band["x"] == pytest.approx(start[0] - 10, abs=2)
    assert desk.page.locator("#band").is_hidden()
    assert desk.marked()


def test_a_drag_that_ends_outside_is_over(desk: ExplorerVisit, explored: Explored) -> None:
    start = middle(desk, 0, 0)
    desk.page.mouse.move(*start)
    desk.page.mouse.down()
    desk.page.mouse.move(600, 850)  # at once, as a quick hand does
    desk.page.mouse.up()
    desk.page.mouse.move(*middle(desk, 1, 1))  # no button is pressed now
    desk.settle()
    shown = desk.page.locator("#band").is_visible()
    desk.page.mouse.down()
    desk.page.mouse.up()  # heal the page for the next test
    desk.key("Escape")
    assert not shown


def test_arrows_and_enter_do_without_a_mouse(
    browser: Browser, page: Path, explored: Explored
) -> None:
    with ExplorerVisit(browser, page) as desk:
        cells = [(cell.row, cell.column) for cell in explored.atlas.cells]

        def after(here: tuple[int, int], key: str) -> tuple[int, int]:
            """The nearest cell that way, where a step aside counts thrice; else the same."""
            down, right = {"Left": (0, -1), "Right": (0, 1), "Up": (-1, 0), "Down": (1, 0)}[key]
            best, least = here, math.inf
            for row, column in cells:
                ahead = (row - here[0]) * down + (column - here[1]) * right
                aside = abs((row - here[0]) * right) + abs((column - here[1]) * down)
                if ahead > 0 and ahead + 3 * aside < least:
                    best, least = (row, column), ahead + 3 * aside
            return best

        def focused() -> tuple[int, int]:
            place = "document.activeElement.dataset"
            row, column = desk.page.evaluate(f"[{place}.row - 1, {place}.column - 1]")
            return row, column

        # Tab comes to one cell of the atlas alone, and on from it.
        desk.page.locator("#clear").focus()
        for _ in range(40):
            desk.page.keyboard.press("Tab")
            if desk.page.evaluate("document.activeElement.classList.contains('cell')"):
                break
        here = focused()
        assert here == cells[0]
        for key in ("Right", "Down", "Left", "Down", "Down", "Right", "Up", "Up", "Left", "Left"):
            desk.page.keyboard.press(f"Arrow{key}")
            here = after(here, key)
            assert focused() == here
            assert desk.page.locator('.cell[tabindex="0"]').count() == 1
        desk.key("Enter")
        assert ids(explored, desk.marked()) == explored.cell(*here)
        assert_marked(desk, desk.marked())
        there = after(here, "Right")
        assert there != here
        desk.key("ArrowRight", " ")
        assert ids(explored, desk.marked()) == explored.cell(*there)
        desk.page.keyboard.press("Tab")
        assert not desk.page.evaluate("document.activeElement.classList.contains('cell')")


def test_one_tab_stop_after_a_click(desk: ExplorerVisit, explored: Explored) -> None:
    cell = explored.atlas.cells[4]
    desk.cell(cell.row, cell.column).click()
    desk.key("ArrowRight")
    assert desk.page.locator('.cell[tabindex="0"]').count() == 1


def test_escape_and_clear_empty_everything(desk: ExplorerVisit, explored: Explored) -> None:
    cell = explored.atlas.cells[2]

    def escape() -> None:
        desk.key("Escape")

    def clear() -> None:
        desk.page.locator("#clear").click()
        desk.settle()

    for empty in (escape, clear):
        desk.cell(cell.row, cell.column).click()
        desk.settle()
        assert desk.marked()
        empty()
        assert_marked(desk, [])
        assert desk.pressed() == set()
        assert desk.page.locator("#more").is_hidden()
        assert desk.page.locator("#mosaic.some").count() == 0
    desk.page.select_option("#group", "tense")
    clear()
    assert desk.page.input_value("#group") == ""
    assert_marked(desk, [])


def test_more_than_a_page_of_images_is_shown_bit_by_bit(
    desk: ExplorerVisit, explored: Explored
) -> None:
    start, end = middle(desk, 0, 0), middle(desk, 2, 2)
    desk.drag([(start[0] - 9, start[1] - 9), start, (end[0] + 9, end[1] + 9)])
    count = sum(len(cell.images) for cell in explored.atlas.cells)
    assert count > 60
    assert_marked(desk, desk.marked())
    assert len(desk.gallery()) == 60
    more = desk.page.locator("#more")
    assert more.inner_text() == f"show more ({count - 60} left)"
    more.click()
    desk.settle()
    assert desk.gallery() == desk.marked()
    assert more.is_hidden()
    cell = explored.atlas.cells[0]
    desk.cell(cell.row, cell.column).click()
    desk.settle()
    assert ids(explored, desk.gallery()) == list(cell.images)
    assert more.is_hidden()


def test_groups_mark_what_select_chooses(desk: ExplorerVisit, explored: Explored) -> None:
    selected = select(explored.columns, 50)
    groups = {name.replace("_", " "): group for name, group in selected.items() if len(group)}
    offered = desk.page.locator("#group option").all_inner_texts()
    assert offered == ["choose images", *groups]
    assert {"exciting", "inhibiting", "silent", "tense"} <= groups.keys()
    for name, group in groups.items():
        desk.page.select_option("#group", name)
        desk.settle()
        assert ids(explored, desk.marked()) == list(group.images)
        assert_marked(desk, desk.marked())
    desk.page.select_option("#group", "")
    desk.settle()
    assert_marked(desk, [])


def test_a_group_can_be_marked_again_after_escape(desk: ExplorerVisit, explored: Explored) -> None:
    desk.page.select_option("#group", "tense")
    desk.key("Escape")
    assert desk.marked() == []
    assert desk.page.input_value("#group") == ""


def test_a_pressed_cell_says_so(desk: ExplorerVisit, explored: Explored) -> None:
    cell = explored.atlas.cells[0]
    desk.cell(cell.row, cell.column).click()
    desk.settle()
    assert desk.pressed() == {(cell.row, cell.column)}


def test_a_click_with_shift_adds_a_cell(desk: ExplorerVisit, explored: Explored) -> None:
    first, second, third = explored.atlas.cells[:3]
    desk.cell(first.row, first.column).click()
    for cell in (third, second, third):
        desk.cell(cell.row, cell.column).click(modifiers=["Shift"])
    desk.settle()
    assert set(ids(explored, desk.marked())) == {*first.images, *second.images, *third.images}
    assert len(desk.marked()) == sum(len(x.images) for x in (first, second, third))
    assert desk.pressed() == {(x.row, x.column) for x in (first, second, third)}
    assert_marked(desk, desk.marked())
    desk.cell(second.row, second.column).click()
    desk.settle()
    assert ids(explored, desk.marked()) == list(second.images)


def test_a_band_with_shift_adds_its_cells(desk: ExplorerVisit, explored: Explored) -> None:
    """And the band is seen while it is drawn."""
    last = explored.atlas.cells[-1]
    desk.cell(last.row, last.column).click()
    start, end = middle(desk, 0, 0), middle(desk, 0, 2)
    desk.page.keyboard.down("Shift")
    desk.page.mouse.move(start[0] - 10, start[1] - 10)
    desk.page.mouse.down()
    desk.page.mouse.move(*start)
    desk.page.mouse.move(end[0] + 10, end[1] + 10)
    band = desk.page.locator("#band").bounding_box()
    desk.page.mouse.up()
    desk.page.keyboard.up("Shift")
    desk.settle()
    assert band is not None
    assert band["width"] == pytest.approx(end[0] - start[0] + 20, abs=2)
    assert band["height"] == pytest.approx(20, abs=2)
    above = {(cell.row, cell.column) for cell in explored.atlas.cells if cell.row == 0}
    assert above
    assert desk.pressed() == above | {(last.row, last.column)}
    assert_marked(desk, desk.marked())


def test_shift_enter_adds(desk: ExplorerVisit, explored: Explored) -> None:
    first, second = explored.atlas.cells[:2]
    desk.cell(first.row, first.column).focus()
    desk.key("Enter")
    desk.cell(second.row, second.column).focus()
    desk.key("Shift+Enter")
    assert set(ids(explored, desk.marked())) == {*first.images, *second.images}


def test_shift_adds_to_a_lasso_too(desk: ExplorerVisit, explored: Explored) -> None:
    desk.page.evaluate("explorer.mark([100, 101, 102])")  # as a lasso marks
    desk.settle()
    cell = explored.atlas.cells[0]
    desk.cell(cell.row, cell.column).click(modifiers=["Shift"])
    desk.settle()
    assert set(desk.marked()) >= {100, 101, 102}
