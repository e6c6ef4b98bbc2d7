"""A study from real scans, for the tests of building and of the sheets."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, Run, scan_images
from opponent.study.design.building import build
from opponent.study.design.study import Study


@pytest.fixture(scope="session")
def network() -> Network:
    """Two convolutions with ReLUs, which see 5 x 5 and 9 x 9 pixels of 12 x 16."""
    generator = torch.Generator().manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(3, 8, 5, padding=2), "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 8, 5, padding=2), "relu2": nn.ReLU(),
    }  # fmt: skip
    module = nn.Sequential(OrderedDict(layers))
    for values in module.parameters():
        with torch.no_grad():
            values.copy_(torch.randn(values.shape, generator=generator) / 4)
    return Network(module, preprocessing=Preprocessing(size=(12, 16)), name="two")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(400):
        image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        image.save(folder / ("<b>&.png" if i == 399 else f"{i:03d}.png"))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="session")
def runs(network: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    early, late = ([f"{layer}:{i}" for i in range(6)] for layer in ("relu1", "relu2"))
    return [
        scan_images(network, pictures, late, "relu1", out=folder / "late"),
        scan_images(network, pictures, early, "pixels", out=folder / "early"),
    ]


@pytest.fixture(scope="session")
def study(runs: list[Run], network: Network, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of one trial a layer; tests that write into its folder copy it."""
    folder = tmp_path_factory.mktemp("built") / "study"
    return build(runs, folder, features=1, network=network)[0]
