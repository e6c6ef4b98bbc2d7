"""Connections that are idle, slow or too many are closed, so that others get in.

A connection either waits for a request or has one. What waits is closed after a while, however many
bytes of a header trickle in; so is a request that takes too long with its reply. One address may
hold a certain number of connections, and all together may hold another. Beyond that the one that
has waited longest is closed for a newcomer, who sends a request at once if they are honest.
"""

import asyncio
import ipaddress
import logging
from dataclasses import dataclass, replace
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from opponent.study.server.guard import LOG, Seldom, client_of

# Connections that may wait to be accepted, and are accepted at once.
BACKLOG = 1024
# Files that are open besides: the database, its log, the pictures that are being read.
_OTHER_FILES = 128
# Bytes of a reply that are held for a client who does not take them.
_HELD = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long a connection may take, and how many there may be.

    Args:
        head: seconds in which the header of a request must have come, from the connection's
            beginning or from the reply before.
        request: seconds from there for the rest of the request and the whole reply.
        spared: seconds for which a request is not closed to make room for a newcomer; what waits
            for a request is.
        most: connections at once.
        of_one: those of one address (for IPv6 of one network of 64 bits), but for the proxy. The
            computers of a laboratory may share an address, and a browser opens six.
        backlog: connections that may wait to be accepted.
    """

    head: float = 10.0
    request: float = 60.0
    spared: float = 2.0
    most: int = 4000
    of_one: int = 400
    backlog: int = BACKLOG


BOUNDS = Bounds()


def within_files(bounds: Bounds) -> Bounds:
    """Bounds for as many connections as this process may have open files.

    The process' limit is raised for that as far as it may be.

    Args:
        bounds: what is wanted.
    """
    # What is accepted is closed some turns of the loop later, where there is no room.
    wanted = bounds.most + 3 * bounds.backlog + _OTHER_FILES
    files = _open_files(wanted)
    if files >= wanted:
        return bounds
    backlog = max(1, min(bounds.backlog, files // 8))
    most = max(1, min(bounds.most, files - 3 * backlog - _OTHER_FILES))
    return replace(bounds, most=most, backlog=backlog)


def _open_files(wanted: int) -> int:
    """How many files this process may open, after its limit was raised to `wanted` if it may be."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):
        return soft
    return raised


class _Line:
    """Connections in the order in which they began to wait, or their requests began."""

    def __init__(self) -> None:
        self.waiting: dict[Watched, None] = {}
        self.busy: dict[Watched, None] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.busy)

    def leave(self, connection: "Watched") -> None:
        self.waiting.pop(connection, None)
        self.busy.pop(connection, None)

    def last(self, connection: "Watched") -> None:
        """Put it at the end."""
        self.leave(connection)
        (self.busy if connection.busy else self.waiting)[connection] = None


