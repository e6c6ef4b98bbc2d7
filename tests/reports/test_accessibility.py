"""Pages in light, dark and on a telephone: axe-core finds nothing against WCAG A and AA."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.support.explorer import ExplorerVisit
from tests.support.pages import QUICK, Visit

from opponent import Network, Run, Who, Why
from opponent.reports.explanations import write_who, write_why
from opponent.reports.report import write_report

AXE = Path(__file__).parents[1] / "accessibility" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = ("report", "who", "why", "explorer")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there: npm ci installs it"),
]


@pytest.fixture(scope="module")
def pages(
    run: Run, mini: Network, who_answer: Who, why_answer: Why, page: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    """Each kind of page."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "report": write_report(run, folder / "report.html", network=mini, k=3, settings=QUICK),
        "who": write_who(who_answer, folder / "who.html"),
        "why": write_why(why_answer, folder / "why.html"),
        "explorer": page,
    }


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (1300, "dark"), (390, "light")])
def test_nothing_is_against_the_guidelines(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    kind: Callable[..., Visit] = ExplorerVisit if name == "explorer" else Visit
    with kind(browser, pages[name], width=width, scheme=scheme) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        visit.page.add_script_tag(path=AXE)
        # Plots are Bokeh's own.
        found = visit.page.evaluate(
            "axe.run({exclude: [['.bk-Figure']]},"
            " {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
        )
        assert [(x["id"], x["nodes"][0]["html"][:200]) for x in found["violations"]] == []
        assert len(found["passes"]) > 5
        assert visit.complaints == []
