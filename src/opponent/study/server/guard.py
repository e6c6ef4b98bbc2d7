"""Around the server: limits, headers, and a line in the log for each refusal."""

import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("opponent.study")

# Bytes of a large reply that are sent at once.
PIECE = 16 * 1024
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # The address holds the participant's Prolific IDs.
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many requests one client may make: a rate a second, and a burst after a pause.

    Args:
        files: rate and burst of pages and pictures from one address; a layer's pictures are loaded
            at once.
        calls: of the interface's calls from one address; a laboratory's computers may share one.
        sessions: of new sessions from one address.
        session: of the calls of one session.
        clients: how many addresses and sessions are remembered.
    """

    files: tuple[float, float] = (300.0, 5000.0)
    calls: tuple[float, float] = (50.0, 300.0)
    sessions: tuple[float, float] = (1.0, 60.0)
    session: tuple[float, float] = (5.0, 40.0)
    clients: int = 10_000


LIMITS = Limits()


class Buckets:
    """Token buckets of many clients in bounded memory; the client longest unseen is forgotten.

    Args:
        limit: rate, in requests a second, and burst.
        clients: how many are remembered.
        clock: the time in seconds.
    """

    def __init__(
        self, limit: tuple[float, float], clients: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst = limit
        self.clients, self._clock = clients, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Count a request.

        Args:
            client: who sent it.
        Returns:
            0 if it may pass, else the seconds until one may.
        """
        time_now = self._clock()
        left, since = self._left.pop(client, (self.burst, time_now))
        left = min(self.burst, left + (time_now - since) * self.rate)
        passes = left >= 1
        self._left[client] = (left - passes, time_now)
        if len(self._left) > self.clients:
            self._left.popitem(last=False)
        return 0.0 if passes else (1 - left) / self.rate


class Seldom:
    """Counts what may happen too often for a line in the log each: a flood would fill the disk.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._many, self._logged = 0, float("-inf")

    def count(self) -> int:
        """Count one more.

        Returns:
            How many there were since the last line if another may be written now, a second after
            it; else 0.
        """
        self._many += 1
        if self._clock() - self._logged < 1:
            return 0
        many, self._many, self._logged = self._many, 0, self._clock()
        return many


def client_of(scope: Scope) -> str:
    """What tells clients apart.

    Args:
        scope: of the request; of it the 'client' is read.
    Returns:
        The address; for IPv6 the network that one customer has (64 bits).
    """
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


# Long runs of a token's characters are left out of the log.
_SECRET = re.compile(r"[A-Za-z0-9_-]{32,}")


def safe(text: str, length: int = 120) -> str:
    """Text for one line of a log, without control characters or anything that may be a token.

    Args:
        text: any.
        length: longer text is cut.
    """
    shown = ascii(_SECRET.sub("(long)", text[: 4 * length]))[1:-1]
    return shown if len(shown) <= length else shown[:length] + "..."


class Guard:
    """Middleware: limits for each address, the same headers on every reply, a line a refusal.

    Args:
        app: the application.
        limits: of one address; None for no limits.
    """

    def __init__(self, app: ASGIApp, limits: Limits | None) -> None:
        self.app = app
        self.buckets = limits and {
            "files": Buckets(limits.files, limits.clients),
            "calls": Buckets(limits.calls, limits.clients),
            "sessions": Buckets(limits.sessions, limits.clients),
        }
        self._seldom = Seldom()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message.get("headers", ())}
                added = [
                    (name.encode(), value.encode())
                    for name, value in (HEADERS | {"cache-control": "no-store"}).items()
                    if name.encode() not in there
                ]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            if wait := self._wait(scope):
                too_many = refusal(429, "rate", "too many requests; try again a little later")
                too_many.headers["retry-after"] = str(int(wait) + 1)
                self._log_many(scope)
                await too_many(scope, receive, guarded)
            else:
                await self.app(scope, receive, guarded)
        except ClientDisconnect:
            log_refusal(scope, 400, "the client went away before its request was complete")
        except Exception as error:
            LOG.error(
                "failed %s %s from %s: %s",
                safe(scope["method"]), safe(scope["path"]), client_of(scope),
                safe(f"{type(error).__name__}: {error}", 300),
            )  # fmt: skip
            if not status:
                await refusal(500, "failed", "the server failed; try again")(
                    scope, receive, guarded
                )

    def _wait(self, scope: Scope) -> float:
        if not self.buckets:
            return 0.0
        client, path = client_of(scope), scope["path"]
        kind = "calls" if path.startswith("/api/") else "files"
        wait = self.buckets[kind].wait(client)
        if not wait and path == "/api/session" and scope["method"] == "POST":
            wait = self.buckets["sessions"].wait(client)
        return wait

    def _log_many(self, scope: Scope) -> None:
        if many := self._seldom.count():
            more = f" ({many} since the last such line)" if many > 1 else ""
            log_refusal(scope, 429, f"too many requests{more}")


def log_refusal(scope: Scope, status: int, why: str) -> None:
    """Write a refusal to the log, without the query, which holds Prolific IDs.

    Args:
        scope: of the request.
        status: of the reply.
        why: the reason, in words.
    """
    LOG.warning(
        "refused %d %s %s from %s: %s",
        status, safe(scope["method"], 12), safe(scope["path"]), client_of(scope), safe(why, 200),
    )  # fmt: skip


def refusal(status: int, reason: str, message: str, **more: object) -> JSONResponse:
    """A reply that says what is wrong.

    Args:
        status: of HTTP.
        reason: one word for programs.
        message: a sentence for people.
        more: further fields.
    """
    return JSONResponse({"error": reason, "message": message, **more}, status_code=status)


class Pieces(Response):
    """A reply that is sent piece by piece: of a large one no more is held than its reader takes.

    Args as those of Starlette's `Response`.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for at in range(0, max(1, len(self.body)), PIECE):
            piece = bytes(self.body[at : at + PIECE])
            more = at + PIECE < len(self.body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


class Refusal(HTTPException):
    """A request that is refused.

    Args:
        status: of HTTP.
        reason: one word for programs.
        message: a sentence for people.
        wait: seconds until the request may be made again; 0 where that does not help.
        stored: the answer that is stored instead, where there is one.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        wait: float = 0.0,
        stored: str | None = None,
    ) -> None:
        super().__init__(status, message, {"retry-after": str(int(wait) + 1)} if wait else None)
        self.reason, self.more = reason, {"stored": stored} if stored else {}


async def refused(request: Request, error: Exception) -> Response:
    """The reply to a request that Starlette (404, 405) or the server refuses."""
    assert isinstance(error, HTTPException)
    log_refusal(request.scope, error.status_code, error.detail)
    reason = getattr(error, "reason", "http")
    reply = refusal(error.status_code, reason, error.detail, **getattr(error, "more", {}))
    reply.headers.update(error.headers or {})
    if error.status_code in (408, 413):
        # The server does not wait for the rest of the body.
        reply.headers["connection"] = "close"
    return reply
