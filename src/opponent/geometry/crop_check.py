"""Whether a crop gives what the whole image gives, on noise and up to rounding."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from opponent.core.box import Box
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.models.forward import Differentiate, ForwardResult
from opponent.models.network import PIXELS, Network

# Largest relative difference from the whole image that is rounding. In double precision a network
# of 100 layers stays below 1e-10; in single, 1e-5 is usual; half precision has three digits.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
COARSE = 0.05
# An image counts as having at least this share of the largest value of all images: of some, almost
# nothing is left after terms have cancelled.
CANCELLED = 1e-3
# Pixels from one random value to the next in coarse noise, which later layers respond to.
COARSENESS = 8
# Features of which S is compared one by one.
ALONE = 4
# Pairs of images of noise to try until the features are alive. After a ReLU every second is not.
TRIES = 4


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


def random_weights(count: int) -> tuple[float, ...]:
    """Weights of both signs and away from zero, the same for each call: of a random direction.

    In a direction of equal weights channels may cancel where in no unit they do.
    """
    generator = torch.Generator().manual_seed(count)
    weights = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    signs = 1 - 2 * torch.randint(2, weights.shape, generator=generator)
    return tuple((weights * signs).tolist())


def copy_of(network: Network) -> Network:
    """A copy of a network, which knows the same layers."""
    # What a hook, such as weight norm's, computed in the last pass belongs to that pass's graph and
    # cannot be copied. The copy computes its own.
    computed = {
        id(value): value.detach()
        for module in network.module.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return deepcopy(network, computed)


def copy_in(network: Network, dtype: torch.dtype) -> Network:
    """A copy of a network that computes in another type of numbers, and knows the same layers."""
    return copy_of(network).to(dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class CropCheck:
    """What the whole image gives of noise, to compare crops with.

    Args:
        network: the network, in double precision where it takes that.
        seed: of the noise.
        expected: what the whole image gives.
    """

    network: Network
    seed: int
    expected: "_Values"

    @classmethod
    def of(cls, network: Network, uncropped: CropPlan) -> "CropCheck | None":
        """The check for a plan of the whole image; None where the network does not take noise."""
        for dtype in dict.fromkeys((torch.float64, network.dtype)):
            try:
                checked = network if dtype == network.dtype else copy_in(network, dtype)
                for seed in range(TRIES):
                    expected = _values(uncropped, _run(checked, uncropped, seed))
                    check = cls(network=checked, seed=seed, expected=expected)
                    if check.alive:
                        return check
            except Exception:  # modules fail in many ways in a type that they are not made for
                continue
            return check
        return None

    @property
    def alive(self) -> bool:
        """Whether S, where it is wanted, is not zero everywhere."""
        attributions = self.expected.attributions
        return not attributions or bool(attributions[0].any())

    @property
    def bounded(self) -> bool:
        """Whether S of the whole image is zero outside the window."""
        return self.expected.bounded

    def confirm(self, crop: CropPlan) -> CropPlan | None:
        """The crop with its region, if it gives what the whole image gives."""
        try:
            result = _run(self.network, crop, self.seed, self.expected.hidden)
            values = _values(crop, result)
        except Exception:  # and at a size that they are not made for
            return None
        if not values.agree(self.expected):
            return None
        if crop.inner is None or crop.window is None or values.hidden is None:
            return crop
        top, left = crop.window.top - crop.inner.top, crop.window.left - crop.inner.left
        height, width = values.hidden.shape[2:]
        return replace(crop, region=Box(top=top, left=left, height=height, width=width))


@dataclass(frozen=True, kw_only=True)
class _Values:
    """What a plan gives of images of noise.

    Args:
        activations: of each feature.
        scales: how large the terms are that each of them adds up.
        hidden: the through layer's maps, as the pass gave them.
        within: the same within the window.
        attributions: S within the window, of a random combination of the features and of a few of
            them alone.
        bounded: whether S is zero outside the window.
    """

    activations: Sequence[Float[Tensor, " n"]]
    scales: Sequence[Float[Tensor, " n"]]
    hidden: Float[Tensor, "n k y x"] | None = None
    within: Float[Tensor, "n k h w"] | None = None
    attributions: Sequence[Float[Tensor, "n k h w"]] = ()
    bounded: bool = True

    def agree(self, expected: "_Values") -> bool:
        """Whether they are those of the whole image."""
        by_feature = zip(self.activations, expected.activations, expected.scales, strict=True)
        if not all(equal_to_rounding(ours, theirs, scale) for ours, theirs, scale in by_feature):
            return False
        pairs = list(zip(self.attributions, expected.attributions, strict=True))
        if self.within is not None and expected.within is not None:
            pairs.append((self.within, expected.within))
        return self.bounded and all(equal_to_rounding(ours, theirs) for ours, theirs in pairs)


def _run(
    network: Network, plan: CropPlan, seed: int, hidden: Tensor | None = None
) -> ForwardResult:
    """Run a plan on noise.

    Args:
        network: the network.
        plan: the whole image, or a crop of it.
        seed: of the noise.
        hidden: the through layer's whole maps, where the crop begins there.
    """
    if plan.start != PIXELS:
        assert hidden is not None
        # From other images: nothing but the through layer may matter.
        return plan.run_from(network, _noise(network, seed + TRIES), hidden.detach())
    differentiate: Differentiate | None = None if plan.through is None else "target"
    return plan.run(network, _noise(network, seed), differentiate=differentiate)


def _values(plan: CropPlan, result: ForwardResult) -> _Values:
    target, hidden = result.target, result.through
    with torch.enable_grad():
        # Feature by feature: one may need less than others at its place.
        activations = [feature.read(target) for feature in plan.features]
        scales = [_scale(feature, target.detach()) for feature in plan.features]
        plain = [x.detach() for x in activations]
        if hidden is None:
            return _Values(activations=plain, scales=scales)
        terms = zip(random_weights(len(plain)), activations, strict=True)
        total = torch.stack([weight * x.sum() for weight, x in terms]).sum()
        each = [x.sum() for x in activations[:ALONE]] if len(activations) > 1 else []
        slopes = [_slope(value, hidden) for value in (total, *each)]
    hidden = hidden.detach()
    attributions = [slope * hidden for slope in slopes]
    return _Values(
        activations=plain,
        scales=scales,
        hidden=hidden,
        within=plan.within(hidden),
        attributions=[plan.within(x) for x in attributions],
        bounded=all(_is_within(plan, x) for x in attributions),
    )


def _slope(value: Float[Tensor, ""], hidden: Float[Tensor, "n k y x"]) -> Float[Tensor, "n k y x"]:
    slope = None
    if value.requires_grad:
        [slope] = torch.autograd.grad(value, hidden, retain_graph=True, allow_unused=True)
    return torch.zeros_like(hidden) if slope is None else slope


def _is_within(plan: CropPlan, attribution: Float[Tensor, "n k y x"]) -> bool:
    """Whether S is zero outside the window, up to rounding."""
    total, inside = attribution.abs().sum(), plan.within(attribution).abs().sum()
    # Where numbers are not finite, nothing lies beyond the window that is known.
    return not bool(total - inside > rounding_limit(attribution.dtype) * total)


def _scale(feature: Feature, target: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """How large the terms of an activation are; it may be small because they cancel."""
    row, column = feature.resolve(*target.shape[1:])
    largest = target[:, :, row, column].abs().amax(1)
    return largest * (1.0 if feature.vector is None else sum(map(abs, feature.vector)))


def _noise(network: Network, seed: int) -> Float[Tensor, "2 bands h w"]:
    """An image of fine noise and one of coarse noise, as the network's input."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = network.map_shape(PIXELS)
    fine = torch.rand(2, channels, height, width, generator=generator)
    coarse = torch.rand(
        1, channels, 2 + height // COARSENESS, 2 + width // COARSENESS, generator=generator
    )
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    # With a little fine noise: a pool picks any of equal values.
    images = torch.cat([fine[:1], 0.9 * smooth + 0.1 * fine[1:]])
    return network.preprocessing.normalise(images).to(network.device, network.dtype)
