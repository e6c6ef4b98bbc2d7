"""Views: the parts of image and layers that a feature needs give what the whole image gives."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, load
from opponent.attribution.attribute import Rule, attribute_each
from opponent.core.box import Box
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.planning import plan_crop


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
def test_a_view_gives_the_whole_images_numbers(
    name: str, through: str, generator: torch.Generator
) -> None:
    network = load()
    feature = network.resolve(name)
    part = plan_crop(network, [feature], through)
    inputs = torch.randn(3, 3, 64, 64, generator=generator)
    whole = network.run(inputs, feature.layer, through)
    cut = part.run(network, inputs)
    assert part.box is not None
    assert part.box.height * part.box.width < 64 * 64
    if through != "pixels":
        alone = part.run(network, part.cut(inputs), watch=False, cut=True).target
        assert cut.through is not None
        torch.testing.assert_close(part.within(alone), part.within(cut.through))
    expected = feature.read(whole.target)
    torch.testing.assert_close(part.feature.read(cut.target), expected, rtol=1e-5, atol=1e-5)
    assert part.window is not None
    assert whole.through is not None
    assert cut.through is not None
    # The through layer's window, found by brute force: where the gradient is not zero.
    [result] = _attributions(network, inputs, feature, through)
    rows, columns = (result.abs().sum((0, 1)).sum(axis).nonzero().flatten() for axis in (1, 0))
    inside = whole.through[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    within = part.within(cut.through)
    assert within.shape[2] >= inside.shape[2]
    assert within.shape[3] >= inside.shape[3]
    inside = whole.through[:, :, *part.window.slices]
    torch.testing.assert_close(within, inside, rtol=1e-5, atol=1e-5)
    [narrow] = attribute_each(network, inputs, [feature], through, plan=part)
    torch.testing.assert_close(
        narrow.attribution, result_in(part, feature, network, inputs), rtol=1e-4, atol=1e-6
    )


def result_in(part: CropPlan, feature: Feature, network: Network, inputs: Tensor) -> Tensor:
    """S of whole images, within the view's window."""
    assert part.through is not None
    assert part.window is not None
    [result] = attribute_each(network, inputs, [feature], part.through)
    return result.attribution[:, :, *part.window.slices]


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
    part = plan_crop(network, [feature], "first")
    assert part.box is None
    assert part.reason == "100% of the image is needed"
    assert part.feature == feature


def test_logits_need_the_whole_image() -> None:
    network = load()
    part = plan_crop(network, [network.resolve("logits:3")], "mixed5a")
    assert part.box is None
    assert part.reason == "'logits' has no rows and columns"


class _Positional(nn.Module):
    """Adds a learned value to each place: a view would get another place's."""

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
    part = plan_crop(network, [network.resolve("2:0")], "1")
    assert part.box is None
    assert part.reason == "a part of the image gives other numbers than the whole does"


def test_rows_and_columns_are_not_mixed_up() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2))
        module = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    network = Network(module, preprocessing=Preprocessing(size=(40, 60)))
    feature = network.resolve("2:1@12,50")
    part = plan_crop(network, [feature], "1")
    assert part.box is not None
    # Rows 11 to 13 of the first layer, 2 steps a row, 3 high: pixels 21 to 27, from an even row.
    assert (part.box.top, part.box.top + part.box.height) == (20, 28)
    # Columns 49 to 51, one step a column, 5 wide: pixels 47 to 53.
    assert (part.box.left, part.box.left + part.box.width) == (47, 54)
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 40, 60)))
    torch.testing.assert_close(
        part.feature.read(part.run(network, inputs).target),
        feature.read(network.run(inputs, "2").target),
    )


def test_a_view_can_be_written_down() -> None:
    network = load()
    features = [network.resolve(f"mixed3b:{unit}") for unit in (3, 168)]
    part = plan_crop(network, features, "mixed3a")
    assert CropPlan.restore(json.loads(json.dumps(part.describe())), features, "mixed3a") == part
    whole = plan_whole_image(network, features, "mixed3a", "no reason")
    assert whole.describe() == {"whole": "no reason"}


@pytest.mark.parametrize("rule", ["integrated-zero/4", "integrated-mean/4"])
def test_rules_take_views(rule: str, generator: torch.Generator) -> None:
    network = load()
    feature, through = network.resolve("mixed3b:168@15,0"), "mixed3a"
    part = plan_crop(network, [feature], through)
    assert part.window is not None
    inputs = torch.randn(2, 3, 64, 64, generator=generator)
    mean = torch.rand(*network.map_shape(through), generator=generator)
    baseline = mean if "mean" in rule else None
    options = {"rule": Rule.parse(rule), "baseline": baseline}
    [narrow] = attribute_each(network, inputs, [feature], through, plan=part, **options)
    [whole] = attribute_each(network, inputs, [feature], through, **options)
    box = part.window.slices
    for name in ("attribution", "hidden", "change"):
        torch.testing.assert_close(
            getattr(narrow, name), getattr(whole, name)[:, :, *box], rtol=1e-4, atol=1e-6
        )
    torch.testing.assert_close(narrow.activation, whole.activation, rtol=1e-5, atol=1e-5)


def test_only_what_is_needed_of_each_layer_goes_on() -> None:
    """Two convolutions of 3 x 3 and a pool by 2: worked by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1),
        )  # fmt: skip
    network = Network(module, preprocessing=Preprocessing(size=(32, 40)))
    feature = network.resolve("5:1@8,10")
    part = plan_crop(network, [feature], "4")
    # 5 at (8, 10) needs rows 7 to 9 of 4, 6 to 10 of 2, 12 to 21 of 1, 11 to 22 of the pixels, from
    # an even row to an even one: 10 to 23. Columns are the same, two farther on: twice that.
    assert part.box == Box(top=10, left=14, height=14, width=14)
    assert part.crops == {
        "1": Box(top=2, left=2, height=10, width=10),
        "4": Box(top=1, left=1, height=3, width=3),
    }
    assert part.window == Box(top=7, left=9, height=3, width=3)
    assert part.inner == Box(top=0, left=0, height=3, width=3)
    assert part.feature == feature.at((1, 1))
