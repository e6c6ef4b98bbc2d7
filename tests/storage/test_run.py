"""A run's folder, open for reading: which feature, and what is damaged, foreign or missing."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.run_folders import FEATURES, WINDOWS, batches_for, images_for, manifest_for

from opponent import Feature, Run, RunError, Unreadable, open_images
from opponent.images.decode import decode
from opponent.storage.manifest import ImagesRecord, feature_record
from opponent.storage.run import CHANNELS, MAPS, SCALARS
from opponent.storage.run_writer import begin_run, finish_run, write_baseline, write_shard

# What goes in comes back


def first_columns(run: Run) -> object:
    return run.columns(FEATURES[0])


def first_channels(run: Run) -> object:
    return run.channels(FEATURES[0])


def test_reasons_come_back(run: Run) -> None:
    assert run.unreadable() == {"3.png": "truncated: 7 of 9 bytes, “so” it is"}
    assert (run.folder / "unreadable.csv").read_text(encoding="utf-8") == (
        'image,reason\n3.png,"truncated: 7 of 9 bytes, “so” it is"\n'
    )


def test_lists_keep_their_columns(run: Run) -> None:
    table = pq.read_table(run.shard(0))
    assert table.column_names == ["image", "feature", *SCALARS, *MAPS, *CHANNELS]
    lengths = [len(each) for each in table["excitation_map"].to_pylist()]
    assert lengths == [6, 6, 1, 1]


def test_shards_are_counted(tmp_path: Path) -> None:
    for count, size, shards in ((1, 1, 1), (5, 2, 3), (4, 2, 2), (3, 100, 1)):
        folder = tmp_path / f"{count}-{size}"
        run = begin_run(folder, manifest_for(count, shard_size=size), images_for(count))
        assert run.shard_count == shards
        assert run.missing() == [*range(shards)]


# Which feature


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ("block:3", 0),
        (" block:3@1,2 ", 0),
        ("block:mine", 1),
        ("block:mine@0,0", 1),
        (FEATURES[0], 0),
        (FEATURES[0].at(None), 0),
        (FEATURES[1], 1),
        (FEATURES[1].at(None), 1),
    ],
)
def test_a_feature_is_found(run: Run, asked: Feature | str, number: int) -> None:
    assert run.feature(asked) == FEATURES[number]
    assert run.columns(asked).excitation_map.shape[1:] == [(2, 3), (1, 1)][number]


@pytest.mark.parametrize(
    "asked",
    [
        "block:4",
        "block:3@2,1",
        "other:3",
        "nonsense",
        Feature(layer="block", vector=(1.0, 0.0, 0.0), name="mine", position=(0, 0)),
    ],
)
def test_a_feature_that_was_not_scanned_is_refused(run: Run, asked: Feature | str) -> None:
    with pytest.raises(ValueError, match=r"holds no '.*'; it holds block:3@1,2, block:mine@0,0"):
        run.columns(asked)


def test_a_name_is_needed_where_there_are_several(run: Run, tmp_path: Path) -> None:
    message = (
        r"holds 2 features, block:3@1,2, block:mine@0,0; name one \(--feature LABEL; in Python"
    )
    for read in (run.feature, run.columns, run.channels, run.channel_sides):
        with pytest.raises(ValueError, match=message):
            read()
    one = manifest_for(1, features=[feature_record(FEATURES[1])], windows=WINDOWS[1:])
    assert begin_run(tmp_path / "one", one, images_for(1)).feature() == FEATURES[1]


def test_a_name_that_fits_two_features_is_refused(tmp_path: Path) -> None:
    features = [feature_record(FEATURES[0]), feature_record(FEATURES[0].at((0, 0)))]
    run = begin_run(tmp_path, manifest_for(1, features=features), images_for(1))
    assert run.feature("block:3@0,0") == FEATURES[0].at((0, 0))
    for asked in ("block:3", FEATURES[0].at(None)):
        with pytest.raises(ValueError, match=r"'block:3' fits block:3@1,2, block:3@0,0.*position"):
            run.feature(asked)


# Damage


READERS: list[Callable[[Run], object]] = [Run.columns, Run.channels]


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"is no run folder: it has no manifest\.json; `opponent scan`"
    ):
        Run(tmp_path)
    with pytest.raises(RunError, match="is no run folder"):
        Run(tmp_path / "nowhere")


@given(number=st.integers(0, 2), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=30, deadline=None)
def test_a_truncated_shard_is_told(
    tmp_path_factory: pytest.TempPathFactory, number: int, share: float
) -> None:
    run = begin_run(tmp_path_factory.mktemp("run"), manifest_for(6), images_for(6))
    for shard in range(3):
        write_shard(run, shard, ["a", "b"], batches_for(2, np.random.default_rng(0)), {})
    path = run.shard(number)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = rf"{number:06d}\.parquet is damaged \(.+\); delete it and give the same .* again"
    for read in (first_columns, first_channels, Run.unreadable, finish_run):
        with pytest.raises(RunError, match=message):
            read(Run(run.folder))
    path.unlink()
    assert run.missing() == [number]


def test_no_flipped_bit_gives_other_numbers(tmp_path: Path) -> None:
    """A disk that fails: a bit of each page of each column, which has a checksum."""
    run = begin_run(tmp_path, manifest_for(4, shard_size=4), images_for(4))
    write_shard(run, 0, list("abcd"), batches_for(4, np.random.default_rng(0)), {})
    path = run.shard(0)
    good = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    tested = set()
    for column in map(group.column, range(group.num_columns)):
        name = column.path_in_schema.split(".")[0]
        end = column.dictionary_page_offset or column.data_page_offset
        end += column.total_compressed_size
        # A page's last bytes are its data, whatever its header.
        last = [end - 1, column.data_page_offset - 1] if column.has_dictionary_page else [end - 1]
        for at in last:
            content = bytearray(good)
            content[at] ^= 1 << 3
            path.write_bytes(bytes(content))
            read = Run.channel_sides if "channels" in name else Run.columns
            if name == "feature":  # which the order of rows says as well
                continue
            with pytest.raises(RunError, match=r"000000\.parquet is damaged .*CRC.*; delete it"):
                read(Run(tmp_path), FEATURES[0])
            tested.add(name)
    assert tested == {"image", *SCALARS, *MAPS, *CHANNELS}
    path.write_bytes(good)
    assert run.columns(run.features[0]).images == tuple("abcd")


def test_a_table_of_something_else_is_told(run: Run) -> None:
    pq.write_table(pa.table({"a": [1]}), run.shard(1))
    for read in (first_columns, first_channels, Run.unreadable):
        with pytest.raises(RunError, match=r"000001\.parquet is damaged .*delete it"):
            read(Run(run.folder))


def test_a_damaged_list_of_images_is_told_and_mended(run: Run) -> None:
    path = run.folder / "images.parquet"
    content = path.read_bytes()
    for damaged in (content[:-9], b"", None):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"images\.parquet is damaged .*delete it and give"):
            _ = Run(run.folder).images
        # The same scan again.
        begin_run(run.folder, manifest_for(5), images_for(5))
        assert path.read_bytes() == content


def test_a_missing_shard_is_told(run: Run) -> None:
    run.shard(1).unlink()
    message = r"not finished \(2 of 3 shards\); give the same `opponent scan` again, and it goes on"
    for read in (first_columns, first_channels, Run.unreadable, finish_run):
        with pytest.raises(RunError, match=message):
            read(Run(run.folder))


# Images that are no files


class Rows:
    """Images in memory."""

    def __init__(self, count: int, name: str = "rows") -> None:
        self.name, self.count = name, count

    def ids(self) -> list[str]:
        return [f"row {i}" for i in range(self.count)]

    def image(self, id: str) -> np.ndarray:
        return np.full((4, 6, 3), int(id.removeprefix("row ")), np.uint8)


@pytest.fixture
def of_rows(tmp_path: Path) -> Run:
    """A run of three images in memory."""
    images = open_images(Rows(3))
    record = ImagesRecord(source=images.source, count=3, sha256=images.digest())
    run = begin_run(tmp_path / "run", manifest_for(3, 3, images=record), images)
    batches = batches_for(3, np.random.default_rng(0))
    write_shard(run, 0, [item.id for item in images], batches, {})
    finish_run(run)
    return run


def test_a_run_is_opened_with_the_source_of_its_images(of_rows: Run) -> None:
    assert np.asarray(decode(of_rows.images[2])).max() == 2  # the one who begins has it
    for source in (Rows(3), open_images(Rows(3)), Rows(3, "called otherwise")):
        run = Run(of_rows.folder, images=source)
        assert [item.id for item in run.images] == ["row 0", "row 1", "row 2"]
        assert np.asarray(decode(run.images.find("row 1"))).tolist() == [[[1, 1, 1]] * 6] * 4
    assert run.columns(run.features[0]).images == ("row 0", "row 1", "row 2")


def test_without_its_source_a_run_has_numbers_and_no_pictures(of_rows: Run) -> None:
    run = Run(of_rows.folder)
    assert [item.id for item in run.images] == ["row 0", "row 1", "row 2"]
    assert run.images.source == "rows"
    assert all(item.path is None for item in run.images)
    assert len(run.columns(run.features[0]).activation) == 3
    with pytest.raises(Unreadable, match=r"no file, and its image source was not handed over"):
        decode(run.images[0])


def test_another_source_is_refused(of_rows: Run, tmp_path: Path) -> None:
    message = r"run was scanned with other images than '{}' holds; hand over those of 'rows'$"
    with pytest.raises(RunError, match=message.format("more rows")):
        Run(of_rows.folder, images=Rows(4, "more rows"))
    Image.new("RGB", (6, 4)).save(tmp_path / "row 0.png")
    with pytest.raises(RunError, match=message.format(re.escape(str(tmp_path)))):
        Run(of_rows.folder, images=tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder and no file"):
        Run(of_rows.folder, images=tmp_path / "nowhere")


def test_a_folder_that_moved_can_be_handed_over(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for i in range(2):
        Image.new("RGB", (6, 4), (i, 0, 0)).save(here / f"{i}.png")
    images = open_images(here)
    record = ImagesRecord(source=images.source, count=2, sha256=images.digest())
    begin_run(tmp_path / "run", manifest_for(2, images=record), images)
    here.rename(there)
    assert not any(item.path.exists() for item in Run(tmp_path / "run").images)
    moved = Run(tmp_path / "run", images=there)
    assert [item.path for item in moved.images] == [there / "0.png", there / "1.png"]
    (there / "2.png").write_bytes(b"")
    with pytest.raises(RunError, match="was scanned with other images"):
        Run(tmp_path / "run", images=there)


# Rows


def test_channels_of_some_rows_in_any_order(run: Run) -> None:
    whole = run.channels(run.features[0])
    total, inhibition = run.channel_sides(run.features[0])
    assert whole.shape == total.shape == (4, 4)
    for chosen in ([2, 0], [3, 3, 1], [], [0, 1, 2, 3]):
        rows = np.array(chosen, np.int64)
        np.testing.assert_array_equal(run.channels(run.features[0], rows=rows), whole[rows])
        sides = run.channel_sides(run.features[0], rows=rows)
        np.testing.assert_array_equal(sides[0], total[rows])
        np.testing.assert_array_equal(sides[1], inhibition[rows])
    for chosen in ([4], [-1, 0]):
        with pytest.raises(IndexError, match=r"of 4 images"):
            run.channels(run.features[0], rows=np.array(chosen, np.int64))


def test_what_a_run_of_features_has_not(run: Run) -> None:
    for read in (run.all_units, run.summary, run.units):
        with pytest.raises(RunError, match=r"is no scan of all units; scan 'LAYER:\*' for one"):
            read()
    with pytest.raises(RunError, match=r"baseline\.safetensors is damaged"):
        run.baseline()
    assert repr(run) == f"Run('{run.folder}': block:3@1,2, block:mine@0,0, 5 images)"
    assert [run.shard_rows(i) for i in range(3)] == [range(2), range(2, 4), range(4, 5)]


def test_the_baseline_comes_back(run: Run) -> None:
    mean = torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2)
    write_baseline(run, mean)
    assert torch.equal(Run(run.folder).baseline(), mean)
    assert run.baseline(dtype=torch.float64).dtype == torch.float64
