"""The one loop over images: streams in threads, batches in groups, all that cannot be read."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.image_files import BAD, READABLE, in_new_interpreter, numbered

import opponent
from opponent import open_images, scan_images
from opponent.core.errors import Unreadable
from opponent.images import loader
from opponent.images.decode import Loaded
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry
from opponent.images.loader import Batch, load_batches, load_images, stream


def pixel(n: int) -> np.ndarray:
    return np.full((1, 1, 3), n, dtype=np.uint8)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("what the test waits for did not happen")


def stand_in(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[ImageEntry, Fit], np.ndarray]
) -> None:
    """What loads an image, for tests without files."""

    def load_with_content(item: ImageEntry, fit: Fit) -> Loaded:
        try:
            return Loaded(load(item, fit), item.id.encode())
        except Unreadable as error:
            return Loaded(Unreadable(error.reason), b"")

    monkeypatch.setattr(loader, "load_with_content", load_with_content)


# Streams


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

    stand_in(monkeypatch, uneven)
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

    stand_in(monkeypatch, counting)
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

    stand_in(monkeypatch, gated)
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
from opponent.images.decode import Loaded
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry

def load_image(entry, fit):
    if entry.id != "0":
        threading.Event().wait()
    return Loaded(np.zeros((1, 1, 3), dtype=np.uint8), b"")

loader.load_with_content = load_image
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


# Batches


class Pictures:
    """Stands in for files: the images of some numbers cannot be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, unreadable: set[int]) -> None:
        self.loaded: list[int] = []
        self.unreadable = unreadable
        stand_in(monkeypatch, self.load)

    def load(self, item: ImageEntry, _fit: Fit) -> np.ndarray:
        number = int(item.id)
        self.loaded.append(number)
        if number in self.unreadable:
            raise Unreadable(f"number {number}")
        return pixel(number)


def batches(count: int, **options: object) -> list[Batch]:
    return list(load_batches(numbered(count), Fit(size=(1, 1)), **options))


def test_batches_of_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures(monkeypatch, {1, 4, 6})
    first, second, last = batches(8, batch_size=2)
    assert (first.numbers, first.unreadable) == ((0, 2), {1: "number 1"})
    assert (second.numbers, second.unreadable) == ((3, 5), {4: "number 4"})
    assert (last.numbers, last.unreadable) == ((7,), {6: "number 6"})
    assert [x.done for x in (first, second, last)] == [3, 6, 8]
    assert [x.ends_group for x in (first, second, last)] == [False, False, True]
    assert {x.group for x in (first, second, last)} == {0}
    assert second.pixels[:, 0, 0].tolist() == [[3, 3, 3], [5, 5, 5]]


def test_a_full_batch_may_be_the_last_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures(monkeypatch, set())
    first, last = batches(4, batch_size=2)
    assert (first.numbers, first.ends_group) == ((0, 1), False)
    assert (last.numbers, last.ends_group, last.done) == ((2, 3), True, 4)


def test_what_cannot_be_read_at_the_end_is_in_an_empty_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Pictures(monkeypatch, {2, 3})
    first, last = batches(4, batch_size=2)
    assert (first.numbers, first.done, first.ends_group) == ((0, 1), 2, False)
    assert (last.numbers, last.done, last.ends_group) == ((), 4, True)
    assert last.unreadable == {2: "number 2", 3: "number 3"}
    assert last.pixels.shape == (0, 1, 1, 3)


def test_a_group_that_cannot_be_read_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures(monkeypatch, {0, 1, 2})
    first, second = batches(5, batch_size=4, groups=[3, 2])
    assert (first.group, first.numbers, first.ends_group) == (0, (), True)
    assert first.unreadable == {n: f"number {n}" for n in range(3)}
    assert (second.group, second.numbers, second.unreadable) == (1, (3, 4), {})


def test_empty_groups_have_their_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures(monkeypatch, set())
    results = batches(2, batch_size=8, groups=[0, 2, 0])
    assert [(x.group, x.numbers, x.done, x.ends_group) for x in results] == [
        (0, (), 0, True),
        (1, (0, 1), 2, True),
        (2, (), 2, True),
    ]
    assert batches(0, batch_size=8, groups=[]) == []
    (only,) = batches(0, batch_size=8)
    assert (only.numbers, only.done, only.ends_group) == ((), 0, True)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.booleans(), max_size=9), max_size=5),
    st.integers(1, 5),
)
def test_batches_of_any_groups(
    monkeypatch: pytest.MonkeyPatch, groups: list[list[bool]], batch_size: int
) -> None:
    readable = [flag for group in groups for flag in group]
    Pictures(monkeypatch, {n for n, flag in enumerate(readable) if not flag})
    lengths = [len(group) for group in groups]
    results = batches(len(readable), batch_size=batch_size, groups=lengths)
    assert [n for x in results for n in x.numbers] == [n for n, flag in enumerate(readable) if flag]
    unreadable = {n: reason for x in results for n, reason in x.unreadable.items()}
    assert unreadable == {n: f"number {n}" for n, flag in enumerate(readable) if not flag}
    assert [x.group for x in results if x.ends_group] == [*range(len(groups))]
    ends, begin = np.cumsum(lengths).tolist(), 0
    for x in results:
        places = {*x.numbers, *x.unreadable}
        assert places == {*range(begin, x.done)}  # all that came since the batch before
        assert x.pixels[:, 0, 0, 0].tolist() == list(x.numbers)
        assert x.ends_group or len(x.numbers) == batch_size
        assert len(x.numbers) <= batch_size
        assert not x.ends_group or x.done == ends[x.group]
        begin = x.done


def test_closing_the_batches_stops_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(monkeypatch, set())
    before = set(threading.enumerate())
    running = load_batches(numbered(5000), Fit(size=(1, 1)), batch_size=3)
    assert next(running).numbers == (0, 1, 2)
    threads = set(threading.enumerate()) - before
    running.close()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(pictures.loaded) <= 3 + 64


def test_what_is_not_the_files_fault_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(_entry: ImageEntry, _fit: Fit) -> np.ndarray:
        raise MemoryError("no memory for this test")

    stand_in(monkeypatch, exhaust)
    with pytest.raises(MemoryError, match="no memory for this test"):
        batches(2, batch_size=2)
    with pytest.raises(MemoryError, match="no memory for this test"):
        next(load_images(numbered(2), Fit(size=(1, 1))))


# One image after another


def test_images_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures(monkeypatch, set())
    images = list(load_images(numbered(5), Fit(size=(1, 1))))
    assert [int(image[0, 0, 0]) for image in images] == [0, 1, 2, 3, 4]
    assert list(load_images([], Fit(size=(1, 1)))) == []


def test_one_that_cannot_be_read_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures(monkeypatch, {2})
    images = load_images(numbered(5), Fit(size=(1, 1)))
    assert [int(next(images)[0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(Unreadable, match=r"^2 cannot be read: number 2$") as caught:
        next(images)
    assert caught.value.reason == str(caught.value)
    assert list(images) == []
    with pytest.raises(Unreadable, match=r"^2 is gone: number 2$"):
        list(load_images(numbered(5), Fit(size=(1, 1)), problem="is gone"))


def test_an_image_that_is_no_file_is_named_by_its_id() -> None:
    def read(_id: str) -> Image.Image:
        raise ValueError("not today")

    item = ImageEntry(id="row 7", read=read)
    with pytest.raises(Unreadable, match=r"^row 7 cannot be read: not today$"):
        list(load_images([item], Fit(size=(1, 1))))


# Odd and bad files


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
