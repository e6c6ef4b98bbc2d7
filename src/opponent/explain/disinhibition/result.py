"""What a feature does without its inhibition, over many images: numbers, tables and facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from opponent.core.feature import Feature
from opponent.explain.disinhibition.ablation import Ablation
from opponent.explain.disinhibition.cells import (
    Cell,
    agreement,
    cells_of,
    for_json,
    mean_of,
    over_draws,
    percent_of,
    repeated,
    share_of,
    told,
)
from opponent.explain.disinhibition.classes import Classes
from opponent.explain.disinhibition.groups import own_images, tense_images, thresholds
from opponent.explain.disinhibition.statistics import auc_each, auc_of_groups, spearman_each, wilson

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Disinhibited:
    """Activations of f features in n images, with their inhibition and without, in a ways.

    All values are in units of the activation.

    Args:
        network: the network's name.
        features: of one layer.
        through: the layer whose output the inhibition is taken out of.
        ablations: the ways; of those at random one for each draw.
        images: the images' ids.
        activation: f as it is.
        excitation, inhibition: E+ and E- in channels.
        latent_excitation, latent_inhibition: the same in a dictionary's latents; None without one.
        hidden: the L1 norm of h in the window that decides the feature.
        exact: f of the network run on from the changed h.
        linear: f plus the gradient times the change of h.
        below, below_size: the share of the window's elements that have become negative and were
            not, and the sum of their sizes over the norm of h.
        classes: where the features are logits and the images have labels.
        question: what determines the numbers.
        unreadable: the images that are left out, with their reasons.

    >>> import numpy as np, opponent
    >>> class Blots:
    ...     name = "blots"
    ...     def ids(self):
    ...         return [str(number) for number in range(30)]
    ...     def image(self, id):
    ...         small = np.random.default_rng(int(id)).integers(0, 256, (5, 5, 3), np.uint8)
    ...         return small.repeat(20, 0).repeat(20, 1)
    >>> found = opponent.disinhibit(
    ...     "inceptionv1-small", Blots(), ["mixed3b:50"], "mixed3a", draws=1)
    >>> [ablation.name for ablation in found.ablations]
    ['all', 'most', 'random']
    >>> found.exact.shape
    (30, 1, 3)
    >>> bool((found.exact[:, 0, 0] > found.activation[:, 0]).all())
    True
    """

    network: str
    features: tuple[Feature, ...]
    through: str
    ablations: tuple[Ablation, ...]
    images: tuple[str, ...]
    activation: Float[np.ndarray, "n f"]
    excitation: Float[np.ndarray, "n f"]
    inhibition: Float[np.ndarray, "n f"]
    hidden: Float[np.ndarray, "n f"]
    exact: Float[np.ndarray, "n f a"]
    linear: Float[np.ndarray, "n f a"]
    below: Float[np.ndarray, "n f a"]
    below_size: Float[np.ndarray, "n f a"]
    latent_excitation: Float[np.ndarray, "n f"] | None = None
    latent_inhibition: Float[np.ndarray, "n f"] | None = None
    classes: Classes | None = None
    question: Mapping[str, object]
    unreadable: Mapping[str, str]

    def __repr__(self) -> str:
        labels = ", ".join(repr(feature.label) for feature in self.features[:3])
        more = ", ..." if len(self.features) > 3 else ""
        return f"Disinhibited({labels}{more} by {self.through!r}: {len(self.images):,} images)"

    @property
    def scope(self) -> str:
        """Over how many images, and how many are left out."""
        text = f"{len(self.images):,} images"
        left = len(self.unreadable)
        return f"{text}; {left:,} are left out" if left else text

    @property
    def names(self) -> list[str]:
        """The ways to take inhibition away, each once."""
        return list(dict.fromkeys(ablation.name for ablation in self.ablations))

    @property
    def tension(self) -> Float[np.ndarray, "n f"]:
        """The smaller of excitation and inhibition, in channels."""
        smaller: Float[np.ndarray, "n f"] = np.minimum(self.excitation, self.inhibition)
        return smaller

    @property
    def latent_tension(self) -> Float[np.ndarray, "n f"] | None:
        """The same in latents; None without a dictionary."""
        if self.latent_excitation is None or self.latent_inhibition is None:
            return None
        smaller: Float[np.ndarray, "n f"] = np.minimum(
            self.latent_excitation, self.latent_inhibition
        )
        return smaller

    @cached_property
    def tense(self) -> Bool[np.ndarray, "n f"]:
        """Each feature's tense images: of those with -0.5 sd < f < 0 the largest L1 norms of S."""
        return tense_images(self.activation, self.excitation + self.inhibition)

    @cached_property
    def own(self) -> Bool[np.ndarray, "n f"]:
        """The images that each feature is for: of its class, or those with the largest f."""
        if self.classes is not None:
            units = np.array(self.classes.chosen)
            ours: Bool[np.ndarray, "n f"] = self.classes.labels[:, None] == units
            return ours
        return own_images(self.activation)

    @cached_property
    def threshold(self) -> Float[np.ndarray, " f"]:
        """What counts as firing strongly: the median of f in the feature's own images."""
        return thresholds(self.activation, self.own)

    def title(self, number: int) -> str:
        """A feature's label, and the name of its class where it has one.

        Args:
            number: which feature.
        """
        label, classes = self.features[number].label, self.classes
        name = None if classes is None else classes.names.get(classes.chosen[number])
        return label if name is None else f"{label} ({name})"

    def draws(self, name: str) -> list[int]:
        """The places of one way among all: one, or one for each draw.

        Args:
            name: such as 'all' or 'random'.
        """
        return [i for i, ablation in enumerate(self.ablations) if ablation.name == name]

    def groups(self, number: int) -> dict[str, Bool[np.ndarray, " n"]]:
        """Groups of images of one feature: all, its own, its tense ones, and where it is silent.

        Args:
            number: which feature.
        """
        f = self.activation[:, number]
        return {
            "all": np.ones(len(f), bool),
            "own": self.own[:, number],
            "tense": self.tense[:, number] & ~self.own[:, number],
            "silent": f <= 0,
        }

    @cached_property
    def rates(self) -> list[dict[str, Cell]]:
        """How often each feature fires: by way, group of images and threshold.

        Of sets at random the mean over the draws, between the lowest and the highest draw; of all
        else the share of images with its interval of 95 %.
        """
        rows = list[dict[str, Cell]]()
        for number, feature in enumerate(self.features):
            levels = {"zero": 0.0, "strong": float(self.threshold[number])}
            for name in self.names:
                for group, where in self.groups(number).items():
                    for level, value in levels.items():
                        before = self.activation[where, number] > value
                        after = self.exact[where, number][:, self.draws(name)] > value
                        rows.append(
                            {
                                "feature": feature.label,
                                "ablation": name,
                                "group": group,
                                "over": level,
                                "threshold": value,
                                "images": int(where.sum()),
                                "before": share_of(before[:, None], value).value,
                                **cells_of("after", share_of(after, value)),
                            }
                        )
        return rows

    @cached_property
    def summary(self) -> list[dict[str, Cell]]:
        """By feature and way: own images against tense ones, and the linear estimate's agreement.

        `auc` is how often f of an own image is over that of a tense one; `taken` is the share of
        the inhibition in tense images, in channels or latents, that is taken away; r and difference
        compare the linear estimate with what the network gives, over all images.
        """
        rows = list[dict[str, Cell]]()
        for number, feature in enumerate(self.features):
            groups = self.groups(number)
            own, tense, f = groups["own"], groups["tense"], self.activation[:, number]
            for name in self.names:
                places = self.draws(name)
                after, linear = (x[:, number][:, places] for x in (self.exact, self.linear))
                areas = [auc_of_groups(x[own], x[tense], 0) for x in after.T]
                members = self.ablations[places[0]].of(number)
                rows.append(
                    {
                        "feature": feature.label,
                        "ablation": name,
                        "draws": len(places),
                        "members": -1 if members is None else len(members),
                        "taken": self._taken(number, name),
                        **cells_of("auc_before", auc_of_groups(f[own], f[tense], 0)),
                        **cells_of("auc", over_draws(areas)),
                        "change": float((after - f[:, None]).mean()),
                        "change_tense": mean_of((after - f[:, None])[tense]),
                        "change_own": mean_of((after - f[:, None])[own]),
                        "r": agreement(linear, after),
                        "difference": float((linear - after).mean()),
                        "difference_abs": float(np.abs(linear - after).mean()),
                        "sd": float(f.astype(np.float64).std()),
                        "below": float(self.below[:, number][:, places].mean()),
                        "below_size": float(self.below_size[:, number][:, places].mean()),
                    }
                )
        return rows

    def _taken(self, number: int, name: str) -> float:
        """As the linear estimate has it; a clamp takes from it."""
        places, tense = self.draws(name), self.tense[:, number]
        of_latents = self.ablations[places[0]].of_latents
        inhibition = self.latent_inhibition if of_latents else self.inhibition
        assert inhibition is not None
        more = self.linear[tense, number][:, places].mean(1) - self.activation[tense, number]
        return float(more.sum()) / (float(inhibition[tense, number].sum()) or float("nan"))

    def scores(self, number: int) -> dict[str, Float[np.ndarray, " n"]]:
        """What may tell of an image whether a feature fires without inhibition.

        Args:
            number: which feature.
        """
        found = {
            "tension": self.tension[:, number],
            "hidden": self.hidden[:, number],
            "activation": self.activation[:, number],
        }
        latent = self.latent_tension
        return found if latent is None else {**found, "latent_tension": latent[:, number]}

    @cached_property
    def predictors(self) -> list[dict[str, Cell]]:
        """What tells which silent images fire without inhibition, by feature, way and predictor.

        Spearman's correlation with f' among the images with f <= 0; the same with the ranks of the
        norm of h and of f taken out; the area under the ROC curve for f' > 0 and for f' over the
        strong threshold, and how far it is over that of the norm of h. With intervals over images.
        """
        rows = list[dict[str, Cell]]()
        for number, feature in enumerate(self.features):
            silent = self.activation[:, number] <= 0
            scores = {name: x[silent] for name, x in self.scores(number).items()}
            for name in self.names:
                place = self.draws(name)[0]
                if self.ablations[place].at_random:
                    continue
                after = self.exact[silent, number, place]
                measures = {
                    "spearman": spearman_each(scores, after, 0),
                    "partial": spearman_each(scores, after, 0, ("hidden", "activation")),
                }
                counts = dict[str, int]()
                for level, value in (("zero", 0.0), ("strong", float(self.threshold[number]))):
                    fires = after > value
                    counts[f"fire_{level}"] = int(fires.sum())
                    measures[f"auc_{level}"] = auc_each(scores, fires, 0)
                    measures[f"ahead_{level}"] = auc_each(scores, fires, 0, beside="hidden")
                for score in scores:
                    row: dict[str, Cell] = {"feature": feature.label, "ablation": name}
                    row |= {"predictor": score, "silent": int(silent.sum()), **counts}
                    for measure, estimates in measures.items():
                        row |= cells_of(measure, estimates[score])
                    rows.append(row)
        return rows

    @cached_property
    def accuracy(self) -> list[dict[str, Cell]]:
        """Shares of images that are taken for what they are, by way; none without labels."""
        rows = list[dict[str, Cell]]()
        for name, tables in self._by_draw("accuracy"):
            for same in zip(*tables, strict=True):
                count = int(same[0]["images"])
                share = over_draws([wilson(float(x["after"]) * count, count) for x in same])
                rows.append({"ablation": name, **same[0], **cells_of("after", share)})
        return rows

    @cached_property
    def confusions(self) -> list[dict[str, Cell]]:
        """Which images are newly taken for a chosen class, by way; none without labels.

        Of sets at random the first draw.
        """
        return [
            {"ablation": name, **row}
            for name, tables in self._by_draw("confusions")
            for row in tables[0]
        ]

    def _by_draw(self, what: str) -> list[tuple[str, list[list[dict[str, Cell]]]]]:
        if self.classes is None:
            return []
        measure = getattr(self.classes, what)
        return [
            (name, [measure(self.activation, self.exact[:, :, i]) for i in self.draws(name)])
            for name in self.names
        ]

    def to_arrow(self) -> pa.Table:
        """One row an image, feature and way: f before, f' exactly and by the linear estimate."""
        n, f, a = self.exact.shape
        latent = self.latent_tension
        wide = {
            "activation": self.activation,
            "tension": self.tension,
            "latent_tension": latent,
            "hidden": self.hidden,
            "own": self.own,
            "tense": self.tense,
        }
        long = {"exact": self.exact, "linear": self.linear, "below": self.below}
        labels = [feature.label for feature in self.features]
        columns: dict[str, pa.Array] = {
            "image": repeated(list(self.images), np.arange(n).repeat(f * a)),
            "feature": repeated(labels, np.tile(np.arange(f).repeat(a), n)),
            "ablation": repeated([x.name for x in self.ablations], np.tile(np.arange(a), n * f)),
            "draw": np.tile([x.draw for x in self.ablations], n * f),
        }
        columns |= {k: x.reshape(-1).repeat(a) for k, x in wide.items() if x is not None}
        return pa.table(columns | {name: x.reshape(-1) for name, x in long.items()})

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.to_arrow().to_pandas()

    def facts(self) -> list[tuple[str, str]]:
        """What is to be said of each feature and way, as names and values."""
        rates = {(x["feature"], x["ablation"], x["group"], x["over"]): x for x in self.rates}
        found = list[tuple[str, str]]()
        for row in self.summary:
            key = (row["feature"], row["ablation"])
            tense, silent = (rates[*key, group, "zero"] for group in ("tense", "silent"))
            strong = rates[*key, "tense", "strong"]
            found.append(
                (
                    f"{row['feature']}, {row['ablation']}",
                    f"{percent_of(tense)} of tense images fire ({percent_of(strong)} strongly), "
                    f"{percent_of(silent)} of silent ones; own over tense "
                    f"{told(row['auc_before'])} before, {told(row['auc'])} after; linear "
                    f"estimate r {told(row['r'])}",
                )
            )
        return found

    def describe(self) -> dict[str, object]:
        """All results but those of single images, and the question, ready for JSON."""
        return {
            "network": self.network,
            "through": self.through,
            "features": [feature.label for feature in self.features],
            "images": len(self.images),
            "ablations": [
                {"name": x.name, "draw": x.draw, "members": x.members} for x in self.ablations
            ],
            "rates": for_json(self.rates),
            "summary": for_json(self.summary),
            "predictors": for_json(self.predictors),
            "accuracy": for_json(self.accuracy),
            "confusions": self.confusions,
            "question": self.question,
            "unreadable": self.unreadable,
        }
