"""U of features beside that of features that the network never learnt, and what dictionaries leave.

Source: ours; the measure is the paper's, eq. 6.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from opponent.paper.uniqueness.controls import CONTROLS, SIZES
from opponent.paper.uniqueness.measurements import FeatureGroup, FeatureMeasurements
from opponent.paper.uniqueness.statistics import (
    Members,
    chance,
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
# The learnt gradients, then the controls.
GRADIENTS = ("learnt", *CONTROLS)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval.

    Args:
        value, low, high: the number and its bounds; NaN where there is none.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """U of one layer's features, beside that of one kind of control.

    Args:
        layer, through: the layer, and the one that it is explained through.
        kind: 'units' or 'kmeans'.
        basis: 'channels', or a dictionary's title.
        by: the norm of S that images are chosen by, 'l1' or 'l2'.
        given: 'alone', 'over h' or 'matched'.
        control: 'permuted' or 'random'.
        features, top, images: n, m and N.
        learnt: U of the features.
        other: U of the controls, the mean of all draws.
        more: what features share beyond the controls: other - learnt.
        chance: U of images drawn at random.
        hidden_r: mean correlation of that norm of S with the same norm of h.
    """

    layer: str
    through: str
    kind: str
    basis: str
    by: str
    given: str
    control: str
    features: int
    top: int
    images: int
    learnt: Estimate
    other: Estimate
    more: Estimate
    chance: float
    hidden_r: float


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What of the norm of S and of tension remains in a dictionary, mean over images.

    Args:
        layer, through, kind, basis: as above.
        gradient: 'learnt', or the control.
        l1: L1 norm of S in latents over that in channels.
        l1_with_rest: the same with the rest counted channel by channel.
        tension: the same of the tension.
    """

    layer: str
    through: str
    kind: str
    basis: str
    gradient: str
    l1: Estimate
    l1_with_rest: Estimate
    tension: Estimate


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """The mean squared cosine of two features' S in one image: 0 at right angles, 1 parallel.

    Args:
        layer, through, kind: as above.
        gradient: 'learnt', or the control.
        features: how many there are.
        squared_cosine: the mean over images and pairs of features.
    """

    layer: str
    through: str
    kind: str
    gradient: str
    features: int
    squared_cosine: Estimate


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """All comparisons with the controls.

    Args:
        sharing: of U, for each layer, kind, basis, norm, way and control.
        remaining: what dictionaries leave.
        parallel: how far the features' S are parallel.
    """

    sharing: tuple[Contrast, ...]
    remaining: tuple[Remaining, ...]
    parallel: tuple[Parallel, ...]


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
    """
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
    for basis, sizes in group.sizes.items():
        for by in NORMS:
            scores, norms = sizes[..., SIZES.index(by)], group.hidden[:, NORMS.index(by)]
            ranks = ranked(scores.reshape(len(scores), -1), m).reshape(scores.shape[1:])
            scores = scores[:, ranks.all(1)]
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
        by_images: without each part of the images.
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
        for left_out in np.array_split(order, min(GROUPS, count)):
            rest = np.delete(np.arange(count), left_out)
            fewer = max(1, round(m * len(rest) / count))
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

        variance = self.finite * jackknife_variance(of(self.by_feature))
        variance += jackknife_variance(of(self.by_images))
        draws = self.values[control, 0]
        if other and len(draws) > 1:
            variance += float(draws.var(ddof=1)) / len(draws)
        return _interval(float(of(self.values)[0]), variance, self.by_feature.shape[1], bounds)


def _interval(value: float, variance: float, n: int, bounds: tuple[float, float]) -> Estimate:
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance)
    return Estimate(
        value=value, low=max(bounds[0], value - half), high=min(bounds[1], value + half)
    )


def _members(scores: Scores, norms: Norms, given: str, m: int) -> list[Members]:
    """For each gradient the images that its features choose."""
    choose: Callable[[Norms], Int[np.ndarray, " m"]]
    if given == "matched":
        choose = _chooser(norms, m)
    else:
        if given == "over h":
            scores = np.divide(
                scores, norms[:, None, None], out=np.zeros_like(scores),
                where=norms[:, None, None] > 0,
            )  # fmt: skip
        choose = lambda values: top(values, m)  # noqa: E731
    return [
        np.array([choose(values) for values in scores[:, :, s].T]) for s in range(scores.shape[2])
    ]


def _chooser(norms: Norms, m: int) -> Callable[[Norms], Int[np.ndarray, " m"]]:
    """Choose m images: of each of equal parts of the images by the norm of h, as many."""
    strata = min(STRATA, m)
    parts = np.array_split(np.argsort(norms, kind="stable"), strata)
    counts = np.diff(np.linspace(0, m, strata + 1).round().astype(int)).tolist()

    def choose(values: Norms) -> Int[np.ndarray, " m"]:
        return np.concatenate(
            [part[top(values[part], k)] for part, k in zip(parts, counts, strict=True)]
        )

    return choose


def _mean_r(scores: Float[np.ndarray, "images n"], norms: Norms) -> float:
    """Mean over features of Pearson's correlation with the norm of h; NaN without any."""
    if not norms.std() or not scores.size:
        return math.nan
    return float(np.mean([np.corrcoef(x, norms)[0, 1] for x in scores.T.astype(np.float64)]))


def _remaining(group: FeatureGroup) -> Iterator[Remaining]:
    channels = group.sizes["channels"].astype(np.float64)
    # Dead features leave nothing to share.
    alive = (channels[..., SIZES.index("tension")].mean(0) > 0).all(1)
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
