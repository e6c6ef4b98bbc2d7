"""U of features beside that of features that the network never learnt, and what dictionaries leave.

Source: ours; the measure is the paper's, eq. 6.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from opponent.paper.uniqueness.comparisons import (
    Contrast,
    Contrasts,
    Estimate,
    Parallel,
    Remaining,
)
from opponent.paper.uniqueness.controls import CONTROLS, SIZES
from opponent.paper.uniqueness.measurements import FeatureGroup, FeatureMeasurements
from opponent.paper.uniqueness.statistics import (
    Members,
    chance,
    check_top,
    jackknife_variance,
    ranked,
    uniqueness,
    without_each,
)
from opponent.selection import top

# Norms of S, and what is done about images that drive the whole layer hard: nothing, S over the
# norm of h, or as many images of each part of them, parted by the norm of h.
NORMS, GIVEN = ("l1", "l2"), ("alone", "over h", "matched")
# Parts of the images by the norm of h, at most; and parts that are left out in turn. Ours.
STRATA, GROUPS = 20, 20
# Share of the images in which a feature and its controls are tense, for what remains of tension.
LEAST_TENSE = 0.1
# The learnt gradients, then the controls.
GRADIENTS = ("learnt", *CONTROLS)


def contrast(measurements: FeatureMeasurements, m: int) -> Contrasts:
    """Compare the features of each layer with the controls.

    Intervals are over the choice of features, of images and of controls: the jackknife without each
    feature, the jackknife without each twentieth of the images, and the spread of the draws; their
    variances add.

    Args:
        measurements: as `measure_features` returns them.
        m: images a feature, as for `assess`.
    Returns:
        The comparisons; none where no controls were drawn.
    Raises:
        ValueError: m is not from 1 to half of the images.
    """
    check_top(m, len(measurements.images))
    sharing, remaining, parallel = list[Contrast](), list[Remaining](), list[Parallel]()
    for group in measurements.groups:
        if group.draws:
            sharing += _sharing(group, m)
            parallel += _parallel(group)
        remaining += _remaining(group)
    return Contrasts(sharing=tuple(sharing), remaining=tuple(remaining), parallel=tuple(parallel))


Scores = Float[np.ndarray, "images n _"]
Norms = Float[np.ndarray, " images"]


def _sharing(group: FeatureGroup, m: int) -> Iterator[Contrast]:
    # The same features in all bases and by all norms, so that these can be compared.
    places = [SIZES.index(by) for by in NORMS]
    ranks = [
        ranked(sizes[..., place].reshape(len(sizes), -1), m).reshape(sizes.shape[1:3]).all(1)
        for sizes in group.sizes.values()
        for place in places
    ]
    kept = np.logical_and.reduce(ranks)
    for basis, sizes in group.sizes.items():
        for by in NORMS:
            scores, norms = sizes[..., SIZES.index(by)], group.hidden[:, NORMS.index(by)]
            scores = scores[:, kept]
            n, r = scores.shape[1], _mean_r(scores[:, :, 0], norms)
            for given in GIVEN:
                us = _Repeated.of(scores, norms, given, m, group.population) if n > 1 else None
                for control in CONTROLS:
                    learnt, other, more = _estimates(us, group.drawn(control), n)
                    yield Contrast(
                        layer=group.pair.target,
                        through=group.pair.through,
                        kind=group.kind,
                        basis=basis,
                        by=by,
                        given=given,
                        control=control,
                        features=n,
                        top=m,
                        images=len(scores),
                        learnt=learnt,
                        other=other,
                        more=more,
                        chance=chance(n, m, len(scores)) if n else math.nan,
                        hidden_r=r,
                    )


def _estimates(
    us: "_Repeated | None", control: slice, n: int
) -> tuple[Estimate, Estimate, Estimate]:
    """U of the features, of the controls, and their difference."""
    if us is None:
        nothing = Estimate(value=math.nan, low=math.nan, high=math.nan)
        return nothing, nothing, nothing
    within = 1 / n, 1.0
    return (
        us.estimate(1, 0, control, within),
        us.estimate(0, 1, control, within),
        us.estimate(-1, 1, control, (-1.0, 1.0)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Repeated:
    """U of each gradient, the learnt one first: of all, and without each part in turn.

    Args:
        values: of all features and images.
        by_feature: without each feature.
        by_images: without each part of the images, as large as the others but for one image.
        finite: what of the variance over features is left where they are drawn from few.
    """

    values: Float[np.ndarray, "s 1"]
    by_feature: Float[np.ndarray, "s n"]
    by_images: Float[np.ndarray, "s g"]
    finite: float

    @classmethod
    def of(
        cls, scores: Scores, norms: Norms, given: str, m: int, population: int | None
    ) -> "_Repeated":
        count, n = scores.shape[:2]
        members, by_images = _members(scores, norms, given, m), list[list[float]]()
        # An order in which neighbours in a folder, often of one class, do not leave together.
        order = np.random.default_rng(0).permutation(count)
        groups = min(GROUPS, count)
        # One number for all groups: U would else jump from one to the other.
        fewer = max(1, round(m * (1 - 1 / groups)))
        for left_out in np.array_split(order, groups):
            rest = np.delete(np.arange(count), left_out)
            parts = _members(scores[rest], norms[rest], given, fewer)
            by_images.append([uniqueness(x) for x in parts])
        return cls(
            values=np.array([[uniqueness(x)] for x in members]),
            by_feature=np.array([without_each(x) for x in members]),
            by_images=np.array(by_images).T,
            finite=1.0 if population is None else max(0.0, 1 - n / population),
        )

    def estimate(
        self, learnt: int, other: int, control: slice, bounds: tuple[float, float]
    ) -> Estimate:
        """learnt * U of the features + other * the mean U of a kind of control."""

        def of(x: Float[np.ndarray, "s _"]) -> Float[np.ndarray, " _"]:
            found: Float[np.ndarray, " _"] = learnt * x[0] + other * x[control].mean(0)
            return found

        draws = self.values[control, 0]
        # A single draw leaves all features' controls open, however many features there are.
        finite = 1.0 if other and len(draws) == 1 else self.finite
        variance = finite * jackknife_variance(of(self.by_feature))
        variance += jackknife_variance(of(self.by_images))
        if other and len(draws) > 1:
            variance += float(draws.var(ddof=1)) / len(draws)
        return _interval(float(of(self.values)[0]), variance, self.by_feature.shape[1], bounds)


def _interval(value: float, variance: float, n: int, bounds: tuple[float, float]) -> Estimate:
    from scipy.special import stdtrit

    if not math.isfinite(variance) or not math.isfinite(value):
        return Estimate(
            value=value if math.isfinite(value) else math.nan, low=math.nan, high=math.nan
        )
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance)
    return Estimate(
        value=value, low=max(bounds[0], value - half), high=min(bounds[1], value + half)
    )


def _members(scores: Scores, norms: Norms, given: str, m: int) -> list[Members]:
    """For each gradient the images that its features choose: as many of each stratum."""
    if given == "over h":
        scores = np.divide(
            scores, norms[:, None, None], out=np.zeros_like(scores), where=norms[:, None, None] > 0
        )
    strata = min(STRATA, m) if given == "matched" else 1
    parts = np.array_split(np.argsort(norms, kind="stable"), strata)
    counts = np.diff(np.linspace(0, m, strata + 1).round().astype(int)).tolist()
    members = []
    for s in range(scores.shape[2]):
        chosen = []
        for number, values in enumerate(scores[:, :, s].T):
            # Among equal values each feature takes others: their order must not make them shared.
            mixed = np.random.default_rng([s, number])
            order = [mixed.permutation(part) if strata > 1 else part for part in parts]
            chosen.append(
                np.concatenate(
                    [part[top(values[part], k)] for part, k in zip(order, counts, strict=True)]
                )
            )
        members.append(np.array(chosen))
    return members


def _mean_r(scores: Float[np.ndarray, "images n"], norms: Norms) -> float:
    """Mean over features of Pearson's correlation with the norm of h; NaN without any."""
    if not norms.std() or not scores.size:
        return math.nan
    return float(np.mean([np.corrcoef(x, norms)[0, 1] for x in scores.T.astype(np.float64)]))


