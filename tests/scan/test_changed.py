"""Images and code that change under their names: nothing is mixed, and the message says what."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.scans import files
from torch import Tensor, nn

import opponent
from opponent import Network, Preprocessing, Run, RunError
from opponent.core.errors import Changed
from opponent.images.loader import load_images

SIZES = {"batch_size": 2, "shard_size": 2}


class Layers(nn.Module):
    """Two convolutions, and what lies between them."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.one = nn.Conv2d(3, 4, 3, padding=1)
            self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = between or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        passed: Tensor = self.two(self.relu(self.one(x)))
        return passed


def network(between: nn.Module | None = None) -> Network:
    return Network(Layers(between), preprocessing=Preprocessing(size=(12, 10)), name="layers")


def paint(path: Path, seed: int) -> None:
    """Without compression: all files have one size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(path, "BMP")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(6):
        paint(folder / f"{number}.bmp", number)
    return folder


def scan(photographs: Path, out: Path, who: Network | None = None, **other: object) -> Run:
    return opponent.scan_images(
        who or network(), photographs, "two:1", "relu", out=out, **SIZES, **other
    )  # type: ignore[arg-type]


def interrupted(photographs: Path, out: Path) -> None:
    def stop(_what: str, done: int, _total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(photographs, out, progress=stop)
    assert 0 < len(Run(out).missing()) < 3


def test_a_scan_does_not_go_on_with_other_images(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted(photographs, out)
    before = files(out / "scan")
    old = (photographs / "0.bmp").read_bytes()
    paint(photographs / "0.bmp", 99)
    with pytest.raises(Changed, match=r"0\.bmp' changed since the scan: .* Put it back") as caught:
        scan(photographs, out)
    assert "\n" not in str(caught.value)
    assert files(out / "scan") == before
    (photographs / "0.bmp").write_bytes(old)
    scan(photographs, out)
    scan(photographs, tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")


def test_what_is_not_scanned_yet_may_change(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted(photographs, out)
    paint(photographs / "5.bmp", 99)
    scan(photographs, out)
    scan(photographs, tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")


def test_later_readers_refuse_other_images(photographs: Path, tmp_path: Path) -> None:
    run = scan(photographs, tmp_path / "run")
    paint(photographs / "3.bmp", 99)
    fit, who, reopened = run.preprocessing.fit, network(), Run(run.folder)
    third = opponent.ImageSet(source="3", entries=(reopened.images.find("3.bmp"),))
    readers: list[Callable[[], object]] = [
        lambda: list(load_images(run.images.entries, fit)),
        lambda: list(load_images(reopened.images.entries, fit)),
        lambda: opponent.attribute(who, reopened.images, "two:1", "relu"),
        lambda: opponent.invert(who, third, "two:1", "relu", side="excitation"),
    ]
    for read in readers:
        with pytest.raises(Changed, match=r"3\.bmp' changed since the scan"):
            read()
    # The others serve.
    [first] = load_images(reopened.images[:1], fit)
    assert first.shape == (12, 10, 3)


class Pictures:
    """Images in memory, the second of which may change."""

    name = "pictures"

    def __init__(self, second: int = 1) -> None:
        self.seeds = [0, second, 2, 3]

    def ids(self) -> list[str]:
        return ["0", "1", "2", "3"]

    def image(self, id: str) -> np.ndarray:
        return np.random.default_rng(self.seeds[int(id)]).integers(0, 256, (12, 10, 3), np.uint8)


def test_images_in_memory_are_compared_too(tmp_path: Path) -> None:
    who, out = network(), tmp_path / "run"
    opponent.scan_images(who, Pictures(), "two:1", "relu", out=out, **SIZES)  # type: ignore[arg-type]
    with pytest.raises(Changed, match="'1' changed since the scan"):
        opponent.scan_images(who, Pictures(9), "two:1", "relu", out=out, **SIZES)  # type: ignore[arg-type]
    run = Run(out, images=Pictures(9))
    with pytest.raises(Changed, match="'1' changed since the scan"):
        list(load_images(run.images.entries, run.preprocessing.fit))
    assert len(list(load_images(Run(out, images=Pictures()).images, run.preprocessing.fit))) == 4


@pytest.mark.parametrize(
    "between", [nn.LeakyReLU(0.001), nn.ReLU6(), nn.Hardtanh(0, 4.5), nn.GELU(), nn.Identity()]
)
def test_the_same_weights_in_another_forward_pass(
    photographs: Path, tmp_path: Path, between: nn.Module
) -> None:
    out, who = tmp_path / "run", network(between)
    assert who.weights_sha256() == network().weights_sha256()
    interrupted(photographs, out)
    with pytest.raises(
        RunError, match=r"the same weights that computes something else up to 'two'"
    ):
        scan(photographs, out, who)
    run = scan(photographs, out)
    with pytest.raises(RunError, match="was the code of layers changed"):
        opponent.network_of(run, who)
    assert opponent.network_of(run, network()).name == "layers"


def test_measurements_do_not_mix_either(photographs: Path, tmp_path: Path) -> None:
    def measure(who: Network) -> object:
        return opponent.completeness(
            who, photographs, out=out, features=["two:0"], throughs=["relu"], batch_size=2
        )

    out = tmp_path / "out"
    measure(network())
    measure(network())
    with pytest.raises(RunError, match="was the code of layers changed"):
        measure(network(nn.GELU()))
    paint(photographs / "2.bmp", 77)
    with pytest.raises(Changed, match=r"2\.bmp' changed"):
        measure(network())


def test_shards_of_another_scan_are_told(photographs: Path, tmp_path: Path) -> None:
    first = scan(photographs, tmp_path / "first")
    second = scan(photographs, tmp_path / "second", seed=1)
    shutil.copy(Path(second.folder) / "scan" / "000001.parquet", Path(first.folder) / "scan")
    run = Run(first.folder)
    for read in (lambda: run.columns(), run.unreadable, lambda: scan(photographs, first.folder)):
        with pytest.raises(RunError, match=r"000001\.parquet is damaged \(it is of another scan"):
            read()
    shutil.copy(
        Path(second.folder) / "channels" / "000000.parquet", Path(first.folder) / "channels"
    )
    (Path(first.folder) / "scan" / "000001.parquet").unlink()
    scan(photographs, first.folder)
    with pytest.raises(RunError, match=r"channels.000000\.parquet is damaged \(it is of another"):
        run.exemplars(0)
