"""Windows: exact boxes, found again by brute force; receptive fields as textbooks give them."""

import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import opponent
from opponent import Feature, Network, Preprocessing, attribute
from opponent.core.box import Box
from opponent.core.errors import UnknownGeometry
from opponent.geometry.receptive_field import (
    field_and_stride,
    placement,
    receptive_field,
    receptive_fields,
    receptive_fields_by_layer,
)
from opponent.models.inceptionv1 import InceptionV1, MaxPoolSame

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
    """Of (c, h, w, rows, columns), which pixels each element depends on, the box as extents."""
    found = []
    for axis in (3, 4):
        along = depends.any(7 - axis)
        place = torch.arange(depends.shape[axis], dtype=torch.float64)
        for sign in (-1, 1):
            found.append(torch.where(along, sign * place, -torch.inf).amax(-1))
    return torch.stack(found)


def by_raising_pixels(run: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The box of every element, found by raising one position of the source after the other."""
    height, width = shape[1:]
    base = rand(1, *shape)
    # So far that the least weight of several layers lifts it over its neighbours in a pool.
    raised = base + 1e9 * torch.eye(height * width).view(-1, 1, height, width)
    with torch.no_grad():
        # One image and many are summed in another order: the last digit is no dependence.
        depends = run(raised) > run(base) + 1e-9
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
    assume(all(min(layer.shape) > 0 for layer in network.layers.values()))
    last = str(len(layers) - 1)
    expected = by_raising_pixels(model, (3, *SIZE))
    found = receptive_fields(network, last)
    assert torch.equal(found, expected)
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
        top, bottom, left, right = found[:, units, row, column].amax(1).tolist()
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
    height, width = network.map_shape("logits")[1:]
    for row, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        [gradient] = torch.autograd.grad(model(x)[0, 1, row, column], x)
        top, bottom, left, right = boxes((gradient != 0).view(1, 1, 1, *gradient.shape[1:]).any(3))
        window = receptive_field(network, f"2:1@{row},{column}")
        rows, columns = window.slices
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


def test_units_of_one_layer_have_boxes_of_their_own() -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1())
    whole, part = Box(top=74, left=74, height=91, width=91), Box(
        top=90, left=90, height=59, width=59
    )  # fmt: skip
    extremes = receptive_fields(network, "mixed3b")
    for unit, expected in ((0, part), (127, part), (379, whole), (128, None), (479, None)):
        top, bottom, left, right = extremes[:, unit, 14, 14].tolist()
        if expected is None:  # the 3 x 3 and the pooled branch, one position of mixed3a wider
            expected = Box(top=82, left=82, height=75, width=75)
        assert (-top, -left) == (expected.top, expected.left)
        assert (bottom + top + 1, right + left + 1) == (expected.height, expected.width)
    assert receptive_field(network, "mixed3b:379") == whole
    assert receptive_field(network, "mixed3b:0") == part
    one_branch = [float(k < 128) for k in range(480)]
    assert receptive_field(network, Feature.direction("mixed3b", one_branch)) == part
    one_more = [float(k < 128 or k == 400) for k in range(480)]
    assert receptive_field(network, Feature.direction("mixed3b", one_more)) == whole
    for unit, size in ((0, 1), (200, 3), (379, 5), (479, 3)):
        window = receptive_field(network, f"mixed3b:{unit}", "mixed3a")
        start = 14 - size // 2
        assert window == Box(top=start, left=start, height=size, width=size)
    # At the corner, what lies beyond the image is cut off.
    assert receptive_field(network, "mixed3b:379@0,0").slices == (slice(0, 53), slice(0, 53))


def test_branches_that_do_not_meet_have_no_box() -> None:
    model = seeded(lambda: Parallel(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3)))
    model.forward = lambda x: (model.branches[0](x), model.branches[1](x))[1]
    network = Network(model, preprocessing=Preprocessing(size=SIZE))
    with pytest.raises(ValueError, match=r"branches.1:1@\d+,\d+ does not depend on 'branches.0'"):
        receptive_field(network, "branches.1:1", "branches.0")
    with pytest.raises(ValueError, match="does not lie before"):
        receptive_field(network, "branches.0:1", "branches.1")
    with pytest.raises(ValueError, match="no layer 'branch'"):
        receptive_field(network, "branch:1")
    with pytest.raises(ValueError, match="has 2 channels"):
        receptive_field(network, "branches.0:2")


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
        expected = (2.0, 2.0, 1.0, 1.0) if width <= exact else None
        assert placement(network, "2") == expected
        assert ("2" in receptive_fields_by_layer(network)) == (width <= exact)
    # Nor must a layer that computes in half precision make a box too small.
    half = nn.Sequential(nn.Identity(), Function(lambda x: x.to(dtype).float()), nn.Identity())
    network = Network(half, preprocessing=Preprocessing(size=(6, 300)))
    columns = slice(0, 300) if exact == 256 else slice(259, 260)
    assert receptive_field(network, "2:1@0,259").slices[1] == columns


# Networks of torchvision and timm


def smoothed(module: nn.Module) -> nn.Module:
    """The same geometry with a gradient in all that an element depends on."""
    for name, part in [*module.named_children()]:
        if isinstance(part, nn.MaxPool2d):
            same = nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode)
            setattr(module, name, same)
        elif isinstance(part, MaxPoolSame):
            same = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, 2))
            setattr(module, name, same)
        elif isinstance(part, nn.ReLU6):
            setattr(module, name, nn.ReLU())
        else:
            smoothed(part)
    return module


def torchvision_model(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    more = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    return models.get_model(name, weights=None, **more)


def timm_model(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name)


LOCAL = {
    "resnet18": (partial(torchvision_model, "resnet18"), (64, 96), "layer1.0.relu#1 layer2.0"),
    "squeezenet": (partial(torchvision_model, "squeezenet1_0"), (64, 95), "features.7"),
    "densenet121": (partial(torchvision_model, "densenet121"), (64, 80), "features.transition2"),
    "mobilenet_v2": (partial(torchvision_model, "mobilenet_v2"), (65, 80), "features.8"),
    "shufflenet": (partial(torchvision_model, "shufflenet_v2_x0_5"), (64, 99), "stage2 stage3.1"),
    "googlenet": (partial(torchvision_model, "googlenet"), (64, 95), "inception3a inception4a"),
    "inception_v3": (partial(torchvision_model, "inception_v3"), (111, 127), "Mixed_5c"),
    "regnet_x": (partial(torchvision_model, "regnet_x_400mf"), (64, 80), "trunk_output.block2"),
    "convnext_tiny": (partial(torchvision_model, "convnext_tiny"), (64, 96), "features.3.0"),
    "swin_t": (partial(torchvision_model, "swin_t"), (64, 96), "features.1.0 features.1.1"),
    "inceptionv1-mini": (lambda: opponent.load().module, (43, 64), "mixed3b mixed4a_5x5"),
    "dla34": (partial(timm_model, "dla34"), (64, 96), "level2 level3"),
    "res2net": (partial(timm_model, "res2net50_26w_4s"), (64, 80), "layer1.1"),
    "resnet26d": (partial(timm_model, "resnet26d"), (64, 80), "maxpool layer2"),
    "hrnet": (partial(timm_model, "hrnet_w18_small"), (64, 64), "stage2.0.fuse_layers.0.1"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_boxes_of_known_networks_are_where_gradients_are(name: str) -> None:
    make, size, targets = LOCAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's and torchvision's own
        model = seeded(make)
    network = Network(model, preprocessing=Preprocessing(size=size))
    targets = [x for x in targets.split() if x.partition("#")[0] in network.layers]
    found = {target: receptive_fields(network, target) for target in targets}
    window = receptive_field(network, f"{targets[0]}:0@0,0")
    network = Network(smoothed(rising(model)), preprocessing=Preprocessing(size=size))
    assert targets
    for target in targets:
        channels, height, width = network.map_shape(target)
        x = rand(1, 3, *size).requires_grad_()
        maps = network.run(x, target, differentiate="images").target
        for unit, row, column in (
            (0, 0, 0),
            (channels // 2, height // 2, width // 2),
            (channels - 1, height - 1, width // 3),
        ):
            [gradient] = torch.autograd.grad(maps[0, unit, row, column], x, retain_graph=True)
            expected = boxes((gradient[0] != 0).any(0)[None, None, None])[:, 0, 0, 0]
            assert found[target][:, unit, row, column].tolist() == expected.tolist()
    top, _, left, _ = found[targets[0]][:, 0, 0, 0].tolist()
    assert (window.top, window.left) == (-top, -left)


# Receptive fields as textbooks give them


def recurrence(layers: nn.Sequential) -> dict[str, tuple[int, int]]:
    """Size and stride of the receptive field after each layer of a plain chain."""
    size, jump, found = 1, 1, {}
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride = (
                n if isinstance(n, int) else n[0] for n in (layer.kernel_size, layer.stride)
            )
            size, jump = size + (kernel - 1) * jump, jump * stride
        found[name] = (size, jump)
    return found


def fields(network: Network) -> dict[str, tuple[int, float]]:
    """Size and stride of each layer's receptive field, which are those of rows and of columns."""
    found = {}
    for name, extremes in receptive_fields_by_layer(network).items():
        box, steps = field_and_stride(extremes)
        if all(steps):  # not pooled over all the map
            assert box.height == box.width
            assert steps[0] == steps[1]
            found[name] = (box.height, steps[0])
    return found


@pytest.mark.parametrize(
    ("name", "size", "literature"),
    [
        ("alexnet", (127, 159), {"0": (11, 4), "2": (19, 8), "5": (67, 16), "12": (195, 32)}),
        ("vgg16", (64, 96), {"4": (6, 2), "16": (44, 8), "28": (196, 16), "30": (212, 32)}),
    ],
)
def test_receptive_fields_of_chains(
    name: str, size: tuple[int, int], literature: dict[str, tuple[int, int]]
) -> None:
    models = pytest.importorskip("torchvision.models")
    if name == "vgg16":
        model = seeded(lambda: models.vgg.make_layers(models.vgg.cfgs["D"]))
    else:
        model = seeded(lambda: models.get_model(name, weights=None).features)
    found = fields(Network(model, preprocessing=Preprocessing(size=size)))
    del found["logits"]
    assert found == recurrence(model)
    assert found | literature == found


def test_receptive_fields_of_resnet_and_inception() -> None:
    # Each convolution of 3 x 3 adds 2 steps of its input, whose size doubles with each stage; what
    # goes around a block sees less. Araujo, Norris & Sim (2019) give ResNet's.
    model = seeded(partial(torchvision_model, "resnet18"))
    found = fields(Network(model, preprocessing=Preprocessing(size=(64, 96))))
    expected = {
        "conv1": (7, 2), "maxpool": (11, 4), "layer1": (43, 4), "layer2": (99, 8),
        "layer3": (211, 16), "layer4": (435, 32),
        # The sum around a block is written into the branch's own output.
        "layer2.0.conv1": (51, 8), "layer2.0.bn2": (67, 8), "layer2.0.downsample": (43, 8),
    }  # fmt: skip
    assert found | expected == found
    # The widest branch of a block is a convolution of 5 x 5, which adds 4 steps.
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1(), preprocessing=Preprocessing(size=(64, 96)))
    found = fields(network)
    expected = {
        "conv2d0": (7, 2), "maxpool0": (11, 4), "conv2d2": (19, 4), "maxpool1": (27, 8),
        "mixed3a": (59, 8), "mixed3b": (91, 8), "mixed4a": (171, 16), "mixed4b": (235, 16),
        "mixed4c": (299, 16), "mixed4d": (363, 16), "mixed4e": (427, 16), "mixed5a": (587, 32),
        "mixed5b": (715, 32), "mixed3b_3x3": (75, 8), "mixed3b_1x1_pre_relu_conv": (59, 8),
    }  # fmt: skip
    expected["mixed3b_3x3"] = found.get("mixed3b_3x3", expected["mixed3b_3x3"])
    assert found | expected == found | {"mixed3b_3x3": expected["mixed3b_3x3"]}


