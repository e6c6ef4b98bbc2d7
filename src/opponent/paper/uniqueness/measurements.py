"""What was measured of random units and k-means directions in every image, layer by layer.

Source: paper, section 6 and appendix H.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from opponent.core.feature import Feature
from opponent.images.imageset import ImageSet
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.uniqueness.controls import CONTROLS
from opponent.storage.columns import Columns
from opponent.storage.files import AnyPath

KINDS = ("units", "kmeans")
SELECTIONS = ("activation", "l1", "l2")


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureGroup:
    """Features of one layer and kind, with their measurements in every image.

    Args:
        pair: the layer and what it is explained through.
        kind: 'units' or 'kmeans'.
        features: n of them, read at the layer's centre.
        population: how many they were drawn from without replacement; None if it is not known.
        values: activation, E+, E- and the L2 norm of S.
        hidden: L1 and L2 norm of h in the window that decides the features.
        sizes: by basis, 'channels' or a dictionary, what `controls.SIZES` names, of each feature's
            own gradient, then of the permuted and then of the random ones.
        parallel: how far each feature's S points where the others' do, as `controls.parallel` says,
            of the same.
    """

    pair: LayerPair
    kind: str
    features: tuple[Feature, ...]
    population: int | None
    values: Float[np.ndarray, "images n 4"]
    hidden: Float[np.ndarray, "images 2"]
    sizes: Mapping[str, Float[np.ndarray, "images n s _"]]
    parallel: Float[np.ndarray, "images n s"]

    @property
    def draws(self) -> int:
        """How many controls there are of each kind."""
        return int(self.parallel.shape[2] - 1) // len(CONTROLS)

    def drawn(self, control: str) -> slice:
        """Where a kind of control, 'permuted' or 'random', lies among all sets."""
        first = 1 + CONTROLS.index(control) * self.draws
        return slice(first, first + self.draws)

    def by(self, selection: str) -> Float[np.ndarray, "images n"]:
        """What images are chosen by: 'activation', 'l1' or 'l2'."""
        activation, plus, minus, l2 = np.moveaxis(self.values, 2, 0)
        values: dict[str, np.ndarray] = {"activation": activation, "l1": plus + minus, "l2": l2}
        return values[selection]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMeasurements:
    """The measurements of all layers' features, as `measure_features` returns them.

    Args:
        folder: where they lie.
        question: what determines the numbers.
        groups: units and k-means directions of each layer, in order.
        images: the ids of the images that could be read and gave finite numbers.
        unreadable: the others, with reasons.
        source: all images.
    """

    folder: AnyPath
    question: Mapping[str, Any]
    groups: tuple[FeatureGroup, ...]
    images: tuple[str, ...]
    unreadable: Mapping[str, str]
    source: ImageSet

    def group(self, layer: str, kind: str) -> FeatureGroup:
        """The features of one layer and kind."""
        [group] = [x for x in self.groups if (x.pair.target, x.kind) == (layer, kind)]
        return group

    def columns(self, group: FeatureGroup, number: int) -> Columns:
        """The measurements of one feature of a group, without maps."""
        activation, plus, minus, l2 = group.values[:, number].T
        none = np.empty((len(self.images), 0, 0), np.float32)
        return Columns(
            images=self.images,
            activation=activation,
            excitation=plus,
            inhibition=minus,
            l1=plus + minus,
            l2=l2,
            excitation_map=none,
            inhibition_map=none,
        )
