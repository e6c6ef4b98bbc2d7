"""Windows: exact boxes, found again by brute force; receptive fields as textbooks give them."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import opponent
from opponent import Feature, Network, Preprocessing, attribute
from opponent.window import (
    UnknownGeometry,
    Window,
    feature_window,
    placement,
    reach,
    reaches,
    receptive_field,
)
from opponent.zoo.inceptionv1 import InceptionV1

SIZE = (10, 13)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights from a seed of its own, in evaluation mode and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval().double()


def rand(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def rising(module: nn.Module) -> nn.Module:
    """Weights that are all positive, so that a pixel raised raises all that depends on it."""
    with torch.no_grad():
        for part in module.modules():
            for name, value in [*part.named_parameters(recurse=False)]:
                if value.ndim > 1:
                    value.copy_((0.5 + value.abs().clamp(max=1)) / value[0].numel())
                else:
                    value.fill_(1.0 if "weight" in name else 0.01)
    return module


def boxes(depends: Tensor) -> Tensor:
    """Of (c, h, w, rows, columns), which pixels each element depends on, the box as `reach` has."""
    found = []
    for axis in (3, 4):
        along = depends.any(7 - axis)
        place = torch.arange(depends.shape[axis], dtype=torch.float64)
        for sign in (-1, 1):
            found.append(torch.where(along, sign * place, -torch.inf).amax(-1))
    return torch.stack(found)


def by_raising_pixels(run: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The box of every element, found by raising one position of the source after the other."""
    channels, height, width = shape
    base = rand(1, *shape)
    raised = base + 1000 * torch.eye(height * width).view(-1, 1, height, width)
    with torch.no_grad():
        depends = run(raised) > run(base)
    return boxes(depends.permute(1, 2, 3, 0).unflatten(3, (height, width)))


# Random networks


class Parallel(nn.Module):
    """Branches side by side, each with half of the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Around(nn.Module):
    """A sum, in place, of a branch and what goes around it."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x
        return y


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


small = partial(st.integers, 1)
pairs = lambda top: st.tuples(small(top), small(top))  # noqa: E731
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
even = lambda k, data: tuple(data.draw(st.integers(0, n // 2)) for n in k)  # noqa: E731


def draw_layer(data: Any) -> nn.Module:
    """A layer that keeps four channels."""
    kind = data.draw(
        st.sampled_from(
            ["conv", "conv", "max", "average", "adaptive", "branches", "around", "pad", "function"]
        )
    )
    kernel, stride = data.draw(pairs(4)), data.draw(pairs(3))
    if kind == "conv":
        return nn.Conv2d(
            4, 4, kernel, stride, data.draw(pads), data.draw(pairs(2)),
            groups=data.draw(st.sampled_from([1, 2, 4])), bias=data.draw(st.booleans()),
            padding_mode=data.draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate"])),
        )  # fmt: skip
    if kind == "max":
        ceil = data.draw(st.booleans())
        return nn.MaxPool2d(kernel, stride, even(kernel, data), data.draw(pairs(2)), False, ceil)
    if kind == "average":
        ceil, counted = data.draw(st.booleans()), data.draw(st.booleans())
        return nn.AvgPool2d(kernel, stride, even(kernel, data), ceil, counted)
    if kind == "adaptive":
        pool = data.draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))
        return pool(data.draw(pairs(5)))
    if kind == "branches":
        pool = data.draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
        return Parallel(
            nn.Conv2d(4, 2, 1),
            nn.Conv2d(4, 1, (3, 5), padding=(1, 2)),
            nn.Sequential(pool(3, 1, 1), nn.Conv2d(4, 1, 1)),
        )
    if kind == "around":
        return Around(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)))
    if kind == "pad":
        return nn.ZeroPad2d(tuple(data.draw(st.integers(-1, 2)) for _ in range(4)))
    return Function(
        data.draw(
            st.sampled_from(
                [
                    F.relu_,
                    partial(F.interpolate, scale_factor=2),
                    partial(torch.roll, shifts=(1, -2), dims=(2, 3)),
                    partial(torch.flip, dims=(3,)),
                    partial(torch.transpose, dim0=2, dim1=3),
                    lambda x: F.pixel_unshuffle(x, 2)[:, ::4],
                    lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
                    lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
                    lambda x: torch.stack(x.chunk(2, 1), 4).mean(4).repeat(1, 2, 1, 1),
                    lambda x: x[:, [3, 2, 1, 0], 1:, :-1],
                    lambda x: torch.where(x > 0.5, x, 0.1 * x),
                    lambda x: x * (x > 0),
                    lambda x: x.masked_fill(x < 0, 0.0),
                    lambda x: torch.maximum(x, torch.zeros_like(x)),
                ]
            )
        )
    )


