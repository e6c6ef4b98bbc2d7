"""Numbers that are not finite: images that give them are named and left out, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.scans import SIZE, Branched, files
from torch import Tensor
from typer.testing import CliRunner

from opponent import Network, Preprocessing, Run, RunError, scan_images, select
from opponent.cli import app
from opponent.scan.reopen import network_of

pytestmark = pytest.mark.usefixtures("one_thread")

BRIGHT = {"002.png": np.nan, "005.png": np.inf, "007.png": -np.inf}


class Fragile(Branched):
    """It gives numbers that are not finite for images with a bright first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        value = x[:, :1, :1, :1]
        for marker, wrong in ((10, np.nan), (20, np.inf), (30, -np.inf)):
            x = torch.where((value - marker).abs() < 1, x + wrong, x)
        return super().forward(x)


def fragile() -> Network:
    # Bytes become fifths: 50, 100 and 150 are 10, 20 and 30.
    prepared = Preprocessing(size=SIZE, mean=(0.0,) * 3, std=(1 / 51,) * 3)
    return Network(Fragile(), preprocessing=prepared, name="fragile")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures, of which three give NaN, infinity and minus infinity."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    markers = dict(zip(BRIGHT, (50, 100, 150), strict=True))
    for number in range(10):
        pixels = rng.integers(0, 200, (*SIZE, 3), np.uint8)
        name = f"{number:03d}.png"
        pixels[0, 0, 0] = markers.get(name, 0)
        Image.fromarray(pixels).save(folder / name)
    (folder / "008-bad.png").write_text("no picture")
    return folder


def test_images_are_left_out_with_their_reason_and_all_else_is_as_without(
    images: Path, tmp_path: Path
) -> None:
    features, sizes = ["mixed:1@0,0", "mixed:4@0,1"], {"batch_size": 4, "shard_size": 5}
    run = scan_images(fragile(), images, features, "early", out=tmp_path / "run", **sizes)
    left_out = run.unreadable()
    assert set(left_out) == {*BRIGHT, "008-bad.png"}
    for name in BRIGHT:
        assert left_out[name] == "not finite: mixed:1@0,0, mixed:4@0,1"
    text = (run.folder / "unreadable.csv").read_text()
    assert '005.png,"not finite: mixed:1@0,0, mixed:4@0,1"' in text
    fine = [path for path in sorted(images.iterdir()) if path.name not in left_out]
    alone = scan_images(fragile(), fine, features, "early", out=tmp_path / "alone", **sizes)
    for feature in run.features:
        ours, theirs = run.columns(feature), alone.columns(feature)
        assert ours.images == theirs.images == tuple(path.name for path in fine)
        for name in ("activation", "excitation", "inhibition", "l1", "l2", "excitation_map"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5)
        np.testing.assert_allclose(run.channels(feature), alone.channels(feature), rtol=1e-4)
        chosen, expected = select(ours, 3), select(theirs, 3)
        assert {k: x.images for k, x in chosen.items()} == {
            k: x.images for k, x in expected.items()
        }
    for channel in range(4):
        pairs = zip(run.exemplars(channel), alone.exemplars(channel), strict=True)
        assert all((a.image, a.row, a.column) == (b.image, b.row, b.column) for a, b in pairs)


def test_an_image_is_left_out_for_all_features_and_names_those_that_are_not_finite(
    images: Path, tmp_path: Path
) -> None:
    class OneUnit(Branched):
        def forward(self, x: Tensor) -> Tensor:
            self.narrow.bias.data[1] = torch.nan if (x[:, 0, 0, 0] - 10).abs().min() < 1 else 0
            return super().forward(x)

    network = Network(OneUnit(), preprocessing=fragile().preprocessing, name="one unit")
    features = ["mixed:0@0,0", "mixed:1@0,0"]
    run = scan_images(network, images, features, "early", out=tmp_path / "run", batch_size=1)
    assert run.unreadable()["002.png"] == "not finite: mixed:1@0,0"
    assert all("002.png" not in run.columns(feature).images for feature in run.features)


def test_an_interrupted_scan_ends_with_the_same_bytes(images: Path, tmp_path: Path) -> None:
    arguments = (fragile(), images, ["mixed:1@0,0"], "early")
    run = scan_images(*arguments, out=tmp_path / "run", shard_size=4)
    expected = files(tmp_path / "run")
    run.shard(1).unlink()
    scan_images(*arguments, out=tmp_path / "run", shard_size=4)
    assert files(tmp_path / "run") == expected


