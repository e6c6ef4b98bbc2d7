"""What numba compiles has a place, in a read-only installation without a home too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import opponent

# Stands for a file system on which only one folder can be written to. A test may run as root, whom
# permissions do not stop.
READ_ONLY = """
import os, sys, tempfile
real = tempfile.TemporaryFile
def refuse(*arguments, dir=None, **named):
    if dir is not None and not str(dir).startswith(os.environ["TMPDIR"]):
        raise PermissionError(13, "Read-only", dir)
    return real(*arguments, dir=dir, **named)
tempfile.TemporaryFile = refuse
"""
# In UMAP's place, which takes half a minute to compile.
UMAP = """
from numba import njit
@njit(cache=True)
def first(vectors):
    return vectors[:, :2].copy()
class UMAP:
    def __init__(self, **_): pass
    def fit_transform(self, vectors): return first(vectors)
"""
LAYS_OUT = """
import numpy as np
from opponent.atlas.layout import lay_out
vectors = np.random.default_rng(0).random((40, 3)).astype(np.float32)
assert (lay_out(vectors, neighbours=5, min_dist=0.1, seed=0) == vectors[:, :2]).all()
"""
TRAINS = """
from opponent.paper.toy import kernel
import numpy as np
kernel.uniform(np.zeros(1, np.uint64))
"""
TELLS = """
import numba
print(os.environ.get("NUMBA_CACHE_DIR"), numba.config.CACHE_DIR, sep="|")
"""


def told(code: str, tmp_path: Path, **more: str) -> str:
    """The last line that a process prints whose home and packages are read-only."""
    packages, writable = tmp_path / "packages", tmp_path / "writable"
    packages.mkdir()
    writable.mkdir()
    (packages / "umap.py").write_text(UMAP)
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "NUMBA_CACHE_DIR")}
    source = str(Path(opponent.__file__).parents[1])
    environment = {
        **kept,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(writable),
        "PYTHONPATH": os.pathsep.join([str(packages), source]),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(writable.iterdir()) == [], "what was compiled is still there"
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("work", [LAYS_OUT, TRAINS])
def test_where_nothing_can_be_written_a_folder_is_made_and_removed(
    work: str, tmp_path: Path
) -> None:
    place, taken = told(READ_ONLY + work + TELLS, tmp_path).split("|")
    assert place == taken
    assert Path(place).parent == tmp_path / "writable"


def test_where_something_can_be_written_nothing_changes(tmp_path: Path) -> None:
    assert told("import os, sys\n" + LAYS_OUT + TELLS, tmp_path) == "None|"


def test_the_users_own_place_stays(tmp_path: Path) -> None:
    own = str(tmp_path / "own")
    shown = told("import os, sys\n" + LAYS_OUT + TELLS, tmp_path, NUMBA_CACHE_DIR=own)
    assert shown == f"{own}|{own}"
    assert list(Path(own).rglob("*.nbi"))
