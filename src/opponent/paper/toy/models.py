"""Toy models with one hidden layer: parameters, outputs, losses, attributions.

Source: paper, section 6 and appendix G; after Elhage et al. (2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from opponent.paper.toy.kernel import FEATURES
from opponent.paper.toy.tasks import IMPORTANCE, domain, inputs, probes, truth

PARAMETERS = ("w1", "b1", "w2", "b2")


@dataclass(frozen=True, kw_only=True)
class ToyModels:
    """Models of one task and width, one a seed: f' = ReLU(W2 ReLU(W1 x + b1) + b2).

    Args:
        task: 'abs', 'xor' or 'veto'.
        w1, b1, w2, b2: the parameters.
    Source: paper, eqs. 7 and 8.
    """

    task: str
    w1: Float[np.ndarray, "s m n"]
    b1: Float[np.ndarray, "s m"]
    w2: Float[np.ndarray, "s f m"]
    b2: Float[np.ndarray, "s f"]

    def __len__(self) -> int:
        """How many models."""
        return len(self.b1)

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return int(self.b1.shape[1])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def layer(self, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b m"]:
        """h, after the ReLU. Source: paper, eq. 7."""
        h: Float[np.ndarray, "s b m"] = x @ self.w1.swapaxes(1, 2) + self.b1[:, None]
        return np.asarray(np.maximum(h, 0))

    def outputs(self, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b f"]:
        """f' of each input. Source: paper, eq. 8."""
        f: Float[np.ndarray, "s b f"] = self.layer(x) @ self.w2.swapaxes(1, 2) + self.b2[:, None]
        return np.asarray(np.maximum(f, 0))

    def losses(self, x: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b"]:
        """The squared error of each input, weighted by importance. Source: paper, eq. 9."""
        loss: Float[np.ndarray, "s b"] = (self.outputs(x) - truth(self.task, x)) ** 2 @ IMPORTANCE
        return loss

    def attributions(
        self, x: Float[np.ndarray, "b n"]
    ) -> tuple[Float[np.ndarray, "s b f"], Float[np.ndarray, "s b f"]]:
        """Excitation and inhibition of each output, before its ReLU, through the hidden layer.

        Source: paper, eqs. 1 and 2; figure 7.
        """
        h = self.layer(x)
        # h >= 0: the sign of S is the weight's.
        return h @ np.maximum(self.w2, 0).swapaxes(1, 2), h @ np.maximum(-self.w2, 0).swapaxes(1, 2)

    @cached_property
    def expected(self) -> Float[np.ndarray, " s"]:
        """Mean loss over the domain, each input as likely as training draws its like."""
        return self._over_domain[0]

    @cached_property
    def worst(self) -> Float[np.ndarray, " s"]:
        """The largest loss over the domain."""
        return self._over_domain[1]

    @property
    def best(self) -> int:
        """The number of the best model: the smallest `expected`, the first of equals."""
        return int(np.argmin(self.expected))

    def tense(self) -> Int[np.ndarray, " s"]:
        """How many outputs the second of their `probes` excites and inhibits at once.

        For XOR, [1, 1]: an output is silent there because 'or' less 'and' is zero, or because the
        hidden layer is silent, as in |a - b|. At once: the smaller of the two is over half the
        larger, and the larger over a tenth of what [1, 0] brings.
        """
        excitation, inhibition = (
            s.reshape(len(self), 2, FEATURES, FEATURES).diagonal(axis1=2, axis2=3)
            for s in self.attributions(probes(self.task))
        )
        smaller = np.minimum(excitation, inhibition)[:, 1]
        larger = np.maximum(excitation, inhibition)
        at_once = (smaller > larger[:, 1] / 2) & (larger[:, 1] > larger[:, 0] / 10)
        return np.asarray(at_once.sum(axis=1))

    @cached_property
    def _over_domain(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        x, weight = domain(self.task)
        # One by one: a thousand models and 4,096 inputs at once would take a gigabyte.
        losses = (self.only([k]).losses(x)[0] for k in range(len(self)))
        both = np.array([(loss @ weight, loss.max()) for loss in losses]).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def only(self, which: Sequence[int]) -> "ToyModels":
        """The models of these numbers."""
        index = list(which)
        return ToyModels(task=self.task, **{name: x[index] for name, x in self.parameters.items()})


def flatten(models: ToyModels) -> Float[np.ndarray, "s p"]:
    """One row of parameters a model: W1, b1, W2, b2."""
    return np.concatenate([x.reshape(len(models), -1) for x in models.parameters.values()], axis=1)


def unflatten(task: str, hidden: int, rows: Float[np.ndarray, "s p"]) -> ToyModels:
    """The models of rows of parameters.

    Args:
        task: 'abs' or 'xor'.
        hidden: number of hidden units.
        rows: the parameters of each model, as `flatten` gives them.
    """
    n, m, f = inputs(task), hidden, FEATURES
    shapes = {"w1": (m, n), "b1": (m,), "w2": (f, m), "b2": (f,)}
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    columns = np.split(rows, ends[:-1], axis=1)
    return ToyModels(
        task=task,
        **{
            name: np.ascontiguousarray(values.reshape(len(rows), *shape))
            for (name, shape), values in zip(shapes.items(), columns, strict=True)
        },
    )
