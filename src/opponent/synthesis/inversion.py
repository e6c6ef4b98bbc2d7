"""Inversion, accentuation and feature visualisation: what either side of S looks like."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.attribution.rules import AttributionRule
from opponent.attribution.through_dictionary import check_dictionary
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.core.side import Side
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.planning import plan_crop
from opponent.geometry.receptive_field import receptive_field
from opponent.images.decode import load_image
from opponent.images.imageset import ImageEntry
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.models.state import undisturbed
from opponent.synthesis.objectives import Activation, DotCosine, parse_objective
from opponent.synthesis.optimise import ascend
from opponent.synthesis.parameterisations import (
    Parameterisation,
    Photographs,
    parse_parameterisation,
)
from opponent.synthesis.result import Synthesis
from opponent.synthesis.settings import SynthesisSettings
from opponent.synthesis.targets import Targets, targets_in, targets_of

# Adam's learning rates. Source: paper's code.
INVERSION_RATE, ACCENTUATION_RATE = 0.05, 0.02
# From the images of a batch, as a slice, and the source of noise, what is optimised for them.
_Start = Callable[[slice, torch.Generator], Parameterisation]


@undisturbed()
def invert(
    network: Network | nn.Module | str,
    images: Tensor | Images,
    feature: Feature | str,
    through: str,
    *,
    side: Side | str,
    settings: SynthesisSettings | None = None,
    rule: AttributionRule | str = "gradient",
    baseline: Float[Tensor, "k y x"] | None = None,
    dictionary: Dictionary | str | Path | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Synthesise images, from noise, that show one side of what drives a feature in given images.

    Args:
        network: a network, a module or a name.
        images: photographs, or the network's own input as a tensor.
        feature: the feature, or its name.
        through: the layer that it is explained through.
        side: 'excitation' inverts the positive part of S, 'inhibition' the negative part, 'both'
            |S|.
        settings: how the images are synthesised.
        rule: how S is computed: 'gradient', 'integrated-zero', 'integrated-mean', or a rule of the
            user's own.
        baseline: the through layer's mean, for 'integrated-mean'; default: the mean over these
            images.
        dictionary: of the through layer, or its file: the side is then that of its latents, and
            the image shows the sum of their directions.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        An image for each of the images, with its opacity, and the activation on the way.
    Raises:
        EmptyTarget: that side of S is empty in an image.
        ValueError: a name, unit, position or dictionary that does not fit.
        FileNotFoundError: there is no such folder or file of images.
        Unreadable: an image cannot be read.
    Source: paper, section 4, eqs. 4 and 5.

    >>> import opponent, torch
    >>> image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> opponent.invert(
    ...     "inceptionv1-small", image, "mixed3b:189", "mixed3a", side="inhibition",
    ...     settings=opponent.SynthesisSettings(steps=2))
    Synthesis('mixed3b:189@7,7', inhibition: 1 image of 256 x 256)
    """
    network, settings = load(network), settings or SynthesisSettings()
    inputs, ids = network.load_inputs(images)
    network = network.at_size((inputs.shape[2], inputs.shape[3]))
    targets = targets_in(
        network, inputs, feature, through, Side.of(side), rule=rule, baseline=baseline,
        dictionary=dictionary,
    )  # fmt: skip
    start = _noise(network, len(targets.direction), settings)
    synthesis = _in_batches(network, targets, start, INVERSION_RATE, settings, progress)
    return replace(synthesis, images=ids)