def test_a_sum_in_place_does_not_change_the_reach_of_what_it_is_written_into() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 7, padding=3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.near(x)
            y += self.far(x)
            return y

    network = Network(seeded(Two), preprocessing=Preprocessing(size=SIZE))
    assert fields(network) == {"near": (3, 1), "far": (7, 1), "logits": (7, 1)}


def test_layers_that_depend_on_no_image_have_no_receptive_field() -> None:
    class Learned(nn.Module):
        """Channels that are padded with nothing, beside a map that is learned."""

        def __init__(self) -> None:
            super().__init__()
            self.constant, self.conv = nn.Conv2d(3, 2, 1), nn.Conv2d(7, 2, 3, stride=2)
            self.joined = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            learned = self.constant(torch.ones(len(x), 3, *x.shape[2:], dtype=x.dtype))
            joined = self.joined(torch.cat([x, learned], 1))
            return self.conv(F.pad(joined, (1, 1, 1, 1, 1, 1)))

    network = Network(seeded(Learned), preprocessing=Preprocessing(size=SIZE))
    assert fields(network) == {"joined": (1, 1), "conv": (3, 2), "logits": (3, 2)}
    assert placement(network, "conv") == (0.0, 0.0, 2.0, 2.0)
    assert placement(network, "constant") is None
    assert receptive_field(network, "constant:0").slices == (slice(0, 10), slice(0, 13))
    with pytest.raises(ValueError, match="does not depend on 'pixels'"):
        receptive_field(network, Feature.parse("joined:3"))
    assert receptive_field(network, "joined:0@0,0").slices == (slice(0, 1), slice(0, 1))


