"""The command that lists all units of a scan, and what other commands say of such a run."""

from pathlib import Path

import pytest
from tests.support.pictures import paint_blobs
from tests.support.scans import gated
from typer.testing import CliRunner

import opponent
from opponent import Network, Run, scan_images
from opponent.cli import app

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def embedded() -> Network:
    return opponent.load()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures and one file that is none."""
    folder = paint_blobs(tmp_path_factory.mktemp("pictures"), 11, (64, 64))
    (folder / "05-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="module")
def scanned(embedded: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All units of a layer, and two of them by themselves."""
    out = tmp_path_factory.mktemp("run") / "units"
    features = ["mixed3a:*@4,4", "mixed3a:7@4,4", "mixed3a:100@4,4"]
    return scan_images(embedded, pictures, features, "conv2d2", out=out, batch_size=3, shard_size=5)


def printed(*arguments: object, code: int = 0) -> str:
    """What the command prints, within this process."""
    result = CliRunner().invoke(app, [str(x) for x in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert code
        return f"{type(result.exception).__name__}: {result.exception}"
    assert result.exit_code == code
    return result.output


def test_units_are_listed_by_a_score(scanned: Run) -> None:
    text = printed("units", scanned.folder, "--score", "excitation", "--top", 3)
    table = [row for row in scanned.units().to_pylist() if row["score"] == "excitation"]
    best = sorted(table, key=lambda row: -row["q95"])[:3]
    units = [line.split()[0] for line in text.splitlines()[1:4]]
    assert units == [str(row["unit"]) for row in best]
    assert "excitation of mixed3a:*@4,4 through conv2d2 over 11 images" in text
    assert best[0]["top_images"][0] in text


def test_a_score_that_is_none_is_refused(scanned: Run) -> None:
    said = printed("units", scanned.folder, "--score", "loudness", code=1)
    assert "--score is one of activation, excitation" in said


@pytest.mark.parametrize("name", ["select", "report", "figures"])
def test_commands_on_features_say_that_there_are_none(
    embedded: Network, pictures: Path, tmp_path: Path, name: str
) -> None:
    run = scan_images(embedded, pictures, "mixed3a:*", "conv2d2", out=tmp_path / "run")
    said = printed(name, run.folder, code=1)
    assert said.startswith(("ValueError", "RunError"))
    assert f"holds all {embedded.layer('mixed3a').shape[0]} units of mixed3a; name one" in said
    said = printed("report", run.folder, "--feature", "mixed3a:3", code=1)
    assert "keeps no rows of mixed3a:3, only its extreme images" in said
    assert (
        f"opponent scan inceptionv1-small mixed3a:3 --through conv2d2 --images {pictures}" in said
    )


@pytest.mark.parametrize("name", ["select", "figures", "who"])
def test_commands_take_a_unit_in_the_images_that_are_kept(scanned: Run, name: str) -> None:
    group = ["--group", "exciting"] if name == "who" else ["-k", 2]
    text = printed(name, scanned.folder, "--feature", "mixed3a:9", *group)
    assert "11 images kept of 11 by the scan of all units" in text
    assert "for all images: opponent scan inceptionv1-small mixed3a:9@4,4 --through conv2d2" in text
    kept = Run(scanned.folder / "kept" / "mixed3a-9-4_4")
    if name == "select":
        for image in opponent.select(kept, 2)["exciting"]:
            assert image in text
    elif name == "figures":
        assert "kept/mixed3a-9-4_4/figures/figure2.png" in text
    else:
        assert "mixed3a:9@4,4 in the 11 most exciting images" in text


def test_units_with_and_without_rows_are_asked_for_apart(scanned: Run) -> None:
    assert "mixed3a:7@4,4" in printed("select", scanned.folder, "--feature", "mixed3a:7")
    said = printed(
        "select", scanned.folder, "--feature", "mixed3a:7", "--feature", "mixed3a:8", code=1
    )
    assert "holds all images of mixed3a:7, but of the others only those that" in said


def test_a_run_of_features_or_of_no_readable_image(
    embedded: Network, pictures: Path, tmp_path: Path
) -> None:
    run = scan_images(embedded, pictures, "mixed3a:3", "conv2d2", out=tmp_path / "features")
    assert "is no scan of all units" in printed("units", run.folder, code=1)
    (tmp_path / "none.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    run = scan_images(gated(), tmp_path / "none.jpg", "last.1:*", "stem.1", out=tmp_path / "run")
    assert "over 0 images" in printed("units", run.folder)