def test_a_scan_without_finite_numbers_fails_with_a_cause(images: Path, tmp_path: Path) -> None:
    bright = [images / name for name in BRIGHT]
    with pytest.raises(
        RunError, match=r"no image of .* gave finite numbers \(not finite: mixed:1@0,0\): all wei"
    ):
        scan_images(fragile(), bright, "mixed:1@0,0", "early", out=tmp_path / "run")
    with pytest.raises(
        RunError, match=r"no image of .* could be read or used; see unreadable\.csv"
    ):
        Run(tmp_path / "run").columns()
    # Again, from the finished folder.
    with pytest.raises(RunError, match="gave finite numbers"):
        scan_images(fragile(), bright, "mixed:1@0,0", "early", out=tmp_path / "run")


def with_nan(parameter: str) -> Network:
    module = Branched()
    with torch.no_grad():
        module.get_parameter(parameter).flatten()[0] = torch.nan
    return Network(module, preprocessing=Preprocessing(size=SIZE), name="broken")


def test_a_weight_that_is_not_finite_is_named_before_the_scan(images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"S of mixed:0@6,5 is not finite in any of the first \d images: the weight "
        r"'narrow\.bias' of broken holds NaN or infinity; load others",
    ):
        scan_images(
            with_nan("narrow.bias"), images, ["mixed:1", "mixed:0"], "early", out=tmp_path / "a"
        )
    # A bias of another unit does not matter.
    run = scan_images(with_nan("narrow.bias"), images, "mixed:1", "early", out=tmp_path / "b")
    assert set(run.unreadable()) == {"008-bad.png"}


def test_a_unit_that_is_not_finite_is_left_out_of_the_units_and_the_others_are_not(
    images: Path, tmp_path: Path
) -> None:
    run = scan_images(
        with_nan("narrow.bias"), images, "mixed:*", "early", out=tmp_path / "run", shard_size=4
    )
    assert set(run.unreadable()) == {"008-bad.png"}
    whole = Network(Branched(), preprocessing=Preprocessing(size=SIZE), name="whole")
    other = scan_images(whole, images, "mixed:*", "early", out=tmp_path / "other", shard_size=4)
    ours, theirs = run.units().to_pylist(), other.units().to_pylist()
    for a, b in zip(ours, theirs, strict=True):
        if a["unit"] == 0:
            assert (a["images"], a["top_images"], a["bottom_values"]) == (0, [], [])
            assert np.isnan(a["q50"])
        else:
            assert a == b
    result = CliRunner().invoke(app, ["units", str(run.folder)])
    assert result.exit_code == 0, result.exception
    assert "unit 0 is not finite in 10 images, which are left out for it" in result.output
    table = result.output.partition("tension of")[0].splitlines()[1:]
    assert sorted(int(line.split()[0]) for line in table if line.strip()) == [1, 2, 3, 4, 5]


def test_units_that_are_all_not_finite_fail_with_a_cause(images: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\(not finite: every unit of mixed\): the weight 'stem"):
        scan_images(with_nan("stem.weight"), images, "mixed:*", "early", out=tmp_path / "run")


def test_units_leave_out_images_that_give_nothing_finite(images: Path, tmp_path: Path) -> None:
    run = scan_images(fragile(), images, "narrow:*@*", "early", out=tmp_path / "run")
    assert {k for k, why in run.unreadable().items() if why.endswith("unit of narrow")} == {*BRIGHT}
    assert set(run.units()["images"].to_pylist()) == {7}


def test_half_precision_is_named_as_the_cause(tmp_path: Path, images: Path) -> None:
    module = Branched().half()
    with torch.no_grad():
        module.stem.weight.fill_(0)
        module.stem.bias.fill_(6e4)
        module.narrow.weight.fill_(1)
    network = Network(module, preprocessing=Preprocessing(size=SIZE), name="half")
    with pytest.raises(RunError, match="in half precision there are no numbers over 65,504; comp"):
        scan_images(network, images, "mixed:1", "early", out=tmp_path / "run")


def test_a_run_in_half_precision_is_opened_again(images: Path, tmp_path: Path) -> None:
    command = ["scan", "inceptionv1-small", "mixed3b:5", "--through", "mixed3a"]
    command += ["--images", str(images), "--out", str(tmp_path / "run"), "--dtype", "float16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    assert "float16 against float32 on the first images" in result.output
    assert network_of(Run(tmp_path / "run")).dtype == torch.float16


def test_the_command_says_how_many_are_left_out(images: Path, tmp_path: Path) -> None:
    command = ["scan", "module:tests.scan.test_not_finite:fragile", "mixed:1@0,0", "--through"]
    command += ["early", "--images", str(images), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    lines = result.output.splitlines()
    assert lines[0].startswith("7 images scanned into")
    assert lines[1].startswith("1 could not be read (all are in")
    assert lines[3].startswith("3 are left out, since their numbers are not finite (all are in")
    assert [line.strip() for line in lines[4:7]] == [f"{name}: mixed:1@0,0" for name in BRIGHT]
