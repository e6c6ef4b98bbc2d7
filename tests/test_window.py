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

SIZE = (13, 17)


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


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
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
