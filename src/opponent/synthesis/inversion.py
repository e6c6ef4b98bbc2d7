"""Inversion, accentuation, feature visualisation: what each side of a drive looks like."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.attribute import Images, Rule, attribute, network_input
from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan, plan_crop
from opponent.geometry.receptive_field import receptive_field
from opponent.images.sources import ImageEntry, open_images
from opponent.images.sources import load as load_image
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.synthesis.objectives import dot_cosine
from opponent.synthesis.optimise import Synthesis, ascend
from opponent.synthesis.parameterisations import PARAMETERISATIONS, Parameterisation, Photographs
from opponent.synthesis.transforms import Transforms

Progress = Callable[[int, int], None]

# The canvas for a network of 224 pixels; others in proportion. Source: design of the paper's code.
CANVAS = 512 / 224
RATES = {"inversion": 0.05, "accentuation": 0.02}


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """How images are synthesised.

    Args:
        steps: of Adam.
        rate: learning rate; None is 0.05, and 0.02 for accentuations.
        canvas: (height, width) of the image; None is 512 for a network of 224, else in proportion.
        power: p of dot * cos^p.
        parameterisation: 'phases', 'fourier' or 'pixels' (accentuations start from the photograph).
        transforms: the views of each step.
        seed: of the first image and of the views.
        batch: how many images are optimised at once; results do not depend on it but for rounding.
    """

    steps: int = 100
    rate: float | None = None
    canvas: tuple[int, int] | None = None
    power: float = 1.0
    parameterisation: Literal["phases", "fourier", "pixels"] = "phases"
    transforms: Transforms = field(default_factory=Transforms)
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.transforms.draws < 1:
            raise ValueError("steps, batch and draws must be at least 1")
        if self.parameterisation not in PARAMETERISATIONS:
            raise ValueError(
                f"no parameterisation {self.parameterisation!r}; there are "
                f"{', '.join(PARAMETERISATIONS)}"
            )

    def canvas_for(self, network: Network) -> tuple[int, int]:
        """The canvas' (height, width) for a network."""
        height, width = network.preprocessing.size
        return self.canvas or (round(height * CANVAS), round(width * CANVAS))


