"""The thread that writes: what waits together is stored together."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable

from tests.support.study import begin, give

from opponent.study.design.study import Study
from opponent.study.server.store import Refused, Store
from opponent.study.server.writer import Writer


def together(store: Store, *acts: Callable[[], object]) -> list[object]:
    """What acts give or raise that are asked while the writer is busy."""
    busy, free = threading.Event(), threading.Event()

    async def main() -> list[object]:
        writer = Writer(store)
        first = asyncio.ensure_future(writer.do(lambda: (busy.set(), free.wait())))
        await asyncio.to_thread(busy.wait)
        others = [asyncio.ensure_future(writer.do(act)) for act in acts]
        await asyncio.sleep(0)
        free.set()
        await first
        replies = await asyncio.gather(*others, return_exceptions=True)
        writer.close()
        return list(replies)

    return asyncio.run(main())


def test_many_are_stored_together_and_each_fails_alone(store: Store, study: Study) -> None:
    """One commit for all that wait; what one is refused undoes nothing of the others'."""
    _, first = begin(store)
    _, second = begin(store)
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    store.database.connection.set_trace_callback(count)
    replies = together(
        store,
        lambda: give(store, study, first, 0, "mei", 1),
        lambda: give(store, study, first, 1, "mei", 1),
        lambda: give(store, study, second, 0, "mei", 2, number=1),
        lambda: store.end(first, "withdrawn"),
    )
    # And one of what they waited for.
    assert commits == 2
    assert [isinstance(x, Refused) for x in replies] == [False, True, False, False]
    assert [(x["number"], x["place"]) for x in store.answers().to_pylist()] == [(1, 2)]
    assert store.participants().column("state").to_pylist() == ["withdrawn", "started"]


def test_nothing_is_told_that_could_not_be_committed(store: Store, study: Study) -> None:
    _, id = begin(store)
    replies = together(
        store,
        lambda: give(store, study, id, 0, "mei", 1),
        lambda: store.database.connection.execute("ROLLBACK"),
    )
    assert [isinstance(x, sqlite3.OperationalError) for x in replies] == [True, True]
    assert len(store.answers()) == 0
    # The next is stored as ever.
    (given,) = together(store, lambda: give(store, study, id, 0, "mei", 1))
    assert isinstance(given, list)
    assert len(store.answers()) == 1
