"""The experiment's server: a session by its interface, many at once, killed, and under attack.

OPPONENT_PARTICIPANTS and OPPONENT_BURST set how many take part at once and how many requests one
client sends; the suite takes fewer than a study has.
"""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.support.server import Connection, Server
from tests.support.study import small_study

from opponent.core.errors import RunError
from opponent.study.forms import MAX_BODY
from opponent.study.guard import Buckets, Limits, client_of, safe
from opponent.study.server import create_app
from opponent.study.site import File
from opponent.study.store import Store
from opponent.study.study import QUESTIONS, Study

PARTICIPANTS = int(os.environ.get("OPPONENT_PARTICIPANTS", "40"))
FEATURES = int(os.environ.get("OPPONENT_FEATURES", "1"))
BURST = int(os.environ.get("OPPONENT_BURST", "1500"))
# All simulated participants have one address.
GENEROUS = Limits(calls=(1e6, 1e6), sessions=(1e6, 1e6), session=(1e6, 1e6))
SCRIPT = "<script>alert(1)</script>"
PAGE = {"/": File(content=b"<!doctype html>", type="text/html; charset=utf-8")}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", features=FEATURES)


@asynccontextmanager
async def client(
    study: Study, limits: Limits | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this process."""
    app = create_app(study, files=PAGE, limits=limits)
    transport = httpx.ASGITransport(app, client=(address, 1))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://study") as made:
            yield made
    finally:
        app.state.experiment.close()
        app.state.experiment.store.close()


def within(study: Study, limits: Limits | None = None) -> Callable[[Any], None]:
    """Run a coroutine function with a client of a server in this process."""

    def run(act: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def main() -> None:
            async with client(study, limits) as made:
                await act(made)

        asyncio.run(main())

    return run


async def begin(c: httpx.AsyncClient, consent: bool = True, **ids: str) -> dict[str, str]:
    """Begin a session; the header that authorises what follows."""
    reply = await c.post("/api/session", json=ids)
    assert reply.status_code == 201, reply.text
    header = {"authorization": f"Bearer {reply.json()['token']}"}
    if consent:
        body = {"version": "1", "agreed": True}
        assert (await c.post("/api/consent", json=body, headers=header)).status_code == 200
    return header


async def shown(c: httpx.AsyncClient, header: dict[str, str]) -> list[dict[str, Any]]:
    reply = await c.get("/api/session", headers=header)
    assert reply.status_code == 200, reply.text
    return [trial for block in reply.json()["blocks"] for trial in block["trials"]]


def body(trial: dict[str, Any], question: str, place: int) -> dict[str, Any]:
    return {
        "trial": trial["trial"],
        "question": question,
        "choice": trial["choices"][place],
        "reaction_ms": 1234,
        "shown_at": "2026-01-02T03:04:05.678Z",
    }


def test_a_session_from_consent_to_the_redirect(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c, PROLIFIC_PID="5f1e", STUDY_ID="s1", SESSION_ID="x1")
        trials = await shown(c, header)
        for trial in trials:
            right = study.trial(trial["trial"])
            first = await c.post("/api/answer", json=body(trial, "mei", 2), headers=header)
            # The first answer's truth would help with the second.
            assert first.json()["feedback"] is None
            assert first.json()["correct"] is None
            reply = await c.post("/api/answer", json=body(trial, "mii", 5), headers=header)
            told = reply.json()
            assert told["stored"]["choice"] == trial["choices"][5]
            assert told["correct"] == (trial["choices"][5] == right.mii)
            assert told["right_choice"] == right.mii
            assert told["feedback"] == {
                name: {
                    "choice": trial["choices"][place],
                    "correct": trial["choices"][place] == right.answer(name),
                    "right_choice": right.answer(name),
                }
                for name, place in (("mei", 2), ("mii", 5))
            }
        end = await c.post("/api/finish", headers=header)
        assert end.json() == {
            "state": "complete",
            "code": "C0MPLETE",
            "redirect": "https://app.prolific.com/submissions/complete?cc=C0MPLETE",
            "debriefing": study.settings["debriefing"],
        }
        assert (await c.post("/api/finish", headers=header)).json() == end.json()
        again = (await c.get("/api/session", headers=header)).json()
        assert again["end"] == end.json()

    with Store(study.folder / "answers.sqlite3") as store:
        rows = store.answers().to_pylist()
        (person,) = store.participants().to_pylist()
    assert [(x["question"], x["place"]) for x in rows] == [("mei", 2), ("mii", 5)] * (
        len(rows) // 2
    )
    assert {x["shown_at"] for x in rows} == {"2026-01-02T03:04:05.678Z"}
    assert {x["reaction_ms"] for x in rows} == {1234}
    assert len(rows) == 2 * len(study.trials)
    assert person["state"] == "complete"


def test_each_end_has_its_own_code(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        url = "https://app.prolific.com/submissions/complete?cc="
        header = await begin(c, consent=False, PROLIFIC_PID="a")
        reply = await c.post("/api/consent", json={"version": "1", "agreed": False}, headers=header)
        assert reply.json()["redirect"] == url + "NOCONSENT"
        # Who has seen nothing is told nothing.
        assert reply.json()["debriefing"] is None
        header = await begin(c, PROLIFIC_PID="b")
        reply = await c.post("/api/screen_out", json={"reason": "window"}, headers=header)
        assert reply.json()["redirect"] == url + "SCREENED"
        header = await begin(c, PROLIFIC_PID="c")
        reply = await c.post("/api/withdraw", headers=header)
        assert (reply.json()["state"], reply.json()["code"]) == ("withdrawn", "NOCONSENT")
        # Who does not come from Prolific is not sent there.
        header = await begin(c)
        reply = await c.post("/api/withdraw", headers=header)
        assert (reply.json()["code"], reply.json()["redirect"]) == (None, None)

    with Store(study.folder / "answers.sqlite3") as store:
        states = store.participants().column("state").to_pylist()
    assert states == ["no_consent", "screened_out", "withdrawn", "withdrawn"]


def test_the_page_never_learns_which_is_right(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        reply = await c.get("/api/session", headers=await begin(c))
        data = reply.json()
        expected = study.session(0)
        assert [x["practice"] for x in data["blocks"]] == [True, False, False, False]
        for block, want in zip(data["blocks"], expected, strict=True):
            assert set(block) == {"practice", "trials"}
            for trial, each in zip(block["trials"], want.trials, strict=True):
                assert trial == {
                    "trial": each.trial.id,
                    "examples": list(each.examples),
                    "choices": list(each.choices),
                }
        text = reply.text
        for word in ("catch", "mixed4a", "kmeans", study.settings["debriefing"], "C0MPLETE"):
            assert word not in text


def test_a_reload_sees_what_is_stored(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        first, second = (await shown(c, header))[:2]
        for trial, question, place in ((first, "mei", 1), (first, "mii", 0), (second, "mei", 8)):
            sent = body(trial, question, place)
            assert (await c.post("/api/answer", json=sent, headers=header)).status_code == 200
        data = (await c.get("/api/session", headers=header)).json()
        assert data["answers"] == [
            {"trial": first["trial"], "question": "mei", "choice": first["choices"][1]},
            {"trial": first["trial"], "question": "mii", "choice": first["choices"][0]},
            {"trial": second["trial"], "question": "mei", "choice": second["choices"][8]},
        ]
        assert list(data["feedback"]) == [first["trial"]]


def test_sent_twice_is_stored_once(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        trial = (await shown(c, header))[0]
        sent = body(trial, "mei", 1)
        replies = await asyncio.gather(
            *(c.post("/api/answer", json=sent, headers=header) for _ in range(10))
        )
        assert {x.status_code for x in replies} == {200}
        assert len({x.text for x in replies}) == 1
        other = await c.post("/api/answer", json=body(trial, "mei", 2), headers=header)
        assert other.status_code == 409
        assert other.json()["error"] == "conflict"
        assert other.json()["stored"] == trial["choices"][1]

    with Store(study.folder / "answers.sqlite3") as store:
        assert len(store.answers()) == 1


def test_a_changed_study_is_not_served(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        await begin(c)

    path = study.folder / "study.json"
    changed = path.read_text().replace("C0MPLETE", "C1")
    path.write_text(changed)

    @within(Study(study.folder))
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        trial = (await shown(c, header))[0]
        await c.post("/api/answer", json=body(trial, "mei", 2), headers=header)

    create_app(study.folder).state.experiment.close()
    path.write_text(changed.replace("C1", "C2"))
    with pytest.raises(RunError, match="has changed since its first answer"):
        create_app(study.folder)


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", features=1, completion_url="javascript:alert(1)")
    with pytest.raises(RunError, match="not an http"):
        create_app(study)


# Hostile clients


def test_every_reply_has_the_headers(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        picture = next(iter(study.stimuli))
        for path in ("/", "/nothing", "/api/session", f"/stimuli/{picture}.png"):
            reply = await c.get(path)
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["referrer-policy"] == "no-referrer"
            assert "server" not in reply.headers
        reply = await c.get("/")
        again = await c.get("/", headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../study.json",
        "/stimuli/../study.json",
        "/stimuli/..%2fstudy.json",
        "/stimuli/%2e%2e/study.json",
        "/stimuli/..%2f..%2f..%2fetc%2fpasswd.png",
        "/stimuli/..\\study.json",
        "/stimuli/%00.png",
        "/stimuli//etc/passwd",
        "/page/../server.py",
        "/page/package.json",
        "/study.json",
        "/trials.parquet",
        "/answers.sqlite3",
        "/stimuli/0123456789abcdef.png",
        "//study.json",
    ],
)
def test_only_the_pictures_and_the_page_are_served(study: Study, path: str) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        scope = httpx.Request("GET", "http://study").url
        reply = await c.get(scope.copy_with(raw_path=path.encode()))
        assert reply.status_code == 404
        assert b"consent" not in reply.content
        assert b"root:" not in reply.content


GOOD = {"trial": "0" * 12, "question": "mei", "choice": "0" * 16, "reaction_ms": 1}


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 5000, 400, "not JSON"),
        (b'{"reaction_ms": NaN}', 400, "not JSON"),
        (b'{"reaction_ms": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b"[]", 400, "not an object"),
        (b"null", 400, "not an object"),
        (b"{}", 400, "trial is missing"),
        (json.dumps(GOOD | {"more": 1}).encode(), 400, "unknown field"),
        (json.dumps(GOOD | {"trial": SCRIPT}).encode(), 400, "trial is not"),
        (json.dumps(GOOD | {"trial": ["0" * 12]}).encode(), 400, "trial is not"),
        (json.dumps(GOOD | {"trial": "0" * 12 + "\n"}).encode(), 400, "trial is not"),
        (json.dumps(GOOD | {"question": "both"}).encode(), 400, "question is not"),
        (json.dumps(GOOD | {"question": None}).encode(), 400, "question is not"),
        (json.dumps(GOOD | {"choice": "../../x"}).encode(), 400, "choice is not"),
        (json.dumps(GOOD | {"reaction_ms": -1}).encode(), 400, "reaction_ms is not"),
        (json.dumps(GOOD | {"reaction_ms": 1.5}).encode(), 400, "reaction_ms is not"),
        (json.dumps(GOOD | {"reaction_ms": True}).encode(), 400, "reaction_ms is not"),
        (json.dumps(GOOD | {"reaction_ms": 10**12}).encode(), 400, "reaction_ms is not"),
        (json.dumps(GOOD | {"shown_at": "=1+1"}).encode(), 400, "shown_at is not"),
        (json.dumps(GOOD | {"shown_at": "2026-13-01T00:00:00.000Z"}).encode(), 400, "shown_at is"),
        (json.dumps(GOOD).encode() + b" " * MAX_BODY, 413, "over"),
        (json.dumps(GOOD).encode(), 409, "another question"),
    ],
)
def test_malformed_answers_are_refused(
    study: Study, data: bytes, status: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c) | {"content-type": "application/json"}
        reply = await c.post("/api/answer", content=data, headers=header)
        assert reply.status_code == status
        assert says in reply.json()["message"]
        assert SCRIPT not in reply.text

    with Store(study.folder / "answers.sqlite3") as store:
        assert len(store.answers()) == 0
    lines = [x.getMessage() for x in caplog.records if x.name == "opponent.experiment"]
    assert len(lines) == 1
    assert lines[0].startswith(f"refused {status} POST /api/answer from 127.0.0.1: ")


@pytest.mark.parametrize("name", ["PROLIFIC_PID", "STUDY_ID", "SESSION_ID", "browser"])
def test_scripts_in_text_fields_are_refused(study: Study, name: str) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        for value in (SCRIPT, "=1+1", "a" * 65, "", 5, {"window": SCRIPT}, {"x": 1}, "\x1b[31m"):
            reply = await c.post("/api/session", json={name: value})
            assert reply.status_code == 400
            assert reply.headers["content-type"] == "application/json"
        version = await c.post(
            "/api/consent",
            json={"version": SCRIPT, "agreed": True},
            headers=await begin(c, consent=False),
        )
        assert version.status_code == 409
        other = await c.post("/api/session", content=b"a=b", headers={"content-type": "text/plain"})
        assert other.status_code == 415

    with Store(study.folder / "answers.sqlite3") as store:
        assert SCRIPT not in str(store.participants().to_pylist())


def test_a_browsers_name_is_kept_as_text(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        name = f"=cmd {SCRIPT} \u0085" + "x" * 1000
        await c.post("/api/session", json={}, headers={"user-agent": name.encode("latin-1")})

    with Store(study.folder / "answers.sqlite3") as store:
        kept = json.loads(store.participants().column("browser")[0].as_py())["user_agent"]
    assert kept.isprintable()
    assert len(kept) == 400


def test_nobody_acts_for_another(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        one = await begin(c, PROLIFIC_PID="one", SESSION_ID="s")
        two = await begin(c, PROLIFIC_PID="two", SESSION_ID="s")
        trial = (await shown(c, one))[0]
        await c.post("/api/answer", json=body(trial, "mei", 0), headers=one)
        # Neither by a guess, a part of a token, the participant's id, nor as their Prolific ID.
        with Store(study.folder / "answers.sqlite3") as store:
            id = store.participants().column("participant")[0].as_py()
        token = one["authorization"].removeprefix("Bearer ")
        for header in (
            {}, {"authorization": "Bearer "}, {"authorization": f"Bearer {id}"},
            {"authorization": f"Bearer {token[:-1]}"}, {"authorization": f"Bearer {token}x"},
            {"authorization": f"Basic {token}"}, {"authorization": f"Bearer {'A' * 43}"},
            {"authorization": "Bearer ' OR 1=1 --"}, {"authorization": "Bearer " + "A" * 5000},
        ):  # fmt: skip
            for method, path in (("GET", "session"), ("POST", "answer"), ("POST", "withdraw")):
                reply = await c.request(method, f"/api/{path}", headers=header)
                assert reply.status_code == 401
        taken = await c.post("/api/session", json={"PROLIFIC_PID": "one", "SESSION_ID": "s"})
        assert taken.status_code == 409
        assert "token" not in taken.json()
        # The other's session holds nothing of the first's.
        assert (await c.get("/api/session", headers=two)).json()["answers"] == []
        assert (await c.get("/api/session", headers=one)).json()["state"] == "started"


def test_the_log_tells_neither_tokens_nor_controls(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    token = "A1_-" * 11

    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        await c.get(f"/api/session?token={token}", headers={"authorization": f"Bearer {token}"})
        await c.get(f"/{token}")
        await c.get("/%0Arefused%20200%1b[31m\u202e")
        await c.get("/" + "/a" * 4000)

    assert len(caplog.records) == 4
    for record in caplog.records:
        line = record.getMessage()
        assert token not in line
        assert line.isprintable()
        assert line.isascii()
        assert len(line) < 400


def test_a_fault_of_ours_is_told_without_details(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(c: httpx.AsyncClient) -> None:
        picture = next(iter(study.stimuli))
        study.stimulus(picture).unlink()
        reply = await c.get(f"/stimuli/{picture}.png")
        assert reply.status_code == 500
        assert reply.json() == {"error": "failed", "message": "the server failed; try again"}

    within(study)(act)
    assert [x.levelname for x in caplog.records] == ["ERROR"]


def test_buckets_refill_and_forget() -> None:
    time_now = 0.0
    buckets = Buckets((2.0, 3.0), 2, clock=lambda: time_now)
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    time_now = 0.5
    assert [buckets.wait("a"), buckets.wait("a")] == [0, 0.5]
    assert buckets.wait("b") == 0
    assert buckets.wait("c") == 0
    # Only two are remembered, and 'a' has not been seen for longest.
    assert list(buckets._left) == ["b", "c"]
    time_now = 100.0
    assert [buckets.wait("b") for _ in range(4)] == [0, 0, 0, 0.5]


def test_clients_are_told_apart_by_what_one_customer_has() -> None:
    def named(host: str) -> str:
        return client_of({"type": "http", "client": (host, 1)})

    assert named("192.0.2.1") == named("::ffff:192.0.2.1") == "192.0.2.1"
    assert named("2001:db8:1:2::3") == named("2001:db8:1:2:ffff::4")
    assert named("2001:db8:1:2::3") != named("2001:db8:1:3::3")
    assert client_of({"type": "http", "client": None}) == "unknown"
    assert safe("a\nb\x1b") == "a\\nb\\x1b"


def test_one_session_may_not_ask_without_end(study: Study) -> None:
    limits = Limits(session=(1.0, 5.0), sessions=(1.0, 3.0))

    @within(study, limits)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        replies = [await c.get("/api/session", headers=header) for _ in range(10)]
        assert [x.status_code for x in replies[:3]] == [200] * 3
        assert replies[-1].status_code == 429
        assert int(replies[-1].headers["retry-after"]) >= 1
        assert (await c.get("/api/session", headers=await begin(c))).status_code == 200
        assert (await c.post("/api/session", json={})).status_code == 201
        assert (await c.post("/api/session", json={})).status_code == 429


# A real server process


@pytest.fixture
def served(study: Study) -> Iterator[Server]:
    with Server(study.folder, limits=GENEROUS, files=PAGE) as server:
        yield server


class Participant:
    """One who answers at random, and sends everything until it is acknowledged."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection, self.pid = connection, f"participant{number}"
        self.rng = np.random.default_rng(number)
        self.header: dict[str, str] = {}
        self.acknowledged: list[tuple[str, str, str]] = []
        self.failures = 0

    async def ask(self, method: str, path: str, data: Any = None) -> Any:
        while True:
            try:
                status, told = await self.connection.request(method, path, data, self.header)
            except (OSError, EOFError):
                self.failures += 1
                await asyncio.sleep(0.1 + 0.3 * self.rng.random())
                continue
            if status in (429, 503):
                await asyncio.sleep(0.1)
                continue
            assert status < 400, told
            return json.loads(told)

    async def take_part(self) -> None:
        ids = {"PROLIFIC_PID": self.pid, "STUDY_ID": "s", "SESSION_ID": "x"}
        token = (await self.ask("POST", "/api/session", ids))["token"]
        self.header = {"authorization": f"Bearer {token}"}
        await self.ask("POST", "/api/consent", {"version": "1", "agreed": True})
        data = await self.ask("GET", "/api/session")
        for trial in (trial for block in data["blocks"] for trial in block["trials"]):
            places = self.rng.permutation(9)[:2]
            for question, place in zip(QUESTIONS, places.tolist(), strict=True):
                sent = body(trial, question, place)
                told = await self.ask("POST", "/api/answer", sent)
                assert told["stored"]["choice"] == sent["choice"]
                self.acknowledged.append((trial["trial"], question, sent["choice"]))
        assert (await self.ask("POST", "/api/finish"))["state"] == "complete"


async def crowd(server: Server, count: int) -> list[Participant]:
    people = [Participant(Connection(server.port), i) for i in range(count)]
    try:
        await asyncio.gather(*(each.take_part() for each in people))
    finally:
        for each in people:
            each.connection.close()
    return people


def check_all_is_there(study: Study, people: list[Participant]) -> None:
    """Every acknowledged answer is in the database, none twice, and nothing else."""
    with Store(study.folder / "answers.sqlite3") as store:
        rows = store.answers().to_pylist()
        persons = store.participants().to_pylist()
    names = {x["participant"]: x["prolific_pid"] for x in persons}
    stored = [(names[x["participant"]], x["trial"], x["question"], x["choice"]) for x in rows]
    acknowledged = [(each.pid, *x) for each in people for x in each.acknowledged]
    assert len(stored) == len(people) * 2 * len(study.trials)
    assert len(set(stored)) == len(stored)
    assert set(stored) == set(acknowledged)
    assert sorted(x["number"] for x in persons) == list(range(len(people)))
    assert {x["state"] for x in persons} == {"complete"}
    # Each saw what the study says for their number.
    order = {
        (number, x.trial.id): x.choices
        for number in range(len(people))
        for block in study.session(number)
        for x in block.trials
    }
    for row in rows:
        assert order[row["number"], row["trial"]][row["place"]] == row["choice"]
        right = study.trial(row["trial"]).answer(row["question"])
        assert row["correct"] == (row["choice"] == right)
    connection = sqlite3.connect(study.folder / "answers.sqlite3")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_many_participants_at_once(study: Study, served: Server) -> None:
    began = time.monotonic()
    people = asyncio.run(crowd(served, PARTICIPANTS))
    print(f"{PARTICIPANTS} participants in {time.monotonic() - began:.1f} s")
    assert served.stop() == 0
    check_all_is_there(study, people)


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    study: Study, served: Server
) -> None:
    rng = np.random.default_rng(7)
    kills = 0

    async def main() -> list[Participant]:
        nonlocal kills
        everyone = asyncio.create_task(crowd(served, PARTICIPANTS))
        while not everyone.done():
            await asyncio.sleep(0.1 + 0.6 * float(rng.random()))
            if everyone.done():
                break
            await asyncio.to_thread(served.stop, signal.SIGKILL)
            kills += 1
            await asyncio.to_thread(served.start)
        return await everyone

    people = asyncio.run(main())
    failures = sum(each.failures for each in people)
    print(f"{PARTICIPANTS} participants, killed {kills} times, {failures} requests failed")
    assert kills > 0
    assert failures > 0
    check_all_is_there(study, people)


