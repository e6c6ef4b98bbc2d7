"""The part of the input, and of each layer, that decides some positions: exact crops.

An activation at one position depends on a box of the image, and of each layer on the way. Given
only that box, aligned to the steps of the layers after it, a network computes the same numbers
from the same pixels. What it computes near the box's edges is wrong, and never needed; it is cut
off again at the next bottleneck.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from opponent.core.box import Box, bounding_box
from opponent.core.errors import IndependentFeature
from opponent.core.feature import Feature
from opponent.geometry.receptive_field import receptive_field
from opponent.models.forward import Differentiate, ForwardResult
from opponent.models.network import PIXELS, Network


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """The boxes of input and layers that some features need, and where things lie in them.

    Args:
        features: the features, at their positions in the cropped map of their layer.
        box: the box of the input, or of the layer `start`, that a pass is given; None is all of it.
        start: where the crop begins: 'pixels', or the through layer.
        crops: for layers on the way, the box of the map, as it then is, that goes on.
        through: the earlier layer; None without one.
        window: the box of the through layer's whole map outside which S is zero.
        inner: the same box in the cropped map of the through layer.
        region: the box of the whole map that the cropped map of the through layer covers.
        reason: why the whole image is taken, where it is.
    """

    features: tuple[Feature, ...]
    box: Box | None = None
    start: str = PIXELS
    crops: Mapping[str, Box] = field(default_factory=dict)
    through: str | None = None
    window: Box | None = None
    inner: Box | None = None
    region: Box | None = None
    reason: str | None = None

    @property
    def feature(self) -> Feature:
        """The only feature."""
        [feature] = self.features
        return feature

    def crop(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
        """The box of whole inputs, or of whole maps of the layer where the crop begins."""
        return maps if self.box is None else maps[:, :, *self.box.slices]

    def run(
        self,
        network: Network,
        inputs: Float[Tensor, "n bands h w"],
        *,
        differentiate: Differentiate | None = None,
        to_target: bool = True,
        cropped: bool = False,
        substitute: Callable[[Tensor], Tensor] | None = None,
    ) -> ForwardResult:
        """`Network.run` up to the features' layer, on the plan's part of the inputs.

        Args:
            network: the network.
            inputs: its own input.
            differentiate, substitute: as for `Network.run`.
            to_target: False ends the pass at the through layer, which is then read as the target.
            cropped: the inputs are the plan's part already.
        """
        layer, through = self.features[0].layer, self.through
        inputs = inputs if cropped else self.crop(inputs)
        if not to_target and through not in (None, PIXELS):
            return network.run(
                inputs, through, after=True, differentiate=differentiate, crops=self.crops
            )
        return network.run(
            inputs, layer, through, differentiate=differentiate, crops=self.crops,
            substitute=substitute,
        )  # fmt: skip

    def run_from(
        self,
        network: Network,
        inputs: Float[Tensor, "n bands h w"],
        hidden: Float[Tensor, "m k y x"],
    ) -> ForwardResult:
        """Run on from the through layer, where the crop begins, with gradients from there on.

        Args:
            network: the network.
            inputs: any inputs; one image leads to the through layer, and its map is dropped.
            hidden: whole maps of the through layer, of which the plan takes its box.
        """
        assert self.start == self.through
        maps = self.crop(hidden).contiguous()
        return network.run(
            inputs[:1], self.features[0].layer, self.through, differentiate="target",
            substitute=lambda _: maps,
        )  # fmt: skip

    def within(self, maps: Float[Tensor, "n k y x"]) -> Float[Tensor, "n k h w"]:
        """The window of the through layer's maps, as a pass by the plan gives them."""
        return maps if self.inner is None else maps[:, :, *self.inner.slices]

    def cover(self, maps: Float[Tensor, "n k y x"]) -> Float[Tensor, "n k h w"]:
        """The part of the through layer's whole maps that a pass by the plan gives."""
        return maps if self.region is None else maps[:, :, *self.region.slices]


def plan_whole_image(
    network: Network, features: Sequence[Feature], through: str | None, reason: str
) -> CropPlan:
    """The plan that takes the whole image.

    Args:
        network: the network.
        features: of one layer, with positions written out.
        through: a layer before the features'; None where only the features are wanted.
        reason: why no crop is taken.
    """
    window = None
    if through is not None:
        try:
            window = dependency(network, features, through)
        except IndependentFeature:
            window = Box.full(network.map_shape(through)[1:])
    return CropPlan(
        features=tuple(features), through=through, window=window, inner=window, reason=reason
    )


def dependency(network: Network, features: Sequence[Feature], source: str) -> Box:
    """The box of the source outside which nothing can change any of the features' activations.

    Args:
        network: the network.
        features: of one layer, with positions written out.
        source: a layer before the features', or 'pixels'.
    Raises:
        IndependentFeature: a feature does not depend on the source.
    """
    return bounding_box([receptive_field(network, feature, source) for feature in features])
