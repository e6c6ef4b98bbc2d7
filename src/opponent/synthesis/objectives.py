"""What an image is optimised for: objectives, which add and scale, and how to write one."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.plugins import load_object
from opponent.core.side import Side

# A start that points away from the target still climbs; without it dot * cos = dot^2 / norms would
# reward pointing away. Source: as in Lucid's activation atlas objective.
LEAST_COSINE = 0.1


@dataclass(frozen=True, kw_only=True)
class Views:
    """What an objective sees of the images at one step: m views of them, with their graph.

    Args:
        images: the views themselves, in [0, 1], with noise; the part that the network is given.
        hidden: the through layer within the window where S is not zero; without a through layer,
            the feature's own layer.
        target: the direction that `hidden` is to take; None in a feature visualisation.
        activation: the feature's, in a feature visualisation; else None, since a pass then keeps no
            graph beyond the through layer.
    """

    images: Float[Tensor, "m 3 y x"]
    hidden: Float[Tensor, "m k h w"]
    target: Float[Tensor, "m k h w"] | None = None
    activation: Float[Tensor, " m"] | None = None


@runtime_checkable
class Objective(Protocol):
    """An objective: one value for each view, to be made large.

    A class of the user's own inherits from this one and defines `label` and `values`; then it adds
    to other objectives and scales, `DotCosine() + 0.1 * Mine()`.
    """

    @property
    def label(self) -> str:
        """The objective's name in files. Objectives that differ have other labels."""
        ...

    def values(self, views: Views) -> Float[Tensor, " m"]:
        """One value a view, with the graph to its images."""
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
        power: p; 0 is the dot product alone.
    Source: paper, eq. 5 and appendix C.
    """

    power: float = 1.0

    @property
    def label(self) -> str:
        """'dot * cos^1', for example."""
        return f"dot * cos^{_number(self.power)}"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        """The dot product times the power of the cosine, which is clamped from below.

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
    """

    side: Side = Side.EXCITATION

    @property
    def label(self) -> str:
        """'activation' or '-activation'."""
        return "activation" if self.side is Side.EXCITATION else "-activation"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        """The activation times +1 or -1.

        Raises:
            ValueError: it has no graph, as in an inversion.
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
        target: the direction that it should take, S's positive or negative part.
        power: p; 0 is the dot product alone.
    Returns:
        One value an image.
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
    """The objective that a caller gave: itself, or 'module:PACKAGE.MODULE:NAME'.

    Raises:
        ValueError: the text names no objective.
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