def test_bodies_are_refused_before_they_are_held(study: Study, served: Server) -> None:
    """With a length that is too large, with none and in chunks, and with one that is a lie."""
    address = ("127.0.0.1", served.port)
    start = b"POST /api/session HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    chunk = b"%x\r\n" % 4096 + b" " * 4096 + b"\r\n"
    for rest in (
        b"content-length: 99999999999999\r\n\r\n",
        b"content-length: 1000000\r\n\r\n" + b" " * 20000,
        b"transfer-encoding: chunked\r\n\r\n" + chunk * 8,
    ):
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(start + rest)
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            assert reply.status == 413
            assert reply.getheader("connection") == "close"
    for lie in (b"content-length: -1\r\n\r\n", b"content-length: 5\r\ncontent-length: 6\r\n\r\n"):
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(start + lie + b"{}")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 not HTTP at all\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    # A client that goes away in the middle leaves no trace but a line.
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(start + b"content-length: 100\r\n\r\n{")
    assert httpx.post(f"{served.url}/api/session", json={}).status_code == 201
    assert sum("refused 413" in x for x in served.lines()) == 3
    assert not any("Traceback" in x or "failed" in x for x in served.lines())


def test_a_burst_from_one_client_leaves_the_others_alone(study: Study) -> None:
    limits = Limits(calls=(20.0, 100.0))
    with Server(study.folder, limits=limits, files=PAGE) as server:
        passed = asyncio.run(_burst(server))
        assert server.stop() == 0
        lines = server.lines()
    assert any(re.search(r"refused 429 .*: too many requests", x) for x in lines)
    assert not any("Traceback" in x or "failed" in x for x in lines)
    # What the burst was refused fills no disk.
    assert len(lines) < passed + 60


