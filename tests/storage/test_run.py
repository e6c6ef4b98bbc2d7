"""A run's folder: what goes in comes back; what is damaged, foreign or missing is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from opponent import Feature, Preprocessing, Run, RunError
from opponent.core.box import Box
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.storage.files import _machine
from opponent.storage.manifest import versions
from opponent.storage.run import LISTS, SCALARS, Manifest

FEATURES = (
    Feature(layer="block", unit=3, position=(1, 2)),
    Feature(layer="block", vector=(0.1, -1e-9, 3.0), name="mine", position=(0, 0)),
)
WINDOWS = [
    {"through": [0, 1, 2, 3], "pixels": [0, 2, 5, 7]},
    {"through": [0, 0, 1, 1], "pixels": [0, 0, 3, 3]},
]


def manifest_for(count: int, shard_size: int = 2, **other: Any) -> Manifest:
    values: dict[str, Any] = {
        "network": {
            "name": "toy",
            "weights_file": None,
            "weights_sha256": "ab" * 32,
            "preprocessing": {
                "size": [8, 9],
                "resize": None,
                "mean": [0.5, 0.5, 0.5],
                "std": [1.0, 1.0, 1.0],
            },
        },
        "features": [feature.describe() for feature in FEATURES],
        "through": "before",
        "through_shape": [4, 3, 5],
        "windows": WINDOWS,
        "placement": [0.0, 0.5, 2.0, 2.0],
        "images": {"source": "somewhere", "count": count, "sha256": "cd" * 32},
        "batch_size": 2,
        "shard_size": shard_size,
        "device": "cpu",
        "seed": 0,
        "versions": versions(),
    }
    return Manifest(**(values | other))


def images_for(count: int) -> ImageSet:
    entries = (ImageEntry(id=f"{i}.png", path=Path(f"/data/{i}.png")) for i in range(count))
    return ImageSet(source="somewhere", entries=tuple(entries))


Batches = list[list[dict[str, np.ndarray]]]


def batches_for(count: int, generator: np.random.Generator) -> Batches:
    """For each feature, one batch an image."""
    return [
        [
            {name: generator.normal(size=1).astype(np.float32) for name in SCALARS}
            | {
                name: generator.normal(size=(1, *window["through"][2:])).astype(np.float32)
                for name in ("excitation_map", "inhibition_map")
            }
            | {
                name: generator.normal(size=(1, 4)).astype(np.float32)
                for name in ("channels", "inhibition_channels")
            }
            for _ in range(count)
        ]
        for window in WINDOWS
    ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Five images in three shards, '3.png' unreadable."""
    run = Run.begin(tmp_path / "run", manifest_for(5), images_for(5))
    generator = np.random.default_rng(0)
    for shard in range(3):
        ids = [f"{i}.png" for i in range(5)[shard * 2 : shard * 2 + 2] if i != 3]
        bad = {"3.png": "truncated: 7 of 9 bytes, “so” it is"} if shard == 1 else {}
        run.write_shard(shard, ids, batches_for(len(ids), generator), bad)
    run.finish()
    return run


# What goes in comes back


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
    run = Run.begin(tmp_path_factory.mktemp("run"), manifest, images_for(count * len(sizes)))
    floats = st.floats(width=32, allow_nan=False)
    expected: list[dict[str, list[np.ndarray]]] = [{}, {}]
    names: list[str] = []
    for number, shard in enumerate(sizes):
        parts: Batches = [[], []]
        for size in shard:
            for which, window in enumerate(WINDOWS):
                shapes = dict.fromkeys(SCALARS, (size,))
                shapes |= dict.fromkeys(("channels", "inhibition_channels"), (size, 4))
                box = (size, *window["through"][2:])
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
        run.write_shard(number, ids, parts, {})
    if not names:
        with pytest.raises(RunError, match=r"no image of .* could be read"):
            run.columns()
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
    Run.begin(folder, manifest_for(len(images)), images)
    assert Run(folder).images == images


def test_relative_paths_are_written_out(tmp_path: Path) -> None:
    entry = ImageEntry(id="x", path=Path("here/x.png"))
    run = Run.begin(tmp_path, manifest_for(1), ImageSet(source="x", entries=(entry,)))
    assert run.images[0].path == Path.cwd() / "here" / "x.png"


def test_the_manifest_comes_back(run: Run) -> None:
    manifest = manifest_for(5)
    assert Run(run.folder).manifest == manifest
    assert json.loads(manifest.to_json())["format"] == 2
    assert run.features == FEATURES
    assert run.preprocessing == Preprocessing(size=(8, 9), mean=(0.5,) * 3, std=(1.0,) * 3)
    assert run.through_window(FEATURES[0]) == Box(top=0, left=1, height=2, width=3)
    assert run.receptive_field(FEATURES[1]) == Box(top=0, left=0, height=3, width=3)


def test_reasons_come_back(run: Run) -> None:
    assert run.unreadable() == {"3.png": "truncated: 7 of 9 bytes, “so” it is"}
    assert (run.folder / "unreadable.csv").read_text(encoding="utf-8") == (
        'image,reason\n3.png,"truncated: 7 of 9 bytes, “so” it is"\n'
    )


def test_versions_name_what_numbers_depend_on() -> None:
    found = versions()
    assert set(found) == {"opponent", "python", "torch", "numpy", "pillow"}
    assert found["numpy"] == np.__version__
    assert all(value.count(".") >= 1 for value in found.values())


