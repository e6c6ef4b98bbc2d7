"""Small networks with random weights, and the laws and equations of the paper spelt out slowly."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from opponent import Attribution, Feature, Network, Preprocessing
from opponent.attribution.result import energies, energy_maps

SMALL = Preprocessing(size=(9, 14))
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights from a seed of its own, in evaluation mode and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().eval().double()
        for name, value in module.named_buffers():
            if value.is_floating_point():
                value.copy_(0.1 * torch.rand(value.shape) + ("var" in name))
    return module


def randn(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def numbers(values: object) -> Tensor:
    """Values in double precision."""
    return torch.tensor(values, dtype=torch.float64)


class Skip(nn.Module):
    """z = relu(conv(y) + y), with everything in place."""

    def __init__(self, channels: int, kernel: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=bias)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, y: Tensor) -> Tensor:
        z = self.conv(y)
        z += y
        return self.relu(z)


def assert_lawful(result: Attribution) -> None:
    """What holds of every attribution."""
    plus, minus, s = result.excitation, result.inhibition, result.attribution
    torch.testing.assert_close(plus - minus, s.sum((1, 2, 3)), **EXACT)
    torch.testing.assert_close(plus + minus, result.l1, **EXACT)
    torch.testing.assert_close(result.excitation_map.sum((1, 2)), plus, **EXACT)
    torch.testing.assert_close(result.inhibition_map.sum((1, 2)), minus, **EXACT)
    torch.testing.assert_close(result.channels.sum(1), plus - minus, **EXACT)
    parts = (plus, minus, result.excitation_map, result.inhibition_map)
    assert all((part >= 0).all() for part in parts)
    torch.testing.assert_close(energies(result.window_attribution), parts[:2], rtol=0, atol=0)
    maps = tuple(x[:, *result.window.slices] for x in parts[2:])
    torch.testing.assert_close(energy_maps(result.window_attribution), maps, rtol=0, atol=0)
    # Zeros around the window change the order of a sum, and with it the last digit.
    torch.testing.assert_close(energies(s), parts[:2], **EXACT)
    torch.testing.assert_close(energy_maps(s), parts[2:], **EXACT)


def slowly(
    layers: list[nn.Module], x: Tensor, through: int, read: Callable[[Tensor], Tensor]
) -> Tensor:
    """Equation 1 for one image after the other, with the whole graph from the pixels on."""
    attributions = []
    for image in x:
        h = image[None].clone().requires_grad_()
        for layer in layers[: through + 1]:
            h = layer(h)
        y = h
        for layer in layers[through + 1 :]:
            y = layer(y)
        [gradient] = torch.autograd.grad(read(y)[0], h)
        attributions.append((gradient * h)[0].detach())
    return torch.stack(attributions)


def plain(seed: int, kernel: int, bias: bool, pool: nn.Module) -> list[nn.Module]:
    """Eight layers without names or anything in place: convolutions, ReLUs, a skip, a pool."""
    module = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, kernel, bias=bias), nn.ReLU(), pool,
            Skip(4, 3, bias), nn.Conv2d(4, 5, 2, padding=1, bias=bias), nn.ReLU(),
            nn.Conv2d(5, 3, 1, groups=1, bias=bias),
        ),
        seed,
    )  # fmt: skip
    return list(module)


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "average": nn.AvgPool2d(2, 1, 1),
    "none": nn.Identity(),
}


def whole_image(
    network: Network, x: Tensor, feature: Feature, through: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, S and h in the whole map, image by image, by equation 1 on the whole image."""
    activations, attributions, maps = [], [], []
    for image in x.split(1):
        result = network.run(image, feature.layer, through, differentiate="target")
        assert result.through is not None
        with torch.enable_grad():
            f = feature.read(result.target)
        [gradient] = torch.autograd.grad(f.sum(), result.through)
        activations.append(f.detach())
        attributions.append(gradient * result.through.detach())
        maps.append(result.through.detach())
    return torch.cat(activations), torch.cat(attributions), torch.cat(maps)
