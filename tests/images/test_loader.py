"""The one loop over images: streams in threads, batches in groups, all that cannot be read."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.support.image_files import BAD, READABLE, in_new_interpreter, numbered

import opponent
from opponent import open_images, scan_images
from opponent.core.errors import Unreadable
from opponent.images import loader
from opponent.images.decode import Fit
from opponent.images.imageset import ImageEntry
from opponent.images.loader import stream


def pixel(n: int) -> np.ndarray:
    return np.full((1, 1, 3), n, dtype=np.uint8)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("what the test waits for did not happen")


# # Streams


@pytest.mark.parametrize(("workers", "ahead"), [(None, 64), (1, 1), (4, 3), (9, 100)])
def test_stream_keeps_the_order(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, ahead: int
) -> None:
    def uneven(item: ImageEntry, _fit: Fit) -> np.ndarray:
        number = int(item.id)
        time.sleep(0.002 * (number % 3))
        if number == 5:
            raise Unreadable("the fifth")
        return pixel(number)

    monkeypatch.setattr(loader, "load_image", uneven)
    results = list(stream(numbered(20), Fit(size=(1, 1)), workers=workers, ahead=ahead))
    failed = results.pop(5)
    assert isinstance(failed, Unreadable)
    assert failed.reason == "the fifth"
    assert failed.__traceback__ is None
    assert [int(r[0, 0, 0]) for r in results] == [n for n in range(20) if n != 5]


def test_stream_of_nothing_is_nothing() -> None:
    assert list(stream([], Fit(size=(1, 1)))) == []


def test_stream_never_holds_more_than_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counting(item: ImageEntry, _fit: Fit) -> np.ndarray:
        decoded.append(int(item.id))
        return pixel(int(item.id))

    monkeypatch.setattr(loader, "load_image", counting)
    total, ahead = 30, 7
    for consumed, _ in enumerate(stream(numbered(total), Fit(size=(1, 1)), workers=3, ahead=ahead)):
        # all that may be decoded will be, and no more: the one in hand counts
        wait_until(lambda: len(decoded) >= min(total, consumed + ahead))  # noqa: B023
        assert len(decoded) <= consumed + ahead


def test_closing_the_stream_stops_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def gated(item: ImageEntry, _fit: Fit) -> np.ndarray:
        begun.append(int(item.id))
        if int(item.id) > 0:
            gate.wait()
        return pixel(int(item.id))

    monkeypatch.setattr(loader, "load_image", gated)
    before = set(threading.enumerate())
    running = stream(numbered(50), Fit(size=(1, 1)), workers=2, ahead=20)
    next(running)
    threads = set(threading.enumerate()) - before
    wait_until(lambda: len(begun) == 3)
    running.close()
    gate.set()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(threads) == 2
    assert sorted(begun) == [0, 1, 2]


def test_an_interrupt_does_not_hang_the_interpreter() -> None:
    # The decodes under way would never end; the traceback keeps the generator from being closed.
    program = """
import threading
from pathlib import Path
import numpy as np
from opponent.images import loader
from opponent.images.decode import Fit
from opponent.images.imageset import ImageEntry

def load_image(entry, fit):
    if entry.id != "0":
        threading.Event().wait()
    return np.zeros((1, 1, 3), dtype=np.uint8)

loader.load_image = load_image
entries = [ImageEntry(id=str(n), path=Path("x")) for n in range(50)]
for image in loader.stream(entries, Fit(size=(1, 1))):
    raise KeyboardInterrupt
"""
    done = in_new_interpreter(program)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("options", [{"workers": 0}, {"ahead": 0}])
def test_stream_wants_at_least_one(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give at least 1 of each"):
        stream([], Fit(size=(1, 1)), **options)


def test_a_folder_of_all_of_them(tmp_path: Path) -> None:
    for name, (content, *_) in {**READABLE, **BAD}.items():
        (tmp_path / name).write_bytes(content)
    found = open_images(tmp_path)
    assert [item.id for item in found] == sorted(READABLE | BAD)
    results = list(stream(found, Fit(size=(8, 5)), workers=3, ahead=4))
    pairs = zip(found, results, strict=True)
    assert {item.id for item, result in pairs if isinstance(result, Unreadable)} == set(BAD)
    assert {r.shape for r in results if isinstance(r, np.ndarray)} == {(8, 5, 3)}


def test_drafts_of_odd_and_bad_files(tmp_path: Path) -> None:
    for name, (content, *_) in {**READABLE, **BAD}.items():
        (tmp_path / name).write_bytes(content)
    found = open_images(tmp_path)
    plain, draft = (list(stream(found, Fit(size=(5, 8), draft=choice))) for choice in (False, True))
    changed = set()
    for item, one, other in zip(found, plain, draft, strict=True):
        if isinstance(one, Unreadable):
            assert isinstance(other, Unreadable)
            assert other.reason == one.reason
        else:
            assert np.abs(other.astype(int) - one).max() <= 8
            changed |= {item.id} if (other != one).any() else set()
    assert "rgb.jpg" in changed


def test_a_scan_goes_on_past_all_of_them(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, (content, *_) in {**READABLE, **BAD}.items():
        (pictures / name).write_bytes(content)
    run = scan_images(opponent.load(), pictures, "mixed3a:5", "conv2d2", out=tmp_path / "run")
    assert set(run.columns().images) == set(READABLE)
    assert run.unreadable().keys() == BAD.keys()
    for name, reason in run.unreadable().items():
        assert re.search(BAD[name][1], reason)
    lines = (tmp_path / "run" / "unreadable.csv").read_text().splitlines()
    assert len(lines) == 1 + len(BAD)
