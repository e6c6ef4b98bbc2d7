"""What drives a feature, split into excitation and inhibition."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.core.box import Box
from opponent.core.errors import Unreadable
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan
from opponent.images.sources import ImageSet, load, open_images, stream
from opponent.models.network import PIXELS, ForwardResult, Network
from opponent.models.registry import load as load_network

# Points of the way that the gradient is integrated at. Captum takes 50. The less smooth a network
# is, the more it needs: what a scan prints, the correlation of E with f, says whether these do.
STEPS = 32
# Images at a time, counting each point of a path as one.
AT_ONCE = 64

Images = str | Path | Sequence[str | Path] | ImageSet


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a feature's activation is attributed to the through layer.

    Args:
        kind: 'gradient', the gradient times the layer's output h, or 'integrated', the gradient's
            mean on the way from a baseline to h, times the way: its sum is the activation less what
            the baseline gives, whatever the layers between.
        baseline: 'zero', or the 'mean' of h over images.
        steps: points of the way.
    Raises:
        ValueError: another kind or baseline, or no step.
    Source: paper, eq. 1; Sundararajan et al. (2017), integrated gradients.

    >>> Rule.parse("integrated-mean/32")
    Rule(kind='integrated', baseline='mean', steps=32)
    """

    kind: str = "gradient"
    baseline: str = "zero"
    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.kind not in ("gradient", "integrated") or self.baseline not in ("zero", "mean"):
            raise ValueError(f"{self.kind!r} with baseline {self.baseline!r}: {_RULES}")
        if self.steps < 1:
            raise ValueError(f"a path has at least one step, not {self.steps}")

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule that a text names: 'gradient', 'integrated-zero', 'integrated-mean/32'.

        Raises:
            ValueError: the text names no rule.
        """
        match = re.fullmatch(r"integrated-(zero|mean)(/\d+)?", text)
        if match is not None:
            steps = int(match[2][1:]) if match[2] else STEPS
            return cls(kind="integrated", baseline=match[1], steps=steps)
        if text != "gradient":
            raise ValueError(f"{text!r} names no rule of attribution: {_RULES}")
        return cls()

    @property
    def label(self) -> str:
        """The text that names the rule."""
        if self.kind == "gradient":
            return self.kind
        return f"{self.kind}-{self.baseline}/{self.steps}"

    def path(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """Points of the way from the baseline (0) to h (1), and their weights: Gauss-Legendre."""
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        return (points + 1) / 2, weights / 2


_RULES = "there are gradient, integrated-zero and integrated-mean; the last two may end /STEPS"


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What drives one feature in each of n images, through one layer with maps of k x h x w.

    Args:
        feature: with its position written out.
        through: the layer that the activation is explained through.
        activation: f_v, before the ReLU.
        attribution: S, by default the gradient of the activation times the through layer's output;
            like all that follows, in units of the activation.
        hidden: h, the through layer's output.
        baseline: what S starts from; None is zero.
        window: the box of the whole map that these are, where S is zero outside; None is all of it.
    """

    feature: Feature
    through: str
    activation: Float[Tensor, " n"]
    attribution: Float[Tensor, "n k h w"]
    hidden: Float[Tensor, "n k h w"]
    baseline: Float[Tensor, "k h w"] | None = None
    window: Box | None = None

    @property
    def change(self) -> Float[Tensor, "n k h w"]:
        """What S weighs: h less the baseline."""
        return self.hidden if self.baseline is None else self.hidden - self.baseline

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


