"""What a scan writes of each image: the numbers, their order, and what cannot be read."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.scans import SIZE, Branched

from opponent import Feature, ImageSet, Network, Preprocessing, Run, attribute, scan_images
from opponent.attribution.attribute import attribute_each
from opponent.images.decode import load_image
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry
from opponent.scan.shard import _fitting
from opponent.storage.run import CHANNELS, MAPS, SCALARS

LISTS = (*MAPS, *CHANNELS)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("number", range(4))
def test_columns_are_what_attribute_gives_image_by_image(
    embedded: Network, mixed: list[Feature], scanned: tuple[Run, ImageSet], number: int
) -> None:
    run, images = scanned
    feature = run.features[number]
    columns, channels = run.columns(feature), run.channels(feature)
    window = run.through_window(feature)
    for row in range(number, 60, 15):
        entry = images.find(columns.images[row])
        one = attribute(embedded, [entry.path], mixed[number], "mixed3b")
        assert one.feature == feature
        for name in SCALARS:
            np.testing.assert_allclose(
                getattr(columns, name)[row], getattr(one, name)[0], rtol=1e-4, atol=1e-5
            )
        np.testing.assert_allclose(channels[row], one.channels[0], rtol=1e-3, atol=1e-5)
        for name in ("excitation_map", "inhibition_map"):
            everywhere = np.zeros(one.excitation_map.shape[1:], np.float32)
            everywhere[window.slices] = getattr(columns, name)[row]
            np.testing.assert_allclose(everywhere, getattr(one, name)[0], rtol=1e-3, atol=1e-5)


def test_the_law_holds_in_every_row(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    for feature in run.features:
        columns, channels = run.columns(feature), run.channels(feature)
        assert channels.shape == (60, 240)
        close = {"rtol": 1e-4, "atol": 1e-4}
        difference = columns.excitation - columns.inhibition
        np.testing.assert_allclose(difference, channels.sum(1), **close)
        np.testing.assert_allclose(columns.excitation + columns.inhibition, columns.l1, **close)
        np.testing.assert_allclose(columns.excitation_map.sum((1, 2)), columns.excitation, **close)
        np.testing.assert_allclose(columns.inhibition_map.sum((1, 2)), columns.inhibition, **close)
        # No biases in the mixed blocks: S accounts for all of the activation.
        np.testing.assert_allclose(difference, columns.activation, **close)
        for name in (*SCALARS[1:], "excitation_map", "inhibition_map"):
            assert (getattr(columns, name) >= 0).all()
        assert (columns.l2 <= columns.l1 * (1 + 1e-5)).all()
        assert columns.excitation.any()
        assert columns.inhibition.any()
        plus, minus = run.channel_sides(feature)
        assert (plus >= 0).all()
        assert (minus >= 0).all()
        np.testing.assert_allclose(plus.sum(1), columns.excitation, **close)
        np.testing.assert_allclose(minus.sum(1), columns.inhibition, **close)
        np.testing.assert_allclose(plus - minus, channels, **close)


def test_exemplars_are_the_places_where_channels_are_most_active(
    embedded: Network, scanned: tuple[Run, ImageSet]
) -> None:
    """Against all maps of all images at once, where the features look."""
    run, images = scanned
    boxes = [run.through_window(feature) for feature in run.features]
    top, left = min(x.top for x in boxes), min(x.left for x in boxes)
    bottom = max(x.top + x.height for x in boxes)
    right = max(x.left + x.width for x in boxes)
    readable = [entry for entry in images if entry.id not in run.unreadable()]
    pixels = [load_image(entry, embedded.preprocessing.fit) for entry in readable]
    hidden = embedded.run(embedded.inputs(np.stack(pixels)), "mixed4a", "mixed3b").through
    assert hidden is not None
    for channel in (0, 7, 100, 239):
        largest = hidden[:, channel, top:bottom, left:right].flatten(1).amax(1)
        best = largest.argsort(descending=True, stable=True)[:9]
        exemplars = run.exemplars(channel)
        assert [each.image for each in exemplars] == [
            readable[i].id for i in best if largest[i] > 0
        ]
        for each, i in zip(exemplars, best.tolist(), strict=False):
            assert top <= each.row < bottom
            assert left <= each.column < right
            np.testing.assert_allclose(each.activation, largest[i], rtol=1e-4)
            at = hidden[i, channel, each.row, each.column]
            np.testing.assert_allclose(each.activation, at, rtol=1e-4)
        assert run.exemplars(channel, 2) == exemplars[:2]


def test_a_tie_between_exemplars_goes_to_the_first(tmp_path: Path) -> None:
    """Equal images, over several batches and shards."""
    for number in range(12):
        Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / f"{number:02d}.png")
    run = scan_images(
        "inceptionv1-small",
        tmp_path,
        "mixed3b:1",
        "mixed3a",
        out=tmp_path / "run",
        batch_size=1,
        shard_size=5,
    )
    channels = [run.exemplars(channel) for channel in range(run.manifest.through_shape[0])]
    assert any(channels)
    for exemplars in channels:
        images = [each.image for each in exemplars]
        assert images == [f"{n:02d}.png" for n in range(9 if exemplars else 0)]


def test_features_keep_their_own_windows(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    shapes = [run.columns(feature).excitation_map.shape[1:] for feature in run.features]
    # mixed3b is 10 x 12, pooled 3 x 3 by steps of 2 with the rim below and to the right. A 1x1
    # unit at 2, 3 of 5 x 6 sees 3 x 3; a 3x3 unit 7 x 7; a 5x5 unit at 0, 5 sees rows 0 to 6 and
    # columns 6 to 11. A direction sees what its widest unit does, rows 0 to 9, columns 2 to 11.
    assert shapes == [(3, 3), (7, 6), (7, 7), (10, 10)]
    corner = run.through_window(run.features[1])
    assert (corner.top, corner.left) == (0, 6)
    assert [feature.position for feature in run.features] == [(2, 3), (0, 5), (2, 3), (2, 3)]


def test_rows_follow_the_images(scanned: tuple[Run, ImageSet]) -> None:
    run, images = scanned
    bad = {"017-broken.png", "text.jpg"}
    expected = tuple(entry.id for entry in images if entry.id not in bad)
    assert len(expected) == 60
    for feature in run.features:
        assert run.columns(feature).images == expected
    assert [entry.id for entry in run.images] == [entry.id for entry in images]


def test_what_cannot_be_read_is_listed_with_its_reason(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    assert list(run.unreadable()) == ["017-broken.png", "text.jpg"]
    assert "truncated" in run.unreadable()["017-broken.png"]
    assert run.unreadable()["text.jpg"] == "not an image"
    with (run.folder / "unreadable.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["image", "reason"], *map(list, run.unreadable().items())]


def test_shards_are_plain_tables(scanned: tuple[Run, ImageSet]) -> None:
    run, _ = scanned
    shards = sorted((run.folder / "scan").iterdir())
    assert [shard.name for shard in shards] == [f"{n:06d}.parquet" for n in range(3)]
    tables = [pq.read_table(shard) for shard in shards]
    assert [len(table) for table in tables] == [4 * 24, 4 * 25, 4 * 11]
    for table in tables:
        assert table.column_names == ["image", "feature", *SCALARS, *LISTS]
        types = {name: str(table.schema.field(name).type) for name in table.column_names}
        assert types == (
            {"image": "string", "feature": "string"}
            | dict.fromkeys(SCALARS, "float")
            | {name: types[name] for name in LISTS}
        )
        assert all(types[name].startswith("list<") for name in LISTS)
        assert all("float" in types[name] for name in LISTS)
        assert sum(column.null_count for column in table.columns) == 0
        assert set(table["feature"].to_pylist()) == {
            "mixed4a:3@2,3", "mixed4a:210@0,5", "mixed4a:130@2,3", "mixed4a:mine@2,3",
        }  # fmt: skip
    first = tables[0].filter(np.array(tables[0]["feature"].to_pylist()) == "mixed4a:130@2,3")
    columns = run.columns("mixed4a:130")
    assert first["image"].to_pylist() == list(columns.images[:24])
    flat = np.array(first["inhibition_map"].to_pylist(), np.float32)
    np.testing.assert_array_equal(flat, columns.inhibition_map[:24].reshape(24, -1))


def test_a_logit_through_a_mixed_layer_covers_the_whole_map(
    embedded: Network, tmp_path: Path, pictures: Path
) -> None:
    run = scan_images(embedded, pictures, "logits:7", "mixed5a", out=tmp_path / "run", batch_size=4)
    columns = run.columns()
    assert columns.excitation_map.shape == (9, 2, 3)
    assert run.channels().shape == (9, 416)
    one = attribute(embedded, [pictures / "005.png"], "logits:7", "mixed5a")
    np.testing.assert_allclose(
        columns.inhibition_map[5], one.inhibition_map[0], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(columns.activation[5], one.activation[0], rtol=1e-4)
    assert run.features[0].position is None
    # A logit has a bias, which S does not hold.
    unit = embedded.module.get_submodule("softmax2_pre_activation_matmul").bias[7].item()
    np.testing.assert_allclose(
        columns.excitation - columns.inhibition + unit, columns.activation, rtol=1e-3, atol=1e-3
    )


def test_features_may_be_explained_through_the_pixels(
    small: Network, tmp_path: Path, pictures: Path
) -> None:
    run = scan_images(small, pictures, "mixed:4", "pixels", out=tmp_path / "run")
    assert run.columns().excitation_map.shape == (9, 7, 7)
    assert run.channels().shape == (9, 3)
    assert run.manifest.placement == (0, 0, 1, 1)
    assert run.through_window(run.features[0]) == run.receptive_field(run.features[0])


def test_a_network_in_double_precision_gives_single_columns(tmp_path: Path, pictures: Path) -> None:
    network = Network(Branched().double(), preprocessing=Preprocessing(size=SIZE), name="small")
    run = scan_images(network, pictures, "mixed:4", "early", out=tmp_path / "run")
    columns = run.columns()
    assert columns.activation.dtype == columns.excitation_map.dtype == np.float32
    one = attribute(network, [pictures / "002.png"], "mixed:4", "early")
    assert columns.l1[2] == np.float32(one.l1[0])


@given(count=st.integers(1, 9), batch=st.integers(1, 5), shard=st.integers(1, 6))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_columns_depend_on_no_batch_and_no_shard(
    tmp_path_factory: pytest.TempPathFactory,
    small: Network,
    pictures: Path,
    count: int,
    batch: int,
    shard: int,
) -> None:
    chosen = sorted(pictures.iterdir())[:count]
    # The fourth image, where there is one, cannot be read.
    chosen[3:4] = [pictures / "no.png" for _ in chosen[3:4]]
    calls: list[tuple[str, int, int]] = []
    run = scan_images(
        small,
        chosen,
        ["mixed:1", "mixed:4@0,9"],
        "early",
        out=tmp_path_factory.mktemp("run"),
        batch_size=batch,
        shard_size=shard,
        progress=lambda *call: calls.append(call),
    )
    # A batch after the other, the last of each shard among them.
    done = [call[1] for call in calls]
    assert {(call[0], call[2]) for call in calls} == {("scanning", count)}
    assert (done[0], done[-1]) == (0, count)
    assert done == sorted(set(done))
    assert {*range(0, count, shard)} <= {*done}
    assert all(b - a <= batch + 1 for a, b in pairwise(done))
    readable = [path for path in chosen if path.name != "no.png"]
    assert run.shard_count == -(-count // shard)
    expected = attribute_each(
        small,
        small.inputs(
            np.stack(
                [load_image(ImageEntry(id="x", path=path), Fit(size=SIZE)) for path in readable]
            )
        ),
        run.features,
        "early",
    )
    for result in expected:
        columns = run.columns(result.feature)
        assert columns.images == tuple(path.name for path in readable)
        np.testing.assert_allclose(columns.activation, result.activation, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(columns.l2, result.l2, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            columns.excitation_map,
            result.excitation_map[:, *run.through_window(result.feature).slices],
            rtol=1e-4,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            run.channels(result.feature), result.channels, rtol=1e-4, atol=1e-6
        )


def test_a_batch_that_memory_does_not_hold_is_halved() -> None:
    sizes = []

    def compute(inputs: torch.Tensor) -> int:
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(inputs)

    assert list(_fitting(compute, torch.zeros(10, 1))) == [3, 2, 3, 2]
    assert sizes == [10, 5, 3, 2, 5, 3, 2]

    def never(inputs: torch.Tensor) -> int:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(_fitting(never, torch.zeros(10, 1)))
