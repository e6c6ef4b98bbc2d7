"""Which images each trial shows: the rules of appendix B.

Source: paper, appendix B. What it leaves open, and what is done here:

- The hidden vector whose L1 norm a distractor needs is the layer's output (after a ReLU) at the
  feature's position, of which the clusters are made. The appendix calls it the vector 'in the
  feature's layer', in contrast to 'the corresponding pre-relu layer' of the activation.
- The 'effective receptive field' it cites (Araujo et al., 2019) is the box of pixels that can
  change the activation, clipped at the image: `Run.receptive_field`. Crops are what the network
  saw, pixel for pixel.
- Distractors are drawn at random among those that qualify.
- MEIs have a positive activation and the MII a negative one, since participants read that they
  excite and inhibit. Late clusters may have no such images.
- A crop that is an MII or a distractor is shown in no other trial of its layer. So where another
  trial shows the image of the smallest activation, the next smallest is the MII, down to the
  seventh; the table says which (`mii_rank`), and other features are passed over. Crops with the
  same pixels are one crop, whatever their files are called. MEIs and examples may be those of other
  trials too, as in the appendix.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

# Source of all four: paper, appendix B.
EXAMPLES, DISTRACTORS = 6, 7
MODEST = 2.0  # standard deviations from the mean activation
SALIENT = 90.0  # percentile of the L1 norm


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A feature over the images of its scan, from which a trial is chosen.

    Args:
        label: the feature's name.
        activation: of each image.
        norm: the L1 norm of each image's hidden vector in the feature's layer.
        photos: the photograph that each image is, or is a crop of.
        crop: maps an image's index to an identifier of its crop's pixels.
    """

    label: str
    activation: Float[np.ndarray, " n"]
    norm: Float[np.ndarray, " n"]
    photos: Sequence[str]
    crop: Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The images of a trial, as indices into the images of a candidate.

    Args:
        feature: the candidate's number.
        mei: the target MEI.
        mii: the target MII.
        examples: the other most exciting images.
        distractors: the other choices.
    """

    feature: int
    mei: int
    mii: int
    examples: tuple[int, ...]
    distractors: tuple[int, ...] = ()

    @property
    def exciting(self) -> tuple[int, ...]:
        """The target MEI and the examples, largest activation first."""
        return (self.mei, *self.examples)


def modest(activation: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The smallest and the largest activation that a distractor may have.

    Args:
        activation: of each image.
    Returns:
        The mean minus and plus 2 standard deviations.
    Source: paper, appendix B.
    """
    values = activation.astype(np.float64)
    mean, spread = float(values.mean()), MODEST * float(values.std())
    return mean - spread, mean + spread


def salient(norm: Float[np.ndarray, " n"]) -> float:
    """The smallest L1 norm that a distractor may have.

    Args:
        norm: the L1 norm of each image's hidden vector.
    Returns:
        Their 90th percentile.
    Source: paper, appendix B.
    """
    return float(np.percentile(norm.astype(np.float64), SALIENT))


def choose(
    candidates: Sequence[Candidate],
    count: int,
    *,
    examples: int = EXAMPLES,
    distractors: int = DISTRACTORS,
    seed: int = 0,
) -> tuple[list[Chosen], dict[str, str]]:
    """The trials of one layer, of the first features for which a trial can be filled.

    Args:
        candidates: the layer's features, in the order in which they are taken.
        count: how many trials.
        examples: MEIs shown beside the target MEI.
        distractors: choices that are neither target.
        seed: of the distractors.
    Returns:
        The trials, and the features passed over with the reason.
    Raises:
        ValueError: too few trials can be filled; the message says why.
    Source: paper, appendix B.
    """
    unfit: dict[int, str] = {}
    while True:
        targets, clashes = _targets(candidates, count, examples, unfit)
        chosen, failed = _with_distractors(candidates, targets, distractors, seed)
        passed = {candidates[i].label: why for i, why in sorted((unfit | clashes).items())}
        if len(chosen) == count and not failed:
            return chosen, passed
        unfit |= failed
        if len(chosen) < count:
            passed |= {candidates[i].label: why for i, why in failed.items()}
            reasons = "; ".join(f"{label}: {why}" for label, why in [*passed.items()][:5])
            raise ValueError(
                f"{len(chosen) - len(failed)} of {count} trials can be filled from "
                f"{len(candidates)} features "
                f"({reasons}{'; …' if len(passed) > 5 else ''}). Scan more features, or the same "
                "ones in more images, or ask for fewer trials (--features, --catch, --practice); "
                f"N images hold distractors for at most N / {10 * distractors} trials"
            )


class _Shown:
    """The crops of a layer's trials: the role of each, and its photograph."""

    def __init__(self) -> None:
        self.roles: dict[str, tuple[str, str]] = {}
        self.photos: dict[str, str] = {}

    def clash(self, role: str, crop: str, photo: str) -> str | None:
        """Why a crop cannot have a role beside the trials that are chosen already.

        Args:
            role: 'MEI' or 'MII'.
            crop: identifier of the crop.
            photo: the photograph that it is of.
        Returns:
            The reason, or None if it can.
        """
        other, label = self.roles.get(crop, (None, None))
        if other is not None and "MII" in (role, other):
            return f"the crop of its {role} is the {other} of {label}"
        if self.photos.get(photo, crop) != crop:
            return f"its {role} and another picture of the layer are crops of one photograph"
        return None

    def add(self, role: str, label: str, crop: str, photo: str) -> None:
        """Add a crop.

        Args:
            role: 'MEI' or 'MII'.
            label: the feature of its trial.
            crop: identifier of the crop.
            photo: the photograph that it is of.
        """
        self.roles[crop] = (role, label)
        self.photos[photo] = crop


