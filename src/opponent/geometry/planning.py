"""Which crop gives exactly what the whole image gives: candidates, and a check on noise."""

from collections.abc import Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from opponent.core.box import Box
from opponent.core.errors import IndependentFeature, UnknownGeometry
from opponent.core.feature import Feature
from opponent.geometry.candidates import crops_from_pixels, crops_from_through
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.models.forward import Differentiate
from opponent.models.network import PIXELS, Network

# Largest relative difference from the whole image that is rounding. In double precision a network
# of 100 layers stays below 1e-10; in single, 1e-5 is usual; half precision has three digits.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
COARSE = 0.05
# Rounding is also this share of it, relative to the largest value of all images: an image of which
# almost nothing is left after terms have cancelled.
CANCELLED = 1e-3
# Pixels from one random value to the next in coarse noise, which later layers respond to.
COARSENESS = 8


def rounding_limit(dtype: torch.dtype) -> float:
    """Largest relative difference that is rounding in a type of numbers."""
    return ROUNDING.get(dtype, COARSE)


def equal_to_rounding(
    values: Float[Tensor, "n ..."],
    expected: Float[Tensor, "n ..."],
    scale: Float[Tensor, " n"] | None = None,
) -> bool:
    """Whether values of some images are those expected, up to rounding in their type of numbers.

    Args:
        values, expected: one or more values an image.
        scale: for each image the size of the terms that were added; default: its largest value.
    """
    if values.shape != expected.shape:
        return False
    if not expected.numel():
        return True
    count = len(expected)
    if scale is None:
        scale = expected.reshape(count, -1).abs().amax(1)
    scale = scale.clamp(min=CANCELLED * float(scale.max()))
    difference = (values - expected).reshape(count, -1).abs().amax(1)
    rounding = difference.isfinite() & (difference <= rounding_limit(values.dtype) * scale)
    return bool(rounding.all())


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
    key = ("crop plan", tuple(features), through, start, weights_state(network))
    return network.cached(key, lambda: _plan(network, features, through, start))


def weights_state(network: Network) -> Hashable:
    """What changes when the weights change. A plan that was checked with some holds for these."""
    module = network.module
    return hash(
        tuple(
            (x.data_ptr(), 0 if x.is_inference() else x._version)
            for x in (*module.parameters(), *module.buffers())
        )
    )


def _plan(
    network: Network, features: Sequence[Feature], through: str | None, start: str
) -> CropPlan:
    try:
        if start == PIXELS:
            candidates = crops_from_pixels(network, features, through)
        else:
            candidates = crops_from_through(network, features, start)
    except (UnknownGeometry, IndependentFeature) as error:
        candidates = str(error)
    if isinstance(candidates, str):
        return plan_whole_image(network, features, through, candidates)
    reason = "a part of the image gives other numbers than the whole does"
    whole = plan_whole_image(network, features, through, reason)
    return _first_that_agrees(network, whole, candidates) or whole


def _first_that_agrees(
    network: Network, whole: CropPlan, candidates: Sequence[CropPlan]
) -> CropPlan | None:
    """The first candidate that gives what the whole image gives on noise."""
    for dtype in dict.fromkeys((torch.float64, network.dtype)):
        try:
            checked = network if dtype == network.dtype else copy_in(network, dtype)
            expected = _values_on_noise(checked, whole)
        except Exception:  # modules fail in many ways in a type that they are not made for
            continue
        for candidate in candidates:
            try:
                values = _values_on_noise(checked, candidate, expected.hidden)
            except Exception:  # or at a size
                continue
            if _agree(values, expected):
                return _with_region(candidate, values.hidden)
        break
    return None


def _with_region(crop: CropPlan, hidden: Tensor | None) -> CropPlan:
    """The crop with the box of the whole map that its through layer covers."""
    if crop.inner is None or hidden is None or crop.window is None:
        return crop
    top, left = crop.window.top - crop.inner.top, crop.window.left - crop.inner.left
    height, width = hidden.shape[2:]
    return replace(crop, region=Box(top=top, left=left, height=height, width=width))


