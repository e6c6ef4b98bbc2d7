"""Pages: in a real browser, with the network off, and with names that would be script."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from opponent import Network, Run, load, scan_images, why
from opponent.core.box import Box, scale_box
from opponent.core.pictures import data_uri
from opponent.reports.explanations import write_why
from opponent.reports.html import render
from opponent.reports.report import write_report
from opponent.synthesis.settings import SynthesisSettings
from opponent.synthesis.transforms import Transforms

CHROMIUM = os.environ.get("OPPONENT_CHROMIUM") or shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)>.png"
QUICK = SynthesisSettings(steps=2, canvas=(48, 48), transforms=Transforms(draws=1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of 40 pictures, one with a hostile name and one that cannot be read."""
    folder = tmp_path_factory.mktemp("pages")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        small = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)
        image.save(pictures / (HOSTILE if i == 39 else f"{i:02d}.png"))
    (pictures / "broken.png").write_bytes(b"no picture")
    return scan_images(load(), pictures, "mixed3b:168", "mixed3a", out=folder / "run")


@pytest.fixture(scope="module")
def report(run: Run) -> Path:
    """Its report, with every image in a group so that the hostile name is shown."""
    return write_report(run, k=40, settings=QUICK)


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


class Visit:
    """A page that is open, and what it asked for and complained about."""

    def __init__(self, browser: Browser, path: Path, width: int = 1200) -> None:
        context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.absolute().as_uri())
        self.page.wait_for_timeout(1500)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def outside(self) -> list[str]:
        return [x for x in self.requests if not x.startswith(("file:", "data:", "blob:"))]


def test_report_shows_every_picture_and_asks_for_nothing(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report)
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert visit.page.evaluate("document.images.length") > 40
    assert visit.page.evaluate(broken) == 0
    assert visit.outside() == []
    assert visit.complaints == []
    assert visit.page.locator("canvas").count() >= 2
    text = visit.page.inner_text("body")
    assert "mixed3b:168" in text
    assert "broken.png" in text
    assert HOSTILE in text


def test_report_fits_a_telephone(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report, width=390)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_hovering_shows_the_right_image(browser: Browser, report: Path, run: Run) -> None:
    visit = Visit(browser, report)
    columns = run.columns()
    row = int(columns.activation.argmax())
    # Where the dot lies on the screen, from the plot's own ranges and frame.
    where = visit.page.evaluate(
        """([x, y]) => {
            const find = view => [view, ...(view.child_views || []).flatMap(find)];
            const views = Object.values(Bokeh.index.roots ? Object.fromEntries(
                Bokeh.index.roots.map((v, i) => [i, v])) : Bokeh.index).flatMap(find);
            const plot = views.find(v => v.frame && v.model.below[0].axis_label === "excitation");
            const box = plot.canvas_view.el.getBoundingClientRect();
            return [box.x + plot.frame.x_scale.compute(x), box.y + plot.frame.y_scale.compute(y)];
        }""",
        [float(columns.excitation[row]), float(columns.inhibition[row])],
    )
    visit.page.mouse.move(*where)
    visit.page.wait_for_timeout(500)
    card = visit.page.locator(".card").first
    assert columns.images[row] in card.inner_text()
    assert card.locator("img").evaluate("i => i.naturalWidth") > 0


def test_report_is_the_same_twice(run: Run, report: Path, tmp_path: Path) -> None:
    again = write_report(run, tmp_path / "again.html", k=40, settings=QUICK)
    # Bokeh gives its elements random names; all else is the same.
    plain = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|p\d+", "", p.read_text()) for p in (report, again)]
    assert plain[0] == plain[1]


def test_report_of_a_feature_that_is_not_there(run: Run) -> None:
    with pytest.raises(ValueError, match="holds no 'mixed3b:7'"):
        write_report(run, features=["mixed3b:7"])


def test_names_are_escaped() -> None:
    page = render(
        "why.html.j2",
        title=HOSTILE,
        verdict=HOSTILE,
        picture="",
        through=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
    )
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 6


@pytest.mark.parametrize("suffix", [".html", ".png", ".pdf", ".svg"])
def test_an_answer_is_written(run: Run, tmp_path: Path, suffix: str) -> None:
    image = run.images.find("05.png").path
    answer = why(load(), image, "mixed3b:168", "mixed3a", run=run)
    path = write_why(answer, tmp_path / f"answer{suffix}")
    assert path.stat().st_size > 5000
    if suffix == ".html":
        assert answer.verdict in path.read_text()


def test_an_answer_to_nowhere(run: Run, tmp_path: Path) -> None:
    network: Network = load()
    image = run.images.find("05.png").path
    answer = why(network, image, "mixed3b:168", "mixed3a")
    with pytest.raises(ValueError, match=r"ends in none of \.html"):
        write_why(answer, tmp_path / "answer.docx")
    without = why(network, image, "logits:3", "avgpool0")
    with pytest.raises(ValueError, match="no rows and columns"):
        write_why(without, tmp_path / "answer.html")
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_inside() -> None:
    pixels = np.zeros((300, 200, 3), dtype=np.uint8)
    assert data_uri(pixels, side=50).startswith("data:image/jpeg;base64,")
    clear = np.zeros((30, 20, 4), dtype=np.uint8)
    assert data_uri(clear).startswith("data:image/png;base64,")


def test_boxes_are_scaled_by_their_edges() -> None:
    box = Box(top=10, left=20, height=31, width=15)
    assert scale_box(box, (64, 128), (128, 128)) == Box(top=20, left=20, height=62, width=15)


def test_the_run_folder_says_what_was_made(run: Run, report: Path) -> None:
    made = [json.loads(p.read_text()) for p in (run.folder / "synthesis").glob("*.json")]
    assert {each["kind"] for each in made} == {"inversion", "accentuation", "visualisation"}
    assert all(len(each["activation"]) == QUICK.steps for each in made)
    assert {each["sign"] for each in made} == {1, -1}
