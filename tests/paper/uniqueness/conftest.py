"""One small network, its images and their measurements."""

from pathlib import Path

import pytest
from tests.support.pictures import paint_blobs
from tests.support.threads import single_thread
from tests.support.uniqueness import QUICK, SIZE, Small

from opponent import Network, Preprocessing
from opponent.paper.uniqueness.measure import measure_features
from opponent.paper.uniqueness.measurements import FeatureMeasurements


@pytest.fixture(scope="session")
def small() -> Network:
    network = Network(Small(), preprocessing=Preprocessing(size=SIZE), name="small")
    _ = network.layers
    return network


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty smooth pictures, and one file that is none."""
    folder = paint_blobs(tmp_path_factory.mktemp("pictures"), 60, (30, 24))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="session")
def measured(
    small: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> FeatureMeasurements:
    """The measurements of all layers, in a folder that tests only read."""
    folder = tmp_path_factory.mktemp("measured") / "out"
    with single_thread():
        return measure_features(small, pictures, out=folder, settings=QUICK)
