"""Progress: one shape of callback, and the display that appears where none is given."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from typing import Any, TypeVar, cast

from opponent.core.text import printable

# Called with what is being done, the steps done and the steps in all.
Progress = Callable[[str, int, int], None]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Seconds before anything is shown, and between two lines where bars cannot be drawn.
DELAY, PAUSE = 2.0, 60.0


def silent(what: str, done: int, total: int) -> None:
    """Progress that shows nothing.

    Args:
        what: what is being done.
        done: steps done.
        total: steps in all.

    >>> import opponent, torch
    >>> image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> opponent.attribute(
    ...     "inceptionv1-small", image, "mixed3b:189", "mixed3a", progress=opponent.silent)
    Attribution('mixed3b:189@7,7' through 'mixed3a': 1 image)
    """


@contextmanager
def shown(progress: Progress | None, *, delay: float = DELAY) -> Iterator[Progress]:
    """The caller's progress; where there is none, a display for as long as the block runs.

    In a terminal, and in a notebook that has ipywidgets, it is a bar with an estimate; elsewhere,
    as in a log file, a line a minute on standard error.

    Args:
        progress: the caller's.
        delay: seconds before the display appears.
    Returns:
        A context manager that gives the progress to call.
    """
    if progress is not None:
        yield progress
        return
    display = Display(delay)
    try:
        yield display
    finally:
        display.close()


def displayed(function: _Function) -> _Function:
    """Give a function a display for its `progress`, where the caller gives it none.

    The function's `progress` is a keyword argument; it is never None inside.

    Args:
        function: what gets the display.
    """

    @wraps(function)
    def with_display(*args: Any, progress: Progress | None = None, **named: Any) -> Any:
        with shown(progress) as report:
            return function(*args, progress=report, **named)

    return cast(_Function, with_display)


class Display:
    """Bars, one for each thing that is being done, or a line a minute where there is no terminal.

    Args:
        delay: seconds before it appears.
    """

    def __init__(self, delay: float = DELAY) -> None:
        self._begun = self._last = time.monotonic()
        self._delay = delay
        self._latest: dict[str, tuple[int, int]] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it, or keep it until the delay is over.

        Args:
            what: what is being done.
            done: steps done.
            total: steps in all.
        """
        now = time.monotonic()
        self._latest[what] = done, total
        self._first.setdefault(what, (now, done))
        if now - self._begun < self._delay:
            return
        if _draws_bars():
            self._draw()
        elif now - self._last >= PAUSE:
            self._last = now
            print(printable(self._line(what, now)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bars down; the last state of them stays on the screen."""
        if self._bars is not None:
            self._draw()
            self._bars.stop()

    def _draw(self) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        for what, (done, total) in self._latest.items():
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(printable(what), total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)

    def _line(self, what: str, now: float) -> str:
        done, total = self._latest[what]
        begun, before = self._first[what]
        line = f"{what}: {done:,} of {total:,}"
        if done > before:
            left = (now - begun) / (done - before) * (total - done)
            line += f", about {max(1, round(left / 60))} min left"
        return line


def _draws_bars() -> bool:
    from rich.console import Console

    console = Console(stderr=True)
    # Without ipywidgets rich only warns in a notebook.
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    return console.is_terminal or in_notebook


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
