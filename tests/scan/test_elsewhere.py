"""Run folders on other file systems, such as an object store's: the same bytes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.scans import files, paint_with_one_bad, two_convolutions

from opponent import Network, Run, RunError, scan_images
from opponent.storage.files import AnyPath, to_path

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small() -> Network:
    return two_convolutions()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return paint_with_one_bad(tmp_path / "pictures", 9)


@pytest.fixture
def memory() -> Iterator[AnyPath]:
    """A folder of another file system, as an object store's."""
    pytest.importorskip("upath")
    folder = to_path("memory://opponent-runs")
    yield folder
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)


def test_a_run_elsewhere_has_the_same_bytes(
    small: Network, pictures: Path, tmp_path: Path, memory: AnyPath
) -> None:
    scan = {"through": "relu", "images": pictures, "shard_size": 4, "rule": "integrated-mean/2"}
    here = scan_images(small, features="two:3", **scan, out=tmp_path / "run")
    there = scan_images(small, features="two:3", **scan, out=f"{memory}/run")
    expected = files(tmp_path / "run")

    def stored() -> dict[str, bytes]:
        prefix = f"{there.folder.path}/"
        return {
            path.removeprefix(prefix): there.folder.fs.cat_file(path)
            for path in there.folder.fs.find(there.folder.path)
        }

    assert stored() == expected
    again = Run(f"{memory}/run")
    assert str(again.folder) == "memory://opponent-runs/run"
    assert again.images.entries == here.images.entries
    assert again.unreadable() == here.unreadable()
    np.testing.assert_array_equal(again.columns().l2, here.columns().l2)
    np.testing.assert_array_equal(again.channels(rows=np.array([7, 2])), here.channels()[[7, 2]])
    assert again.exemplars(2, 3) == here.exemplars(2, 3)
    assert torch.equal(again.baseline(), here.baseline())
    # What is lost is computed again, and only that.
    again.shard(1).unlink()
    assert again.missing() == [1]
    with pytest.raises(RunError, match=r"memory://opponent-runs/run is not finished \(2 of 3"):
        again.columns()
    scan_images(small, features="two:3", **scan, out=f"{memory}/run")
    assert stored() == expected


def test_whose_folder_it_is_matters_elsewhere_too(
    small: Network, pictures: Path, memory: AnyPath
) -> None:
    scan = {"through": "relu", "images": pictures, "out": f"{memory}/run"}
    scan_images(small, features="two:3", **scan)
    with pytest.raises(RunError, match="memory://opponent-runs/run holds another scan"):
        scan_images(small, features="two:2", **scan)
    with pytest.raises(RunError, match="memory://opponent-runs exists and is not a run folder"):
        scan_images(small, features="two:3", **{**scan, "out": str(memory)})
    with pytest.raises(RunError, match="memory://opponent-runs/none is no run folder"):
        Run(f"{memory}/none")
    (memory / "run" / "scan" / "000000.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(RunError, match=r"memory://.*000000\.parquet is damaged .*delete it"):
        Run(f"{memory}/run").columns()
