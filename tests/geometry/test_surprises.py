"""Networks whose geometry no crop allows for: the whole image, with the reason, and right."""

from collections.abc import Callable

import pytest
import torch
from tests.support.odd_network import seeded
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, attribute
from opponent.attribution.all_units import AllUnits, scores
from opponent.attribution.attribute import checked_plan
from opponent.geometry.planning import plan_crop


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


class Between(nn.Module):
    """Two convolutions, something between them that moves rows and columns, and a third."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.second, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        x = self.move(self.relu(self.first(x)))
        logits: Tensor = self.last(self.second(x).relu())
        return logits


def whole(module: nn.Module, x: Tensor, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The activation and S through the ReLU, from the whole image."""
    assert isinstance(module, Between)
    h = module.first(x).relu().detach().requires_grad_()
    f = module.last(module.second(module.move(h)).relu())[:, 1, place[0], place[1]]
    return f.detach(), torch.autograd.grad(f.sum(), h)[0] * h.detach()


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "crop": lambda x: x[:, :, 2:-2, 2:-2],
    "roll": lambda x: x.roll((3, 3), (2, 3)),
    "roll of channels": lambda x: x.roll(3, 1),
    "flip": lambda x: x.flip(2),
    "both flipped": lambda x: x.flip((2, 3)),
    "every second": lambda x: x[:, :, ::2, 1::2],
    "quarters": lambda x: torch.cat([x[:, :, ::2], x[:, :, 1::2]], 2),
}


@pytest.mark.parametrize("name", MOVES)
def test_networks_that_move_rows_and_columns(name: str) -> None:
    module = seeded(lambda: Between(MOVES[name])).double()
    network = Network(module, preprocessing=Preprocessing(size=(24, 40)))
    x = randn(2, 3, 24, 40)
    _, height, width = network.layer("last").shape
    for place in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        feature = network.resolve(Feature(layer="last", unit=1, position=place))
        result = attribute(network, x, feature, "relu")
        activation, s = whole(module, x, place)
        torch.testing.assert_close(result.activation, activation, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(result.attribution, s, rtol=1e-9, atol=1e-12)
        plan = plan_crop(network, [feature], "relu")
        assert plan.box is not None or plan.reason, "it says why it takes the whole image"
    if "flip" in name:
        assert plan.box is None
        assert plan.reason is not None
        assert plan.reason.startswith("the steps from pixels to layers are not even")


def test_pools_that_round_up() -> None:
    models = pytest.importorskip("torchvision.models")
    module = seeded(models.squeezenet1_1).double()
    network = Network(module, preprocessing=Preprocessing(size=(72, 72)))
    x = randn(2, 3, 72, 72)
    kept = module.features[:7](x).detach().requires_grad_()
    values = module.features[7:10](kept)
    for place in ((0, 0), (2, 2), (3, 3)):
        f = values[:, 7, place[0], place[1]]
        [gradient] = torch.autograd.grad(f.sum(), kept, retain_graph=True)
        feature = Feature(layer="features.9", unit=7, position=place)
        result = attribute(network, x, feature, "features.6")
        torch.testing.assert_close(result.activation, f.detach())
        torch.testing.assert_close(result.attribution, gradient * kept.detach())


class BothSigns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], 1)


def test_directions_in_which_channels_cancel_do_not_pass_a_wrong_crop() -> None:
    """All channels of the layer sum to nothing, whatever the crop."""
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 4)),
            nn.Conv2d(8, 8, 1), BothSigns(), nn.ReLU(),
        )
    ).double()  # fmt: skip
    network = Network(module, preprocessing=Preprocessing(size=(48, 48)))
    x = randn(2, 3, 48, 48)
    star = AllUnits(layer="5", position=(3, 3))
    plan = checked_plan(network, star.probes(network), "1", x)
    assert plan.box is None
    plan = checked_plan(network, [star.widest(network)], "1", x)
    every = scores(network, x, plan)
    h = module[:2](x).detach().requires_grad_()
    for unit in range(16):
        [gradient] = torch.autograd.grad(module[2:5](h)[:, unit, 3, 3].sum(), h)
        s = (gradient * h.detach()).flatten(1)
        torch.testing.assert_close(every[:, unit, 1], s.clamp(min=0).sum(1))
        torch.testing.assert_close(every[:, unit, 2], -s.clamp(max=0).sum(1))
