"""Tension in units, true features and latents: nets worked by hand, and twins of the formulas."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.toys import I6, any_toys, by_hand, net

from opponent.dictionaries.dictionary import Dictionary
from opponent.dictionaries.learnt import TrainingSettings
from opponent.paper.toy.features import drawn_inputs, few_on, kinds
from opponent.paper.toy.interference import (
    GRID,
    MEASURES,
    PREDICTORS,
    Codes,
    codes_of,
    dictionaries_of,
    mean_by_kind,
    recovered,
    scores,
    separation,
    true_codes,
)
from opponent.paper.toy.models import ToyModels


def shared() -> ToyModels:
    """|x1| and |x2| by units that they share, exact where one of them is on.

    h = ReLU(x1 + x2, -x1 + x2, x2, -x2); f1 = h1 + h2 - 2 h3, f2 = h3 + h4.
    """
    return ToyModels(
        task="abs",
        w1=np.array([[[1.0, 1.0], [-1.0, 1.0], [0.0, 1.0], [0.0, -1.0]]]),
        b1=np.zeros((1, 4)),
        w2=np.array([[[1.0, 1.0, -2.0, 0.0], [0.0, 0.0, 1.0, 1.0]]]),
        b2=np.zeros((1, 2)),
    )


def _measured(toys: ToyModels, x: np.ndarray) -> dict[str, np.ndarray]:
    found = true_codes(toys, x).measure(toys.layer(x)[0], toys.w2[0])
    return {name: found[..., k] for k, name in enumerate(MEASURES)}


def test_interference_by_hand_goes_away_in_true_features() -> None:
    toys = shared()
    alone = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert (toys.outputs(alone)[0] == np.abs(alone)).all()
    found = _measured(toys, alone)
    # x2 = 1 gives h = (1, 1, 1, 0): f1 gets 1 + 1 - 2, by units. It adds nothing to f1 as a whole.
    assert found["units"].tolist() == [[0, 0], [0, 0], [2, 0], [0, 0]]
    assert not any(found[name].any() for name in ("latents", "bias", "rest", "left"))
    assert kinds("abs", alone, 2).tolist() == [[1, 2], [1, 2], [2, 1], [2, 1]]
    # Both on: h = (2, 0, 1, 0), and the features write (1, 0, 0, 0) + (1, 1, 1, 0).
    both = _measured(toys, np.array([[1.0, 1.0]]))
    assert both["units"].tolist() == [[2, 0]]
    assert both["latents"].tolist() == [[0, 0]]
    assert both["term_rest"].tolist() == [[1, 0]]
    # Of f1, x1 adds 1, and what the features leave takes 1 away: it is not hidden.
    assert both["left"].tolist() == [[1, 0]]


def test_xor_by_or_and_and_keeps_its_tension_exactly() -> None:
    toys = by_hand("xor")
    x = np.kron(I6, [[1.0, 1.0]])
    found = _measured(toys, x)
    for name in ("units", "latents", "left"):
        assert (found[name] == 2 * I6).all(), name
    assert not found["rest"].any()
    assert not found["term_rest"].any()
    assert (np.diag(kinds("xor", x, 6)) == 0).all()


def test_features_may_make_tension_that_units_do_not_have() -> None:
    """|a - b|: the hidden layer is silent on [1, 1]; as a + b - 2 ab it is tense."""
    w1 = np.vstack([np.kron(I6, [[1.0, -1.0]]), np.kron(I6, [[-1.0, 1.0]])])
    found = _measured(net("xor", w1, np.zeros(12), np.hstack([I6, I6])), np.kron(I6, [[1.0, 1.0]]))
    assert not found["units"].any()
    assert (found["latents"] == 2 * I6).all()


@pytest.mark.parametrize(("task", "hidden"), [("abs", 4), ("xor", 5)])
def test_measures_are_those_of_the_formulas(task: str, hidden: int) -> None:
    toys = any_toys(task, hidden, seed=3)
    generator = np.random.default_rng(0)
    h = toys.layer(few_on(task)[::7])[0]
    codes = Codes(
        decoder=generator.normal(size=(3, hidden)),
        bias=generator.normal(size=hidden),
        codes=np.maximum(generator.normal(size=(len(h), 3)), 0),
    )
    found = codes.measure(h, toys.w2[0])

    def smaller(terms: list[float]) -> float:
        return min(sum(t for t in terms if t > 0), -sum(t for t in terms if t < 0))

    for row, vector in enumerate(h):
        z = codes.codes[row]
        written = sum(z[j] * codes.decoder[j] for j in range(3))
        for i in range(6):
            w = toys.w2[0, i]
            units = [w[k] * vector[k] for k in range(hidden)]
            latents = [
                z[j] * sum(w[k] * codes.decoder[j, k] for k in range(hidden)) for j in range(3)
            ]
            bias = [w[k] * codes.bias[k] for k in range(hidden)]
            rest = [w[k] * (vector - codes.bias - written)[k] for k in range(hidden)]
            assert sum(units) == pytest.approx(sum(latents) + sum(bias) + sum(rest))
            tensions = [smaller(t) for t in (units, latents, bias, rest, latents + bias + rest)]
            expected = [*tensions, abs(sum(bias)), abs(sum(rest))]
            np.testing.assert_allclose(found[row, i], expected, atol=1e-12)


def test_areas_and_curves_are_those_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    functional = generator.random(60) < 0.3
    predicted = np.stack(
        [generator.normal(size=60) + functional, np.round(generator.random(60), 1), np.ones(60)]
    )
    areas, curves = separation(functional, predicted)
    for number, values in enumerate(predicted):
        pairs = [
            float(a > b) + 0.5 * float(a == b)
            for a in values[functional]
            for b in values[~functional]
        ]
        assert areas[number] == pytest.approx(np.mean(pairs))
        # The area under the kept curve is near that under the whole one.
        assert np.trapezoid(curves[number], GRID) == pytest.approx(areas[number], abs=0.02)
        assert curves[number, -1] == 1
    assert curves[2] == pytest.approx(GRID)
    weights = generator.random(60)
    for area, values in zip(separation(functional, predicted, weights)[0], predicted, strict=True):
        ahead = total = 0.0
        for i in np.flatnonzero(functional):
            for j in np.flatnonzero(~functional):
                weight = weights[i] * weights[j]
                total += weight
                ahead += weight * (float(values[i] > values[j]) + 0.5 * (values[i] == values[j]))
        assert area == pytest.approx(ahead / total)
    perfect = separation(functional, functional[None].astype(float))
    assert perfect[0] == 1
    assert (perfect[1] == 1).all()
    none = separation(np.zeros(60, bool), predicted)
    assert np.isnan(none[0]).all()
    assert np.isnan(none[1]).all()


def test_scores_and_means() -> None:
    measured = [np.full((2, 7), float(k + 1)) for k in range(5)]
    for number, one in enumerate(measured):
        one[:, 0], one[:, 1] = 4.0, number
    found = dict(zip(PREDICTORS, scores(measured, np.array([7.0, 8.0])), strict=True))
    assert found["remaining, learnt"].tolist() == [0.25, 0.25]
    assert found["tension, random"].tolist() == [3, 3]
    assert found["tension, units"].tolist() == [4, 4]
    assert found["length of h"].tolist() == [7, 8]
    values = np.arange(28.0).reshape(2, 2, 7)
    means = mean_by_kind(values, np.array([[0, 1], [1, -1]]), 3)
    assert (means[0] == values[0, 0]).all()
    assert (means[1] == (values[0, 1] + values[1, 0]) / 2).all()
    assert np.isnan(means[2]).all()


def test_dictionaries_are_what_they_are_called() -> None:
    toys = by_hand("abs")
    hidden = toys.layer(drawn_inputs("abs", 2000, np.random.default_rng(0)))[0]
    settings = TrainingSettings(latents=12, active=1, steps=600, batch=256, rate=5e-3)
    found, left = dictionaries_of(hidden, settings)
    assert [d.active for d in found.values()] == [1, 2, 1, 1]
    assert left["learnt"] < 0.2
    learnt = found["learnt"].decoder.double().numpy()
    assert recovered(np.eye(12), learnt) > 0.7
    # k-means of one latent a vector has no tension, whatever the layer.
    codes = codes_of(found["kmeans"], hidden)
    assert ((codes.codes != 0).sum(1) <= 1).all()
    assert not codes.measure(hidden, toys.w2[0])[..., 1].any()
    again, _ = dictionaries_of(hidden, settings)
    assert all(again[name].sha256() == d.sha256() for name, d in found.items())
    other, _ = dictionaries_of(hidden, replace(settings, seed=1))
    assert all(other[name].sha256() != found[name].sha256() for name in ("learnt", "random"))


def test_an_identity_dictionary_counts_units() -> None:
    toys = any_toys("xor", 7)
    h = toys.layer(few_on("xor"))[0]
    found = codes_of(Dictionary.identity(7), h).measure(h, toys.w2[0])
    np.testing.assert_allclose(found[..., 1], found[..., 0], atol=1e-12)
    assert not found[..., 5:].any()


def test_recovered_directions() -> None:
    true = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert recovered(true, np.array([[3.0, 0.1], [1.0, 1.0]])) == 0.5
