"""The explorer, in a real browser with the network off: what is pointed at, marked and shown."""

import base64
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

import opponent.atlas.build
from opponent import Columns, Run, RunError, Unreadable, load, scan_images, select
from opponent.atlas.atlas import Atlas, AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.core.colour import (
    activation_colours,
    category_colours,
    hex_colours,
    on_white,
    overlay,
    tension_colours,
)
from opponent.explain.crops import run_tiles
from opponent.reports import explorer as explore
from opponent.reports.explorer import write_explorer

CHROMIUM = os.environ.get("OPPONENT_CHROMIUM") or shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"
THUMB = 64


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def paint(path: Path, generator: np.random.Generator) -> None:
    """Three bars of any direction and colour."""
    image = Image.new("RGB", (64, 64), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y = generator.integers(0, 64, 2).tolist()
        angle = generator.uniform(0, math.pi)
        across, up = 90 * math.cos(angle), 90 * math.sin(angle)
        draw.line(
            [x - across, y - up, x + across, y + up],
            fill=tuple(generator.integers(0, 256, 3).tolist()),
            width=int(generator.integers(3, 14)),
        )
    image.save(path)


def scattered(vectors: np.ndarray, **_: Any) -> np.ndarray:
    """Places at random."""
    return np.random.default_rng(1).uniform(0, 1, (len(vectors), 2))


@dataclass(frozen=True, kw_only=True)
class Made:
    """A run with its atlas, and its images as the page should number them."""

    run: Run
    atlas: Atlas
    columns: Columns
    images: list[str]

    @property
    def rows(self) -> list[int]:
        """The columns' row of each of the page's images."""
        return [self.columns.images.index(image) for image in self.images]

    def cell(self, row: int, column: int) -> list[str]:
        """The images of one cell of the atlas."""
        cells = {(each.row, each.column): each for each in self.atlas.cells}
        return list(cells[row, column].images)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """121 pictures in three folders, one with a hostile name; 90 of them are on the map."""
    folder = tmp_path_factory.mktemp("explore")
    generator = np.random.default_rng(0)
    for name in ("bars", "lines", "stripes"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(40):
            paint(folder / "pictures" / name / f"{i:02d}.png", generator)
    paint(folder / "pictures" / "lines" / HOSTILE, generator)
    network = load()
    pictures = folder / "pictures"
    run = scan_images(network, pictures, "mixed3b:168", "mixed3a", out=folder / "run")
    settings = AtlasSettings(top=90, grid=3, min_images=3, neighbours=5, steps=2)
    with pytest.MonkeyPatch.context() as patch:
        # Any layout will do here, and this one takes no time; test_atlas.py looks at UMAP's.
        patch.setattr(opponent.atlas.build, "lay_out", scattered)
        atlas = make_atlas(run, network=network, settings=settings)
    columns = run.columns()
    on_map = atlas.map["image"].to_pylist()
    others = [image for image in columns.images if image not in on_map]
    return Made(run=run, atlas=atlas, columns=columns, images=on_map + others)


def copied(made: Made, folder: Path, *, without: Sequence[str] = ()) -> Run:
    """The run in another folder, some of it left out."""
    shutil.copytree(made.run.folder, folder, ignore=shutil.ignore_patterns(*without))
    return Run(folder)


@pytest.fixture(scope="module")
def page(made: Made) -> Path:
    """The page, where it lies by default."""
    path = write_explorer(made.run)
    assert path == made.run.folder / "explorer.html"
    return path


def data_of(page: Path) -> dict[str, Any]:
    """What the page's own script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found is not None
    data: dict[str, Any] = json.loads(found[1], parse_constant=lambda name: pytest.fail(name))
    return data


# Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a network."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install it, or name it in OPPONENT_CHROMIUM")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--disable-quic"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


# A plot's view: that of the energies has names on its axes.
VIEW = """(plot) => {
    const find = view => [view, ...(view.child_views || []).flatMap(find)];
    const views = Object.values(Bokeh.index.roots ?? Bokeh.index).flatMap(find);
    const named = view => view.model.below[0].axis_label === "excitation";
    return views.find(view => view.frame && named(view) === (plot === "energies"));
}"""
SOURCE = 'Bokeh.documents[0].get_model_by_name("images")'


class Visit:
    """A page that is open, and what it asked for and complained about."""

    def __init__(
        self, browser: Browser, path: Path, *, width: int = 1200, scheme: Any = "light"
    ) -> None:
        self.context = browser.new_context(
            offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("dialog", self._asked)
        self.page.goto(path.absolute().as_uri())
        self.page.wait_for_selector("body[data-ready]", state="attached")
        self.settle()

    def _heard(self, message: ConsoleMessage) -> None:
        # Drawing without a graphics card is slow, as Chromium says.
        if message.type in ("error", "warning") and "GPU stall" not in message.text:
            self.complaints.append(message.text)

    def _asked(self, dialog: Any) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(done), 50))")

    def loaded(self) -> list[str]:
        """All that was asked for, but for what is inside the page."""
        return [x for x in self.requests if not x.startswith(("data:", "blob:"))]

    def column(self, name: str) -> list[Any]:
        """A column of the plots' source."""
        values: list[Any] = self.page.evaluate(f"[...{SOURCE}.data['{name}']]")
        return values

    def marked(self) -> list[int]:
        """The images that are marked, in the plots' source."""
        indices: list[int] = self.page.evaluate(f"[...{SOURCE}.selected.indices]")
        return indices

    def gallery(self) -> list[int]:
        """The images that the gallery shows."""
        figures = "[...document.querySelectorAll('#gallery figure')]"
        return [int(x) for x in self.page.evaluate(f"{figures}.map(x => x.dataset.image)")]

    def screen(self, plot: str, images: Sequence[int] | None = None) -> np.ndarray:
        """Where the images' dots lie on the screen."""
        names = {"energies": ("excitation", "inhibition"), "map": ("x", "y")}[plot]
        across, up = (self.column(name) for name in names)
        chosen = range(len(across)) if images is None else images
        places = self.page.evaluate(
            f"""([plot, xs, ys]) => {{
                const view = ({VIEW})(plot);
                const box = view.canvas_view.el.getBoundingClientRect(), frame = view.frame;
                return xs.map((x, i) => [
                    box.x + frame.x_scale.compute(x), box.y + frame.y_scale.compute(ys[i]),
                ]);
            }}""",
            [plot, [across[i] for i in chosen], [up[i] for i in chosen]],
        )
        return np.array(places, dtype=np.float64)

    def cell(self, row: int, column: int) -> Locator:
        """The button of one cell of the atlas, counted from 0 as in the atlas."""
        return self.page.locator(f'.cell[data-row="{row + 1}"][data-column="{column + 1}"]')

    def pressed(self) -> set[tuple[int, int]]:
        """The cells whose images are marked, as the buttons say."""
        where = "x => [x.dataset.row - 1, x.dataset.column - 1]"
        chosen = "[...document.querySelectorAll('.cell[aria-pressed=true]')]"
        return {(row, column) for row, column in self.page.evaluate(f"{chosen}.map({where})")}

    def drag(self, path: Sequence[Sequence[float]]) -> None:
        """Draw with the mouse."""
        self.page.mouse.move(*path[0])
        self.page.mouse.down()
        for x, y in path[1:]:
            self.page.mouse.move(x, y)
        self.page.mouse.up()
        self.settle()

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()


@pytest.fixture(scope="module")
def opened(browser: Browser, page: Path) -> Visit:
    return Visit(browser, page)


@pytest.fixture
def desk(opened: Visit) -> Iterator[Visit]:
    """The page as it is opened; and it has complained of nothing when it is left."""
    opened.page.mouse.move(1, 1)
    opened.key("Escape")
    for name, value in (("colour", "activation"), ("group", ""), ("frame", "edge")):
        opened.page.select_option(f"#{name}", value)
    opened.page.evaluate("scrollTo(0, 0)")
    opened.settle()
    assert opened.marked() == []
    yield opened
    assert opened.complaints == []
    assert len(opened.loaded()) == 1


def ids(made: Made, images: Sequence[int]) -> list[str]:
    return [made.images[image] for image in images]


def assert_marked(desk: Visit, expected: Sequence[int]) -> None:
    """These images, and they alone, in both plots, in the heading, gallery and mosaic."""
    assert sorted(desk.marked()) == sorted(expected)
    views = [f"({VIEW})('{plot}').model.renderers" for plot in ("energies", "map")]
    for view in views:
        source = f"{view}.find(x => x.data_source).data_source"
        assert sorted(desk.page.evaluate(f"[...{source}.selected.indices]")) == sorted(expected)
    assert desk.gallery() == desk.marked()[:60]
    count = len(expected)
    says = f"{count} image{'s' if count > 1 else ''} marked" if count else "Nothing is marked"
    assert desk.page.inner_text("#count") == says
    places = desk.page.evaluate("JSON.parse(document.getElementById('data').textContent).cells")
    lit = desk.page.evaluate(
        "[...document.querySelectorAll('.cell')].map(x => x.classList.contains('has'))"
    )
    assert {k for k, on in enumerate(lit) if on} == {places[i] for i in expected} - {-1}


# What the page holds


def test_the_page_holds_every_image_with_its_numbers(made: Made, page: Path) -> None:
    data = data_of(page)
    assert data["images"] == made.images
    assert len(made.images) == 121
    for name, values in data["numbers"].items():
        np.testing.assert_allclose(values, getattr(made.columns, name)[made.rows], rtol=1e-4)
    assert sorted(data["numbers"]) == ["activation", "excitation", "inhibition", "l2"]
    assert data["deviation"] == pytest.approx(made.columns.activation.std())
    assert data["classes"] == [image.split("/")[0] for image in made.images]


def test_the_cells_of_the_page_are_the_atlas_cells(made: Made, page: Path) -> None:
    data = data_of(page)
    for number, cell in enumerate(made.atlas.cells):
        inside = [i for i, of in enumerate(data["cells"]) if of == number]
        assert ids(made, inside) == list(cell.images)
    held = {image for cell in made.atlas.cells for image in cell.images}
    alone = [image for image, of in zip(made.images, data["cells"], strict=True) if of == -1]
    assert set(alone) == set(made.images) - held
    assert len(alone) >= 31


def test_images_off_the_map_have_no_place(made: Made, desk: Visit) -> None:
    for name in ("x", "y"):
        places = np.array(desk.column(name), dtype=np.float64)
        np.testing.assert_allclose(places[:90], made.atlas.map[name].to_numpy(), rtol=1e-6)
        assert np.isnan(places[90:]).all()
    assert set(data_of(made.run.folder / "explorer.html")["cells"][90:]) == {-1}
    for name in ("excitation", "inhibition"):
        energies = getattr(made.columns, name)[made.rows]
        np.testing.assert_allclose(desk.column(name), energies, rtol=1e-6)


def test_every_picture_of_the_atlas_is_shown(made: Made, desk: Visit) -> None:
    images = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
    assert desk.page.evaluate(images) == [True] * len(made.atlas.cells)
    for cell in made.atlas.cells:
        button = desk.cell(cell.row, cell.column)
        spoken = button.get_attribute("aria-label") or ""
        assert spoken.startswith(f"row {cell.row + 1}, column {cell.column + 1}: ")
        assert f"{len(cell.images)} images" in spoken
        value = cell.activations["both"]
        assert value is not None
        assert f"icon {value / made.columns.activation.std():+.1f} sd" in spoken


def test_an_icon_is_that_of_its_cell(made: Made, desk: Visit) -> None:
    """Its picture in the page, drawn on white, against the file; no other is as near."""

    def on_paper(picture: Image.Image) -> np.ndarray:
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture)
        return np.asarray(paper.convert("RGB").resize((24, 24)), dtype=np.float64)

    icons = []
    for cell in made.atlas.cells:
        pixels = cell.pixels()
        assert pixels is not None
        icons.append(on_paper(Image.fromarray(pixels)))
    for number, cell in enumerate(made.atlas.cells):
        address = desk.cell(cell.row, cell.column).locator("img").get_attribute("src") or ""
        shown = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        distances = [np.abs(icon - on_paper(shown.convert("RGBA"))).mean() for icon in icons]
        assert int(np.argmin(distances)) == number
        assert distances[number] < 6


def test_frames_show_the_icon_or_the_energies(made: Made, desk: Visit) -> None:
    def colours(name: str) -> list[list[int]]:
        edges = [
            desk.cell(cell.row, cell.column).evaluate("x => getComputedStyle(x).borderTopColor")
            for cell in made.atlas.cells
        ]
        return [[int(x) for x in re.findall(r"\d+", edge)][:3] for edge in edges]

    deviation = made.columns.activation.std()
    icon = np.array([cell.activations["both"] for cell in made.atlas.cells], dtype=np.float64)
    edges = np.rint(255 * activation_colours(icon / deviation, 4.0)[:, :3])
    np.testing.assert_allclose(colours("edge"), edges, atol=1)
    desk.page.select_option("#frame", "tint")
    energies = [(cell.mean_excitation, cell.mean_inhibition) for cell in made.atlas.cells]
    end = np.quantile(energies, 0.95)
    for shown, (plus, minus) in zip(colours("tint"), energies, strict=True):
        tint = on_white(tension_colours(np.array([plus / end]), np.array([minus / end])))
        assert shown == tint[0].tolist()


# Looks


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_it_opens_offline_in_any_light_and_on_a_telephone(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    visit = Visit(browser, page, width=width, scheme=scheme)
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
    for selector in ("h1", ".lead", ".hint", "#clear", "#colour", "#card b", "#gallery figcaption"):
        assert contrast(visit.page.locator(selector).first) > 4.5
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(x) for x in re.findall(r"\d+", background)[:3]) < 200
    assert dark == (scheme == "dark")
    visit.context.close()


def contrast(element: Locator) -> float:
    """Of a text with what it stands on. Source: WCAG 2.1."""
    found = element.evaluate(
        """x => {
            let under = x;
            const seen = y => getComputedStyle(y).backgroundColor;
            while (under && seen(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
            return [getComputedStyle(x).color, under ? seen(under) : "rgb(255, 255, 255)"];
        }"""
    )
    lights = []
    for colour in found:
        srgb = np.array([int(x) for x in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(srgb <= 0.03928, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


# Thumbnails


@pytest.fixture(scope="module")
def thumbs(made: Made) -> list[np.ndarray]:
    """What each image's thumbnail should show: its crop, and the same under its maps."""
    plus, minus = made.columns.excitation_map, made.columns.inhibition_map
    larger = [np.maximum(plus[row], minus[row]) for row in made.rows]
    # As in all figures: nearly each image's maximum, and nearly the largest of those.
    peaks = [float(np.quantile(values, 0.995)) for values in larger if values.any()]
    scale = float(np.quantile(peaks, 0.9))
    expected = []
    for tile in run_tiles(made.run, made.atlas.feature, made.columns, made.rows, shown=THUMB):
        assert tile.excitation is not None
        assert tile.inhibition is not None
        pair = [tile.image, overlay(tile.image, tile.excitation, tile.inhibition, scale)]
        small = [Image.fromarray(x).resize((THUMB, THUMB), Image.Resampling.LANCZOS) for x in pair]
        expected.append(np.concatenate([np.asarray(x) for x in small], axis=1))
    return expected


def cut(desk: Visit, thumb: Locator) -> np.ndarray:
    """The part of its sheet that an element's background shows."""
    style = {
        name: thumb.evaluate(f"x => getComputedStyle(x).{name}")
        for name in ("backgroundImage", "backgroundPosition", "backgroundSize")
    }
    address = style["backgroundImage"].removeprefix('url("').removesuffix('")')
    if address.startswith("data:image/jpeg;base64,"):
        sheet = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    else:
        assert address.startswith(desk.page.url.rpartition("/")[0])
        sheet = Image.open(unquote(address.removeprefix("file://")))
    box = thumb.evaluate("x => [x.clientWidth, x.clientHeight]")
    # A background of s % in a box of b pixels is moved by p % of what is left of the box.
    size = [float(x.rstrip("%")) / 100 for x in style["backgroundSize"].split()]
    at = [float(x.rstrip("%")) / 100 for x in style["backgroundPosition"].split()]
    scale = [sheet.size[k] / (size[k] * box[k]) for k in range(2)]
    left, top = (round(-at[k] * (1 - size[k]) * box[k] * scale[k]) for k in range(2))
    wide, high = (round(box[k] * scale[k]) for k in range(2))
    return np.asarray(sheet.crop((left, top, left + wide, top + high)))


def distances(thumbs: Sequence[np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """How far the picture lies from each image's thumbnail, in sRGB bytes."""
    return np.array([np.abs(x.astype(np.float64) - pixels).mean() for x in thumbs])


def test_every_thumbnail_is_that_of_its_image(
    made: Made, page: Path, thumbs: list[np.ndarray]
) -> None:
    data = data_of(page)
    assert (data["thumb"], data["across"], data["down"]) == (THUMB, 12, 24)
    [address] = data["sheets"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
    assert sheet.shape == (24 * THUMB, 12 * 2 * THUMB, 3)
    for image in range(len(made.images)):
        top, left = image // 12 * THUMB, image % 12 * 2 * THUMB
        found = distances(thumbs, sheet[top : top + THUMB, left : left + 2 * THUMB])
        assert int(found.argmin()) == image
        assert found[image] < 8  # what JPEG loses
    # JPEG lets colours run over by a few pixels.
    assert (sheet[(120 // 12 + 1) * THUMB + 8 :] > 250).all()


def assert_card(desk: Visit, made: Made, image: int, thumbs: list[np.ndarray]) -> None:
    """The card tells that image's name, numbers and thumbnail, also as it is on the screen."""
    card = desk.page.locator("#card")
    assert card.is_visible()
    assert card.get_attribute("data-image") == str(image)
    assert card.locator("b").inner_text() == made.images[image]
    lines = [line.split("\t") for line in card.locator("table").inner_text().splitlines()]
    facts = {name: value.replace("\u2212", "-") for name, value in lines}
    row = made.rows[image]
    activation = float(made.columns.activation[row])
    first = re.fullmatch(r"([+-][\d.e-]+) \(([+-][\d.e-]+) sd\)", facts["activation"])
    assert first is not None
    assert float(first[1]) == pytest.approx(activation, rel=6e-3)
    assert float(first[2]) == pytest.approx(activation / made.columns.activation.std(), rel=6e-3)
    for name, values in (
        ("excitation", made.columns.excitation),
        ("inhibition", made.columns.inhibition),
        ("tension", made.columns.tension),
        ("norm", made.columns.l2),
    ):
        assert float(facts[name]) == pytest.approx(float(values[row]), rel=6e-3)
    assert facts["class"] == made.images[image].split("/")[0]
    thumb = card.locator(".thumb")
    found = distances(thumbs, cut(desk, thumb))
    assert int(found.argmin()) == image
    assert found[image] < 8
    shot = Image.open(io.BytesIO(thumb.screenshot())).convert("RGB").resize((2 * THUMB, THUMB))
    found = distances(thumbs, np.asarray(shot))
    assert int(found.argmin()) == image
    assert found[image] < 12


def lonely(places: np.ndarray) -> list[int]:
    """Dots, those that are farthest from all others first."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return np.argsort(-apart.min(1), kind="stable").tolist()


@pytest.mark.parametrize("plot", ["energies", "map"])
def test_pointing_at_a_dot_shows_its_image(
    desk: Visit, made: Made, thumbs: list[np.ndarray], plot: str
) -> None:
    places = desk.screen(plot, range(121 if plot == "energies" else 90))
    for image in lonely(places)[:3]:
        desk.page.mouse.move(*(places[image] - 40))
        desk.page.mouse.move(*places[image])
        desk.settle()
        assert_card(desk, made, image, thumbs)
    desk.page.mouse.move(1, 1)
    desk.settle()
    assert desk.page.locator("#card").is_hidden()


def test_pointing_into_the_gallery_shows_the_image(
    desk: Visit, made: Made, thumbs: list[np.ndarray]
) -> None:
    desk.page.evaluate("explorer.mark([7, 120, 90])")
    desk.page.mouse.move(1, 1)
    for number, image in enumerate((7, 120, 90)):
        thumb = desk.page.locator("#gallery .thumb").nth(number)
        thumb.scroll_into_view_if_needed()
        desk.settle()
        thumb.hover()
        desk.settle()
        assert_card(desk, made, image, thumbs)
        assert distances(thumbs, cut(desk, thumb)).argmin() == image
        assert made.images[image] in (thumb.get_attribute("aria-label") or "")
    desk.page.locator("#gallery .thumb").nth(1).focus()
    desk.settle()
    assert desk.page.locator("#card").get_attribute("data-image") == "120"


def test_a_hostile_name_is_only_a_name(desk: Visit, made: Made, thumbs: list[np.ndarray]) -> None:
    image = made.images.index(f"lines/{HOSTILE}")
    desk.page.evaluate(f"explorer.mark([{image}])")
    thumb = desk.page.locator("#gallery .thumb")
    thumb.focus()
    desk.settle()
    assert_card(desk, made, image, thumbs)
    assert HOSTILE in desk.page.locator("#gallery figcaption").inner_text()
    assert desk.page.locator("#gallery figcaption").get_attribute("title") == f"lines/{HOSTILE}"
    assert desk.page.locator("[src=x]").count() == 0
    assert "<img src=x" not in (made.run.folder / "explorer.html").read_text()


# Marking


def frame(desk: Visit, plot: str) -> list[float]:
    """Left, top, right and bottom of a plot's frame on the screen."""
    found: list[float] = desk.page.evaluate(
        f"""() => {{
            const view = ({VIEW})("{plot}"), box = view.canvas_view.el.getBoundingClientRect();
            const {{ left, top, right, bottom }} = view.frame.bbox;
            return [box.x + left, box.y + top, box.x + right, box.y + bottom];
        }}"""
    )
    return found


def gap(
    desk: Visit, plot: str, places: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]
) -> tuple[int, float]:
    """A dot and a radius about it, so that no dot lies near the circle (or the square)."""
    left, top, right, bottom = frame(desk, plot)
    best = (0.0, 0, 0.0)
    for centre, (x, y) in enumerate(places.tolist()):
        room = min(x - left, y - top, right - x, bottom - y) - 2
        sizes = np.sort(measure(places - places[centre]))
        for k in range(8, 40):
            radius = (sizes[k] + sizes[k + 1]) / 2
            if radius < room:
                best = max(best, (sizes[k + 1] - sizes[k], centre, radius))
    assert best[0] > 1.5, "the dots leave no room for a line between them"
    return best[1], best[2]


def test_a_lasso_marks_what_lies_inside(desk: Visit, made: Made) -> None:
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
    assert [text.split(" · ")[1] for text in shown] == ids(made, desk.marked())


def test_a_box_marks_what_lies_inside(desk: Visit) -> None:
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


def test_a_lasso_around_nothing_marks_nothing(desk: Visit, made: Made) -> None:
    desk.cell(made.atlas.cells[0].row, made.atlas.cells[0].column).click()
    _, _, right, bottom = frame(desk, "energies")
    # Much excitation without inhibition: there is no such image.
    path = [(right - x, bottom - y) for x, y in ((50, 5), (5, 5), (5, 30), (30, 30), (50, 10))]
    desk.drag(path)
    assert_marked(desk, [])
    assert desk.pressed() == set()


def test_a_click_on_an_icon_marks_its_cells_images(desk: Visit, made: Made) -> None:
    for cell in made.atlas.cells:
        desk.cell(cell.row, cell.column).click()
        desk.settle()
        assert ids(made, desk.marked()) == list(cell.images)
        assert ids(made, desk.gallery()) == list(cell.images)
        assert_marked(desk, desk.marked())
        assert desk.page.locator("#mosaic.some .cell.has").count() == 1


def middle(desk: Visit, row: int, column: int) -> tuple[float, float]:
    """The middle of a cell on the screen, whether or not it holds anything."""
    box = desk.page.locator("#mosaic").bounding_box()
    assert box is not None
    return box["x"] + box["width"] * (column + 0.5) / 3, box["y"] + box["height"] * (row + 0.5) / 3


@pytest.mark.parametrize(
    ("start", "end"), [((0, 0), (1, 1)), ((2, 2), (1, 0)), ((2, 0), (0, 2)), ((0, 2), (2, 2))]
)
def test_a_band_over_the_mosaic_marks_its_cells(
    desk: Visit, made: Made, start: tuple[int, int], end: tuple[int, int]
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
        for cell in made.atlas.cells
        if rows[0] <= cell.row <= rows[1] and columns[0] <= cell.column <= columns[1]
    ]
    assert covered
    assert set(ids(made, desk.marked())) == {x for cell in covered for x in cell.images}
    assert_marked(desk, desk.marked())
    assert desk.page.locator("#band").is_hidden()


def test_a_band_is_seen_while_it_is_drawn(desk: Visit) -> None:
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


def test_arrows_and_enter_do_without_a_mouse(browser: Browser, page: Path, made: Made) -> None:
    desk = Visit(browser, page)
    cells = [(cell.row, cell.column) for cell in made.atlas.cells]

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
        row, column = desk.page.evaluate(
            "[document.activeElement.dataset.row - 1, document.activeElement.dataset.column - 1]"
        )
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
    assert ids(made, desk.marked()) == made.cell(*here)
    assert_marked(desk, desk.marked())
    there = after(here, "Right")
    assert there != here
    desk.key("ArrowRight", " ")
    assert ids(made, desk.marked()) == made.cell(*there)
    desk.page.keyboard.press("Tab")
    assert not desk.page.evaluate("document.activeElement.classList.contains('cell')")


def test_escape_and_clear_empty_everything(desk: Visit, made: Made) -> None:
    cell = made.atlas.cells[2]

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


def test_more_than_a_page_of_images_is_shown_bit_by_bit(desk: Visit, made: Made) -> None:
    start, end = middle(desk, 0, 0), middle(desk, 2, 2)
    desk.drag([(start[0] - 9, start[1] - 9), start, (end[0] + 9, end[1] + 9)])
    count = sum(len(cell.images) for cell in made.atlas.cells)
    assert count > 60
    assert_marked(desk, desk.marked())
    assert len(desk.gallery()) == 60
    more = desk.page.locator("#more")
    assert more.inner_text() == f"show more ({count - 60} left)"
    more.click()
    desk.settle()
    assert desk.gallery() == desk.marked()
    assert more.is_hidden()
    cell = made.atlas.cells[0]
    desk.cell(cell.row, cell.column).click()
    desk.settle()
    assert ids(made, desk.gallery()) == list(cell.images)
    assert more.is_hidden()


def test_groups_mark_what_select_chooses(desk: Visit, made: Made) -> None:
    groups = {name.replace("_", " "): rows for name, rows in select(made.columns, 50).items()}
    groups = {name: rows for name, rows in groups.items() if len(rows)}
    offered = desk.page.locator("#group option").all_inner_texts()
    assert offered == ["choose images", *groups]
    assert {"exciting", "inhibiting", "silent", "tense"} <= groups.keys()
    for name, rows in groups.items():
        desk.page.select_option("#group", name)
        desk.settle()
        assert ids(made, desk.marked()) == [made.columns.images[row] for row in rows]
        assert_marked(desk, desk.marked())
    desk.page.select_option("#group", "")
    desk.settle()
    assert_marked(desk, [])


# Colours


def coloured(made: Made, choice: str) -> list[str]:
    """The colour of each image, one image after the other."""
    c, rows = made.columns, made.rows
    ends = sorted([*c.excitation[rows].tolist(), *c.inhibition[rows].tolist()])
    end, top = float(np.quantile(ends, 0.98)), float(np.quantile(c.l2[rows], 0.98))
    names = ["bars", "lines", "stripes"]
    found = []
    for row, image in zip(rows, made.images, strict=True):
        plus, minus = float(c.excitation[row]) / end, float(c.inhibition[row]) / end
        pair = {
            "excitation and inhibition": (plus, minus),
            "excitation": (plus, 0.0),
            "inhibition": (0.0, minus),
            "tension": (min(plus, minus),) * 2,
        }.get(choice)
        if pair is not None:
            colour = on_white(tension_colours(*(np.array([x]) for x in pair)))[0] / 255
        elif choice == "activation":
            spread = float(c.activation.std())
            colour = activation_colours(np.array([float(c.activation[row])]), 4 * spread)[0, :3]
        elif choice == "norm":
            grey = 0.88 - 0.68 * min(float(c.l2[row]) / top, 1)
            colour = np.array([grey, 0.94 * grey, grey])
        else:
            colour = category_colours(3)[names.index(image.split("/")[0])][:3]
        found.append(hex_colours(np.append(colour, 1.0)[None])[0])
    return found


CHOICES = (
    "activation", "excitation and inhibition", "excitation", "inhibition", "tension", "norm",
    "class",
)  # fmt: skip


def test_dots_have_the_colours_that_were_chosen(desk: Visit, made: Made) -> None:
    """In the plots' source and on the screen; what is marked stays marked."""
    assert desk.page.locator("#colour option").all_inner_texts() == list(CHOICES)
    cell = made.atlas.cells[0]
    desk.cell(cell.row, cell.column).click()
    marked = desk.marked()
    alone = next(image for image in lonely(desk.screen("energies")) if image in marked)
    for choice in (*CHOICES[1:], CHOICES[0]):
        desk.page.select_option("#colour", choice)
        desk.page.wait_for_timeout(150)
        expected = coloured(made, choice)
        assert desk.column("colour") == expected
        assert_marked(desk, marked)
        # Where it now is, for the colour square is higher than the other scales.
        [(x, y)] = desk.screen("energies", [alone])
        clip: Any = {"x": round(x), "y": round(y), "width": 1, "height": 1}
        shot = Image.open(io.BytesIO(desk.page.screenshot(clip=clip))).convert("RGB")
        wanted = [int(expected[alone][k : k + 2], 16) for k in (1, 3, 5)]
        # Dots are a little transparent.
        np.testing.assert_allclose(
            shot.getpixel((0, 0)), 0.9 * np.array(wanted) + 0.1 * 255, atol=14
        )


def test_a_scale_stands_beside_the_choice(desk: Visit, made: Made) -> None:
    rows = made.rows
    both = np.concatenate([made.columns.excitation[rows], made.columns.inhibition[rows]])
    end = f"{np.quantile(both, 0.98):.3g}"
    for choice, texts in (
        ("activation", ("-4 sd", "+4 sd")),
        ("excitation", ("0", end)),
        ("tension", ("0", end)),
        ("norm", ("0", f"{np.quantile(made.columns.l2[rows], 0.98):.3g}")),
    ):
        desk.page.select_option("#colour", choice)
        assert desk.page.locator("#scale").inner_text().split("\n") == list(texts)
        bar = desk.page.locator("#scale i").evaluate("x => getComputedStyle(x).backgroundImage")
        assert bar.startswith("linear-gradient(90deg, rgb(")
    desk.page.select_option("#colour", "excitation and inhibition")
    desk.settle()
    assert desk.page.locator("#scale").inner_text().endswith(f"to {end}")
    assert desk.page.locator("#scale img").evaluate("x => x.naturalWidth") == 96
    desk.page.select_option("#colour", "class")
    assert desk.page.locator("#scale").inner_text() == ""


# Files


def test_the_page_is_the_same_twice(made: Made, page: Path, tmp_path: Path) -> None:
    again = write_explorer(made.run, tmp_path / "again.html")
    # Bokeh gives its elements random names; all else is the same.
    plain = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|p\d+", "", p.read_text()) for p in (page, again)]
    assert plain[0] == plain[1]
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def sheets_of(run: Run) -> dict[Path, tuple[int, bytes]]:
    """The sheets of thumbnails: when each was written, and its bytes."""
    paths = sorted((run.folder / "explorer").rglob("*.*"))
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def few_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    """36 images a sheet, so that there are four."""
    monkeypatch.setattr(explore, "DOWN", 3)
    monkeypatch.setattr(explore, "_CHUNK", 36)


def test_thumbnails_are_made_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_a_sheet(monkeypatch)
    run = copied(made, tmp_path / "run", without=["explorer", "explorer.html"])
    made_for: list[list[int]] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        made_for.append(list(arguments[3]))
        return run_tiles(*arguments, **named)

    monkeypatch.setattr(explore, "run_tiles", counted)
    told: list[tuple[str, int, int]] = []
    write_explorer(run, tmp_path / "page.html", progress=lambda *x: told.append(x))
    assert told == [("thumbnails", done, 121) for done in (36, 72, 108, 121)]
    assert [len(rows) for rows in made_for] == [36, 36, 36, 13]
    assert [row for rows in made_for for row in rows] == made.rows
    before = sheets_of(run)
    assert [path.suffix for path in before] == [".jpg"] * 4
    made_for.clear()
    write_explorer(run, tmp_path / "page.html")
    assert made_for == []
    assert sheets_of(run) == before
    second = list(before)[1]
    second.unlink()
    write_explorer(run, tmp_path / "page.html")
    assert made_for == [made.rows[36:72]]
    after = sheets_of(run)
    assert {path: x[1] for path, x in after.items()} == {path: x[1] for path, x in before.items()}
    assert all(after[path] == before[path] for path in before if path != second)


def test_many_thumbnails_lie_in_sheets_beside_the_page(
    made: Made,
    thumbs: list[np.ndarray],
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_a_sheet(monkeypatch)
    monkeypatch.setattr(explore, "INLINE", 0)
    path = write_explorer(made.run, tmp_path / "a page's #1 (100 %).html")
    folder = tmp_path / "a page's #1 (100 %)_files"
    names = sorted(sheet.name for sheet in folder.iterdir())
    assert names == [f"{n:03d}.jpg" for n in range(4)]
    assert sorted(x.name for x in tmp_path.iterdir()) == [path.name, folder.name]
    visit = Visit(browser, path)
    chosen = [35, 36, 107, 120]
    visit.page.evaluate(f"explorer.mark({chosen})")
    visit.settle()
    for number, image in enumerate(chosen):
        thumb = visit.page.locator("#gallery .thumb").nth(number)
        found = distances(thumbs, cut(visit, thumb))
        assert int(found.argmin()) == image
        thumb.scroll_into_view_if_needed()
        shot = Image.open(io.BytesIO(thumb.screenshot())).convert("RGB").resize((128, 64))
        assert int(distances(thumbs, np.asarray(shot)).argmin()) == image
    assert visit.complaints == []
    asked = {Path(unquote(address.removeprefix("file://"))) for address in visit.loaded()}
    assert asked == {path, *(folder / name for name in names)}
    visit.context.close()


def test_a_page_in_folders_that_are_not_there_yet(made: Made, tmp_path: Path) -> None:
    path = write_explorer(made.run, str(tmp_path / "some" / "where" / "page.html"))
    assert path == tmp_path / "some" / "where" / "page.html"
    assert data_of(path)["images"] == made.images


@pytest.mark.parametrize("room", [40, 90, 100])
def test_a_page_of_few_images_keeps_all_that_are_on_the_map(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(explore, "POINTS", room)
    data = data_of(write_explorer(made.run, tmp_path / "page.html"))
    others = data["images"][90:]
    assert data["images"][:90] == made.images[:90]
    assert len(others) == max(0, room - 90)
    # Others as they come in the scan; the same each time, for they are drawn from the run's seed.
    assert others == [image for image in made.images[90:] if image in others]
    assert data_of(write_explorer(made.run, tmp_path / "again.html")) == data
    assert len(data["cells"]) == len(data["images"]) == len(data["numbers"]["l2"])
    assert all(len(x["colours"]) == len(data["images"]) for x in data["colourings"].values())
    for name, rows in select(made.columns, 50).items():
        chosen = [made.columns.images[row] for row in rows]
        kept = [image for image in chosen if image in data["images"]]
        group = data["groups"].get(name.replace("_", " "), [])
        assert [data["images"][place] for place in group] == kept
    text = (tmp_path / "page.html").read_text()
    assert f"{len(data['images'])} of 121 images, 90 of them on the map" in text


def test_images_in_one_folder_have_no_class(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where all that are shown lie in one."""
    monkeypatch.setattr(explore, "_classes", lambda *_: [])
    data = data_of(write_explorer(made.run, tmp_path / "page.html"))
    assert data["classes"] is None
    assert list(data["colourings"]) == list(CHOICES[:-1])


def test_a_run_without_an_atlas_says_what_makes_one(made: Made, tmp_path: Path) -> None:
    run = copied(made, tmp_path / "run", without=["atlas", "explorer", "explorer.html"])
    with pytest.raises(RunError, match="no atlas of any feature: `opponent atlas` makes one"):
        write_explorer(run)
    with pytest.raises(RunError, match="no atlas of mixed3b:168@8,8: `opponent atlas` makes one"):
        write_explorer(run, feature="mixed3b:168")
    with pytest.raises(ValueError, match="holds no 'mixed3b:7'"):
        write_explorer(made.run, feature="mixed3b:7")
    assert not (run.folder / "explorer.html").exists()


def test_the_newest_atlas_is_shown_or_the_one_that_is_given(made: Made, tmp_path: Path) -> None:
    run = copied(made, tmp_path / "run", without=["explorer", "explorer.html"])
    [newest] = (run.folder / "atlas").iterdir()
    older = newest.with_name("older")
    shutil.copytree(newest, older)
    about = json.loads((older / "atlas.json").read_text())
    about["asked"]["settings"]["grid"] = 5
    (older / "atlas.json").write_text(json.dumps(about))
    os.utime(older / "atlas.json", (10**9, 10**9))
    path = tmp_path / "page.html"
    assert "--grid: 3" in write_explorer(run, path).read_text()
    assert "--grid: 3" in write_explorer(run, path, feature="mixed3b:168").read_text()
    assert "--grid: 5" in write_explorer(run, path, atlas=Atlas(run, older)).read_text()


def test_a_photograph_that_is_gone_is_named_and_nothing_is_left(made: Made, tmp_path: Path) -> None:
    run = copied(made, tmp_path / "run", without=["explorer", "explorer.html"])
    photograph = made.run.images.find("bars/07.png").path
    hidden = photograph.with_suffix(".hidden")
    photograph.rename(hidden)
    try:
        with pytest.raises(Unreadable, match=r"07\.png cannot be shown"):
            write_explorer(run)
    finally:
        hidden.rename(photograph)
    assert not (run.folder / "explorer.html").exists()
    assert list(sheets_of(run)) == []
    assert write_explorer(run).is_file()


def test_a_click_with_shift_adds_a_cell(desk: Visit, made: Made) -> None:
    first, second, third = made.atlas.cells[:3]
    desk.cell(first.row, first.column).click()
    for cell in (third, second, third):
        desk.cell(cell.row, cell.column).click(modifiers=["Shift"])
    desk.settle()
    assert set(ids(made, desk.marked())) == {*first.images, *second.images, *third.images}
    assert len(desk.marked()) == sum(len(x.images) for x in (first, second, third))
    assert desk.pressed() == {(x.row, x.column) for x in (first, second, third)}
    assert_marked(desk, desk.marked())
    desk.cell(second.row, second.column).click()
    desk.settle()
    assert ids(made, desk.marked()) == list(second.images)


def test_a_band_with_shift_adds_its_cells(desk: Visit, made: Made) -> None:
    """And the band is seen while it is drawn."""
    last = made.atlas.cells[-1]
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
    above = {(cell.row, cell.column) for cell in made.atlas.cells if cell.row == 0}
    assert above
    assert desk.pressed() == above | {(last.row, last.column)}
    assert_marked(desk, desk.marked())


def test_a_pressed_cell_says_so(desk: Visit, made: Made) -> None:
    cell = made.atlas.cells[0]
    desk.cell(cell.row, cell.column).click()
    desk.settle()
    assert desk.pressed() == {(cell.row, cell.column)}


def test_shift_enter_adds(desk: Visit, made: Made) -> None:
    first, second = made.atlas.cells[:2]
    desk.cell(first.row, first.column).focus()
    desk.key("Enter")
    desk.cell(second.row, second.column).focus()
    desk.key("Shift+Enter")
    assert set(ids(made, desk.marked())) == {*first.images, *second.images}


def test_a_drag_that_ends_outside_is_over(desk: Visit, made: Made) -> None:
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


def test_shift_adds_to_a_lasso_too(desk: Visit, made: Made) -> None:
    desk.page.evaluate("explorer.mark([100, 101, 102])")  # as a lasso marks
    desk.settle()
    cell = made.atlas.cells[0]
    desk.cell(cell.row, cell.column).click(modifiers=["Shift"])
    desk.settle()
    assert set(desk.marked()) >= {100, 101, 102}


def test_a_group_can_be_marked_again_after_escape(desk: Visit, made: Made) -> None:
    desk.page.select_option("#group", "tense")
    desk.key("Escape")
    assert desk.marked() == []
    assert desk.page.input_value("#group") == ""


def test_one_tab_stop_after_a_click(desk: Visit, made: Made) -> None:
    cell = made.atlas.cells[4]
    desk.cell(cell.row, cell.column).click()
    desk.key("ArrowRight")
    assert desk.page.locator('.cell[tabindex="0"]').count() == 1


def test_the_card_stays_where_focus_scrolls(page: Path, browser: Browser) -> None:
    visit = Visit(browser, page, width=390)
    visit.page.evaluate("explorer.mark([...Array(60).keys()])")
    visit.settle()
    visit.page.locator("#gallery .thumb").nth(0).focus()
    seen = []
    for _ in range(12):
        visit.page.keyboard.press("Tab")
        visit.page.wait_for_timeout(300)
        seen.append(visit.page.locator("#card").is_visible())
    assert seen.count(False) == 0


def test_a_missing_icon_is_told(made: Made, tmp_path: Path) -> None:
    run = copied(made, tmp_path / "run", without=["explorer", "explorer.html"])
    [folder] = (run.folder / "atlas").iterdir()
    (folder / "icons" / made.atlas.cells[0].icon.name).unlink()
    with pytest.raises(RunError, match=r"\.png is missing; give the same `opponent atlas` again"):
        write_explorer(run)
