"""One small network, its images and their measurements."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.pictures import paint_blobs
from tests.support.uniqueness import QUICK, SIZE, Small

from opponent import Network, Preprocessing
from opponent.paper.uniqueness.measure import (
    FeatureMeasurements,
    measure_features,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small() -> Network:
    network = Network(Small(), preprocessing=Preprocessing(size=SIZE), name="small")
    _ = network.layers
    return network


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty smooth pictures, and one file that is none."""
    folder = paint_blobs(tmp_path_factory.mktemp("pictures"), 60, (30, 24))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="module")
def measured(
    small: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> FeatureMeasurements:
    folder = tmp_path_factory.mktemp("measured") / "out"
    return measure_features(small, pictures, out=folder, settings=QUICK)
