"""Tension of toy models in hidden units, in true features and in dictionaries' latents.

h = z D + bias + rest. Each output's S over units, W2_i * h, is then W2_i D^T * z, one term a
latent, and the terms of the bias and of the rest, which are counted in units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from opponent.dictionaries.dictionary import Dictionary
from opponent.dictionaries.kmeans import clusters, unit_vectors
from opponent.dictionaries.learnt import TrainingSettings
from opponent.dictionaries.train import learn_from_vectors
from opponent.paper.toy.features import feature_values, true_decoders
from opponent.paper.toy.models import ToyModels

# The true features, and what they are compared with; see `dictionaries_of`.
DICTIONARIES = ("true", "learnt", "learnt, more on", "random", "kmeans")
# How many times as many latents are on in 'learnt, more on' as in 'learnt'.
MORE = 2
# What is computed of each case, in this order; see `Codes.measure`.
MEASURES = ("units", "latents", "bias", "rest", "left", "term_bias", "term_rest")
# What may tell functional inhibition from interference.
PREDICTORS = (
    *(f"remaining, {name}" for name in DICTIONARIES),
    *(f"tension, {name}" for name in DICTIONARIES),
    "tension, units",
    "length of h",
)
# False positives at which curves are kept.
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Hidden vectors of one model as latents write them.

    Args:
        decoder: for each latent what it adds to h.
        bias: what h is without any latent.
        codes: one number an input and latent.
    """

    decoder: Float[np.ndarray, "l m"]
    bias: Float[np.ndarray, " m"]
    codes: Float[np.ndarray, "b l"]

    def terms(self, weights: Float[np.ndarray, "f m"]) -> Float[np.ndarray, "b f l"]:
        """S of each input and output over latents.

        Args:
            weights: W2 of the model.
        """
        return np.asarray(self.codes[:, None] * (weights @ self.decoder.T))

    def measure(
        self, hidden: Float[np.ndarray, "b m"], weights: Float[np.ndarray, "f m"]
    ) -> Float[np.ndarray, "b f 7"]:
        """The `MEASURES` of each input and output.

        Tension in units; in latents; of the bias alone and of the rest alone, both counted in
        units; tension of latents, bias and rest taken together ('left': nothing is hidden in what
        the dictionary leaves); and the sizes of the bias's and the rest's terms.

        Args:
            hidden: h.
            weights: W2 of the model.
        """
        latents = self.terms(weights)
        rest = (hidden - self.bias - self.codes @ self.decoder)[:, None] * weights
        bias = np.broadcast_to(self.bias * weights, rest.shape)
        together = np.concatenate([latents, bias, rest], axis=2)
        tensions = [tension(x) for x in (hidden[:, None] * weights, latents, bias, rest, together)]
        return np.stack([*tensions, np.abs(bias.sum(2)), np.abs(rest.sum(2))], axis=2)


def tension(terms: Float[np.ndarray, "*shape l"]) -> Float[np.ndarray, "*shape"]:
    """The smaller of excitation and inhibition.

    Args:
        terms: S, one term a unit or latent.
    """
    return np.asarray(np.minimum(np.maximum(terms, 0).sum(-1), np.maximum(-terms, 0).sum(-1)))


def true_codes(models: ToyModels, x: Float[np.ndarray, "b n"]) -> Codes:
    """Hidden vectors as the true features write them; their values come from the input.

    Args:
        models: one model.
        x: inputs.
    """
    silent = models.layer(np.zeros((1, x.shape[1])))[0, 0]
    return Codes(
        decoder=true_decoders(models)[0], bias=silent, codes=feature_values(models.task, x)
    )


def codes_of(dictionary: Dictionary, hidden: Float[np.ndarray, "b m"]) -> Codes:
    """Hidden vectors as a dictionary's encoder writes them.

    Args:
        dictionary: the dictionary.
        hidden: h.
    """
    maps = torch.from_numpy(np.ascontiguousarray(hidden))[:, :, None, None]
    moved = dictionary.to(maps)
    codes = moved.encode(maps)[:, :, 0, 0].numpy()
    return Codes(decoder=moved.decoder.numpy(), bias=moved.bias.numpy(), codes=codes)


