"""What operations do to extents: exact boxes, or too large ones, never too small."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from tests.support.receptive_fields import (
    SIZE,
    Around,
    Function,
    Parallel,
    boxes,
    by_raising_pixels,
    rand,
    rising,
    seeded,
    squeeze_excite,
)
from torch import Tensor, nn
from torch.nn import functional as F

from opponent import Feature, Network, Preprocessing
from opponent.core.errors import UnknownGeometry, UnknownLayout
from opponent.geometry.receptive_field import (
    placement,
    receptive_field,
    receptive_fields,
    receptive_fields_by_layer,
)

# Random networks


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
    assume(all(min(layer.shape) > 0 for layer in network.layers.values()))
    # Of a map of a row or two the axes may not be known; after a transposition they are exchanged.
    assume(not network.layers.refused)
    assume({layer.layout for layer in network.layers.values()} == {"n c h w"})
    last = str(len(layers) - 1)
    expected = by_raising_pixels(model, (3, *SIZE))
    extents = receptive_fields(network, last)
    assert torch.equal(extents, expected)
    # The same from a layer on the way.
    start = data.draw(st.integers(0, len(layers) - 1))
    if str(start) != last:
        shape = network.map_shape(str(start))
        expected = by_raising_pixels(model[start + 1 :], shape)
        assert torch.equal(receptive_fields(network, last, str(start)), expected)
    # And of single features, by units and by directions.
    channels, height, width = network.map_shape(last)
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    for units in ([data.draw(st.integers(0, channels - 1))], [0, channels - 1]):
        top, bottom, left, right = extents[:, units, row, column].amax(1).tolist()
        vector = [1e-60 * (k in units) for k in range(channels)]
        feature = Feature.direction(last, vector, position=(row, column))
        if bottom < 0:
            with pytest.raises(ValueError, match="does not depend on 'pixels'"):
                receptive_field(network, feature)
            continue
        rows, columns = receptive_field(network, feature).slices
        assert (rows.start, rows.stop - 1) == (-top, bottom)
        assert (columns.start, columns.stop - 1) == (-left, right)
        if len(units) == 1:
            unit = Feature(layer=last, unit=units[0], position=(row, column))
            assert receptive_field(network, unit).slices == (rows, columns)


@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
def test_boxes_of_pools_of_every_kind(kind: type[nn.Module]) -> None:
    # Rounded up, a window that would begin in the padding is left out.
    for kernel, stride, ceil, size in product((1, 2, 3, 4), (1, 2, 3), (False, True), (5, 6, 7)):
        for padding, dilation in product(range(kernel // 2 + 1), (1, 2)):
            if kind is nn.AvgPool2d and dilation == 2:
                continue
            more = {} if kind is nn.AvgPool2d else {"dilation": dilation}
            pool = kind(kernel, stride, padding, ceil_mode=ceil, **more)
            if size + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            network = Network(nn.Sequential(pool), preprocessing=Preprocessing(size=(size, 8)))
            with torch.no_grad():
                x = rand(1, 3, size, 8)
                raised = x + 1000 * torch.eye(size * 8).view(-1, 1, size, 8)
                depends = (pool(raised) > pool(x)).permute(1, 2, 3, 0).unflatten(3, (size, 8))
            assert torch.equal(receptive_fields(network, "0").double(), boxes(depends)), pool


# Operations that hide what they depend on


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


# Of an image these give what depends on the images beside it.
MIXING = ("own statistics", "images mixed", "largest", "choice", "indexed", "numbers")


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_images_is_refused(name: str) -> None:
    function, _ = HIDING[name]
    hiding = function if isinstance(function, nn.Module) else Function(function)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), hiding, nn.Conv2d(4, 2, 1)))
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    with pytest.raises(UnknownLayout, match="depends on the images beside it"):
        network.layer("2")


@pytest.mark.parametrize("name", [name for name in HIDING if name not in MIXING])
def test_no_box_is_too_small_whatever_a_network_does(name: str) -> None:
    function, exact = HIDING[name]
    if function is F.conv_transpose2d:
        function = partial(function, weight=rand(4, 4, 2, 2), stride=2)
    hiding = function if isinstance(function, nn.Module) else Function(function)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), hiding, nn.Conv2d(4, 2, 1)))
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    x = rand(1, 3, *SIZE).requires_grad_()
    height, width = network.map_shape("logits")[1:]
    for row, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        [gradient] = torch.autograd.grad(model(x)[0, 1, row, column], x)
        top, bottom, left, right = boxes((gradient != 0).view(1, 1, 1, *gradient.shape[1:]).any(3))
        field = receptive_field(network, f"2:1@{row},{column}")
        rows, columns = field.slices
        assert 0 <= rows.start <= -top
        assert bottom < rows.stop <= SIZE[0]
        assert 0 <= columns.start <= -left
        assert right < columns.stop <= SIZE[1]
        if exact:
            assert (rows.start, rows.stop - 1) == (-top, bottom)
            assert (columns.start, columns.stop - 1) == (-left, right)


def test_an_operation_that_writes_into_a_tensor_of_its_own_is_not_followed() -> None:
    def write_out(x: Tensor) -> Tensor:
        return torch.add(x, x.roll(3, 3), out=torch.empty(0).to(x))

    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Function(write_out)))
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    assert receptive_field(network, "1:0").slices == (slice(0, 10), slice(0, 13))
    with pytest.raises(UnknownGeometry, match=r"cannot tell the receptive field of aten.add.out"):
        receptive_fields(network, "1")
    with pytest.raises(UnknownGeometry, match=r"cannot tell the receptive field of aten.add.out"):
        receptive_fields_by_layer(network)
    assert placement(network, "1") is None
    assert placement(network, "0") == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("dtype", "exact"), [(torch.bfloat16, 256), (torch.float16, 2048), (torch.float32, 2**24)]
)
def test_boxes_in_half_precision_are_exact_or_whole(dtype: torch.dtype, exact: int) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)))
    model.to(dtype)
    for width in (200, 256, 257, 2048, 2049):
        network = Network(model, preprocessing=Preprocessing(size=(6, width)))
        for column in (0, width // 2, width - 5):
            rows, columns = slice(0, 5), slice(column, column + 5)
            if width > exact:
                rows, columns = slice(0, 6), slice(0, width)
            assert receptive_field(network, f"2:1@0,{column}").slices == (rows, columns)
        assert placement(network, "2") == (2.0, 2.0, 1.0, 1.0)
        assert ("2" in receptive_fields_by_layer(network)) == (width <= exact)
    # Nor must a layer that computes in half precision make a box too small.
    half = nn.Sequential(nn.Identity(), Function(lambda x: x.to(dtype).float()), nn.Identity())
    network = Network(half, preprocessing=Preprocessing(size=(6, 300)))
    columns = slice(0, 300) if exact == 256 else slice(259, 260)
    assert receptive_field(network, "2:1@0,259").slices[1] == columns
