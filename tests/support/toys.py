"""Toy models for tests: built by hand, as PyTorch modules, batches, gradients."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from opponent.paper.toy import kernel
from opponent.paper.toy.kernel import BATCH, FEATURES
from opponent.paper.toy.models import ToyModels, flatten
from opponent.paper.toy.tasks import IMPORTANCE, ON, inputs, truth

I6 = np.eye(FEATURES)


def net(task: str, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray) -> ToyModels:
    return ToyModels(task=task, w1=w1[None], b1=b1[None], w2=w2[None], b2=np.zeros((1, FEATURES)))


def by_hand(task: str) -> ToyModels:
    """|x| = ReLU(x) + ReLU(-x); XOR = or - 2 and, with or = ReLU(a + b), and = ReLU(a + b - 1)."""
    if task == "abs":
        return net(task, np.vstack([I6, -I6]), np.zeros(12), np.hstack([I6, I6]))
    pairs = np.kron(I6, np.ones((1, 2)))
    biases = np.repeat([0.0, -1.0], FEATURES)
    return net(task, np.vstack([pairs, pairs]), biases, np.hstack([I6, -2 * I6]))


def module(toys: ToyModels, which: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        model = nn.Sequential(
            nn.Linear(inputs(toys.task), toys.hidden),
            nn.ReLU(),
            nn.Linear(toys.hidden, FEATURES),
            nn.ReLU(),
        ).double()
    values = [x[which] for x in toys.parameters.values()]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return model


def loss_of(model: nn.Module, task: str, x: np.ndarray) -> torch.Tensor:
    """The mean of eq. 9 over a batch, as it stands in the paper."""
    error = torch.from_numpy(truth(task, x)) - model(torch.from_numpy(x))
    return (torch.from_numpy(IMPORTANCE) * error**2).sum(1).mean()


def flat_of(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([x.detach().flatten() for x in tensors]).numpy()


def compiled_sampler(task: str, seed: int) -> Callable[[], tuple[np.ndarray, ...]]:
    """Batches as the compiled loops draw them: inputs, what is wanted, how often."""
    xor, room = task == "xor", BATCH + 1 + 3 * FEATURES
    x, wanted, weight = np.zeros((inputs(task), room)), np.zeros((FEATURES, room)), np.zeros(room)
    state = np.array([seed], np.uint64)
    counted = kernel.begin_batch(xor, x, wanted)
    table = kernel.patterns(xor, ON[task])

    def draw() -> tuple[np.ndarray, ...]:
        count = kernel.draw(xor, *table, state, counted, x, wanted, weight)
        return x[:, :count].T.copy(), wanted[:, :count].T.copy(), weight[:count].copy()

    return draw


def plain_batch(task: str, generator: np.random.Generator) -> np.ndarray:
    """600 inputs, each number drawn. Source: paper, appendix G."""
    on = generator.random((BATCH, FEATURES)) < ON[task]
    if task == "abs":
        return on * generator.uniform(-1, 1, on.shape)
    return np.repeat(on, 2, axis=1) * generator.integers(0, 2, (BATCH, 2 * FEATURES)).astype(float)


def gradient_of(
    toys: ToyModels, x: np.ndarray, wanted: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    m, flat = toys.hidden, flatten(toys)[0]
    grad, room = np.empty_like(flat), len(x)
    h, back, slope = np.empty((m, room)), np.empty((m, room)), np.empty((FEATURES, room))
    columns = np.ascontiguousarray(x.T), np.ascontiguousarray(wanted.T), weight
    kernel.gradient(*columns, room, IMPORTANCE, flat, m, grad, h, back, slope)
    return grad


def any_toys(task: str, hidden: int, seed: int = 0) -> ToyModels:
    """Weights of either sign, and biases such that the zero input has an error too."""
    generator = np.random.default_rng(seed)
    n, m = inputs(task), hidden
    sizes = {"w1": (1, m, n), "b1": (1, m), "w2": (1, FEATURES, m), "b2": (1, FEATURES)}
    parameters = {name: 0.5 * generator.normal(size=size) for name, size in sizes.items()}
    parameters["b2"] = np.abs(parameters["b2"]) + 0.3
    return ToyModels(task=task, **parameters)
