"""The window of the through layer that decides a layer's centre, and passes from it on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.box import Box
from opponent.core.feature import Feature
from opponent.geometry.receptive_field import receptive_field
from opponent.models.forward import ForwardResult
from opponent.models.network import Network
from opponent.paper.layer_pairs import LayerPair


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of the through layer that decides the target's centre.

    Args:
        pair: the layers.
        box: the part of the through layer's map; None where the whole network has to run.
        position: of the centre in the target's map as a pass from the window gives it.
    """

    pair: LayerPair
    box: Box | None
    position: tuple[int, int]

    def run(
        self,
        network: Network,
        inputs: Float[Tensor, "n 3 y x"],
        maps: Float[Tensor, "n k h w"] | None,
    ) -> ForwardResult:
        """A pass up to the target, from the window of the through layer's maps.

        Args:
            network: the network.
            inputs: its own input, preprocessed.
            maps: the through layer's maps for these inputs; None is allowed without a box.
        """
        if self.box is None:
            target, through = self.pair.target, self.pair.through
            return network.run(inputs, target, through, differentiate="target")
        if maps is None:
            raise ValueError(f"the window of {self.pair.through!r} needs the layer's maps")
        return _run_from(network, inputs, self.pair, maps[:, :, *self.box.slices].contiguous())


def find_window(network: Network, pair: LayerPair) -> Window:
    """The smallest window that gives, on noise, the same as the whole map.

    Args:
        network: the network.
        pair: the layers.
    """
    channels, height, width = network.layer(pair.target).shape
    box = receptive_field(network, Feature.direction(pair.target, [1.0] * channels), pair.through)
    rows, columns = network.map_shape(pair.through)[1:]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, *network.preprocessing.size, generator=generator)
    inputs = network.preprocessing.normalise(noise).to(network.device, network.dtype)
    centre = height // 2, width // 2
    expected = network.run(inputs, pair.target, pair.through, differentiate="target")
    assert expected.through is not None
    at = expected.target[:, :, centre[0], centre[1]]
    slope = _slope(at, expected.through)
    # Strides may ask for a window that begins at an even row and column.
    for stride in (1, 2, 4, max(rows, columns)):
        window = _aligned(box, stride, (rows, columns))
        crop = expected.through.detach()[:, :, *window.slices]
        try:
            result = _run_from(network, inputs, pair, crop)
        except (RuntimeError, ValueError):
            continue  # what follows takes no other size
        assert result.through is not None
        if result.target.shape[:2] != at.shape:
            continue
        gaps = (result.target.detach() - at.detach()[:, :, None, None]).abs().amax((0, 1))
        row, column = divmod(int(gaps.argmin()), gaps.shape[1])
        nearest = result.target[:, :, row, column]
        compared = [
            (at, nearest),
            (slope[:, :, *window.slices], _slope(nearest, result.through)),
        ]
        if all((a - b).abs().max() <= 1e-4 * a.abs().max().clamp(min=1e-6) for a, b in compared):
            return Window(pair=pair, box=window, position=(row, column))
    return Window(pair=pair, box=None, position=centre)


def _slope(values: Float[Tensor, "n c"], through: Float[Tensor, "n k h w"]) -> Tensor:
    [slope] = torch.autograd.grad(values.sum(), through, retain_graph=True)
    return slope


def _aligned(box: Box, stride: int, size: tuple[int, int]) -> Box:
    """The smallest box of a map of that size that contains a box and begins at whole strides."""
    top, left = box.top // stride * stride, box.left // stride * stride
    bottom = min(size[0], -(-(box.top + box.height) // stride) * stride)
    right = min(size[1], -(-(box.left + box.width) // stride) * stride)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


def _run_from(network: Network, inputs: Tensor, pair: LayerPair, crop: Tensor) -> ForwardResult:
    """A pass from a crop of the through layer; one image leads there, and its map is dropped."""
    return network.run(
        inputs[:1], pair.target, pair.through, differentiate="target", substitute=lambda _: crop
    )