def _targets(
    candidates: Sequence[Candidate], count: int, examples: int, unfit: Mapping[int, str]
) -> tuple[list[Chosen], dict[int, str]]:
    """MEI, MII and examples of the first compatible features, and why others are passed over."""
    shown, chosen, clashes = _Shown(), list[Chosen](), dict[int, str]()
    for number, candidate in enumerate(candidates):
        if len(chosen) == count:
            break
        if number in unfit:
            continue
        extremes = _extremes(candidate, number, examples, shown)
        if isinstance(extremes, str):
            clashes[number] = extremes
            continue
        for i in (extremes.mii, *extremes.exciting):
            role = "MII" if i == extremes.mii else "MEI"
            shown.add(role, candidate.label, candidate.crop(i), candidate.photos[i])
        chosen.append(extremes)
    return chosen, clashes


def _extremes(candidate: Candidate, number: int, examples: int, shown: _Shown) -> Chosen | str:
    """MEI, MII and examples of a feature, compatible with `shown`; or why there are none."""
    f = candidate.activation
    if len(f) < 2 * (examples + 1):
        return f"{len(f)} images, too few for {examples + 1} at either end"
    if not np.isfinite(f).all() or not np.isfinite(candidate.norm).all():
        return "an activation or norm is not finite"
    if f.min() >= 0:
        return "its activation is never negative: scan the ReLU by name, which is read before it"
    exciting = _exciting(candidate, examples, shown)
    if isinstance(exciting, str):
        return exciting
    crops = {candidate.crop(i) for i in exciting}
    photos = {candidate.photos[i] for i in exciting}
    # As many images qualify as the MII as qualify as MEIs. Stable: of equals, the first image.
    smallest = np.argsort(f, kind="stable")[: examples + 1]
    inhibiting = smallest[f[smallest] < 0].tolist()
    reasons = []
    for i in inhibiting:
        if candidate.photos[i] in photos or candidate.crop(i) in crops:
            reasons.append("it and an MEI are of one photograph, or look the same")
        elif why := shown.clash("MII", candidate.crop(i), candidate.photos[i]):
            reasons.append(why)
        else:
            return Chosen(feature=number, mei=exciting[0], mii=i, examples=tuple(exciting[1:]))
    return (
        f"none of its smallest negative activations ({len(inhibiting)} tried) can be its MII; "
        f"the smallest: {reasons[0]}"
    )


def _exciting(candidate: Candidate, examples: int, shown: _Shown) -> list[int] | str:
    """The MEI and the examples of a feature, largest activation first; or why there are none."""
    f = candidate.activation
    crops, photos, exciting = set[str](), set[str](), list[int]()
    for i in np.argsort(-f, kind="stable").tolist():
        # With one crop a photograph, as usual, these are the first to seventh.
        if candidate.photos[i] in photos or candidate.crop(i) in crops:
            continue
        if why := shown.clash("MEI", candidate.crop(i), candidate.photos[i]):
            return why
        exciting.append(i)
        photos.add(candidate.photos[i])
        crops.add(candidate.crop(i))
        if len(exciting) == examples + 1:
            break
    else:
        return f"only {len(exciting)} of {examples + 1} MEIs are of different photographs"
    if (last := f[exciting[-1]]) <= 0:
        positive = int((f[exciting] > 0).sum())
        return f"only {positive} of {examples + 1} MEIs excite it: {last:.3g} in the last"
    return exciting


def _with_distractors(
    candidates: Sequence[Candidate], trials: Sequence[Chosen], count: int, seed: int
) -> tuple[list[Chosen], dict[int, str]]:
    """The same trials with distractors, and the features that have too few of them."""
    crops, photos = set[str](), set[str]()
    for trial in trials:
        candidate = candidates[trial.feature]
        crops |= {candidate.crop(i) for i in (trial.mii, *trial.exciting)}
        photos |= {candidate.photos[i] for i in (trial.mii, *trial.exciting)}
    filled, failed = list[Chosen](), dict[int, str]()
    for trial in trials:
        candidate = candidates[trial.feature]
        low, high = modest(candidate.activation)
        f = candidate.activation.astype(np.float64)
        within = (low <= f) & (f <= high) & (f > f[trial.mii]) & (f < f[trial.mei])
        large = candidate.norm >= salient(candidate.norm)
        pool = np.flatnonzero(within & large)
        taken: list[int] = []
        for i in np.random.default_rng((seed, trial.feature)).permutation(pool).tolist():
            if len(taken) == count:
                break
            if candidate.photos[i] not in photos and (crop := candidate.crop(i)) not in crops:
                taken.append(i)
                crops.add(crop)
                photos.add(candidate.photos[i])
        if len(taken) < count:
            failed[trial.feature] = (
                f"{len(taken)} of {count} distractors: of {len(f):,} images {within.sum():,} lie "
                f"within {MODEST:g} sd of the mean activation, {large.sum():,} have an L1 norm in "
                f"the top tenth, {len(pool):,} both, and {len(pool) - len(taken):,} of these are "
                "shown already"
            )
        filled.append(replace(trial, distractors=tuple(taken)))
    return filled, failed
