"""Small networks of other layouts than maps of channels."""

from typing import Any

import torch
from torch import Tensor, nn

from opponent import Network, Preprocessing

SIZE = (8, 16)


def small(module: nn.Module, **settings: Any) -> Network:
    return Network(module, preprocessing=Preprocessing(size=SIZE), **settings)


class Tokens(nn.Module):
    """Patches, a class token, attention and a vector, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.start = nn.Parameter(torch.full((1, 1, 8), 3.0))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.start.expand(len(x), -1, -1), x], 1))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        logits: Tensor = self.head((x + self.mlp(x))[:, 0])
        return logits


class ChannelsLast(nn.Module):
    """A block as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, stride=2)
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.mlp(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SequenceFirst(nn.Module):
    """Attention over tokens in the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x).flatten(2).permute(2, 0, 1))
        x = self.second(x + self.attention(x, x, x)[0])
        return x.mean(0)


class Windows(nn.Module):
    """Attention in windows of 2 x 2, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.inside, self.after = nn.Linear(8, 8), nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        parts = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        parts = self.inside(parts)
        parts = parts + self.attention(parts, parts, parts)[0]
        parts = parts.view(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4)
        return self.after(x + parts.reshape(n, c, h, w)).mean((2, 3))


class Odd(nn.Module):
    """Six lists of five numbers of which nothing shows what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(6 * 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x.cumsum(2).cumsum(3).mean((2, 3)) @ self.weights.T).view(-1, 6, 5)


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.odd, self.head = nn.Conv2d(3, 4, 3), Odd(), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.odd(self.stem(x))).mean(1)
        return logits
