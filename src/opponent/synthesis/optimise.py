"""Gradient ascent on images: one loop for inversions, accentuations and feature visualisations."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from opponent.core.feature import Feature
from opponent.core.side import Side
from opponent.geometry.crop import CropPlan
from opponent.models.network import Network
from opponent.synthesis.objectives import Objective, Views
from opponent.synthesis.parameterisations import Parameterisation
from opponent.synthesis.result import Synthesis
from opponent.synthesis.transforms import Transforms, resize

# The pixel gradient is clipped here before it becomes opacity. Source: MACO, section 3.2.
OPACITY_PERCENTILE = 99.0
# Blur of the opacity, as a share of the canvas, so that it shows regions and not pixels.
OPACITY_BLUR = 0.012


def ascend(
    network: Network,
    start: Parameterisation,
    objective: Objective,
    feature: Feature,
    *,
    side: Side,
    plan: CropPlan,
    target: Float[Tensor, "n k h w"] | None = None,
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
        objective: one value a view, to be made large. It sees the plan's through layer, and
            gradients start from there; without one, from the feature's own layer.
        feature: whose activation is watched.
        side: what the result is to say of its purpose.
        plan: what a pass computes.
        target: for each image the direction that the through layer is to take.
        transforms: the views.
        steps, rate: how many steps, of which learning rate.
        generator: for the views.
        watch: take down the activation at each step. Without, a pass ends at the through layer.
        progress: called with the steps done and the steps in all.
    """
    # Gradients by phase are tiny; Adam's usual 1e-8 would damp them.
    adam = torch.optim.Adam(start.parameters, lr=rate, maximize=True, eps=1e-16, fused=True)
    size = network.preprocessing.size
    targets = None if target is None else target.repeat(transforms.draws, 1, 1, 1)
    objectives, activations = [], []
    # How much each place was acted on, over all steps.
    acted = torch.zeros(len(start.parameters[0]), *start.size, device=network.device)
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(steps):
            # What no view shows of the images has no gradient, and is not computed.
            seen, boxes = transforms.draw(start.size, size, generator, plan.box)
            images = start.images(seen)
            shown = transforms(images, boxes, size, generator, plan.box)
            views, activation = _forward(network, plan, shown, targets, watch)
            values = objective.values(views)
            [to_images] = torch.autograd.grad(values.sum() / transforms.draws, images)
            gradients = torch.autograd.grad(images, start.parameters, to_images)
            for parameter, gradient in zip(start.parameters, gradients, strict=True):
                # Fused, Adam takes both in the order in which they lie in memory.
                parameter.grad = gradient.contiguous()
            adam.step()
            acted[:, *seen.slices] += to_images.abs().mean(1)
            objectives.append(_mean_of_views(values, len(images)))
            if activation is not None:
                activations.append(_mean_of_views(activation, len(images)))
            if progress is not None:
                progress(step + 1, steps)
    with torch.no_grad():
        images = start.images()
        inputs = network.preprocessing.normalise(resize(images, size, plan.box)).to(network.dtype)
        final = plan.feature.read(plan.run(network, inputs, cropped=True).target)
    return Synthesis(
        feature=feature,
        side=side,
        image=images,
        opacity=_opacity(acted),
        objective=torch.stack(objectives),
        activation=torch.stack(activations) if watch else objectives[0].new_empty(0, len(images)),
        final=final,
    )


def _forward(
    network: Network,
    plan: CropPlan,
    images: Float[Tensor, "m 3 y x"],
    target: Float[Tensor, "m k h w"] | None,
    watch: bool,
) -> tuple[Views, Float[Tensor, " m"] | None]:
    """What an objective sees of views, and the feature's activation where it is watched."""
    inputs = network.preprocessing.normalise(images).to(
        network.dtype, memory_format=torch.channels_last
    )
    result = plan.run(network, inputs, differentiate="images", to_target=watch, cropped=True)
    activation = plan.feature.read(result.target) if watch else None
    if plan.through is None:
        views = Views(images=images, hidden=result.target, activation=activation)
        return views, activation
    hidden = result.target if result.through is None else result.through
    return Views(images=images, hidden=plan.within(hidden), target=target), activation


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
