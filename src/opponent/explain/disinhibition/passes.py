"""Three passes over images: what drives each feature, what inhibits it, and what it does without.

OUT/question.json            everything that determines the numbers
OUT/survey/...               of each image: activations, both sides, the norm of h
OUT/checkpoints/drivers      mean inhibition by channels and latents, over tense images
OUT/ablations/...            of each image: activations without inhibition
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opponent.attribution.attribute import refuse_unreadable
from opponent.attribution.result import energies
from opponent.attribution.through_dictionary import Written, images_at_once
from opponent.core.feature import Feature
from opponent.core.progress import Progress
from opponent.dictionaries.dictionary import Dictionary
from opponent.explain.disinhibition.ablation import (
    Ablation,
    clamp_at_zero,
    left_range,
    take_channels,
    take_latents,
)
from opponent.explain.disinhibition.continuation import (
    Continuation,
    places_in_window,
    plan_from,
)
from opponent.images.imageset import ImageSet
from opponent.images.loader import load_batches
from opponent.models.network import Network
from opponent.models.state import undisturbed
from opponent.storage.checkpoints import CheckpointFolder, map_images

_Read = tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What all passes have in common.

    Args:
        network: the network.
        images: all images.
        features: of one layer, with positions written out.
        through: the earlier layer.
        dictionary: of that layer, or None.
        batch_size: images a pass.
        progress: as everywhere.
    """

    network: Network
    images: ImageSet
    features: tuple[Feature, ...]
    through: str
    dictionary: Dictionary | None
    batch_size: int
    progress: Progress

    def survey(self, checkpoints: CheckpointFolder, classes: bool) -> _Read:
        """Of each image activations, both sides of S, in channels and latents, and the norm of h.

        Args:
            checkpoints: where the shards are kept.
            classes: the features are logits: keep the largest of the other logits, too.
        """

        @undisturbed()
        def compute(inputs: Tensor, _: object) -> Mapping[str, np.ndarray]:
            return _joined(self._survey(held, classes) for held in self._held(inputs))

        return map_images(
            checkpoints, self.network, self.images, compute, until=self.features[0].layer,
            batch_size=self.batch_size, what="what drives it", progress=self.progress,
        )  # fmt: skip

    def _survey(self, held: Continuation, classes: bool) -> dict[str, Tensor]:
        places = places_in_window(self.network, self.features, held.plan)
        columns: dict[str, list[Tensor]] = {"activation": held.activations}
        written = None if self.dictionary is None else Written.of(held.hidden, self.dictionary)
        for gradient, place in zip(held.gradients(), places, strict=True):
            sides = energies(gradient * held.hidden)
            norm = held.hidden[:, :, *place].flatten(1).abs().float().sum(1)
            found = {"excitation": sides[0], "inhibition": sides[1], "hidden": norm}
            if written is not None:
                latents = energies(written.terms(gradient)[0])
                found |= {"latent_excitation": latents[0], "latent_inhibition": latents[1]}
            for name, values in found.items():
                columns.setdefault(name, []).append(values)
        arrays = {name: torch.stack(values, 1) for name, values in columns.items()}
        if classes:
            others = held.target().flatten(1).clone()
            others[:, [feature.unit for feature in self.features]] = -torch.inf
            best = others.max(1)
            # Without any other logit, none is ever ahead.
            lowest = torch.finfo(best.values.dtype).min
            arrays |= {"rival": best.values.clamp(min=lowest), "rival_class": best.indices}
        return arrays

    def drivers(
        self, ids: Sequence[str], tense: Bool[np.ndarray, "n f"]
    ) -> dict[str, Float[np.ndarray, "f _"]]:
        """The mean inhibition by each channel and latent, over each feature's tense images.

        Args:
            ids: the images that could be read.
            tense: which of them are tense for which feature.
        Returns:
            'channels', and with a dictionary 'latents'.
        """
        [rows] = np.nonzero(tense.any(1))
        chosen = ImageSet(source="", entries=tuple(self.images.find(ids[i]) for i in rows.tolist()))
        sums = dict[str, Tensor]()
        batches = load_batches(
            chosen.entries, self.network.preprocessing.fit, batch_size=self.batch_size
        )
        with closing(batches):
            for batch in batches:
                refuse_unreadable(batch.unreadable, chosen, "was read but cannot be read now")
                members = torch.from_numpy(tense[rows[list(batch.numbers)]])
                self._add(sums, self.network.inputs(batch.pixels), members)
                self.progress("what inhibits it", batch.done, len(chosen))
        counts = torch.from_numpy(tense.sum(0))[:, None].clamp(min=1)
        return {name: (x.cpu() / counts).float().numpy() for name, x in sums.items()}

    @undisturbed()
    def _add(self, sums: dict[str, Tensor], inputs: Tensor, members: Bool[Tensor, "n f"]) -> None:
        first = 0
        for held in self._held(inputs):
            inside = members[first : first + len(held.hidden)].to(inputs.device)
            first += len(inside)
            written = None if self.dictionary is None else Written.of(held.hidden, self.dictionary)
            for number, gradient in enumerate(held.gradients()):
                terms = {"channels": gradient * held.hidden}
                if written is not None:
                    terms["latents"] = written.terms(gradient)[0]
                for name, s in terms.items():
                    kept = s.clamp(max=0).sum((2, 3))[inside[:, number]].float().sum(0)
                    if name not in sums:
                        sums[name] = kept.new_zeros(len(self.features), len(kept))
                    sums[name][number] -= kept

    def ablate(
        self, checkpoints: CheckpointFolder, ablations: Sequence[Ablation], clamp: bool
    ) -> _Read:
        """Of each image activations without inhibition: exactly, and by the linear estimate.

        Args:
            checkpoints: where the shards are kept.
            ablations: what is taken away.
            clamp: set to zero what would become negative and was not.
        """

        @undisturbed()
        def compute(inputs: Tensor, _: object) -> Mapping[str, np.ndarray]:
            return _joined(self._ablate(held, ablations, clamp) for held in self._held(inputs))

        return map_images(
            checkpoints, self.network, self.images, compute, until=self.features[0].layer,
            batch_size=self.batch_size, what="without inhibition", progress=self.progress,
        )  # fmt: skip

    def _ablate(
        self, held: Continuation, ablations: Sequence[Ablation], clamp: bool
    ) -> dict[str, Tensor]:
        hidden = held.hidden
        written = None if self.dictionary is None else Written.of(hidden, self.dictionary)
        places = places_in_window(self.network, self.features, held.plan)
        rows = list[Tensor]()
        for number, gradient in enumerate(held.gradients()):
            inside = (slice(None), slice(None), *places[number])
            s = gradient * hidden
            latents = None if written is None else written.terms(gradient)[0]
            for ablation in ablations:
                members = ablation.of(number)
                if ablation.of_latents:
                    assert written is not None
                    assert latents is not None
                    changed = take_latents(hidden, written, latents, members)
                else:
                    changed = take_channels(hidden, s, members)
                if clamp:
                    changed = clamp_at_zero(changed, hidden)
                exact = held.read(number, changed)
                difference = gradient * (changed - hidden)
                linear = held.activations[number] + difference.flatten(1).sum(1)
                rows.append(
                    torch.stack([exact, linear, *left_range(changed[inside], hidden[inside])], 1)
                )
        table = torch.stack(rows, 1).unflatten(1, (len(self.features), len(ablations)))
        names = ("exact", "linear", "below", "below_size")
        return {name: table[..., i] for i, name in enumerate(names)}

    def _held(self, inputs: Tensor) -> Iterator[Continuation]:
        """The images at the through layer, so many at once that S over latents has room."""
        plan = plan_from(self.network, self.features, self.through, inputs)
        at_once = len(inputs)
        if self.dictionary is not None:
            at_once = min(at_once, images_at_once(self.dictionary, plan))
        for part in inputs.split(max(1, at_once)):
            yield Continuation(self.network, part, plan, self.features)


def _joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """The arrays of all images, from those of some at a time."""
    columns = dict[str, list[np.ndarray]]()
    for part in parts:
        for name, values in part.items():
            number = values.float() if values.is_floating_point() else values
            columns.setdefault(name, []).append(number.cpu().numpy())
    return {name: np.concatenate(values) for name, values in columns.items()}
