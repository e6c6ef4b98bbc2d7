"""A session behind nginx with TLS, as docs/experiment.md says, and what the browser gets in it.

Nothing of that may tell a right answer before both questions of its trial are answered.
"""

import asyncio
import base64
import json
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser
from tests.support.browser import ARGUMENTS, CHROMIUM
from tests.support.nginx import NAME, Nginx, documented
from tests.support.server import free_port
from tests.support.session import begin, client, shown
from tests.support.study import small_study
from tests.support.tells import least_p, leaves
from tests.support.visit import FREE, RETURN, Served, Visit

from opponent.study.design.study import Study
from opponent.study.server.site import File

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Less often than that chance does it, in some hundred tests.
UNLIKELY = 1e-4
# What the JSON may tell of a trial before both its questions are answered.
PATHS = {
    ("blocks", "trials", "examples"),
    ("blocks", "trials", "choices"),
    ("answers", "choice"),
    ("stored", "choice"),
}
NAMES = {
    "title", "state", "consent", "version", "text", "given", "breaks", "min_window",
    "from_prolific", "blocks", "practice", "trials", "trial", "examples", "choices", "answers",
    "question", "choice", "stored", "feedback", "correct", "right_choice", "token", "redirect",
    "code", "debriefing",
}  # fmt: skip


@dataclass(frozen=True)
class Got:
    """One reply that the browser got."""

    method: str
    path: str
    sent: Any
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def picture(self) -> str | None:
        """The id of the picture that it is."""
        name = self.path.removeprefix("/stimuli/")
        return name.removesuffix(".png") if name != self.path else None


@dataclass(frozen=True)
class Session:
    """A study, and what a browser got in a whole session of it, in the order of requests."""

    study: Study
    got: list[Got]


