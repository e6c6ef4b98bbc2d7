"""Requests at random: each is answered at once, none by a fault, each refusal by JSON.

What a form may hold, field by field, is in test_forms.py.
"""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.support.session import PAGE, begin, client, shown

from opponent.study.design.study import Study
from opponent.study.server.guard import HEADERS
from opponent.study.server.server import create_app

pytestmark = pytest.mark.slow
PATHS = [
    "/", "/favicon.ico", "/api/session", "/api/consent", "/api/answer", "/api/finish",
    "/api/screen_out", "/api/withdraw", "/stimuli/0123456789abcdef.png", "/stimuli/.png",
]  # fmt: skip
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"]
FIELDS = [
    "trial", "question", "choice", "reaction_ms", "shown_at", "version", "agreed", "reason",
    "PROLIFIC_PID", "STUDY_ID", "SESSION_ID", "browser", "window", "screen", "pixel_ratio",
]  # fmt: skip
HEADER_NAMES = [
    b"authorization", b"content-type", b"content-length", b"host", b"if-none-match", b"range",
    b"user-agent", b"x-forwarded-for", b"cookie", b"expect", b"transfer-encoding", b"origin",
]  # fmt: skip
# Numbers and words that a form takes for true, and those that break what is careless.
ODD: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 0, -1]),
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(["\0", "\ud800", "mei", "mii", "1", "0" * 12, "0" * 16, "a" * 70, "../x"]),
)
NESTED = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
FORMS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), NESTED, max_size=6)
BODIES = st.one_of(
    FORMS.map(lambda form: json.dumps(form).encode()),
    # With a byte order mark, in another encoding, cut, repeated.
    FORMS.map(lambda form: json.dumps(form, ensure_ascii=False).encode("utf-16", "surrogatepass")),
    FORMS.map(lambda form: json.dumps(form, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    FORMS.map(lambda form: json.dumps(form).encode()[:-2]),
    FORMS.map(lambda form: json.dumps(form).encode() * 2),
    st.binary(max_size=200),
    st.sampled_from(
        [b"[" * 8000, b'{"a":' * 1500, b"9" * 8000, b"-", b'"\\ud800"', b'{"a":1,"a":2}']
    ),
    st.integers(8000, 20_000).map(lambda size: b" " * size),
)
VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"application/json", b"application/json; charset=utf-16", b"0", b"-1", b"9" * 30, b"+5",
         b"\xd9\xa3", b"Bearer " + b"A" * 43, b"chunked", b"bytes=0-5", b"100-continue", b"*"]
    ),
)  # fmt: skip
HEADER_LISTS = st.lists(st.tuples(st.sampled_from(HEADER_NAMES), VALUES), max_size=5)
ANY_PATH = st.sampled_from(PATHS) | st.text(max_size=30).map(lambda x: f"/{x}")


async def reply_to(app: Any, request: dict[str, Any]) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body; the request's body comes in two parts."""
    body, sent = request["body"], list[Any]()
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive() -> dict[str, Any]:
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": request["method"], "path": request["path"],
        "raw_path": request["path"].encode("utf-8", "surrogatepass"),
        "query_string": request["query"], "headers": request["headers"],
        "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    assert [x["type"] for x in sent[:1]] == ["http.response.start"]
    assert not sent[-1].get("more_body", False)
    whole = b"".join(x.get("body", b"") for x in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), whole


def check(request: dict[str, Any], status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    """A reply to a request is none of a fault, and says what is wrong if anything is."""
    assert status < 500, request
    for name in HEADERS:
        assert name.encode() in headers
    if status >= 400 and request["method"] != "HEAD":
        assert headers[b"content-type"] == b"application/json"
        said = json.loads(body)
        assert isinstance(said["error"], str)
        assert len(said["message"]) > 5
        assert set(said) <= {"error", "message", "stored"}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests=st.lists(
        st.fixed_dictionaries(
            {
                "method": st.sampled_from(METHODS),
                "path": ANY_PATH,
                "query": st.binary(max_size=30),
                "headers": HEADER_LISTS,
                "body": BODIES,
                # As a participant, as JSON; else as it comes.
                "honest": st.booleans(),
            }
        ),
        min_size=1,
        max_size=6,
    ),
    names=st.sampled_from([None, ["study.example.org"]]),
)
def test_no_request_makes_it_fail(
    study: Study, requests: list[dict[str, Any]], names: list[str] | None
) -> None:
    async def main() -> None:
        async with client(study) as c:
            token = (await begin(c))["authorization"].encode()
        app = create_app(study, files=PAGE, limits=None, names=names)
        try:
            for request in requests:
                if request["honest"]:
                    there = [x for x in request["headers"] if x[0] == b"user-agent"]
                    known = [(b"host", b"study.example.org"), (b"authorization", token)]
                    json_type = (b"content-type", b"application/json")
                    request = request | {"headers": [*known, json_type, *there]}
                check(request, *(await reply_to(app, request)))
        finally:
            app.state.experiment.close()
            app.state.experiment.store.close()

    asyncio.run(main())


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), NESTED, min_size=1, max_size=3))
def test_no_change_of_a_right_answer_makes_it_fail(study: Study, changes: dict[str, Any]) -> None:
    """Nor is it stored with anything but what a form takes."""

    async def main() -> None:
        async with client(study) as c:
            header = await begin(c)
            trial = (await shown(c, header))[0]
            right = {
                "trial": trial["trial"], "question": "mei", "choice": trial["choices"][0],
                "reaction_ms": 5,
            }  # fmt: skip
            content = json.dumps(right | changes).encode()
            reply = await c.post(
                "/api/answer",
                content=content,
                headers=header | {"content-type": "application/json"},
            )
            assert reply.status_code in (200, 400, 409)
            answers = (await c.get("/api/session", headers=header)).json()["answers"]
            assert len(answers) == (reply.status_code == 200)

    asyncio.run(main())
