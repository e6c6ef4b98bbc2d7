"""Requests' bodies: forms that are validated before the server acts on them."""

import asyncio
import re
from datetime import datetime
from functools import cache
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request

from opponent.study.server.guard import Refusal

# The largest request of the page has some 400 bytes.
MAX_BODY = 8192
# Seconds in which a body must arrive.
BODY_TIME = 10.0
# A day: a question that is left open for longer counts as that.
MAX_REACTION_MS = 24 * 3600 * 1000

# A field's `description` says in a refusal what is expected. Patterns end in \Z, since $ would
# let a line end pass.
# Prolific's IDs are 24 hexadecimal digits; other recruiters' may be longer.
RecruitingId = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9_-]{1,64}\Z",
        description="an ID of 1 to 64 letters, digits, '_' and '-'",
    ),
]
Instant = Annotated[
    str,
    Meta(
        pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z",
        description="a time such as 2026-01-02T03:04:05.678Z",
    ),
]
Pixels = Annotated[int, Meta(ge=0, le=100_000)]


class Browser(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the page tells about the browser.

    Args:
        window: (width, height) in pixels.
        screen: (width, height) in pixels.
        pixel_ratio: pixels of the screen for one of the page's.
    """

    window: tuple[Pixels, Pixels] | UnsetType = UNSET
    screen: tuple[Pixels, Pixels] | UnsetType = UNSET
    # Whole numbers stay such in the answers' file.
    pixel_ratio: (
        Annotated[int, Meta(gt=0, le=100)] | Annotated[float, Meta(gt=0, le=100)] | UnsetType
    ) = UNSET


class SessionForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/session: what the recruiting service puts into the link, and the browser.

    Args:
        prolific_pid: the participant's ID there.
        study_id: the study's ID there.
        session_id: the session's ID there.
        browser: what the page tells about it.
    """

    prolific_pid: RecruitingId = msgspec.field(name="PROLIFIC_PID", default="")
    study_id: RecruitingId = msgspec.field(name="STUDY_ID", default="")
    session_id: RecruitingId = msgspec.field(name="SESSION_ID", default="")
    browser: Annotated[Browser, Meta(description="an object of window, screen and pixel_ratio")] = (
        Browser()
    )


class ConsentForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/consent."""

    version: Annotated[str, Meta(max_length=200, description="a text of at most 200 characters")]
    agreed: Annotated[bool, Meta(description="true or false")]


class AnswerForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/answer.

    Args:
        trial: the trial's id.
        question: 'mei' or 'mii'.
        choice: id of the chosen picture.
        reaction_ms: milliseconds that the choice took.
        shown_at: when the trial was shown.
    """

    trial: Annotated[str, Meta(pattern=r"\A[0-9a-f]{12}\Z", description="12 hexadecimal digits")]
    question: Annotated[Literal["mei", "mii"], Meta(description="'mei' or 'mii'")]
    choice: Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z", description="16 hexadecimal digits")]
    reaction_ms: Annotated[
        int,
        Meta(ge=0, le=MAX_REACTION_MS, description=f"a whole number from 0 to {MAX_REACTION_MS}"),
    ]
    shown_at: Instant | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse a day or time that does not exist."""
        if isinstance(self.shown_at, str):
            try:
                datetime.fromisoformat(self.shown_at)
            except ValueError:
                raise ValueError(_wrong(AnswerForm, "shown_at")) from None


class ScreeningForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/screen_out: why the study cannot be shown."""

    reason: Annotated[Literal["window", "images"], Meta(description="'window' or 'images'")]


Form = TypeVar("Form", SessionForm, ConsentForm, AnswerForm, ScreeningForm)


async def read_form(request: Request, kind: type[Form]) -> Form:
    """The body of a request as a form.

    Args:
        request: its body is JSON.
        kind: which form.
    Raises:
        Refusal: the body is not JSON, too large or too slow, or a field is missing, wrong or
            unknown.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(415, "type", "the body must be application/json")
    data = await _body(request)
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raise Refusal(400, "json", "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refusal(400, "json", "the body is not an object")
    fields = _expected(kind)
    if not value.keys() <= fields.keys():
        raise Refusal(400, "field", f"there is an unknown field besides {', '.join(fields)}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Refusal(400, "field", _reason(kind, str(error))) from None


def _reason(kind: type[Struct], problem: str) -> str:
    """What is wrong with a form. Nothing that was sent is repeated: it may be a script."""
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
        return f"the field {missing[1]} is missing"
    if field := re.search(r" - at `\$\.(\w+)[^`]*`\Z", problem):
        return _wrong(kind, field[1])
    return problem  # the words of __post_init__


def _wrong(kind: type[Struct], field: str) -> str:
    return f"the field {field} is not {_expected(kind)[field]}"


@cache
def _expected(kind: type[Struct]) -> dict[str, str]:
    """The fields of a form, as JSON names them, with what is expected of each."""
    (_,), components = msgspec.json.schema_components([kind])
    fields = components[kind.__name__]["properties"]
    return {name: field["description"] for name, field in fields.items()}


async def _body(request: Request) -> bytes:
    """The body, read in chunks, so that one that is too large is refused before it is held."""
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
