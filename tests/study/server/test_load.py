"""Slow, silent and honest clients together: the honest finish, and the server does not grow.

OPPONENT_CONNECTIONS sets how many attack, OPPONENT_SECONDS for how long; the suite takes fewer and
shorter deadlines than a server has, unless OPPONENT_SECONDS is given.
"""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.crowd import GENEROUS, Participant, check_all_is_there, crowd
from tests.support.server import Server
from tests.support.session import PAGE
from tests.support.study import small_study

from opponent.study.design.study import Study
from opponent.study.server.connections import BOUNDS, Bounds
from opponent.study.server.site import File

resource = pytest.importorskip("resource")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, binds 127.0.0.2"),
]

CONNECTIONS = int(os.environ.get("OPPONENT_CONNECTIONS", "400"))
SECONDS = float(os.environ.get("OPPONENT_SECONDS", "12"))
QUICK = Bounds(head=2.0, request=4.0, spared=0.5, of_one=100)
HONEST = 10
LARGE = {"/large": File(content=b"x" * 2**20, type="text/plain")}
LINES = b"\r\nhost: 127.0.0.1\r\n"
POST = b"POST /api/session HTTP/1.1" + LINES + b"content-type: application/json\r\n"
# What each kind sends first, and then a byte at a time; the last one reads nothing either.
KINDS = [
    (b"", b""),
    (b"GET / HTTP/1.1" + LINES + b"x: ", b"x"),
    (POST + b"content-length: 8000\r\n\r\n", b" "),
    (b"GET /large HTTP/1.1" + LINES + b"\r\n", b""),
]


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("this process may not open enough files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Attackers:
    """Connections of all kinds, each opened again whenever it is closed."""

    def __init__(self, port: int, count: int, addresses: list[str]) -> None:
        self.port, self.count, self.addresses = port, count, addresses
        self.opened = 0

    async def one(self, number: int) -> None:
        first, then = KINDS[number % len(KINDS)]
        address = self.addresses[number % len(self.addresses)]
        loop = asyncio.get_running_loop()
        while True:
            with socket.socket() as opened, contextlib.suppress(OSError):
                opened.setblocking(False)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                opened.bind((address, 0))
                await loop.sock_connect(opened, ("127.0.0.1", self.port))
                self.opened += 1
                await loop.sock_sendall(opened, first)
                while not await self._closed(opened):
                    await loop.sock_sendall(opened, then)
            await asyncio.sleep(1)

    async def _closed(self, opened: socket.socket) -> bool:
        """After a second, whether the server has closed it, read without taking anything."""
        await asyncio.sleep(1)
        try:
            return opened.recv(1, socket.MSG_PEEK) == b"" or opened.send(b"") != 0
        except BlockingIOError:
            return False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self.one(number))
                if number % 50 == 49:
                    await asyncio.sleep(0.05)


def measure(pid: int) -> tuple[int, int]:
    """Memory in KiB and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = [x for x in status.splitlines() if x.startswith("VmRSS:")]
    return int(line.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def watch(server: Server, seen: list[tuple[float, int, int]]) -> None:
    began = time.monotonic()
    while True:
        seen.append((time.monotonic() - began, *measure(server.pid)))
        await asyncio.sleep(0.5)


async def under_attack(
    server: Server, attackers: Attackers
) -> tuple[list[Participant], list[tuple[float, int, int]], list[float]]:
    """Who took part, what the server took, and the seconds that each dozen of them needed."""
    seen: list[tuple[float, int, int]] = []
    people: list[Participant] = []
    took = []
    tasks = [asyncio.create_task(attackers.run()), asyncio.create_task(watch(server, seen))]
    began = time.monotonic()
    await asyncio.sleep(min(3.0, SECONDS / 4))
    while time.monotonic() - began < SECONDS:
        since = time.monotonic()
        async with asyncio.timeout(120):
            people += await crowd(server, HONEST, first=len(people))
        took.append(time.monotonic() - since)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return people, seen, took


@pytest.mark.parametrize("same", [False, True], ids=["other addresses", "one address"])
def test_the_honest_finish_and_the_server_does_not_grow(tmp_path: Path, same: bool) -> None:
    study: Study = small_study(tmp_path / "study", features=1)
    bounds = BOUNDS if "OPPONENT_SECONDS" in os.environ else QUICK
    addresses = ["127.0.0.1"] if same else [f"127.0.0.{2 + i}" for i in range(10)]
    with Server(study.folder, limits=GENEROUS, files=PAGE | LARGE, bounds=bounds) as server:
        before = measure(server.pid)
        attackers = Attackers(server.port, CONNECTIONS, addresses)
        people, seen, took = asyncio.run(under_attack(server, attackers))
        end = time.monotonic() + 2 * bounds.request
        while (after := measure(server.pid))[1] > before[1] + 3 and time.monotonic() < end:
            time.sleep(0.2)
        assert server.stop() == 0
        lines = server.lines()
    check_all_is_there(study, people)
    print(f"\n{attackers.opened} connections of {CONNECTIONS} attackers; {len(people)} took part:")
    print(f"{HONEST} in {min(took):.2f} to {max(took):.2f} s; ", end="")
    print(f"{sum(x.failures for x in people)} of their requests were sent again")
    for at, memory, files in [(0.0, *before), *seen[:: max(1, len(seen) // 12)], (-1, *after)]:
        print(f"{at:6.1f} s {memory / 1024:6.1f} MiB {files:5d} files")
    assert len(people) >= HONEST
    assert after[1] <= before[1] + 3
    limit = (bounds.of_one if same else min(bounds.most, 10 * bounds.of_one)) + HONEST
    limit = before[1] + min(limit, CONNECTIONS + HONEST) + 20
    files = sorted(x for _, _, x in seen)
    assert files[len(files) // 2] <= limit
    # For a moment there are those that are accepted, and not turned away yet.
    assert files[-1] <= limit + 3 * bounds.backlog
    # What the last third of the time takes is what the second took.
    third = len(seen) // 3
    middle = max(memory for _, memory, _ in seen[third : 2 * third])
    assert max(memory for _, memory, _ in seen[2 * third :]) < 1.1 * middle + 4096
    assert not any("Traceback" in x or "failed" in x for x in lines)