@dataclass(frozen=True, kw_only=True)
class _Values:
    """What a plan gives of images of noise.

    Args:
        activations: of each feature.
        scales: how large the terms are that each of them adds up.
        hidden: the through layer's maps, as the pass gave them.
        within: the same within the window.
        attribution: S of a random combination of the features, within the window.
    """

    activations: list[Float[Tensor, " n"]]
    scales: list[Float[Tensor, " n"]]
    hidden: Float[Tensor, "n k y x"] | None = None
    within: Float[Tensor, "n k h w"] | None = None
    attribution: Float[Tensor, "n k h w"] | None = None


def _agree(crop: _Values, whole: _Values) -> bool:
    """Whether a crop gives what the whole image gives."""
    by_feature = zip(crop.activations, whole.activations, whole.scales, strict=True)
    if not all(equal_to_rounding(ours, theirs, scale) for ours, theirs, scale in by_feature):
        return False
    if whole.within is None or whole.attribution is None:
        return True
    assert crop.within is not None
    assert crop.attribution is not None
    # A feature that is dead on noise says nothing about S.
    return (
        bool(whole.attribution.any())
        and equal_to_rounding(crop.within, whole.within)
        and equal_to_rounding(crop.attribution, whole.attribution)
    )


def _values_on_noise(network: Network, plan: CropPlan, hidden: Tensor | None = None) -> _Values:
    """What a plan gives of noise.

    Args:
        network: the network.
        plan: the whole image, or a crop of it.
        hidden: the through layer's whole maps, where the crop begins there.
    """
    if plan.start == PIXELS:
        differentiate: Differentiate | None = None if plan.through is None else "target"
        result = plan.run(network, _noise(network, 0), differentiate=differentiate)
    else:
        assert hidden is not None
        # From other images: nothing but the through layer may matter.
        result = plan.run_from(network, _noise(network, 1), hidden.detach())
    return _values(plan, result.target, result.through)


def _values(plan: CropPlan, target: Tensor, hidden: Tensor | None) -> _Values:
    with torch.enable_grad():
        # Feature by feature: one may need less than others at its place.
        activations = [feature.read(target) for feature in plan.features]
        scales = [_scale(feature, target.detach()) for feature in plan.features]
        plain = [x.detach() for x in activations]
        if hidden is None:
            return _Values(activations=plain, scales=scales)
        generator = torch.Generator().manual_seed(0)
        # Away from zero, so that no feature is left out.
        weights = 0.5 + torch.rand(len(plain), generator=generator)
        weights *= 1 - 2 * torch.randint(2, weights.shape, generator=generator)
        terms = zip(weights.tolist(), activations, strict=True)
        total = torch.stack([weight * x.sum() for weight, x in terms]).sum()
        slope = None
        if total.requires_grad:
            [slope] = torch.autograd.grad(total, hidden, allow_unused=True)
    hidden = hidden.detach()
    attribution = torch.zeros_like(hidden) if slope is None else slope * hidden
    return _Values(
        activations=plain,
        scales=scales,
        hidden=hidden,
        within=plan.within(hidden),
        attribution=plan.within(attribution),
    )


def _scale(feature: Feature, target: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """How large the terms of an activation are; it may be small because they cancel."""
    row, column = feature.resolve(*target.shape[1:])
    largest = target[:, :, row, column].abs().amax(1)
    return largest * (1.0 if feature.vector is None else sum(map(abs, feature.vector)))


def _noise(network: Network, seed: int) -> Float[Tensor, "2 3 h w"]:
    """An image of fine noise and one of coarse noise, as the network's input."""
    generator = torch.Generator().manual_seed(seed)
    height, width = network.preprocessing.size
    fine = torch.rand(2, 3, height, width, generator=generator)
    coarse = torch.rand(
        1, 3, 2 + height // COARSENESS, 2 + width // COARSENESS, generator=generator
    )
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    # With a little fine noise: a pool picks any of equal values.
    images = torch.cat([fine[:1], 0.9 * smooth + 0.1 * fine[1:]])
    return network.preprocessing.normalise(images).to(network.device, network.dtype)


def copy_in(network: Network, dtype: torch.dtype) -> Network:
    """A copy of a network that computes in another type of numbers, and knows the same layers."""
    return deepcopy(network).to(dtype=dtype)
