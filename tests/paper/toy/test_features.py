"""True features: values, what they add, which cases they make functional."""

import numpy as np
import pytest
from tests.support.toys import any_toys, by_hand

from opponent.paper.toy.features import (
    FEATURE_TASKS,
    KINDS,
    drawn_inputs,
    feature_names,
    feature_values,
    feature_weights,
    few_on,
    kinds,
    opposed_inputs,
    pull,
    true_decoders,
)
from opponent.paper.toy.tasks import truth


def _outputs(task: str) -> int:
    return 12 if task == "veto" else 6


def _loop_values(task: str, x: np.ndarray) -> list[float]:
    if task == "abs":
        return [max(v, 0) for v in x] + [max(-v, 0) for v in x]
    if task == "veto":
        return list(x)
    pairs = [(x[2 * i], x[2 * i + 1]) for i in range(len(x) // 2)]
    return [a for a, _ in pairs] + [b for _, b in pairs] + [a * b for a, b in pairs]


@pytest.mark.parametrize("task", FEATURE_TASKS)
def test_the_tasks_are_sums_of_their_features(task: str) -> None:
    """With the task's own weights, the ReLU of the features' sum is what the outputs should be."""
    x = drawn_inputs(task, 300, np.random.default_rng(0))
    values, weights = feature_values(task, x), feature_weights(task, _outputs(task))
    assert len(feature_names(task, _outputs(task))) == values.shape[1] == weights.shape[1]
    np.testing.assert_allclose(np.maximum(values @ weights.T, 0), truth(task, x), atol=1e-15)
    for row, given in zip(values, x, strict=True):
        assert row.tolist() == _loop_values(task, given)


@pytest.mark.parametrize("task", FEATURE_TASKS)
def test_kinds_are_those_of_the_definition(task: str) -> None:
    outputs = _outputs(task)
    x = np.concatenate([few_on(task), drawn_inputs(task, 200, np.random.default_rng(1))])
    x = np.concatenate([x, 0 * x[:1]])
    weights, found = feature_weights(task, outputs), kinds(task, x, outputs)
    pulls = pull(task, x, outputs)
    for row, given in enumerate(x):
        values = _loop_values(task, given)
        for i in range(outputs):
            terms = [v * w for v, w in zip(values, weights[i], strict=True)]
            adds, takes = sum(t for t in terms if t > 0), -sum(t for t in terms if t < 0)
            assert pulls[row, i] == pytest.approx(min(adds, takes))
            if min(adds, takes) > 0:
                kind = KINDS.index("functional")
            elif any(terms):
                kind = KINDS.index("own")
            else:
                on = sum(v > 0 for v in values)
                kind = {0: -1, 1: KINDS.index("other, one")}.get(on, KINDS.index("other, several"))
            assert found[row, i] == kind
    assert (found == 0).any() == (task != "abs")


def test_what_features_add_to_nets_by_hand() -> None:
    added = true_decoders(by_hand("abs"))[0]
    assert (added == np.eye(12)).all()
    # 'or' hears a and b; 'and' is what [1, 1] has beside them.
    first, second, both = np.split(true_decoders(by_hand("xor"))[0], 3)
    hears = np.hstack([np.eye(6), np.zeros((6, 6))])
    assert (first == hears).all()
    assert (second == hears).all()
    assert (both == np.roll(hears, 6, axis=1)).all()


def test_features_of_a_single_pair_add_up_to_the_hidden_layer() -> None:
    toys = any_toys("xor", 5)
    x = few_on("xor")[:18]
    silent = toys.layer(np.zeros((1, 12)))[0]
    written = feature_values("xor", x) @ true_decoders(toys)[0] + silent
    np.testing.assert_allclose(written, toys.layer(x)[0], atol=1e-14)


@pytest.mark.parametrize(("task", "count"), [("abs", 72), ("xor", 153), ("veto", 78)])
def test_few_on_is_all_of_them(task: str, count: int) -> None:
    x = few_on(task)
    assert len(np.unique(x, axis=0)) == len(x) == count
    groups = x.reshape(len(x), 6, 2).any(2) if task == "xor" else x != 0
    assert set(groups.sum(1).tolist()) == {1, 2}


def test_inputs_are_drawn_as_training_draws_them() -> None:
    generator = np.random.default_rng(0)
    assert all(len(drawn_inputs(t, 7, generator)) == 7 for t in FEATURE_TASKS)
    x = drawn_inputs("veto", 20_000, generator)
    assert x.any(1).all()
    assert x.min() == 0
    assert (x > 0).mean() == pytest.approx(0.1 / (1 - 0.9**12), abs=0.003)
    bits = drawn_inputs("xor", 20_000, generator)
    assert set(np.unique(bits).tolist()) == {0.0, 1.0}
    assert bits.mean() == pytest.approx(0.1 / (1 - 0.85**6), abs=0.003)
    assert drawn_inputs("abs", 500, generator).min() < -0.9


def test_opposed_inputs_are_functional_once() -> None:
    for task, others in (("xor", 5), ("veto", 9)):
        x = opposed_inputs(task, 50, np.random.default_rng(0))
        found = kinds(task, x, _outputs(task))
        assert ((found == 0).sum(1) == 1).all()
        assert ((found == KINDS.index("other, several")).sum(1) == others).all()
