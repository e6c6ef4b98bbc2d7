"""Two runs that tests only read: by a network of whole numbers, and by the embedded one."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.drivers import PLAIN, Integers, speckle
from tests.support.threads import single_thread

from opponent import Network, Run, load, scan_images


@pytest.fixture(scope="session")
def integer_network() -> Network:
    """Two layers of whole numbers, in which all is exact."""
    with torch.random.fork_rng(devices=[]):
        network = Network(Integers(), preprocessing=PLAIN, name="integers")
    _ = network.layers
    return network


@pytest.fixture(scope="session")
def integer_run(integer_network: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of 30 speckles by that network, in uneven shards and batches."""
    folder = tmp_path_factory.mktemp("integers")
    with single_thread():
        return scan_images(
            integer_network,
            speckle(folder / "in", 30),
            ["mixed:1", "mixed:2@0,9"],
            "early",
            out=folder / "run",
            batch_size=4,
            shard_size=11,
        )


@pytest.fixture(scope="session")
def embedded() -> Network:
    """The embedded network."""
    return load()


@pytest.fixture(scope="session")
def run(embedded: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of 60 pictures in many shapes, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("who")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(7)
    for i in range(60):
        small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        width, height = rng.integers(50, 130, 2).tolist()
        small.resize((width, height), Image.Resampling.BICUBIC).save(pictures / f"{i:02d}.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    with single_thread():
        return scan_images(
            embedded,
            pictures,
            ["mixed3b:189", "mixed3b:9@0,3"],
            "mixed3a",
            out=folder / "run",
            batch_size=16,
            shard_size=25,
        )
