"""What all figures of the page share: the network, the images, the folder and the scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opponent.core.feature import Feature
from opponent.core.progress import Progress
from opponent.images.imageset import ImageSet
from opponent.models.network import Network
from opponent.paper.layer_pairs import LayerPair, bottleneck_pairs
from opponent.paper.reproduce.scales import Scale
from opponent.scan.local import scan_images
from opponent.storage.files import AnyPath
from opponent.storage.run import Run
from opponent.synthesis.settings import SynthesisSettings


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One network, one set of images, and how much is computed.

    Args:
        network: the network.
        images: all that are used.
        folder: of the page; each figure has folders of its own in it.
        scale: how much is computed.
        seed: of everything that is drawn.
        progress: called with what is being done, the steps done and the steps in all.
    """

    network: Network
    images: ImageSet
    folder: AnyPath
    scale: Scale
    seed: int
    progress: Progress

    @cached_property
    def pairs(self) -> list[LayerPair]:
        """The network's bottlenecks, each with the one before it."""
        return bottleneck_pairs(self.network)

    @property
    def settings(self) -> SynthesisSettings:
        """Of every synthesis."""
        return SynthesisSettings(steps=self.scale.steps, seed=self.seed)

    def pair_at(self, depth: float) -> LayerPair:
        """The bottleneck at a depth, 0 for the first and 1 for the last."""
        return self.pairs[round(depth * (len(self.pairs) - 1))]

    def random_units(self, layer: str, count: int) -> list[Feature]:
        """At most so many units of a layer, in order."""
        channels = self.network.layer(layer).shape[0]
        chosen = np.random.default_rng(self.seed).choice(channels, min(count, channels), False)
        return [Feature(layer=layer, unit=unit) for unit in sorted(chosen.tolist())]

    def scan(self, name: str, features: Sequence[Feature], through: str) -> Run:
        """A scan of all images.

        Args:
            name: of the run folder.
            features: of one layer.
            through: the layer to explain them through.
        """
        return scan_images(
            self.network,
            self.images,
            features,
            through,
            out=self.folder / name,
            seed=self.seed,
            progress=lambda _, done, total: self.progress(
                f"scanning {features[0].layer}", done, total
            ),
        )


def sample_images(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """At most so many images, drawn at random, in their order.

    Args:
        images: all of them.
        count: how many, at most; None is all.
        seed: of the draw.
    """
    if count is None or len(images) <= count:
        return images
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    entries = tuple(images.entries[i] for i in sorted(chosen.tolist()))
    return ImageSet(source=f"{count:,} of {images.source}", entries=entries)
