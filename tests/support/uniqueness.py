"""A small network, and quick settings, for the tests of uniqueness."""

import torch
from torch import nn

from opponent.paper.uniqueness.measure import UniquenessSettings

SIZE = (12, 10)


QUICK = UniquenessSettings(features=5, kmeans=12, batch_size=8, shard_size=20)


class Small(nn.Module):
    """Four activation functions that all goes through, one within a branch, pools, a dead unit."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.first = nn.ReLU()
            self.wide = nn.Conv2d(8, 6, 5, padding=2)
            self.within = nn.ReLU()
            self.deep = nn.Conv2d(6, 6, 3, padding=1)
            self.narrow = nn.Conv2d(8, 6, 1)
            self.second = nn.ReLU()
            self.pool = nn.MaxPool2d(3, 2, 1)
            self.third_conv = nn.Conv2d(12, 10, 3, stride=2, padding=1)
            self.third = nn.ReLU()
            self.fourth_conv = nn.Conv2d(10, 9, 1)
            self.fourth = nn.ReLU()
            self.head = nn.Linear(9, 5)
            with torch.no_grad():
                self.third_conv.weight[3] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.stem(x))
        x = self.second(torch.cat([self.deep(self.within(self.wide(x))), self.narrow(x)], 1))
        x = self.third(self.third_conv(self.pool(x)))
        x = self.fourth(self.fourth_conv(x))
        return self.head(x.mean((2, 3)))