@undisturbed()
def invert_attribution(
    network: Network,
    attribution: Float[Tensor, "n k y x"],
    feature: Feature | str,
    through: str,
    *,
    side: Side | str,
    hidden: Float[Tensor, "n k y x"] | None = None,
    dictionary: Dictionary | None = None,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Synthesise images, from noise, that show one side of given attributions.

    `invert` computes S itself; this function takes any S, such as the mean over many images. It
    does not record the feature's activation, so that a pass ends at the through layer.

    Args:
        network: the network.
        attribution: S, within the window of the through layer where it is not zero.
        feature: the feature, or its name.
        through: the layer that S belongs to.
        side: 'excitation' inverts the positive part of S, 'inhibition' the negative part, 'both'
            |S|.
        hidden: h within the window, where h can be negative; default: h is >= 0. With a dictionary
            the code.
        dictionary: of the through layer, where S is of its latents.
        settings: how the images are synthesised.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        An image for each S, with its opacity.
    Raises:
        EmptyTarget: that side of an S is empty.
        ValueError: a name, unit, position or shape that does not fit.
    Source: paper, section 5 and eq. 5.

    >>> import opponent, torch
    >>> network = opponent.load()
    >>> images = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> result = opponent.attribute(network, images, "mixed3b:189", "mixed3a")
    >>> mean = result.window_attribution.mean(0, keepdim=True)
    >>> opponent.invert_attribution(
    ...     network, mean, "mixed3b:189", "mixed3a", side="excitation",
    ...     settings=opponent.SynthesisSettings(steps=2))
    Synthesis('mixed3b:189@7,7', excitation: 1 image of 256 x 256)
    """
    settings, side = settings or SynthesisSettings(), Side.of(side)
    feature = network.resolve(feature)
    window = receptive_field(network, feature, through)
    if dictionary is not None:
        check_dictionary(network, dictionary, through)
    terms = network.map_shape(through)[0] if dictionary is None else dictionary.latents
    expected = (terms, window.height, window.width)
    shape = tuple(attribution.shape)
    if shape[1:] != expected or (hidden is not None and tuple(hidden.shape) != shape):
        raise ValueError(
            f"the attribution has shape {shape}; {feature.label} through {through!r} takes "
            f"(n, {', '.join(map(str, expected))})"
        )
    targets = targets_of(
        network, attribution, hidden, feature, through, side, dictionary=dictionary
    )
    start = _noise(network, len(attribution), settings)
    return _in_batches(network, targets, start, INVERSION_RATE, settings, progress, watch=False)


@undisturbed()
def invert_directions(
    network: Network,
    direction: Float[Tensor, "n k y x"],
    feature: Feature,
    through: str,
    *,
    side: Side,
    origin: Float[Tensor, " k"] | None = None,
    settings: SynthesisSettings,
    progress: Progress | None = None,
) -> Synthesis:
    """Synthesise images, from noise, whose through layer takes given directions.

    Args:
        network: the network.
        direction: within the window of the through layer that the feature depends on.
        feature: the feature, with its position written out.
        through: the layer.
        side: the side that the result names.
        origin: what the layer is measured from, such as a dictionary's bias; None is zero.
        settings: how the images are synthesised.
        progress: called with what is being done, the steps done and the steps in all.
    """
    targets = Targets(
        feature=feature,
        side=side,
        plan=plan_crop(network, [feature], through),
        direction=direction.to(network.device, network.dtype),
        origin=None if origin is None else origin.to(network.device, network.dtype),
    )
    start = _noise(network, len(direction), settings)
    return _in_batches(network, targets, start, INVERSION_RATE, settings, progress, watch=False)


@undisturbed()
def accentuate(
    network: Network | nn.Module | str,
    images: Images,
    feature: Feature | str,
    through: str,
    *,
    side: Side | str,
    settings: SynthesisSettings | None = None,
    rule: AttributionRule | str = "gradient",
    baseline: Float[Tensor, "k y x"] | None = None,
    dictionary: Dictionary | str | Path | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Change photographs so that one side of what drives a feature in them grows.

    Args:
        network: a network, a module or a name.
        images: photographs. A tensor is not enough: the optimisation starts from the photographs.
        feature: the feature, or its name.
        through: the layer that it is explained through.
        side: 'excitation' lets the positive part of S grow, 'inhibition' the negative part, 'both'
            |S|.
        settings: how the photographs are changed.
        rule: how S is computed: 'gradient', 'integrated-zero', 'integrated-mean', or a rule of the
            user's own.
        baseline: the through layer's mean, for 'integrated-mean'; default: the mean over these
            images.
        dictionary: of the through layer, or its file: the side is then that of its latents, and
            the image shows the sum of their directions.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The changed photographs, with their opacity, and the activation on the way.
    Raises:
        EmptyTarget: that side of S is empty in an image.
        ValueError: a name, unit, position or dictionary that does not fit.
        FileNotFoundError: there is no such folder or file of images.
        Unreadable: an image cannot be read.
    Source: paper, section 4.

    >>> import numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> synthesis = opponent.accentuate(
    ...     "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", side="excitation",
    ...     settings=opponent.SynthesisSettings(steps=2))
    >>> synthesis, synthesis.images
    (Synthesis('mixed3b:189@7,7', excitation: 1 image of 256 x 256), ('0',))
    """
    network, settings = load(network), settings or SynthesisSettings()
    chosen = open_images(images, size=network.preprocessing.size)
    inputs, ids = network.load_inputs(chosen)
    targets = targets_in(
        network, inputs, feature, through, Side.of(side), rule=rule, baseline=baseline,
        dictionary=dictionary,
    )  # fmt: skip
    canvas = settings.canvas_for(network)
    photographs = torch.stack([_photograph(network, entry, canvas) for entry in chosen])

    def start(which: slice, _: torch.Generator) -> Parameterisation:
        return Photographs(photographs[which].to(network.device))

    synthesis = _in_batches(network, targets, start, ACCENTUATION_RATE, settings, progress)
    return replace(synthesis, images=ids)


@undisturbed()
def visualise(
    network: Network | nn.Module | str,
    feature: Feature | str,
    *,
    side: Side | str = Side.EXCITATION,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Synthesise one image, from noise, that excites or inhibits a feature.

    The objective is the activation, before the ReLU, or its negative.

    Args:
        network: a network, a module or a name.
        feature: the feature, or its name.
        side: 'excitation' or 'inhibition'.
        settings: how the image is synthesised.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The image, with its opacity, and the activation on the way.
    Raises:
        ValueError: a name, unit or position that does not fit, or both sides at once.
    Source: Olah et al. (2017); paper, figure 5.

    >>> import opponent
    >>> opponent.visualise(
    ...     "inceptionv1-small", "mixed3b:189", settings=opponent.SynthesisSettings(steps=2))
    Synthesis('mixed3b:189@7,7', excitation: 1 image of 256 x 256)
    """
    network, settings, side = load(network), settings or SynthesisSettings(), Side.single(side)
    feature = network.resolve(feature)
    generator = torch.Generator().manual_seed(settings.seed)
    start = parse_parameterisation(settings.parameterisation)(
        1, settings.canvas_for(network), generator=generator, device=network.device
    )
    with shown(progress) as report:
        return ascend(
            network,
            start,
            parse_objective(settings.objective) or Activation(side),
            feature,
            side=side,
            plan=plan_crop(network, [feature], None),
            transforms=settings.transforms,
            steps=settings.steps,
            rate=INVERSION_RATE if settings.rate is None else settings.rate,
            generator=generator,
            progress=lambda done, steps: report("optimising", done, steps),
        )


def _noise(network: Network, count: int, settings: SynthesisSettings) -> _Start:
    parameterisation = parse_parameterisation(settings.parameterisation)
    size = settings.canvas_for(network)

    def start(which: slice, generator: torch.Generator) -> Parameterisation:
        here = len(range(count)[which])
        return parameterisation(here, size, generator=generator, device=network.device)

    return start


def _in_batches(
    network: Network,
    targets: Targets,
    start: _Start,
    rate: float,
    settings: SynthesisSettings,
    progress: Progress | None,
    *,
    watch: bool = True,
) -> Synthesis:
    count = len(targets.direction)
    batches = [slice(i, min(i + settings.batch, count)) for i in range(0, count, settings.batch)]
    results = []
    with shown(progress) as report:
        for number, which in enumerate(batches):
            generator = torch.Generator().manual_seed(settings.seed)

            def step(done: int, steps: int, number: int = number) -> None:
                report("optimising", number * steps + done, len(batches) * steps)

            results.append(
                ascend(
                    network,
                    start(which, generator),
                    parse_objective(settings.objective) or DotCosine(settings.power),
                    targets.feature,
                    side=targets.side,
                    plan=targets.plan,
                    target=targets.direction[which],
                    origin=targets.origin,
                    transforms=settings.transforms,
                    steps=settings.steps,
                    rate=rate if settings.rate is None else settings.rate,
                    generator=generator,
                    watch=watch,
                    progress=step,
                )
            )
    return Synthesis(
        feature=targets.feature,
        side=targets.side,
        image=torch.cat([x.image for x in results]),
        opacity=torch.cat([x.opacity for x in results]),
        objective=torch.cat([x.objective for x in results], 1),
        activation=torch.cat([x.activation for x in results], 1),
        final=torch.cat([x.final for x in results]),
    )


def _photograph(
    network: Network, entry: ImageEntry, canvas: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """The crop of a photograph that the network sees, at the canvas' size, in [0, 1]."""
    prepared = network.preprocessing
    factor = canvas[0] / prepared.size[0]
    short = None if prepared.resize is None else round(prepared.resize * factor)
    fit = replace(prepared.fit, size=canvas, resize=short, draft=False)
    pixels = torch.from_numpy(load_image(entry, fit)).permute(2, 0, 1).float()
    return pixels / 255 if fit.in_bytes else pixels.clamp(0, 1)
