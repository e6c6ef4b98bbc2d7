"""Where a crop is refused, and where it is not: the check on noise."""

from collections.abc import Callable

import pytest
import torch
from tests.support.attribution import randn, seeded, whole_image
from tests.support.receptive_fields import Function
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, load
from opponent.attribution.attribute import attribute_each
from opponent.geometry.crop_check import copy_in
from opponent.geometry.planning import plan_crop

DIFFERS = "a part of the image gives other numbers than the whole does"


class Centred(nn.Module):
    """Takes the mean over the whole image away: every position depends on every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x - x.mean((2, 3), keepdim=True))


def test_a_global_operation_needs_the_whole_image() -> None:
    network = Network(seeded(Centred).float(), preprocessing=Preprocessing(size=(24, 32)))
    feature = network.resolve("second:1")
    plan = plan_crop(network, [feature], "first")
    assert plan.box is None
    assert plan.reason == "100% of the image is needed"
    assert plan.feature == feature


def test_logits_need_the_whole_image() -> None:
    network = load()
    plan = plan_crop(network, [network.resolve("logits:3")], "mixed5a")
    assert plan.box is None
    assert plan.reason == "'logits' has no rows and columns"


class Positional(nn.Module):
    """Adds a learned value to each place: a crop would get another place's."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3, padding=1)
        self.places = nn.Parameter(torch.randn(1, 2, 40, 40))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return x + self.places[:, :, : x.shape[2], : x.shape[3]]


def test_what_knows_its_place_is_given_the_whole_image() -> None:
    module = seeded(lambda: nn.Sequential(Positional(), nn.ReLU(), nn.Conv2d(2, 2, 1))).float()
    network = Network(module, preprocessing=Preprocessing(size=(40, 40)))
    plan = plan_crop(network, [network.resolve("2:0")], "1")
    assert plan.box is None
    assert plan.reason == DIFFERS


# Wrong crops, each of which something else shows


def built_in_size(x: Tensor) -> Tensor:
    """Scaled by the number of positions, which a crop has fewer of."""
    return x * x.shape[2] / 20


class OnlyTheGradient(torch.autograd.Function):
    """Forward it changes nothing; backward it scales by the size of the map."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * gradient.shape[2]


def only_the_gradient(x: Tensor) -> Tensor:
    """The same numbers and another S; on coordinates plain, since it cannot be followed."""
    if type(x) is Tensor and x.requires_grad:
        return OnlyTheGradient.apply(x)
    return x * 1


def raising(error: type[Exception]) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        if x.shape[2:] != (20, 24):
            raise error("only 20 by 24")
        return x * 1

    return function


WRONG = {
    "size built in": built_in_size,
    "gradient": only_the_gradient,
    **{
        error.__name__: raising(error)
        for error in (AssertionError, KeyError, ValueError, RuntimeError, ZeroDivisionError)
    },
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("double", [True, False])
def test_a_crop_that_gives_other_numbers_is_refused(name: str, double: bool) -> None:
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Function(WRONG[name]),
            nn.Conv2d(4, 2, 3, padding=1),
        )
    )  # fmt: skip
    network = Network(module, preprocessing=Preprocessing(size=(20, 24)))
    if not double:
        network.to(dtype=torch.float32)
    for target in ("3:1", "3:0@0,0"):
        plan = plan_crop(network, [network.resolve(target)], "1")
        assert (plan.box, plan.reason) == (None, DIFFERS)


def test_one_wrong_feature_of_many_is_enough() -> None:
    """However small its weights are beside the others'."""

    def shifted(x: Tensor) -> Tensor:
        # The last channel alone depends on the size of the map.
        size = torch.ones(5, dtype=x.dtype)
        size[4] = x.shape[2] / 20
        return x * size.view(1, -1, 1, 1)

    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1),
            Function(shifted),
        )
    )  # fmt: skip
    with torch.no_grad():
        module[2].weight[4] *= 1e-5
        module[2].bias[4] *= 1e-5
    network = Network(module, preprocessing=Preprocessing(size=(20, 24)))
    features = [network.resolve(f"3:{unit}@9,9") for unit in range(5)]
    assert plan_crop(network, features[:4], "1").box is not None
    assert plan_crop(network, features, "1").box is None
    hidden = Feature.direction("3", [1.0, 1.0, 1.0, 1.0, 1e-3], position=(9, 9))
    assert plan_crop(network, [hidden], "1").box is None


class Quiet(nn.Module):
    """Some of its last channels, or all of them, are dead on noise; brighter images wake them."""

    def __init__(self, alive: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.alive, self.function = alive, function

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.first(x).relu())
        lowered = torch.tensor([0.0] * self.alive + [1e3] * (5 - self.alive)).view(1, 5, 1, 1)
        return (self.second(x).abs() - lowered).relu()


@pytest.mark.parametrize(
    ("alive", "function", "crops"),
    [
        (4, lambda x: x * 1, True),
        (4, built_in_size, False),
        (4, only_the_gradient, False),
        (0, lambda x: x * 1, False),
    ],
)
def test_what_is_dead_on_noise_is_trusted_as_far_as_its_layer_is(
    alive: int, function: Callable[[Tensor], Tensor], crops: bool
) -> None:
    module = seeded(lambda: Quiet(alive, function))
    network = Network(module, preprocessing=Preprocessing(size=(20, 24)))
    feature = network.resolve("logits:4@3,23")
    plan = plan_crop(network, [feature], "first")
    assert (plan.box is not None) == crops
    x = 1e4 * randn(3, 3, 20, 24)
    [result] = attribute_each(network, x, [feature], "first", plan=plan)
    activation, attribution, _ = whole_image(network, x, feature, "first")
    assert attribution.any()
    torch.testing.assert_close(result.activation, activation)
    torch.testing.assert_close(result.attribution, attribution)


# Right crops, each of which rounding could cost


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_terms_that_cancel_are_no_difference(dtype: torch.dtype) -> None:
    """On noise the activation is zero but for rounding: the weights sum to nothing."""
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6, 2, 3, padding=1),
        )
    )  # fmt: skip
    network = Network(module, preprocessing=Preprocessing(size=(20, 24))).to(dtype=dtype)
    plain = Feature.direction("4", [1.0, -0.3], position=(0, 12))
    assert plan_crop(network, [plain], "1").box is not None
    inputs = randn(1, 3, 20, 24)
    values = copy_in(network, torch.float64).run(inputs, "4").target[0, :, 0, 12].tolist()
    # Orthogonal to what the layer gives of this image, and nearly so of others.
    nearly = Feature.direction("4", [values[1], -values[0]], position=(0, 12))
    assert plan_crop(network, [nearly], "1").box is not None


class Single(nn.Module):
    """It computes in single precision whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.float()).relu())


def test_a_network_that_takes_one_type_alone_is_checked_in_it() -> None:
    network = Network(seeded(Single).float(), preprocessing=Preprocessing(size=(20, 24)))
    assert network.layers
    with pytest.raises(RuntimeError, match=r"type|dtype"):
        copy_in(network, torch.float64).run(randn(1, 3, 20, 24), "last")
    assert plan_crop(network, [network.resolve("last:1")], "first").box is not None
