"""What a scan is to compute: checked before the first image, and written down."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opponent import Feature, ImageSet, Network, Run, RunError, load, scan_images
from opponent.models.registry import SMALL_INPUT
from opponent.scan.plan import rounding
from opponent.scan.reopen import check_network, network_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_run_says_what_was_scanned(
    embedded: Network, mixed: list[Feature], scanned: tuple[Run, ImageSet]
) -> None:
    run, images = scanned
    again = Run(run.folder)
    assert again.manifest == run.manifest
    assert again.features == tuple(embedded.resolve(feature) for feature in mixed)
    assert again.preprocessing == embedded.preprocessing
    assert again.manifest.through_shape == (240, 10, 12)
    assert again.manifest.images.count == 62
    assert again.manifest.images.sha256 == images.digest()
    assert [entry.path for entry in again.images] == [entry.path for entry in images]
    check_network(again, embedded)
    with pytest.raises(
        RunError, match="'embedded at 80 x 96', cannot be loaded: no model is called"
    ):
        network_of(again)
    with pytest.raises(RunError, match=r"prepared otherwise .*80, 96.*, now .*112, 112"):
        check_network(again, Network(embedded.module, preprocessing=SMALL_INPUT))


def test_an_empty_list_is_refused(small: Network, tmp_path: Path) -> None:
    nothing = ImageSet(source="nothing", entries=())
    with pytest.raises(ValueError, match="'nothing' has no images"):
        scan_images(small, nothing, "mixed:1", "early", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


Given = dict[str, object]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": []}, "at least one feature, such as"),
        ({"features": ["mixed:1", "mixed:1@6,5"]}, "given twice among mixed:1@6,5, mixed:1@6,5"),
        ({"features": ["mixed:1", "early:1"]}, "features of one layer, got early, mixed"),
        ({"features": "mixed:6"}, "'mixed' has 6 channels"),
        ({"features": "mixd:6"}, "no layer 'mixd'; did you mean mixed"),
        ({"features": "mixed:1@12,0"}, "outside the layer's map of 12 rows by 10 columns"),
        ({"through": "head"}, "'head' does not lie before the target 'mixed'"),
        ({"through": "mixed"}, "'mixed' does not lie before the target 'mixed'"),
        ({"batch_size": 0}, "positive, got 0 and 256"),
        ({"shard_size": -1}, "positive, got 32 and -1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    small: Network, tmp_path: Path, pictures: Path, given: Given, message: str
) -> None:
    scan: Given = {"features": "mixed:1", "through": "early", "images": pictures} | given
    with pytest.raises(ValueError, match=message):
        scan_images(small, **scan, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_in_half_precision_the_error_is_told_and_the_run_knows_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    network = load()
    features = ["mixed3b:9", "mixed3b:*"]
    errors = rounding(network, tmp_path, features, "mixed3a", torch.bfloat16)
    assert network.dtype == torch.bfloat16
    assert errors.keys() == {"activation", "excitation", "inhibition"}
    assert all(1e-4 < error < 0.1 for error in errors.values())
    run = scan_images(network, tmp_path, features, "mixed3a", out=tmp_path / "run")
    assert run.manifest.network.dtype == "bfloat16"
    assert network_of(run).dtype == torch.bfloat16
    exact = scan_images("inceptionv1-small", tmp_path, features, "mixed3a", out=tmp_path / "exact")
    rounded, expected = run.columns().excitation, exact.columns().excitation
    np.testing.assert_allclose(rounded, expected, rtol=0.1)
    assert (rounded != expected).any()
