"""One thread that writes: all tasks that wait together are stored by one commit."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from opponent.study.server.store import Store

T = TypeVar("T")

# Largest number of tasks in a commit. A disk takes some milliseconds for each commit, however much
# it holds.
MOST = 256

_Task = tuple[Callable[[], Any], "Future[Any]"]


class Writer:
    """Runs actions of a store in their order, and reports each when it is on the disk.

    Args:
        store: where answers go.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    async def do(self, act: Callable[[], T]) -> T:
        """Run `act`, and return or raise what it does once its changes are committed."""
        future: Future[T] = Future()
        self._tasks.put((act, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the actions that wait, and end the thread."""
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
            # Tasks whose client went away before their turn are left out.
            if tasks := [x for x in tasks if x[1].set_running_or_notify_cancel()]:
                self._together(tasks)

    def _together(self, tasks: list[_Task]) -> None:
        done: list[tuple[Any, Exception | None]] = []
        try:
            with self.store.transaction():
                done = [_tried(act) for act, _ in tasks]
        except Exception as error:
            # Nothing was stored: all clients learn so, and send their requests again.
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
