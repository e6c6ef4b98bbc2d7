"""Hostile clients: headers, paths, tokens, limits, and what the log tells."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.support.session import begin, body, shown, within

from opponent.study.design.study import Study
from opponent.study.server.guard import PIECE, Buckets, Limits, Pieces, client_of, safe
from opponent.study.server.store import Store


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
            # Neither the picture's time nor what is made of it: their order tells the answers.
            assert not path.endswith(".png") or not {"etag", "last-modified"} & {*reply.headers}
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


def test_a_browsers_name_is_kept_as_text(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        name = "=cmd <script>alert(1)</script> \u0085" + "x" * 1000
        await c.post("/api/session", json={}, headers={"user-agent": name.encode("latin-1")})

    with Store(study.folder / "answers.sqlite3") as store:
        kept = json.loads(store.participants().column("browser")[0].as_py())["user_agent"]
    assert kept.isprintable()
    assert len(kept) == 400


def test_nobody_acts_for_another(study: Study) -> None:
    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        first = await begin(c, PROLIFIC_PID="one", SESSION_ID="s")
        second = await begin(c, PROLIFIC_PID="two", SESSION_ID="s")
        trial = (await shown(c, first))[0]
        await c.post("/api/answer", json=body(trial, "mei", 0), headers=first)
        # Neither by a guess, a part of a token, the participant's id, nor as their Prolific ID.
        with Store(study.folder / "answers.sqlite3") as store:
            id = store.participants().column("participant")[0].as_py()
        token = first["authorization"].removeprefix("Bearer ")
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
        assert (await c.get("/api/session", headers=second)).json()["answers"] == []
        assert (await c.get("/api/session", headers=first)).json()["state"] == "started"


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


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1])
def test_large_replies_are_sent_in_pieces(size: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    content = bytes(i % 251 for i in range(size))
    asyncio.run(Pieces(content)({"type": "http"}, receive, send))
    start, *parts = sent
    assert (b"content-length", str(size).encode()) in start["headers"]
    assert b"".join(x["body"] for x in parts) == content
    assert max(len(x["body"]) for x in parts) <= PIECE
    assert [x["more_body"] for x in parts] == [True] * (len(parts) - 1) + [False]


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