# Which feature


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (None, 0),
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
def test_a_feature_is_found(run: Run, asked: Feature | str | None, number: int) -> None:
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


def test_a_name_that_fits_two_features_is_refused(tmp_path: Path) -> None:
    features = [FEATURES[0].describe(), FEATURES[0].at((0, 0)).describe()]
    run = Run.begin(tmp_path, manifest_for(1, features=features), images_for(1))
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


@given(share=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_truncated_manifest_is_told(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("run")
    text = manifest_for(5).to_json().rstrip()
    (folder / "manifest.json").write_text(text[: int(share * (len(text) - 1))])
    with pytest.raises(RunError, match=r"manifest\.json is damaged \(.*\); delete .* scan again"):
        Run(folder)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        Run.begin(folder, manifest_for(5), images_for(5))


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"format": 2}', b'{"format": 2, "new": 2}', b"\xff\xfe"]
)
def test_a_manifest_of_another_form_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged|has format None"):
        Run(tmp_path)


def test_a_manifest_of_another_version_is_told(run: Run) -> None:
    path = run.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 9'))
    with pytest.raises(RunError, match=r"has format 9, this version .* reads format 2; scan again"):
        Run(run.folder)


@given(number=st.integers(0, 2), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=30, deadline=None)
def test_a_truncated_shard_is_told(
    tmp_path_factory: pytest.TempPathFactory, number: int, share: float
) -> None:
    run = Run.begin(tmp_path_factory.mktemp("run"), manifest_for(6), images_for(6))
    for shard in range(3):
        run.write_shard(shard, ["a", "b"], batches_for(2, np.random.default_rng(0)), {})
    path = run.shard(number)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = rf"{number:06d}\.parquet is damaged \(.+\); delete it and give the same .* again"
    for read in (Run.columns, Run.channels, Run.unreadable, Run.finish):
        with pytest.raises(RunError, match=message):
            read(Run(run.folder))
    path.unlink()
    assert run.missing() == [number]


def test_no_flipped_bit_gives_other_numbers(tmp_path: Path) -> None:
    """A disk that fails: a bit of each page of each column, which has a checksum."""
    run = Run.begin(tmp_path, manifest_for(4, shard_size=4), images_for(4))
    run.write_shard(0, list("abcd"), batches_for(4, np.random.default_rng(0)), {})
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
                read(Run(tmp_path))
            tested.add(name)
    assert tested == {"image", *SCALARS, *LISTS}
    path.write_bytes(good)
    assert run.columns().images == tuple("abcd")


def test_a_table_of_something_else_is_told(run: Run) -> None:
    pq.write_table(pa.table({"a": [1]}), run.shard(1))
    for read in (Run.columns, Run.channels, Run.unreadable):
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
        Run.begin(run.folder, manifest_for(5), images_for(5))
        assert path.read_bytes() == content


def test_a_missing_shard_is_told(run: Run) -> None:
    run.shard(1).unlink()
    message = r"not finished \(2 of 3 parts\); give the same `opponent scan` again, and it goes on"
    for read in (Run.columns, Run.channels, Run.unreadable, Run.finish):
        with pytest.raises(RunError, match=message):
            read(Run(run.folder))


# Whose folder it is


def test_only_what_determines_numbers_makes_another_scan(run: Run) -> None:
    manifest = run.manifest
    moved = replace(
        manifest,
        network={**manifest.network, "weights_file": "/elsewhere.pt"},
        images={**manifest.images, "source": "/elsewhere"},
    )
    assert Run.begin(run.folder, moved, images_for(5)).manifest == moved
    with pytest.raises(RunError, match=r"holds another scan \(images\.sha256 was cd.*, is 12"):
        Run.begin(
            run.folder, replace(moved, images={**moved.images, "sha256": "12"}), images_for(5)
        )
    assert Run(run.folder).manifest == moved


def test_what_a_scan_leaves_that_was_killed_at_its_beginning_is_no_hindrance(
    tmp_path: Path,
) -> None:
    # The number of a process that is beyond what Linux gives.
    (tmp_path / f".manifest.{_machine()}4194399.tmp.json").write_bytes(b"half")
    Run.begin(tmp_path, manifest_for(2), images_for(2))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "images.parquet"}


@pytest.mark.parametrize("name", [".git", "notes.txt", "images.parquet", "scan"])
def test_other_files_are_a_hindrance(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"someone's own")
    with pytest.raises(RunError, match="is not a run folder; choose a folder of its own"):
        Run.begin(tmp_path, manifest_for(2), images_for(2))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        (name, b"someone's own")
    ]


def test_shards_are_counted(tmp_path: Path) -> None:
    for count, size, shards in ((1, 1, 1), (5, 2, 3), (4, 2, 2), (3, 100, 1)):
        folder = tmp_path / f"{count}-{size}"
        run = Run.begin(folder, manifest_for(count, shard_size=size), images_for(count))
        assert run.shard_count == shards
        assert run.missing() == [*range(shards)]


def test_lists_keep_their_columns(run: Run) -> None:
    table = pq.read_table(run.shard(0))
    assert table.column_names == ["image", "feature", *SCALARS, *LISTS]
    lengths = [len(each) for each in table["excitation_map"].to_pylist()]
    assert lengths == [6, 6, 1, 1]
