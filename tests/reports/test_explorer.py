"""The explorer's page in a real browser with the network off: what it holds, and its thumbnails."""

import base64
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser
from tests.support.explorer import (
    HOSTILE,
    THUMB,
    Explored,
    ExplorerVisit,
    assert_card,
    contrast,
    cut,
    data_of,
    distances,
    ids,
    lonely,
)

from opponent.core.colour import activation_colours, balance_colours, on_white
from opponent.core.pictures import seen_part
from opponent.core.text import in_deviations

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_page_holds_every_image_with_its_numbers(explored: Explored, page: Path) -> None:
    data = data_of(page)
    assert data["images"] == explored.images
    assert len(explored.images) == 121
    for name, values in data["numbers"].items():
        np.testing.assert_allclose(
            values, getattr(explored.columns, name)[explored.rows], rtol=1e-4
        )
    assert sorted(data["numbers"]) == ["activation", "excitation", "inhibition", "l2"]
    assert data["deviation"] == pytest.approx(explored.columns.activation.std())
    assert data["classes"] == [image.split("/")[0] for image in explored.images]


def test_the_cells_of_the_page_are_the_atlas_cells(explored: Explored, page: Path) -> None:
    data = data_of(page)
    for number, cell in enumerate(explored.atlas.cells):
        inside = [i for i, of in enumerate(data["cells"]) if of == number]
        assert ids(explored, inside) == list(cell.images)
    held = {image for cell in explored.atlas.cells for image in cell.images}
    alone = [image for image, of in zip(explored.images, data["cells"], strict=True) if of == -1]
    assert set(alone) == set(explored.images) - held
    assert len(alone) >= 31


@pytest.mark.browser
def test_images_off_the_map_have_no_place(explored: Explored, desk: ExplorerVisit) -> None:
    for name in ("x", "y"):
        places = np.array(desk.column(name), dtype=np.float64)
        np.testing.assert_allclose(places[:90], explored.atlas.map[name].to_numpy(), rtol=1e-6)
        assert np.isnan(places[90:]).all()
    assert set(data_of(explored.run.folder / "explorer.html")["cells"][90:]) == {-1}
    for name in ("excitation", "inhibition"):
        energies = getattr(explored.columns, name)[explored.rows]
        np.testing.assert_allclose(desk.column(name), energies, rtol=1e-6)


@pytest.mark.browser
def test_every_picture_of_the_atlas_is_shown(explored: Explored, desk: ExplorerVisit) -> None:
    images = (
        "[...document.querySelectorAll('#mosaic img')].map(i => i.complete && i.naturalWidth > 0)"
    )
    assert desk.page.evaluate(images) == [True] * len(explored.atlas.cells)
    for cell in explored.atlas.cells:
        button = desk.cell(cell.row, cell.column)
        spoken = button.get_attribute("aria-label") or ""
        assert spoken.startswith(f"row {cell.row + 1}, column {cell.column + 1}: ")
        assert f"{len(cell.images)} images" in spoken
        value = cell.activations["both"]
        assert value is not None
        assert f"icon {in_deviations(float(value / explored.columns.activation.std()))}" in spoken


@pytest.mark.browser
def test_an_icon_is_that_of_its_cell(explored: Explored, desk: ExplorerVisit) -> None:
    """Its picture in the page, drawn on white, against the file; no other is as near."""

    def on_paper(picture: Image.Image) -> np.ndarray:
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture)
        return np.asarray(paper.convert("RGB").resize((24, 24)), dtype=np.float64)

    icons = []
    for cell in explored.atlas.cells:
        pixels = cell.pixels()
        assert pixels is not None
        icons.append(pixels)
    part = seen_part(icons)
    icons = [on_paper(Image.fromarray(pixels[part])) for pixels in icons]
    for number, cell in enumerate(explored.atlas.cells):
        address = desk.cell(cell.row, cell.column).locator("img").get_attribute("src") or ""
        shown = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        distances = [np.abs(icon - on_paper(shown.convert("RGBA"))).mean() for icon in icons]
        assert int(np.argmin(distances)) == number
        assert distances[number] < 6


