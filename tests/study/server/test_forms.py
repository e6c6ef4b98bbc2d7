"""What a request may hold."""

import json

import httpx
import pytest
from tests.support.session import begin, within

from opponent.study.design.study import Study
from opponent.study.server.forms import MAX_BODY
from opponent.study.server.store import Store

SCRIPT = "<script>alert(1)</script>"
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
    lines = [x.getMessage() for x in caplog.records if x.name == "opponent.study"]
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


@pytest.mark.parametrize(
    ("path", "changes", "says"),
    [
        ("answer", {"trial": "x"}, "the field trial is not 12 hexadecimal digits"),
        ("answer", {"choice": "x"}, "the field choice is not 16 hexadecimal digits"),
        ("answer", {"question": "x"}, "the field question is not 'mei' or 'mii'"),
        ("answer", {"reaction_ms": -1}, "reaction_ms is not a whole number from 0 to 86400000"),
        ("answer", {"reaction_ms": 1.0}, "reaction_ms is not a whole number from 0 to 86400000"),
        ("answer", {"shown_at": "2026-02-30T00:00:00.000Z"}, "shown_at is not a time such as 2026"),
        ("answer", {"shown_at": "2026-01-02T03:04:05.678Z\n"}, "shown_at is not a time such as"),
        ("answer", {"shown_at": None}, "shown_at is not a time such as"),
        # Names that look like the place of another field.
        ("answer", {"x` - at `$.trial": 1}, "besides trial, question, choice, reaction_ms, shown"),
        ("answer", {"x` - at `$.nothing": 1}, "there is an unknown field besides trial"),
        ("answer", {"question": "x` - at `$.nothing"}, "question is not 'mei' or 'mii'"),
        ("session", {"browser": {"x` - at `$.nothing": 1}}, "browser is not an object of window"),
        ("session", {"browser": {"window": [1, 2, 3]}}, "browser is not an object of window"),
        ("session", {"browser": {"screen": [1, 100_001]}}, "browser is not an object of window"),
        ("session", {"browser": {"pixel_ratio": 0}}, "browser is not an object of window"),
        ("session", {"browser": {"pixel_ratio": True}}, "browser is not an object of window"),
        ("session", {"STUDY_ID": "a b"}, "the field STUDY_ID is not an ID of 1 to 64 letters"),
        ("consent", {"version": "1" * 201}, "version is not a text of at most 200 characters"),
        ("consent", {"agreed": 1}, "the field agreed is not true or false"),
        ("screen_out", {"reason": "tired"}, "the field reason is not 'window' or 'images'"),
    ],
)
def test_a_refusal_says_what_is_expected(
    study: Study, path: str, changes: dict[str, object], says: str
) -> None:
    right: dict[str, object] = {"answer": GOOD, "consent": {"version": "1", "agreed": True}}.get(
        path, {}
    )

    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        header = await begin(c)
        reply = await c.post(f"/api/{path}", json=right | changes, headers=header)
        assert (reply.status_code, reply.json()["error"]) == (400, "field")
        assert says in reply.json()["message"]


def test_the_browser_is_stored_as_it_was_sent(study: Study) -> None:
    sent = [
        {"window": [1024, 640], "screen": [1920, 1080], "pixel_ratio": 1},
        {"window": [1024, 640], "pixel_ratio": 1.25},
        {},
    ]

    @within(study)
    async def _(c: httpx.AsyncClient) -> None:
        for browser in sent:
            assert (await c.post("/api/session", json={"browser": browser})).status_code == 201

    with Store(study.folder / "answers.sqlite3") as store:
        texts = store.participants().column("browser").to_pylist()
    for text, browser in zip(texts, sent, strict=True):
        stored = json.loads(text)
        stored.pop("user_agent")
        assert stored == browser
    # A whole number stays one.
    assert '"pixel_ratio": 1,' in texts[0]
