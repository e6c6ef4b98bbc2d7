"""How a feature's activation is attributed to the through layer: the rules, and how to add one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.segment import Segment
from opponent.core.plugins import load_object, names_object

# Points of the integration path. Captum takes 50. The less smooth a network is, the more it needs:
# what a scan prints, the correlation of E with f, says whether these do.
STEPS = 32


@runtime_checkable
class AttributionRule(Protocol):
    """A rule of attribution: from a segment of a network, S for each of its features.

    A class of the user's own with these members serves wherever a rule's name does. Whoever
    inherits from this class need not repeat `needs_mean` and `copies`.

    `segment.hidden` is a crop of the through layer's map where S, on the first images, is then that
    of the whole image; else it is the whole map. A rule with random numbers draws them from a seed,
    and the same for each image: otherwise S depends on the images that go together.

    >>> import opponent, torch
    >>> class GradientAlone(opponent.AttributionRule):
    ...     label = "gradient-alone"
    ...     def attribute(self, segment):
    ...         return segment.unchanged.gradients()
    >>> image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> opponent.attribute(
    ...     "inceptionv1-small", image, "mixed3b:189", "mixed3a", rule=GradientAlone())
    Attribution('mixed3b:189@7,7' through 'mixed3a': 1 image)
    """

    needs_mean: bool = False
    """Whether S starts from the mean of the through layer; it is then `segment.baseline`."""
    copies: int = 1
    """How many copies of an image go through at once; fewer images go together then."""

    @property
    def label(self) -> str:
        """The rule's name in files. Rules that give other numbers have other labels."""
        ...

    def attribute(self, segment: Segment) -> Iterable[Float[Tensor, "n k y x"]]:
        """S of each of the segment's features, in their order, as `segment.hidden` is shaped.

        Args:
            segment: the part of the network from the through layer to the features.
        """
        ...


@dataclass(frozen=True)
class Gradient(AttributionRule):
    """The gradient times h.

    Source: paper, eq. 1.

    >>> import opponent, torch
    >>> image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> opponent.attribute(
    ...     "inceptionv1-small", image, "mixed3b:189", "mixed3a", rule=opponent.Gradient())
    Attribution('mixed3b:189@7,7' through 'mixed3a': 1 image)
    """

    @property
    def label(self) -> str:
        """'gradient'."""
        return "gradient"

    def attribute(self, segment: Segment) -> Iterable[Float[Tensor, "n k y x"]]:
        """The derivative of each activation by h, times h.

        Args:
            segment: the part of the network from the through layer to the features.
        """
        hidden = segment.hidden
        return (gradient * hidden for gradient in segment.unchanged.gradients())


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(AttributionRule):
    """The mean gradient on the straight path from a baseline to h, times h less the baseline.

    Its sum is the activation less what the baseline gives, whatever the layers between.

    Args:
        baseline: 'zero', or the 'mean' of h over images.
        steps: points of the path.
    Raises:
        ValueError: another baseline, or no step.
    Source: Sundararajan, Taly & Yan (2017), eq. 1.

    >>> import opponent, torch
    >>> rule = opponent.IntegratedGradients(steps=4)
    >>> rule.label
    'integrated-zero/4'
    >>> image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> opponent.attribute("inceptionv1-small", image, "mixed3b:189", "mixed3a", rule=rule)
    Attribution('mixed3b:189@7,7' through 'mixed3a': 1 image)
    """

    baseline: Literal["zero", "mean"] = "zero"
    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.baseline not in ("zero", "mean"):
            raise ValueError(f"a path begins at 'zero' or at the 'mean', not at {self.baseline!r}")
        if self.steps < 1:
            raise ValueError(f"a path has at least one step, not {self.steps}")

    @property
    def label(self) -> str:
        """'integrated-zero/32', for example."""
        return f"integrated-{self.baseline}/{self.steps}"

    @property
    def needs_mean(self) -> bool:  # type: ignore[override]
        """Whether the path starts from the mean."""
        return self.baseline == "mean"

    @property
    def copies(self) -> int:  # type: ignore[override]
        """One for each point of the path."""
        return self.steps

    def path(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """Points from the baseline (0) to h (1), and their weights: Gauss-Legendre quadrature."""
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        return (points + 1) / 2, weights / 2

    def attribute(self, segment: Segment) -> Iterable[Float[Tensor, "n k y x"]]:
        """The weighted sum of the gradients at the points of the path, times h less its start.

        Args:
            segment: the part of the network from the through layer to the features.
        """
        hidden = segment.hidden
        points, weights = (hidden.new_tensor(x) for x in self.path())
        start = torch.zeros_like(hidden[0]) if segment.baseline is None else segment.baseline
        change = hidden - start

        def along_path(_: Tensor) -> Tensor:
            return (start + points.view(-1, 1, 1, 1, 1) * change).flatten(0, 1)

        passed = segment.forward(along_path, copies=self.steps)
        for gradient in passed.gradients():
            by_point = gradient.unflatten(0, (self.steps, -1))
            yield torch.einsum("s,snkyx->nkyx", weights, by_point) * change


# What no rule of the user's own may call itself; subclasses are the user's own.
BUILT_IN = (Gradient, IntegratedGradients)
_NAMES = "there are gradient, integrated-zero and integrated-mean; the last two may end /STEPS"


def parse_rule(rule: "AttributionRule | str") -> AttributionRule:
    """The rule that a caller gave: itself, or its name.

    Args:
        rule: a rule, 'gradient', 'integrated-zero', 'integrated-mean/32', or
            'module:PACKAGE.MODULE:NAME' for a rule, or a class of rules, of the user's own.
    Raises:
        ValueError: the text names no rule; a rule of the user's own has the label of a built-in
            one.

    >>> parse_rule("integrated-mean/16")
    IntegratedGradients(baseline='mean', steps=16)
    """
    if not isinstance(rule, str):
        return _own_rule(rule, type(rule).__name__)
    if names_object(rule):
        return _own_rule(load_object(rule), repr(rule))
    built_in = _built_in(rule)
    if built_in is None:
        raise ValueError(f"{rule!r} names no rule of attribution: {_NAMES}")
    return built_in


def _built_in(name: str) -> AttributionRule | None:
    match = re.fullmatch(r"integrated-(zero|mean)(/\d+)?", name)
    if match is not None:
        steps = int(match[2][1:]) if match[2] else STEPS
        return IntegratedGradients(baseline="mean" if match[1] == "mean" else "zero", steps=steps)
    return Gradient() if name == "gradient" else None


def _own_rule(rule: object, name: str) -> AttributionRule:
    """A rule, or what a class of rules gives, after a check of its members and its label."""
    rule = rule() if isinstance(rule, type) else rule
    if not isinstance(rule, AttributionRule):
        raise ValueError(
            f"{name} is no rule of attribution: it needs `label`, `needs_mean`, `copies` and "
            "`attribute(segment)`"
        )
    if type(rule) not in BUILT_IN and _built_in(rule.label) is not None:
        raise ValueError(
            f"{name} has the label {rule.label!r}, which is that of a built-in rule; results could "
            "not be told apart: give it another"
        )
    return rule