def _remaining(group: FeatureGroup) -> Iterator[Remaining]:
    channels = group.sizes["channels"].astype(np.float64)
    # Features that are tense in a few images alone leave nothing to compare without these.
    tense = (channels[..., SIZES.index("tension")] > 0).sum(0)
    alive = (tense >= max(2, LEAST_TENSE * len(channels))).all(1)
    n = int(alive.sum())
    if n < 2:
        return
    for basis, all_sizes in group.sizes.items():
        if basis == "channels":
            continue
        sizes = all_sizes.astype(np.float64)
        for gradient in GRADIENTS:
            if gradient != "learnt" and not group.draws:
                continue
            which = slice(0, 1) if gradient == "learnt" else group.drawn(gradient)
            l1, _, tension, rest = np.moveaxis(sizes[:, alive, which], 3, 0)
            before = np.moveaxis(channels[:, alive, which], 3, 0)

            def share(
                part: Scores,
                whole: Scores,
                of: FeatureGroup = group,
                count: int = n,
            ) -> Estimate:
                return _share(part, whole, of.population, count)

            yield Remaining(
                layer=group.pair.target,
                through=group.pair.through,
                kind=group.kind,
                basis=basis,
                gradient=gradient,
                l1=share(l1, before[0]),
                l1_with_rest=share(l1 + rest, before[0]),
                tension=share(tension, before[2]),
            )


