"""Commands that are killed (SIGKILL) at random moments, until they end: the same bytes as unkilled.

    python -m benchmarks.kills --kills 120

Each command is given once undisturbed, which is timed. Then it is given again and again into
another folder, and killed after a random part of that time, until it ends by itself; the two
folders must then hold the same files with the same bytes. Commands take turns until there are
enough kills. The exit status is 1 if any differ.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

UNIT = "mixed3b:189"
MODEL = "inceptionv1-small"
QUICK = ["--steps", "2"]


def commands(images: Path, run: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Each command's words, given its folder; some go on in a copy of a run."""
    through = ["--through", "mixed3a", "--images", str(images)]
    shards = ["--batch-size", "4", "--shard-size", "4"]
    directions = [MODEL, "mixed3a", "--images", str(images), "-k", "6"]
    unique = ["--features", "2", "--kmeans", "6", "--layers", "mixed3b:mixed3a"]
    verify = ["--pair", "mixed3b:mixed3a", "--units", "1", "--tense", "2", *QUICK]
    return {
        "scan": lambda x: ["scan", MODEL, UNIT, *through, *shards, "--out", f"{x}/run"],
        "scan of all units": lambda x: [
            "scan", MODEL, UNIT, "mixed3b:*", *through, *shards, "--out", f"{x}/run"
        ],
        "scan by the mean": lambda x: [
            "scan", MODEL, UNIT, *through, *shards, "--rule", "integrated-mean/4",
            "--out", f"{x}/run",
        ],
        "invert": lambda x: [
            "invert", str(copied(run, x)), "--image", "01.png", "--image", "02.png", *QUICK
        ],
        "atlas": lambda x: [
            "atlas", str(copied(run, x)), "--grid", "3", "--min-images", "1", "--signed", *QUICK
        ],
        "directions": lambda x: ["directions", *directions, "--out", f"{x}/d.safetensors"],
        "uniqueness": lambda x: [
            "uniqueness", MODEL, "--images", str(images), *unique, "--out", f"{x}/out"
        ],
        "toy": lambda x: [
            "toy", "xor", "--hidden", "6,4", "--seeds", "3", "--steps", "400", "--out", f"{x}/out"
        ],
        "completeness": lambda x: [
            "completeness", MODEL, "--images", str(images), "--layer", "mixed3b", "--logits", "3",
            "--through", "mixed3a", "--batch-size", "4", "--out", f"{x}/out",
        ],
        "verify-inversions": lambda x: [
            "verify-inversions", MODEL, "--images", str(images), *verify, "--out", f"{x}/out"
        ],
    }  # fmt: skip


def copied(run: Path, folder: Path) -> Path:
    """A copy of the run in a folder, unless it is there."""
    if not (folder / "run").exists():
        shutil.copytree(run, folder / "copy", dirs_exist_ok=True)
        (folder / "copy").rename(folder / "run")
    return folder / "run"


def begin(words: list[str]) -> int:
    """Give a command in a child that has all modules already."""
    child = os.fork()
    if child:
        return child
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    said = os.dup(2)
    os.dup2(silence, 2)
    from opponent.cli import app

    code = 1
    try:
        code = int(app(words, standalone_mode=False) or 0)
    except Exception as error:
        os.write(said, f"{' '.join(words)}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def ended(child: int, until: float | None = None) -> bool | None:
    """Whether a child succeeded; None where it still runs at that time."""
    while until is None or time.monotonic() < until:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.002)
    return None


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def interrupted(
    words: Callable[[Path], list[str]], whole: Path, took: float
) -> tuple[int, list[str]]:
    """How often a command was killed until it ended, and the files that differ then."""
    killed = 0
    # In a folder of the same name, since some records name it.
    kept = whole.rename(whole.with_name("kept"))
    try:
        while True:
            child = begin(words(whole))
            # Longer and longer, for a moment before the first file is done would bring no end.
            wait = random.random() * took * (0.6 + 0.2 * killed)
            success = ended(child, time.monotonic() + wait)
            if success is not None:
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        if not success:
            return killed, ["it failed"]
        here, there = contents(whole), contents(kept)
        return killed, [
            name for name in here.keys() | there.keys() if here.get(name) != there.get(name)
        ]
    finally:
        shutil.rmtree(whole)
        kept.rename(whole)


def main() -> None:
    """Kill commands, and say how often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a command; default: all")
    options = parser.parse_args()
    random.seed(options.seed)
    torch.set_num_threads(1)  # a process that has threads cannot fork
    import scipy.stats  # noqa: F401
    import umap  # type: ignore[import-untyped]  # noqa: F401

    import opponent.cli  # noqa: F401

    wrong = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images = folder / "in"
        images.mkdir()
        for number in range(24):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 44, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{number:02d}.png")
        run, kills, counts = folder / "first" / "run", 0, dict[str, int]()
        assert ended(begin(commands(images, run)["scan"](run.parent)))
        given = commands(images, run)
        names = [name for name in given if not options.only or name in options.only]
        took = dict[str, float]()
        while kills < options.kills:
            for name in names:
                whole = folder / name.replace(" ", "-")
                if name not in took:
                    whole.mkdir()
                    start = time.monotonic()
                    if not ended(begin(given[name](whole))):
                        sys.exit(f"{name} failed undisturbed")
                    took[name] = time.monotonic() - start
                killed, different = interrupted(given[name], whole, took[name])
                counts[name] = counts.get(name, 0) + killed
                kills += killed
                if different:
                    wrong = True
                    print(f"{name}: after {killed} kills other bytes in {', '.join(different[:5])}")
        for name, count in counts.items():
            print(f"{name:20} {took[name]:6.1f} s undisturbed, killed {count} times")
        print(f"{kills} kills in all, {'other' if wrong else 'the same'} bytes")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
