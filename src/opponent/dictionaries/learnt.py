"""How a dictionary is to be learnt, and what came of it."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from opponent.dictionaries.dictionary import Dictionary


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a dictionary is learnt.

    Args:
        latents: how many directions.
        active: how many are on at once.
        steps: of Adam.
        batch: vectors a step.
        rate: of learning.
        kept_out: share of the images that measure what is left.
        random: whether the latents stay the random directions that they begin as, and only the
            encoder and the bias learn: a control, which knows nothing of the layer's features.
        seed: of all random numbers.
    Raises:
        ValueError: a number out of range.

    >>> import opponent
    >>> opponent.TrainingSettings(latents=1024, active=16).steps
    2000
    """

    latents: int = 4096
    active: int = 32
    steps: int = 2000
    batch: int = 2048
    rate: float = 1e-3
    kept_out: float = 0.1
    random: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latents", "active", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.active > self.latents:
            raise ValueError(f"{self.active} of {self.latents} latents cannot be active")
        if not 0 < self.kept_out < 1 or self.rate <= 0:
            raise ValueError(
                f"kept_out lies between 0 and 1 and rate above 0, got {self.kept_out} and "
                f"{self.rate}"
            )


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A dictionary, and how well it writes vectors that it was not learnt from.

    Args:
        dictionary: the dictionary.
        left: share of the variance of kept-out vectors that it leaves, from 0 to 1.
        curve: that of the training batches, every tenth of the steps or so, as (step, left).
        frequency: of each latent the share of kept-out vectors in which it is on.

    >>> import numpy as np, opponent
    >>> learnt = opponent.Learnt(
    ...     dictionary=opponent.Dictionary.identity(3), left=0.0, curve=(),
    ...     frequency=np.array([0.5, 0.0, 0.25]))
    >>> learnt.dead
    1
    """

    dictionary: Dictionary
    left: float
    curve: tuple[tuple[int, float], ...]
    frequency: Float[np.ndarray, " l"] = field(repr=False)

    @property
    def dead(self) -> int:
        """Latents that are on in no kept-out vector."""
        return int((self.frequency == 0).sum())
