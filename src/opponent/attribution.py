"""What drives a feature, split into excitation and inhibition."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.features import Feature
from opponent.images import ImageSet, Unreadable, load, open_images
from opponent.network import Network
from opponent.zoo import load as load_network

Images = str | Path | Sequence[str | Path] | ImageSet


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What drives one feature in each of n images, through one layer with maps of k x h x w.

    Args:
        feature: with its position written out.
        through: the layer that the activation is explained through.
        activation: f_v, before the ReLU.
        attribution: S, the gradient of the activation times the through layer's output; like all
            that follows, in units of the activation.
        hidden: h, the through layer's output.
    """

    feature: Feature
    through: str
    activation: Float[Tensor, " n"]
    attribution: Float[Tensor, "n k h w"]
    hidden: Float[Tensor, "n k h w"]

    @property
    def excitation(self) -> Float[Tensor, " n"]:
        """The sum of the positive part of S."""
        return energies(self.attribution)[0]

    @property
    def inhibition(self) -> Float[Tensor, " n"]:
        """The sum of the negative part of S, as a number >= 0."""
        return energies(self.attribution)[1]

    @property
    def excitation_map(self) -> Float[Tensor, "n h w"]:
        """The positive part of S, summed over channels."""
        return energy_maps(self.attribution)[0]

    @property
    def inhibition_map(self) -> Float[Tensor, "n h w"]:
        """The negative part of S, summed over channels, as numbers >= 0."""
        return energy_maps(self.attribution)[1]

    @property
    def l1(self) -> Float[Tensor, " n"]:
        """The L1 norm of S: excitation plus inhibition."""
        return self.attribution.flatten(1).abs().sum(1)

    @property
    def l2(self) -> Float[Tensor, " n"]:
        """The L2 norm of S."""
        return self.attribution.flatten(1).square().sum(1).sqrt()

    @property
    def channels(self) -> Float[Tensor, "n k"]:
        """S summed over space: what each upstream channel adds to the feature."""
        return self.attribution.sum((2, 3))

    @property
    def inhibition_channels(self) -> Float[Tensor, "n k"]:
        """The negative part of S summed over space, as numbers >= 0."""
        return (-self.attribution).clamp(min=0).sum((2, 3))


def energies(
    attribution: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Excitation and inhibition of each image.

    Args:
        attribution: S, in units of the feature's activation.
    Returns:
        Two non-negative vectors in the same units; their difference is the sum of S.
    Source: paper, eq. 2.
    """
    flat = attribution.flatten(1)
    return flat.clamp(min=0).sum(1), (-flat).clamp(min=0).sum(1)


def energy_maps(
    attribution: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Excitation and inhibition at each position.

    Args:
        attribution: S, in units of the feature's activation.
    Returns:
        phi+ and phi-, both non-negative, in the same units; over a map they sum to `energies`.
    Source: paper, eq. 3.
    """
    return attribution.clamp(min=0).sum(1), (-attribution).clamp(min=0).sum(1)


def attribute_each(
    network: Network, inputs: Float[Tensor, "n 3 h w"], features: Sequence[Feature], through: str
) -> list[Attribution]:
    """Attribute several features of one layer, which share the forward pass.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: features of one and the same layer.
        through: an earlier layer.
    Returns:
        One result a feature, without graph.
    Raises:
        ValueError: no feature, features of several layers, or a name or position that does not fit;
            a target that does not depend on the through layer.
    Source: paper, eq. 1.
    """
    layers = {feature.layer for feature in features}
    if len(layers) != 1:
        raise ValueError(f"one pass takes features of one layer, got {sorted(layers) or 'none'}")
    [layer] = layers
    reading = network.run(inputs, layer, through, differentiate="target")
    assert reading.through is not None
    results, hidden = [], reading.through.detach()
    with torch.inference_mode(False), torch.enable_grad():
        for number, feature in enumerate(features, 1):
            activation, gradient = feature.read(reading.target), None
            if activation.requires_grad:
                [gradient] = torch.autograd.grad(
                    activation.sum(),
                    reading.through,
                    retain_graph=number < len(features),
                    allow_unused=True,
                )
            if gradient is None:
                raise ValueError(
                    f"{feature.label} does not depend on {through!r}: they lie on two branches"
                )
            results.append(
                Attribution(
                    feature=feature.placed(*reading.target.shape[1:]),
                    through=through,
                    # A copy, since a view would keep the whole layer's map.
                    activation=activation.detach().clone(),
                    attribution=gradient * hidden,
                    hidden=hidden,
                )
            )
    return results


def attribute(
    network: Network | nn.Module | str,
    images: Float[Tensor, "n 3 h w"] | Images,
    feature: Feature | str,
    through: str,
) -> Attribution:
    """What drives a feature in each image, split into excitation and inhibition.

    Args:
        network: a network, a module or a name.
        images: photographs (a folder, files, a list), or the network's own input as a tensor.
        feature: a feature or its name, such as 'mixed3b:379' or 'logits:254'.
        through: an earlier layer, or 'pixels'.
    Raises:
        ValueError: a name, unit, position or shape that does not fit.
        Unreadable: an image that cannot be read.
    Source: paper, eqs. 1 to 3.
    """
    network = load_network(network)
    inputs = network_input(network, images)
    [result] = attribute_each(network, inputs, [Feature.of(feature)], through)
    return result


def network_input(
    network: Network, images: Float[Tensor, "n 3 h w"] | Images
) -> Float[Tensor, "n 3 h w"]:
    """The network's own input: a tensor as it is, photographs loaded and preprocessed.

    Raises:
        ValueError: a tensor of another shape.
        Unreadable: an image that cannot be read.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images as a tensor have shape (n, 3, height, width), got {tuple(images.shape)}"
            )
        return images.to(device=network.device, dtype=network.dtype)
    prepared = network.preprocessing
    chosen = open_images(images, size=prepared.size)
    pixels = []
    for entry in chosen:
        try:
            pixels.append(load(entry, size=prepared.size, resize=prepared.resize))
        except Unreadable as error:
            raise Unreadable(f"{entry.path} cannot be read: {error.reason}") from error
    return network.inputs(np.stack(pixels))
