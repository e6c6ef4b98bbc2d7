"""What stands beside one image's numbers: a classifier's answer, a rival, the images of a run."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.result import Attribution
from opponent.core.feature import Feature
from opponent.explain.contrast import Rival
from opponent.models.network import LOGITS, Network
from opponent.selection import percentile_of
from opponent.storage.run import Run


def meaning_of(network: Network, feature: Feature) -> str | None:
    """A logit's class; None for other features.

    Args:
        network: the network.
        feature: the feature.
    """
    if feature.unit is None or feature.layer != LOGITS:
        return None
    return network.class_name(feature.unit)


def answer_of(
    network: Network, inputs: Float[Tensor, "1 bands h w"], feature: Feature
) -> tuple[str, float, int] | None:
    """The first answer of a classifier, and the rank of the logit that was asked for.

    Args:
        network: the network.
        inputs: one image, preprocessed.
        feature: the feature.
    Returns:
        Name and logit of the answer, and the rank, from 1; None for what is no logit.
    """
    if feature.layer != LOGITS or feature.unit is None:
        return None
    logits = network.run(inputs, LOGITS).target[0, :, 0, 0]
    best = int(logits.argmax())
    rank = 1 + int((logits > logits[feature.unit]).sum())
    return network.class_name(best) or f"logits:{best}", float(logits[best]), rank


def rival_of(
    network: Network, inputs: Float[Tensor, "1 bands h w"], first: Feature, second: Feature
) -> Rival:
    """The feature that a first one is compared with, as one image drives it.

    Args:
        network: the network.
        inputs: one image, preprocessed.
        first, second: features of one layer at one place.
    """
    maps = network.run(inputs, first.layer).target
    own, other = (float(feature.read(maps)[0]) for feature in (first, second))
    answer = answer_of(network, inputs, second)
    return Rival(
        feature=second,
        meaning=meaning_of(network, second),
        activations=(own, other),
        rank=None if answer is None else answer[2],
    )


def standing_in(
    run: Run, feature: Feature, rival: Feature | None, result: Attribution
) -> dict[str, float]:
    """The percentiles of one image's numbers among a run's images.

    Args:
        run: the run.
        feature: one of its features.
        rival: the one that it is compared with; then only that of the difference is given.
        result: the attribution of the image, in channels or latents as the run's.
    """
    columns = run.columns(feature)
    values = {
        name: float(getattr(result, name)[0]) for name in ("activation", "excitation", "inhibition")
    }
    if rival is not None:
        # The sides of a difference do not follow from those of the two features.
        others = run.columns(rival)
        second = dict(zip(others.images, others.activation.tolist(), strict=True))
        apart = [
            value - second[name]
            for name, value in zip(columns.images, columns.activation.tolist(), strict=True)
            if name in second
        ]
        return {"the difference": percentile_of(np.array(apart), values["activation"])}
    values["tension"] = min(values["excitation"], values["inhibition"])
    return {name: percentile_of(getattr(columns, name), value) for name, value in values.items()}