def _share(part: Scores, whole: Scores, population: int | None, n: int) -> Estimate:
    """The sum over images of one over that of the other, mean over features and draws."""

    def shares(rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, "n _"]:
        found: Float[np.ndarray, "n _"] = part[rows].sum(0) / whole[rows].sum(0)
        return found

    everything = np.arange(len(part))
    values = shares(everything)
    of_feature = values.mean(1)
    order = np.random.default_rng(0).permutation(len(part))
    groups = np.array_split(order, min(GROUPS, len(part)))
    images = np.array([shares(np.setdiff1d(everything, x)).mean() for x in groups])
    finite = 1.0 if population is None else max(0.0, 1 - n / population)
    variance = finite * float(of_feature.var(ddof=1)) / n + jackknife_variance(images)
    draws = values.mean(0)
    if len(draws) > 1:
        variance += float(draws.var(ddof=1)) / len(draws)
    return _interval(float(values.mean()), variance, n, (0.0, math.inf))


def _parallel(group: FeatureGroup) -> Iterator[Parallel]:
    sums = group.parallel.astype(np.float64)
    alive = (sums.mean(0) > 0).all(1)
    n = int(alive.sum())
    if n < 3:
        return
    finite = 1.0 if group.population is None else max(0.0, 1 - n / group.population)
    groups = np.array_split(np.random.default_rng(0).permutation(len(sums)), min(GROUPS, len(sums)))
    for gradient in GRADIENTS:
        which = slice(0, 1) if gradient == "learnt" else group.drawn(gradient)
        of_gradient = sums[:, alive, which]
        draws = of_gradient.sum(1).mean(0) / (n * (n - 1))
        of_feature = of_gradient.mean((0, 2))
        # Without a feature, its cosines with the others leave twice.
        without = (of_feature.sum() - 2 * of_feature) / ((n - 1) * (n - 2))
        images = np.array([np.delete(of_gradient, x, 0).mean() / (n - 1) for x in groups])
        variance = finite * jackknife_variance(without) + jackknife_variance(images)
        if len(draws) > 1:
            variance += float(draws.var(ddof=1)) / len(draws)
        yield Parallel(
            layer=group.pair.target,
            through=group.pair.through,
            kind=group.kind,
            gradient=gradient,
            features=n,
            squared_cosine=_interval(float(draws.mean()), variance, n, (0.0, 1.0)),
        )
