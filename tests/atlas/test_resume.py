"""An atlas that was interrupted, killed or damaged goes on to the same bytes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tests.support.atlas import QUICK, Call, copy_of, files, halve, with_map
from tests.support.killed_atlas import FEW

from opponent import Atlas, Network, Run, RunError, atlases, make_atlas
from opponent.atlas import means as cell_means
from opponent.storage.checkpoints import CheckpointFolder

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]


class Stop(KeyboardInterrupt):
    """As by Ctrl-C."""


def stop_at(count: int, seen: list[Call]) -> Callable[[str, int, int], None]:
    def progress(*call: Any) -> None:
        seen.append(call)
        if len(seen) == count:
            raise Stop("stop")

    return progress


def test_an_atlas_interrupted_anywhere_goes_on_to_the_same_bytes(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_run: Run,
    wave_network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = files(wave_atlas[0].run.folder)
    # Sums are kept every third batch of images.
    monkeypatch.setattr(cell_means, "_SAVED", 20)
    means = [i for i, call in enumerate(wave_atlas[1], 1) if "mean" in call[0]]
    icons = [i for i, call in enumerate(wave_atlas[1], 1) if "icons" in call[0]]
    for count in (1, 2, means[3], icons[0], icons[2], icons[3]):
        what, done, total = wave_atlas[1][count - 1]
        # Once the map is there, begin with it.
        skipped = 0 if "map" in what else 2
        folder = tmp_path / str(count)
        run = with_map(wave_run, wave_atlas[0], folder) if skipped else copy_of(wave_run, folder)
        first: list[Call] = []
        with pytest.raises(Stop, match="stop"):
            make_atlas(
                run,
                run.features[0],
                network=wave_network,
                settings=QUICK,
                progress=stop_at(count - skipped, first),
            )
        assert first == wave_atlas[1][skipped:count]
        assert not list(run.folder.rglob(".*"))
        assert atlases(run) == []
        second: list[Call] = []
        make_atlas(
            run,
            run.features[0],
            network=wave_network,
            settings=QUICK,
            progress=lambda *x, to=second: to.append(x),
        )
        assert files(run.folder) == expected, f"interrupted at {what}, {done} of {total}"
        # Stages and parts that were done are not done again.
        if "map" in what:
            again = wave_atlas[1] if done == 0 else wave_atlas[1][2:]
        elif "mean" in what:
            # What was computed since the last batch with 20 images more is computed again.
            kept = max((x for x in range(21, done + 1, 21)), default=0)
            kept = kept if done < total else total
            again = wave_atlas[1][2 + kept // 7 :] if done < total else second
            assert all("map" not in call[0] for call in second)
        else:
            again = [call for call in wave_atlas[1] if "icons" in call[0]][3 * ((done - 1) // 3) :]
        assert second == again


def test_an_atlas_interrupted_again_and_again_ends(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_run: Run,
    wave_network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_means, "_SAVED", 1)
    run, rounds = copy_of(wave_run, tmp_path / "run"), 0
    while True:
        rounds += 1
        assert rounds < 60, "it never ends"
        with suppress(Stop):
            # At the fourth call of each round: a few batches of images, one batch of icons.
            make_atlas(
                run, run.features[0], network=wave_network, settings=QUICK, progress=stop_at(4, [])
            )
            break
    assert rounds > 4
    assert files(run.folder) == files(wave_atlas[0].run.folder)


def test_damaged_sums_are_made_again(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    folder = run.folder / "atlas" / wave_atlas[0].folder.name
    shutil.rmtree(folder / "icons")
    (folder / "cells.safetensors").unlink()
    (folder / "checkpoints").mkdir()
    for content in (b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"", b"junk"):
        (folder / "checkpoints" / "sums.safetensors").write_bytes(content)
        make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
        assert files(run.folder) == files(wave_atlas[0].run.folder)
        (folder / "cells.safetensors").unlink()


@pytest.mark.slow
def test_an_atlas_killed_at_steps_of_every_file_goes_on(
    wave_run: Run, wave_network: Network, tmp_path: Path
) -> None:
    whole = copy_of(wave_run, tmp_path / "whole")
    atlas = make_atlas(whole, whole.features[0], network=wave_network, settings=FEW)
    # With its map, so that no child has to wait for UMAP.
    template = with_map(wave_run, atlas, tmp_path / "template")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_atlas", template.folder, tmp_path / "out"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines()]
    # Sums, means, icons, a record a batch, the table, the description: each flushed, named, its
    # folder flushed.
    sums = sum(len(cell.images) for cell in atlas.cells) // 21
    written = 3 + sums + len(atlas.cells) + -(-len(atlas.cells) // 2)
    assert sums >= 2
    assert len(steps) == -(-3 * written // 2) + 1
    assert {code for _, code, _, _ in steps[:-1]} == {"-9"}
    assert any(left == "1" for _, _, left, _ in steps)
    assert any(kept == "1" for _, _, _, kept in steps)
    for number, *_ in steps:
        assert files(tmp_path / "out" / number) == files(whole.folder), f"killed at step {number}"


@pytest.mark.parametrize(
    "damage", [halve, lambda _: b"", lambda _: b"junk"], ids=["half", "empty", "junk"]
)
@pytest.mark.parametrize(
    "name", ["map.parquet", "cells.safetensors", "icons/both-000.json", "icons/both-001.json"]
)
def test_a_damaged_stage_is_named_and_made_again_once_deleted(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_network: Network,
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes],
) -> None:
    run, expected = copy_of(wave_atlas[0].run, tmp_path / "run"), files(wave_atlas[0].run.folder)
    file = run.folder / "atlas" / wave_atlas[0].folder.name / name
    file.write_bytes(damage(file.read_bytes()))
    before = files(run.folder)
    message = rf"{name} is damaged \(.+\); delete it and give the same `opponent atlas` again"
    with pytest.raises(RunError, match=message):
        make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert files(run.folder) == before
    file.unlink()
    make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert files(run.folder) == expected


def test_what_is_kept_of_the_sums_is_not_computed_again(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_run: Run,
    wave_network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_means, "_SAVED", 20)
    run = with_map(wave_run, wave_atlas[0], tmp_path / "run")
    folder = run.folder / "atlas" / wave_atlas[0].folder.name
    first: list[Call] = []
    with pytest.raises(Stop, match="stop"):
        make_atlas(
            run, run.features[0], network=wave_network, settings=QUICK, progress=stop_at(7, first)
        )
    assert first[-1][1] == 49
    kept = folder / "checkpoints" / "sums.safetensors"
    with safe_open(kept, framework="numpy") as file:
        assert json.loads(file.metadata()["about"]) == {"done": 42}
        sums = file.get_tensor("sums")
    assert sums.shape == (2, len(wave_atlas[0].cells), 6, 3, 3)
    assert sums.dtype == np.float64
    second: list[Call] = []
    make_atlas(
        run,
        run.features[0],
        network=wave_network,
        settings=QUICK,
        progress=lambda *call: second.append(call),
    )
    means = [done for what, done, _ in second if "mean" in what]
    assert means[0] == 49
    assert not kept.exists()
    assert files(run.folder) == files(wave_atlas[0].run.folder)


def test_sums_of_another_shape_are_made_again(
    wave_atlas: tuple[Atlas, list[Call]], wave_run: Run, wave_network: Network, tmp_path: Path
) -> None:
    run = with_map(wave_run, wave_atlas[0], tmp_path / "run")
    folder = run.folder / "atlas" / wave_atlas[0].folder.name
    question = json.loads((folder / "question.json").read_text())
    checkpoints = CheckpointFolder(folder, question)
    checkpoints.write("sums", {"sums": np.ones((2, 1, 6, 3, 3))}, {"done": 3})
    make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert files(run.folder) == files(wave_atlas[0].run.folder)


def test_a_folder_of_another_question_is_refused(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, tmp_path: Path
) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    path = run.folder / "atlas" / wave_atlas[0].folder.name / "question.json"
    question = json.loads(path.read_text())
    for content, message in (
        (
            json.dumps({**question, "through": "stem", "run": "0" * 64}),
            r"holds results of another question \(other than this one in through, run\)",
        ),
        ("{", r"question\.json is damaged"),
        (None, r"holds other files"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        before = files(run.folder)
        with pytest.raises(RunError, match=message):
            make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
        assert files(run.folder) == before
