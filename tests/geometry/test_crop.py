"""Crop plans: the boxes of image and layers that a feature needs give the whole image's numbers."""

from collections.abc import Callable

import pytest
import torch
from tests.support.attribution import EXACT, randn, seeded, whole_image
from tests.support.receptive_fields import Function
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, load
from opponent.attribution.attribute import attribute_each
from opponent.core.box import Box
from opponent.core.errors import IndependentFeature
from opponent.geometry.crop import CropPlan, dependency, plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.geometry.receptive_field import receptive_field
from opponent.models.network import PIXELS


@pytest.mark.parametrize(
    ("name", "through"),
    [
        ("mixed3a:5", "conv2d2"),
        ("mixed3a:5@0,13", "conv2d2"),
        ("mixed3b:189", "mixed3a"),
        ("mixed3b:189@13,0", "mixed3a"),
        ("mixed3b:7@3,8", "conv2d1"),
        ("mixed4a:3@1,6", "mixed3b"),
        ("mixed3a:100@6,2", "pixels"),
    ],
)
def test_a_crop_gives_the_whole_images_numbers(
    name: str, through: str, generator: torch.Generator
) -> None:
    network = load()
    feature = network.resolve(name)
    plan = plan_crop(network, [feature], through)
    inputs = torch.randn(3, 3, 112, 112, generator=generator)
    whole = network.run(inputs, feature.layer, through)
    result = plan.run(network, inputs)
    assert plan.box is not None
    assert plan.box.height * plan.box.width < 112 * 112
    if through != "pixels":
        alone = plan.run(network, plan.crop(inputs), to_target=False, cropped=True).target
        assert result.through is not None
        torch.testing.assert_close(plan.within(alone), plan.within(result.through))
    expected = feature.read(whole.target)
    torch.testing.assert_close(plan.feature.read(result.target), expected, rtol=1e-5, atol=1e-5)
    assert plan.window is not None
    assert whole.through is not None
    assert result.through is not None
    # The through layer's window, found by brute force: where the gradient is not zero.
    _, attribution, _ = whole_image(network, inputs, feature, through)
    there = attribution.abs().sum((0, 1))
    rows, columns = (there.sum(axis).nonzero().flatten() for axis in (1, 0))
    inside = whole.through[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    within = plan.within(result.through)
    assert within.shape[2] >= inside.shape[2]
    assert within.shape[3] >= inside.shape[3]
    inside = whole.through[:, :, *plan.window.slices]
    torch.testing.assert_close(within, inside, rtol=1e-5, atol=1e-5)
    covered = plan.cover(whole.through)
    assert covered.shape == result.through.shape
    torch.testing.assert_close(plan.within(covered), inside, rtol=1e-5, atol=1e-5)
    [narrow] = attribute_each(network, inputs, [feature], through, plan=plan)
    torch.testing.assert_close(narrow.attribution, attribution, rtol=1e-4, atol=1e-6)


def test_a_plan_of_the_whole_image_takes_all_of_it() -> None:
    network = load()
    features = [network.resolve("mixed3b:3"), network.resolve("mixed3b:189@0,0")]
    plan = plan_whole_image(network, features, "mixed3a", "no reason")
    window = dependency(network, features, "mixed3a")
    assert plan == CropPlan(
        features=tuple(features), through="mixed3a", window=window, inner=window,
        reason="no reason",
    )  # fmt: skip
    x = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    assert plan.crop(x) is x
    assert plan.cover(x) is x
    without = plan_whole_image(network, features, None, "no reason")
    assert without.window is without.inner is None
    assert without.within(x) is x
    with pytest.raises(ValueError, match="too many values"):
        _ = plan.feature
    assert torch.equal(plan.run(network, x).target, network.run(x, "mixed3b", "mixed3a").target)


def test_what_several_features_depend_on_is_the_smallest_box_around_all() -> None:
    network = load()
    features = [network.resolve(x) for x in ("mixed3b:3@2,3", "mixed3b:189@9,1")]
    boxes = [receptive_field(network, feature, "mixed3a") for feature in features]
    top, left = min(x.top for x in boxes), min(x.left for x in boxes)
    bottom = max(x.top + x.height for x in boxes)
    right = max(x.left + x.width for x in boxes)
    expected = Box(top=top, left=left, height=bottom - top, width=right - left)
    assert dependency(network, features, "mixed3a") == expected
    assert dependency(network, features[:1], "mixed3a") == boxes[0]


class Branches(nn.Module):
    """Two branches side by side, of two channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


def test_a_feature_on_another_branch_depends_on_nothing_there() -> None:
    network = Network(seeded(Branches), preprocessing=Preprocessing(size=(9, 14)))
    left, right = (network.resolve(f"logits:{unit}") for unit in (0, 3))
    for features in ([right], [left, right]):
        with pytest.raises(IndependentFeature, match="logits:3@4,7 does not depend on 'left'"):
            dependency(network, features, "left")
        plan = plan_crop(network, features, "left")
        assert plan.box is None
        assert plan.reason is not None
        assert plan.reason.startswith("logits:3@4,7 does not depend on 'left'")
        assert plan.window == Box.full((9, 14))
    results = attribute_each(network, randn(2, 3, 9, 14), [left, right], "left", plan=plan)
    assert results[0].l1.all()
    assert not results[1].attribution.any()


# From the through layer on


def deep() -> nn.Sequential:
    """Strides, pools and a batch norm; the through layers are 1, 4, 7."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def deep_network() -> Network:
    return Network(seeded(deep), preprocessing=Preprocessing(size=(36, 44)), name="deep")


def check_run_from(
    network: Network, features: list[Feature], through: str, plan: CropPlan, count: int = 5
) -> None:
    """Activation and S from whole maps of the through layer are those of whole images."""
    x = randn(count, 3, *network.preprocessing.size)
    other = randn(2, 3, *network.preprocessing.size, seed=9)
    hidden = network.run(x, through, after=True).target
    kept = hidden.clone()
    result = plan.run_from(network, other, hidden)
    assert result.through is not None
    assert plan.window is not None
    for number, (feature, moved) in enumerate(zip(features, plan.features, strict=True), 1):
        activation, attribution, _ = whole_image(network, x, feature, through)
        with torch.enable_grad():
            f = moved.read(result.target)
        last = number == len(features)
        [gradient] = torch.autograd.grad(f.sum(), result.through, retain_graph=not last)
        s = torch.zeros_like(attribution)
        s[:, :, *plan.window.slices] = plan.within(gradient * result.through).detach()
        torch.testing.assert_close(f.detach(), activation, **EXACT)
        torch.testing.assert_close(s, attribution, **EXACT)
    assert torch.equal(hidden, kept)
    assert not hidden.requires_grad


@pytest.mark.parametrize(
    ("targets", "through"),
    [
        (["8:1"], "7"), (["8:1@0,10"], "7"), (["8:0@8,0", "8:3"], "7"), (["8:2"], "4"),
        (["5:3@0,0"], "1"), (["7:3@8,10"], "4"), (["8:2", "8:0@1,1"], "1"), (["9:2@0,5"], "4"),
    ],
)  # fmt: skip
def test_a_pass_may_begin_at_the_through_layer(targets: list[str], through: str) -> None:
    network = deep_network()
    features = [network.resolve(target) for target in targets]
    plan = plan_crop(network, features, through, start=through)
    assert plan.start == plan.through == through
    assert plan.box is not None
    assert plan.window is not None
    _, height, width = network.map_shape(through)
    # No more than the window, out to the steps of the layers after.
    assert plan.box.height * plan.box.width < height * width
    assert plan.window == dependency(network, features, through)
    check_run_from(network, features, through, plan)


@pytest.mark.parametrize(("target", "through"), [("logits:2", "9"), ("10:1@0,1", "7")])
def test_where_no_window_is_possible_it_takes_the_whole_map(target: str, through: str) -> None:
    network = deep_network()
    features = [network.resolve(target)]
    plan = plan_crop(network, features, through, start=through)
    assert plan.start == through
    assert plan.box == Box.full(network.map_shape(through)[1:])
    check_run_from(network, features, through, plan)


@pytest.mark.parametrize(
    ("target", "through"), [("mixed3b:189", "mixed3a"), ("mixed4a:9@0,6", "mixed3b")]
)
def test_the_embedded_network_from_a_through_layer_on(target: str, through: str) -> None:
    network = load()
    network.to(dtype=torch.float64)
    features = [network.resolve(target)]
    plan = plan_crop(network, features, through, start=through)
    assert plan.box is not None
    assert plan.start == through
    check_run_from(network, features, through, plan, count=2)


class AroundTheThroughLayer(nn.Module):
    """What follows sees the pixels too, around the through layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
        self.last = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x * 0.5 + self.relu(self.conv(x)))


class ShapesOfTheImages(nn.Module):
    """A place of its own for each position of the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.places = nn.Parameter(randn(1, 4, 20, 24))
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        return self.last((x + self.places[:, :, : x.shape[2], : x.shape[3]]).relu())


def remembering() -> nn.Module:
    """It remembers how many images came, and shapes what follows for as many."""

    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
            self.last = nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            count = len(x)
            return self.last(self.relu(self.conv(x)).reshape(count, 4, 20, -1))

    return Remembering()


@pytest.mark.parametrize("make", [AroundTheThroughLayer, ShapesOfTheImages, remembering])
@pytest.mark.parametrize("target", ["last:1", "last:0@0,23"])
def test_where_more_than_the_through_layer_matters_it_is_the_whole_image(
    make: Callable[[], nn.Module], target: str
) -> None:
    network = Network(seeded(make), preprocessing=Preprocessing(size=(20, 24)))
    features = [network.resolve(target)]
    plan = plan_crop(network, features, "relu", start="relu")
    if make is ShapesOfTheImages:
        # The whole map serves; a part of it would get another place's values.
        assert plan.box == Box.full((20, 24))
        check_run_from(network, features, "relu", plan)
        return
    assert plan.box is None
    assert plan.start == PIXELS
    assert plan.reason == "a part of the image gives other numbers than the whole does"
    x = randn(3, 3, 20, 24)
    [result] = attribute_each(network, x, features, "relu", plan=plan)
    activation, attribution, _ = whole_image(network, x, features[0], "relu")
    torch.testing.assert_close(result.activation, activation, **EXACT)
    torch.testing.assert_close(result.attribution, attribution, **EXACT)
    with pytest.raises(AssertionError):
        plan.run_from(network, x, x)


def test_an_unknown_geometry_takes_the_whole_image_from_there_on_too() -> None:
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
            Function(lambda x: torch.add(x, x.roll(3, 3), out=torch.empty(0).to(x))),
            nn.Conv2d(4, 2, 3, padding=1),
        )
    )  # fmt: skip
    network = Network(module, preprocessing=Preprocessing(size=(20, 24)))
    plan = plan_crop(network, [network.resolve("3:1")], "1", start="1")
    assert plan.start == PIXELS
    assert plan.box is None
    assert plan.reason is not None
    assert plan.reason.startswith("cannot tell the receptive field")