@torch.inference_mode(False)
def invert(
    network: Network | str,
    images: Float[Tensor, "n 3 h w"] | Images,
    feature: Feature | str,
    through: str,
    *,
    sign: int,
    settings: SynthesisSettings | None = None,
    rule: Rule | str = "gradient",
    baseline: Float[Tensor, "k h w"] | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """From noise, make images that drive a feature as one side of given images does.

    Args:
        network: a network or its name.
        images: photographs, or the network's own input as a tensor.
        feature: the feature.
        through: the layer whose attribution is the target.
        sign: +1 for the excitatory part of S, -1 for the inhibitory part.
        settings: how.
        rule, baseline: how S is computed, as in `attribute`.
        progress: called with the steps done and the steps in all.
    Raises:
        EmptyTarget: an image in which that part of S is empty.
        ValueError: names, units or positions that do not fit.
    Source: paper, section 4, eqs. 4 and 5.
    """
    network, settings = load(network), settings or SynthesisSettings()
    inputs = network_input(network, images)
    targets = _targets(network, inputs, feature, through, sign, rule, baseline)
    return _in_batches(
        network, targets, _noise(network, targets, settings), RATES["inversion"], settings, progress
    )


@torch.inference_mode(False)
def invert_attribution(
    network: Network,
    attribution: Float[Tensor, "n k y x"],
    feature: Feature | str,
    through: str,
    *,
    sign: int,
    hidden: Float[Tensor, "n k y x"] | None = None,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """From noise, make images whose through layer looks as one side of given attributions does.

    Unlike `invert`, which computes S itself, this takes any S, such as the mean of many images'.
    The feature's activation is not watched on the way, so that a pass ends at the through layer.

    Args:
        network: the network.
        attribution: S within the window of the through layer where it is not zero.
        feature: the feature.
        through: the layer that S belongs to.
        sign: +1 for the excitatory part of S, -1 for the inhibitory part, 0 for |S|.
        hidden: h within the window, where it can be negative; by default it is >= 0.
        settings: how.
        progress: called with the steps done and the steps in all.
    Raises:
        EmptyTarget: that part of an S is empty.
        ValueError: names, units, positions or shapes that do not fit.
    Source: paper, section 5 and eq. 5.
    """
    settings = settings or SynthesisSettings()
    feature = network.resolve(feature)
    part = (_signed(sign) * attribution).clamp(min=0) if sign else attribution.abs()
    window = receptive_field(network, feature, through)
    expected = (network.map_shape(through)[0], window.height, window.width)
    if tuple(part.shape[1:]) != expected or (hidden is not None and hidden.shape != part.shape):
        raise ValueError(
            f"the attribution has shape {tuple(part.shape)}; {feature.label} through {through!r} "
            f"takes (n, {', '.join(map(str, expected))})"
        )
    _check_not_empty(part, feature, through, sign)
    if hidden is not None:
        part = hidden.sign() * part
    targets = _Targets(
        feature=feature,
        through=through,
        sign=sign,
        plan=plan_crop(network, [feature], through),
        part=part.to(network.device, network.dtype),
    )
    start = _noise(network, targets, settings)
    return _in_batches(network, targets, start, RATES["inversion"], settings, progress, watch=False)


@torch.inference_mode(False)
def accentuate(
    network: Network | str,
    images: Images,
    feature: Feature | str,
    through: str,
    *,
    sign: int,
    settings: SynthesisSettings | None = None,
    rule: Rule | str = "gradient",
    baseline: Float[Tensor, "k h w"] | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Change photographs so that one side of what drives a feature in them grows.

    Args and errors as `invert`; the photographs themselves are needed, for they are the start.
    Source: paper, section 4.
    """
    network, settings = load(network), settings or SynthesisSettings()
    chosen = open_images(images, size=network.preprocessing.size)
    inputs = network_input(network, chosen)
    targets = _targets(network, inputs, feature, through, sign, rule, baseline)
    canvas = settings.canvas_for(network)
    photographs = torch.stack([_photograph(network, entry, canvas) for entry in chosen])

    def start(which: slice, _: torch.Generator) -> Parameterisation:
        return Photographs(photographs[which].to(network.device))

    return _in_batches(network, targets, start, RATES["accentuation"], settings, progress)


@torch.inference_mode(False)
def visualise(
    network: Network | str,
    feature: Feature | str,
    *,
    sign: int = 1,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """From noise, make an image that excites (+1) or inhibits (-1) a feature: one image.

    The objective is the activation itself, before the ReLU, times the sign. Source: Olah et al.
    (2017); paper, figure 5.
    """
    network, settings = load(network), settings or SynthesisSettings()
    feature = network.resolve(feature)
    generator = torch.Generator().manual_seed(settings.seed)
    part = plan_crop(network, [feature], None)
    return ascend(
        network,
        PARAMETERISATIONS[settings.parameterisation](
            1, settings.canvas_for(network), generator=generator, device=network.device
        ),
        lambda hidden: _signed(sign) * part.feature.read(hidden),
        feature,
        sign=sign,
        part=part,
        transforms=settings.transforms,
        steps=settings.steps,
        rate=RATES["inversion"] if settings.rate is None else settings.rate,
        generator=generator,
        progress=progress,
    )


@dataclass(frozen=True, kw_only=True)
class _Targets:
    feature: Feature
    through: str
    sign: int
    plan: CropPlan
    part: Float[Tensor, "n k y x"]  # within the window where S is not zero


def _targets(
    network: Network,
    inputs: Tensor,
    feature: Feature | str,
    through: str,
    sign: int,
    rule: Rule | str = "gradient",
    baseline: Tensor | None = None,
) -> _Targets:
    """One side of S, as a direction of the through layer, in the window where S is not zero."""
    feature = network.resolve(feature)
    result = attribute(network, inputs, feature, through, rule=rule, baseline=baseline)
    part = (_signed(sign) * result.attribution).clamp(min=0)
    _check_not_empty(part, feature, through, sign)
    # Where the layer lies under what S starts from (GELU, before a ReLU, a mean as the baseline),
    # growing drive means a more negative layer.
    rows, columns = receptive_field(network, feature, through).slices
    return _Targets(
        feature=feature,
        through=through,
        sign=sign,
        plan=plan_crop(network, [feature], through),
        part=(result.change.sign() * part)[:, :, rows, columns],
    )


def _noise(
    network: Network, targets: _Targets, settings: SynthesisSettings
) -> Callable[[slice, torch.Generator], Parameterisation]:
    make, count = PARAMETERISATIONS[settings.parameterisation], len(targets.part)

    def start(which: slice, generator: torch.Generator) -> Parameterisation:
        size, number = settings.canvas_for(network), len(range(count)[which])
        return make(number, size, generator=generator, device=network.device)

    return start


def _check_not_empty(part: Tensor, feature: Feature, through: str, sign: int) -> None:
    empty = (~part.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        side = {1: "excites", -1: "inhibits", 0: "drives"}[sign]
        raise EmptyTarget(
            f"nothing {side} {feature.label} through {through!r} in image "
            f"{', '.join(map(str, empty))} of {len(part)} (counted from 0): there is no direction "
            "to invert"
        )


def _in_batches(
    network: Network,
    targets: _Targets,
    start: Callable[[slice, torch.Generator], Parameterisation],
    rate: float,
    settings: SynthesisSettings,
    progress: Progress | None,
    *,
    watch: bool = True,
) -> Synthesis:
    count = len(targets.part)
    batches = [slice(i, min(i + settings.batch, count)) for i in range(0, count, settings.batch)]
    results = []
    for number, which in enumerate(batches):
        generator = torch.Generator().manual_seed(settings.seed)
        wanted = targets.part[which].repeat(settings.transforms.draws, 1, 1, 1)

        def objective(hidden: Tensor, wanted: Tensor = wanted) -> Tensor:
            return dot_cosine(targets.plan.within(hidden), wanted, settings.power)

        def report(done: int, steps: int, number: int = number) -> None:
            if progress is not None:
                progress(number * steps + done, len(batches) * steps)

        results.append(
            ascend(
                network,
                start(which, generator),
                objective,
                targets.feature,
                sign=targets.sign,
                part=targets.plan,
                transforms=settings.transforms,
                steps=settings.steps,
                rate=rate if settings.rate is None else settings.rate,
                generator=generator,
                watch=watch,
                progress=report,
            )
        )
    return Synthesis(
        feature=targets.feature,
        sign=targets.sign,
        image=torch.cat([x.image for x in results]),
        opacity=torch.cat([x.opacity for x in results]),
        objective=torch.cat([x.objective for x in results], 1),
        activation=torch.cat([x.activation for x in results], 1),
        final=torch.cat([x.final for x in results]),
    )


def _photograph(
    network: Network, entry: ImageEntry, canvas: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """The part of a photograph that the network sees, at the canvas' size, in [0, 1]."""
    prepared = network.preprocessing
    factor = canvas[0] / prepared.size[0]
    short = None if prepared.resize is None else round(prepared.resize * factor)
    pixels = load_image(entry, size=canvas, resize=short)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _signed(sign: int) -> int:
    if sign not in (1, -1):
        raise ValueError(f"sign is +1 (excitation) or -1 (inhibition), got {sign!r}")
    return sign
