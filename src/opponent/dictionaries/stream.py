"""Hidden vectors of a layer, image by image: what dictionaries are learnt from and measured on."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opponent.core.errors import Unreadable
from opponent.core.progress import Progress
from opponent.dictionaries.dictionary import Dictionary
from opponent.images.compare import refuse_changed
from opponent.images.decode import digest_of
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.images.loader import load_batches
from opponent.models.network import PIXELS, Network
from opponent.models.signature import signature
from opponent.storage.checkpoints import CheckpointFolder, refuse_another_computation
from opponent.storage.manifest import versions

Numbers = Int[np.ndarray, " _"]
# Images a pass.
_PASS = 32


def split(
    network: Network,
    images: ImageSet,
    layer: str,
    latents: int,
    *,
    kept_out: float = 0.1,
    seed: int,
) -> tuple[Numbers, Numbers]:
    """The numbers of the images that measure what is left, and of those that are learnt from.

    Args:
        network: the network.
        images: all images.
        layer: whose vectors are learnt from.
        latents: how many there will be.
        kept_out: the share of the first.
        seed: of the choice.
    Raises:
        ValueError: fewer vectors than latents, or than two images; an unknown layer.
    """
    if len(images) < 2:
        raise ValueError(
            f"there {'is one image' if len(images) else 'is no image'}, and what a dictionary "
            "leaves is measured on images that it is not learnt from; give 2 images or more"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    count, grid = max(1, round(kept_out * len(images))), network.grid(layer)
    taught = order[min(count, len(images) - 1) :]
    vectors = len(taught) * grid.height * grid.width
    if vectors < latents:
        raise ValueError(
            f"{len(images)} images give {vectors:,} vectors of {layer!r} to learn from, too few "
            f"for {latents:,} latents; give more images, or fewer latents"
        )
    return np.sort(order[: len(images) - len(taught)]), taught


def vectors_of(
    network: Network, images: ImageSet, layer: str, numbers: Numbers | list[int]
) -> Iterator[Float[Tensor, "m k"]]:
    """The hidden vectors of all positions of some images, batch by batch of images.

    Args:
        network: the network.
        images: all images.
        layer: read at its output.
        numbers: of the images; what cannot be read, or is not finite, is left out.
    Returns:
        In single precision, where the network computes.
    """
    entries = [images[int(number)] for number in numbers]
    with closing(
        load_batches(entries, network.preprocessing.fit, batch_size=_PASS)
    ) as loaded:  # fmt: skip
        for batch in loaded:
            if batch.numbers:
                maps = network.activations(network.inputs(batch.pixels), layer)[layer]
                box = network.grid(layer)
                on_image = maps[:, :, *box.slices].movedim(1, 3).flatten(0, 2)
                yield on_image[on_image.isfinite().all(1)].float()


@dataclass(frozen=True)
class Hidden:
    """A layer's hidden vectors, image by image.

    Args:
        network: the network.
        images: all images.
        layer: read at its output.
    """

    network: Network
    images: ImageSet
    layer: str
    # Images whose vectors are shuffled together.
    block: ClassVar[int] = 256

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.network.device

    def vectors_of(self, numbers: Numbers | list[int]) -> Iterator[Float[Tensor, "m k"]]:
        """The vectors of all positions of some images."""
        return vectors_of(self.network, self.images, self.layer, numbers)


@dataclass(frozen=True)
class Rows:
    """Vectors that are there, one a row.

    Args:
        values: the vectors, in single precision.
    """

    values: Float[Tensor, "n k"]
    # Vectors that are shuffled together.
    block: ClassVar[int] = 2**16

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    def vectors_of(self, numbers: Numbers | list[int]) -> Iterator[Float[Tensor, "m k"]]:
        """Some of them, in one batch."""
        yield self.values[torch.as_tensor(numbers)]


def compare_with_begun(
    folder: CheckpointFolder, network: Network, images: ImageSet, layer: str, progress: Progress
) -> None:
    """Note what images contain and what the network computes, or compare with what was noted.

    Args:
        folder: of what is being learnt.
        network: the network.
        images: all images.
        layer: the last that is computed.
        progress: called with 'comparing images', the images done and all.
    Raises:
        Changed: an image has another content than when it was begun.
        RunError: a network of the same weights computes something else.
    """
    # Pixels are not computed.
    numbers = [] if layer == PIXELS else signature(network, layer, after=True)
    made_by = {"signature": numbers, "device": network.device.type}
    if folder.has("begun"):
        about = folder.about("begun")
        refuse_another_computation(folder, about, network, made_by)
        contents = [bytes.fromhex(x) or None for x in about["contents"]]
        refuse_changed(images.with_contents(contents), progress)
        return
    contents = [_content(entry) for entry in images]
    about = {"contents": [(x or b"").hex() for x in contents], **made_by}
    folder.write("begun", {"count": np.array(len(contents))}, about)


def _content(entry: ImageEntry) -> bytes | None:
    try:
        return digest_of(entry)
    except Unreadable:
        return None


def measure(
    dictionary: Dictionary, stream: Iterable[Float[Tensor, "m k"]]
) -> tuple[float, Float[np.ndarray, " l"]]:
    """What a dictionary leaves of vectors that it never saw, and how often its latents are on.

    Args:
        dictionary: the dictionary.
        stream: the vectors.
    Returns:
        The share of the variance that is left, and for each latent the share of vectors.
    Raises:
        ValueError: there is no vector, or all are the same.
    """
    left, squares, count = 0.0, 0.0, 0
    total = torch.zeros(dictionary.channels, dtype=torch.float64)
    on = torch.zeros(dictionary.latents, dtype=torch.float64)
    for vectors in stream:
        maps = vectors.T[None, :, :, None].contiguous()
        codes, bias = dictionary.encode(maps), dictionary.bias.to(maps).view(-1, 1, 1)
        rest = maps - bias - dictionary.decode(codes)
        left += float(rest.cpu().double().square().sum())
        total += vectors.cpu().double().sum(0)
        squares += float(vectors.cpu().double().square().sum())
        on += (codes > 0).sum((0, 2, 3)).cpu().double()
        count += len(vectors)
    if not count:
        raise ValueError("no image that was kept out could be read; give more images")
    spread = squares - float(total.square().sum()) / count
    # Of equal vectors the difference of the two sums is their rounding.
    if spread <= 1e-12 * squares:
        raise ValueError(
            f"the {count:,} hidden vectors of images that were kept out are all the same, so that "
            "there is no variance of which a part could be left; give more images, or a layer "
            "that varies"
        )
    return left / spread, (on / count).numpy()


def question_of(network: Network, images: ImageSet, layer: str, method: str) -> dict[str, Any]:
    """What determines a dictionary, but for its settings.

    Args:
        network, images, layer: as above.
        method: how it is made.
    """
    return {
        "method": method,
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "layer": layer,
        "preprocessing": network.preprocessing.describe(),
        "images": {"count": len(images), "sha256": images.digest()},
        "versions": versions(),
    }
