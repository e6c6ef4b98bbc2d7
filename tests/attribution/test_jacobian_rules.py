"""The rule of each operation, against one backward pass a feature; operations without a rule."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.jacobian import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    Branches,
    Function,
    N,
    Residual,
    around,
    compare,
    conv,
    places,
    rand,
    seeded,
)
from torch import Tensor, nn
from torch.nn import functional as F

from opponent.attribution.jacobian import jacobian_blocks
from opponent.attribution.jacobian_block import NoRule

pytestmark = pytest.mark.usefixtures("one_thread")


def twice(x: Tensor) -> Tensor:
    y = F.relu(x)
    return torch.cat([y, y, y * y + y], 1)


def same_weights(x: Tensor) -> Tensor:
    shared = conv(CHANNELS, CHANNELS, 3, padding=1, seed=8)
    return shared(F.relu(shared(x))) + shared(x)


def unused_half(x: Tensor) -> Tensor:
    y = F.relu(x)
    _ = conv(CHANNELS, 2, 1)(y)
    return y[:, 1:3]


def beside_a_constant(x: Tensor) -> Tensor:
    return torch.cat([F.relu(x), rand(len(x), 2, *x.shape[2:]), x], 1)


def after_constants(x: Tensor) -> Tensor:
    constant = torch.ones_like(x[:, :2])
    return torch.cat([constant, x[:, 1:].detach(), F.relu(x)], 1)


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = x.mean((2, 3), keepdim=True).sigmoid()
    return x * gate + x.detach()


def in_place(x: Tensor) -> Tensor:
    x = conv(CHANNELS, CHANNELS, 1)(x)
    x.mul_(2).add_(1).sub_(x.detach(), alpha=0.5)
    return F.leaky_relu_(x, 0.2)


CONVOLUTIONS: dict[str, nn.Module] = {
    "1 x 1": conv(4, 5, 1),
    "3 x 3": conv(4, 5, 3, padding=1),
    "no padding, no bias": conv(4, 5, 3, bias=False),
    "stride": conv(4, 5, 3, stride=2, padding=1),
    "stride of 1 x 1": conv(4, 5, 1, stride=(2, 3)),
    "uneven": conv(4, 5, (2, 5), stride=(1, 2), padding=(2, 1)),
    "dilation": conv(4, 5, 3, padding=2, dilation=2),
    "uneven dilation": conv(4, 5, (2, 3), padding=(0, 3), dilation=(3, 2), stride=(2, 1)),
    "groups": conv(4, 6, 3, padding=1, groups=2),
    "grouped 1 x 1": conv(4, 6, 1, groups=2),
    "depthwise": conv(4, 4, 3, padding=1, groups=4),
    "depthwise twice as wide": conv(4, 8, 5, padding=2, groups=4, stride=2),
    "padding alone at the corners": conv(4, 5, 1, padding=2),
    "same": conv(4, 5, (3, 5), padding="same"),
}
POINTWISE: dict[str, Function] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu_(x * 1),
    "leaky": partial(F.leaky_relu, negative_slope=0.3),
    "gelu": F.gelu,
    "gelu by tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x * 1, inplace=True),
    "relu6": lambda x: F.relu6(5 * x, inplace=True),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": lambda x: F.elu(x * 1, inplace=True),
    "softplus": F.softplus,
    "mish": F.mish,
    "threshold": lambda x: F.threshold(x, 0.3, 2.0),
    "threshold in place": lambda x: F.threshold(x * 1, 0.3, 2.0, inplace=True),
    "prelu": lambda x: F.prelu(x, rand(4)),
    "prelu of one weight": lambda x: F.prelu(x, rand(1)),
    "prelu that is trained": lambda x: F.prelu(x, rand(4).requires_grad_()),
    "celu": partial(F.celu, alpha=0.7),
    "celu in place": lambda x: F.celu(x * 1, alpha=0.7, inplace=True),
    "selu": F.selu,
    "hardtanh": partial(F.hardtanh, min_val=-0.4, max_val=0.6),
    "rrelu": F.rrelu,
    "rrelu in place": lambda x: F.rrelu(x * 1, inplace=True),
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "log sigmoid": F.logsigmoid,
    "tanh in place": lambda x: torch.tanh_(x * 1),
    "gelu in place": lambda x: torch._C._nn.gelu_(x * 1),
    "by its sigmoid": lambda x: x * x.sigmoid(),
    "by a mask": lambda x: x * (x > 0),
}
POOLS: dict[str, Function] = {
    "max": nn.MaxPool2d(2),
    "max over each other": nn.MaxPool2d(3, 2, 1),
    "max of one": nn.MaxPool2d(1, 2),
    "max rounded up": nn.MaxPool2d((2, 3), 2, ceil_mode=True),
    "max rounded up, padded": nn.MaxPool2d(3, (2, 4), 1, ceil_mode=True),
    "max dilated": nn.MaxPool2d(3, 2, 1, dilation=2),
    "max dilated unevenly": nn.MaxPool2d((2, 3), (1, 2), (1, 0), dilation=(3, 1)),
    "max of ties": lambda x: F.max_pool2d(F.relu(x - 1), 3, 2, 1),
    "mean": nn.AvgPool2d(2),
    "mean over each other": nn.AvgPool2d(3, 1),
    "mean padded": nn.AvgPool2d(3, 2, 1),
    "mean padded, uncounted": nn.AvgPool2d((3, 5), 1, (1, 2), count_include_pad=False),
    "mean rounded up": nn.AvgPool2d((2, 5), (2, 3), ceil_mode=True, count_include_pad=False),
    "mean rounded up, padded": nn.AvgPool2d((4, 5), (3, 4), (2, 1), ceil_mode=True),
    "mean with a divisor": nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
    "global": nn.AdaptiveAvgPool2d(1),
    "global by its axes": lambda x: x.mean((-1, 2), keepdim=True),
    "global, as vectors": lambda x: x.mean((2, 3)),
    "adaptive of the same size": nn.AdaptiveAvgPool2d((HEIGHT, WIDTH)),
}
SHAPES: dict[str, Function] = {
    "branches": seeded(Branches),
    "residual": seeded(Residual),
    "batch norm": seeded(lambda: nn.BatchNorm2d(CHANNELS)),
    "batch norm without weights": seeded(lambda: nn.BatchNorm2d(CHANNELS, affine=False)),
    "flatten and linear": seeded(
        lambda: nn.Sequential(nn.MaxPool2d(3), nn.Flatten(), nn.Linear(48, 5))
    ),
    "global and linear": seeded(
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    ),
    "linear without bias": seeded(
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, bias=False))
    ),
    "zeros around": nn.ZeroPad2d((1, 2, 0, 3)),
    "another constant around": lambda x: F.pad(x, (0, 1, 2, 1), value=3.0),
    "negative padding": nn.ZeroPad2d((-1, 2, -2, -1)),
    "padded columns": lambda x: F.pad(x, (2, -1)),
    "far more padding than map": lambda x: conv(4, 5, 1)(F.relu(F.pad(x, (20, 20, 20, 20)))),
    "rows": lambda x: x[:, :, 2:-1],
    "last columns": lambda x: x[:, :, :, -5:],
    "more rows than there are": lambda x: x[:, :, -100:],
    "channels": lambda x: x[:, 1:3],
    "last channels": lambda x: x.narrow(-3, 2, 2),
    "first channels": lambda x: x.narrow(-3, 0, 1),
    "first columns": lambda x: x.narrow(-1, 0, 3),
    "all images": lambda x: x[:],
    "joined by a negative axis": lambda x: torch.cat([x, 2 * x], -3),
    "a tensor twice": twice,
    "weights shared by two layers": same_weights,
    "a branch that leads nowhere": unused_half,
    "beside a constant": beside_a_constant,
    "after constants": after_constants,
    "parts without gradient": without_gradient,
    "in place": in_place,
    "a difference": lambda x: F.relu(x).sub(x.tanh(), alpha=3),
    "a weighted sum": lambda x: torch.add(F.relu(x), x.tanh(), alpha=-0.5),
    "a learnt place": lambda x: F.relu(x) + rand(1, *x.shape[1:]).requires_grad_(),
    "a learnt scale": lambda x: F.relu(x) * rand(x.shape[1], 1, 1).requires_grad_(),
    "by itself": lambda x: x * x,
    "of the same shape": lambda x: x.view_as(x).reshape(x.shape),
    "squeezed": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2)[:, :, None, None],
    "dropout": seeded(lambda: nn.Dropout(0.5)),
    "no positive value": lambda x: F.relu(-1.0 * (x * x) - 1),
    "contiguous": lambda x: x.contiguous(memory_format=torch.channels_last).clone(),
}
KINDS = {"convolution": CONVOLUTIONS, "pointwise": POINTWISE, "pool": POOLS, "shape": SHAPES}


@pytest.mark.parametrize(
    "function",
    [pytest.param(f, id=f"{k}: {name}") for k, all in KINDS.items() for name, f in all.items()],
)
def test_the_walk_is_reverse_mode(function: Function) -> None:
    hidden = rand(N, CHANNELS, HEIGHT, WIDTH)
    for composed in around(function):
        for at in places(composed, hidden):
            compare(composed, hidden, at=at)
    compare(function, hidden.relu(), units=False)
    compare(function, hidden[:1])


# What has no rule


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).mT.reshape(x.shape)


class Relu(torch.autograd.Function):
    """Called as torch's own, but another thing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.flip(3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].flip(3)


