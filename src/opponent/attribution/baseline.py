"""The mean of a layer over images, which some rules of attribution start from."""

from collections.abc import Iterator
from contextlib import closing

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.segment import AT_ONCE
from opponent.images.loader import load_batches
from opponent.images.sources import Images, open_images
from opponent.models.finite import likely_cause
from opponent.models.network import PIXELS, Network
from opponent.models.state import undisturbed

# Images that the mean of a layer is taken over.
MEAN_OF = 1000


@undisturbed()
def mean_activation(
    network: Network,
    images: Tensor | Images,
    through: str,
    count: int = MEAN_OF,
) -> Float[Tensor, "k y x"]:
    """The mean of a layer over the first images that can be read: a baseline.

    Args:
        network: the network.
        images: photographs, or the network's own input as a tensor.
        through: the layer, or 'pixels'.
        count: how many images at most.
    Returns:
        The mean over images, in the layer's own units, for `attribute(..., baseline=)`.
    Raises:
        ValueError: an unknown layer, a tensor of another shape, no image that can be read, or a
            mean that is not finite.
        FileNotFoundError: there is no such folder or file of images.

    >>> import opponent, torch
    >>> network = opponent.load()
    >>> images = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> mean = opponent.mean_activation(network, images, "mixed3a")
    >>> mean.shape
    torch.Size([128, 14, 14])
    >>> opponent.attribute(
    ...     network, images[:1], "mixed3b:189", "mixed3a", rule="integrated-mean/2", baseline=mean)
    Attribution('mixed3b:189@7,7' through 'mixed3a': 1 image)
    """
    total, done = torch.zeros(()), 0
    for inputs in _first_inputs(network, images, count):
        hidden = inputs
        if through != PIXELS:
            hidden = network.run(inputs, through, after=True).target
        # On the CPU: not every device has double precision.
        total = total + hidden.cpu().sum(0, dtype=torch.float64)
        done += len(inputs)
    if not done:
        raise ValueError(f"none of the first {count} images can be read")
    mean = (total / done).to(network.dtype).to(network.device)
    if not mean.isfinite().all():
        raise ValueError(
            f"the mean of {through!r} over {done} images is not finite: {likely_cause(network)}"
        )
    return mean


def _first_inputs(
    network: Network, images: Tensor | Images, count: int
) -> Iterator[Float[Tensor, "m bands h w"]]:
    """The network's input of the first images that can be read, in batches."""
    if isinstance(images, Tensor):
        yield from network.load_inputs(images[:count])[0].split(AT_ONCE)
        return
    entries = open_images(images, size=network.preprocessing.size).entries[:count]
    batches = load_batches(entries, network.preprocessing.fit, batch_size=AT_ONCE)
    with closing(batches):
        for batch in batches:
            if batch.numbers:
                yield network.inputs(batch.pixels)
