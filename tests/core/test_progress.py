"""Progress: nothing for two seconds, then bars in a terminal and a line a minute elsewhere."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import SimpleNamespace

import pytest

from opponent.core import progress as module
from opponent.core.progress import DELAY, PAUSE, Display, Progress, shown, silent


class Clock:
    """Time as the tests set it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


@contextmanager
def displayed(file: io.StringIO, **options: float) -> Iterator[Progress]:
    """The display, with a file as standard error. pytest sets it anew after all fixtures."""
    with redirect_stderr(file), shown(None, **options) as report:
        yield report


def plain(text: str) -> str:
    """What a terminal shows, without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    silent("scanning", 3, 10)
    with shown(silent) as report:
        assert report is silent
        report("scanning", 3, 10)
    assert capsys.readouterr() == ("", "")


def test_the_callers_own_progress_is_called_as_it_is(clock: Clock) -> None:
    calls, terminal = list[tuple[str, int, int]](), Terminal()
    with redirect_stderr(terminal), shown(lambda *step: calls.append(step)) as report:
        clock.now += 100
        report("scanning", 3, 10)
    assert calls == [("scanning", 3, 10)]
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("file", [Terminal(), io.StringIO()])
def test_what_is_quick_shows_nothing(file: io.StringIO, clock: Clock) -> None:
    threads = threading.active_count()
    with displayed(file) as report:
        for done in range(20):
            report("scanning", done, 20)
            clock.now += (DELAY - 0.01) / 20
        assert file.getvalue() == ""
        assert threading.active_count() == threads
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar_after_two_seconds(clock: Clock) -> None:
    terminal = Terminal()
    with displayed(terminal) as report:
        report("scanning", 1, 20)
        clock.now += DELAY
        report("scanning", 4, 20)
        assert terminal.getvalue() != ""
        report("scanning", 20, 20)
    text = plain(terminal.getvalue())
    assert "scanning" in text
    # The last state stays on the screen.
    assert text.rstrip().splitlines()[-1].count("20/20") == 1


def test_each_thing_has_a_bar_of_its_own(clock: Clock) -> None:
    terminal = Terminal()
    with displayed(terminal) as report:
        report("images [1]", 7, 7)  # before the delay is over
        clock.now += DELAY
        report("units", 1, 3)
        report("icons", 0, 9)
        report("units", 2, 3)
    last = plain(terminal.getvalue()).rstrip().splitlines()[-3:]
    for line, what, count in zip(
        last, ("images [1]", "units", "icons"), ("7/7", "2/3", "0/9"), strict=True
    ):
        assert line.startswith(what)
        assert count in line


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_takes_the_bars_down(error: type[BaseException], clock: Clock) -> None:
    terminal = Terminal()
    threads = set(threading.enumerate())

    def fail() -> None:
        with displayed(terminal) as report:
            clock.now += DELAY
            report("scanning", 4, 20)
            raise error("stop")

    with pytest.raises(error, match="stop"):
        fail()
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert "4/20" in plain(terminal.getvalue())
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_a_log_file_gets_a_line_a_minute(clock: Clock) -> None:
    log = io.StringIO()
    with displayed(log) as report:
        for second in range(3 * int(PAUSE) + 30):
            report("scanning", second, 1000)
            clock.now += 1
    assert log.getvalue().splitlines() == [
        "scanning: 60 of 1,000, about 16 min left",
        "scanning: 120 of 1,000, about 15 min left",
        "scanning: 180 of 1,000, about 14 min left",
    ]


def test_a_line_tells_time_from_what_this_run_did(clock: Clock) -> None:
    log = io.StringIO()
    report = Display()
    with redirect_stderr(log):
        # 600 were there before, and 60 more took a minute: 340 take five and a half.
        report("scanning", 600, 1000)
        clock.now += PAUSE
        report("scanning", 660, 1000)
        # Nothing was done yet, so nothing is known.
        clock.now += PAUSE
        report("mapping", 0, 5)
        # Less than a minute counts as one.
        clock.now += PAUSE
        report("scanning", 999, 1000)
        report.close()
    assert log.getvalue().splitlines() == [
        "scanning: 660 of 1,000, about 6 min left",
        "mapping: 0 of 5",
        "scanning: 999 of 1,000, about 1 min left",
    ]


def test_another_delay(clock: Clock) -> None:
    terminal = Terminal()
    with displayed(terminal, delay=0.0) as report:
        report("scanning", 1, 20)
        assert terminal.getvalue() != ""
    with displayed(terminal, delay=60.0) as report:
        before = terminal.getvalue()
        clock.now += 59
        report("scanning", 1, 20)
        assert terminal.getvalue() == before