def weights_from_the_image(x: Tensor) -> Tensor:
    weight = x.mean((0, 2, 3)).view(2, 2, 1, 1).expand(2, 2, 3, 3)
    return F.conv2d(x[:, :2], weight)


def bias_from_the_image(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(2, 4, 1, 1).double(), x.mean((0, 2, 3))[:2])


def matrix_from_the_image(x: Tensor) -> Tensor:
    return torch.mm(rand(len(x), 4), x.mean((0, 2, 3))[:, None].expand(4, 4))


def product_from_the_left(x: Tensor) -> Tensor:
    return torch.mm(rand(len(x), len(x)), x.mean((2, 3)))


def constant_times_the_image(x: Tensor) -> Tensor:
    return F.linear(rand(len(x), CHANNELS), x[0, :, 0, :CHANNELS])


def norm_by_the_image(x: Tensor) -> Tensor:
    mean, weight = torch.zeros(CHANNELS).double(), x.mean((0, 2, 3))
    return F.batch_norm(x, mean, mean + 1, weight)


def writes_a_part(x: Tensor) -> Tensor:
    x = x * 1
    x[:, 1] = x[:, 2] * 2
    return x


def relu_of_three_axes(x: Tensor) -> Tensor:
    # Of one column, so that nothing but the axes change.
    x = x[:, :, :, :1]
    return F.relu(x.squeeze(3)).unsqueeze(3) * 1


