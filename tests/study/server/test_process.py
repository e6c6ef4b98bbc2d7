"""A real server process: many at once, killed, and under attack.

OPPONENT_PARTICIPANTS and OPPONENT_BURST set how many take part at once and how many requests one
client sends; the suite takes fewer than a study has.
"""

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.support.crowd import GENEROUS, Participant, check_all_is_there, crowd
from tests.support.server import Connection, Server
from tests.support.session import PAGE, begin, body, shown
from tests.support.study import small_study

from opponent.study.design.settings import QUESTIONS
from opponent.study.design.study import Study
from opponent.study.server.guard import Limits

PARTICIPANTS = int(os.environ.get("OPPONENT_PARTICIPANTS", "40"))
FEATURES = int(os.environ.get("OPPONENT_FEATURES", "1"))
BURST = int(os.environ.get("OPPONENT_BURST", "1500"))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", features=FEATURES)


@pytest.fixture
def served(study: Study) -> Iterator[Server]:
    with Server(study.folder, limits=GENEROUS, files=PAGE) as server:
        yield server


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
    failures = sum(person.failures for person in people)
    print(f"{PARTICIPANTS} participants, killed {kills} times, {failures} requests failed")
    assert kills > 0
    assert failures > 0
    check_all_is_there(study, people)


def test_bodies_are_refused_before_they_are_held(study: Study, served: Server) -> None:
    """With a length that is too large, with none and in chunks, and with one that is a lie."""
    address = ("127.0.0.1", served.port)
    start = b"POST /api/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
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


@pytest.mark.slow
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
    statuses = [status for attacked in attacks for status in attacked]
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
