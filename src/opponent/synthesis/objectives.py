"""What an image is optimised for: the built-in objectives, and the protocol.

Objectives add and scale: `DotCosine() + 0.1 * Mine()`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.plugins import load_object
from opponent.core.side import Side

# With it, a start that points away from the target still climbs. Without it, dot * cos = dot^2 /
# norms would reward pointing away. Source: as in Lucid's activation atlas objective.
LEAST_COSINE = 0.1


@dataclass(frozen=True, kw_only=True)
class Views:
    """What an objective sees at one step: m views of the images, with the graph to them.

    A step draws several views of each image: m is their number times the number of images.

    Args:
        images: the views, in [0, 1], with noise; only the box that the feature depends on.
        hidden: the through layer, within the window where S is not zero, less a dictionary's bias
            where S is of latents; in a feature visualisation, the feature's own layer.
        target: the direction that `hidden` should take; None in a feature visualisation.
        activation: the feature's activation in a feature visualisation; None elsewhere, where a
            pass keeps no graph beyond the through layer.

    >>> import opponent, torch
    >>> views = opponent.Views(
    ...     images=torch.zeros(2, 3, 8, 8), hidden=torch.ones(2, 4, 1, 1),
    ...     target=torch.full((2, 4, 1, 1), 0.5))
    >>> opponent.DotCosine().values(views)
    tensor([2., 2.])
    """

    images: Float[Tensor, "m 3 y x"]
    hidden: Float[Tensor, "m k h w"]
    target: Float[Tensor, "m k h w"] | None = None
    activation: Float[Tensor, " m"] | None = None


@runtime_checkable
class Objective(Protocol):
    """An objective: one value for each view, which the optimisation raises.

    A user's class inherits from this class and defines `label` and `values`. It can then be added
    to other objectives and scaled, `DotCosine() + 0.1 * Mine()`.

    >>> import opponent
    >>> class Smooth(opponent.Objective):
    ...     label = "smooth"
    ...     def values(self, views):
    ...         return -views.images.diff(dim=3).square().mean((1, 2, 3))
    >>> objective = opponent.Activation() + 0.1 * Smooth()
    >>> objective.label
    'activation + 0.1 * (smooth)'
    >>> opponent.visualise(
    ...     "inceptionv1-small", "mixed3b:189",
    ...     settings=opponent.SynthesisSettings(steps=2, objective=objective))
    Synthesis('mixed3b:189@7,7', excitation: 1 image of 256 x 256)
    """

    @property
    def label(self) -> str:
        """The objective's name in files. Objectives that differ need different labels."""
        ...

    def values(self, views: Views) -> Float[Tensor, " m"]:
        """One value for each view, with the graph to its images.

        Args:
            views: what the objective sees at one step.
        """
        ...

    def __add__(self, other: "Objective") -> "Objective":
        return _Sum(self, other)

    def __sub__(self, other: "Objective") -> "Objective":
        return _Sum(self, _Scaled(-1.0, other))

    def __mul__(self, factor: float | int) -> "Objective":
        return _Scaled(float(factor), self)

    def __rmul__(self, factor: float | int) -> "Objective":
        return _Scaled(float(factor), self)

    def __neg__(self) -> "Objective":
        return _Scaled(-1.0, self)


@dataclass(frozen=True)
class _Sum(Objective):
    first: Objective
    second: Objective

    @property
    def label(self) -> str:
        return f"{self.first.label} + {self.second.label}"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        return self.first.values(views) + self.second.values(views)


@dataclass(frozen=True)
class _Scaled(Objective):
    factor: float
    objective: Objective

    @property
    def label(self) -> str:
        return f"{_number(self.factor)} * ({self.objective.label})"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        return self.factor * self.objective.values(views)


@dataclass(frozen=True)
class DotCosine(Objective):
    """The dot product with the target times a power of the cosine: what inversions climb.

    Args:
        power: p; 0 gives the dot product alone.
    Source: paper, eq. 5 and appendix C.

    >>> import opponent
    >>> (2 * opponent.DotCosine(power=2.0)).label
    '2 * (dot * cos^2)'
    """

    power: float = 1.0

    @property
    def label(self) -> str:
        """'dot * cos^1', for example."""
        return f"dot * cos^{_number(self.power)}"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        """The dot product times the power of the cosine, which is clamped from below.

        Args:
            views: of an inversion or an accentuation.
        Raises:
            ValueError: there is no target, as in a feature visualisation.
        """
        if views.target is None:
            raise ValueError(f"{self.label} needs a target: it serves inversions")
        return dot_cosine(views.hidden, views.target, self.power)


@dataclass(frozen=True)
class Activation(Objective):
    """The feature's activation, or its negative: what feature visualisations climb.

    Args:
        side: excitation raises the activation, inhibition lowers it.
    Source: Olah et al. (2017); paper, figure 5.

    >>> import opponent
    >>> opponent.Activation(opponent.Side.INHIBITION).label
    '-activation'
    """

    side: Side = Side.EXCITATION

    @property
    def label(self) -> str:
        """'activation' or '-activation'."""
        return "activation" if self.side is Side.EXCITATION else "-activation"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        """The activation times +1 or -1.

        Args:
            views: of a feature visualisation.
        Raises:
            ValueError: there is no activation, as in an inversion.
        """
        if views.activation is None:
            raise ValueError(f"{self.label} serves feature visualisations")
        return self.side.sign * views.activation


def _number(value: float) -> str:
    """A number for a label, with all its digits: numbers that differ have other labels."""
    return repr(value).removesuffix(".0")


def dot_cosine(
    hidden: Float[Tensor, "n k h w"], target: Float[Tensor, "n k h w"], power: float = 1.0
) -> Float[Tensor, " n"]:
    """The dot product times a power of the cosine, clamped from below.

    Args:
        hidden: h, a layer's output.
        target: the direction that h should take: one side of S.
        power: p; 0 gives the dot product alone.
    Returns:
        One value for each image.
    Source: paper, eq. 5 and appendix C.
    """
    h, t = hidden.flatten(1), target.flatten(1)
    dot = (h * t).sum(1)
    if power == 0:
        return dot
    # A dead layer, all zero, has no direction; its dot product is zero as well.
    norms = (h.norm(dim=1) * t.norm(dim=1)).clamp(min=torch.finfo(h.dtype).tiny)
    weighted: Tensor = dot * (dot / norms).clamp(min=LEAST_COSINE) ** power
    return weighted


def parse_objective(objective: "Objective | str | None") -> Objective | None:
    """The objective itself, or that of a name.

    Args:
        objective: an objective; 'module:PACKAGE.MODULE:NAME' for an objective or for a class, which
            is called without arguments; None stays None.
    Raises:
        ValueError: the name is unknown, or names something else.
    """
    if not isinstance(objective, str):
        return objective
    own = load_object(objective)
    own = own() if isinstance(own, type) else own
    if not isinstance(own, Objective):
        raise ValueError(
            f"{objective!r} is {type(own).__name__}, no objective; a class of your own inherits "
            "from opponent.Objective"
        )
    return own