def relu_of_five_axes(x: Tensor) -> Tensor:
    return F.relu(x.unsqueeze(4)).squeeze(4)


REFUSED: dict[str, Function] = {
    "squeeze and excite": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "a gate for each place": lambda x: x * x.mean(1, keepdim=True).sigmoid(),
    "a sum over each other": lambda x: x + x.mean((2, 3), keepdim=True),
    "centred": lambda x: x - x.mean((2, 3), keepdim=True),
    "centred over images": lambda x: x - x.mean(0, keepdim=True),
    "batch norm in training": lambda x: F.batch_norm(x, None, None, training=True),
    "softmax": lambda x: x.softmax(1),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: F.group_norm(x, 2),
    "first half": lambda x: x.chunk(2, 1)[0],
    "second half": lambda x: x.chunk(2, 1)[1],
    "both halves": lambda x: (y := x.chunk(2, 1))[0] * y[1],
    "split": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "channel shuffle": lambda x: (
        x.view(len(x), 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
    ),
    "transposed": lambda x: x.transpose(2, 3),
    "channels last": lambda x: F.linear(x.permute(0, 2, 3, 1), rand(5, 4)).permute(0, 3, 1, 2),
    "attention": Attention(),
    "every other row": lambda x: x[:, :, ::2],
    "rolled": lambda x: x.roll(1, 3),
    "mirrored": lambda x: x.flip(2),
    "chosen channels": lambda x: x[:, [3, 1, 1]],
    "one channel": lambda x: x[:, 1][:, None],
    "nearest": partial(F.interpolate, scale_factor=2),
    "bilinear": partial(F.interpolate, scale_factor=2, mode="bilinear"),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "padded channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "padded vectors": lambda x: F.pad(x.mean((2, 3)), (1, 2)),
    "joined rows": lambda x: torch.cat([x, x], 2),
    "joined columns": lambda x: torch.cat([x, x], -1),
    "stacked": lambda x: torch.stack([x, x], 4).sum(4),
    "several constants": lambda x: torch.cat([x[:, :1].detach(), x, x.detach()], 1),
    "a transposed convolution": lambda x: F.conv_transpose2d(x, rand(4, 5, 3, 3), stride=2),
    "adaptive": nn.AdaptiveAvgPool2d((4, 5)),
    "adaptive maximum": nn.AdaptiveMaxPool2d(2),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "clamped": lambda x: x.clamp(-0.5, 0.5),
    "a slope from the image": lambda x: F.prelu(x, x.mean((0, 2, 3))),
    "a user's function with a known name": Relu.apply,
    "weights from the image": weights_from_the_image,
    "bias from the image": bias_from_the_image,
    "a matrix from the image": matrix_from_the_image,
    "a product from the left": product_from_the_left,
    "a constant times the image": constant_times_the_image,
    "a norm with weights from the image": norm_by_the_image,
    "writes a part": writes_a_part,
    "relu of three axes": relu_of_three_axes,
    "relu of five axes": relu_of_five_axes,
    "in single precision": lambda x: F.relu(x.float()).double(),
    "single and double": lambda x: F.relu(x.float()) * rand(*x.shape),
    "mean over rows": lambda x: x.mean((2,)).flatten(1),
    # As many columns as channels: taken for vectors, they would fit.
    "mean over channels and rows": lambda x: x[:, :, :, :CHANNELS].mean((1, 2)),
    "mean over rows, square": lambda x: x[:, :, :1, :CHANNELS].mean((1, 2)) * 2,
    "an image's neighbour": lambda x: torch.cat([x[1:], x[:1]]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name: str) -> None:
    hidden = rand(N, CHANNELS, HEIGHT, WIDTH)
    for composed in around(REFUSED[name]):
        leaf = hidden.clone().requires_grad_()
        target = composed(leaf.clone())
        target = target if target.ndim == 4 else target[:, :, None, None]
        directions = torch.eye(target.shape[1], dtype=target.dtype)
        for at in places(composed, hidden):
            with pytest.raises(NoRule, match="the walk has no rule for"):
                jacobian_blocks(target, leaf, directions, at)


# Random networks


SIZES = st.integers(1, 4)
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
FUNCTIONS = [*POINTWISE.values(), *SHAPES.values(), *REFUSED.values()]


def draw_layer(data: Any) -> Function:
    """A layer that keeps four channels."""
    kind = data.draw(st.sampled_from(["conv", "max", "mean", "pointwise", "any", "join", "sum"]))
    kernel = data.draw(st.tuples(SIZES, SIZES))
    stride, dilation = data.draw(PAIRS), data.draw(PAIRS)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    flag, ceil = data.draw(st.booleans()), data.draw(st.booleans())
    if kind == "conv":
        groups = data.draw(st.sampled_from([1, 2, 4]))
        return conv(4, 4, kernel, stride, data.draw(PAIRS), dilation, groups, bias=flag)
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, dilation, False, ceil)
    if kind == "mean":
        divisor = data.draw(st.none() | st.integers(1, 7))
        return nn.AvgPool2d(kernel, stride, padding, ceil, flag, divisor)
    if kind == "join":
        first, second = draw_layer(data), draw_layer(data)
        return lambda x: conv(8, 4, 1)(torch.cat([first(x), second(x)], 1))
    if kind == "sum":
        branch = draw_layer(data)
        return lambda x: branch(x) + x
    return data.draw(st.sampled_from(FUNCTIONS if kind == "any" else [*POINTWISE.values()]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_walk_is_reverse_mode_or_refused_in_random_networks(data: Any) -> None:
    layers = [draw_layer(data) for _ in range(data.draw(st.integers(1, 5)))]
    n = data.draw(st.integers(1, 3))
    hidden = rand(n, CHANNELS, HEIGHT, WIDTH, seed=data.draw(st.integers(0, 9)))

    def function(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    x = hidden.clone()
    try:
        for layer in layers:
            x = layer(x)
            # A window of nothing but padding has no maximum, and PyTorch differentiates it outside
            # of the map's memory.
            assume(bool(x.isfinite().all()))
    except (RuntimeError, ValueError, IndexError):
        assume(False)  # layers that do not fit
    shape = x.shape
    assume(min(shape) > 0)
    assume(len(shape) in (2, 4))
    assume(shape[0] == n)
    row = data.draw(st.integers(0, shape[2] - 1 if len(shape) == 4 else 0))
    column = data.draw(st.integers(0, shape[3] - 1 if len(shape) == 4 else 0))
    try:
        compare(function, data.draw(st.sampled_from([hidden, hidden.relu()])), at=(row, column))
    except NoRule:
        pass
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):  # which autograd refuses
            raise
