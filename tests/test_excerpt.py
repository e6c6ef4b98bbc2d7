"""Excerpts: the part of the input that a feature needs gives what the whole image gives."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, load
from opponent.window import Window, excerpt


@pytest.mark.parametrize(
    ("name", "through"),
    [
        ("mixed3a:5", "conv2d2"),
        ("mixed3a:5@0,15", "conv2d2"),
        ("mixed3b:168", "mixed3a"),
        ("mixed3b:168@15,0", "mixed3a"),
        ("mixed3b:7@3,8", "conv2d1"),
        ("mixed4a:3@1,6", "mixed3b"),
        ("mixed3a:100@6,2", "pixels"),
    ],
)
def test_an_excerpt_gives_the_whole_images_numbers(
    name: str, through: str, generator: torch.Generator
) -> None:
    network = load()
    feature = network.resolve(name)
    part = excerpt(network, feature, through)
    inputs = torch.randn(3, 3, 64, 64, generator=generator)
    whole = network.run(inputs, feature.layer, through)
    cut = network.run(part.cut(inputs), part.feature.layer, through)
    assert part.box.height * part.box.width < 64 * 64
    expected = feature.read(whole.target)
    torch.testing.assert_close(part.feature.read(cut.target), expected, rtol=1e-5, atol=1e-5)
    assert part.through is not None
    assert whole.through is not None
    assert cut.through is not None
    # The through layer's window, found by brute force: where the gradient is not zero.
    [result] = _attributions(network, inputs, feature, through)
    rows, columns = (result.abs().sum((0, 1)).sum(axis).nonzero().flatten() for axis in (1, 0))
    inside = whole.through[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    within = cut.through[:, :, *part.through.slices]
    assert within.shape[2] >= inside.shape[2]
    assert within.shape[3] >= inside.shape[3]
    if within.shape == inside.shape:
        torch.testing.assert_close(within, inside, rtol=1e-5, atol=1e-5)


def _attributions(network: Network, inputs: Tensor, feature: Feature, through: str) -> list[Tensor]:
    reading = network.run(inputs, feature.layer, through, differentiate="target")
    assert reading.through is not None
    return list(torch.autograd.grad(feature.read(reading.target).sum(), reading.through))


class _Centred(nn.Module):
    """Takes the mean over the whole image away: every position depends on every pixel."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x - x.mean((2, 3), keepdim=True))


def test_a_global_operation_needs_the_whole_image() -> None:
    network = Network(_Centred(), preprocessing=Preprocessing(size=(24, 32)))
    feature = network.resolve("second:1")
    part = excerpt(network, feature, "first")
    assert part.box == Window(top=0, left=0, height=24, width=32)
    assert part.feature == feature


def test_logits_need_the_whole_image() -> None:
    network = load()
    part = excerpt(network, network.resolve("logits:3"), "mixed5a")
    assert part.box == Window(top=0, left=0, height=64, width=64)


class _Positional(nn.Module):
    """Adds a learned value to each place: an excerpt would get another place's."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, 2, 3, padding=1)
            self.places = nn.Parameter(torch.randn(1, 2, 40, 40))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return x + self.places[:, :, : x.shape[2], : x.shape[3]]


def test_what_knows_its_place_is_given_the_whole_image() -> None:
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(_Positional(), nn.ReLU(), nn.Conv2d(2, 2, 1))
    network = Network(module, preprocessing=Preprocessing(size=(40, 40)))
    part = excerpt(network, network.resolve("2:0"), "1")
    assert part.box == Window(top=0, left=0, height=40, width=40)


def test_rows_and_columns_are_not_mixed_up() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2))
        module = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    network = Network(module, preprocessing=Preprocessing(size=(40, 60)))
    feature = network.resolve("2:1@12,50")
    part = excerpt(network, feature, "1")
    # Rows 11 to 13 of the first layer, 2 steps a row, 3 high: pixels 21 to 27, from an even row.
    assert (part.box.top, part.box.top + part.box.height) == (20, 28)
    # Columns 49 to 51, one step a column, 5 wide: pixels 47 to 53.
    assert (part.box.left, part.box.left + part.box.width) == (47, 54)
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 40, 60)))
    torch.testing.assert_close(
        part.feature.read(network.run(part.cut(inputs), "2").target),
        feature.read(network.run(inputs, "2").target),
    )
