"""What a feature's activation does when upstream channels, or latents, are set to zero."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opponent.attribution.attribute import attribute, refuse_unreadable
from opponent.attribution.rules import AttributionRule
from opponent.attribution.through_dictionary import Written, check_dictionary
from opponent.core.feature import Feature
from opponent.dictionaries.dictionary import Dictionary
from opponent.explain.channels import Who
from opponent.explain.drivers import Driver
from opponent.images.imageset import ImageSet
from opponent.images.loader import load_batches
from opponent.models.network import Network
from opponent.scan.reopen import baseline_of, check_network, dictionary_of, rule_of
from opponent.storage.run import Run


def silence(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    feature: Feature | str,
    through: str,
    channels: Sequence[int],
    *,
    where: Bool[Tensor, "n k y x"] | None = None,
    dictionary: Dictionary | None = None,
) -> Float[Tensor, "m n"]:
    """How a feature's activation changes when channels of the through layer are set to zero.

    A latent is set to zero by taking away what it adds to the layer's output: its code times its
    decoder. The other latents, the bias and the rest stay as they are.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        feature: the feature.
        through: an earlier layer.
        channels: of that layer, or latents of the dictionary, each silenced on its own.
        where: only in these elements of the through layer, such as those with S < 0; None is all.
        dictionary: of that layer, whose latents are silenced.
    Returns:
        For each channel and image, the activation without it minus the activation with it.
    Raises:
        ValueError: names, units, positions or a dictionary that do not fit.
    """
    feature = network.resolve(feature)
    if dictionary is not None:
        check_dictionary(network, dictionary, through)
    count = network.map_shape(through)[0] if dictionary is None else dictionary.latents
    wrong = [channel for channel in channels if not 0 <= channel < count]
    if wrong:
        what = "channels" if dictionary is None else "latents"
        raise ValueError(f"{through!r} has {count} {what}, 0 to {count - 1}; got {wrong}")
    whole = network.run(inputs, feature.layer, through)
    before = feature.read(whole.target)
    assert whole.through is not None
    written = None if dictionary is None else Written.of(whole.through, dictionary)
    changes = []
    for channel in channels:

        def without(hidden: Tensor, channel: int = channel) -> Tensor:
            kept = hidden.clone()
            if written is not None:
                code = written.codes[:, channel, None]
                if where is not None:
                    code = code * where[:, channel, None]
                return kept - code * written.dictionary.decoder[channel].view(-1, 1, 1)
            if where is None:
                kept[:, channel] = 0
            else:
                kept[:, channel].masked_fill_(where[:, channel], 0)
            return kept

        after = network.run(inputs, feature.layer, through, substitute=without)
        changes.append(feature.read(after.target) - before)
    return torch.stack(changes) if changes else before.new_empty(0, len(inputs))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What setting channels to zero does to the activation: mean changes, in units of it.

    Args:
        top: of the first channel of a side; None where that side has none.
        random: of channels drawn at random, one value a channel.
    """

    top: float | None
    random: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Silenced:
    """What silencing the first channel of either side does, beside channels drawn at random.

    Of a scan through a dictionary they are latents. A channel that excites in one place and
    inhibits in another does both when it is silenced everywhere; where S is negative alone,
    silencing it takes away what it inhibits.

    Args:
        exciting, inhibiting: the first channel of that side set to zero everywhere.
        excitation, inhibition: it is set to zero only where S has that side's sign.
    """

    exciting: Effect
    inhibiting: Effect
    excitation: Effect
    inhibition: Effect


def silence_check(
    run: Run,
    network: Network,
    drivers: Who,
    *,
    random: int = 8,
    seed: int = 0,
    rule: AttributionRule | str | None = None,
) -> Silenced:
    """Silence the first channel of either side, and others drawn at random beside it.

    Args:
        run: the run.
        network: the network that was scanned.
        drivers: the channels, and the images to silence them in.
        random: how many others are silenced, each on its own; of latents, of those that drive the
            feature in these images.
        seed: of the others.
        rule: the rule that the run was scanned by, where it is the user's own.
    Returns:
        The mean changes over the images.
    Raises:
        RunError: another network or rule than the run's.
        Unreadable: an image that was scanned cannot be read any more.
    """
    check_network(run, network)
    rule = rule_of(run, rule)
    baseline, dictionary = baseline_of(run, network, rule), dictionary_of(run)
    firsts = [side[0].channel for side in (drivers.exciting, drivers.inhibiting) if side]
    tops = list(dict.fromkeys(firsts))  # one channel may be first on either side
    others = [k for k in range(run.manifest.through_shape[0]) if k not in tops]
    if dictionary is not None:
        # Of thousands of latents a few are on in an image; to silence the others does nothing.
        driving = drivers.excitation + drivers.inhibition
        others = [k for k in others if driving[k]]
    generator = np.random.default_rng(seed)
    drawn = generator.permutation(others)[:random].tolist()
    entries = tuple(run.images.find(image) for image in drivers.images)
    chosen, changes = ImageSet(source="", entries=entries), []
    batches = load_batches(entries, run.preprocessing.fit, batch_size=run.manifest.batch_size)
    with closing(batches):
        for batch in batches:
            refuse_unreadable(batch.unreadable, chosen, "was scanned but cannot be read now")
            inputs = network.inputs(batch.pixels)
            result = attribute(
                network, inputs, drivers.feature, drivers.through, rule=rule, baseline=baseline,
                dictionary=dictionary,
            )  # fmt: skip
            s, silenced = result.attribution, [*tops, *drawn]
            each = [
                silence(
                    network,
                    inputs,
                    drivers.feature,
                    drivers.through,
                    silenced,
                    where=where,
                    dictionary=dictionary,
                )
                for where in (None, s > 0, s < 0)
            ]
            changes.append(torch.stack(each))
    everywhere, excited, inhibited = torch.cat(changes, 2).mean(2).tolist()

    def effect(means: list[float], first: Sequence[Driver]) -> Effect:
        top = means[tops.index(first[0].channel)] if first else None
        return Effect(top=top, random=tuple(means[len(tops) :]))

    return Silenced(
        exciting=effect(everywhere, drivers.exciting),
        inhibiting=effect(everywhere, drivers.inhibiting),
        excitation=effect(excited, drivers.exciting),
        inhibition=effect(inhibited, drivers.inhibiting),
    )
