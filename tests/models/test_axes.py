"""What passes through a network show of its layers' axes, and what is refused."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.support.odd_network import images, seeded
from tests.support.receptive_fields import Parallel
from tests.support.token_networks import (
    SIZE,
    ChannelsLast,
    Folded,
    SequenceFirst,
    Tokens,
    Windows,
    small,
)
from torch import Tensor, nn
from torch.nn import functional as F

from opponent import Network, Preprocessing, attribute
from opponent.core.errors import UnknownLayout
from opponent.geometry.receptive_field import placement, receptive_field


def test_tokens_lie_in_their_grid_and_vectors_are_one_by_one() -> None:
    model = seeded(Tokens)
    network = small(model)
    assert {name: (x.shape, x.tokens, x.layout) for name, x in network.layers.items()} == {
        "patches": ((8, 2, 4), (), "n c h w"),
        "norm": ((8, 2, 4), ("cls",), "n 1+2x4 c"),
        "attention": ((8, 2, 4), ("cls",), "n 1+2x4 c"),
        "mlp.0": ((16, 2, 4), ("cls",), "n 1+2x4 c"),
        "mlp.1": ((16, 2, 4), ("cls",), "n 1+2x4 c"),
        "mlp.2": ((8, 2, 4), ("cls",), "n 1+2x4 c"),
        "mlp": ((8, 2, 4), ("cls",), "n 1+2x4 c"),
        "head": ((5, 1, 1), (), "n c"),
        "logits": ((5, 1, 1), (), "n c"),
    }
    # The answer comes from the class token, which is therefore the default.
    assert network.resolve("norm:3").label == "norm:3@cls"
    assert network.resolve("norm:3").position == (2, 0)
    assert network.resolve("norm:3@1,2").label == "norm:3@1,2"
    assert network.resolve(network.resolve("norm:3")) == network.resolve("norm:3@cls")
    assert placement(network, "mlp") == (1.5, 1.5, 4, 4)
    x = images(2, 3, *SIZE)
    tokens = model.patches(x).flatten(2).transpose(1, 2)
    tokens = model.norm(torch.cat([model.start.expand(2, -1, -1), tokens], 1)).detach()
    hidden = tokens + model.attention(tokens, tokens, tokens, need_weights=False)[0]
    before = model.mlp[0](hidden).detach()
    for name, index in (("mlp.1:7@1,2", 7), ("mlp.1:7@cls", 0), ("mlp.1:7", 0)):
        value = attribute(network, x, name, "norm")
        torch.testing.assert_close(value.activation, before[:, index, 7])
        assert value.attribution.shape == (2, 8, 3, 4)
        assert value.excitation_map.shape == (2, 2, 4)
        assert value.token_excitation.shape == (2, 1)
        total = value.excitation_map.sum((1, 2)) + value.token_excitation.sum(1)
        torch.testing.assert_close(total, value.excitation)
        total = value.inhibition_map.sum((1, 2)) + value.token_inhibition.sum(1)
        torch.testing.assert_close(total, value.inhibition)
    assert receptive_field(network, "norm:3@1,1").slices == (slice(4, 8), slice(4, 8))


def test_what_a_token_drives_is_what_the_gradient_says() -> None:
    model = seeded(Tokens).double()
    network, x = small(model), images(2, 3, *SIZE).double()
    tokens = model.patches(x).flatten(2).transpose(1, 2)
    h = model.norm(torch.cat([model.start.expand(2, -1, -1), tokens], 1)).detach().requires_grad_()
    hidden = h + model.attention(h, h, h, need_weights=False)[0]
    value = model.mlp(hidden)[:, 1 + 1 * 4 + 2, 3]
    s = torch.autograd.grad(value.sum(), h)[0] * h.detach()
    result = attribute(network, x, "mlp:3@1,2", "norm")
    torch.testing.assert_close(
        result.attribution[:, :, :2].flatten(2), s[:, 1:].transpose(1, 2), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(result.attribution[:, :, 2, 0], s[:, 0], rtol=1e-9, atol=1e-12)
    assert not result.attribution[:, :, 2, 1:].any()
    torch.testing.assert_close(result.excitation, s.clamp(min=0).sum((1, 2)))


def test_channels_last() -> None:
    model = seeded(ChannelsLast).double()
    network, x = small(model), images(2, 3, *SIZE).double()
    assert network.layer("norm").layout == network.layer("mlp.0").layout == "n h w c"
    assert network.layer("mlp.0").shape == (12, 4, 8)
    assert network.layer("logits").layout == "n c h w"
    h = model.norm(model.stem(x).permute(0, 2, 3, 1)).detach().requires_grad_()
    value = model.mlp[0](h)[:, 3, 5, 7]
    s = (torch.autograd.grad(value.sum(), h)[0] * h.detach()).permute(0, 3, 1, 2)
    result = attribute(network, x, "mlp.1:7@3,5", "norm")
    torch.testing.assert_close(result.activation, value.detach())
    torch.testing.assert_close(result.attribution, s)


def test_the_first_axis_may_be_that_of_tokens() -> None:
    model = seeded(SequenceFirst).double()
    network, x = small(model), images(2, 3, *SIZE).double()
    assert network.layer("first").layout == "2x4 n c"
    h = model.first(model.patches(x).flatten(2).permute(2, 0, 1)).detach().requires_grad_()
    value = model.second(h + model.attention(h, h, h)[0])[5, :, 2]
    s = torch.autograd.grad(value.sum(), h)[0] * h.detach()
    result = attribute(network, x, "second:2@1,1", "first")
    torch.testing.assert_close(result.activation, value.detach())
    torch.testing.assert_close(result.attribution.flatten(2), s.permute(1, 2, 0))
    # What each image adds is its own: alone it adds the same.
    alone = attribute(network, x[1:], "second:2@1,1", "first")
    torch.testing.assert_close(alone.excitation, result.excitation[1:])


def test_layers_that_fold_windows_into_the_images_are_refused() -> None:
    network = small(seeded(Windows))
    assert network.layer("after").shape == (8, 4, 8)
    for name in ("inside", "attention"):
        with pytest.raises(UnknownLayout, match=r"axis 0 has 8 rows for one image and 16 for two"):
            network.layer(name)
    with pytest.raises(UnknownLayout, match="folded into the images"):
        attribute(network, images(2, 3, *SIZE), "after:1", "inside")
    assert network.layer("after").placement == (0.5, 0.5, 2, 2)


class Beside(nn.Module):
    """Something that images share, after a convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 4, 3), function
        self.shared = nn.Embedding(4, 4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.shared(torch.arange(4)).sum(0).view(1, 4, 1, 1)
        x = self.function(x)
        logits: Tensor = self.last(x)
        return logits


@pytest.mark.parametrize(
    "function",
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        lambda x: x - x.mean((0, 2, 3), keepdim=True),
        lambda x: x / x.amax(),
        lambda x: x + x.flip(0),
        lambda x: F.dropout(x, 0.5, training=True),
    ],
    ids=["own statistics", "mean", "largest", "neighbour", "chance"],
)
def test_what_depends_on_other_images_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    network = small(seeded(lambda: Beside(function)))
    assert network.layer("first").shape == (4, 6, 14)
    for name in ("last", "logits"):
        with pytest.raises(UnknownLayout, match="depends on the images beside it, or on chance"):
            network.layer(name)
    # It is refused as a target and as a through layer, and not before.
    with pytest.raises(UnknownLayout, match=r"layer 'last' cannot be read"):
        attribute(network, images(2, 3, *SIZE), "last:1", "first")
    assert attribute(network, images(2, 3, *SIZE), "first:1", "pixels").excitation.shape == (2,)


