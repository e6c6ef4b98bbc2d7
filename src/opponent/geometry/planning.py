"""Which crop gives exactly what the whole image gives: candidates, and a check on noise."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from opponent.core.box import Box
from opponent.core.errors import UnknownGeometry
from opponent.core.feature import Feature
from opponent.geometry.candidates import crops_from_pixels, crops_from_through
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.models.forward import Differentiate
from opponent.models.network import PIXELS, Network

# Largest relative difference from the whole image that is rounding. In double precision a network
# of 100 layers stays below 1e-10; in single, 1e-5 is usual; half precision has three digits.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
COARSE = 0.05


def rounding_limit(dtype: torch.dtype) -> float:
    """Largest relative difference that is rounding in a type of numbers."""
    return ROUNDING.get(dtype, COARSE)


def plan_crop(
    network: Network, features: Sequence[Feature], through: str | None, *, start: str = PIXELS
) -> CropPlan:
    """The smallest boxes of image and layers that give some features, and the window of S, exactly.

    On noise, in double precision, it is checked that they give what the whole image gives: the
    activations, the through layer, and S for a random combination of the features. Where they do
    not (sizes that are built in, positions that are learnt), or where the network's geometry cannot
    be told, it is the whole image.

    Args:
        network: the network.
        features: of one layer, with positions written out; at most one of each position matters.
        through: a layer before the features'; None where only the features are wanted.
        start: where the crop begins: 'pixels', or the through layer.
    """
    key = ("crop plan", tuple(features), through, start)
    return network.cached(key, lambda: _plan(network, features, through, start))


def _plan(
    network: Network, features: Sequence[Feature], through: str | None, start: str
) -> CropPlan:
    try:
        if start == PIXELS:
            candidates = crops_from_pixels(network, features, through)
        else:
            candidates = crops_from_through(network, features, start)
    except UnknownGeometry as error:
        return plan_whole_image(network, features, through, str(error))
    if isinstance(candidates, str):
        return plan_whole_image(network, features, through, candidates)
    whole = plan_whole_image(network, features, through, "")
    for candidate in candidates:
        agreed = _agreeing(network, whole, candidate)
        if agreed is not None:
            return agreed
    return replace(whole, reason="a part of the image gives other numbers than the whole does")


def _agreeing(network: Network, whole: CropPlan, crop: CropPlan) -> CropPlan | None:
    """The crop with its region, if it gives what the whole image gives on noise."""
    for dtype in (torch.float64, network.dtype):
        try:
            checked = network if dtype == network.dtype else _copy_in(network, dtype)
            expected, hidden = _values_on_noise(checked, whole)
            values, cropped = _values_on_noise(checked, crop, hidden)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            continue  # takes no other type, or no other size
        if not all(
            a.shape == b.shape and _difference(a, b) <= rounding_limit(dtype)
            for a, b in zip(expected, values, strict=True)
        ):
            return None
        if crop.inner is None or cropped is None or whole.window is None:
            return crop
        assert crop.window is not None
        top, left = crop.window.top - crop.inner.top, crop.window.left - crop.inner.left
        height, width = cropped.shape[2:]
        return replace(crop, region=Box(top=top, left=left, height=height, width=width))
    return None


def _values_on_noise(
    network: Network, plan: CropPlan, hidden: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """What a plan gives of one image of noise: activations, h, and S; and the through layer.

    Args:
        network: the network.
        plan: the whole image, or a crop of it.
        hidden: the through layer's whole maps, where the crop begins there.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, *network.preprocessing.size, generator=generator)
    inputs = network.preprocessing.normalise(noise).to(network.device, network.dtype)
    differentiate: Differentiate | None = None if plan.through is None else "target"
    if plan.start == PIXELS:
        result = plan.run(network, inputs, differentiate=differentiate)
    else:
        assert hidden is not None
        result = plan.run_from(network, inputs, hidden.detach())
    with torch.enable_grad():
        # Feature by feature: one may need less than others at its place.
        values = [feature.read(result.target) for feature in plan.features]
        if result.through is None:
            return values, None
        weights = torch.randn(len(values), generator=generator).tolist()
        total = torch.stack([w * v.sum() for w, v in zip(weights, values, strict=True)]).sum()
        gradient = torch.zeros_like(result.through)
        if total.requires_grad:
            [slope] = torch.autograd.grad(total, result.through, allow_unused=True)
            gradient = gradient if slope is None else slope
    attribution = plan.within(gradient) * plan.within(result.through)
    values = [value.detach() for value in (*values, plan.within(result.through), attribution)]
    return values, result.through


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) if a.numel() else 0.0


def _copy_in(network: Network, dtype: torch.dtype) -> Network:
    """A copy of a network that computes in another type."""
    module = deepcopy(network.module).to(dtype)
    return Network(module, preprocessing=network.preprocessing, name=network.name)
