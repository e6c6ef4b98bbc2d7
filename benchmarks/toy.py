"""How much faster toy models train all at once than one after another, and whether they are equal.

    python -m benchmarks.toy [--steps 2000] [--models 8] [--plain-steps 500]

The plain loop is PyTorch's: one model, 600 dense inputs a step, autograd, torch.optim.Adam. It is
timed with one thread and with as many as there are cores; the faster counts. Both sides are timed
in turns, so that what else the machine does falls on both. Beside it: the largest difference of
the parameters after some steps, in double precision, where both are given the same batches.
"""

import argparse
import time

import numba
import numpy as np
import torch
from torch import nn

from opponent.paper.toy import kernel
from opponent.paper.toy.kernel import BATCH, FEATURES
from opponent.paper.toy.models import flatten
from opponent.paper.toy.tasks import IMPORTANCE, ON, TASKS, inputs
from opponent.paper.toy.train import RATE, initialise, train

ROUNDS = 5


def model_of(task: str, hidden: int) -> nn.Module:
    """As anybody would write it."""
    layers = nn.Linear(inputs(task), hidden), nn.ReLU(), nn.Linear(hidden, FEATURES), nn.ReLU()
    return nn.Sequential(*layers)


def learn(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    importance: torch.Tensor,
) -> None:
    """One step."""
    optimiser.zero_grad()
    (importance * (model(x) - y) ** 2).sum(1).mean().backward()
    optimiser.step()


def batch(task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """600 inputs, and what is wanted."""
    on = torch.rand(BATCH, FEATURES) < ON[task]
    if task == "abs":
        x = on * (2 * torch.rand(BATCH, FEATURES) - 1)
        return x, x.abs()
    x = on[..., None] * torch.randint(0, 2, (BATCH, FEATURES, 2))
    return x.reshape(BATCH, -1).float(), (x[..., 0] - x[..., 1]).abs().float()


def plain_time(task: str, hidden: int, steps: int) -> float:
    """Seconds a step of the plain loop, in single precision, as PyTorch has it by default."""
    model, importance = model_of(task, hidden), torch.from_numpy(IMPORTANCE).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    learn(model, optimiser, *batch(task), importance)
    begun = time.perf_counter()
    for _ in range(steps):
        learn(model, optimiser, *batch(task), importance)
    return (time.perf_counter() - begun) / steps


def our_time(task: str, hidden: int, models: int, steps: int) -> float:
    """Seconds a step and model of ours, on all cores."""
    begun = time.perf_counter()
    train(task, hidden, range(models), steps=steps)
    return (time.perf_counter() - begun) / (models * steps)


def difference(task: str, hidden: int, steps: int) -> tuple[float, float]:
    """Of the parameters, both sides on the same batches; and how far training moved them."""
    start, seeds = initialise(task, hidden, range(1))
    model, importance = model_of(task, hidden).double(), torch.from_numpy(IMPORTANCE)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), start.parameters.values(), strict=True):
            parameter.copy_(torch.from_numpy(value[0]))
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    xor, room = task == "xor", BATCH + 1 + 3 * FEATURES
    x, y, weight = np.zeros((inputs(task), room)), np.zeros((FEATURES, room)), np.zeros(room)
    state, counted = seeds[:1].copy(), kernel.begin_batch(xor, x, y)
    table = kernel.patterns(xor, ON[task])
    for _ in range(steps):
        count = kernel.draw(xor, *table, state, counted, x, y, weight)
        times = weight[:count].astype(int)
        dense = (torch.from_numpy(np.repeat(each[:, :count], times, axis=1).T) for each in (x, y))
        learn(model, optimiser, *dense, importance)
    theirs = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()
    ours = flatten(train(task, hidden, range(1), steps=steps, settle=0))[0]
    moved = np.abs(ours - flatten(start)[0]).max()
    return float(np.abs(ours - theirs).max()), float(moved)


def measure(task: str, hidden: int, models: int, steps: int, plain_steps: int) -> tuple[float, ...]:
    """Seconds a step of both; how far 1,000 steps leave them apart, and how far they move."""
    cores = numba.get_num_threads()
    apart, moved = difference(task, hidden, 1000)
    train(task, hidden, range(cores), steps=10)
    plain: dict[int, list[float]] = {1: [], cores: []}
    ours = []
    for _ in range(ROUNDS):
        for threads, times in plain.items():
            torch.set_num_threads(threads)
            times.append(plain_time(task, hidden, plain_steps))
        ours.append(our_time(task, hidden, models, steps))
    torch.set_num_threads(cores)
    slow, fast = min(map(np.median, plain.values())), float(np.median(ours))
    return float(slow), fast, apart, moved


def main() -> None:
    """Measure both tasks, all widths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--plain-steps", type=int, default=500)
    arguments = parser.parse_args()
    cores = numba.get_num_threads()
    print(f"{cores} threads; steps of {BATCH} inputs; medians of {ROUNDS} rounds")
    for task in TASKS:
        total = 0.0
        for hidden in (12, 10, 8, 6):
            slow, fast, apart, moved = measure(
                task, hidden, arguments.models, arguments.steps, arguments.plain_steps
            )
            total += fast * 20_000 * 1000
            print(
                f"{task}, {hidden:2} hidden: plain {1e6 * slow:6.1f} us a step, ours "
                f"{1e6 * fast:5.2f} us: {slow / fast:5.0f} times; after 1,000 equal batches "
                f"{apart:.1g} apart, moved {moved:.2g}",
                flush=True,
            )
        print(f"{task}: 1,000 models of each width, 20,000 steps: {total / 60:.1f} minutes")


if __name__ == "__main__":
    main()
