"""Sessions of simulated participants."""

import asyncio

import httpx
import pytest

from opponent.core.errors import RunError
from opponent.study.simulate.participation import send


def test_a_server_that_refuses_is_told() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(409, json={"error": "closed"})

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
            await send(client, "POST", "http://x/api/session", {}, {})

    with pytest.raises(RunError, match=r"answers 409: .*closed"):
        asyncio.run(ask())
