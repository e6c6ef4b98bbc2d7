"""Which names the server answers to."""

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from tests.support.server import Server
from tests.support.session import PAGE

from opponent.study.design.study import Study
from opponent.study.server.hosts import read_names
from opponent.study.server.server import create_app

NAMES = ("study.example.org", "Zweite.Example.org.")


def ask(study: Study, names: tuple[str, ...] | None, *hosts: bytes) -> tuple[int, Any]:
    """Status and body of a reply to GET / with these Host headers."""

    async def main() -> tuple[int, Any]:
        app = create_app(study, files=PAGE, limits=None, names=names)
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
            "headers": [(b"host", host) for host in hosts], "client": ("192.0.2.1", 1),
            "server": ("127.0.0.1", 8000), "scheme": "http", "http_version": "1.1",
            "root_path": "",
        }  # fmt: skip
        try:
            await app(scope, receive, send)
        finally:
            app.state.experiment.close()
            app.state.experiment.store.close()
        assert b"content-security-policy" in dict(sent[0]["headers"])
        body = b"".join(x.get("body", b"") for x in sent[1:])
        return sent[0]["status"], body if sent[0]["status"] == 200 else json.loads(body)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "host",
    [
        "study.example.org", "study.example.org:8443", "STUDY.example.ORG", "study.example.org.",
        "study.example.org.:80", "zweite.example.org", "localhost", "localhost:8000", "127.0.0.1",
        "127.0.0.1:8000", "192.0.2.77", "[::1]", "[::1]:8000", "[2001:db8::1]:80",
    ],
)  # fmt: skip
def test_its_own_names_and_all_addresses_are_answered(study: Study, host: str) -> None:
    assert ask(study, NAMES, host.encode())[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example.com", "example.org", "x.study.example.org", "study.example.org.evil.com",
        "study.example.orgx", "localhost.evil.com", "127.0.0.1.evil.com", "2130706433", "127.1",
        "0x7f.0.0.1", "[::1].evil.com:80", "<script>alert(1)</script>",
    ],
)  # fmt: skip
def test_other_names_are_refused(study: Study, host: str, caplog: pytest.LogCaptureFixture) -> None:
    status, reply = ask(study, NAMES, host.encode())
    assert (status, reply["error"]) in ((421, "host"), (400, "host"))
    if status == 421:
        assert "start `opponent experiment serve` with --name" in reply["message"]
    assert host not in str(reply)
    (line,) = [x.getMessage() for x in caplog.records if x.name == "opponent.study"]
    assert line.startswith(f"refused {status} GET / from 192.0.2.1: the ")


@pytest.mark.parametrize(
    "hosts",
    [
        (), (b"",), (b"study.example.org", b"study.example.org"),
        (b"study.example.org", b"evil.com"), (b"a b",), (b"study.example.org:80:80",),
        (b"study.example.org:x",), (b"::1",), (b"[::1",), (b"\xff\x00",), (b"@study.example.org/",),
    ],
)  # fmt: skip
def test_there_is_one_host_and_it_is_well_formed(study: Study, hosts: tuple[bytes, ...]) -> None:
    status, reply = ask(study, NAMES, *hosts)
    assert (status, reply["error"]) in ((400, "host"), (421, "host"))
    assert status == 400 or hosts in ((b"\xff\x00",), (b"@study.example.org/",))


def test_an_embedder_may_check_by_itself(study: Study) -> None:
    assert ask(study, None, b"anything.example.com")[0] == 200
    assert ask(study, None)[0] == 200
    assert ask(study, (), b"anything.example.com")[0] == 421
    assert ask(study, (), b"127.0.0.1")[0] == 200


@pytest.mark.parametrize(
    "name", ["", "https://study.example.org", "study.example.org:80", "a/b", "*.example.org", "."]
)
def test_a_name_that_is_none_is_refused(study: Study, name: str) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a host; give one such as"):
        create_app(study, names=[name])
    assert read_names(["Bücher.example", "A.b."]) == {"xn--bcher-kva.example", "a.b"}


def test_a_served_study_is_not_read_by_rebinding(study: Study) -> None:
    """A real server without and with names, spoken to by sockets."""

    def status(server: Server, head: str) -> int:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\n{head}\r\n".encode())
            return int(connection.recv(100).split()[1])

    with Server(study.folder, files=PAGE) as server:
        assert status(server, "Host: 127.0.0.1\r\n") == 200
        assert status(server, f"Host: localhost:{server.port}\r\n") == 200
        assert status(server, "Host: rebound.example.com\r\n") == 421
        assert status(server, "") == 400
        assert status(server, "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n") == 400
        assert server.stop() == 0
    with Server(study.folder, files=PAGE, names=NAMES[:1]) as server:
        reply = httpx.get(server.url, headers={"host": NAMES[0]})
        assert reply.status_code == 200
        assert status(server, "Host: rebound.example.com\r\n") == 421
        assert any("(rebound.example.com)" in line for line in server.lines())
