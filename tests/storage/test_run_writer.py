"""What a scan writes into a run folder comes back, and nobody else's folder is written to."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from tests.support.run_folders import FEATURES, WINDOWS, Batches, images_for, manifest_for

from opponent import Run, RunError
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.storage import run_writer
from opponent.storage.files import _machine
from opponent.storage.run import SCALARS
from opponent.storage.run_writer import begin_run, write_shard


@given(
    sizes=st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=3),
    data=st.data(),
)
@settings(deadline=None, max_examples=25)
def test_columns_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], data: st.DataObject
) -> None:
    """Shards of batches of any sizes, also empty ones."""
    count = max(1, *(sum(shard) for shard in sizes))
    manifest = manifest_for(count * len(sizes), shard_size=count)
    run = begin_run(tmp_path_factory.mktemp("run"), manifest, images_for(count * len(sizes)))
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    expected: list[dict[str, list[np.ndarray]]] = [{}, {}]
    names: list[str] = []
    for number, shard in enumerate(sizes):
        parts: Batches = [[], []]
        for size in shard:
            for which, window in enumerate(WINDOWS):
                shapes = dict.fromkeys(SCALARS, (size,))
                shapes |= dict.fromkeys(("channels", "inhibition_channels"), (size, 4))
                box = (size, *window.through[2:])
                shapes |= {"excitation_map": box, "inhibition_map": box}
                batch = {
                    name: data.draw(nps.arrays(np.float32, shape, elements=floats, fill=floats))
                    for name, shape in shapes.items()
                }
                parts[which].append(batch)
                for name, values in batch.items():
                    expected[which].setdefault(name, []).append(values)
        ids = [f"{number}-{i}" for i in range(sum(shard))]
        names += ids
        bad = {f"{number}-{i}": "bad" for i in range(len(ids), count)}
        write_shard(run, number, ids, parts, bad)
    if not names:
        with pytest.raises(RunError, match=r"no image of .* could be read"):
            run.columns(run.features[0])
        return
    for feature, wanted in zip(FEATURES, expected, strict=True):
        columns = run.columns(feature)
        assert columns.images == tuple(names)
        for name in (*SCALARS, "excitation_map", "inhibition_map"):
            np.testing.assert_array_equal(getattr(columns, name), np.concatenate(wanted[name]))
        np.testing.assert_array_equal(run.channels(feature), np.concatenate(wanted["channels"]))


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.text(st.characters(exclude_characters="/\0"), min_size=1),
            st.none() | st.tuples(*[st.integers(0, 2**31 - 1)] * 4),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda x: x[0],
    )
)
@settings(deadline=None, max_examples=40)
def test_image_lists_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    given: list[tuple[str, str, tuple[int, int, int, int] | None]],
) -> None:
    names = [name.encode("utf-8", "surrogatepass") for _, name, _ in given]
    # Any bytes may be a file's name.
    paths = [Path("/" + name.decode("utf-8", "surrogateescape")) for name in names]
    entries = tuple(
        ImageEntry(id=id, path=path, box=box)
        for (id, _, box), path in zip(given, paths, strict=True)
    )
    images = ImageSet(source="somewhere", entries=entries)
    folder = tmp_path_factory.mktemp("run")
    begin_run(folder, manifest_for(len(images)), images)
    assert Run(folder).images == images


def test_relative_paths_are_written_out(tmp_path: Path) -> None:
    entry = ImageEntry(id="x", path=Path("here/x.png"))
    run = begin_run(tmp_path, manifest_for(1), ImageSet(source="x", entries=(entry,)))
    assert run.images[0].path == Path.cwd() / "here" / "x.png"


# Whose folder it is


def test_only_what_determines_numbers_makes_another_scan(run: Run) -> None:
    manifest = run.manifest
    replace = msgspec.structs.replace
    moved = replace(
        manifest,
        network=replace(manifest.network, weights_file="/elsewhere.pt"),
        images=replace(manifest.images, source="/elsewhere"),
    )
    assert begin_run(run.folder, moved, images_for(5)).manifest == moved
    other = replace(moved, images=replace(moved.images, sha256="12"))
    with pytest.raises(RunError, match=r"holds another scan \(images\.sha256 was cd.*, is 12"):
        begin_run(run.folder, other, images_for(5))
    assert Run(run.folder).manifest == moved


def test_what_a_scan_leaves_that_was_killed_at_its_beginning_is_no_hindrance(
    tmp_path: Path,
) -> None:
    # The number of a process that is beyond what Linux gives.
    (tmp_path / f".manifest.{_machine()}4194399.tmp.json").write_bytes(b"half")
    begin_run(tmp_path, manifest_for(2), images_for(2))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "images.parquet"}


def test_of_two_scans_that_begin_at_once_one_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = manifest_for(2)
    other = msgspec.structs.replace(ours, seed=ours.seed + 1)

    def meanwhile(folder: Path) -> bool:
        monkeypatch.undo()
        begin_run(folder, other, images_for(2))
        return True

    monkeypatch.setattr(run_writer, "_is_free", meanwhile)
    with pytest.raises(RunError, match=r"holds another scan \(seed was 1, is 0\)"):
        begin_run(tmp_path, ours, images_for(2))
    assert Run(tmp_path).manifest == other
    # The same scan twice is no quarrel.
    monkeypatch.setattr(run_writer, "_is_free", meanwhile)
    again = tmp_path / "again"
    again.mkdir()
    begin_run(again, other, images_for(2))
    assert Run(again).manifest == other


@pytest.mark.parametrize("name", [".git", "notes.txt", "images.parquet", "scan"])
def test_other_files_are_a_hindrance(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"someone's own")
    with pytest.raises(RunError, match="is not a run folder; choose a folder of its own"):
        begin_run(tmp_path, manifest_for(2), images_for(2))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        (name, b"someone's own")
    ]
