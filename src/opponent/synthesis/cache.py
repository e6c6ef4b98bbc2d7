"""Synthesised images in a run folder: made once, kept for whoever asks again.

RUN/synthesis/NAME.png   image, with its opacity as the alpha channel
RUN/synthesis/NAME.json  what it is, from which settings, and the feature's activation by step
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.attribution.rules import AttributionRule, Gradient
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.progress import Progress, silent
from opponent.core.side import Side
from opponent.core.text import file_name
from opponent.images.imageset import ImageSet
from opponent.models.network import Network
from opponent.scan.reopen import baseline_of, check_network, rule_of
from opponent.storage.checkpoints import plain, question_digest
from opponent.storage.files import AnyPath, local, whole, write_text
from opponent.storage.manifest import versions
from opponent.storage.run import Run
from opponent.synthesis.inversion import accentuate, invert, visualise
from opponent.synthesis.result import Synthesis
from opponent.synthesis.settings import SynthesisSettings

Kind = Literal["inversion", "accentuation", "visualisation"]


@dataclass(frozen=True, kw_only=True)
class CachedImage:
    """One synthesised image of a run.

    Args:
        kind, side: what it is, and for which side.
        image: id of the photograph that it explains; None for a feature visualisation.
        path: its PNG.
        activation: the feature's, at each step.
        objective: at each step.
        final: the feature's activation in the image itself.
    """

    kind: Kind
    side: Side
    image: str | None
    path: AnyPath
    activation: tuple[float, ...]
    objective: tuple[float, ...]
    final: float

    def pixels(self) -> UInt8[np.ndarray, "h w 4"]:
        """The image with its opacity."""
        with local(self.path) as file, Image.open(file) as image:
            return np.asarray(image.convert("RGBA"))


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
    """Synthesise one image for a run, or read it where the same was made before.

    Args:
        run: the run, which also says the through layer.
        network: the network that was scanned.
        feature: one of the run's features.
        image: id of one of its images; None for a feature visualisation.
        kind, side, settings: what to make, and how.
        rule: the rule that the run was scanned by, where it is the user's own.
        progress: called with what is being done, the steps done and the steps in all.
    Raises:
        EmptyTarget: nothing excites, or inhibits, the feature in that image.
        RunError: another network, or another rule, than the run was scanned with.
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
        make = invert if kind == "inversion" else accentuate
        result = make(
            network,
            ImageSet(source=image, entries=(run.images.find(image),)),
            feature,
            run.through,
            side=side,
            settings=settings,
            rule=rule,
            baseline=baseline_of(run, network, rule),
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
    return plain(question)


def _name(question: dict[str, Any]) -> str:
    """A readable name that differs whenever anything in the question differs."""
    label = Feature.restore(question["feature"]).label
    words = [label, Path(question["image"] or "").stem, question["kind"], question["side"]]
    return f"{file_name('-'.join(word for word in words if word))}-{question_digest(question)}"


def _write(path: AnyPath, question: dict[str, Any], result: Synthesis) -> None:
    with whole(path.with_suffix(".png")) as part:
        Image.fromarray(result.rgba()[0]).save(part)
    values = question | {
        "activation": result.activation[:, 0].tolist(),
        "objective": result.objective[:, 0].tolist(),
        "final": float(result.final[0]),
    }
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _read(path: AnyPath) -> CachedImage:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return CachedImage(
            kind=values["kind"],
            side=Side(values["side"]),
            image=values["image"],
            path=path.with_suffix(".png"),
            activation=tuple(values["activation"]),
            objective=tuple(values["objective"]),
            final=values["final"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and it is made again") from error