@settings(max_examples=50, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.data())
def test_boxes_of_random_networks_are_those_found_by_raising_pixels(data: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            layers = [draw_layer(data) for _ in range(data.draw(small(4)))]
            layers = [nn.Conv2d(3, 4, data.draw(pairs(3)), padding=data.draw(pads)), *layers]
        except ValueError:  # a layer that torch refuses to make
            assume(False)
    model = rising(nn.Sequential(*layers).double().eval())
    try:
        model(rand(1, 3, *SIZE))
    except (RuntimeError, ValueError):  # nothing is left of the map
        assume(False)
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    last = str(len(layers) - 1)
    expected = by_raising_pixels(model, (3, *SIZE))
    found = reach(network, last)
    assert torch.equal(found, expected)
    # The same from a layer on the way.
    start = data.draw(st.integers(0, len(layers) - 1))
    if str(start) != last:
        shape = network.map_shape(str(start))
        expected = by_raising_pixels(model[start + 1 :], shape)
        assert torch.equal(reach(network, last, str(start)), expected)
    # And of single features, by units and by directions.
    channels, height, width = network.map_shape(last)
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    for units in ([data.draw(st.integers(0, channels - 1))], [0, channels - 1]):
        top, bottom, left, right = found[:, units, row, column].amax(1).tolist()
        vector = [1e-60 * (k in units) for k in range(channels)]
        feature = Feature.direction(last, vector, position=(row, column))
        if bottom < 0:
            with pytest.raises(ValueError, match="does not depend on 'pixels'"):
                feature_window(network, feature)
            continue
        rows, columns = feature_window(network, feature).slices
        assert (rows.start, rows.stop - 1) == (-top, bottom)
        assert (columns.start, columns.stop - 1) == (-left, right)
        if len(units) == 1:
            unit = Feature(layer=last, unit=units[0], position=(row, column))
            assert feature_window(network, unit).slices == (rows, columns)


# Operations that hide what they depend on


def squeeze_excite(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).flip(1).sigmoid()


def attend(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)[:, None]
    return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mT.view_as(x)


def convolve_by_itself(x: Tensor) -> Tensor:
    """Weights from the whole image, an image after the other, in one grouped convolution."""
    weight = x.mean((2, 3)).view(-1, 1, 1, 1)
    return F.conv2d(x.view(1, -1, *x.shape[2:]), weight, groups=len(weight)).view_as(x)


def shift_in_time(x: Tensor) -> Tensor:
    moved = torch.zeros_like(x)
    moved[:, :2, 1:], moved[:, 2:] = x[:, :2, :-1], x[:, 2:]
    return moved


def into_a_buffer(x: Tensor) -> Tensor:
    buffer = torch.zeros(x.shape, dtype=x.dtype)
    buffer[:, :2] = x[:, :2].roll(2, 2)
    return buffer + x


def blank_a_row(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 1], x[:, 2, 2] = 0, 1
    x[:, 3, 3].copy_(torch.ones(x.shape[3], dtype=x.dtype))
    return x


def by_channels_last(x: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)


def matrix_from_the_left(x: Tensor) -> Tensor:
    flat = x.flatten(1).mT
    return torch.mm(rand(len(flat), len(flat)), flat).mT.view_as(x)


# For each whether its box is exact; if not, it may be too large, but never too small.
HIDING: dict[str, tuple[Callable[[Tensor], Tensor] | nn.Module, bool]] = {
    "constants beside": (lambda x: torch.cat([x[:, :2], 7 * torch.ones_like(x[:, :2])], 1), True),
    "ones beside": (lambda x: torch.cat([x[:, 1:], torch.full((len(x), 1, 8, 11), 9.0)], 1), True),
    "shift": (shift_in_time, True),
    "blank": (blank_a_row, True),
    "buffer": (into_a_buffer, False),
    "crop": (lambda x: F.pad(x, (-1, 0, -2, -1)), True),
    "circular": (partial(F.pad, pad=(1, 1, 1, 1), mode="circular"), True),
    "rounding": (lambda x: x.half().double(), True),
    "local norm": (nn.LocalResponseNorm(3), True),
    "layer norm": (by_channels_last, True),
    "instance norm": (nn.InstanceNorm2d(4), True),
    "group norm": (nn.GroupNorm(2, 4), True),
    "own statistics": (nn.BatchNorm2d(4, track_running_stats=False), True),
    "excite": (squeeze_excite, True),
    "attend": (attend, True),
    "softmax": (lambda x: x.flatten(2).softmax(2).view_as(x), True),
    "dynamic weights": (convolve_by_itself, True),
    "matrix": (matrix_from_the_left, True),
    "images mixed": (lambda x: x - x.mean((0, 2, 3), keepdim=True), True),
    "largest": (lambda x: x / x.amax(), False),
    "largest of each": (lambda x: x / x.amax((1, 2, 3), keepdim=True), False),
    "largest channel": (lambda x: x * x.max(1, keepdim=True)[0], False),
    "choice": (lambda x: x * (2 if x.mean() > 0 else 1), False),
    "unknown in place": (lambda x: x.sin_(), False),
    "unknown": (lambda x: x.erf().cumsum(3), False),
    "sorted": (lambda x: x.sort(2)[0], False),
    "top": (lambda x: x.flatten(2).topk(9)[0].view(-1, 4, 3, 3), False),
    "gathered": (lambda x: x.gather(3, x.argsort(3)), False),
    "indexed": (lambda x: x[:, :, x[0, 0, :, 0].argsort()], False),
    "bilinear": (partial(F.interpolate, scale_factor=2, mode="bilinear"), False),
    "transposed": (F.conv_transpose2d, False),
    "unfolded": (lambda x: F.unfold(x, 3, padding=1).view(-1, 36, 8, 11)[:, 4:8], False),
    "fourier": (lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 1j).real, False),
    "einsum": (lambda x: torch.einsum("nchw,cd->ndhw", x, rand(4, 4)), False),
    "normalised": (F.normalize, False),
    "distance": (lambda x: torch.cdist(x, x), False),
    "masked": (lambda x: x * (x > 0).any(1, keepdim=True), False),
    "not a number": (lambda x: x.masked_fill_(~(x > 0), 0.0), False),
    "numbers": (lambda x: x.index_select(2, x[0, 0, :, 0].long().clamp(0, 7)), False),
}


@pytest.mark.parametrize("name", HIDING)
def test_no_box_is_too_small_whatever_a_network_does(name: str) -> None:
    function, exact = HIDING[name]
    if function is F.conv_transpose2d:
        function = partial(function, weight=rand(4, 4, 2, 2), stride=2)
    hiding = function if isinstance(function, nn.Module) else Function(function)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), hiding, nn.Conv2d(4, 2, 1)))
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    x = rand(1, 3, *SIZE).requires_grad_()
    channels, height, width = network.map_shape("logits")
    for row, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        [gradient] = torch.autograd.grad(model(x)[0, 1, row, column], x)
        top, bottom, left, right = boxes((gradient != 0).view(1, 1, 1, *gradient.shape[1:]).any(3))
        window = feature_window(network, f"2:1@{row},{column}")
        rows, columns = window.slices
        assert 0 <= rows.start <= -top
        assert bottom < rows.stop <= SIZE[0]
        assert 0 <= columns.start <= -left
        assert right < columns.stop <= SIZE[1]
        if exact:
            assert (rows.start, rows.stop - 1) == (-top, bottom)
            assert (columns.start, columns.stop - 1) == (-left, right)
