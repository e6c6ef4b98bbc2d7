"""Simulated participants by the dozen, and whether all that they were told is stored."""

import asyncio
import json
import sqlite3
from typing import Any

import numpy as np
from tests.support.server import Connection, Server
from tests.support.session import body

from opponent.study.design.settings import QUESTIONS
from opponent.study.design.study import Study
from opponent.study.server.guard import Limits
from opponent.study.server.store import Store

# All simulated participants have one address.
GENEROUS = Limits(calls=(1e6, 1e6), sessions=(1e6, 1e6), session=(1e6, 1e6))


class Participant:
    """One who answers at random, and sends everything until it is acknowledged."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection, self.pid = connection, f"participant{number}"
        self.rng = np.random.default_rng(number)
        self.header: dict[str, str] = {}
        self.acknowledged: list[tuple[str, str, str]] = []
        self.failures = 0

    async def ask(self, method: str, path: str, data: Any = None) -> Any:
        while True:
            try:
                status, reply = await self.connection.request(method, path, data, self.header)
            except (OSError, EOFError):
                self.failures += 1
                await asyncio.sleep(0.1 + 0.3 * self.rng.random())
                continue
            if status in (429, 503):
                await asyncio.sleep(0.1)
                continue
            assert status < 400, reply
            return json.loads(reply)

    async def take_part(self) -> None:
        ids = {"PROLIFIC_PID": self.pid, "STUDY_ID": "s", "SESSION_ID": "x"}
        token = (await self.ask("POST", "/api/session", ids))["token"]
        self.header = {"authorization": f"Bearer {token}"}
        await self.ask("POST", "/api/consent", {"version": "1", "agreed": True})
        data = await self.ask("GET", "/api/session")
        for trial in (trial for block in data["blocks"] for trial in block["trials"]):
            places = self.rng.permutation(9)[:2]
            for question, place in zip(QUESTIONS, places.tolist(), strict=True):
                sent = body(trial, question, place)
                reply = await self.ask("POST", "/api/answer", sent)
                assert reply["stored"]["choice"] == sent["choice"]
                self.acknowledged.append((trial["trial"], question, sent["choice"]))
        assert (await self.ask("POST", "/api/finish"))["state"] == "complete"


async def crowd(
    server: Server, count: int, first: int = 0, address: str = "127.0.0.1"
) -> list[Participant]:
    """Many who take part at once.

    Args:
        server: whose study.
        count: how many.
        first: number of the first; numbers are theirs alone.
        address: from where.
    """
    numbers = range(first, first + count)
    people = [Participant(Connection(server.port, address), i) for i in numbers]
    try:
        await asyncio.gather(*(person.take_part() for person in people))
    finally:
        for person in people:
            person.connection.close()
    return people


def check_all_is_there(study: Study, people: list[Participant]) -> None:
    """Every acknowledged answer is in the database, none twice, and nothing else."""
    with Store(study.folder / "answers.sqlite3") as store:
        rows = store.answers().to_pylist()
        persons = store.participants().to_pylist()
    names = {x["participant"]: x["prolific_pid"] for x in persons}
    stored = [(names[x["participant"]], x["trial"], x["question"], x["choice"]) for x in rows]
    acknowledged = [(person.pid, *x) for person in people for x in person.acknowledged]
    assert len(stored) == len(people) * 2 * len(study.trials)
    assert len(set(stored)) == len(stored)
    assert set(stored) == set(acknowledged)
    assert sorted(x["number"] for x in persons) == list(range(len(people)))
    assert {x["state"] for x in persons} == {"complete"}
    # Each saw what the study says for their number.
    order = {
        (number, x.trial.id): x.choices
        for number in range(len(people))
        for block in study.session(number)
        for x in block.trials
    }
    for row in rows:
        assert order[row["number"], row["trial"]][row["place"]] == row["choice"]
        right = study.trial(row["trial"]).answer(row["question"])
        assert row["correct"] == (row["choice"] == right)
    connection = sqlite3.connect(study.folder / "answers.sqlite3")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
