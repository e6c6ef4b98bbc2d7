"""Toy models: hand-built nets, the compiled loops against PyTorch, the sampler, going on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.numpy import load_file
from torch import nn
from typer.testing import CliRunner

from opponent.cli import app
from opponent.core.errors import RunError
from opponent.paper.toy import kernel
from opponent.paper.toy.kernel import BATCH, FEATURES
from opponent.paper.toy.models import (
    IMPORTANCE,
    ON,
    RATE,
    TASKS,
    Toys,
    begin,
    describe,
    domain,
    draw,
    flatten,
    inputs,
    off_diagonal,
    probes,
    study,
    train,
    truth,
    unflatten,
    write_study,
)
from opponent.plots import PAGE, ToyWidth, save, toy_figure
from opponent.plots.toy import _matrix

I6 = np.eye(FEATURES)


def net(task: str, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray) -> Toys:
    return Toys(task=task, w1=w1[None], b1=b1[None], w2=w2[None], b2=np.zeros((1, FEATURES)))


def by_hand(task: str) -> Toys:
    """|x| = ReLU(x) + ReLU(-x); XOR = or - 2 and, with or = ReLU(a + b), and = ReLU(a + b - 1)."""
    if task == "abs":
        return net(task, np.vstack([I6, -I6]), np.zeros(12), np.hstack([I6, I6]))
    pairs = np.kron(I6, np.ones((1, 2)))
    biases = np.repeat([0.0, -1.0], FEATURES)
    return net(task, np.vstack([pairs, pairs]), biases, np.hstack([I6, -2 * I6]))


def module(toys: Toys, which: int = 0) -> nn.Module:
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

    def one() -> tuple[np.ndarray, ...]:
        count = kernel.draw(xor, *table, state, counted, x, wanted, weight)
        return x[:, :count].T.copy(), wanted[:, :count].T.copy(), weight[:count].copy()

    return one


def plain_batch(task: str, generator: np.random.Generator) -> np.ndarray:
    """600 inputs, each number drawn. Source: paper, appendix G."""
    on = generator.random((BATCH, FEATURES)) < ON[task]
    if task == "abs":
        return on * generator.uniform(-1, 1, on.shape)
    return np.repeat(on, 2, axis=1) * generator.integers(0, 2, (BATCH, 2 * FEATURES)).astype(float)


def gradient_of(toys: Toys, x: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    m, flat = toys.hidden, flatten(toys)[0]
    grad, room = np.empty_like(flat), len(x)
    h, back, slope = np.empty((m, room)), np.empty((m, room)), np.empty((FEATURES, room))
    columns = np.ascontiguousarray(x.T), np.ascontiguousarray(wanted.T), weight
    kernel.gradient(*columns, room, IMPORTANCE, flat, m, grad, h, back, slope)
    return grad


def any_toys(task: str, hidden: int, seed: int = 0) -> Toys:
    """Weights of either sign, and biases such that the zero input has an error too."""
    generator = np.random.default_rng(seed)
    n, m = inputs(task), hidden
    sizes = {"w1": (1, m, n), "b1": (1, m), "w2": (1, FEATURES, m), "b2": (1, FEATURES)}
    parts = {name: 0.5 * generator.normal(size=size) for name, size in sizes.items()}
    parts["b2"] = np.abs(parts["b2"]) + 0.3
    return Toys(task=task, **parts)


# ------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("task", TASKS)
def test_nets_by_hand_are_exact_and_drive_their_own_outputs_only(task: str) -> None:
    toys = by_hand(task)
    x, _ = domain(task)
    assert not toys.losses(x).any()
    assert not toys.worst.any()
    excitation, inhibition = toys.attributions(probes(task))
    if task == "abs":
        assert (excitation == np.vstack([I6, I6])).all()
        assert not inhibition.any()
    else:
        # [1, 0]: or alone. [1, 1]: or gives 2, and takes 2 away.
        assert (excitation == np.vstack([I6, 2 * I6])).all()
        assert (inhibition == np.vstack([0 * I6, 2 * I6])).all()
    assert off_diagonal(excitation[0], inhibition[0]) == {"largest": 0.0, "mean": 0.0}


def test_xor_has_an_exact_net_without_tension() -> None:
    """|a - b| too: the hidden layer is silent for [1, 1], and no output weight is negative."""
    w1 = np.vstack([np.kron(I6, [[1.0, -1.0]]), np.kron(I6, [[-1.0, 1.0]])])
    toys = net("xor", w1, np.zeros(12), np.hstack([I6, I6]))
    assert not toys.losses(domain("xor")[0]).any()
    excitation, inhibition = toys.attributions(probes("xor"))
    assert (excitation == np.vstack([I6, 0 * I6])).all()
    assert not inhibition.any()
    assert toys.tense().tolist() == [0]


def test_tense_outputs_are_counted() -> None:
    assert by_hand("xor").tense().tolist() == [6]
    assert by_hand("abs").tense().tolist() == [0]
    two = by_hand("xor")
    two.w2[0, 2:, FEATURES:] *= 0.4
    assert two.tense().tolist() == [2]
    two.w2[0, 0] *= -1  # as tense as before: its signs alone have changed
    assert two.tense().tolist() == [2]


def test_losses_weigh_importance() -> None:
    dead = net("abs", np.zeros((1, 6)), np.zeros(1), np.zeros((6, 1)))
    assert dead.losses(2 * I6)[0] == pytest.approx([4 * 0.9**i for i in range(6)])


def test_excitation_less_inhibition_is_the_sum_of_s() -> None:
    toys = any_toys("xor", 7)
    x = probes("xor")
    excitation, inhibition = toys.attributions(x)
    model = module(toys)
    h = model[:2](torch.from_numpy(x)).detach().requires_grad_()  # type: ignore[index]
    for i in range(FEATURES):
        total = model[2](h)[:, i].sum()  # type: ignore[index]
        s = (torch.autograd.grad(total, h)[0] * h).detach().numpy()
        assert excitation[0, :, i] == pytest.approx(np.where(s > 0, s, 0).sum(1))
        assert inhibition[0, :, i] == pytest.approx(-np.where(s < 0, s, 0).sum(1))


def test_truth() -> None:
    bits = np.array([[0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0]], dtype=float)
    assert truth("xor", bits).tolist() == [[0, 1, 1, 0, 0, 1]]
    assert truth("abs", np.array([[-2.0, 0, 1, -1, 0.5, 0]])).tolist() == [[2, 0, 1, 1, 0.5, 0]]


@pytest.mark.parametrize("task", TASKS)
def test_domain_is_weighted_as_training_draws(task: str) -> None:
    x, weight = domain(task)
    values = (-1, 0, 1) if task == "abs" else (0, 1)
    assert sorted(map(tuple, x.tolist())) == sorted(product(values, repeat=inputs(task)))
    assert weight.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([np.sign(plain_batch(task, rng)) for _ in range(500)])
    for row in (np.zeros(inputs(task)), I6[0] if task == "abs" else np.repeat(I6[2], 2)):
        [expected] = weight[(x == row).all(1)]
        seen = (drawn == row).all(1)
        assert abs(seen.mean() - expected) < 5 * np.sqrt(expected / len(drawn))


def test_probes() -> None:
    assert (probes("abs") == np.vstack([I6, -I6])).all()
    xor = probes("xor").reshape(12, 6, 2)
    assert (xor[:6] == np.stack([I6, 0 * I6], 2)).all()
    assert (xor[6:] == np.stack([I6, I6], 2)).all()


def test_off_diagonal_is_relative_to_each_column() -> None:
    excitation, inhibition = np.vstack([2 * I6, 4 * I6]), np.zeros((12, 6))
    inhibition[0, 5] = 1
    assert off_diagonal(excitation, inhibition) == {"largest": 0.25, "mean": 0.25 / 120}


# ---------------------------------------------------------------- loops against PyTorch


def test_random_numbers_are_splitmix64s() -> None:
    """The first numbers of seed 1234567, as other implementations give them."""
    state = np.array([1234567], np.uint64)
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert [kernel.uniform(state) for _ in known] == [(x >> 11) / 2**53 for x in known]


@pytest.mark.parametrize(("task", "hidden"), [("abs", 12), ("abs", 1), ("xor", 10), ("xor", 3)])
def test_gradient_is_autograds(task: str, hidden: int) -> None:
    toys, one = any_toys(task, hidden), compiled_sampler(task, 5)
    for _ in range(3):
        x, wanted, weight = one()
        dense = np.repeat(x, weight.astype(int), axis=0)
        assert len(dense) == BATCH
        assert (wanted == truth(task, x)).all()
        model = module(toys)
        expected = torch.autograd.grad(loss_of(model, task, dense), list(model.parameters()))
        ours = gradient_of(toys, x, wanted, weight)
        assert np.abs(expected[2].numpy()).max() > 1e-3
        np.testing.assert_allclose(ours, flat_of(list(expected)), rtol=0, atol=1e-12)


def test_adam_is_pytorchs() -> None:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=50)
    theirs = nn.Parameter(torch.from_numpy(flat.copy()))
    optimiser = torch.optim.Adam([theirs], lr=RATE)
    first, second = np.zeros(50), np.zeros(50)
    for step in range(1, 101):
        grad = generator.normal(size=50) * 10.0 ** generator.integers(-9, 2, 50)
        kernel.adam(flat, grad, first, second, step, RATE)
        theirs.grad = torch.from_numpy(grad)
        optimiser.step()
    np.testing.assert_allclose(flat, theirs.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("settle", [0.0, 0.4])
def test_training_is_the_plain_loop(task: str, settle: float) -> None:
    steps, which = 150, 3
    start, seeds = begin(task, 5, range(which, which + 1), seed=9)
    one = compiled_sampler(task, int(seeds[0]))
    model = module(start)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    for t in range(steps):
        left = (steps - t) / (settle * steps) if settle else 1
        optimiser.param_groups[0]["lr"] = RATE * min(left, 1)
        x, _, weight = one()
        optimiser.zero_grad()
        loss_of(model, task, np.repeat(x, weight.astype(int), axis=0)).backward()
        optimiser.step()
    ours = train(task, 5, range(which, which + 1), seed=9, steps=steps, settle=settle)
    moved = np.abs(flatten(ours) - flatten(start)).max()
    assert moved > 0.01
    np.testing.assert_allclose(
        flatten(ours)[0], flat_of(list(model.parameters())), rtol=0, atol=1e-9
    )


def test_rows_and_models_are_one() -> None:
    toys = any_toys("xor", 4)
    again = unflatten("xor", 4, flatten(toys))
    assert all((again.parameters[k] == x).all() for k, x in toys.parameters.items())


# --------------------------------------------------------------------------- sampler


def _statistics(toys: Toys, one: Callable[[], tuple[np.ndarray, ...]], n: int) -> np.ndarray:
    return np.stack([gradient_of(toys, *one()) for _ in range(n)])


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two samples' means and covariances, in standard errors."""
    largest = 0.0
    middle, spread = np.concatenate([a, b]).mean(0), np.concatenate([a, b]).std(0) + 1e-12
    a, b = (a - middle) / spread, (b - middle) / spread
    mix = np.random.default_rng(1).normal(size=(a.shape[1], 15)) / np.sqrt(a.shape[1])
    for first, second in ((a, b), (a @ mix, b @ mix)):
        moments = [(first, second)]
        moments.append((first**2, second**2))
        if first.shape[1] == 15:
            moments.append(
                tuple((x[:, :, None] * x[:, None]).reshape(len(x), -1) for x in (first, second))
            )
        for p, q in moments:
            error = np.sqrt(p.var(0) / len(p) + q.var(0) / len(q)) + 1e-9
            largest = max(largest, float((np.abs(p.mean(0) - q.mean(0)) / error).max()))
    return largest


