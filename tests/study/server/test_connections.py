"""Connections that are idle, slow or too many: real ones, to a real server."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import httpx
import pytest
from tests.support.server import Server
from tests.support.session import PAGE

from opponent.study.design.study import Study
from opponent.study.server.connections import Book, Bounds, Watched
from opponent.study.server.guard import Seldom
from opponent.study.server.site import File

GET = b"GET /favicon.ico HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
BODY = (
    b"POST /api/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b"content-length: 1000\r\n\r\n"
)
# More than the buffers of both ends together.
LARGE = {"/large": File(content=b"x" * 2**25, type="text/plain")}


def connect(server: Server, number: int = 2, receives: int = 0) -> socket.socket:
    """A connection from 127.0.0.`number`."""
    opened = socket.socket()
    if receives:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    opened.settimeout(30)
    opened.bind((f"127.0.0.{number}", 0))
    opened.connect(("127.0.0.1", server.port))
    return opened


def is_closed(opened: socket.socket, within: float = 0.3) -> bool:
    """Whether the server has closed it, or does so in that time; nothing else may come."""
    opened.settimeout(within)
    try:
        assert opened.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def closing(opened: socket.socket, trickle: bytes) -> float:
    """Seconds until the server closes a connection to which bytes trickle."""
    began = time.monotonic()
    opened.settimeout(0.05)
    while time.monotonic() - began < 20:
        try:
            opened.sendall(trickle)
            if opened.recv(2**16) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - began


def ask(opened: socket.socket) -> None:
    """A request and its reply."""
    opened.sendall(GET)
    assert opened.recv(4096).startswith(b"HTTP/1.1 204")


@contextmanager
def serving(study: Study, proxy: str | None = None, **bounds: Any) -> Iterator[Server]:
    with Server(study.folder, files=PAGE | LARGE, proxy=proxy, bounds=Bounds(**bounds)) as server:
        yield server


def test_a_thousand_idle_connections_keep_nobody_out(study: Study) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4000:
        pytest.skip("this process may not open enough files")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
        server = stack.enter_context(Server(study.folder, files=PAGE))
        for i in range(1000):
            stack.enter_context(connect(server, 2 + i % 5))
        for _ in range(3):
            assert httpx.get(server.url).status_code == 200
            assert httpx.post(f"{server.url}/api/session", json={}).status_code == 201


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("trickle", [b"", b"x"])
def test_a_header_must_come_in_time(study: Study, before: bool, trickle: bytes) -> None:
    """From the connection's beginning, and anew after a reply."""
    with serving(study, head=0.8) as server, connect(server) as opened:
        if before:
            time.sleep(0.5)
            ask(opened)
            opened.sendall(trickle)
        assert 0.5 < closing(opened, trickle) < 5
        assert "closed a connection from 127.0.0.2: no request came within 0.8 s" in server.lines()
        assert httpx.get(server.url).status_code == 200


def test_a_body_and_a_reply_must_be_taken_in_time(study: Study) -> None:
    with serving(study, request=1.0) as server:
        with connect(server) as opened:
            opened.sendall(BODY)
            assert 0.5 < closing(opened, b" ") < 5
        line = "closed a connection from 127.0.0.2: a request and its reply took over 1 s"
        assert line in server.lines()
        with connect(server, receives=4096) as opened:
            opened.sendall(GET.replace(b"favicon.ico", b"large"))
            time.sleep(2.5)
            taken, part = 0, b"x"
            while part:
                try:
                    part = opened.recv(2**16)
                except ConnectionError:
                    break
                taken += len(part)
            # It was given up, with most of it never sent.
            assert 0 < taken < 2**24
        # Who reads gets all of it.
        assert len(httpx.get(f"{server.url}/large").content) == 2**25
        assert not any("failed" in x or "Traceback" in x for x in server.lines())


def test_an_address_makes_room_for_itself_alone(study: Study) -> None:
    with serving(study, of_one=3, spared=9.0) as server, ExitStack() as stack:
        others = stack.enter_context(connect(server, 3))
        ask(others)
        first, second, third = (stack.enter_context(connect(server)) for _ in range(3))
        # The first has waited longest, but for its request.
        for opened in (first, second, third, first):
            ask(opened)
        fourth = stack.enter_context(connect(server))
        ask(fourth)
        assert is_closed(second)
        assert not any(map(is_closed, (first, third, others)))
        # Requests are not closed for that, however slow, before their time.
        for opened in (first, third, fourth):
            opened.settimeout(30)
            opened.sendall(BODY)
        time.sleep(0.3)
        assert is_closed(stack.enter_context(connect(server)), within=5)
        assert not any(map(is_closed, (first, third, fourth, others)))
        assert any("an address may hold 3" in line for line in server.lines())