@torch.inference_mode(False)
def attribute_each(
    network: Network,
    inputs: Float[Tensor, "n 3 h w"],
    features: Sequence[Feature],
    through: str,
    *,
    rule: Rule | None = None,
    baseline: Float[Tensor, "k y x"] | None = None,
    plan: CropPlan | None = None,
) -> list[Attribution]:
    """Attribute several features of one layer, which share the forward pass.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: features of one and the same layer.
        through: an earlier layer.
        rule: default: the gradient times h.
        baseline: the mean of h, for a rule that starts there (see `mean_activation`).
        plan: of these features through that layer, to compute no more than S needs; default: the
            whole images.
    Returns:
        One result a feature, without graph; with a plan, of its window alone.
    Raises:
        ValueError: no feature, features of several layers, or a name or position that does not fit;
            a target that does not depend on the through layer; no baseline where one is needed.
    Source: paper, eq. 1.
    """
    layers = {feature.layer for feature in features}
    if len(layers) != 1:
        raise ValueError(f"one pass takes features of one layer, got {sorted(layers) or 'none'}")
    rule = rule or Rule()
    plan = plan or CropPlan(features=tuple(features), through=through)
    if rule.kind == "gradient":
        return _gradient(network, inputs, features, plan)
    if (baseline is None) != (rule.baseline == "zero"):
        raise ValueError(
            f"the rule {rule.label} takes "
            + ("a baseline: `mean_activation` computes it" if baseline is None else "no baseline")
        )
    copies = rule.steps + 1
    parts = [
        _integrated(network, some, features, plan, rule, baseline)
        for some in inputs.split(max(1, AT_ONCE // copies))
    ]
    return [
        replace(
            same[0],
            activation=torch.cat([x.activation for x in same]),
            attribution=torch.cat([x.attribution for x in same]),
            hidden=torch.cat([x.hidden for x in same]),
        )
        for same in zip(*parts, strict=True)
    ]


def _gradient(
    network: Network, inputs: Tensor, features: Sequence[Feature], plan: CropPlan
) -> list[Attribution]:
    """The gradient times h. Source: paper, eq. 1."""
    reading = plan.run(network, inputs, differentiate="target")
    assert reading.through is not None
    assert plan.through is not None
    hidden = plan.within(reading.through.detach())
    return [
        Attribution(
            feature=feature,
            through=plan.through,
            activation=activation,
            attribution=plan.within(gradient) * hidden,
            hidden=hidden,
            window=plan.window,
        )
        for feature, activation, gradient in _gradients(reading, features, plan)
    ]


def _integrated(
    network: Network,
    inputs: Tensor,
    features: Sequence[Feature],
    plan: CropPlan,
    rule: Rule,
    baseline: Tensor | None,
) -> list[Attribution]:
    """The gradient's mean on the way from the baseline to h, times the way."""
    count, found = len(inputs), list[Tensor]()
    # The last point is h itself, where the activation is read.
    points = inputs.new_tensor([*rule.path()[0], 1.0]).view(-1, 1, 1, 1, 1)
    weights = inputs.new_tensor([*rule.path()[1], 0.0])
    start = None if baseline is None else plan.of_whole(baseline[None])[0]

    def along(layer: Tensor) -> Tensor:
        hidden = layer[:count].detach()
        found.append(hidden)
        first = torch.zeros_like(hidden[0]) if start is None else start
        return (first + points * (hidden - first)).flatten(0, 1)

    # As many copies as points from the start: a network may remember how many images came.
    copies = inputs.repeat(len(points), 1, 1, 1)
    reading = plan.run(network, copies, differentiate="target", substitute=along)
    assert plan.through is not None
    [hidden] = found
    change = hidden if start is None else hidden - start
    return [
        Attribution(
            feature=feature,
            through=plan.through,
            activation=activation[-count:].clone(),
            attribution=plan.within(
                torch.einsum("s,snkyx->nkyx", weights, gradient.unflatten(0, (-1, count))) * change
            ),
            hidden=plan.within(hidden),
            baseline=None if start is None else plan.within(start[None])[0],
            window=plan.window,
        )
        for feature, activation, gradient in _gradients(reading, features, plan)
    ]


def _gradients(
    reading: ForwardResult, features: Sequence[Feature], plan: CropPlan
) -> Iterator[tuple[Feature, Float[Tensor, " m"], Float[Tensor, "m k h w"]]]:
    """Each feature, its activation and its gradient by the through layer."""
    assert reading.through is not None
    shape = reading.target.shape[1:]
    for number, (whole, feature) in enumerate(zip(features, plan.features, strict=True), 1):
        with torch.enable_grad():
            activation, gradient = feature.read(reading.target), None
            if activation.requires_grad:
                [gradient] = torch.autograd.grad(
                    activation.sum(),
                    reading.through,
                    retain_graph=number < len(plan.features),
                    allow_unused=True,
                )
        if gradient is None:
            raise ValueError(
                f"{feature.label} does not depend on {plan.through!r}: they lie on two branches"
            )
        # A copy, since a view would keep the whole layer's map.
        placed = whole.placed(*shape) if plan.box is None else whole
        yield placed, activation.detach().clone(), gradient


@torch.inference_mode(False)
def mean_activation(
    network: Network, images: Images, through: str, count: int = 1000
) -> Float[Tensor, "k h w"]:
    """The mean of a layer over the first images that can be read: a baseline.

    Args:
        network: the network.
        images: photographs.
        through: the layer, or 'pixels'.
        count: how many images at most.
    Raises:
        ValueError: an unknown layer, or no image that can be read.
    """
    prepared, total, done = network.preprocessing, torch.zeros(()), 0
    found = open_images(images, size=prepared.size)
    decoded = stream(
        found.entries[:count], size=prepared.size, resize=prepared.resize, draft=prepared.draft
    )
    with closing(decoded):
        while batch := list(islice(decoded, AT_ONCE)):
            readable = [image for image in batch if not isinstance(image, Unreadable)]
            if readable:
                inputs = network.inputs(np.stack(readable))
                hidden = inputs
                if through != PIXELS:
                    hidden = network.run(inputs, through, after=True).target
                total = total + hidden.sum(0, dtype=torch.float64)
                done += len(readable)
    if not done:
        raise ValueError(f"none of the first {count} images of {found.source!r} can be read")
    return (total / done).to(network.dtype)


def attribute(
    network: Network | nn.Module | str,
    images: Float[Tensor, "n 3 h w"] | Images,
    feature: Feature | str,
    through: str,
    *,
    rule: Rule | str = "gradient",
    baseline: Float[Tensor, "k y x"] | None = None,
) -> Attribution:
    """What drives a feature in each image, split into excitation and inhibition.

    Args:
        network: a network, a module or a name.
        images: photographs (a folder, files, a list), or the network's own input as a tensor.
        feature: a feature or its name, such as 'mixed3b:379' or 'logits:254'.
        through: an earlier layer, or 'pixels'.
        rule: 'gradient', 'integrated-zero' or 'integrated-mean'.
        baseline: the through layer's mean, for the last (see `mean_activation`).
    Raises:
        ValueError: a name, unit, position or shape that does not fit.
        Unreadable: an image that cannot be read.
    Source: paper, eqs. 1 to 3.
    """
    network = load_network(network)
    inputs = network_input(network, images)
    rule = rule if isinstance(rule, Rule) else Rule.parse(rule)
    [result] = attribute_each(
        network, inputs, [Feature.of(feature)], through, rule=rule, baseline=baseline
    )
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
            pixels.append(
                load(entry, size=prepared.size, resize=prepared.resize, draft=prepared.draft)
            )
        except Unreadable as error:
            raise Unreadable(f"{entry.path} cannot be read: {error.reason}") from error
    return network.inputs(np.stack(pixels))
