"""Damaged run folders, studies and directions: how many are read, refused in one line, or neither.

    python -m benchmarks.damage --each 30

Each file of a run folder and of a study is damaged so many times, one file at a time: absurd values
in the place of JSON's, columns of tables that are gone or hold something else, bytes that are cut,
flipped or noise. All that reads them then does. The exit status is 1 if something fails otherwise
than in one line, or takes more than 30 seconds of the processor.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tests.support import attacks
from tests.support.attacks import Outcome, Reader, attack_folder
from tests.support.mutations import mutations

import opponent


def directions(folder: Path, *, each: int, seed: int) -> Outcome:
    """Attack files of directions, of each format."""
    import torch

    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.save(folder / "d.npy", vectors)
    torch.save(torch.from_numpy(vectors), folder / "d.pt")
    opponent.Directions(
        vectors=vectors, labels=tuple("abcd"), layer="mixed3b", provenance={}
    ).save(folder / "d.safetensors")  # fmt: skip
    outcome, random = Outcome(), np.random.default_rng(seed)
    for file in sorted(folder.iterdir()):

        def write(content: bytes, file: Path = file) -> None:
            file.write_bytes(content)

        def readers(file: Path = file) -> Iterator[Reader]:
            return attacks.direction_readers(file)

        damages = mutations(file.name, file.read_bytes(), random, each)
        attacks.attack(damages, write, readers, outcome, file.name)
    return outcome


def main() -> None:
    """Attack all, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=30, help="damages of a file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    how = {"each": options.each, "seed": options.seed}
    wrong = list[str]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = attacks.make_run(folder / "good")
        study = attacks.make_study(folder / "good" / "study")
        for name in ("1", "2", "3", "4"):
            (folder / name).mkdir()
        (folder / "2" / "in").symlink_to(run.parent / "in")

        def commands(copy: Path) -> Iterator[Reader]:
            for words in attacks.run_commands(copy, folder / "out"):
                yield words[0], lambda words=words: attacks.command(*words)  # type: ignore[misc]

        for name, attack in {
            "run folders, readers": lambda: attack_folder(
                run, folder / "1", attacks.run_readers, **how
            ),
            # Each takes seven commands.
            "run folders, commands": lambda: attack_folder(
                run, folder / "2", commands, each=-(-options.each // 6), seed=options.seed
            ),
            "studies": lambda: attack_folder(study, folder / "3", attacks.study_readers, **how),
            "directions": lambda: directions(folder / "4", **how),
        }.items():
            start = time.monotonic()
            outcome = attack()
            counts = ", ".join(f"{kind} {n:,}" for kind, n in sorted(outcome.counts.items()))
            print(f"{name}: {counts} ({time.monotonic() - start:.0f} s)", flush=True)
            wrong += outcome.wrong
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
