"""The network from a through layer on: with h as it is, and with another h in its place."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.attribute import checked_plan
from opponent.attribution.segment import Segment, SegmentPass
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.geometry.planning import plan_crop, weights_state
from opponent.geometry.receptive_field import receptive_field
from opponent.models.network import Network


def plan_from(
    network: Network, features: Sequence[Feature], through: str, inputs: Float[Tensor, "n ..."]
) -> CropPlan:
    """What a pass from the through layer on computes.

    It begins at that layer where nothing else matters, and else at the images: then each change
    of h takes a pass of its own through all layers.

    Args:
        network: the network.
        features: of one layer, with positions written out.
        through: the earlier layer.
        inputs: the network's own input of some images, to check a crop of the images with.
    """

    def plan() -> CropPlan:
        found = plan_crop(network, features, through, start=through)
        return found if found.start == through else checked_plan(network, features, through, inputs)

    key = ("continuation", tuple(features), through, weights_state(network))
    return network.cached(key, plan)


def places_in_window(
    network: Network, features: Sequence[Feature], plan: CropPlan
) -> list[tuple[slice, slice]]:
    """For each feature rows and columns of the plan's window that it depends on.

    Args:
        network: the network.
        features: as those of the plan, at their positions in the whole map.
        plan: the plan.
    Raises:
        ValueError: a feature does not depend on the through layer.
    """
    assert plan.through is not None
    assert plan.window is not None
    boxes = [receptive_field(network, feature, plan.through) for feature in features]
    return [box.moved(-plan.window.top, -plan.window.left).slices for box in boxes]


class Continuation:
    """One batch of images, held at the through layer.

    Args:
        network: the network.
        inputs: its own input.
        plan: as `plan_from` gives it.
        features: the same features, at their positions in the whole map.
    """

    def __init__(
        self,
        network: Network,
        inputs: Float[Tensor, "n bands h w"],
        plan: CropPlan,
        features: Sequence[Feature],
    ) -> None:
        assert plan.through is not None
        self._network, self._inputs, self.plan = network, inputs, plan
        self._segment = None
        if plan.start != plan.through:
            self._segment = Segment(network, inputs, plan, features)
            self._whole = self._segment.hidden
            self._pass = self._segment.unchanged
        else:
            maps = network.run(inputs, plan.through, after=True).target
            self._whole = plan.crop(maps).contiguous()
            result = plan.run_from(network, inputs, maps)
            assert result.through is not None
            with torch.enable_grad():
                values = tuple(feature.read(result.target) for feature in plan.features)
            self._pass = SegmentPass(
                features=tuple(features),
                through=plan.through,
                hidden=result.through,
                activations=values,
            )
        self.hidden = plan.within(self._whole)
        self.activations = [x.detach() for x in self._pass.activations]

    def gradients(self) -> Iterator[Float[Tensor, "n k h w"]]:
        """The derivative of each feature by h, within the window, one after another."""
        for gradient in self._pass.gradients():
            yield self.plan.within(gradient)

    def target(self) -> Float[Tensor, "n c y x"]:
        """The features' layer, with h as it is."""
        return self._run(self._whole)

    def read(self, number: int, changed: Float[Tensor, "n k h w"]) -> Float[Tensor, " n"]:
        """A feature's activation with another h.

        Args:
            number: which feature.
            changed: h', within the window; beyond it h stays as it is.
        """
        maps = self._whole.clone()
        self.plan.within(maps).copy_(changed)
        return self.plan.features[number].read(self._run(maps))

    def _run(self, maps: Tensor) -> Tensor:
        plan, layer = self.plan, self.plan.features[0].layer
        if plan.start == plan.through:
            # One image leads to the through layer, where all maps take its place.
            result = self._network.run(
                self._inputs[:1], layer, plan.through, substitute=lambda _: maps
            )
            return result.target
        return plan.run(self._network, self._inputs, substitute=lambda _: maps).target
