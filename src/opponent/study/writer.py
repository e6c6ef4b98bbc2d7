"""One thread that writes: all that wait together are stored by one commit."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from opponent.study.store import Store

T = TypeVar("T")

# A disk takes some milliseconds for a commit, however much it holds.
MOST = 256

_Task = tuple[Callable[[], Any], "Future[Any]"]


class Writer:
    """Does what is asked of a store, in the order asked, and tells only when it is on the disk.

    Args:
        store: where answers go.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    async def do(self, act: Callable[[], T]) -> T:
        """What `act` returns or raises, after the commit."""
        future: Future[T] = Future()
        self._tasks.put((act, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Do what was asked before, and end."""
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        open = True
        while open:
            task = self._tasks.get()
            tasks: list[_Task] = []
            while task is not None:
                tasks.append(task)
                if len(tasks) == MOST:
                    break
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    break
            open = task is not None
            # Whose client went away before its turn is left out.
            if tasks := [x for x in tasks if x[1].set_running_or_notify_cancel()]:
                self._together(tasks)

    def _together(self, tasks: list[_Task]) -> None:
        done: list[tuple[Any, Exception | None]] = []
        try:
            with self.store.transaction():
                done = [_tried(act) for act, _ in tasks]
        except Exception as error:
            # Nothing was stored: each is told so, and sends it again.
            done = [(None, error)] * len(tasks)
        for (_, future), (value, problem) in zip(tasks, done, strict=True):
            if problem is None:
                future.set_result(value)
            else:
                future.set_exception(problem)


def _tried(act: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return act(), None
    except Exception as error:
        return None, error
