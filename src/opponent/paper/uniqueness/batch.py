"""Activation, excitation, inhibition and norm of many layers' features in one batch of images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.result import energies
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.geometry.planning import plan_crop
from opponent.models.network import Network
from opponent.models.state import undisturbed
from opponent.paper.layer_pairs import LayerPair


def plan_crops(
    network: Network, features: Mapping[LayerPair, Sequence[Feature]]
) -> dict[LayerPair, CropPlan]:
    """For each layer the window of the through layer that decides its features, as a plan."""
    return {
        pair: plan_crop(
            network, [network.resolve(x) for x in of_layer], pair.through, start=pair.through
        )
        for pair, of_layer in features.items()
    }


def measure_batch(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    plans: Mapping[LayerPair, CropPlan],
) -> dict[str, Float[np.ndarray, "n f 4"]]:
    """Activation, excitation, inhibition and L2 norm of S, of features of many layers.

    One pass through the network gives all through layers. Gradients are then taken within the small
    window of the through layer that decides the features, where that gives the same.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        plans: as `plan_crops` gives them; they know the features.
    Returns:
        By layer; all in units of the activation.
    Source: paper, eqs. 1 and 2, appendix H (the central position).
    """
    throughs = list(dict.fromkeys(x.through for x in plans if plans[x].box is not None))
    maps: Mapping[str, Tensor] = {}
    if throughs:
        record = network.record(inputs, targets=[], throughs=throughs)
        maps = {name: values.detach() for name, values in record.throughs.items()}
        del record
    arrays = {}
    for pair, plan in plans.items():
        if plan.box is None:
            result = plan.run(network, inputs, differentiate="target")
        else:
            result = plan.run_from(network, inputs, maps[pair.through])
        assert result.through is not None
        hidden, columns = result.through.detach(), []
        with undisturbed(), torch.enable_grad():
            for feature in plan.features:
                activation = feature.read(result.target)
                [slope] = torch.autograd.grad(activation.sum(), result.through, retain_graph=True)
                columns.append(torch.stack([activation.detach(), *norms(slope * hidden)], 1))
        arrays[pair.target] = torch.stack(columns, 1).float().cpu().numpy()
    return arrays


def norms(
    attribution: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """E+, E- and the L2 norm of S.

    Either side is a sum of its own terms: as a difference of the L1 norm and the sum of S, the
    smaller one would lose its digits beside the larger.

    Args:
        attribution: S of each image.
    Source: paper, eq. 2.
    """
    # Channel by channel: a norm adds one value after the other, and loses digits over a whole map.
    norm = torch.linalg.vector_norm
    return *energies(attribution), norm(norm(attribution.flatten(2), 2, 2), 2, 1)
