"""A study from real scans."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from opponent import Feature, Network, Run, RunError, scan_images, scan_kept
from opponent.study.design.building import build
from opponent.study.design.study import Study, write_study


def make(runs: Sequence[Run], out: Path, network: Network, **more: Any) -> Study:
    given: dict[str, Any] = {"features": 1, "network": network, **more}
    return build(runs, out, **given)[0]


def test_a_study_comes_of_scans(study: Study, runs: list[Run], network: Network) -> None:
    assert study.layers == ("relu1", "relu2"), "from the first to the last"
    assert [x.label for x in study.settings.layers] == ["layer 1", "layer 2"]
    kinds = [(x.layer, x.kind) for x in study.trials]
    assert kinds == [
        ("relu1", "trial"), ("relu1", "catch"), ("relu1", "practice"),
        ("relu2", "trial"), ("relu2", "catch"),
    ]  # fmt: skip
    for trial in study.trials:
        assert len(trial.examples) == 6
        assert len(trial.choices) == 9
        assert not {*trial.examples} & {*trial.choices}, "no id tells that a choice is an example"
    for row in study.table.to_pylist():
        assert (row["choices_image"][0] in row["examples_image"]) == (row["kind"] == "catch")
        assert row["choices_image"][1] not in row["examples_image"]
    # Nor does the time at which a picture was written.
    times = {path.stat().st_mtime_ns for path in (study.folder / "stimuli").iterdir()}
    assert times == {0}
    scan = study.settings.runs[0]
    assert scan.weights_sha256 == network.weights_sha256()
    assert scan.images.count == 401


def test_the_pictures_are_the_crops_that_it_says(study: Study, runs: list[Run]) -> None:
    """From the table alone: each picture is the image's crop, its numbers are those of the scan."""
    by_layer = {run.features[0].layer: run for run in runs}
    for row in study.table.to_pylist():
        run = by_layer[row["layer"]]
        columns = run.columns(row["feature"], maps=False)
        top, left, height, width = row["box"]
        for what in ("examples", "choices"):
            for id, image, f in zip(
                row[what], row[f"{what}_image"], row[f"{what}_activation"], strict=True
            ):
                crop = np.array(Image.open(study.stimulus(id)))
                photograph = np.array(Image.open(run.images.find(image).path))
                assert np.array_equal(crop, photograph[top : top + height, left : left + width])
                assert f == columns.activation[columns.images.index(image)]
        f = row["choices_activation"]
        assert f[0] == columns.activation.max()
        assert row["mii_rank"] == 1 + (columns.activation < f[1]).sum() <= 7
        assert row["mean"] == pytest.approx(columns.activation.mean(dtype=np.float64))
        assert all(abs(x - row["mean"]) <= 2 * row["sd"] for x in f[2:])
        assert all(x >= row["salient"] for x in row["choices_norm"][2:])


def test_the_norm_is_that_of_the_layer_s_output(study: Study, network: Network) -> None:
    row = study.table.to_pylist()[-1]
    layer, (_, _, position) = row["layer"], row["feature"].partition("@")
    y, x = map(int, position.split(","))
    folder = Path(json.loads((study.folder / "study.json").read_text())["runs"][0]["folder"])
    images = Run(folder).images
    for image, norm in zip(row["choices_image"], row["choices_norm"], strict=True):
        pixels = np.array(Image.open(images.find(image).path))
        hidden = network.run(network.inputs(pixels[None]), layer, after=True).target
        assert norm == pytest.approx(float(hidden[0, :, y, x].abs().sum()), rel=1e-4)


def test_nothing_tells_the_answer(study: Study) -> None:
    for trial in study.trials:
        sizes = set()
        for id in trial.choices:
            data = study.stimulus(id).read_bytes()
            kinds, at = [], 8
            while at < len(data):
                length = int.from_bytes(data[at : at + 4], "big")
                kinds.append(data[at + 4 : at + 8])
                at += 12 + length
            assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}
            sizes.add(data[16:26])
        assert len(sizes) == 1, "one size and one pixel format in a trial"
    files = {path.stem for path in (study.folder / "stimuli").iterdir()}
    assert study.stimuli <= files


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_interrupted_one_ends_with_the_same_bytes(
    study: Study, runs: list[Run], network: Network, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(when: tuple[str, int]) -> Callable[[str, int, int], None]:
        def progress(what: str, done: int, total: int) -> None:
            if what == when[0] and done >= when[1]:
                raise Stop

        return progress

    for when in [
        ("relu1: norms", 100), ("relu1: choosing", 0), ("relu1: pictures", 2),
        ("relu2: norms", 300), ("relu2: pictures", 1),
    ]:  # fmt: skip
        with pytest.raises(Stop):
            make(runs, tmp_path / "s", network, progress=stop(when))
        with pytest.raises(RunError, match="the same command again finishes"):
            Study(tmp_path / "s")
    assert contents(make(runs, tmp_path / "s", network).folder) == contents(study.folder)


def test_texts_that_were_edited_stay(
    study: Study, runs: list[Run], network: Network, tmp_path: Path
) -> None:
    before = contents(study.folder)
    assert contents(make(runs, study.folder, network).folder) == before
    shutil.copytree(study.folder, tmp_path / "s")
    write_study(
        tmp_path / "s", structs.replace(study.settings, title="mine"), study.trials,
        {name: study.table[name].to_pylist() for name in study.table.column_names[8:]},
    )  # fmt: skip
    assert make(runs, tmp_path / "s", network).settings.title == "mine"


def test_what_does_not_go_together_is_refused(
    study: Study, runs: list[Run], network: Network, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        build([], tmp_path / "a")
    with pytest.raises(ValueError, match=r"relu1:0@6,8.* are in two of the runs"):
        make([runs[1], runs[1]], tmp_path / "b", network)
    with pytest.raises(ValueError, match="1 labels for 2 layers: relu1, relu2"):
        make(runs, tmp_path / "c", network, labels=["early"])
    with pytest.raises(ValueError, match="a study needs trials: got 0"):
        make(runs, tmp_path / "d", network, features=0)
    with pytest.raises(ValueError, match=r"relu1: \d of 9 trials can be filled from 6 features"):
        make(runs, tmp_path / "e", network, features=7)
    with pytest.raises(RunError, match="another question"):
        make(runs, study.folder, network, features=2)


def test_runs_without_rows_of_all_images_or_of_several_powers_are_refused(
    network: Network, pictures: Path, tmp_path: Path
) -> None:
    few = [pictures / f"{i:03d}.png" for i in range(3)]
    units = scan_images(network, few, "relu2:*", "relu1", out=tmp_path / "units")
    with pytest.raises(ValueError, match="holds all units together and no unit's own rows"):
        make([units], tmp_path / "a", network)
    kept = scan_kept(units, "relu2:0", network=network)
    with pytest.raises(RunError, match="a scan of all units keeps, and a study needs all 3"):
        make([kept], tmp_path / "b", network)
    vector = [1.0] * 8
    powers = [Feature.direction("relu2", vector, name=f"p{p}", power=p) for p in (0, 2)]
    run = scan_images(network, few, powers, "relu1", out=tmp_path / "powers")
    with pytest.raises(ValueError, match="holds features of several powers"):
        make([run], tmp_path / "c", network)
