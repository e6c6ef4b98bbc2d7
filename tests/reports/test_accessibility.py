"""Pages in light, dark and on a telephone: axe-core finds nothing against WCAG A and AA."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.support.explorer import ExplorerVisit
from tests.support.pages import QUICK, Visit, needs_axe

from opponent import Network, Run, Who, Why
from opponent.explain.interference_images import InterferenceImages
from opponent.reports.explanations import write_who, write_why
from opponent.reports.interference import write_interference
from opponent.reports.report import write_report

PAGES = ("report", "who", "why", "explorer", "interference")

pytestmark = [pytest.mark.browser, needs_axe]


@pytest.fixture(scope="module")
def pages(
    run: Run, embedded: Network, who_answer: Who, why_answer: Why, page: Path,
    interference_answer: InterferenceImages, tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    """Each kind of page."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "report": write_report(run, folder / "report.html", network=embedded, k=3, settings=QUICK),
        "who": write_who(who_answer, folder / "who.html"),
        "why": write_why(why_answer, folder / "why.html"),
        "explorer": page,
        "interference": write_interference(interference_answer, folder / "interference.html"),
    }


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (1300, "dark"), (390, "light")])
def test_nothing_is_against_the_guidelines(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    kind: Callable[..., Visit] = ExplorerVisit if name == "explorer" else Visit
    with kind(browser, pages[name], width=width, scheme=scheme) as visit:
        visit.assert_accessible()
