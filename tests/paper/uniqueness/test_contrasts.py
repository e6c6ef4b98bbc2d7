"""U beside the controls, from measurements made by hand and by a slow twin."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opponent import Feature, open_images
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.uniqueness.comparisons import Contrast, Contrasts
from opponent.paper.uniqueness.contrasts import _interval, _Repeated, contrast
from opponent.paper.uniqueness.control_figures import flat
from opponent.paper.uniqueness.controls import SIZES
from opponent.paper.uniqueness.measurements import FeatureGroup, FeatureMeasurements
from opponent.paper.uniqueness.statistics import chance

IMAGES, FEATURES, DRAWS = 200, 12, 3


def measurements_of(
    sizes: dict[str, np.ndarray],
    hidden: np.ndarray,
    population: int | None = None,
) -> FeatureMeasurements:
    """Measurements of one layer's units: by basis images x features x gradients x sizes."""
    n, features, sets, _ = sizes["channels"].shape
    group = FeatureGroup(
        pair=LayerPair(target="b", through="a", bottleneck=True),
        kind="units",
        features=tuple(Feature(layer="b", unit=i) for i in range(features)),
        population=population,
        values=np.zeros((n, features, 4), np.float32),
        hidden=hidden.astype(np.float32),
        sizes={name: x.astype(np.float32) for name, x in sizes.items()},
        parallel=np.random.default_rng(1).random((n, features, sets)).astype(np.float32),
    )
    images = tuple(f"image{i}" for i in range(n))
    return FeatureMeasurements(
        folder=Path(), question={}, groups=(group,), images=images, unreadable={},
        source=open_images(["image"]),
    )  # fmt: skip


def sizes_of(norms: np.ndarray) -> np.ndarray:
    """All sizes the same, but for a rest of zero."""
    sizes = np.repeat(norms[..., None], len(SIZES), 3)
    sizes[..., SIZES.index("rest")] = 0
    return sizes


def made(shared: float, by_norm: float, seed: int = 0) -> FeatureMeasurements:
    """Learnt features that share what is theirs, and controls that share only the norm of h."""
    rng = np.random.default_rng(seed)
    hidden = rng.lognormal(0, 1, IMAGES)
    own = rng.lognormal(0, 1, (IMAGES, FEATURES, 1 + 2 * DRAWS))
    together = rng.lognormal(0, 1, IMAGES)
    norms = own * hidden[:, None, None] ** by_norm
    norms[:, :, 0] *= together[:, None] ** shared
    return measurements_of({"channels": sizes_of(norms)}, np.stack([hidden, hidden], 1))


def row(contrasts: Contrasts, given: str, control: str = "permuted", by: str = "l1") -> Contrast:
    [found] = [x for x in contrasts.sharing if (x.given, x.control, x.by) == (given, control, by)]
    return found


def test_what_only_the_norm_of_h_shares_is_not_above_the_controls() -> None:
    contrasts = contrast(made(shared=0, by_norm=2), 10)
    alone = row(contrasts, "alone")
    assert alone.learnt.value < alone.chance - 0.2  # They share a lot,
    for given in ("alone", "over h", "matched"):
        for control in ("permuted", "random"):
            more = row(contrasts, given, control).more
            assert more.low < 0 < more.high  # and so do the controls.
    matched = row(contrasts, "matched")
    assert matched.learnt.low < matched.chance < matched.learnt.high
    assert alone.hidden_r > 0.5


def test_what_is_shared_beyond_the_norm_of_h_is() -> None:
    contrasts = contrast(made(shared=2, by_norm=0.5), 10)
    for given in ("alone", "over h", "matched"):
        for control in ("permuted", "random"):
            assert row(contrasts, given, control).more.low > 0.02


def slow_u(scores: np.ndarray, m: int) -> float:
    """U of the top m of each feature, feature by feature."""
    chosen = [set(sorted(range(len(x)), key=lambda i: -x[i])[:m]) for x in scores.T.tolist()]
    return len(set().union(*chosen)) / (len(chosen) * m)


