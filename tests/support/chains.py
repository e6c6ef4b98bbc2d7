"""Small networks whose layers follow each other, and one with a branch."""

from collections import OrderedDict

from torch import Tensor, nn

from opponent import Network, Preprocessing

SMALL = Preprocessing(size=(7, 10))


def chain(*, bias: bool = True, norm: bool = False) -> nn.Sequential:
    """Three convolutions and a linear layer; its ReLUs are 'relu1' to 'relu3'."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, channels in enumerate((3, 4, 5), 1):
        parts[f"conv{i}"] = nn.Conv2d(channels, channels + 1, 3, padding=1, bias=bias)
        if norm:
            parts[f"norm{i}"] = nn.BatchNorm2d(channels + 1)
        parts[f"relu{i}"] = nn.ReLU(inplace=True)
    parts["pool"], parts["flat"] = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    parts["head"] = nn.Linear(24, 3, bias=bias)
    return nn.Sequential(parts)


class Residual(nn.Module):
    """f depends on the images around 'relu' too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(x + self.relu(self.conv(x))).relu())
        return y.amax((2, 3))


def double(module: nn.Module) -> Network:
    return Network(module.double().eval(), preprocessing=SMALL, name="small")
