"""The part of a network from a through layer to some features: what a rule of attribution asks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.models.network import Network

# Images that go through together, counting each copy that a rule takes as one.
AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class SegmentPass:
    """One pass from the through layer to the features.

    Args:
        features: the features.
        through: the layer's name.
        hidden: the through layer's maps that went on, a leaf of the graph.
        activations: for each feature one value a map, with the graph from `hidden`.
    """

    features: tuple[Feature, ...]
    through: str
    hidden: Float[Tensor, "m k y x"]
    activations: tuple[Float[Tensor, " m"], ...]

    def gradients(self) -> Iterator[Float[Tensor, "m k y x"]]:
        """The derivative of each feature's activation by `hidden`, one after another.

        Returns:
            One tensor a feature.
        Raises:
            ValueError: a feature does not depend on the through layer.
        """
        for number, (feature, activation) in enumerate(
            zip(self.features, self.activations, strict=True), 1
        ):
            gradient = None
            if activation.requires_grad:
                [gradient] = torch.autograd.grad(
                    activation.sum(),
                    self.hidden,
                    retain_graph=number < len(self.features),
                    allow_unused=True,
                )
            if gradient is None:
                raise ValueError(
                    f"{feature.label} does not depend on {self.through!r}: they lie on two branches"
                )
            yield gradient


class Segment:
    """The part of a network from the through layer to some features, for one batch of images.

    A rule of attribution is given a segment. It runs it as often as it likes, with the through
    layer's maps changed as it likes, and differentiates.

    Args:
        network: the network.
        inputs: its own input.
        plan: what a pass computes of image and layers; it knows the features.
        features: the same features, at their positions in the whole map.
        baseline: the mean of the through layer, for a rule that starts there.

    >>> import opponent, torch
    >>> class AbsoluteGradient(opponent.AttributionRule):
    ...     label = "absolute-gradient"
    ...     def attribute(self, segment: opponent.Segment):
    ...         halved = segment.forward(lambda hidden: hidden / 2)  # another pass, as it likes
    ...         return [gradient.abs() * segment.hidden for gradient in halved.gradients()]
    >>> image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> result = opponent.attribute(
    ...     "inceptionv1-small", image, "mixed3b:189", "mixed3a", rule=AbsoluteGradient())
    >>> float(result.inhibition)
    0.0
    """

    def __init__(
        self,
        network: Network,
        inputs: Float[Tensor, "n bands h w"],
        plan: CropPlan,
        features: Sequence[Feature],
        baseline: Float[Tensor, "k y x"] | None = None,
    ) -> None:
        assert plan.through is not None
        self._network, self._inputs, self._plan = network, inputs, plan
        self.features, self.through = tuple(features), plan.through
        self.baseline = None if baseline is None else plan.cover(baseline[None])[0]

    def forward(
        self, change: Callable[[Tensor], Tensor] | None = None, *, copies: int = 1
    ) -> SegmentPass:
        """Run the network up to the features.

        Args:
            change: from the through layer's maps (m, k, y, x) makes those that go on; None leaves
                them as they are.
            copies: how many copies of the images go through, one set of images after the other,
                so that m is copies times n.
        Returns:
            The pass, which gives the gradients.
        """
        # From the images on: a network may remember how many images came.
        inputs = self._inputs if copies == 1 else self._inputs.repeat(copies, 1, 1, 1)
        result = self._plan.run(self._network, inputs, differentiate="target", substitute=change)
        assert result.through is not None
        with torch.enable_grad():
            values = tuple(feature.read(result.target) for feature in self._plan.features)
        return SegmentPass(
            features=self.features,
            through=self.through,
            hidden=result.through,
            activations=values,
        )

    @cached_property
    def unchanged(self) -> SegmentPass:
        """The pass of the images as they are; one serves all who ask."""
        return self.forward()

    @property
    def hidden(self) -> Float[Tensor, "n k y x"]:
        """h, the through layer's maps of the images."""
        return self.unchanged.hidden.detach()
