"""Synthesised images in a run folder: each is computed once.

RUN/synthesis/NAME.png   the image, with its opacity as alpha channel
RUN/synthesis/NAME.json  what it shows, its settings, and the feature's activation by step
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.attribution.rules import AttributionRule, Gradient
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.pictures import read_png
from opponent.core.progress import Progress, silent
from opponent.core.side import Side
from opponent.core.text import file_name, one_line
from opponent.images.imageset import ImageSet
from opponent.models.network import Network
from opponent.scan.reopen import baseline_of, check_network, dictionary_of, rule_of
from opponent.storage.checkpoints import plain, question_digest
from opponent.storage.files import AnyPath, atomic_write, local, write_text
from opponent.storage.manifest import versions
from opponent.storage.run import Run
from opponent.storage.tables import damage_refused
from opponent.synthesis.inversion import accentuate, invert, visualise
from opponent.synthesis.result import Synthesis
from opponent.synthesis.settings import SynthesisSettings

Kind = Literal["inversion", "accentuation", "visualisation"]


@dataclass(frozen=True, kw_only=True)
class CachedImage:
    """One synthesised image of a run.

    Args:
        kind: an inversion, an accentuation or a feature visualisation.
        side: the side of the attribution that it shows.
        image: id of the photograph that it explains; None for a feature visualisation.
        path: the PNG file.
        activation: the feature's activation at each step.
        objective: the objective at each step.
        final: the feature's activation in the finished image.
    """

    kind: Kind
    side: Side
    image: str | None
    path: AnyPath
    activation: tuple[float, ...]
    objective: tuple[float, ...]
    final: float

    def pixels(self) -> UInt8[np.ndarray, "h w 4"]:
        """The image, with its opacity as alpha channel.

        Raises:
            RunError: the file is damaged.
        """
        with damage_refused(self.path), local(self.path) as file:
            return read_png(file)


def synthesise(
    run: Run,
    network: Network,
    feature: Feature,
    image: str | None,
    kind: Kind,
    side: Side,
    settings: SynthesisSettings,
    *,
    rule: AttributionRule | None = None,
    progress: Progress = silent,
) -> CachedImage:
    """Synthesise an image for a run, or read it where the run folder holds it.

    Args:
        run: the run, which names the through layer.
        network: the network that was scanned.
        feature: a feature of the run.
        image: id of an image of the run; None for a feature visualisation.
        kind: 'inversion', 'accentuation' or 'visualisation'.
        side: the side of the attribution that the image shows.
        settings: how it is synthesised.
        rule: the rule that the run was scanned by, where it is a user's own.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The image in the run folder.
    Raises:
        EmptyTarget: that side of the attribution is empty in that image.
        RunError: the run was scanned with another network or rule, or the file is damaged.
    """
    rule = rule_of(run, rule) if image is not None else Gradient()
    question = _question(run, feature, image, kind, side, settings, rule)
    path = run.folder / "synthesis" / f"{_name(question)}.json"
    if path.is_file() and path.with_suffix(".png").is_file():
        return _read(path)
    check_network(run, network)
    if image is None:
        result = visualise(network, feature, side=side, settings=settings, progress=progress)
    else:
        explain = invert if kind == "inversion" else accentuate
        result = explain(
            network,
            ImageSet(source=image, entries=(run.images.find(image),)),
            feature,
            run.through,
            side=side,
            settings=settings,
            rule=rule,
            baseline=baseline_of(run, network, rule),
            dictionary=dictionary_of(run),
            progress=progress,
        )
    _write(path, question, result)
    return _read(path)


def _question(
    run: Run,
    feature: Feature,
    image: str | None,
    kind: Kind,
    side: Side,
    settings: SynthesisSettings,
    rule: AttributionRule,
) -> dict[str, Any]:
    """What determines the image."""
    question = {
        "kind": kind,
        "side": side.value,
        "image": image,
        "feature": feature.describe(),
        "through": None if image is None else run.through,
        "network": run.manifest.network.name,
        "weights_sha256": run.manifest.network.weights_sha256,
        "settings": settings.describe(),
        "versions": versions(),
    }
    if not isinstance(rule, Gradient):
        question["rule"] = rule.label
    if image is not None and run.manifest.dictionary is not None:
        question["dictionary_sha256"] = run.manifest.dictionary.sha256
    return plain(question)


def _name(question: dict[str, Any]) -> str:
    """A readable name, and a digest of the question."""
    label = Feature.restore(question["feature"]).label
    words = [label, Path(question["image"] or "").stem, question["kind"], question["side"]]
    return f"{file_name('-'.join(word for word in words if word))}-{question_digest(question)}"


def _write(path: AnyPath, question: dict[str, Any], result: Synthesis) -> None:
    with atomic_write(path.with_suffix(".png")) as temporary:
        Image.fromarray(result.rgba()[0]).save(temporary)
    values = question | {
        "activation": result.activation[:, 0].tolist(),
        "objective": result.objective[:, 0].tolist(),
        "final": float(result.final[0]),
    }
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


class _Record(msgspec.Struct, frozen=True):
    """What of a record a `CachedImage` has; the rest is the question."""

    kind: Kind
    side: Side
    image: str | None
    activation: tuple[float, ...]
    objective: tuple[float, ...]
    final: float


def _read(path: AnyPath) -> CachedImage:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
    except (ValueError, RecursionError) as error:
        reason = one_line(error)
        raise RunError(f"{path} is damaged ({reason}); delete it, and it is made again") from error
    return CachedImage(path=path.with_suffix(".png"), **msgspec.structs.asdict(record))
