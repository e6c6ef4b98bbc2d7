"""A client of a study's server in this process, and what a participant sends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from opponent.study.design.study import Study
from opponent.study.server.guard import Limits
from opponent.study.server.server import create_app
from opponent.study.server.site import File

PAGE = {"/": File(content=b"<!doctype html>", type="text/html; charset=utf-8")}


@asynccontextmanager
async def client(
    study: Study, limits: Limits | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this process."""
    app = create_app(study, files=PAGE, limits=limits)
    transport = httpx.ASGITransport(app, client=(address, 1))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://study") as opened:
            yield opened
    finally:
        app.state.experiment.close()
        app.state.experiment.store.close()


def within(study: Study, limits: Limits | None = None) -> Callable[[Any], None]:
    """Run a coroutine function with a client of a server in this process."""

    def run(act: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def main() -> None:
            async with client(study, limits) as opened:
                await act(opened)

        asyncio.run(main())

    return run


async def begin(c: httpx.AsyncClient, consent: bool = True, **ids: str) -> dict[str, str]:
    """Begin a session; the header that authorises what follows."""
    reply = await c.post("/api/session", json=ids)
    assert reply.status_code == 201, reply.text
    header = {"authorization": f"Bearer {reply.json()['token']}"}
    if consent:
        body = {"version": "1", "agreed": True}
        assert (await c.post("/api/consent", json=body, headers=header)).status_code == 200
    return header


async def shown(c: httpx.AsyncClient, header: dict[str, str]) -> list[dict[str, Any]]:
    """The trials of a session, in order."""
    reply = await c.get("/api/session", headers=header)
    assert reply.status_code == 200, reply.text
    return [trial for block in reply.json()["blocks"] for trial in block["trials"]]


def body(trial: dict[str, Any], question: str, place: int) -> dict[str, Any]:
    """An answer: the choice at a place."""
    return {
        "trial": trial["trial"],
        "question": question,
        "choice": trial["choices"][place],
        "reaction_ms": 1234,
        "shown_at": "2026-01-02T03:04:05.678Z",
    }
