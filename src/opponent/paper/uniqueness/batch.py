"""Activation, excitation, inhibition and norm of many layers' features in one batch of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.result import energies
from opponent.core.feature import Feature
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan
from opponent.geometry.planning import plan_crop
from opponent.models.network import Network
from opponent.models.state import undisturbed
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.uniqueness.controls import (
    Codes,
    Controls,
    channel_sizes,
    images_at_once,
    parallel,
)

# The basis that needs no dictionary.
CHANNELS = "channels"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPlan:
    """What is measured of one layer's features.

    Args:
        crop: what a pass computes; it knows the features.
        controls: gradients that the network never learnt.
        kinds: by name, which of the features are of one kind.
        dictionaries: of the through layer, by name.
    """

    crop: CropPlan
    controls: Controls
    kinds: Mapping[str, slice]
    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)


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
    plans: Mapping[LayerPair, LayerPlan],
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Activation, excitation, inhibition and norms of S, of features of many layers.

    One pass through the network gives all through layers. Gradients are then taken within the small
    window of the through layer that decides the features, where that gives the same.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        plans: by layer, what is measured.
    Returns:
        Of each layer, in units of the activation: by 'LAYER' (n f 4) activation, E+, E- and the L2
        norm of S; by 'LAYER/hidden' (n 2) the L1 and the L2 norm of h in the window; by
        'LAYER/sizes/BASIS' (n f s 3, or 4) what `SIZES` names, of each feature's own gradient and
        its controls; by 'LAYER/parallel/KIND' (n f s) what `parallel` says.
    Source: paper, eqs. 1 and 2, appendix H (the central position); the controls are ours.
    """
    crops = {pair: plan.crop for pair, plan in plans.items()}
    throughs = list(dict.fromkeys(x.through for x in crops if crops[x].box is not None))
    maps: Mapping[str, Tensor] = {}
    if throughs:
        record = network.record(inputs, targets=[], throughs=throughs)
        maps = {name: values.detach() for name, values in record.throughs.items()}
        del record
    arrays: dict[str, Float[np.ndarray, "n ..."]] = {}
    for pair, plan in plans.items():
        parts = [
            _measure_layer(network, inputs[part], plan, _part(maps.get(pair.through), part))
            for part in _parts(len(inputs), plan)
        ]
        arrays |= {
            pair.target + name: torch.cat([part[name] for part in parts]).float().cpu().numpy()
            for name in parts[0]
        }
    return arrays


def _parts(count: int, plan: LayerPlan) -> list[slice]:
    step = images_at_once(plan.controls, list(plan.dictionaries.values()))
    return [slice(first, first + step) for first in range(0, count, step)]


def _part(maps: Tensor | None, part: slice) -> Tensor | None:
    return None if maps is None else maps[part]


def _measure_layer(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    plan: LayerPlan,
    maps: Float[Tensor, "n k y x"] | None,
) -> dict[str, Tensor]:
    """One layer's arrays, by what follows its name."""
    crop = plan.crop
    if crop.box is None:
        result = crop.run(network, inputs, differentiate="target")
    else:
        assert maps is not None
        result = crop.run_from(network, inputs, maps)
    assert result.through is not None
    whole = result.through.detach()
    hidden = crop.within(whole)
    codes = {name: Codes.of(hidden, x) for name, x in plan.dictionaries.items()}
    columns, summed = list[Tensor](), list[Tensor]()
    sizes: dict[str, list[Tensor]] = {name: [] for name in (CHANNELS, *codes)}
    with undisturbed(), torch.enable_grad():
        for number, feature in enumerate(crop.features):
            activation = feature.read(result.target)
            [slope] = torch.autograd.grad(activation.sum(), result.through, retain_graph=True)
            columns.append(torch.stack([activation.detach(), *norms(slope * whole)], 1))
            gradients = plan.controls.gradients(number, crop.within(slope))
            sizes[CHANNELS].append(channel_sizes(gradients, hidden))
            for name, written in codes.items():
                sizes[name].append(written.sizes(gradients))
            summed.append((gradients * hidden[:, None]).sum((3, 4)))
    arrays = {"": torch.stack(columns, 1), "/hidden": _hidden(hidden)}
    arrays |= {f"/sizes/{name}": torch.stack(values, 1) for name, values in sizes.items()}
    for kind, which in plan.kinds.items():
        arrays[f"/parallel/{kind}"] = parallel(summed[which])
    return arrays


def _hidden(hidden: Float[Tensor, "n k h w"]) -> Float[Tensor, "n 2"]:
    """The L1 and the L2 norm of h."""
    flat = hidden.flatten(1)
    return torch.stack([torch.linalg.vector_norm(flat, order, 1) for order in (1, 2)], 1)


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
