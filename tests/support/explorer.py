"""What tests of the explorer share: its page open in a browser, and what it should show."""

import base64
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Locator
from tests.support.pages import Visit

from opponent import Columns, Run
from opponent.atlas.atlas import Atlas

# It would also end an attribute.
HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"
THUMB = 64
CHOICES = (
    "activation", "excitation and inhibition", "excitation", "inhibition", "tension", "norm",
    "class",
)  # fmt: skip
# A plot's view: that of the energies has names on its axes.
VIEW = """(plot) => {
    const find = view => [view, ...(view.child_views || []).flatMap(find)];
    const views = Object.values(Bokeh.index.roots ?? Bokeh.index).flatMap(find);
    const named = view => view.model.below[0].axis_label === "excitation";
    return views.find(view => view.frame && named(view) === (plot === "energies"));
}"""
SOURCE = 'Bokeh.documents[0].get_model_by_name("images")'


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
class Explored:
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


def copied(explored: Explored, folder: Path, *, without: Sequence[str] = ()) -> Run:
    """The run in another folder, some of it left out."""
    shutil.copytree(explored.run.folder, folder, ignore=shutil.ignore_patterns(*without))
    return Run(folder)


def data_of(page: Path) -> dict[str, Any]:
    """What the page's own script reads."""
    script = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text()
    )
    assert script is not None
    data: dict[str, Any] = json.loads(script[1], parse_constant=lambda name: pytest.fail(name))
    return data


class ExplorerVisit(Visit):
    """An explorer that is open, and what it shows."""

    # Drawing without a graphics card is slow, as Chromium says.
    ignored = ("GPU stall",)
    # Both plots and the whole atlas are to be seen.
    height = 1700

    def wait(self) -> None:
        """Wait until the page says that it is ready, and unmark what it begins with."""
        self.page.wait_for_selector("body[data-ready]", state="attached")
        self.settle()
        self.at_first = self.marked()
        self.page.click("#clear")
        self.settle()

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


def ids(explored: Explored, images: Sequence[int]) -> list[str]:
    return [explored.images[image] for image in images]


def assert_marked(desk: ExplorerVisit, expected: Sequence[int]) -> None:
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


def contrast(element: Locator) -> float:
    """Of a text with what it stands on. Source: WCAG 2.1."""
    colours = element.evaluate(
        """x => {
            let under = x;
            const seen = y => getComputedStyle(y).backgroundColor;
            while (under && seen(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
            return [getComputedStyle(x).color, under ? seen(under) : "rgb(255, 255, 255)"];
        }"""
    )
    lights = []
    for colour in colours:
        srgb = np.array([int(x) for x in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(srgb <= 0.03928, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def cut(desk: ExplorerVisit, thumb: Locator) -> np.ndarray:
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


def assert_card(
    desk: ExplorerVisit, explored: Explored, image: int, thumbs: list[np.ndarray]
) -> None:
    """The card tells that image's name, numbers and thumbnail, also as it is on the screen."""
    card = desk.page.locator("#card")
    assert card.is_visible()
    assert card.get_attribute("data-image") == str(image)
    assert card.locator("b").inner_text() == explored.images[image]
    lines = [line.split("\t") for line in card.locator("table").inner_text().splitlines()]
    facts = {name: value.replace("\u2212", "-") for name, value in lines}
    row = explored.rows[image]
    activation = float(explored.columns.activation[row])
    first = re.fullmatch(r"([+-][\d.e-]+) \(([+-][\d.e-]+) sd\)", facts["activation"])
    assert first is not None
    assert float(first[1]) == pytest.approx(activation, rel=6e-3)
    deviation = float(explored.columns.activation.std())
    assert float(first[2]) == pytest.approx(activation / deviation, abs=0.051)
    for name, values in (
        ("excitation", explored.columns.excitation),
        ("inhibition", explored.columns.inhibition),
        ("tension", explored.columns.tension),
        ("norm", explored.columns.l2),
    ):
        assert float(facts[name]) == pytest.approx(float(values[row]), rel=6e-3)
    assert facts["class"] == explored.images[image].split("/")[0]
    thumb = card.locator(".thumb")
    differences = distances(thumbs, cut(desk, thumb))
    assert int(differences.argmin()) == image
    assert differences[image] < 8
    shot = Image.open(io.BytesIO(thumb.screenshot())).convert("RGB").resize((2 * THUMB, THUMB))
    differences = distances(thumbs, np.asarray(shot))
    assert int(differences.argmin()) == image
    assert differences[image] < 12


def lonely(places: np.ndarray) -> list[int]:
    """Dots, those that are farthest from all others first."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return np.argsort(-apart.min(1), kind="stable").tolist()


def frame(desk: ExplorerVisit, plot: str) -> list[float]:
    """Left, top, right and bottom of a plot's frame on the screen."""
    edges: list[float] = desk.page.evaluate(
        f"""() => {{
            const view = ({VIEW})("{plot}"), box = view.canvas_view.el.getBoundingClientRect();
            const {{ left, top, right, bottom }} = view.frame.bbox;
            return [box.x + left, box.y + top, box.x + right, box.y + bottom];
        }}"""
    )
    return edges


def gap(
    desk: ExplorerVisit, plot: str, places: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]
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


def middle(desk: ExplorerVisit, row: int, column: int) -> tuple[float, float]:
    """The middle of a cell on the screen, whether or not it holds anything."""
    box = desk.page.locator("#mosaic").bounding_box()
    assert box is not None
    return box["x"] + box["width"] * (column + 0.5) / 3, box["y"] + box["height"] * (row + 0.5) / 3
