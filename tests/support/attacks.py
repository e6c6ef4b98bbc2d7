"""Damaged run folders, directions and studies, and everything that reads them."""

import contextlib
import io
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image
from tests.support.mutations import mutations
from tests.support.study import small_study

import opponent
from opponent.__main__ import _expected
from opponent.cli import app

UNIT = "mixed3b:189"
# Seconds of processor time after which a reader counts as hanging.
PATIENCE = 30
Reader = tuple[str, Callable[[], object]]


class Hangs(BaseException):
    """What a reader is stopped with."""


@dataclass
class Outcome:
    """What readers made of damaged files.

    Args:
        counts: how many were 'read', 'refused' in one line, or anything else.
        wrong: of what is neither, the reader, the damage and what happened.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def attempt(self, name: str, damage: str, read: Callable[[], object]) -> None:
        """Let one reader read."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            raise Hangs

        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, PATIENCE)
        silence = io.StringIO()
        try:
            with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                read()
            kind = "read"
        except SystemExit as end:
            kind = "read" if not end.code else "refused"
        except Hangs:
            kind = "hangs"
        except Exception as error:
            lines = str(error).splitlines()
            one = _expected(error) and len(lines) == 1
            kind = "refused" if one else f"{type(error).__name__}: {lines[:2]}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        if kind not in ("read", "refused"):
            self.wrong.append(f"{name}, {damage}: {kind}")
            kind = "wrong"
        self.counts[kind] += 1


def make_run(folder: Path) -> Path:
    """A run of two features and all units, with an atlas and inversions."""
    (folder / "in").mkdir(parents=True)
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 44, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"{number:02d}.png")
    run = opponent.scan_images(
        "inceptionv1-small", folder / "in", [UNIT, "mixed3b:7", "mixed3b:*"], "mixed3a",
        out=folder / "run", batch_size=4, shard_size=8,
    )  # fmt: skip
    settings = opponent.AtlasSettings(grid=2, min_images=1, neighbours=5, steps=2)
    opponent.make_atlas(run, UNIT, settings=settings)
    command("invert", folder / "run", "--feature", UNIT, "--image", "01.png", "--steps", "2")
    return folder / "run"


def command(*words: object) -> None:
    """Give a command in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        app([str(word) for word in words], standalone_mode=False)


def run_readers(folder: Path) -> Iterator[Reader]:
    """All that reads a run without its network."""
    run = opponent.Run
    yield "columns", lambda: run(folder).columns(UNIT)
    yield "channel_sides", lambda: run(folder).channel_sides(UNIT)
    yield "rows of channels", lambda: run(folder).channels(UNIT, rows=np.array([3, 1]))
    yield "exemplars", lambda: run(folder).exemplars(3)
    yield "unreadable", lambda: run(folder).unreadable()
    yield "summary", lambda: run(folder).summary()
    yield "units", lambda: run(folder).units()
    yield "images", lambda: run(folder).images
    yield "its page in a notebook", lambda: run(folder)._repr_html_()
    yield "select", lambda: opponent.select(run(folder).columns(UNIT), k=3)
    yield (
        "atlases",
        lambda: [
            (x.map, x.cells, x.mosaic(), x._repr_html_()) for x in opponent.atlases(run(folder))
        ],
    )
    yield "who", lambda: opponent.who(run(folder), feature=UNIT)


def run_commands(folder: Path, out: Path) -> list[tuple[str, ...]]:
    """Commands that read a run, and the scan that goes on in it."""
    images = folder.parent / "in"
    words: list[tuple[Any, ...]] = [
        ("select", folder, "--feature", UNIT, "--csv", out / "a.csv"),
        ("units", folder, "--score", "tension"),
        ("who", folder, "--feature", UNIT),
        ("figures", folder, "--feature", UNIT, "--out", out / "f"),
        ("explore", folder, "--out", out / "e.html"),
        ("invert", folder, "--feature", UNIT, "--image", "01.png", "--steps", 2),
        ("scan", "inceptionv1-small", UNIT, "mixed3b:7", "mixed3b:*", "--through", "mixed3a",
         "--images", images, "--out", folder, "--batch-size", 4, "--shard-size", 8),
    ]  # fmt: skip
    return [tuple(map(str, each)) for each in words]


def make_study(folder: Path) -> Path:
    """A study of one trial of each kind a layer."""
    return small_study(folder, features=1).folder


def study_readers(folder: Path) -> Iterator[Reader]:
    """All that reads a study."""
    from opponent.study.server.server import create_app

    def serve() -> None:
        application = create_app(folder)
        application.state.experiment.store.close()

    yield "study", lambda: opponent_study(folder)
    yield "server", serve


def opponent_study(folder: Path) -> object:
    """Everything of a study, read."""
    from opponent.study.design.study import Study

    study = Study(folder)
    return [study.session(number) for number in range(3)]


def direction_readers(file: Path) -> Iterator[Reader]:
    """All that reads directions."""
    load = opponent.Directions.load
    yield "load", lambda: load(file)
    yield "features", lambda: load(file).features(["mixed3b:*"])


def attack(
    make: Iterable[tuple[str, bytes]],
    write: Callable[[bytes], None],
    readers: Callable[[], Iterable[Reader]],
    outcome: Outcome,
    name: str,
) -> None:
    """Let all readers read each damaged file.

    Args:
        make: the damages, with their names.
        write: puts a damaged file in its place.
        readers: what reads.
        outcome: what happened is added to it.
        name: of the file.
    """
    for damage, content in make:
        write(content)
        for reader, read in readers():
            outcome.attempt(reader, f"{name}: {damage}", read)


def attack_folder(
    folder: Path,
    work: Path,
    readers: Callable[[Path], Iterable[Reader]],
    *,
    each: int,
    seed: int,
) -> Outcome:
    """Damage files of a folder, one at a time.

    Args:
        folder: the good one.
        work: where a copy is damaged, beside what the folder's files name.
        readers: given the damaged folder, what reads it.
        each: damages of a file.
        seed: of the choice of damages.
    """
    random, outcome = np.random.default_rng(seed), Outcome()
    seen = Counter[tuple[str, str]]()
    for path in sorted(folder.rglob("*")):
        kind = ("" if path.suffix == ".png" else path.parent.name, path.suffix)
        seen[kind] += path.is_file()
        if not path.is_file() or path.suffix == ".csv" or seen[kind] > 2:
            continue
        copy = work / folder.name

        def write(content: bytes, copy: Path = copy, path: Path = path) -> None:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            (copy / path.relative_to(folder)).write_bytes(content)

        damages = mutations(path.name, path.read_bytes(), random, each)
        name = str(path.relative_to(folder))
        attack(damages, write, lambda copy=copy: readers(copy), outcome, name)  # type: ignore[misc]
    return outcome