@pytest.mark.parametrize("task", TASKS)
def test_batch_gradient_is_distributed_as_the_plain_samplers(task: str) -> None:
    """Mean and covariance; and a sampler that weighs wrongly is found out."""
    toys, n = any_toys(task, 6, seed=2), 2000
    rng = np.random.default_rng(0)

    def plain() -> tuple[np.ndarray, ...]:
        x = plain_batch(task, rng)
        return x, truth(task, x), np.ones(BATCH)

    expected = _statistics(toys, plain, n)
    assert _apart(expected, _statistics(toys, plain, n)) < 5
    assert _apart(expected, _statistics(toys, compiled_sampler(task, 7), n)) < 5

    def mutant(change: Callable[[np.ndarray, np.ndarray], None]) -> float:
        one = compiled_sampler(task, 7)

        def wrong() -> tuple[np.ndarray, ...]:
            x, wanted, weight = one()
            change(x, weight)
            return x, wanted, weight

        return _apart(expected, _statistics(toys, wrong, n))

    def all_zero(x: np.ndarray, weight: np.ndarray) -> None:
        weight[0] = BATCH

    def mean_zero(x: np.ndarray, weight: np.ndarray) -> None:
        # The right mean, the wrong covariance: the zeros do not make up for the others.
        weight[0] = BATCH * (1 - (ON[task] * (1 if task == "abs" else 0.75))) ** FEATURES

    def at_most_once(x: np.ndarray, weight: np.ndarray) -> None:
        weight[1:] = np.minimum(weight[1:], 1)

    def heavy(x: np.ndarray, weight: np.ndarray) -> None:
        weight[-1] += 3

    assert mutant(all_zero) > 8
    assert mutant(mean_zero) > 8
    assert mutant(heavy) > 8
    if task == "xor":
        assert mutant(at_most_once) > 8