def dictionaries_of(
    hidden: Float[np.ndarray, "b m"], settings: TrainingSettings
) -> tuple[dict[str, Dictionary], dict[str, float]]:
    """Dictionaries that are learnt of a model's hidden vectors, and what they are compared with.

    'learnt' is a TopK autoencoder. In 'learnt, more on' `MORE` times as many latents are on.
    'random' has as many latents as 'learnt', of which as many are on, in random directions: it has
    learnt nothing but the mean. 'kmeans' has clusters by direction, of which one is on.

    Args:
        hidden: h of inputs as they are drawn.
        settings: of 'learnt'.
    Returns:
        The dictionaries, and of those that are learnt the share of the variance that they leave.
    """
    found, left = dict[str, Dictionary](), dict[str, float]()
    more = min(MORE * settings.active, settings.latents)
    for name, active in (("learnt", settings.active), ("learnt, more on", more)):
        learnt = learn_from_vectors(hidden, settings=replace(settings, active=active))
        found[name], left[name] = learnt.dictionary, learnt.left
    generator = np.random.default_rng([settings.seed, 1])
    directions = unit_vectors(generator.normal(size=(settings.latents, hidden.shape[1])))
    moving = unit_vectors(hidden[hidden.any(1)])
    count = min(settings.latents, len(np.unique(moving, axis=0)))
    centres = unit_vectors(clusters(moving, count, settings.seed)[0])
    for name, rows, bias, active in (
        ("random", directions, hidden.mean(0), settings.active),
        ("kmeans", centres, np.zeros(hidden.shape[1]), 1),
    ):
        found[name] = Dictionary(
            decoder=torch.from_numpy(rows),
            encoder=torch.from_numpy(rows),
            bias=torch.from_numpy(bias),
            encoder_bias=torch.zeros(len(rows), dtype=torch.float64),
            kind="topk",
            active=active,
        )
    return found, left


def recovered(
    true: Float[np.ndarray, "l m"], learnt: Float[np.ndarray, "k m"], cosine: float = 0.95
) -> float:
    """The share of true features that some latent has the direction of.

    Args:
        true: what each true feature adds; those that add nothing do not count.
        learnt: what each latent adds.
        cosine: from which on directions are the same.
    """
    moving = unit_vectors(true[np.linalg.norm(true, axis=1) > 1e-6])
    others = unit_vectors(learnt[learnt.any(1)])
    return float(((moving @ others.T).max(1) >= cosine).mean())


def scores(
    measured: Sequence[Float[np.ndarray, "c 7"]], lengths: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "p c"]:
    """What each of `PREDICTORS` says of each case; the larger, the more functional.

    Args:
        measured: of each of `DICTIONARIES` the `MEASURES` of each case.
        lengths: of each case's hidden vector.
    """
    units = measured[0][:, 0]
    latents = [x[:, 1] for x in measured]
    return np.stack([*(x / units for x in latents), *latents, units, lengths])


def separation(
    functional: Bool[np.ndarray, " c"],
    predicted: Float[np.ndarray, "p c"],
    weights: Float[np.ndarray, " c"] | None = None,
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p g"]]:
    """How well predictors tell functional cases from the others.

    Args:
        functional: which cases are.
        predicted: what each predictor says, the larger the more functional.
        weights: how much each case counts; default: as much as any other.
    Returns:
        The area under the ROC curve of each (0.5: no better than chance), and the share of
        functional cases found at each share `GRID` of false positives; NaN without cases of both
        sorts.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    areas = np.full(len(predicted), np.nan)
    curves = np.full((len(predicted), len(GRID)), np.nan)
    if functional.any() and not functional.all():
        for number, values in enumerate(predicted):
            areas[number] = roc_auc_score(functional, values, sample_weight=weights)
            wrong, right, _ = roc_curve(
                functional, values, sample_weight=weights, drop_intermediate=False
            )
            # Of steps straight up the last point counts.
            last = np.append(np.diff(wrong) > 0, True)
            curves[number] = np.interp(GRID, wrong[last], right[last])
    return areas, curves


def mean_by_kind(
    measured: Float[np.ndarray, "b f 7"], kind: Int[np.ndarray, "b f"], count: int
) -> Float[np.ndarray, "k 7"]:
    """The mean of each measure over the cases of each kind; NaN where there is none.

    Args:
        measured: of each input and output.
        kind: the number of its kind.
        count: how many kinds there are.
    """
    return np.stack(
        [
            measured[kind == k].mean(0) if (kind == k).any() else np.full(len(MEASURES), np.nan)
            for k in range(count)
        ]
    )
