"""Why one photograph does, or does not, make a feature fire."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, Run, RunError, load, scan_images, why
from opponent.attribution.attribute import attribute
from opponent.explain.places import name_place


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of coloured blobs."""
    folder = tmp_path_factory.mktemp("blobs")
    rng = np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def blobs_run(embedded: Network, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of them."""
    out = tmp_path_factory.mktemp("blobs-run") / "run"
    return scan_images(embedded, folder, "mixed3b:189", "mixed3a", out=out)


def test_numbers_are_those_of_attribute(embedded: Network, folder: Path) -> None:
    image = folder / "03.png"
    answer = why(embedded, image, "mixed3b:189", "mixed3a", channels=5)
    result = attribute(embedded, image, "mixed3b:189", "mixed3a")
    assert answer.activation == float(result.activation[0])
    assert answer.excitation == float(result.excitation[0])
    assert answer.inhibition == float(result.inhibition[0])
    # The largest sums over space of either side, by a slow search.
    plus, minus = {}, {}
    for k, channel in enumerate(result.attribution[0].double()):
        plus[f"mixed3a:{k}"] = sum(x for x in channel.flatten().tolist() if x > 0)
        minus[f"mixed3a:{k}"] = -sum(x for x in channel.flatten().tolist() if x < 0)
    for side, sums in (("excitation", plus), ("inhibition", minus)):
        expected = sorted(sums, key=lambda name: -sums[name])[:5]
        listed = answer.drivers.listed(side)
        assert [x.name for x in listed] == expected
        for x in listed:
            assert x.excitation == pytest.approx(plus[x.name], rel=1e-4)
            assert x.inhibition == pytest.approx(minus[x.name], rel=1e-4)
            assert x.excitation_sd == x.inhibition_sd == 0
        share = sum(sums[name] for name in expected) / getattr(answer, side)
        assert answer.drivers.covered(side) == pytest.approx(share, rel=1e-4)
        assert (f"{side} by the 5 channels listed", f"{share:.1%}") in answer.facts()
    within = sum(min(plus[name], minus[name]) for name in plus)
    within /= min(answer.excitation, answer.inhibition)
    assert answer.drivers.tension_within == pytest.approx(within, rel=1e-4)
    assert answer.to_arrow().num_rows == 10
    assert answer.answer is None
    assert answer.standing is None
    assert answer.feature.label == "mixed3b:189@7,7"


def test_a_class_is_named_and_ranked(embedded: Network, folder: Path) -> None:
    answer = why(embedded, folder / "00.png", "logits:7", "mixed5a")
    inputs, _ = embedded.load_inputs(folder / "00.png")
    with torch.no_grad():
        logits = embedded.module(inputs)[0]
    order = logits.argsort(descending=True).tolist()
    assert answer.answer is not None
    assert embedded.classes is not None
    name, value, rank = answer.answer
    assert name == embedded.classes[order[0]]
    assert value == pytest.approx(float(logits.max()), rel=1e-5)
    assert rank == order.index(7) + 1
    assert answer.meaning == embedded.classes[7]
    assert embedded.classes[7] in answer.title
    assert name in answer.verdict or rank == 1


def test_standing_among_a_run(embedded: Network, folder: Path, blobs_run: Run) -> None:
    columns = blobs_run.columns()
    best = columns.images[int(columns.activation.argmax())]
    answer = why(embedded, folder / best, "mixed3b:189", "mixed3a", run=blobs_run)
    assert answer.standing is not None
    # Among twelve, the largest has eleven below it; itself counts half, but for rounding.
    assert answer.standing["activation"] == pytest.approx(100 * 11.5 / 12, abs=100 * 0.51 / 12)
    assert set(answer.standing) == {"activation", "excitation", "inhibition", "tension"}
    assert any("percentile of tension" in name for name, _ in answer.facts())


def test_a_run_of_something_else_is_refused(folder: Path, blobs_run: Run) -> None:
    network, image = load(), folder / "00.png"
    with pytest.raises(RunError, match="scanned through 'mixed3a', not through 'conv2d2'"):
        why(network, image, "mixed3b:189", "conv2d2", run=blobs_run)
    with pytest.raises(ValueError, match="holds no 'mixed3b:5@7,7'; it holds mixed3b:189@7,7"):
        why(network, image, "mixed3b:5", "mixed3a", run=blobs_run)
    with torch.no_grad():
        network.module.conv2d0_pre_relu_conv.weight.mul_(2)
    with pytest.raises(RunError, match="other weights"):
        why(network, image, "mixed3b:189", "mixed3a", run=blobs_run)


def test_more_than_one_image_is_refused(embedded: Network, folder: Path) -> None:
    with pytest.raises(ValueError, match="holds 12 images; name one file"):
        why(embedded, folder, "mixed3b:189", "mixed3a")


def test_nothing_moves_a_feature_behind_a_shut_relu(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        first, second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1)
    for part in (first, second):
        nn.init.constant_(part.weight, -1.0)
        nn.init.constant_(part.bias, -100.0)
    module = nn.Sequential(first, nn.ReLU(), second)
    network = Network(module, preprocessing=Preprocessing(size=(8, 6)))
    answer = why(network, folder / "00.png", "2:0", "1")
    assert answer.activation == -100
    assert answer.excitation == answer.inhibition == 0
    assert answer.drivers.exciting == answer.drivers.inhibiting == ()
    assert answer.drivers.tension_within is None
    assert answer.drivers.facts() == []
    assert answer.places == (None, None)
    assert "nothing in 1 can move it" in answer.verdict


def test_biases_are_said_to_make_up_the_rest(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        convolution = nn.Conv2d(3, 1, 1)
    nn.init.constant_(convolution.weight, 0.01)
    nn.init.constant_(convolution.bias, 7.0)
    module = nn.Sequential(nn.ReLU(), convolution)
    network = Network(module, preprocessing=Preprocessing(size=(8, 6)))
    answer = why(network, folder / "00.png", "1:0", "0")
    rest = answer.activation - answer.excitation + answer.inhibition
    assert rest == pytest.approx(7, rel=1e-4)
    assert "+7 comes from biases on the way" in answer.verdict


@pytest.mark.parametrize(
    ("row", "column", "name"),
    [(0, 0, "upper left"), (4, 4, "the centre"), (8, 0, "lower left"), (4, 8, "middle right")],
)
def test_places_are_named_by_ninths(row: int, column: int, name: str) -> None:
    values = np.full((9, 9), 0.0, dtype=np.float32)
    values[row, column] = 3
    values[8, 8] = 1
    assert name_place(values) == (name, 0.75)


def test_a_run_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        Run(tmp_path)
