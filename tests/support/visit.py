"""A participant's browser on the experiment's page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize
from tests.support.server import Server

from opponent.study.design.study import Study
from opponent.study.server.store import Store

RETURN = "https://app.prolific.com/submissions/complete?cc="
FREE = ".choices .cell:not([disabled])"


@dataclass(frozen=True)
class Served:
    """A study that something else serves: its folder, and the page's address."""

    folder: Path
    url: str


class Visit:
    """A participant's browser: what it asked for, and what went wrong.

    Args:
        browser: a context of its own is opened in it.
        server: what is visited.
        query: of the address.
        context: further settings of the context.
    """

    def __init__(
        self, browser: Browser, server: Server | Served, query: str = "", **context: Any
    ) -> None:
        self.server, self.study = server, Study(server.folder)
        size: ViewportSize = {"width": 1024, "height": 640}
        self.context: BrowserContext = browser.new_context(viewport=size, **context)
        self.context.route("https://app.prolific.com/**", self._prolific)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on(
            "console",
            lambda message: message.type == "error" and self.complaints.append(message.text),
        )
        # What was clicked: (trial, question) to the choice.
        self.clicked: dict[tuple[str, str], str] = {}
        self.page.goto(f"{server.url}/{query}")

    @staticmethod
    def _prolific(route: Route) -> None:
        route.fulfill(body="back at Prolific")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def title(self) -> str:
        return self.page.inner_text("main h1")

    def press(self, text: str) -> None:
        self.page.get_by_role("button", name=text, exact=True).click()

    def to_practice(self) -> None:
        """From consent to the first question."""
        self.press("I agree, and want to take part")
        for text in ("Continue", "Continue", "Start the practice"):
            self.press(text)

    def choices(self) -> list[str]:
        """The ids of the nine, as they are shown."""
        self.page.wait_for_selector(FREE)
        sources = self.page.eval_on_selector_all(".choices img", "x => x.map(y => y.src)")
        return [source.rsplit("/", 1)[1].removesuffix(".png") for source in sources]

    def trial(self) -> str:
        """The trial that is shown, by its choices."""
        shown = set(self.choices())
        (trial,) = [x.id for x in self.study.trials if set(x.choices) == shown]
        return trial

    def answer(self, question: str, place: int, keys: bool = False) -> None:
        """Choose by mouse or keyboard, and confirm."""
        self.clicked.setdefault((self.trial(), question), self.choices()[place])
        if keys:
            self.page.keyboard.press(str(place + 1))
            self.page.keyboard.press("Enter")
        else:
            self.page.locator(".choices .cell").nth(place).click()
            self.page.click(".confirm")

    def answer_both(self, first: int, second: int, keys: bool = False) -> None:
        self.answer("mei", first, keys)
        self.page.wait_for_selector(".cell.first")
        self.answer("mii", second, keys)
        self.page.wait_for_selector(".cell.told")

    def places(self) -> tuple[int, int]:
        """Which places are right."""
        trial, shown = self.study.trial(self.trial()), self.choices()
        return shown.index(trial.mei), shown.index(trial.mii)

    def stored(self, pid: str) -> tuple[str, dict[tuple[str, str], dict[str, Any]]]:
        """A participant's state and their answers in the database."""
        with Store(self.server.folder / "answers.sqlite3") as store:
            people = {x["prolific_pid"]: x for x in store.participants().to_pylist()}
            rows = store.answers().to_pylist()
        person = people[pid]
        mine = [x for x in rows if x["participant"] == person["participant"]]
        assert len({(x["trial"], x["question"]) for x in mine}) == len(mine)
        return person["state"], {(x["trial"], x["question"]): x for x in mine}

    def outside(self) -> list[str]:
        """Requests to elsewhere, but for the way back to Prolific."""
        ours = (self.server.url, RETURN)
        return [x for x in self.requests if not x.startswith(ours)]
