"""A study's server in a process of its own, for the tests: started quickly, killed at will."""

import asyncio
import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx


class Connection:
    """One kept connection of HTTP/1.1: httpx takes ten times as long where there are many.

    Args:
        port: the server's, on this machine.
        address: from where.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.port, self.address = port, address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of a reply.

        Raises:
            OSError, EOFError: the server went away; the next request connects again.
        """
        content = b"" if data is None else json.dumps(data).encode()
        head = {"host": "127.0.0.1", "content-length": str(len(content)), **(headers or {})}
        if content:
            head["content-type"] = "application/json"
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items()), "", ""]
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(
                    "127.0.0.1", self.port, local_addr=(self.address, 0)
                )
            reader, writer = self._streams
            writer.write("\r\n".join(lines).encode() + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", answer)
            body = await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, EOFError):
            self.close()
            raise
        if "connection: close" in answer:
            self.close()
        return int(answer.split()[1]), body

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def free_port() -> int:
    """A port that nobody listens to now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(folder: Path, port: int, log: Path, named: dict[str, Any]) -> None:
    from opponent.study.server.server import serve

    logging.basicConfig(filename=log, level=logging.INFO, format="%(message)s", force=True)
    serve(folder, port=port, **named)


class Server:
    """A server process; it is forked from one that has imported everything.

    Args:
        folder: the study's.
        named: what `serve` is given besides.
    """

    def __init__(self, folder: Path, **named: Any) -> None:
        self.folder, self.named = folder, named
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        self._process: BaseProcess | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["opponent.study.server.server", "uvicorn", "h11"])
        arguments = (self.folder, self.port, self.log, self.named)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        end = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/favicon.ico", timeout=5)
                return
            except httpx.TransportError:
                assert self._process.is_alive(), self.lines()
                assert time.monotonic() < end, "the server does not start"
                time.sleep(0.02)

    def stop(self, how: int = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does, or by another signal; its exit code."""
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, how)
        self._process.join(20)
        code = self._process.exitcode
        assert code is not None, "the server does not stop"
        self._process = None
        return code

    @property
    def pid(self) -> int:
        """The process' number."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def lines(self) -> list[str]:
        """What it has logged."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.is_file() else []

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)
