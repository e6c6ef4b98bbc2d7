"""How images are synthesised."""

from dataclasses import asdict, dataclass, field

from opponent.models.network import Network
from opponent.synthesis.objectives import Objective, parse_objective
from opponent.synthesis.parameterisations import (
    ParameterisationClass,
    parameterisation_label,
    parse_parameterisation,
)
from opponent.synthesis.transforms import Transforms

# Pixels of the canvas for each pixel of the network's input. Source: design of the paper's code.
CANVAS = 512 / 224


def not_synthesised(network: Network) -> str | None:
    """Why no image can be synthesised for a network; None if one can."""
    channels = network.preprocessing.channels
    if channels == 3:
        return None
    return f"images are synthesised in RGB only, and {network.name} takes {channels} channels"


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """How images are synthesised.

    Args:
        steps: number of Adam's steps.
        rate: learning rate; None is 0.05, and 0.02 for accentuations.
        canvas: (height, width) of the images in pixels; None is 512 for a network of 224 pixels,
            and in proportion for others.
        power: p of dot * cos^p, the objective of inversions.
        objective: an objective, or 'module:PACKAGE.MODULE:NAME'; None is dot * cos^p for inversions
            and accentuations, and the activation for feature visualisations.
        parameterisation: 'phases', 'fourier', 'pixels', a class, or 'module:PACKAGE.MODULE:NAME'.
            Accentuations do not use it: they start from the photograph.
        transforms: how the views of each step are drawn.
        seed: seed of the first image and of the views.
        batch: number of images that are optimised together. It changes results by rounding alone.
    Raises:
        ValueError: a number is below 1, or a name is unknown.
    Source: paper, section 4; canvas and rates are those of its code.

    >>> import opponent
    >>> settings = opponent.SynthesisSettings(steps=50, parameterisation="fourier")
    >>> settings.canvas_for(opponent.load())
    (256, 256)
    """

    steps: int = 100
    rate: float | None = None
    canvas: tuple[int, int] | None = None
    power: float = 1.0
    objective: Objective | str | None = None
    parameterisation: ParameterisationClass | str = "phases"
    transforms: Transforms = field(default_factory=Transforms)
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.transforms.draws < 1:
            raise ValueError("steps, batch and draws must be at least 1")
        parse_parameterisation(self.parameterisation)
        parse_objective(self.objective)

    def canvas_for(self, network: Network) -> tuple[int, int]:
        """The canvas' (height, width) for a network.

        Args:
            network: the network that the images are for.
        Raises:
            ValueError: the network takes other images than RGB, which are not synthesised.
        """
        if reason := not_synthesised(network):
            raise ValueError(reason)
        height, width = network.preprocessing.size
        return self.canvas or (round(height * CANVAS), round(width * CANVAS))

    def describe(self) -> dict[str, object]:
        """What determines the images, ready for JSON; an objective only where it is given."""
        objective = parse_objective(self.objective)
        values: dict[str, object] = {
            "steps": self.steps,
            "rate": self.rate,
            "canvas": self.canvas,
            "power": self.power,
            "parameterisation": parameterisation_label(self.parameterisation),
            "transforms": asdict(self.transforms),
            "seed": self.seed,
            # The batch is left out: it changes no image.
        }
        return values if objective is None else values | {"objective": objective.label}
