"""Damaged and absurd files: each is refused in one line or read, and nothing hangs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support import attacks
from tests.support.attacks import Outcome, Reader, attack_folder
from tests.support.mutations import mutations

import opponent


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that may lie in its folder."""
    return attacks.make_run(tmp_path_factory.mktemp("good"))


def check(outcome: Outcome, at_least: int) -> None:
    assert outcome.wrong == []
    assert outcome.counts.total() >= at_least
    assert outcome.counts["refused"] > 0.05 * at_least


@pytest.mark.slow
def test_run_folders(good: Path, tmp_path: Path) -> None:
    check(attack_folder(good, tmp_path, attacks.run_readers, each=1, seed=0), 200)


@pytest.mark.slow
def test_commands_on_run_folders(good: Path, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to(good.parent / "in")
    turn = iter(range(10**6))

    def one_of_them(folder: Path) -> Iterator[Reader]:
        commands = attacks.run_commands(folder, tmp_path / "out")
        words = commands[next(turn) % len(commands)]
        yield words[0], lambda: attacks.command(*words)

    check(attack_folder(good, tmp_path, one_of_them, each=1, seed=1), 15)


def test_studies(tmp_path: Path) -> None:
    study = attacks.make_study(tmp_path / "good" / "study")
    check(attack_folder(study, tmp_path, attacks.study_readers, each=20, seed=2), 150)


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".pt"])
def test_directions(tmp_path: Path, suffix: str) -> None:
    import torch

    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    file = tmp_path / f"d{suffix}"
    if suffix == ".npy":
        np.save(file, vectors)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(vectors), file)
    else:
        opponent.Directions(
            vectors=vectors, labels=tuple("abcd"), layer="mixed3b", provenance={}
        ).save(file)
    outcome, damages = (
        Outcome(),
        mutations(file.name, file.read_bytes(), np.random.default_rng(3), 60),
    )
    attacks.attack(
        damages, lambda x: file.write_bytes(x) and None,
        lambda: attacks.direction_readers(file), outcome, file.name,
    )  # fmt: skip
    check(outcome, 120)