def test_the_proxy_may_hold_more(study: Study) -> None:
    with serving(study, of_one=3, proxy="127.0.0.2") as server, ExitStack() as stack:
        behind = [stack.enter_context(connect(server)) for _ in range(9)]
        for opened in behind:
            ask(opened)
        beside = [stack.enter_context(connect(server, 3)) for _ in range(9)]
        ask(beside[-1])
        assert not any(is_closed(x, 0.05) for x in behind)
        assert [is_closed(x) for x in beside] == [True] * 6 + [False] * 3


def test_who_has_waited_longest_makes_room(study: Study) -> None:
    with serving(study, most=4, spared=2.0) as server, ExitStack() as stack:
        held = [stack.enter_context(connect(server, 10 + i)) for i in range(4)]
        for opened in held:
            ask(opened)
        ask(held[0])
        newcomer = stack.enter_context(connect(server, 20))
        ask(newcomer)
        assert [is_closed(x, 0.05) for x in held] == [False, True, False, False]
        # Where all have requests, one that lasts for long makes room, and none before.
        busy = [held[0], held[2], held[3], newcomer]
        for opened in busy:
            opened.settimeout(30)
            opened.sendall(BODY)
        time.sleep(0.3)
        assert is_closed(stack.enter_context(connect(server, 21)), within=1)
        time.sleep(2.0)
        ask(stack.enter_context(connect(server, 22)))
        assert sum(is_closed(x, 0.05) for x in busy) == 1


def test_a_flood_is_a_line_a_second(study: Study) -> None:
    with serving(study, of_one=2) as server:
        began = time.monotonic()
        with ExitStack() as stack:
            for _ in range(300):
                last = stack.enter_context(connect(server))
            ask(last)
        lines = [line for line in server.lines() if "closed a connection" in line]
        assert 0 < len(lines) <= 2 + time.monotonic() - began
        for _ in range(100):
            with connect(server) as opened:
                opened.sendall(b"\x16\x03 not HTTP\r\n\r\n")
                assert opened.recv(100).startswith(b"HTTP/1.1 400")
        lines = [line for line in server.lines() if "Invalid HTTP" in line]
        assert 0 < len(lines) <= 2 + time.monotonic() - began


def test_seldom_counts_what_it_passes_over() -> None:
    time_now = 5.0
    seldom = Seldom(clock=lambda: time_now)
    assert [seldom.count() for _ in range(4)] == [1, 0, 0, 0]
    time_now = 6.0
    assert [seldom.count() for _ in range(2)] == [4, 0]


class Stub:
    """What the book knows of a connection."""

    def __init__(self, book: Book, host: str) -> None:
        self.book, self.client, self.client_name, self.busy = book, (host, 1), "", False
        self.dropped: list[str] = []
        assert book.enter(cast(Watched, self)) is None

    def drop(self, why: str) -> None:
        self.dropped.append(why)
        self.book.leave(cast(Watched, self))


def test_a_network_of_ipv6_is_one_client() -> None:
    book = Book(Bounds(of_one=1))
    first, other = Stub(book, "2001:db8:1:2::3"), Stub(book, "2001:db8:1:3::3")
    Stub(book, "2001:db8:1:2:ffff::4")
    assert (first.dropped, other.dropped) == (["an address may hold 1"], [])
    assert len(book) == 2
    proxied = Book(Bounds(of_one=1), "192.0.2.0/28, 2001:db8::9")
    for host, kept in (("192.0.2.7", 2), ("2001:db8::9", 4), ("192.0.2.16", 5), ("::1", 6)):
        assert Stub(proxied, host) != Stub(proxied, host)
        assert len(proxied) == kept


@pytest.mark.parametrize(
    ("soft", "hard", "most", "left"), [(100, 8000, 4000, 7200), (100, 1024, 512, 1024)]
)
def test_there_are_no_more_connections_than_files(
    soft: int, hard: int, most: int, left: int
) -> None:
    pytest.importorskip("resource")
    script = (
        "import resource as r\n"
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from opponent.study.server.connections import BOUNDS, within_files\n"
        "bounds = within_files(BOUNDS)\n"
        "print(bounds.most, bounds.backlog, r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    given, backlog, files = map(int, done.stdout.split())
    assert (given, files) == (most, left)
    assert given + 3 * backlog < files
