"""Observers: rules by which simulated participants choose."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from opponent.core.pictures import read_png
from opponent.core.progress import Progress, silent
from opponent.images.decode import fit_image
from opponent.models.catalogue import EMBEDDED
from opponent.models.network import Network
from opponent.study.design.study import Study

SKILLS = ("chance", "perfect", "similarity")
# Median temperature of similarity observers. Ours.
TEMPERATURE = 0.15
# The similarity observer's embedding of a picture: a small thumbnail for colour and layout, and a
# late layer for content. Both are ours.
THUMBNAIL, MODEL, LAYER = 6, EMBEDDED, "mixed5b"
_BATCH = 32

Vector = Float[np.ndarray, " _"]
# A picture as two vectors, of looks and of content.
Embedding = tuple[Vector, Vector]


class Observer(Protocol):
    """A rule that chooses two different pictures of a trial."""

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """The answers to the first and to the second question.

        Args:
            trial: its id.
            examples: ids of the examples, in the order shown.
            choices: ids of the choices, in the order shown.
            rng: of the participant.
        """


@dataclass(frozen=True, kw_only=True)
class Chance:
    """An observer that guesses."""

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """Any two choices. Args as `Observer.answer`."""
        first, second = rng.permutation(len(choices))[:2]
        return choices[first], choices[second]


@dataclass(frozen=True, kw_only=True)
class Perfect:
    """An observer that reads the right answers in the study's folder."""

    study: Study

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """The MEI and the MII. Args as `Observer.answer`."""
        known = self.study.trial(trial)
        return known.mei, known.mii


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """An observer that chooses the picture most like the examples, then the one least like them.

    The first is scored by its cosine with the examples' mean and with the nearest example, so that
    a picture that is an example stands out; the second by its cosine with the mean alone.

    Args:
        embeddings: of each stimulus.
        temperature: of a choice, in units of the mean cosine; 0 for no chance.
    """

    embeddings: Mapping[str, Embedding]
    temperature: float

    def answer(
        self, trial: str, examples: Sequence[str], choices: Sequence[str], rng: np.random.Generator
    ) -> tuple[str, str]:
        """The most and the least similar choice, with noise. Args as `Observer.answer`."""
        middle, nearest = self._cosines(examples, choices)
        first = self._pick((middle + nearest) / 2, rng)
        others = [i for i in range(len(choices)) if i != first]
        second = others[self._pick(-middle[others], rng)]
        return choices[first], choices[second]

    def _cosines(self, examples: Sequence[str], choices: Sequence[str]) -> tuple[Vector, Vector]:
        """Each choice's cosine with the examples' mean, and with the nearest example.

        Both are means over the two kinds of vectors.
        """
        middle, with_each = np.zeros(len(choices)), np.zeros((len(choices), len(examples)))
        for kind in range(2):
            shown = np.stack([self.embeddings[id][kind] for id in (*examples, *choices)])
            # Relative to the other pictures on the screen, since all photographs are alike.
            shown = _unit(shown - shown.mean(0))
            of_examples, of_choices = shown[: len(examples)], shown[len(examples) :]
            middle += of_choices @ _unit(of_examples.mean(0, keepdims=True))[0] / 2
            with_each += of_choices @ of_examples.T / 2
        return middle, with_each.max(1)

    def _pick(self, scores: Vector, rng: np.random.Generator) -> int:
        """The largest score with Gumbel noise, which is a softmax at the temperature."""
        return int((scores + self.temperature * rng.gumbel(size=len(scores))).argmax())


def _unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Each row at unit length; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Float[np.ndarray, "n d"] = vectors / np.where(norms > 0, norms, 1)
    return scaled


def embed(
    pictures: Mapping[str, bytes], network: Network, layer: str, progress: Progress | None = None
) -> dict[str, Embedding]:
    """Each picture as a thumbnail's pixels, and as a layer's mean over space.

    Args:
        pictures: PNG files by id.
        network: any.
        layer: of the network, read at its output.
        progress: called with what is being done, the pictures done and the pictures in all.
    Returns:
        Two vectors a picture, by id.
    """
    embeddings: dict[str, Embedding] = {}
    ids, progress = list(pictures), progress or silent
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        images = [Image.fromarray(read_png(io.BytesIO(pictures[id]), "RGB")) for id in batch]
        inputs = network.inputs(np.stack([fit_image(x, network.preprocessing.fit) for x in images]))
        hidden = network.run(inputs, layer, after=True).target.cpu().double().mean((2, 3)).numpy()
        for id, image, content in zip(batch, images, hidden, strict=True):
            side = (THUMBNAIL, THUMBNAIL)
            looks = np.asarray(image.resize(side, Image.Resampling.BOX), dtype=np.float64)
            embeddings[id] = looks.ravel() / 255, content
        progress("looking at pictures", start + len(batch), len(ids))
    return embeddings
