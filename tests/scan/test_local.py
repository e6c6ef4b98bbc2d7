"""Scans: what comes in, and scans that stop and go on."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scans import SIZE, Branched, begin, files, paint_shapes

from opponent import ImageSet, Network, Preprocessing, Run, RunError, open_images, scan_images
from opponent.images.imageset import ImageEntry

pytestmark = pytest.mark.usefixtures("one_thread")

Given = dict[str, object]

# What comes in


def test_when_no_image_can_be_read_reading_says_so(small: Network, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.jpg"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("no picture")
    run = scan_images(
        small, tmp_path / "in", "mixed:1", "early", out=tmp_path / "run", shard_size=2
    )
    assert list(run.unreadable()) == ["a.png", "b.jpg", "c.jpg"]
    with pytest.raises(RunError, match=r"no image of .*run could be read or used; see unreadable"):
        run.columns(run.features[0])
    with pytest.raises(RunError, match=r"no image of .*run could be read"):
        run.channels(run.features[0])


def test_a_shard_without_readable_images_is_no_gap(
    small: Network, tmp_path: Path, pictures: Path
) -> None:
    chosen = [pictures / "000.png", tmp_path / "x.png", tmp_path / "y.png", pictures / "001.png"]
    run = scan_images(small, chosen, "mixed:1", "early", out=tmp_path / "run", shard_size=1)
    assert [Path(image).name for image in run.columns(run.features[0]).images] == [
        "000.png",
        "001.png",
    ]
    assert set(run.unreadable().values()) == {"no such file"}


def test_crops_come_back_with_their_boxes(small: Network, tmp_path: Path, pictures: Path) -> None:
    path = pictures / "000.png"
    entries = (
        ImageEntry(id="000@2,3+10x12", path=path, box=(2, 3, 10, 12)),
        ImageEntry(id="all", path=path),
        ImageEntry(id="000@0,0+9999", path=path, box=(0, 0, 9999, 9999)),
    )
    images = ImageSet(source="crops", entries=entries)
    run = scan_images(small, images, "mixed:1", "early", out=tmp_path / "run")
    assert Run(run.folder).images == images
    assert run.columns(run.features[0]).images == ("000@2,3+10x12", "all")
    assert "is not inside the photograph" in run.unreadable()["000@0,0+9999"]
    table = pq.read_table(run.folder / "images.parquet")
    assert table.column_names == ["image", "path", "top", "left", "height", "width", "content"]
    assert table["width"].to_pylist() == [12, None, 9999]


def test_file_names_that_are_no_text_are_scanned(small: Network, tmp_path: Path) -> None:
    folder = paint_shapes(tmp_path / "in", 2)
    (folder / "001.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))
    (folder / "ü – 好.png").write_bytes((folder / "000.png").read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.png")).write_text("no picture")
    images = open_images(folder)
    run = scan_images(small, folder, "mixed:1", "early", out=tmp_path / "run")
    again = Run(run.folder)
    assert [entry.path for entry in again.images] == [entry.path for entry in images]
    assert again.columns(again.features[0]).images == (
        "000.png",
        "\\udcff\\udcfe.png",
        "ü – 好.png",
    )
    assert list(again.unreadable()) == ["bad\\udcff.png"]
    moved = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in\xff"))
    folder.rename(moved)
    scan_images(small, moved, "mixed:1", "early", out=tmp_path / "run2")
    assert Run(tmp_path / "run2").manifest.images.source == str(moved)


# Scans that stop and go on


def test_a_run_folder_holds_nothing_else(whole: tuple[Run, dict[str, bytes]]) -> None:
    shards = {
        f"{kind}/{number:06d}.parquet" for kind in ("scan", "channels") for number in range(5)
    }
    assert set(whole[1]) == {"manifest.json", "images.parquet", "unreadable.csv", *shards}


def test_the_same_scan_gives_the_same_bytes(
    small: Network, pictures: Path, tmp_path: Path, whole: tuple[Run, dict[str, bytes]]
) -> None:
    begin(small, pictures, tmp_path / "run")
    assert files(tmp_path / "run") == whole[1]


@given(st.sets(st.sampled_from([*range(5), "unreadable.csv", "images.parquet"])))
@settings(max_examples=6, deadline=None)
def test_what_was_deleted_comes_back_to_the_byte(
    small: Network,
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
    whole: tuple[Run, dict[str, bytes]],
    lost: set[int | str],
) -> None:
    folder = tmp_path_factory.mktemp("again") / "run"
    shutil.copytree(whole[0].folder, folder)
    for name in lost:
        path = folder / (f"scan/{name:06d}.parquet" if isinstance(name, int) else name)
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "scan").iterdir()}
    calls: list[int] = []
    begin(small, pictures, folder, progress=lambda _what, done, _total: calls.append(done))
    assert files(folder) == whole[1]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    images = sum(min(2, 9 - 2 * n) for n in lost if isinstance(n, int))
    # Shards hold two images, and so do batches.
    assert (calls[0], calls[-1]) == (9 - images, 9)
    assert calls == sorted(set(calls))
    assert len(calls) == 1 + sum(isinstance(name, int) for name in lost)


def test_a_finished_scan_computes_nothing_again(
    small: Network,
    pictures: Path,
    whole: tuple[Run, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image was attributed")

    monkeypatch.setattr(sys.modules["opponent.scan.shard"], "attribute_each", refuse)
    run = begin(small, pictures, whole[0].folder)
    assert len(run.columns(run.features[0]).images) == 9
    assert files(run.folder) == whole[1]


def other_weights() -> Network:
    network = Network(Branched(), preprocessing=Preprocessing(size=SIZE), name="small")
    with torch.no_grad():
        network.module.get_submodule("head").bias[0] += 1
    return network


def other_range() -> Network:
    return Network(
        Branched(), preprocessing=Preprocessing(size=SIZE, mean=(0.0, 0.0, 0.0)), name="small"
    )


def other_name() -> Network:
    return Network(Branched(), preprocessing=Preprocessing(size=SIZE), name="tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["mixed:1", "mixed:5"]}, "features was .* is "),
        ({"features": ["mixed:4", "mixed:1"]}, "features was .* is "),
        ({"through": "pixels"}, "through was early, is pixels"),
        ({"seed": 3}, r"seed was 0, is 3\)"),
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"shard_size": 3}, "shard_size was 2, is 3"),
        ({"network": other_weights}, r"network\.weights_sha256 was \w+\.\.\., is \w+\.\.\."),
        ({"network": other_range}, r"network\.preprocessing was"),
        ({"network": other_name}, r"network\.name was small, is tiny"),
    ],
)
def test_another_scan_is_refused_by_name_of_the_difference(
    small: Network,
    pictures: Path,
    whole: tuple[Run, dict[str, bytes]],
    change: Given,
    message: str,
) -> None:
    given = dict(change)
    make: Callable[[], Network] = given.pop("network", lambda: small)
    with pytest.raises(RunError, match=rf"holds another scan \(.*{message}.*into another folder"):
        begin(make(), pictures, whole[0].folder, **given)
    assert files(whole[0].folder) == whole[1]


@pytest.mark.parametrize("name", ["torch", "opponent", "pillow"])
def test_another_version_is_another_scan(
    small: Network,
    pictures: Path,
    whole: tuple[Run, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    versions = dict(whole[0].manifest.versions)
    monkeypatch.setattr(
        sys.modules["opponent.scan.plan"], "versions", lambda: versions | {name: "99.0"}
    )
    with pytest.raises(
        RunError, match=rf"versions\.{name} was {re.escape(versions[name])}, is 99\.0"
    ):
        begin(small, pictures, whole[0].folder)


def test_other_images_are_another_scan(small: Network, tmp_path: Path) -> None:
    folder, out = paint_shapes(tmp_path / "in", 3), tmp_path / "run"
    begin(small, folder, out)
    paint_shapes(folder, 4)
    with pytest.raises(RunError, match=r"images\.count was 3, is 4"):
        begin(small, folder, out)
    (folder / "003.png").unlink()
    begin(small, folder, out)
    with (folder / "001.png").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RunError, match=r"images\.sha256 was \w+\.\.\., is \w+\.\.\."):
        begin(small, folder, out)


def test_images_may_move_while_a_scan_rests(small: Network, tmp_path: Path) -> None:
    old, new = paint_shapes(tmp_path / "old", 5), tmp_path / "new"
    begin(small, old, tmp_path / "expected")
    begin(small, old, tmp_path / "run")
    (tmp_path / "run" / "scan" / "000001.parquet").unlink()
    old.rename(new)
    run = begin(small, new, tmp_path / "run")
    assert run.unreadable() == {}
    assert [entry.path.parent for entry in Run(run.folder).images] == [new] * 5
    assert Run(run.folder).manifest.images.source == str(new)
    expected = files(tmp_path / "expected")
    for name, content in files(run.folder).items():
        if name not in ("manifest.json", "images.parquet"):
            assert content == expected[name], name


def test_a_folder_of_something_else_is_refused(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        RunError, match="exists and is not a run folder; choose a folder of its own"
    ):
        begin(small, pictures, tmp_path)
    with pytest.raises(RunError, match="exists and is not a run folder"):
        begin(small, pictures, tmp_path / "thesis.tex")
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_empty_folder_is_taken(small: Network, pictures: Path, tmp_path: Path) -> None:
    begin(small, pictures, tmp_path, features="mixed:2")
    assert (tmp_path / "manifest.json").is_file()


def test_a_full_disk_breaks_nothing_and_the_scan_goes_on(
    small: Network,
    pictures: Path,
    tmp_path: Path,
    whole: tuple[Run, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Full again and again, at each file in turn, and always given a little more room."""
    fsync, out, left, failures = os.fsync, tmp_path / "run", 0, 0

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    while True:
        left = failures
        before = files(out)
        try:
            begin(small, pictures, out)
            break
        except OSError:
            pass
        failures += 1
        after = files(out)
        assert not [name for name in after if "tmp" in name]
        # At the end the list of images learns what their files held.
        changed = {name for name, content in before.items() if after[name] != content}
        assert changed <= {"images.parquet"}
        assert "images.parquet" not in after or len(Run(out).images) == len(whole[0].images)
    assert failures > 5
    assert files(out) == whole[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_is_left_as_it_is(
    small: Network, pictures: Path, tmp_path: Path, whole: tuple[Run, dict[str, bytes]]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0].folder, folder)
    (folder / "scan" / "000001.parquet").unlink()
    before = files(folder)
    for path in (folder, folder / "scan"):
        path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="Permission denied"):
            begin(small, pictures, folder)
        assert files(folder) == before
    finally:
        for path in (folder, folder / "scan"):
            path.chmod(0o700)


def test_a_failing_network_leaves_whole_shards(
    small: Network, pictures: Path, tmp_path: Path, whole: tuple[Run, dict[str, bytes]]
) -> None:
    def stop(_what: str, done: int, _total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        begin(small, pictures, tmp_path / "run", progress=stop)
    run = Run(tmp_path / "run")
    assert run.missing() == [2, 3, 4]
    with pytest.raises(RunError, match=r"not finished \(2 of 5 shards\).*it goes on"):
        run.columns(run.features[0])
    begin(small, pictures, tmp_path / "run")
    assert files(tmp_path / "run") == whole[1]
