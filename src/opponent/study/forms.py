"""What a request may hold: each field is checked before anything is done with it."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request

from opponent.study.guard import Refusal
from opponent.study.study import QUESTIONS

# The largest request of the page has some 400 bytes.
MAX_BODY = 8192
# Seconds in which a body must arrive.
BODY_TIME = 10.0
# A day: who leaves a question open for longer has it counted as that.
MAX_REACTION_MS = 24 * 3600 * 1000

# Checks of single fields: each takes what JSON gave, and tells whether that is right.
Check = Callable[[Any], bool]


def matches(pattern: str) -> Check:
    """A text of that form."""
    whole = re.compile(pattern)
    return lambda value: isinstance(value, str) and whole.fullmatch(value) is not None


def among(*values: object) -> Check:
    """One of these, of the same type."""
    return lambda value: any(type(value) is type(x) and value == x for x in values)


def whole_number(top: int) -> Check:
    """A whole number from 0."""
    return lambda value: type(value) is int and 0 <= value <= top


def _instant(value: Any) -> bool:
    form = matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    if not form(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(whole_number(100_000), value))


def _ratio(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 100


def _browser(value: Any) -> bool:
    checks: dict[str, Check] = {"window": _size, "screen": _size, "pixel_ratio": _ratio}
    return isinstance(value, dict) and all(k in checks and checks[k](v) for k, v in value.items())


# Prolific's IDs are 24 hexadecimal digits; other recruiters' may be longer.
_PERSON = matches(r"[A-Za-z0-9_-]{1,64}")
SESSION: dict[str, Check] = {
    "PROLIFIC_PID": _PERSON, "STUDY_ID": _PERSON, "SESSION_ID": _PERSON, "browser": _browser,
}  # fmt: skip
CONSENT: dict[str, Check] = {
    "version": lambda value: isinstance(value, str) and len(value) <= 200,
    "agreed": among(True, False),
}
ANSWER: dict[str, Check] = {
    "trial": matches("[0-9a-f]{12}"),
    "question": among(*QUESTIONS),
    "choice": matches("[0-9a-f]{16}"),
    "reaction_ms": whole_number(MAX_REACTION_MS),
    "shown_at": _instant,
}
SCREENING: dict[str, Check] = {"reason": among("window", "images")}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


async def fields(request: Request, checks: Mapping[str, Check], *optional: str) -> dict[str, Any]:
    """A request's body: an object with just these fields, each as it should be.

    Raises:
        Refusal: it is not JSON, too large, too slow, or a field is missing, wrong or unknown.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "type", "the body must be application/json")
    data = await _body(request)
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refusal(400, "json", "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refusal(400, "json", "the body is not an object")
    for name in checks:
        if name not in value and name not in optional:
            raise Refusal(400, "field", f"the field {name} is missing")
    for name, each in value.items():
        if name not in checks:
            raise Refusal(400, "field", f"there is an unknown field besides {', '.join(checks)}")
        if not checks[name](each):
            raise Refusal(400, "field", f"the field {name} is not as it should be")
    return value


async def _body(request: Request) -> bytes:
    """The body in chunks: one that is too large is refused before it is held."""
    large = Refusal(413, "size", f"the body is over {MAX_BODY} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
        raise large
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIME):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY:
                    raise large
    except TimeoutError:
        raise Refusal(408, "time", f"the body took over {BODY_TIME:g} seconds") from None
    return bytes(data)