@pytest.mark.browser
def test_frames_show_the_icon_or_the_energies(explored: Explored, desk: ExplorerVisit) -> None:
    def colours(name: str) -> list[list[int]]:
        edges = [
            desk.cell(cell.row, cell.column).evaluate("x => getComputedStyle(x).borderTopColor")
            for cell in explored.atlas.cells
        ]
        return [[int(x) for x in re.findall(r"\d+", edge)][:3] for edge in edges]

    deviation = explored.columns.activation.std()
    icon = np.array([cell.activations["both"] for cell in explored.atlas.cells], dtype=np.float64)
    edges = np.rint(255 * activation_colours(icon / deviation, 4.0)[:, :3])
    np.testing.assert_allclose(colours("edge"), edges, atol=1)
    desk.page.select_option("#frame", "tint")
    energies = [(cell.mean_excitation, cell.mean_inhibition) for cell in explored.atlas.cells]
    tints, *_ = balance_colours(*np.array(energies).T)
    assert colours("tint") == on_white(tints).tolist()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_it_opens_offline_in_any_light_and_on_a_telephone(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    with ExplorerVisit(browser, page, width=width, scheme=scheme) as visit:
        assert visit.page.evaluate("document.body.dataset.ready") == "yes"
        # Also with a full gallery and a card.
        visit.page.evaluate("explorer.mark([...Array(80).keys()])")
        visit.page.locator("#gallery .thumb").first.scroll_into_view_if_needed()
        visit.settle()
        visit.page.locator("#gallery .thumb").first.focus()
        assert visit.page.locator("#card").is_visible()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        card = visit.page.locator("#card").bounding_box()
        assert card is not None
        assert 0 <= card["x"] <= width - card["width"]
        assert visit.complaints == []
        assert visit.loaded() == [page.as_uri()]
        assert visit.page.locator("canvas").count() >= 2
        for selector in (
            "h1",
            ".lead",
            ".hint",
            "#clear",
            "#colour",
            "#card b",
            "#gallery figcaption",
        ):
            assert contrast(visit.page.locator(selector).first) > 4.5
        background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(int(x) for x in re.findall(r"\d+", background)[:3]) < 200
        assert dark == (scheme == "dark")


def test_every_thumbnail_is_that_of_its_image(
    explored: Explored, page: Path, thumbs: list[np.ndarray]
) -> None:
    data = data_of(page)
    assert (data["thumb"], data["across"], data["down"]) == (THUMB, 12, 24)
    [address] = data["sheets"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
    assert sheet.shape == (24 * THUMB, 12 * 2 * THUMB, 3)
    for image in range(len(explored.images)):
        top, left = image // 12 * THUMB, image % 12 * 2 * THUMB
        differences = distances(thumbs, sheet[top : top + THUMB, left : left + 2 * THUMB])
        assert int(differences.argmin()) == image
        assert differences[image] < 8  # what JPEG loses
    # JPEG lets colours run over by a few pixels.
    assert (sheet[(120 // 12 + 1) * THUMB + 8 :] > 250).all()


@pytest.mark.browser
@pytest.mark.parametrize("plot", ["energies", "map"])
def test_pointing_at_a_dot_shows_its_image(
    desk: ExplorerVisit, explored: Explored, thumbs: list[np.ndarray], plot: str
) -> None:
    places = desk.screen(plot, range(121 if plot == "energies" else 90))
    for image in lonely(places)[:3]:
        desk.page.mouse.move(*(places[image] - 40))
        desk.page.mouse.move(*places[image])
        desk.settle()
        assert_card(desk, explored, image, thumbs)
    desk.page.mouse.move(1, 1)
    desk.settle()
    assert desk.page.locator("#card").is_hidden()


@pytest.mark.browser
def test_pointing_into_the_gallery_shows_the_image(
    desk: ExplorerVisit, explored: Explored, thumbs: list[np.ndarray]
) -> None:
    desk.page.evaluate("explorer.mark([7, 120, 90])")
    desk.page.mouse.move(1, 1)
    for number, image in enumerate((7, 120, 90)):
        thumb = desk.page.locator("#gallery .thumb").nth(number)
        thumb.scroll_into_view_if_needed()
        desk.settle()
        thumb.hover()
        desk.settle()
        assert_card(desk, explored, image, thumbs)
        assert distances(thumbs, cut(desk, thumb)).argmin() == image
        assert explored.images[image] in (thumb.get_attribute("aria-label") or "")
    desk.page.locator("#gallery .thumb").nth(1).focus()
    desk.settle()
    assert desk.page.locator("#card").get_attribute("data-image") == "120"


@pytest.mark.browser
def test_the_card_stays_where_focus_scrolls(page: Path, browser: Browser) -> None:
    with ExplorerVisit(browser, page, width=390) as visit:
        visit.page.evaluate("explorer.mark([...Array(60).keys()])")
        visit.settle()
        visit.page.locator("#gallery .thumb").nth(0).focus()
        seen = []
        for _ in range(12):
            visit.page.keyboard.press("Tab")
            visit.page.wait_for_timeout(300)
            seen.append(visit.page.locator("#card").is_visible())
    assert seen.count(False) == 0


@pytest.mark.browser
def test_a_hostile_name_is_only_a_name(
    desk: ExplorerVisit, explored: Explored, thumbs: list[np.ndarray]
) -> None:
    image = explored.images.index(f"lines/{HOSTILE}")
    desk.page.evaluate(f"explorer.mark([{image}])")
    thumb = desk.page.locator("#gallery .thumb")
    thumb.focus()
    desk.settle()
    assert_card(desk, explored, image, thumbs)
    assert HOSTILE in desk.page.locator("#gallery figcaption").inner_text()
    assert desk.page.locator("#gallery figcaption").get_attribute("title") == f"lines/{HOSTILE}"
    assert desk.page.locator("[src=x]").count() == 0
    assert "<img src=x" not in (explored.run.folder / "explorer.html").read_text()


@pytest.mark.browser
def test_it_begins_with_the_tense_images(explored: Explored, desk: ExplorerVisit) -> None:
    tense = data_of(explored.run.folder / "explorer.html")["groups"]["tense"]
    assert tense
    assert sorted(desk.at_first) == sorted(tense)


@pytest.mark.browser
def test_an_icon_is_enlarged_with_its_numbers_and_its_command(
    explored: Explored, desk: ExplorerVisit
) -> None:
    lens = desk.page.locator("#lens")
    assert not lens.is_visible()
    cell = max(explored.atlas.cells, key=lambda cell: len(cell.images))
    button = desk.cell(cell.row, cell.column)
    button.click()
    desk.settle()
    assert lens.is_visible()
    icon = button.locator("img").get_attribute("src")
    assert lens.locator("img").get_attribute("src") == icon
    lines = [line.split("\t") for line in lens.locator("table").inner_text().splitlines()]
    assert dict(lines)["images"] == str(len(cell.images))
    assert dict(lines)["excitation E⁺, the mean"] == f"{cell.mean_excitation:.3g}"
    assert dict(lines)["inhibition E⁻, the mean"] == f"{cell.mean_inhibition:.3g}"
    words = shlex.split(lens.locator("code").inner_text())
    assert words[:3] == ["opponent", "who", str(explored.run.folder)]
    assert words[words.index("--cell") + 1] == f"{cell.row},{cell.column}"
    desk.page.click("#clear")
    desk.settle()
    assert not lens.is_visible()


@pytest.mark.browser
def test_the_atlas_grows(desk: ExplorerVisit) -> None:
    width = "document.getElementById('mosaic').getBoundingClientRect().width"
    before = desk.page.evaluate(width)
    desk.page.locator("#zoom").fill("300")
    assert desk.page.evaluate(width) == pytest.approx(3 * before, rel=0.02)
    assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
