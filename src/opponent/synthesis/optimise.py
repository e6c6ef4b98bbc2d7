"""Gradient ascent on images: one loop for inversions, accentuations and feature visualisations."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from opponent.core.feature import Feature
from opponent.core.side import Side
from opponent.geometry.crop import CropPlan
from opponent.models.finite import likely_cause
from opponent.models.network import Network
from opponent.models.state import undisturbed
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
    origin: Float[Tensor, " k"] | None = None,
    transforms: Transforms,
    steps: int,
    rate: float,
    generator: torch.Generator,
    watch: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Optimise images with Adam.

    Args:
        network: the network.
        start: the parameterisation that is optimised.
        objective: the objective that is raised. It sees the plan's through layer, or the feature's
            own layer where the plan has none.
        feature: the feature whose activation is recorded.
        side: the side that the result names.
        plan: what a pass computes.
        target: for each image the direction that the through layer should take.
        origin: what the through layer is measured from, at every position; None is zero.
        transforms: how views are drawn.
        steps: number of steps.
        rate: learning rate.
        generator: source of the views.
        watch: record the activation at each step. If False, a pass ends at the through layer.
        progress: called with the steps done and the steps in all.
    Returns:
        The images, their opacity, and what was recorded at each step.
    Raises:
        ValueError: the objective became NaN or infinite.
    """
    # Gradients by phase are tiny; Adam's usual 1e-8 would damp them.
    adam = torch.optim.Adam(start.parameters, lr=rate, maximize=True, eps=1e-16, fused=True)
    size = network.preprocessing.size
    targets = None if target is None else target.repeat(transforms.draws, 1, 1, 1)
    objectives, activations = [], []
    # The absolute gradient of each pixel, summed over all steps.
    acted = torch.zeros(len(start.parameters[0]), *start.size, device=network.device)
    with undisturbed(), torch.enable_grad():
        for step in range(steps):
            # Pixels that no view shows have no gradient, and are not computed.
            seen, boxes = transforms.draw(start.size, size, generator, plan.box)
            images = start.images(seen)
            shown = transforms(images, boxes, size, generator, plan.box)
            views, activation = _forward(network, plan, shown, targets, origin, watch)
            values = objective.values(views)
            [to_images] = torch.autograd.grad(values.sum() / transforms.draws, images)
            gradients = torch.autograd.grad(images, start.parameters, to_images)
            for parameter, gradient in zip(start.parameters, gradients, strict=True):
                # Fused Adam reads parameter and gradient in the order in which they lie in memory.
                parameter.grad = gradient.contiguous()
            adam.step()
            acted[:, *seen.slices] += to_images.abs().mean(1)
            objectives.append(_mean_of_views(values, len(images)))
            if activation is not None:
                activations.append(_mean_of_views(activation, len(images)))
            if progress is not None:
                progress(step + 1, steps)
    recorded = torch.stack(objectives)
    _refuse_not_finite(recorded, feature, network)
    with torch.no_grad():
        images = start.images()
        inputs = network.preprocessing.normalise(resize(images, size, plan.box)).to(network.dtype)
        final = plan.feature.read(plan.run(network, inputs, cropped=True).target)
    return Synthesis(
        feature=feature,
        side=side,
        image=images,
        opacity=_opacity(acted),
        objective=recorded,
        activation=torch.stack(activations) if watch else objectives[0].new_empty(0, len(images)),
        final=final,
    )


def _refuse_not_finite(
    objective: Float[Tensor, "steps n"], feature: Feature, network: Network
) -> None:
    finite = objective.isfinite().all(1)
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise ValueError(
            f"the objective is not finite from step {step} on, for {feature.label}: "
            f"{likely_cause(network)}"
        )


def _forward(
    network: Network,
    plan: CropPlan,
    images: Float[Tensor, "m 3 y x"],
    target: Float[Tensor, "m k h w"] | None,
    origin: Float[Tensor, " k"] | None,
    watch: bool,
) -> tuple[Views, Float[Tensor, " m"] | None]:
    """What an objective sees, and the feature's activation where it is recorded."""
    inputs = network.preprocessing.normalise(images).to(
        network.dtype, memory_format=torch.channels_last
    )
    result = plan.run(network, inputs, differentiate="images", to_target=watch, cropped=True)
    activation = plan.feature.read(result.target) if watch else None
    if plan.through is None:
        views = Views(images=images, hidden=result.target, activation=activation)
        return views, activation
    hidden = plan.within(result.target if result.through is None else result.through)
    if origin is not None:
        hidden = hidden - origin.view(-1, 1, 1)
    return Views(images=images, hidden=hidden, target=target), activation


def _mean_of_views(values: Float[Tensor, " m"], count: int) -> Float[Tensor, " n"]:
    return values.detach().view(-1, count).mean(0)


def _opacity(acted: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """The summed absolute gradient, clipped, blurred, and scaled to its largest value."""
    limit = torch.quantile(acted.flatten(1).cpu().double(), OPACITY_PERCENTILE / 100, dim=1)
    clipped = torch.minimum(acted, limit.to(acted)[:, None, None])[:, None]
    for axis, length in ((2, acted.shape[1]), (3, acted.shape[2])):
        sd = OPACITY_BLUR * length
        radius = int(3 * sd) + 1
        kernel = torch.exp(-(torch.arange(-radius, radius + 1).to(acted) ** 2) / (2 * sd**2))
        kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
        padding = (0, 0, radius, radius)
        turned = F.pad(clipped.transpose(2, axis), padding, mode="replicate")
        clipped = F.conv2d(turned, kernel).transpose(2, axis)
    opacity = clipped[:, 0]
    return opacity / opacity.amax((1, 2), keepdim=True).clamp(min=torch.finfo(acted.dtype).tiny)
