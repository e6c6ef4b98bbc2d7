"""Commands that spread their work over Ray do what they do alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.scans import files, paint_with_one_bad

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_toy_models_train_on_ray_as_they_do_alone(tmp_path: Path) -> None:
    """In a process of its own, since Ray would stay in this one."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "opponent", "toy", "abs", "--hidden", "6", "--seeds", "20"]
    command += ["--steps", "50", "--out"]
    for name, more in (("alone", []), ("spread", ["--ray", "local"])):
        done = subprocess.run(
            [*command, str(tmp_path / name), *more], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    for file in ("question.json", "toy.json", "models.safetensors"):
        alone, spread = ((tmp_path / name / file).read_bytes() for name in ("alone", "spread"))
        assert alone == spread


def test_icons_are_made_on_ray_as_they_are_alone(tmp_path: Path) -> None:
    """In processes of their own, since Ray would stay in this one."""
    pytest.importorskip("ray")

    def opponent(*given: object) -> None:
        command = [sys.executable, "-m", "opponent", *map(str, given)]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=alone)
        assert done.returncode == 0, done.stderr

    images, run = paint_with_one_bad(tmp_path / "images", 24), tmp_path / "alone"
    opponent(
        "scan", "inceptionv1-small", "mixed3a:0", "--through", "conv2d2", "--images", images,
        "--out", run,
    )  # fmt: skip
    shutil.copytree(run, tmp_path / "spread")
    for name, more in (("alone", []), ("spread", ["--ray", "local"])):
        few = ("--grid", 8, "--min-images", 1, "--steps", 2, "--signed")
        opponent("atlas", tmp_path / name, *few, *more)
    alone, spread = files(run), files(tmp_path / "spread")
    assert len([name for name in alone if "/icons/" in name and name.endswith(".json")]) > 3
    assert alone == spread