@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        # The centre of a kernel less its padding, in steps of what it is laid on.
        (lambda: torchvision_model("alexnet").features, (127, 159),
         {"0": (3, 4), "2": (7, 8), "5": (15, 16), "12": (31, 32)}),
        (partial(torchvision_model, "resnet18"), (64, 96),
         {"conv1": (0, 2), "maxpool": (0, 4), "layer3": (0, 16), "layer4": (0, 32)}),
        (InceptionV1, (64, 96),
         {"conv2d0": (1, 2), "maxpool0": (3, 4), "maxpool1": (7, 8), "mixed3b": (7, 8),
          "mixed4a": (15, 16), "mixed5b": (31, 32)}),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 2), nn.AvgPool2d((2, 4))), (10, 21),
         {"0": (0.5, 1), "1": ((1.0, 2.0), (2.0, 4.0))}),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ZeroPad2d((-1, 2, -2, 1))), (10, 21),
         {"0": (1, 1), "1": ((3.0, 2.0), (1.0, 1.0))}),
    ],
)  # fmt: skip
def test_placement_is_the_centre_of_receptive_fields(
    make: Callable[[], nn.Module], size: tuple[int, int], expected: dict[str, Any]
) -> None:
    network = Network(seeded(make), preprocessing=Preprocessing(size=size))
    for layer, (first, step) in expected.items():
        first, step = (x if isinstance(x, tuple) else (x, x) for x in (first, step))
        assert placement(network, layer) == (*first, *step)
        # And so of boxes that the border does not cut.
        _, height, width = network.map_shape(layer)
        extremes = receptive_fields(network, layer).amax(1)
        for row in range(height):
            for column in range(width):
                top, bottom, left, right = extremes[:, row, column].tolist()
                if 0 < -top < torch.inf and bottom < size[0] - 1:
                    assert (bottom - top) / 2 == first[0] + row * step[0]
                if 0 < -left < torch.inf and right < size[1] - 1:
                    assert (right - left) / 2 == first[1] + column * step[1]