class Book:
    """All connections of a server.

    Args:
        bounds: how many there may be, and how long they may take.
        proxy: addresses or networks, with commas between them, whose connections are those of many
            clients; '*' are all.
    """

    def __init__(self, bounds: Bounds, proxy: str | None = None) -> None:
        self.bounds = bounds
        self._everybody = proxy is not None and "*" in proxy
        self._proxies = [x for name in (proxy or "").split(",") if (x := _network(name.strip()))]
        self._all = _Line()
        self._lines: dict[str, _Line] = {}
        self._seldom = Seldom()
        # What uvicorn says of requests that are not HTTP, a line a second as well.
        self.logger = logging.Logger("uvicorn.error")
        self.logger.parent = logging.getLogger("uvicorn.error")
        warnings = Seldom()
        self.logger.addFilter(lambda x: x.levelno != logging.WARNING or bool(warnings.count()))

    def __len__(self) -> int:
        return len(self._all)

    def _is_proxy(self, host: str) -> bool:
        address = _network(host)
        return self._everybody or any(
            address is not None and address[0] in network for network in self._proxies
        )

    def enter(self, connection: "Watched") -> str | None:
        """Take in a new connection, for which another may be closed.

        Args:
            connection: it waits for a request.
        Returns:
            Why there is no room for it, or None.
        """
        client = client_of({"client": connection.client})
        of_one = self._lines.get(client)
        if self._is_proxy(connection.client[0] if connection.client else ""):
            of_one = None
        elif of_one is None:
            of_one = _Line()
        if of_one is not None and len(of_one) >= self.bounds.of_one:
            why = f"an address may hold {self.bounds.of_one}"
            if not self._make_room(of_one, why):
                return why
        if len(self._all) >= self.bounds.most:
            why = f"there may be {self.bounds.most}"
            if not self._make_room(self._all, why):
                return why
        if of_one is not None:
            self._lines[client] = of_one
            of_one.last(connection)
            connection.client_name = client
        self._all.last(connection)
        return None

    def _make_room(self, line: _Line, why: str) -> bool:
        """Close the connection that has waited longest, or else a request that takes long."""
        longest = next(iter(line.waiting), None)
        if longest is None:
            longest = next(iter(line.busy), None)
            if longest is None or longest.lasts() < self.bounds.spared:
                return False
        longest.drop(why)
        return True

    def turn(self, connection: "Watched") -> None:
        """Note that a connection waits from now on, or has a request from now on."""
        if connection not in self._all.waiting and connection not in self._all.busy:
            return
        self._all.last(connection)
        if line := self._lines.get(connection.client_name):
            line.last(connection)

    def leave(self, connection: "Watched") -> None:
        """Forget a connection."""
        self._all.leave(connection)
        if line := self._lines.get(connection.client_name):
            line.leave(connection)
            if not line:
                del self._lines[connection.client_name]

    def log(self, connection: "Watched", why: str) -> None:
        """Write that a connection was closed, a line a second at most."""
        if many := self._seldom.count():
            more = f" ({many} since the last such line)" if many > 1 else ""
            name = client_of({"client": connection.client})
            LOG.warning("closed a connection from %s: %s%s", name, why, more)


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(name, strict=False)
    except ValueError:
        return None


class Watched(H11Protocol):
    """A connection of HTTP/1.1 that is closed where it is idle or slow."""

    book: Book

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.logger = self.book.logger
        self.busy = False
        self.client_name = ""
        # When it began to wait, and when its last request began.
        self._waits = self._began = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in, or close it."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_HELD)
        if why := self.book.enter(self):
            self.drop(why)
        else:
            self._turn(busy=False)

    def data_received(self, data: bytes) -> None:
        """Read more of a request."""
        super().data_received(data)
        if not self.busy and self._has_request():
            self._turn(busy=True)

    def on_response_complete(self) -> None:
        """Wait for the next request, which may be there already."""
        super().on_response_complete()
        self._turn(busy=self._has_request())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._leave()
        super().connection_lost(exc)

    def lasts(self) -> float:
        """Seconds since it began to wait, or since its request began."""
        return self.loop.time() - (self._began if self.busy else self._waits)

    def drop(self, why: str) -> None:
        """Close it at once.

        Args:
            why: for the log.
        """
        self._leave()
        self.book.log(self, why)
        self.transport.abort()

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.book.leave(self)

    def _turn(self, *, busy: bool) -> None:
        self.busy = busy
        if busy:
            self._began = self.loop.time()
        else:
            self._waits = self.loop.time()
        self.book.turn(self)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._end(), self._check)

    def _end(self) -> float:
        """When it is closed, if it stays as it is."""
        # A reply is complete for the protocol before the client has taken the last of it.
        if self.busy or self.transport.get_write_buffer_size():
            return self._began + self.book.bounds.request
        return self._waits + self.book.bounds.head

    def _check(self) -> None:
        if self._end() > self.loop.time():
            self._timer = self.loop.call_at(self._end(), self._check)
        elif self.busy or self.transport.get_write_buffer_size():
            self.drop(f"a request and its reply took over {self.book.bounds.request:g} s")
        else:
            self.drop(f"no request came within {self.book.bounds.head:g} s")


def watched(book: Book) -> type[Watched]:
    """The class of a server's connections.

    Args:
        book: where they are noted.
    """
    return type("Watched", (Watched,), {"book": book})