def test_what_is_no_image_is_refused() -> None:
    network = small(seeded(lambda: Beside(nn.ReLU())))
    with pytest.raises(UnknownLayout, match="the same however many images come"):
        attribute(network, images(2, 3, *SIZE), "last:1", "shared")


def test_what_is_not_known_can_be_said() -> None:
    model = seeded(Folded)
    network = small(model)
    with pytest.raises(UnknownLayout, match=r"'odd' cannot be read: .*layout=\{'odd': 'n c h w'\}"):
        network.layer("odd")
    told = small(model, layout={"od*": "n 2x3 c"})
    assert told.layer("odd").shape == (5, 2, 3)
    x = images(2, 3, *SIZE)
    value = attribute(told, x, "odd:4@1,2", "stem").activation
    torch.testing.assert_close(value, model.odd(model.stem(x))[:, 5, 4].detach())
    with pytest.raises(ValueError, match=r"another axis of images than axis 0"):
        small(model, layout={"odd": "6x1 n c".replace("6x1", "t")}).layer("odd")
    with pytest.raises(ValueError, match="does not fit"):
        small(model, layout={"odd": "n c h w"}).layer("odd")


def test_a_network_that_takes_no_such_image_says_so() -> None:
    network = small(seeded(lambda: nn.Conv2d(4, 2, 1)))
    with pytest.raises(ValueError, match=r"Conv2d does not take one image of shape"):
        network.layer("logits")


def test_a_network_that_takes_one_image_at_a_time_says_so() -> None:
    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(1, 3, *SIZE).mean((2, 3))

    with pytest.raises(UnknownLayout, match=r"does not take two images \(shape '\[1, 3, 8, 16\]'"):
        small(Alone()).layer("logits")


def test_branches_that_lie_apart_are_channels() -> None:
    """On a map of three rows, branches of other kernels differ by as much as its rows do."""

    def branches(pool: type[nn.Module]) -> nn.Module:
        pooled = nn.Sequential(pool(3, 1, 1), nn.Conv2d(4, 1, 1))
        wide = nn.Conv2d(4, 1, (3, 5), padding=(1, 2))
        return Parallel(nn.Conv2d(4, 2, 1), wide, pooled)

    padded = partial(nn.Conv2d, 4, 4, dilation=(2, 1), padding_mode="replicate")

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, (2, 1), padding=(2, 0)),
            padded((1, 3), (2, 2), (3, 2)),
            branches(nn.MaxPool2d),
            padded((4, 4), (2, 1), (1, 2)),
            branches(nn.AvgPool2d),
        )

    network = Network(seeded(make), preprocessing=Preprocessing(size=(10, 13)))
    assert network.layer("4").layout == "n c h w"
    assert network.layer("4").shape == (4, 3, 9)