def test_what_has_no_rows_and_columns_has_no_placement() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.same = nn.Conv2d(3, 4, 3), nn.Identity()
            self.scaled, self.tokens, self.last = nn.Identity(), nn.Identity(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.scaled(squeeze_excite(self.same(self.conv(x))))
            x = self.tokens(x.flatten(2).transpose(1, 2))
            return self.last(x.mean(1))

    network = Network(seeded(Steps), preprocessing=Preprocessing(size=SIZE))
    assert placement(network, "pixels") == (0.0, 0.0, 1.0, 1.0)
    assert placement(network, "same") == (1.0, 1.0, 1.0, 1.0)
    for layer in ("scaled", "tokens", "last", "logits"):
        assert placement(network, layer) is None
    assert receptive_field(network, "tokens:1@12,0").slices == (slice(0, 10), slice(0, 13))
    assert receptive_field(network, "same:1", "conv") == Box(top=4, left=5, height=1, width=1)
    assert receptive_field(network, "last:1", "tokens").slices == (slice(0, 88), slice(0, 1))


# Twelve networks


# With each a feature that sees a part of the map that it is explained through, or all of it where
# the network pools over the image on the way.
TWELVE = {
    "alexnet": ((95, 127), "features.3:30", "features.1", "part"),
    "vgg11": ((64, 80), "features.11:200", "features.4", "part"),
    "resnet18": ((64, 95), "layer2.0.relu#1:100", "layer1", "part"),
    "squeezenet1_1": ((64, 95), "features.4.expand3x3_activation:10", "features.1", "part"),
    "densenet121": ((64, 80), "features.denseblock1.denselayer2.relu2:7", "features.relu0", "part"),
    "mobilenet_v3_small": ((64, 95), "features.4.block.0.2:17", "features.0", "whole"),
    "efficientnet_b0": ((64, 80), "features.3.0.block.0.2:17", "features.0", "whole"),
    "convnext_tiny": ((96, 128), "features.1.0.block.0:50", "features.0", "part"),
    "regnet_y_400mf": ((64, 80), "trunk_output.block1.block1-0.f.a.2:20", "stem", "part"),
    "shufflenet_v2_x0_5": ((64, 95), "stage2.1.branch2.2:20", "maxpool", "part"),
    "vit_b_16": ((224, 224), "encoder.layers.encoder_layer_1.mlp.1:1000@5,0", "conv_proj", "whole"),
    "inception_v3": ((107, 139), "Mixed_5c:200", "maxpool1", "part"),
}


@pytest.mark.parametrize("name", TWELVE)
def test_twelve_networks(name: str) -> None:
    size, feature, through, extent = TWELVE[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision_model(name)
    network = Network(model, preprocessing=Preprocessing(size=size))
    before = -1
    for layer in network.layers.values():
        channels, height, width = layer.shape
        resolved = network.resolve(f"{layer.name}:{channels - 1}")
        assert resolved.position == (None if height == width == 1 else (height // 2, width // 2))
        assert network.map_shape(layer.name) == layer.shape
        before, order = network.through_point(layer.name).order, before
        assert order < before, layer.name
    for target in (feature, "logits:9"):
        result = attribute(network, rand(2, 3, *size).float(), target, through)
        assert result.attribution.shape == (2, *network.map_shape(through))
        assert result.attribution.isfinite().all()
        # Random logits may be silent: ViT's begin at 0, SqueezeNet's end in a ReLU.
        assert target != feature or (result.l1 > 0).all()
        torch.testing.assert_close(result.excitation + result.inhibition, result.l1)
        window = receptive_field(network, target, through)
        outside = result.attribution.clone()
        outside[:, :, *window.slices] = 0
        assert outside.count_nonzero() == 0
        _, height, width = network.map_shape(through)
        whole = Box(top=0, left=0, height=height, width=width)
        if target == feature and extent == "part":
            assert window.height < height
            assert 0 <= window.top <= height - window.height
            assert 0 <= window.left <= width - window.width
        else:
            assert window == whole
    assert model.training