def start(folder: Path, port: int, jspsych: Path) -> "subprocess.Popen[str]":
    """The documented command, at another port."""
    command = shlex.split(documented("console").removeprefix("$ "))
    assert command[:4] == ["opponent", "experiment", "serve", "study"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command[:3], str(folder), *command[4:], "--port", str(port),
         "--jspsych", str(jspsych)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "serving at http://127.0.0.1:" in (said := process.stderr.readline()), said
    return process


def read_har(path: Path) -> list[Got]:
    """What a browser recorded."""
    got = []
    for entry in json.loads(path.read_text(encoding="utf-8"))["log"]["entries"]:
        request, reply = entry["request"], entry["response"]
        if urlsplit(request["url"]).hostname != NAME:
            continue
        content = reply["content"]
        text = content.get("text", "")
        coded = content.get("encoding") == "base64"
        sent = request.get("postData", {}).get("text")
        got.append(
            Got(
                method=request["method"],
                path=urlsplit(request["url"]).path,
                sent=json.loads(sent) if sent else None,
                status=reply["status"],
                headers={x["name"].lower(): x["value"] for x in reply["headers"]},
                body=base64.b64decode(text) if coded else text.encode(),
            )
        )
    return got


def play(visit: Visit) -> None:
    """From consent to the way back: the practice right, all others somehow."""
    page = visit.page
    assert page.evaluate("window.isSecureContext")
    visit.to_practice()
    visit.answer_both(*visit.places())
    visit.press("Continue")
    count = len(visit.study.trials) - 1
    for i in range(count):
        page.locator(f"{FREE}, button:has-text('Start part')").first.wait_for()
        if page.get_by_role("button", name="Start part").count():
            page.get_by_role("button", name="Start part").click()
        visit.answer_both(i % 9, (i + 4) % 9, keys=True)
        visit.press("Continue")
    page.click("#return")
    page.wait_for_url(f"{RETURN}C0MPLETE")


@pytest.fixture(scope="module")
def session(
    browser: Browser,
    files: dict[str, File],
    jspsych: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Session:
    """nginx first, then the server, then a participant in Chromium who knows it by its name."""
    folder = tmp_path_factory.mktemp("proxy")
    study, port = small_study(folder / "study", features=3), free_port()
    with Nginx(folder / "nginx", port) as nginx:
        at = f"https://127.0.0.1:{nginx.port}/"
        assert httpx.get(at, headers={"host": NAME}, verify=False).status_code == 502
        server = start(study.folder, port, jspsych)
        arguments = [*ARGUMENTS, f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
        chromium = browser.browser_type.launch(executable_path=CHROMIUM, args=arguments)
        try:
            har = folder / "session.har"
            ids = "?PROLIFIC_PID=tls&STUDY_ID=s1&SESSION_ID=x1"
            served = Served(study.folder, nginx.url)
            with Visit(
                chromium, served, ids, ignore_https_errors=True, record_har_path=har,
                record_har_content="embed",
            ) as visit:  # fmt: skip
                play(visit)
                assert visit.complaints == []
                assert visit.outside() == []
                state, stored = visit.stored("tls")
                assert (state, len(stored)) == ("complete", 2 * len(study.trials))
                assert {x: y["choice"] for x, y in stored.items()} == visit.clicked
            for host in ("rebound.example.com", "127.0.0.1.example.com"):
                assert httpx.get(at, headers={"host": host}, verify=False).status_code == 421
        finally:
            chromium.close()
            server.send_signal(signal.SIGINT)
            said = server.communicate(timeout=30)[1]
        assert server.returncode == 0, said
        assert "Traceback" not in said
    return Session(study, read_har(har))


def test_all_was_recorded(session: Session) -> None:
    pictures = {x.picture for x in session.got if x.picture}
    assert pictures == set(session.study.stimuli)
    for got in session.got:
        assert got.status in (200, 201, 204), got
        if got.picture:
            assert got.body == session.study.stimulus(got.picture).read_bytes()
    answers = [x for x in session.got if x.path == "/api/answer"]
    assert len(answers) == 2 * len(session.study.trials)


def test_no_field_tells_before_both_are_answered(session: Session) -> None:
    answered: dict[str, int] = {}
    checked = 0
    for got in session.got:
        if not got.path.startswith("/api/"):
            continue
        reply = json.loads(got.body)
        if got.path == "/api/answer":
            trial = got.sent["trial"]
            answered[trial] = answered.get(trial, 0) + 1
            if answered[trial] == 2:
                right = session.study.trial(trial)
                told = {x: y["right_choice"] for x, y in reply["feedback"].items()}
                assert told == {"mei": right.mei, "mii": right.mii}
                continue
        assert set(answered.values()) <= {1, 2}
        for path, value in leaves(reply):
            checked += 1
            assert set(path) <= NAMES, path
            if path[-1] in ("correct", "right_choice", "feedback"):
                assert not value, path
            if isinstance(value, str) and value in session.study.stimuli:
                assert path in PATHS, path
            if value in ("mei", "mii"):
                assert path == ("stored", "question")
    assert checked > 15 * len(session.study.trials)


def test_no_header_tells(session: Session) -> None:
    """All pictures have the same headers, but for their length and the time of the reply."""
    seen = {
        tuple(sorted((x, y) for x, y in got.headers.items() if x not in ("content-length", "date")))
        for got in session.got
        if got.picture
    }
    assert len(seen) == 1
    # The date is the reply's, not the file's.
    dates = [parsedate_to_datetime(got.headers["date"]) for got in session.got]
    assert all(dates[0] <= date for date in dates)
    names = {name for name, _ in seen.pop()}
    assert not names & {"etag", "last-modified", "age", "expires", "content-disposition", "link"}
    assert not any(name.startswith(("x-accel", "x-sendfile", "server-timing")) for name in names)


def _choices(session: Session) -> dict[str, list[str]]:
    """The nine of each trial, as the browser was told to show them."""
    (reply,) = [x for x in session.got if (x.method, x.path) == ("GET", "/api/session")]
    blocks = json.loads(reply.body)["blocks"]
    return {x["trial"]: x["choices"] for block in blocks for x in block["trials"]}


def test_neither_order_nor_size_tells_in_a_session(session: Session) -> None:
    order: dict[str, int] = {}
    for i, got in enumerate(session.got):
        if got.picture:
            order.setdefault(got.picture, i)
    by_id = {got.picture: got for got in session.got if got.picture}
    choices, trials = _choices(session), session.study.trials
    keys = {
        "place": [(x, choices[x.id].index) for x in trials],
        "order of requests": [(x, order.__getitem__) for x in trials],
        "id": [(x, str) for x in trials],
        "size": [(x, lambda id: len(by_id[id].body)) for x in trials],
    }
    found = {name: least_p(given) for name, given in keys.items()}
    print({name: f"{p:.2g}" for name, p in found.items()})
    assert min(found.values()) > UNLIKELY, found
    # It would be seen: the order in which trials.parquet has them.
    assert least_p([(x, x.choices.index) for x in trials]) < UNLIKELY**2


def test_neither_place_nor_id_nor_size_tells_in_many_trials(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", features=60, seed=3)
    people = 12
    sizes: dict[str, int] = {}
    places: list[tuple[Any, Any]] = []

    async def main() -> None:
        async with client(study) as c:
            for _ in range(people):
                for trial in await shown(c, await begin(c)):
                    places.append((study.trial(trial["trial"]), trial["choices"].index))
            for id in study.stimuli:
                reply = await c.get(f"/stimuli/{id}.png")
                sizes[id] = int(reply.headers["content-length"])

    asyncio.run(main())
    trials = study.trials
    assert len(places) == people * len(trials)
    found = {
        "place": least_p(places),
        "id": least_p([(x, str) for x in trials]),
        "size": least_p([(x, sizes.__getitem__) for x in trials]),
    }
    print(len(trials), {name: f"{p:.2g}" for name, p in found.items()})
    assert min(found.values()) > UNLIKELY, found
    assert least_p([(x, x.choices.index) for x in trials]) < UNLIKELY**4
