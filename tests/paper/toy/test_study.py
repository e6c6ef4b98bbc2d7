"""A study: bytes after an interruption and from the cache, the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.checkpoints import checkpoint_files
from typer.testing import CliRunner

from opponent.cli import app
from opponent.core.errors import RunError
from opponent.paper.toy.results import write_study
from opponent.paper.toy.study import train_study


@pytest.mark.slow
def test_models_are_the_same_whether_compiled_or_from_the_cache(tmp_path: Path) -> None:
    train = (
        "import sys; from opponent.paper.toy.study import train_study;"
        "train_study('xor', out=sys.argv[1], hidden=(12,), seeds=2, steps=1000)"
    )
    cache = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_NUM_THREADS": "1"}
    contents = set()
    for name in ("compiled", "cached"):
        folder = tmp_path / name
        subprocess.run([sys.executable, "-c", train, str(folder)], env=cache, check=True)
        contents |= {path.read_bytes() for path in checkpoint_files(folder)}
    assert any((tmp_path / "cache").rglob("*.nbc"))
    assert len(contents) == 1


def test_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    settings = {"hidden": (3, 2), "seeds": 20, "steps": 30, "seed": 4}

    class Stop(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 20:
            raise Stop

    with pytest.raises(Stop):
        train_study("xor", out=tmp_path / "two", progress=interrupt, **settings)  # type: ignore[arg-type]
    kept = [path.name for path in checkpoint_files(tmp_path / "two")]
    assert kept == ["hidden-3-000000.safetensors", "hidden-3-000016.safetensors"]
    calls: list[tuple[str, int, int]] = []
    for name in ("one", "two"):
        study = train_study(
            "xor",
            out=tmp_path / name,
            progress=lambda *x: calls.append(x),
            **settings,  # type: ignore[arg-type]
        )
        write_study(study, tmp_path / name)
    assert calls[-1] == ("toy models of xor", 40, 40)
    for name in ("toy.json", "models.safetensors", "toy.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [len(toys) for toys in study.models.values()] == [20, 20]
    with pytest.raises(RunError, match="another question"):
        train_study("xor", out=tmp_path / "two", **settings | {"steps": 31})  # type: ignore[arg-type]
    with pytest.raises(RunError, match="another question"):
        train_study("abs", out=tmp_path / "two", **settings)  # type: ignore[arg-type]


def test_command(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    words = ["toy", "abs", "--hidden", "3,2", "--seeds", "4", "--steps", "20", "--out", str(folder)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "exact models" in done.output
    assert {"toy.json", "models.safetensors", "toy.png"} <= {x.name for x in folder.iterdir()}
    before = (folder / "toy.json").read_bytes()
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert (folder / "toy.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy", "and"), "no toy model of 'and'; there are abs and xor"),
        (("toy", "abs", "--hidden", "12,x"), "--hidden is whole numbers and commas"),
        (("toy", "abs", "--hidden", "12,0"), "at least one hidden unit"),
        (("toy", "abs", "--format", "gif"), "figures are png"),
    ],
)
def test_command_refuses(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [*arguments, "--out", str(tmp_path / "toys")]
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert not (tmp_path / "toys").exists()
