"""Gradient ascent on images: one loop for inversions, accentuations and feature visualisations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.models.network import Network
from opponent.synthesis.parameterisations import Parameterisation
from opponent.synthesis.transforms import Transforms, resize

# The pixel gradient is clipped here before it becomes opacity. Source: MACO, section 3.2.
OPACITY_PERCENTILE = 99.0
# Blur of the opacity, as a share of the canvas, so that it shows regions and not pixels.
OPACITY_BLUR = 0.012


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """n images made for a feature, and how it responded on the way.

    Args:
        feature: with its position written out.
        sign: +1 where the feature was to be excited, -1 where inhibited, 0 where both at once.
        image: in [0, 1].
        opacity: in [0, 1], how much the pixels' gradient acted on each place, over all steps.
        objective: at each step, the mean over its views.
        activation: the feature's, before the ReLU, at each step, the mean over its views; no steps
            where it was not watched.
        final: the feature's activation in the finished image itself.
    """

    feature: Feature
    sign: int
    image: Float[Tensor, "n 3 h w"]
    opacity: Float[Tensor, "n h w"]
    objective: Float[Tensor, "steps n"]
    activation: Float[Tensor, "watched n"]
    final: Float[Tensor, " n"]

    def rgba(self) -> UInt8[np.ndarray, "n h w 4"]:
        """Image and opacity as bytes, ready to be saved."""
        both = torch.cat([self.image, self.opacity[:, None]], 1)
        return (both * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def ascend(
    network: Network,
    start: Parameterisation,
    objective: Callable[[Float[Tensor, "m k h w"]], Float[Tensor, " m"]],
    feature: Feature,
    *,
    sign: int,
    part: CropPlan,
    transforms: Transforms,
    steps: int,
    rate: float,
    generator: torch.Generator,
    watch: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Optimise images by Adam.

    Args:
        network: the network.
        start: what is optimised.
        objective: from the through layer's map (without one, the feature's own layer's) of all
            views, one value a view.
        feature: whose activation is watched.
        sign: what the result is to say of its purpose.
        part: what a pass computes. The objective reads its through layer, and gradients start from
            there; without one, from the feature's own layer.
        transforms: the views.
        steps, rate: how many steps, of which learning rate.
        generator: for the views.
        watch: take down the activation at each step. Without, a pass ends at the through layer.
        progress: called with the steps done and the steps in all.
    """
    # Gradients by phase are tiny; Adam's usual 1e-8 would damp them.
    adam = torch.optim.Adam(start.parameters, lr=rate, maximize=True, eps=1e-16, fused=True)
    size = network.preprocessing.size
    objectives, activations = [], []
    # How much each place was acted on, over all steps.
    acted = torch.zeros(len(start.parameters[0]), *start.size, device=network.device)
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(steps):
            # What no view shows of the images has no gradient, and is not computed.
            seen, boxes = transforms.draw(start.size, size, generator, part.box)
            images = start.images(seen)
            views = transforms(images, boxes, size, generator, part.box)
            inputs = network.preprocessing.normalise(views).to(
                network.dtype, memory_format=torch.channels_last
            )
            reading = part.run(network, inputs, differentiate="images", watch=watch, cut=True)
            values = objective(reading.target if reading.through is None else reading.through)
            [to_images] = torch.autograd.grad(values.sum() / transforms.draws, images)
            gradients = torch.autograd.grad(images, start.parameters, to_images)
            for parameter, gradient in zip(start.parameters, gradients, strict=True):
                # Fused, Adam takes both in the order in which they lie in memory.
                parameter.grad = gradient.contiguous()
            adam.step()
            acted[:, *seen.slices] += to_images.abs().mean(1)
            objectives.append(_mean_of_views(values, len(images)))
            if watch:
                activations.append(_mean_of_views(part.feature.read(reading.target), len(images)))
            if progress is not None:
                progress(step + 1, steps)
    with torch.no_grad():
        images = start.images()
        inputs = network.preprocessing.normalise(resize(images, size, part.box)).to(network.dtype)
        final = part.feature.read(part.run(network, inputs, cut=True).target)
    return Synthesis(
        feature=feature,
        sign=sign,
        image=images,
        opacity=_opacity(acted),
        objective=torch.stack(objectives),
        activation=torch.stack(activations) if watch else objectives[0].new_empty(0, len(images)),
        final=final,
    )


def _mean_of_views(values: Float[Tensor, " m"], count: int) -> Float[Tensor, " n"]:
    return values.detach().view(-1, count).mean(0)


def _opacity(acted: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """From the summed absolute gradient: clipped, blurred, scaled to its own largest value."""
    limit = torch.quantile(acted.flatten(1).double(), OPACITY_PERCENTILE / 100, dim=1)
    clipped = torch.minimum(acted, limit.to(acted)[:, None, None])[:, None]
    for axis, length in ((2, acted.shape[1]), (3, acted.shape[2])):
        sd = OPACITY_BLUR * length
        reach = int(3 * sd) + 1
        kernel = torch.exp(-(torch.arange(-reach, reach + 1).to(acted) ** 2) / (2 * sd**2))
        kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
        padding = (0, 0, reach, reach)
        turned = F.pad(clipped.transpose(2, axis), padding, mode="replicate")
        clipped = F.conv2d(turned, kernel).transpose(2, axis)
    opacity = clipped[:, 0]
    return opacity / opacity.amax((1, 2), keepdim=True).clamp(min=torch.finfo(acted.dtype).tiny)