@pytest.mark.parametrize("on", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("task", TASKS)
def test_patterns_have_their_chances(task: str, on: float) -> None:
    """What the table draws, worked out exactly, pattern by pattern."""
    keep, other, _ = kernel.patterns(task == "xor", on)
    chances = np.zeros(len(keep))
    np.add.at(chances, np.arange(len(keep)), keep / len(keep))
    np.add.at(chances, other, (1 - keep) / len(keep))
    base, one = (4, on / 4) if task == "xor" else (2, on)
    for number, chance in enumerate(chances):
        digits = [number // base**i % base for i in range(FEATURES)]
        expected = np.prod([one if digit else 1 - (base - 1) * one for digit in digits])
        assert chance == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("task", TASKS)
def test_weights_sum_to_the_batch(task: str) -> None:
    one = compiled_sampler(task, 3)
    for _ in range(200):
        x, _, weight = one()
        assert weight.sum() == BATCH
        assert not x[0].any()
        assert x[len(x) - 1].any()


# -------------------------------------------------------------------------- training


def test_a_model_does_not_depend_on_its_neighbours_or_the_threads() -> None:
    many = train("abs", 4, range(5), steps=60)
    alone = train("abs", 4, range(3, 4), steps=60)
    assert (flatten(alone)[0] == flatten(many)[3]).all()
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert (flatten(train("abs", 4, range(5), steps=60)) == flatten(many)).all()
    finally:
        numba.set_num_threads(threads)
    assert len(np.unique(flatten(many)[:, 0])) == 5
    assert (flatten(train("abs", 4, range(5), steps=60, seed=1)) != flatten(many)).any(1).all()


def test_models_are_the_same_whether_compiled_or_from_the_cache(tmp_path: Path) -> None:
    train = (
        "import sys; from opponent.paper.toy.models import study;"
        "study('xor', out=sys.argv[1], hidden=(12,), seeds=2, steps=1000)"
    )
    cache = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_NUM_THREADS": "1"}
    found = set()
    for name in ("compiled", "cached"):
        folder = tmp_path / name
        subprocess.run([sys.executable, "-c", train, str(folder)], env=cache, check=True)
        found |= {path.read_bytes() for path in (folder / "parts").iterdir()}
    assert any((tmp_path / "cache").rglob("*.nbc"))
    assert len(found) == 1


@pytest.mark.parametrize("task", TASKS)
def test_begins_xavier_normal(task: str) -> None:
    toys, seeds = begin(task, 8, range(300))
    n = inputs(task)
    assert toys.w1.std() == pytest.approx(np.sqrt(2 / (n + 8)), rel=0.02)
    assert np.sqrt((toys.w2**2).mean()) == pytest.approx(np.sqrt(2 / 14), rel=0.02)
    assert not toys.b1.any()
    assert not toys.b2.any()
    assert len(set(seeds.tolist())) == 300


@pytest.mark.parametrize("task", TASKS)
def test_training_learns(task: str) -> None:
    before, _ = begin(task, 12, range(4))
    after = train(task, 12, range(4), steps=2500)
    assert after.expected.min() < before.expected.min() / 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("and", 3, range(1)), "there is no toy model of 'and'; there are abs and xor"),
        (("abs", 0, range(1)), "at least one hidden unit"),
    ],
)
def test_what_cannot_be_trained(arguments: tuple[str, int, range], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(*arguments)


def test_other_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a seed is at least 0"):
        train("abs", 3, range(1), seed=-1)
    with pytest.raises(ValueError, match="at least one step"):
        train("abs", 3, range(1), steps=0)
    with pytest.raises(ValueError, match="share of the steps"):
        train("abs", 3, range(1), settle=1.5)
    with pytest.raises(ValueError, match="give each width once"):
        study("abs", out=tmp_path / "a", hidden=(3, 3))
    with pytest.raises(ValueError, match="at least one seed"):
        study("abs", out=tmp_path / "a", seeds=0)
    with pytest.raises(ValueError, match="at least 0"):
        study("abs", out=tmp_path / "a", seed=-1)
    assert not (tmp_path / "a").exists()


# ----------------------------------------------------------------------------- study


def test_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    settings = {"hidden": (3, 2), "seeds": 20, "steps": 30, "seed": 4}

    class Stop(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done >= 20:
            raise Stop

    with pytest.raises(Stop):
        study("xor", out=tmp_path / "two", progress=interrupt, **settings)  # type: ignore[arg-type]
    kept = sorted(path.name for path in (tmp_path / "two" / "parts").iterdir())
    assert kept == ["hidden-3-000000.safetensors", "hidden-3-000016.safetensors"]
    calls: list[tuple[int, int]] = []
    for name in ("one", "two"):
        found = study(
            "xor",
            out=tmp_path / name,
            progress=lambda *x: calls.append(x),
            **settings,  # type: ignore[arg-type]
        )
        write_study(found, tmp_path / name)
    assert calls[-1] == (40, 40)
    for name in ("toy.json", "models.safetensors", "toy.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [len(toys) for toys in found.models.values()] == [20, 20]
    with pytest.raises(RunError, match="another question"):
        study("xor", out=tmp_path / "two", **settings | {"steps": 31})  # type: ignore[arg-type]
    with pytest.raises(RunError, match="another question"):
        study("abs", out=tmp_path / "two", **settings)  # type: ignore[arg-type]


def test_results_say_what_the_models_do(tmp_path: Path) -> None:
    found = study("abs", out=tmp_path / "a", hidden=[4], seeds=6, steps=400)
    table, models, picture = write_study(found, tmp_path / "a", suffix="svg")
    values = json.loads(table.read_text(encoding="utf-8"))
    [row] = values["widths"]
    toys = found.models[4]
    losses, weight = toys.losses(domain("abs")[0]), domain("abs")[1]
    assert row["all_expected_losses"] == pytest.approx(losses @ weight)
    assert row["all_largest_losses"] == pytest.approx(losses.max(1))
    assert row["best"] == int(np.argmin(losses @ weight))
    best, active = losses[row["best"]], np.abs(domain("abs")[0]).sum(1)
    groups = row["loss_by_active_features"]
    assert [group["inputs"] for group in groups] == [1, 12, 60, 160, 240, 192, 64]
    for k, group in enumerate(groups):
        assert group["mean"] == pytest.approx(best[active == k].mean())
        assert group["largest"] == pytest.approx(best[active == k].max())
    assert values["asked"]["versions"]["numba"] == numba.__version__
    arrays = load_file(models)
    assert (arrays["4.w2"] == toys.w2).all()
    assert picture.suffix == ".svg"
    assert row == describe(toys)


def test_best_counts_inputs_as_drawn() -> None:
    """A net that errs for one feature alone is worse than one that errs for all six at once."""
    exact = by_hand("abs")
    rare, often = exact.w2[0].copy(), exact.w2[0].copy()
    often[5, 5] = 0.9
    rare_w1, rare_b1 = exact.w1[0].copy(), exact.b1[0].copy()
    rare_w1 = np.vstack([rare_w1, np.ones(6)])
    rare_b1 = np.append(rare_b1, -5.0)
    parts = {
        "w1": np.stack([np.vstack([exact.w1[0], np.zeros(6)]), rare_w1]),
        "b1": np.stack([np.append(exact.b1[0], 0), rare_b1]),
        "w2": np.stack([np.hstack([often, np.zeros((6, 1))]), np.hstack([rare, np.ones((6, 1))])]),
        "b2": np.zeros((2, 6)),
    }
    toys = Toys(task="abs", **parts)
    assert toys.worst[0] < toys.worst[1]
    assert toys.best == 1
    tied = toys.only([1, 1])
    assert tied.best == 0


# ---------------------------------------------------------------------------- figure


def _width_of(toys: Toys, seeds: int = 3) -> ToyWidth:
    excitation, inhibition = (s[0] for s in toys.attributions(probes(toys.task)))
    x, _ = domain(toys.task)
    active = np.count_nonzero(truth(toys.task, x), axis=1)
    return ToyWidth(
        hidden=toys.hidden,
        excitation=excitation,
        inhibition=inhibition,
        losses=toys.losses(x)[0],
        active=active,
        seeds=np.linspace(0, 1, seeds),
    )


def _figure(widths: list[ToyWidth]) -> Figure:
    rows, columns = [f"[1, 0] {i}" for i in range(12)], [f"f{i}" for i in range(6)]
    return toy_figure(widths, label="XOR", about="1,000 models", rows=rows, columns=columns)


def test_matrices_are_normalised_within_columns() -> None:
    hand = by_hand("xor")
    white = _matrix(_width_of(hand))
    twice = Toys(task="xor", **hand.parameters | {"w2": 3 * hand.w2})
    assert (white == _matrix(_width_of(twice))).all()
    one, both = white[0, 0].astype(int), white[6, 0].astype(int)
    assert (white[0, 1] == 255).all()
    assert one[0] > one[1] + 20  # red: excitation alone
    assert one[0] > one[2] + 20
    assert both[1] > both[0] + 20  # green: both at once
    assert both[1] > both[2] + 20
    dead = Toys(task="xor", **hand.parameters | {"w2": 0 * hand.w2})
    assert (_matrix(_width_of(dead)) == 255).all()


@pytest.mark.parametrize("count", [1, 4, 5])
def test_text_stays_inside_the_figure(count: int) -> None:
    widths = [_width_of(any_toys("xor", 12 - k), 2 + 400 * k) for k in range(count)]
    figure = _figure(widths)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches()
    assert width == PAGE
    box = figure.get_tightbbox(canvas.get_renderer())
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_figure_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="0 widths, expected 1 to 5"):
        _figure([])
    with pytest.raises(ValueError, match="6 widths"):
        _figure([_width_of(by_hand("xor"))] * 6)


def test_figure_of_a_study_repeats(tmp_path: Path) -> None:
    found = study("xor", out=tmp_path / "a", hidden=[3], seeds=2, steps=10)
    save(draw(found), tmp_path / "1.png")
    save(draw(found), tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


# --------------------------------------------------------------------------- command


def test_command(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    asked = ["toy", "abs", "--hidden", "3,2", "--seeds", "4", "--steps", "20", "--out", str(folder)]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert "exact models" in done.output
    assert {"toy.json", "models.safetensors", "toy.png"} <= {x.name for x in folder.iterdir()}
    before = (folder / "toy.json").read_bytes()
    assert CliRunner().invoke(app, asked, catch_exceptions=False).exit_code == 0
    assert (folder / "toy.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy", "and"), "no toy model of 'and'; there are abs and xor"),
        (("toy", "abs", "--hidden", "12,x"), "--hidden is whole numbers and commas"),
        (("toy", "abs", "--hidden", "12,0"), "at least one hidden unit"),
        (("toy", "abs", "--format", "gif"), "figures are png"),
    ],
)
def test_command_refuses(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [*arguments, "--out", str(tmp_path / "toys")]
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert not (tmp_path / "toys").exists()
