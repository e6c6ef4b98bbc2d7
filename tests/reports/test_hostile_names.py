"""Files whose names would be script, in a real browser: on every page they are only names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser
from tests.support.pages import QUICK, WHERE, Visit

from opponent import Network, Run, load, scan_images, who, why
from opponent.reports.explanations import write_who, write_why
from opponent.reports.report import write_report

# As paths: a folder may close what the page has opened.
NAMES = [
    "<img src=x onerror=alert(1)>.png",
    "</script><script>alert(2)</script>.png",
    "'-alert(3)-'.png",
    '"onmouseover="alert(4).png',
    "@image{safe}@picture$name.png",
    "{{7*7}}${alert(5)}.png",
    "javascript:alert(6).png",
    "\u202egnp.exe.png",
    "\u2028alert(7)\u2029.png",
    "%3Cscript%3Ealert(8).png",
    "&lt;script&gt;alert(9)&amp;.png",
    "`${alert(10)}`.png",
]


@pytest.fixture(scope="module")
def embedded() -> Network:
    """The embedded network."""
    return load()


@pytest.fixture(scope="module")
def hostile(embedded: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of pictures with such names alone."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(NAMES):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(number).integers(0, 256, (7, 7, 3), dtype=np.uint8)
        Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(path)
    return scan_images(embedded, folder / "in", "mixed3b:189", "mixed3a", out=folder / "run")


def check(visit: Visit) -> None:
    """Nothing ran, nothing was fetched, and no picture came from a name."""
    assert visit.complaints == []
    assert visit.outside() == []
    made = "[...document.images].filter(i => i.getAttribute('src') === 'x').length"
    assert visit.page.evaluate(made) == 0
    assert visit.page.evaluate("document.querySelectorAll('[onmouseover], [onerror]').length") == 0


@pytest.mark.browser
def test_the_report_and_its_cards(
    browser: Browser, hostile: Run, embedded: Network, tmp_path: Path
) -> None:
    page = write_report(hostile, tmp_path / "r.html", network=embedded, k=12, settings=QUICK)
    columns, shown = hostile.columns(), set[str]()
    with Visit(browser, page) as visit:
        check(visit)
        for row in range(len(columns)):
            at = [float(columns.excitation[row]), float(columns.inhibition[row])]
            visit.page.mouse.move(*visit.page.evaluate(WHERE, at))
            visit.page.wait_for_timeout(250)
            shown |= set(visit.page.locator(".card b").all_inner_texts())
        check(visit)
        text = visit.page.inner_text("body")
    names = {" ".join(name.split()) for name in columns.images}
    assert len(names) == len(NAMES)
    # Cards of dots that others lie on are those of the others.
    assert {" ".join(name.split()) for name in shown} <= names
    assert len(shown) > len(NAMES) // 2
    assert "@image{safe}@picture$name.png" in text
    assert "{{7*7}}" in text


@pytest.mark.browser
def test_why_and_who(browser: Browser, hostile: Run, embedded: Network, tmp_path: Path) -> None:
    for number, entry in enumerate(hostile.images):
        answer = why(embedded, entry, "mixed3b:189", "mixed3a", run=hostile)
        with Visit(browser, write_why(answer, tmp_path / f"{number}.html")) as visit:
            check(visit)
            assert entry.id.split()[0] in visit.page.inner_text("body")
    found = who(hostile, images=list(hostile.columns().images), crops=2, network=embedded)
    with Visit(browser, write_who(found, tmp_path / "who.html")) as visit:
        check(visit)
