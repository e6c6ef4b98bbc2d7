"""Pixels that all threads together decode: bounded, and the bound on one image can be moved."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.image_files import in_new_interpreter

from opponent import Preprocessing, Unreadable, open_images
from opponent.images import decode as decoding
from opponent.images.budget import Budget
from opponent.images.decode import load_image, shape_of
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry
from opponent.images.loader import stream


class Watched(Budget):
    """A budget that knows how much was held at most, and by how many at once."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.most, self.asked = 0, list[int]()

    def held(self, pixels: int):  # type: ignore[no-untyped-def]
        watched = super().held(pixels)
        budget = self

        class Held:
            def __enter__(self) -> None:
                watched.__enter__()
                budget.asked.append(pixels)
                budget.most = max(budget.most, budget._used)
                time.sleep(0.001)

            def __exit__(self, *error: object) -> None:
                watched.__exit__(None, None, None)

        return Held()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty small pictures of several formats, and one that is as large as all of them."""
    rng = np.random.default_rng(0)
    for number in range(20):
        name = tmp_path / f"{number:02d}.{('png', 'jpg', 'webp', 'gif')[number % 4]}"
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(name)
    Image.fromarray(rng.integers(0, 256, (200, 150, 3), np.uint8)).save(tmp_path / "07-large.png")
    np.save(tmp_path / "08-array.npy", rng.integers(0, 256, (30, 40, 3), np.uint8))
    np.savez_compressed(tmp_path / "09-packed.npz", rng.integers(0, 256, (30, 40, 3), np.uint8))
    return tmp_path


def test_threads_share_a_budget(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)
    paths = sorted(pictures.iterdir())
    entries = [ImageEntry(id=path.name, path=path) for path in paths]
    fit = Fit(size=(6, 8))
    alone = [load_image(entry, fit) for entry in entries]
    budget = Watched(3000)
    monkeypatch.setattr(decoding, "DECODING", budget)
    together = list(stream(entries, fit, workers=8))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(budget.asked) == len(entries)
    # What is larger than all of the budget went alone.
    assert sorted(budget.asked)[-2:] == [30_000, 100_000]
    assert budget.most == 100_000
    assert budget._used == 0
    small = Watched(3000)
    monkeypatch.setattr(decoding, "DECODING", small)
    list(stream([x for x in entries if "-" not in x.id], fit, workers=8))
    assert small.most == 2400  # two of 1,200 at a time


def test_an_image_that_fails_gives_its_pixels_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Watched(10**6)
    monkeypatch.setattr(decoding, "DECODING", budget)
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:-40])
    with pytest.raises(Unreadable, match="truncated"):
        load_image(ImageEntry(id="a", path=tmp_path / "a.png"), Fit(size=(4, 4)))
    assert budget.asked == [8100]
    assert budget._used == 0


def test_who_wants_more_than_there_is_waits_until_nobody_holds_any() -> None:
    budget, order, inside = Budget(10), list[str](), threading.Event()

    def large() -> None:
        inside.set()
        with budget.held(50):
            order.append("large")

    thread = threading.Thread(target=large)
    with budget.held(4):
        thread.start()
        inside.wait()
        time.sleep(0.02)
        order.append("small")
    thread.join(timeout=30)
    assert order == ["small", "large"]


def test_small_files_do_not_take_gigabytes(tmp_path: Path) -> None:
    """Eight 16-bit files of a few kilobytes, each of 30 megapixels, by eight threads."""
    Image.fromarray(np.full((5500, 5500), 40_000, np.uint16)).save(tmp_path / "0.png")
    for number in range(1, 8):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    program = f"""
import resource
from pathlib import Path
from opponent.images.fit import Fit
from opponent.images.loader import stream
from opponent.images.sources import open_images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = list(stream(open_images(Path({str(tmp_path)!r})).entries, Fit(size=(8, 8)), workers=8))
assert [int(x.mean()) for x in images] == [156] * 8, images
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    done = in_new_interpreter(program)
    assert done.returncode == 0, done.stderr
    # Nearly three of them at a time, at seven bytes a pixel; without a budget it was 4.5 GB.
    assert int(done.stdout) < 1e9


def test_the_largest_image_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((20, 30, 3), np.uint8))
    entries = open_images([str(tmp_path / "a.png"), str(tmp_path / "b.npy")]).entries
    for entry in entries:
        with pytest.raises(Unreadable, match=r"larger than 0 megapixels \(30 x 20\)"):
            load_image(entry, Fit(size=(4, 4), largest=599))
        assert load_image(entry, Fit(size=(4, 4), largest=600)).shape == (4, 4, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    for entry in entries:
        with pytest.raises(Unreadable, match="larger than"):
            load_image(entry, Fit(size=(4, 4)))
        assert load_image(entry, Preprocessing(size=(4, 4), largest=600).fit).shape == (4, 4, 3)
        with pytest.raises(Unreadable, match="larger than"):
            shape_of(entry)
    with pytest.raises(ValueError, match="largest 0 is in pixels"):
        Preprocessing(largest=0)