async def _burst(server: Server) -> int:
    async def attack(count: int) -> list[int]:
        connection = Connection(server.port)
        statuses = []
        try:
            for i in range(count):
                # Whose word on who they are nobody takes.
                header = {"x-forwarded-for": f"192.0.2.{i % 256}"}
                reply = await connection.request("GET", "/api/session", headers=header)
                statuses.append(reply[0])
        finally:
            connection.close()
        return statuses

    async def honest() -> int:
        transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        answered = 0
        async with httpx.AsyncClient(base_url=server.url, transport=transport, timeout=60) as c:
            header = await begin(c)
            for trial in (await shown(c, header))[:7]:
                for place, question in enumerate(QUESTIONS):
                    sent = body(trial, question, place)
                    reply = await c.post("/api/answer", json=sent, headers=header)
                    assert reply.status_code == 200
                    answered += 1
        return answered

    began = time.monotonic()
    *attacks, answered = await asyncio.gather(*(attack(BURST // 10) for _ in range(10)), honest())
    statuses = [status for each in attacks for status in each]
    passed = statuses.count(401)
    print(f"{len(statuses)} requests in {time.monotonic() - began:.1f} s, {passed} not limited")
    assert set(statuses) == {401, 429}
    assert passed <= 100 + 20 * (time.monotonic() - began) + 1
    assert answered > 0
    return passed


def test_a_proxy_that_is_named_is_believed(study: Study) -> None:
    """Behind one, each client has limits of its own."""
    limits = Limits(calls=(0.001, 2.0))
    with Server(study.folder, limits=limits, proxy="127.0.0.1") as server:

        def ask(address: str) -> int:
            header = {"x-forwarded-for": address}
            return httpx.get(f"{server.url}/api/session", headers=header).status_code

        assert [ask("192.0.2.1") for _ in range(3)] == [401, 401, 429]
        assert ask("192.0.2.2") == 401
        assert any("from 192.0.2.2: " in line for line in server.lines())


def test_the_command_says_what_to_run_without_jspsych(study: Study, tmp_path: Path) -> None:
    empty = tmp_path / "it's empty"
    command = [sys.executable, "-m", "opponent", "experiment", "serve", str(study.folder)]
    done = subprocess.run(
        [*command, "--jspsych", str(empty)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "npm ci --ignore-scripts --prefix" in done.stderr
    assert "Traceback" not in done.stderr
