"""What the tests of scans share: networks, pictures, a run of many images and one of few."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.scans import begin, branched, files, paint_shapes

import opponent
from opponent import Feature, ImageSet, Network, Run, open_images, scan_images

DIRECTION = tuple(np.random.default_rng(5).normal(size=256).tolist())


@pytest.fixture(scope="session")
def small() -> Network:
    """Two branches, on 12 x 10 pixels."""
    network = branched()
    _ = network.layers
    return network


@pytest.fixture(scope="session")
def embedded() -> Network:
    """The embedded network on a smaller canvas, which is no square."""
    network = opponent.load()
    prepared = replace(network.preprocessing, size=(80, 96))
    return Network(network.module, preprocessing=prepared, name="embedded at 80 x 96")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures."""
    return paint_shapes(tmp_path_factory.mktemp("pictures"), 9)


@pytest.fixture(scope="session")
def mixed() -> list[Feature]:
    """Features of one layer that see boxes of different sizes."""
    return [
        Feature(layer="mixed4a", unit=3),  # of the 1x1 branch
        Feature(layer="mixed4a", unit=210, position=(0, 5)),  # of the 5x5 branch, in a corner
        Feature(layer="mixed4a", unit=130),  # of the 3x3 branch
        Feature(layer="mixed4a", vector=DIRECTION, name="mine"),
    ]


@pytest.fixture(scope="session")
def scanned(
    embedded: Network, mixed: list[Feature], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, ImageSet]:
    """60 pictures and two that cannot be read, by four features, with uneven shards and batches."""
    folder = paint_shapes(tmp_path_factory.mktemp("many"), 60)
    (folder / "017-broken.png").write_bytes((folder / "017.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("no picture")
    images = open_images(folder)
    out = tmp_path_factory.mktemp("run") / "embedded"
    run = scan_images(embedded, images, mixed, "mixed3b", out=out, batch_size=7, shard_size=25)
    return run, images


@pytest.fixture(scope="session")
def whole(
    small: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, dict[str, bytes]]:
    """A run of five shards, and all its bytes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return begin(small, pictures, folder), files(folder)
