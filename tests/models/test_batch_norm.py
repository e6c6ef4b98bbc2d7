"""Batch norm in PyTorch 2.13, which gives wrong gradients of one image alone."""

import pytest
import torch
from tests.support.odd_network import images, seeded
from tests.support.token_networks import SIZE, small
from torch import Tensor, nn

from opponent import attribute


class Around(nn.Module):
    """Batch norm of tokens that are laid out as a map, as in XCiT and LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Conv2d(3, 6, 1), nn.Linear(6, 6)
        self.norm, self.scale = nn.BatchNorm2d(6), nn.Parameter(torch.randn(1, 6, *SIZE))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        tokens = self.mix(x.flatten(2).transpose(1, 2))
        x = self.norm(tokens.transpose(1, 2).reshape(n, c, h, w))
        return (x * self.scale).mean((2, 3))


def slowly(module: nn.Module, x: Tensor) -> Tensor:
    """S through the first layer, with batch norm written out."""
    h = module.first(x).detach().requires_grad_()  # type: ignore[operator, union-attr]
    norm = module.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    tokens = module.mix(h.flatten(2).transpose(1, 2))  # type: ignore[operator]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    y = (tokens - norm.running_mean) * scale + norm.bias
    y = y.transpose(1, 2).contiguous().view_as(h)
    f = (y * module.scale).mean((2, 3))[:, 2]  # type: ignore[operator]
    return torch.autograd.grad(f.sum(), h)[0] * h.detach()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_image_alone_has_the_same_s(count: int) -> None:
    module = seeded(Around).double()
    x = images(count, 3, *SIZE).double()
    result = attribute(small(module), x, "logits:2", "first")
    torch.testing.assert_close(result.attribution, slowly(module, x))
