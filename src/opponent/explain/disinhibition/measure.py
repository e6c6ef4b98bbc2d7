"""Take a feature's inhibition away, run the network on, and see whether it fires."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from opponent.attribution.attribute import BATCH
from opponent.attribution.through_dictionary import check_dictionary
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.core.text import first_few
from opponent.dictionaries.dictionary import Dictionary
from opponent.explain.disinhibition.ablation import choose_ablations
from opponent.explain.disinhibition.classes import Classes, read_labels
from opponent.explain.disinhibition.groups import LEAST, tense_images
from opponent.explain.disinhibition.passes import Passes
from opponent.explain.disinhibition.result import Disinhibited
from opponent.geometry.through import check_through
from opponent.images.sources import Images, open_images
from opponent.models.network import LOGITS, Network
from opponent.models.registry import load
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath, to_path
from opponent.storage.manifest import versions

# Channels or latents in a set, and how many sets are drawn at random. Ours.
SET, DRAWS = 10, 5


def disinhibit(
    network: Network | str,
    images: Images,
    features: Sequence[Feature | str],
    through: str,
    *,
    dictionary: Dictionary | str | Path | None = None,
    k: int = SET,
    labels: str | None = None,
    out: str | AnyPath | None = None,
    draws: int = DRAWS,
    clamp: bool = False,
    batch_size: int = BATCH,
    seed: int = 0,
    progress: Progress | None = None,
) -> Disinhibited:
    """Take the inhibitory part out of a through layer's output, and run the rest of the network on.

    What a feature then does is what the network gives, and not an estimate; the linear estimate, f
    plus the gradient times the change, stands beside it. An interrupted measurement goes on where
    it stopped, and ends with the same numbers.

    Args:
        network: a network or its name.
        images: a folder, an archive, a data set, arrays: whatever `open_images` takes.
        features: features of one layer.
        through: the earlier layer whose output is changed.
        dictionary: of the through layer, or its file: inhibition is also taken away in latents.
        k: channels, and latents, that inhibit a feature most in its tense images, and as many at
            random.
        labels: the images' classes, where the features are logits: 'wordnet' reads them from names
            of folders and files, all else is a CSV file of image,class.
        out: a folder that keeps what is finished, new or that of the same question; default: none.
        draws: how many sets of k are drawn at random.
        clamp: set to zero what would become negative and was not; by default h' is linear in h.
        batch_size: images a pass.
        seed: of the sets at random.
        progress: called with what is being done, the images done and the images in all; default: a
            display that appears after two seconds.
    Returns:
        Activations before and after, and what they say of groups of images.
    Raises:
        ValueError: a name, number or position that does not fit; too few images; a dictionary of
            another layer or width; no tense image of a feature, or nothing that inhibits it;
            labels for features that are no logits, or of no image.
        RunError: the folder holds something else; no image could be read.
        FileNotFoundError: there is no such folder or file.

    >>> import numpy as np, opponent
    >>> class Blots:
    ...     name = "blots"
    ...     def ids(self):
    ...         return [str(number) for number in range(30)]
    ...     def image(self, id):
    ...         small = np.random.default_rng(int(id)).integers(0, 256, (5, 5, 3), np.uint8)
    ...         return small.repeat(20, 0).repeat(20, 1)
    >>> opponent.disinhibit("inceptionv1-small", Blots(), ["mixed3b:50"], "mixed3a", draws=1)
    Disinhibited('mixed3b:50@7,7' by 'mixed3a': 30 images)
    """
    network = load(network)
    chosen = _features_of_one_layer(network, features, through)
    if isinstance(dictionary, str | Path):
        dictionary = Dictionary.load(dictionary)
    if dictionary is not None:
        check_dictionary(network, dictionary, through)
    channels = network.map_shape(through)[0]
    available = channels if dictionary is None else min(channels, dictionary.latents)
    _check_numbers(available, k=k, draws=draws, batch_size=batch_size)
    source = open_images(images, size=network.preprocessing.size)
    if len(source) < LEAST:
        raise ValueError(
            f"{source.source!r} has {len(source)} images; groups of them need {LEAST} or more"
        )
    if labels is not None:
        _check_logits(network, chosen)
        # Before anything is computed: they may be of other images.
        read_labels(network, chosen[0].layer, [entry.id for entry in source], labels)
    sets = _Sets(k=k, draws=draws, clamp=clamp, seed=seed)
    place = nullcontext(str(out)) if out is not None else tempfile.TemporaryDirectory()
    with place as folder, shown(progress) as report:
        passes = Passes(
            network=network, images=source, features=chosen, through=through,
            dictionary=dictionary, batch_size=batch_size, progress=report,
        )  # fmt: skip
        return _measure(passes, to_path(folder), sets, labels)


@dataclass(frozen=True, kw_only=True)
class _Sets:
    """What is taken away, beside all."""

    k: int
    draws: int
    clamp: bool
    seed: int


def _measure(passes: Passes, root: AnyPath, sets: _Sets, labels: str | None) -> Disinhibited:
    """All three passes, and the result."""
    network, features = passes.network, passes.features
    question = _question(passes) | {"classes": labels is not None}
    checkpoints = CheckpointFolder(root, question | asdict(sets))
    before, ids, unreadable = passes.survey(
        CheckpointFolder(root / "survey", question), classes=labels is not None
    )
    tense = tense_images(before["activation"], before["excitation"] + before["inhibition"])
    _check_tense(features, tense, before["inhibition"])
    if not checkpoints.has("drivers"):
        checkpoints.write("drivers", passes.drivers(ids, tense))
    drivers, _ = checkpoints.read("drivers")
    ablations = choose_ablations(
        [feature.label for feature in features],
        drivers["channels"],
        drivers.get("latents"),
        sets.k,
        sets.draws,
        sets.seed,
    )
    asked = question | {"clamp": sets.clamp, "ablations": [asdict(x) for x in ablations]}
    after, ids_after, more = passes.ablate(
        CheckpointFolder(root / "ablations", asked), ablations, sets.clamp
    )
    # Numbers may leave the type's range in either pass.
    finite = set(ids_after)
    both = [image for image in ids if image in finite]
    before, after = _rows_of(before, ids, both), _rows_of(after, ids_after, both)
    rival = {name: before.pop(name) for name in [*before] if name.startswith("rival")}
    classes = None if labels is None else _classes(network, features, both, labels, rival)
    return Disinhibited(
        network=network.name,
        features=features,
        through=passes.through,
        ablations=tuple(ablations),
        images=tuple(both),
        **before,
        **after,
        classes=classes,
        question=question | asdict(sets),
        unreadable=unreadable | more,
    )


def _rows_of(
    arrays: dict[str, np.ndarray], ids: Sequence[str], kept: Sequence[str]
) -> dict[str, np.ndarray]:
    places = {image: row for row, image in enumerate(ids)}
    rows = [places[image] for image in kept]
    return {name: values[rows] for name, values in arrays.items()}


def _classes(
    network: Network,
    features: Sequence[Feature],
    images: Sequence[str],
    labels: str,
    rival: dict[str, np.ndarray],
) -> Classes:
    layer = features[0].layer
    units = (feature.unit for feature in features)
    return Classes(
        chosen=tuple(unit for unit in units if unit is not None),
        names=dict(enumerate(network.classes or ())),
        labels=read_labels(network, layer, images, labels),
        **rival,
    )


def _question(passes: Passes) -> dict[str, object]:
    """What determines the numbers before anything is taken away, ready for JSON."""
    network, dictionary = passes.network, passes.dictionary
    about: dict[str, object] | None = None
    if dictionary is not None:
        about = {"sha256": dictionary.sha256(), "latents": dictionary.latents}
        about |= {"kind": dictionary.kind, "active": dictionary.active}
    return {
        "experiment": "disinhibition",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": network.preprocessing.describe(),
        "features": [feature.describe() for feature in passes.features],
        "through": passes.through,
        "dictionary": about,
        "images": {"count": len(passes.images), "sha256": passes.images.digest()},
        "batch_size": passes.batch_size,
        "device": network.device.type,
        "versions": versions(),
    }


def _features_of_one_layer(
    network: Network, features: Sequence[Feature | str], through: str
) -> tuple[Feature, ...]:
    chosen = tuple(network.resolve(feature) for feature in features)
    layers = sorted({feature.layer for feature in chosen})
    if len(layers) != 1:
        raise ValueError(f"the features are of one layer; got {', '.join(layers) or 'none'}")
    labels = [feature.label for feature in chosen]
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise ValueError(f"features are named twice: {first_few(twice)}")
    check_through(network, layers[0], through)
    return chosen


def _check_numbers(available: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    if numbers["k"] > available:
        raise ValueError(
            f"k = {numbers['k']}, and the through layer, or its dictionary, has {available} to "
            "take away: give a smaller k"
        )


def _check_logits(network: Network, features: Sequence[Feature]) -> None:
    """Labels are for logits alone: what is largest there is the network's answer."""
    layer = features[0].layer
    output = network.map_shape(LOGITS)
    units = all(feature.unit is not None for feature in features)
    if output[1:] != (1, 1) or network.map_shape(layer) != output or not units:
        raise ValueError(
            f"labels are for units of the network's output, such as {LOGITS}:0, and "
            f"{features[0].label} is none"
        )


def _check_tense(
    features: Sequence[Feature],
    tense: Bool[np.ndarray, "n f"],
    inhibition: Float[np.ndarray, "n f"],
) -> None:
    for number, feature in enumerate(features):
        if not inhibition[:, number].any():
            raise ValueError(
                f"nothing inhibits {feature.label} in any of {len(tense):,} images: S is nowhere "
                "negative, and there is nothing to take away; choose another feature or an earlier "
                "through layer"
            )
        if not tense[:, number].any():
            raise ValueError(
                f"no image is tense for {feature.label}: of {len(tense):,}, none has its "
                "activation within half a standard deviation below zero; give more images, or "
                "leave this feature out"
            )