def slow_matched(scores: np.ndarray, norms: np.ndarray, m: int, strata: int) -> float:
    """The same, with as many images of each part of the images by the norm of h."""
    order = sorted(range(len(norms)), key=lambda i: norms[i])
    size, chosen = len(order) // strata, []
    for x in scores.T.tolist():
        mine = set[int]()
        for part in range(strata):
            part_of = order[part * size : (part + 1) * size]
            mine |= set(sorted(part_of, key=lambda i: -x[i])[: m // strata])
        chosen.append(mine)
    return len(set().union(*chosen)) / (len(chosen) * m)


@pytest.mark.parametrize("m", [10, 20, 40])
def test_values_are_those_of_a_slow_twin(m: int) -> None:
    measurements = made(shared=1, by_norm=1)
    [group] = measurements.groups
    contrasts = contrast(measurements, m)
    norms = group.hidden[:, 0]
    scores = group.sizes["channels"][..., 0]
    twins = {
        "alone": lambda x: slow_u(x, m),
        "over h": lambda x: slow_u(x / norms[:, None], m),
        "matched": lambda x: slow_matched(x, norms, m, min(m, 20)),
    }
    for given, twin in twins.items():
        for control, sets in (("permuted", (1, 2, 3)), ("random", (4, 5, 6))):
            found = row(contrasts, given, control)
            learnt, other = twin(scores[:, :, 0]), np.mean([twin(scores[:, :, s]) for s in sets])
            assert found.learnt.value == pytest.approx(learnt)
            assert found.other.value == pytest.approx(other)
            assert found.more.value == pytest.approx(other - learnt)
            assert found.chance == chance(FEATURES, m, IMAGES)
            for estimate in (found.learnt, found.other, found.more):
                assert estimate.low <= estimate.value <= estimate.high
    correlations = [np.corrcoef(x, norms)[0, 1] for x in scores[:, :, 0].T]
    assert row(contrasts, "alone").hidden_r == pytest.approx(np.mean(correlations))


def test_equal_values_share_nothing() -> None:
    # Half of the images, those with the smallest norm of h, give S = 0 for all features.
    rng = np.random.default_rng(0)
    hidden = rng.random(IMAGES)
    norms = rng.random((IMAGES, FEATURES, 1 + 2 * DRAWS)) * (hidden > 0.5)[:, None, None]
    measurements = measurements_of({"channels": sizes_of(norms)}, np.stack([hidden, hidden], 1))
    matched = row(contrast(measurements, 40), "matched")
    assert matched.learnt.value == pytest.approx(matched.chance, abs=0.04)


def test_too_many_images_are_refused() -> None:
    with pytest.raises(ValueError, match="give 1 to 100; with more, U says nothing"):
        contrast(made(shared=0, by_norm=0), 101)


def test_numbers_that_cannot_be_told_are_none() -> None:
    estimate = _interval(math.nan, 1.0, 5, (0.0, math.inf))
    assert math.isnan(estimate.value)
    assert math.isnan(_interval(1.0, math.nan, 5, (0.0, math.inf)).high)
    [first, *_] = contrast(made(shared=0, by_norm=0), 10).sharing
    assert flat(replace(first, chance=math.inf))["chance"] is None


def test_intervals_hold_what_other_features_and_images_give() -> None:
    # The mean over many worlds lies within the interval of each, most of the time.
    found = []
    for seed in range(40):
        [group] = made(shared=1, by_norm=1, seed=seed).groups
        scores = group.sizes["channels"][..., 0]
        us = _Repeated.of(scores, group.hidden[:, 0], "alone", 10, None)
        found.append(us.estimate(-1, 1, group.drawn("permuted"), (-1.0, 1.0)))
    truth = float(np.mean([x.value for x in found]))
    covered = np.mean([x.low <= truth <= x.high for x in found])
    assert covered >= 0.9


def test_what_remains_in_a_dictionary_by_hand() -> None:
    channels = np.ones((IMAGES, 2, 1 + 2 * DRAWS, 4)) * [4, 1, 2, 0]
    latents = np.ones((IMAGES, 2, 1 + 2 * DRAWS, 4)) * [2, 1, 0.5, 1]
    latents[:, :, 1:] /= 2
    found = contrast(
        measurements_of({"channels": channels, "topk 9/2": latents}, np.ones((IMAGES, 2))), 5
    )
    learnt, permuted, random = found.remaining
    assert [x.gradient for x in found.remaining] == ["learnt", "permuted", "random"]
    assert (learnt.l1.value, learnt.l1_with_rest.value, learnt.tension.value) == (0.5, 0.75, 0.25)
    assert (permuted.l1.value, random.tension.value) == (0.25, 0.125)
    assert (learnt.l1.low, learnt.l1.high) == (0.5, 0.5)


def test_parallel_is_the_mean_over_pairs_images_and_draws() -> None:
    measurements = made(shared=0, by_norm=0)
    [group] = measurements.groups
    learnt, permuted, random = (x.squared_cosine for x in contrast(measurements, 10).parallel)
    others = FEATURES - 1
    assert learnt.value == pytest.approx(group.parallel[:, :, 0].mean() / others)
    assert permuted.value == pytest.approx(group.parallel[:, :, 1:4].mean() / others)
    assert random.value == pytest.approx(group.parallel[:, :, 4:].mean() / others)
    assert learnt.low < learnt.value < learnt.high


def test_dead_features_do_not_count() -> None:
    measurements = made(shared=1, by_norm=1)
    [group] = measurements.groups
    group.sizes["channels"][:, 2] = 0
    group.sizes["topk 9/2"] = group.sizes["channels"].copy()
    assert {x.features for x in contrast(measurements, 10).sharing} == {FEATURES - 1}
    group.sizes["topk 9/2"][:, 5] = 0  # what one basis lacks is left out of all
    assert {x.features for x in contrast(measurements, 10).sharing} == {FEATURES - 2}
    group.sizes["channels"][:, 1:] = 0
    [*rows] = contrast(measurements, 10).sharing
    assert all(np.isnan(x.more.value) for x in rows)


def test_without_controls_nothing_is_compared() -> None:
    sizes = sizes_of(np.random.default_rng(0).random((IMAGES, 3, 1)))
    found = contrast(measurements_of({"channels": sizes}, np.ones((IMAGES, 2))), 5)
    assert found.sharing == found.parallel == found.remaining == ()
