"""Synthesised images in a run folder: made once, found again.

RUN/synthesis/NAME.png   image, with its opacity as the alpha channel
RUN/synthesis/NAME.json  what it is, from which settings, and the feature's activation by step
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.attribution.attribute import Rule
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.images.sources import ImageSet
from opponent.models.network import Network
from opponent.storage.files import AnyPath, local, whole, write_text
from opponent.storage.run import Run, versions
from opponent.synthesis.inversion import SynthesisSettings, accentuate, invert, visualise

Kind = Literal["inversion", "accentuation", "visualisation"]


@dataclass(frozen=True, kw_only=True)
class CachedImage:
    """One synthesised image of a run.

    Args:
        kind, sign: what it is, for +1 excitation or -1 inhibition.
        image: id of the photograph that it explains; None for a feature visualisation.
        path: its PNG.
        activation: the feature's, at each step.
        objective: at each step.
        final: the feature's activation in the image itself.
    """

    kind: Kind
    sign: int
    image: str | None
    path: AnyPath
    activation: tuple[float, ...]
    objective: tuple[float, ...]
    final: float

    def pixels(self) -> UInt8[np.ndarray, "h w 4"]:
        """The image with its opacity."""
        with local(self.path) as file, Image.open(file) as image:
            return np.asarray(image.convert("RGBA"))


def make(
    run: Run,
    network: Network,
    feature: Feature,
    image: str | None,
    kind: Kind,
    sign: int,
    settings: SynthesisSettings,
    progress: Callable[[int, int], None] | None = None,
) -> CachedImage:
    """Synthesise one image for a run, or find it where the same was made before.

    Args:
        run: the run, which also says the through layer.
        network: the network that was scanned.
        feature: one of the run's features.
        image: id of one of its images; None for a feature visualisation.
        kind, sign, settings: what to make, and how.
        progress: called with the steps done and the steps in all.
    Raises:
        ValueError: nothing excites, or inhibits, the feature in that image.
        RunError: another network than the one that was scanned.
    """
    asked = {
        "kind": kind,
        "sign": sign,
        "image": image,
        "feature": feature.describe(),
        "through": None if image is None else run.manifest.through,
        "network": run.manifest.network["name"],
        "weights_sha256": run.manifest.network["weights_sha256"],
        # How many are made at once changes nothing in any of them.
        "settings": {k: v for k, v in asdict(settings).items() if k != "batch"},
        "versions": versions(),
    }
    if image is not None and run.rule != Rule():
        asked["rule"] = run.rule.label
    asked = json.loads(json.dumps(asked))
    path = run.folder / "synthesis" / f"{_name(asked)}.json"
    if path.is_file() and path.with_suffix(".png").is_file():
        return _read(path)
    run.check_network(network)
    if kind == "visualisation":
        result = visualise(network, feature, sign=sign, settings=settings, progress=progress)
    else:
        assert image is not None
        chosen = ImageSet(source=image, entries=(run.images.find(image),))
        synthesise = invert if kind == "inversion" else accentuate
        result = synthesise(
            network,
            chosen,
            feature,
            run.manifest.through,
            sign=sign,
            settings=settings,
            rule=run.rule,
            baseline=run.baseline(network),
            progress=progress,
        )
    with whole(path.with_suffix(".png")) as part:
        Image.fromarray(result.rgba()[0]).save(part)
    made = asked | {
        "activation": result.activation[:, 0].tolist(),
        "objective": result.objective[:, 0].tolist(),
        "final": float(result.final[0]),
    }
    write_text(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return _read(path)


def _name(asked: dict[str, Any]) -> str:
    """A readable name that differs whenever anything asked for differs."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
    feature = Feature.restore(asked["feature"]).label
    words = [feature, Path(asked["image"] or "").stem, asked["kind"]]
    plain = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word)[:60] for word in words if word)
    return f"{plain}-{'excitation' if asked['sign'] > 0 else 'inhibition'}-{digest}"


def _read(path: AnyPath) -> CachedImage:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return CachedImage(
            kind=values["kind"],
            sign=values["sign"],
            image=values["image"],
            path=path.with_suffix(".png"),
            activation=tuple(values["activation"]),
            objective=tuple(values["objective"]),
            final=values["final"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and it is made again") from error
