"""Pages in a browser with the network off."""

from pathlib import Path
from typing import Any, Self

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

from opponent import SynthesisSettings, Transforms

# A name that would be script.
HOSTILE = "<img src=x onerror=alert(1)>.png"
# Synthesis that takes no time.
QUICK = SynthesisSettings(steps=2, canvas=(48, 48), transforms=Transforms(draws=1))


# Where a dot of the report's first plot lies on the screen, from the plot's own ranges and frame.
WHERE = """([x, y]) => {
    const find = view => [view, ...(view.child_views || []).flatMap(find)];
    const views = Object.values(Bokeh.index.roots ? Object.fromEntries(
        Bokeh.index.roots.map((v, i) => [i, v])) : Bokeh.index).flatMap(find);
    const named = v => v.model.below[0].axis_label === "excitation";
    const { canvas_view, frame } = views.find(v => v.frame && named(v));
    const box = canvas_view.el.getBoundingClientRect();
    return [box.x + frame.x_scale.compute(x), box.y + frame.y_scale.compute(y)];
}"""
AXE = Path(__file__).parents[1] / "accessibility" / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm ci installs it")


class Visit:
    """A page that is open, and what it asked for and complained about.

    Args:
        browser: where to open it.
        path: its file.
        width: of the window, in pixels.
        scheme: 'light' or 'dark'.
    """

    # Of the window, in pixels.
    height = 900
    # Complaints with these words are none of the page's.
    ignored: tuple[str, ...] = ()

    def __init__(
        self, browser: Browser, path: Path, *, width: int = 1200, scheme: Any = "light"
    ) -> None:
        self.context = browser.new_context(
            offline=True, viewport={"width": width, "height": self.height}, color_scheme=scheme
        )
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("dialog", self._asked)
        self.page.goto(path.absolute().as_uri())
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            words in message.text for words in self.ignored
        ):
            self.complaints.append(message.text)

    def _asked(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def wait(self) -> None:
        """Wait until the page is drawn."""
        self.page.wait_for_timeout(1500)

    def assert_accessible(self) -> None:
        """It is no wider than the window, and axe-core finds nothing against WCAG A and AA."""
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        self.page.add_script_tag(path=AXE)
        # Plots are Bokeh's own.
        found = self.page.evaluate(
            "axe.run({exclude: [['.bk-Figure']]},"
            " {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
        )
        assert [(x["id"], x["nodes"][0]["html"][:200]) for x in found["violations"]] == []
        assert len(found["passes"]) > 5
        assert self.complaints == []

    def outside(self) -> list[str]:
        """What it asked for that is not on this machine."""
        return [x for x in self.requests if not x.startswith(("file:", "data:", "blob:"))]
