"""Small networks whose units can and cannot be inverted, and one with branches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from opponent.models.network import Network
from opponent.models.preprocessing import Preprocessing

UNITS = 5


class Small(nn.Module):
    """Two convolutions; of the second's units the first three have something missing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.second = nn.Conv2d(6, UNITS, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.head = nn.Linear(UNITS, 4)
        with torch.no_grad():
            assert self.second.bias is not None
            self.second.weight[0] = 0  # dead
            self.second.bias[1] = 100  # always on: never tense
            self.second.weight[2] = -self.second.weight[2].abs()  # nothing excites it
            self.second.bias[3:] = 0

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu1(self.first(images))
        return self.head(self.relu2(self.second(hidden)).mean((2, 3)))


class Branches(nn.Module):
    """A block with two branches, and a sum that goes round a third."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.left, self.relu_left = nn.Conv2d(4, 4, 1), nn.ReLU()
        self.right, self.relu_right = nn.Conv2d(4, 4, 1), nn.ReLU()
        self.round, self.relu_round = nn.Conv2d(8, 8, 1), nn.ReLU()
        self.last, self.relu_last = nn.Conv2d(8, 4, 1), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        stem = self.relu(self.stem(images))
        both = torch.cat([self.relu_left(self.left(stem)), self.relu_right(self.right(stem))], 1)
        both = both + self.relu_round(self.round(both))
        return self.relu_last(self.last(both)).mean((2, 3))


def small_network(make: Callable[[], nn.Module]) -> Network:
    """A network with weights from a seed of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Network(make().eval(), preprocessing=Preprocessing(size=(16, 16)), name="small")
