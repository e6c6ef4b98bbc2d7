"""What a feature's activation does when upstream channels are set to zero."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.attribute import refuse_unreadable
from opponent.core.feature import Feature
from opponent.explain.channels import Who
from opponent.images.imageset import ImageSet
from opponent.images.loader import load_batches
from opponent.models.network import Network
from opponent.scan.reopen import check_network
from opponent.storage.run import Run


def silence(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    feature: Feature | str,
    through: str,
    channels: Sequence[int],
) -> Float[Tensor, "m n"]:
    """How a feature's activation changes when channels of the through layer are set to zero.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        feature: the feature.
        through: an earlier layer.
        channels: of that layer, each silenced on its own.
    Returns:
        For each channel and image, the activation without it minus the activation with it.
    Raises:
        ValueError: names, units or positions that do not fit.
    """
    feature = network.resolve(feature)
    count = network.map_shape(through)[0]
    wrong = [channel for channel in channels if not 0 <= channel < count]
    if wrong:
        raise ValueError(f"{through!r} has {count} channels, 0 to {count - 1}; got {wrong}")
    before = feature.read(network.run(inputs, feature.layer, through).target)
    changes = []
    for channel in channels:

        def without(hidden: Tensor, channel: int = channel) -> Tensor:
            kept = hidden.clone()
            kept[:, channel] = 0
            return kept

        after = network.run(inputs, feature.layer, through, substitute=without)
        changes.append(feature.read(after.target) - before)
    return torch.stack(changes) if changes else before.new_empty(0, len(inputs))


@dataclass(frozen=True, kw_only=True)
class Silenced:
    """What silencing the top channels does to the images' activation, in units of it.

    Args:
        exciting, inhibiting: mean change when the first channel of that side is set to zero; None
            where that side has none.
        random: the same for channels drawn at random, one value a channel.
    """

    exciting: float | None
    inhibiting: float | None
    random: tuple[float, ...]


def silence_check(
    run: Run, network: Network, drivers: Who, *, random: int = 8, seed: int = 0
) -> Silenced:
    """Silence the top channels of either side, and as many drawn at random beside them.

    Args:
        run: the run.
        network: the network that was scanned.
        drivers: the channels, and the images to silence them in.
        random: how many others are silenced, each on its own.
        seed: of the others.
    Returns:
        The mean changes over the images.
    Raises:
        RunError: another network than the one that was scanned.
        Unreadable: an image that was scanned cannot be read any more.
    """
    check_network(run, network)
    tops = [side[0].channel for side in (drivers.exciting, drivers.inhibiting) if side]
    others = [k for k in range(run.manifest.through_shape[0]) if k not in tops]
    generator = np.random.default_rng(seed)
    drawn = generator.permutation(others)[:random].tolist()
    entries = tuple(run.images.find(image) for image in drivers.images)
    chosen, changes = ImageSet(source="", entries=entries), []
    batches = load_batches(entries, run.preprocessing.fit, batch_size=run.manifest.batch_size)
    with closing(batches):
        for batch in batches:
            refuse_unreadable(batch.unreadable, chosen, "was scanned but cannot be read now")
            inputs = network.inputs(batch.pixels)
            changes.append(
                silence(network, inputs, drivers.feature, drivers.through, [*tops, *drawn])
            )
    means = iter(torch.cat(changes, 1).mean(1).tolist())
    return Silenced(
        exciting=next(means) if drivers.exciting else None,
        inhibiting=next(means) if drivers.inhibiting else None,
        random=tuple(means),
    )
