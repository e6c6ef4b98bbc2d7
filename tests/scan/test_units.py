"""Scans of all units of a layer: extremes and distributions, kept in bounded memory."""

import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.scans import Gated, files
from tests.support.scans import gated as gated_network

import opponent
from opponent import Network, Preprocessing, Run, RunError, load, scan_images
from opponent.storage.summary import SCORES, Summary

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def embedded() -> Network:
    return opponent.load()


@pytest.fixture(scope="module")
def gated() -> Network:
    return gated_network()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures and one file that is none."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(11):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        blobs.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    (folder / "05-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


OPTIONS = {"batch_size": 3, "shard_size": 5}


@pytest.fixture(scope="module")
def scanned(embedded: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All units of a layer, and two of them by themselves."""
    out = tmp_path_factory.mktemp("run") / "units"
    features = ["mixed3a:*@4,4", "mixed3a:7@4,4", "mixed3a:100@4,4"]
    return scan_images(embedded, pictures, features, "conv2d2", out=out, **OPTIONS)


def test_a_scan_keeps_what_single_features_give(embedded: Network, scanned: Run) -> None:
    table = scanned.units()
    assert len(table) == embedded.layer("mixed3a").shape[0] * len(SCORES)
    by_unit = {(row["unit"], row["score"]): row for row in table.to_pylist()}
    assert [x.label for x in scanned.features] == ["mixed3a:7@4,4", "mixed3a:100@4,4"]
    for feature in scanned.features:
        one = scanned.columns(feature)
        columns = {name: getattr(one, name) for name in SCORES if name != "tension"}
        columns["tension"] = np.minimum(one.excitation, one.inhibition)
        for name, column in columns.items():
            row = by_unit[feature.unit, name]
            assert row["images"] == 11
            best = np.sort(column)[::-1]
            np.testing.assert_allclose(row["top_values"], best, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(row["bottom_values"], best[::-1], rtol=1e-4, atol=1e-6)
            assert row["top_images"][0] == one.images[column.argmax()]
            assert row["bottom_images"][0] == one.images[column.argmin()]
            expected = np.quantile(column, 0.95, method="lower")
            np.testing.assert_allclose(row["q95"], expected, rtol=0.011, atol=1e-6)


def test_all_units_alone_give_the_same_summary(
    embedded: Network, pictures: Path, scanned: Run, tmp_path: Path
) -> None:
    alone = scan_images(
        embedded, pictures, "mixed3a:*@4,4", "conv2d2", out=tmp_path / "run", **OPTIONS
    )
    assert alone.features == ()
    assert alone.units().equals(scanned.units())
    assert alone.unreadable().keys() == {"05-broken.jpg"}


def test_a_scan_that_stops_goes_on_to_the_same_bytes(
    embedded: Network, pictures: Path, scanned: Run, tmp_path: Path
) -> None:
    """It stops after each number of images, and then the same folder is scanned on."""
    features = ["mixed3a:*@4,4", "mixed3a:7@4,4", "mixed3a:100@4,4"]
    folder = tmp_path / "run"

    for last in (1, 6, 11):

        def stop(_what: str, done: int, _total: int, last: int = last) -> None:
            if done >= last:
                raise KeyboardInterrupt("stop")

        with pytest.raises(KeyboardInterrupt, match="stop"):
            scan_images(
                embedded, pictures, features, "conv2d2", out=folder, progress=stop,
                **OPTIONS)  # fmt: skip
        with pytest.raises(RunError, match="is not finished"):
            Run(folder).units()
    scan_images(embedded, pictures, features, "conv2d2", out=folder, **OPTIONS)
    assert files(folder) == files(Path(str(scanned.folder)))


def test_shards_may_be_of_any_size(
    embedded: Network, pictures: Path, scanned: Run, tmp_path: Path
) -> None:
    other = scan_images(
        embedded, pictures, "mixed3a:*@4,4", "conv2d2", out=tmp_path / "run",
        batch_size=3, shard_size=3)  # fmt: skip
    a, b = other.summary(), scanned.summary()
    assert a.count == b.count == 11
    np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-6)


def test_logits_can_be_scanned(gated: Network, pictures: Path, tmp_path: Path) -> None:
    run = scan_images(gated, pictures, "logits:*", "last.1", out=tmp_path / "run")
    assert run.units().num_rows == 3 * len(SCORES)
    assert run.manifest.units is not None
    assert run.manifest.units.position is None


def test_no_readable_image_gives_an_empty_table(gated: Network, tmp_path: Path) -> None:
    (tmp_path / "none.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    run = scan_images(gated, tmp_path / "none.jpg", "last.1:*", "stem.1", out=tmp_path / "run")
    assert set(run.units()["images"].to_pylist()) == {0}
    assert run.units()["top_images"].to_pylist() == [[]] * 36


def test_what_cannot_be_asked(gated: Network, pictures: Path, tmp_path: Path) -> None:
    def ask(*features: str, message: str, **more: str) -> None:
        with pytest.raises(ValueError, match=message):
            scan_images(
                gated, pictures, list(features), "stem.1", out=tmp_path / "run",
                **more)  # fmt: skip

    ask("last.1:*", "last.1:*", message="one scan takes all units of one layer")
    ask("last.1:*", "last.1:*@0,0", message="one scan takes all units of one layer")
    ask("last.1:*", "logits:*", message="one scan takes all units of one layer")
    ask("last.1:*", "last.0:1", message=r"features of one layer, got last\.0, last\.1")
    ask("last.1:*@10,0", message="position 10,0 lies outside")
    ask("nothing:*", message="has no layer 'nothing'")
    ask("stem.1:*", message="does not lie before the target")
    ask("last.1:*", rule="integrated-zero", message="all units at once take the rule 'gradient'")
    assert not (tmp_path / "run").exists()


def test_a_unit_that_gives_no_number_is_left_out(pictures: Path, tmp_path: Path) -> None:
    module = Gated()
    with torch.no_grad():
        module.last[0].bias[4] = torch.nan
    network = Network(module, preprocessing=Preprocessing(size=(10, 12)))
    run = scan_images(network, pictures, "last.1:*", "stem.1", out=tmp_path / "run")
    images = {row["unit"]: row["images"] for row in run.units().to_pylist()}
    assert images == {unit: 0 if unit == 4 else 11 for unit in range(6)}


def test_a_run_of_features_has_no_units(embedded: Network, pictures: Path, tmp_path: Path) -> None:
    run = scan_images(embedded, pictures, "mixed3a:3", "conv2d2", out=tmp_path / "run")
    with pytest.raises(RunError, match=r"is no scan of all units; scan 'LAYER:\*' for one"):
        run.units()


def test_a_damaged_or_missing_summary_is_told(scanned: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(str(scanned.folder), folder)
    path = folder / "units" / "000001.safetensors"
    (folder / "units.parquet").unlink()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"000001\.safetensors is damaged"):
        Run(folder).units()
    path.unlink()
    with pytest.raises(RunError, match=r"000001\.safetensors is damaged"):
        Run(folder).units()


def test_one_summary_is_held_at_a_time(scanned: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all are merged, none but the sum and the one that is read are alive."""
    summaries: list[weakref.ref[Summary]] = []
    alive = []
    read, initialise = Summary.from_arrays, Summary.__init__

    def watched(data: dict[str, np.ndarray]) -> Summary:
        alive.append(sum(x() is not None for x in summaries))
        return read(data)

    def remember(self: Summary, **values: Any) -> None:
        initialise(self, **values)
        summaries.append(weakref.ref(self))

    monkeypatch.setattr(Summary, "from_arrays", watched)
    monkeypatch.setattr(Summary, "__init__", remember)
    assert scanned.summary().count == 11
    # The first; then the sum, and what was read last.
    assert alive == [0, 1, 2]


def test_a_scan_of_every_position(tmp_path: Path) -> None:
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    network = load()
    run = scan_images(network, tmp_path, "conv2d2:*@*", "conv2d1", out=tmp_path / "run")
    here = scan_images(network, tmp_path, "conv2d2:*", "conv2d1", out=tmp_path / "here")
    assert run.manifest.units is not None
    assert run.manifest.units.position == "*"
    everywhere, centre = run.summary(), here.summary()
    assert (everywhere.values[:, :, 0, :3] >= centre.values[:, :, 0, :3] - 1e-4).all()
    with pytest.raises(ValueError, match="needs a layer that one convolution makes"):
        scan_images(network, tmp_path, "mixed3b:*@*", "mixed3a", out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
