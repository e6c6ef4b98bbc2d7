"""Sessions of simulated participants with a server, from consent to the end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opponent.core.errors import RunError
from opponent.core.progress import Progress
from opponent.study.design.settings import QUESTIONS
from opponent.study.simulate.observers import Observer

if TYPE_CHECKING:
    import httpx

# Participants' temperatures and reaction times are lognormal. Ours.
_TEMPERATURE_SPREAD, _SECONDS, _SECONDS_SPREAD = 0.4, 5.0, 0.5
# Participants at a time.
_TOGETHER = 8
# How often a request is repeated that the server asks to repeat later.
_ATTEMPTS = 20


@asynccontextmanager
async def client_of_url(url: str) -> "AsyncIterator[httpx.AsyncClient]":
    """A client of a running server.

    Raises:
        ImportError: httpx is not installed.
        RunError: the server cannot be reached.
    """
    async with _client(base_url=url) as client:
        yield client


@asynccontextmanager
async def client_of_folder(folder: Path) -> "AsyncIterator[httpx.AsyncClient]":
    """A client of a server in this process, which serves the study in `folder`.

    Raises:
        ImportError: starlette or httpx is not installed.
    """
    try:
        import httpx

        from opponent.study.server.server import create_app
    except ImportError as error:
        raise ImportError(f'{error}: pip install "opponent[experiment]"') from error
    app = create_app(folder, limits=None)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        _client(base_url="http://simulated", transport=transport) as client,
    ):
        yield client


@asynccontextmanager
async def _client(**options: Any) -> "AsyncIterator[httpx.AsyncClient]":
    try:
        import httpx
    except ImportError as error:
        raise ImportError(f'{error}: pip install "opponent[experiment]"') from error
    try:
        async with httpx.AsyncClient(timeout=60.0, **options) as client:
            yield client
    except httpx.TransportError as error:
        raise RunError(f"{options['base_url']} cannot be reached: {error!r}") from error


async def participate(
    client: "httpx.AsyncClient",
    observer: Callable[[float], Observer],
    *,
    temperature: float,
    participants: int,
    seed: int,
    progress: Progress,
) -> None:
    """Let participants take part, several at a time.

    Args:
        client: of the server.
        observer: makes a participant's observer from their temperature.
        temperature: median over participants.
        participants: how many.
        seed: of the participants.
        progress: called as participants finish.
    Raises:
        RunError: the server refuses a request.
    """
    done, free = 0, asyncio.Semaphore(_TOGETHER)
    progress("participants", 0, participants)

    async def session(number: int, headers: Mapping[str, str]) -> None:
        nonlocal done
        rng = np.random.default_rng((seed, number))
        own = temperature * float(np.exp(_TEMPERATURE_SPREAD * rng.standard_normal()))
        async with free:
            await _take_part(client, headers, observer(own), rng)
        done += 1
        progress("participants", done, participants)

    sessions = []
    for number in range(participants):
        # One after another, so that each simulation gives the same number to the same participant.
        begun = await send(client, "POST", "/api/session", {}, {})
        sessions.append(session(number, {"authorization": f"Bearer {begun['token']}"}))
    await asyncio.gather(*sessions)


async def _take_part(
    client: "httpx.AsyncClient",
    headers: Mapping[str, str],
    observer: Observer,
    rng: np.random.Generator,
) -> None:
    """A session, from consent to the end."""
    session = await send(client, "GET", "/api/session", headers)
    consent = {"version": session["consent"]["version"], "agreed": True}
    await send(client, "POST", "/api/consent", headers, consent)
    for block in session["blocks"]:
        for shown in block["trials"]:
            choices = observer.answer(shown["trial"], shown["examples"], shown["choices"], rng)
            for question, choice in zip(QUESTIONS, choices, strict=True):
                ms = int(1000 * _SECONDS * np.exp(_SECONDS_SPREAD * rng.standard_normal()))
                answer = {"trial": shown["trial"], "question": question, "choice": choice}
                await send(client, "POST", "/api/answer", headers, answer | {"reaction_ms": ms})
    await send(client, "POST", "/api/finish", headers, {})


async def picture(client: "httpx.AsyncClient", id: str) -> bytes:
    """The PNG file of a stimulus.

    Args:
        client: of the server.
        id: of the stimulus.
    Raises:
        RunError: the server has no such picture.
    """
    answer = await client.get(f"/stimuli/{id}.png")
    if answer.status_code != 200:
        raise RunError(f"{answer.request.url} answers {answer.status_code}: another study?")
    return answer.content


async def send(
    client: "httpx.AsyncClient",
    method: str,
    path: str,
    headers: Mapping[str, str],
    data: Mapping[str, object] | None = None,
) -> Any:
    """Send a request, again where the server asks to wait, and return the JSON of its reply.

    Args:
        client: of the server.
        method: of HTTP.
        path: such as '/api/answer'.
        headers: that authorise the request.
        data: the body, as JSON.
    Raises:
        RunError: the server refuses.
    """
    for _ in range(_ATTEMPTS):
        answer = await client.request(method, path, headers=dict(headers), json=data)
        if answer.status_code != 429:
            break
        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
    if not answer.is_success:
        raise RunError(f"{path} answers {answer.status_code}: {answer.text[:200]}")
    return answer.json()
