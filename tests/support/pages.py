"""Pages in a browser with the network off."""

from pathlib import Path
from typing import Any, Self

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

from opponent import SynthesisSettings, Transforms

# A name that would be script.
HOSTILE = "<img src=x onerror=alert(1)>.png"
# Synthesis that takes no time.
QUICK = SynthesisSettings(steps=2, canvas=(48, 48), transforms=Transforms(draws=1))


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

    def outside(self) -> list[str]:
        """What it asked for that is not on this machine."""
        return [x for x in self.requests if not x.startswith(("file:", "data:", "blob:"))]
