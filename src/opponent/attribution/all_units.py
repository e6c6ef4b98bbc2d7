"""Every unit of a layer at once: its activation, excitation, inhibition and norms in each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from opponent.attribution.jacobian import (
    BLOCK_ELEMENTS,
    excitation_inhibition_l2,
    jacobian_blocks,
)
from opponent.attribution.jacobian_block import Cache, NoRule
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.geometry.crop_check import equal_to_rounding, random_weights
from opponent.geometry.planning import weights_state
from opponent.models.forward import ForwardResult
from opponent.models.network import Network
from opponent.models.state import undisturbed

# Units that are checked one by one.
PROBED = 3


@dataclass(frozen=True, kw_only=True)
class AllUnits:
    """All units of a layer at one position: 'mixed3b:*', 'mixed3b:*@7,3'; or at all: '5:*@*'.

    'blocks.5:*@cls' is all units at the class token.

    Args:
        layer: the layer.
        position: (row, column) in its map; None is the centre, and all that vectors have.
        everywhere: at every position; an image's score is then its largest over them.
        token: 'cls' or 'reg0', for a token that lies nowhere on the image.
    """

    layer: str
    position: tuple[int, int] | None = None
    everywhere: bool = False
    token: str | None = None

    @classmethod
    def parse(cls, text: str) -> "AllUnits | None":
        """What the text asks for, or None if it is something else.

        Raises:
            ValueError: all units at a position that is none.
        """
        layer, colon, rest = text.strip().rpartition(":")
        if not colon or not rest.startswith("*"):
            return None
        if rest == "*@*":
            return cls(layer=layer, everywhere=True)
        # A feature's grammar, with a unit in place of the star.
        try:
            feature = Feature.parse(f"{layer}:0{rest[1:]}")
        except ValueError:
            feature = None
        if feature is None or feature.unit:
            raise ValueError(
                f"{text!r} does not name all units of a layer; write LAYER:*, "
                "LAYER:*@ROW,COLUMN, LAYER:*@cls or LAYER:*@*, for example 'mixed3b:*' or "
                "'mixed3b:*@7,3'"
            )
        return cls(layer=layer, position=feature.position, token=feature.token)

    def widest(self, network: Network) -> Feature:
        """A direction that depends on all that any unit depends on, at the position."""
        channels = network.layer(self.layer).shape[0]
        return network.resolve(
            Feature(
                layer=self.layer,
                vector=random_weights(channels),
                name="*",
                position=self.position,
                token=self.token,
            )
        )

    def probes(self, network: Network) -> list[Feature]:
        """The widest direction, and a few units: what is right for these is so for all units."""
        channels = network.layer(self.layer).shape[0]
        generator = torch.Generator().manual_seed(channels)
        units = torch.randperm(channels, generator=generator)[:PROBED].tolist()
        return [
            self.widest(network),
            *[
                network.resolve(
                    Feature(layer=self.layer, unit=unit, position=self.position, token=self.token)
                )
                for unit in units
            ],
        ]


@undisturbed()
def scores(
    network: Network, inputs: Float[Tensor, "n bands h w"], plan: CropPlan
) -> Float[Tensor, "n u s"]:
    """The scores of all units of the layer that a plan of `AllUnits.widest` looks at.

    Args:
        network: the network.
        inputs: its own input.
        plan: of the widest direction through a layer.
    Returns:
        `SCORES`, for each unit of the layer.
    Source: paper, eqs. 1 and 2.
    """
    reading = plan.run(network, inputs, differentiate="target")
    assert reading.through is not None
    position = plan.feature.position or (0, 0)
    activation = reading.target.detach()[:, :, *position]
    key = ("walk", plan.feature, plan.through, weights_state(network))
    try:
        sides = _walked(reading.target, reading.through, position)
        # What autograd's graph does not show, such as a hook on a tensor, the walk cannot know.
        if not network.cached(key, lambda: _agrees(sides, reading, position)):
            raise NoRule("a backward pass gives other numbers")
    except NoRule:
        sides = _one_by_one(reading.target, reading.through, position)
    return _scores(activation, *sides.unbind(2))


def _agrees(
    sides: Float[Tensor, "n u 3"], reading: ForwardResult, position: tuple[int, int]
) -> bool:
    """Whether a backward pass gives a unit's excitation, inhibition and norm as the walk does.

    It is the unit that is driven most, and the one whose sides are most equal.
    """
    assert reading.through is not None
    driven = sides[:, :, :2].amin(2).sum(0)
    units = {int(sides[:, :, 2].sum(0).argmax()), int(driven.argmax())}
    expected = _one_by_one(reading.target, reading.through, position, sorted(units))
    return equal_to_rounding(sides[:, sorted(units)], expected[: len(sides)])


def _scores(
    activation: Tensor, excitation: Tensor, inhibition: Tensor, l2: Tensor
) -> Float[Tensor, "n u s"]:
    tension = torch.minimum(excitation, inhibition)
    every = [activation, excitation, inhibition, tension, excitation + inhibition, l2]
    return torch.stack([x.flatten(2).amax(2) if x.ndim == 4 else x for x in every], 2)


def scores_everywhere(
    network: Network, inputs: Float[Tensor, "n bands h w"], layer: str, through: str
) -> Float[Tensor, "n u s"]:
    """The scores of all units at all positions, where one convolution gives them: the largest.

    Excitation is then a convolution with the positive weights, and inhibition one with the negative
    ones (of a negative h the other way round).

    Args:
        network: the network.
        inputs: its own input.
        layer: of the units.
        through: the layer whose output is convolved.
    Returns:
        `SCORES`, for each unit the largest over positions.
    Raises:
        ValueError: between the two lies more than one convolution and batch norm in evaluation.
    Source: paper, eqs. 1 and 2.
    """
    reading = network.run(inputs, layer, through, differentiate="target")
    assert reading.through is not None
    apply = _convolution(reading.target, reading.through)
    if apply is None:
        raise ValueError(
            "every position at once needs a layer that one convolution makes of the through layer; "
            f"between {through!r} and {layer!r} lies something else: scan '{layer}:*'"
        )
    results = list[Tensor]()
    hidden, target = reading.through.detach(), reading.target.detach()
    # Not all images at once, since early layers have maps of hundreds of positions a side.
    size = max(1, _AT_ONCE // target[0].numel())
    for h, f in zip(hidden.split(size), target.split(size), strict=True):
        above, below = h.clamp(min=0), (-h).clamp(min=0)
        excitation, inhibition = apply(above, 1), apply(above, -1)
        if below.any():
            excitation, inhibition = excitation + apply(below, -1), inhibition + apply(below, 1)
        norm = apply(h.square(), 2).sqrt()
        if not results:
            _check_convolution(network, reading, (layer, through), (excitation, inhibition, norm))
        results.append(_scores(f, excitation, inhibition, norm))
    return torch.cat(results)


def _check_convolution(
    network: Network,
    reading: ForwardResult,
    names: tuple[str, str],
    values: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Refuse where a backward pass from the centre gives other numbers than the convolution."""
    row, column = (n // 2 for n in reading.target.shape[2:])
    sides = torch.stack([x[:, :, row, column] for x in values], 2)
    key = ("convolution", *names, weights_state(network))
    if not network.cached(key, lambda: _agrees(sides, reading, (row, column))):
        raise ValueError(
            f"a backward pass gives other numbers of {names[0]!r} than its convolution does (a "
            f"hook on a tensor?): scan '{names[0]}:*'"
        )


# Numbers of a layer's maps that are worked on at once.
_AT_ONCE = 2**24


def _convolution(target: Tensor, through: Tensor) -> Callable[[Tensor, int], Tensor] | None:
    """The convolution with the positive weights (1), the negative ones (-1) or the squares (2).

    None where the target is not one convolution of the through layer.
    """
    # The walk refuses weights that the image itself makes.
    first_unit = torch.eye(target.shape[1], dtype=target.dtype, device=target.device)[:1]
    try:
        jacobian_blocks(target, through, first_unit, (0, 0))
    except NoRule:
        return None
    node: Any = target.grad_fn
    scale: Tensor | None = None
    same = ("CloneBackward", "AliasBackward")
    while node is not None and node.name().startswith((*same, "NativeBatchNorm")):
        if node.name().startswith("NativeBatchNorm"):
            if node._saved_training or scale is not None:
                return None
            scale = torch.rsqrt(node._saved_running_var + node._saved_eps)
            if node._saved_weight is not None:
                scale = scale * node._saved_weight
        node = node.next_functions[0][0]
    if node is None or not node.name().startswith("ConvolutionBackward") or node._saved_transposed:
        return None
    before = node.next_functions[0][0]
    while before is not None and before.name().startswith(same):
        before = before.next_functions[0][0]
    if getattr(before, "variable", None) is not through:
        return None
    weight = node._saved_weight.detach()
    if scale is not None:
        weight = weight * scale.detach()[:, None, None, None]
    kinds = {1: weight.clamp(min=0), -1: (-weight).clamp(min=0), 2: weight.square()}
    stride, padding, dilation = node._saved_stride, node._saved_padding, node._saved_dilation

    def apply(h: Tensor, kind: int) -> Tensor:
        return functional.conv2d(
            h, kinds[kind], None, stride, padding, dilation, node._saved_groups
        )

    return apply


def _walked(target: Tensor, through: Tensor, position: tuple[int, int]) -> Float[Tensor, "n u 3"]:
    units = target.shape[1]
    hidden = through.detach().permute(0, 2, 3, 1).contiguous()
    step = max(1, min(units, BLOCK_ELEMENTS // hidden.numel()))
    directions = torch.eye(units, dtype=target.dtype, device=target.device)
    cache: Cache = {}
    results = []
    for chunk in directions.split(step):
        blocks = jacobian_blocks(target, through, chunk, position, cache)
        results.append(excitation_inhibition_l2(blocks, hidden, len(chunk)))
    return torch.cat(results, 1)


def _one_by_one(
    target: Tensor,
    through: Tensor,
    position: tuple[int, int],
    units: Sequence[int] | None = None,
) -> Float[Tensor, "n u 3"]:
    """One backward pass a unit, where the network does what the walk has no rule for."""
    results, hidden = [], through.detach()
    for unit in range(target.shape[1]) if units is None else units:
        with torch.enable_grad():
            value = target[:, unit, *position].sum()
        [gradient] = torch.autograd.grad(value, through, retain_graph=True)
        s = (gradient * hidden).flatten(1)
        results.append(
            torch.stack([s.clamp(min=0).sum(1), s.clamp(max=0).sum(1).neg(), s.norm(dim=1)], 1)
        )
    return torch.stack(results, 1)
