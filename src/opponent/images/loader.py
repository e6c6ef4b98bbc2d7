"""The one loop over images: decode in threads, batch, skip what cannot be read."""

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from threading import Thread

import numpy as np
from jaxtyping import Float32, UInt8

from opponent.core.errors import Unreadable
from opponent.images.decode import Loaded, load_with_content
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry
from opponent.images.values import Decoded

_Job = tuple[Future[Loaded], ImageEntry]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images that go through a network together.

    Args:
        group: the number of the group that they belong to.
        numbers: their places among the entries.
        pixels: the images.
        unreadable: reasons by place, of the images since the batch before that cannot be read.
        contents: digests by place, of all images since the batch before.
        done: how many entries have been worked on, this batch's among them.
        ends_group: whether it is the last batch of its group.
    """

    group: int
    numbers: tuple[int, ...]
    pixels: UInt8[np.ndarray, "n h w 3"] | Float32[np.ndarray, "n h w c"]
    unreadable: dict[int, str] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    done: int
    ends_group: bool


def load_batches(
    entries: Sequence[ImageEntry],
    fit: Fit,
    *,
    batch_size: int,
    groups: Sequence[int] | None = None,
) -> Generator[Batch, None, None]:
    """Load images in batches, in order.

    Args:
        entries: what to load.
        fit: the size of the results.
        batch_size: images that can be read in a batch, but for the last of a group.
        groups: how many entries each group has, one group after the other; a batch holds images of
            one group. Default: all entries are one group.
    Returns:
        Batches. The last of a group always comes, with no image if none is left. Closing the
        generator drops what has not begun.
    """
    loaded = _stream(entries, fit, _threads(None), max(64, 2 * batch_size))
    end = 0
    with closing(loaded):
        for group, length in enumerate([len(entries)] if groups is None else groups):
            gathered = _Gathered(group, fit)
            end += length
            for number in range(end - length, end):
                gathered.add(number, next(loaded))
                if len(gathered.pixels) == batch_size and number < end - 1:
                    yield gathered.batch(number + 1)
                    gathered = _Gathered(group, fit)
            yield gathered.batch(end, ends_group=True)


class _Gathered:
    """What a batch will hold."""

    def __init__(self, group: int, fit: Fit) -> None:
        self.group, self.fit = group, fit
        self.numbers, self.pixels = list[int](), list[np.ndarray]()
        self.unreadable, self.contents = dict[int, str](), dict[int, bytes]()

    def add(self, number: int, loaded: Loaded) -> None:
        self.contents[number] = loaded.content
        if isinstance(loaded.image, Unreadable):
            self.unreadable[number] = loaded.image.reason
        else:
            self.numbers.append(number)
            self.pixels.append(loaded.image)

    def batch(self, done: int, *, ends_group: bool = False) -> Batch:
        fit = self.fit
        kind = np.uint8 if fit.in_bytes else np.float32
        nothing = np.empty((0, *fit.size, fit.channels), kind)
        return Batch(
            group=self.group,
            numbers=tuple(self.numbers),
            pixels=np.stack(self.pixels) if self.pixels else nothing,
            unreadable=self.unreadable,
            contents=self.contents,
            done=done,
            ends_group=ends_group,
        )


def load_images(
    entries: Sequence[ImageEntry], fit: Fit, *, problem: str = "cannot be read"
) -> Iterator[Decoded]:
    """Load images one after another, all of which must be readable.

    Args:
        entries: what to load.
        fit: the size of the results.
        problem: what the error says of an image that cannot be read.
    Raises:
        Unreadable: an image cannot be read.
    """
    with closing(stream(entries, fit)) as loaded:
        for entry, image in zip(entries, loaded, strict=True):
            if isinstance(image, Unreadable):
                raise Unreadable(f"{entry.where} {problem}: {image.reason}")
            yield image


def stream(
    entries: Sequence[ImageEntry], fit: Fit, *, workers: int | None = None, ahead: int = 64
) -> Generator[Decoded | Unreadable, None, None]:
    """Load images in order, in threads, while the consumer works on earlier ones.

    Threads, not processes, which also can die or be left behind. On two cores processes took 1.2 to
    1.5 times the processor time of threads (they send pixels and are told of files), which a scan
    there takes from the network. Pillow decodes and resizes without the interpreter's lock; what
    needs it takes 0.3 to 0.6 ms of 1.9 to 2.4 ms an image (photographs of 320 pixels to 224), or
    0.1 to 0.25 of 0.2 to 0.33 ms (64 to 64). So threads stop at about 1,700 to 3,000 images a
    second, or 4,000 to 9,000: only a network that is faster would gain by processes.

    Args:
        entries: what to load.
        fit: the size of the results.
        workers: threads; by default one a processor, but at most 8.
        ahead: how many images may be in memory at once, counting the one that the consumer has.
    Returns:
        An array, or an `Unreadable`, for each entry. Closing the generator drops what has not
        begun, and no thread delays the end of the interpreter.
    Raises:
        ValueError: workers or ahead below 1.
    """
    threads = _threads(workers)
    if threads < 1 or ahead < 1:
        raise ValueError(f"workers {threads} and ahead {ahead}: give at least 1 of each")
    return _images_alone(_stream(entries, fit, threads, ahead))


def _threads(workers: int | None) -> int:
    return min(8, os.cpu_count() or 1) if workers is None else workers


def _images_alone(
    loaded: Generator[Loaded, None, None],
) -> Generator[Decoded | Unreadable, None, None]:
    with closing(loaded):
        for image, _ in loaded:
            yield image


def _stream(
    entries: Sequence[ImageEntry], fit: Fit, threads: int, ahead: int
) -> Generator[Loaded, None, None]:
    jobs: SimpleQueue[_Job | None] = SimpleQueue()
    pending: deque[Future[Loaded]] = deque()
    waiting = iter(entries)

    def submit(count: int) -> None:
        for entry in islice(waiting, count):
            pending.append(Future())
            jobs.put((pending[-1], entry))

    # Daemons and no executor: at its end the interpreter waits until an executor's queue is empty.
    for _ in range(threads):
        Thread(target=_work, args=(jobs, fit), daemon=True).start()
    try:
        submit(ahead)
        while pending:
            yield pending.popleft().result()
            submit(1)
    finally:
        for future in pending:
            future.cancel()
        for _ in range(threads):
            jobs.put(None)


def _work(jobs: SimpleQueue[_Job | None], fit: Fit) -> None:
    while (job := jobs.get()) is not None:
        future, entry = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(load_with_content(entry, fit))
            except BaseException as error:
                future.set_exception(error)
        del job, future
