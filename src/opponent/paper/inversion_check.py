"""Do inversions do what they say? Figure 14 and appendix F; and figure 11, what they optimise.

DIR/scans/TARGET    a run folder for each layer
DIR/parts/...       the activations of one unit's inversions of one sign
DIR/verify.json     all of it together, beside the figures
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.geometry.bottlenecks import is_bottleneck, through_layers
from opponent.images.sources import ImageSet, open_images
from opponent.models.network import PIXELS, Network
from opponent.models.registry import load
from opponent.plots import TracePanel, activation_trace_figure, objective_figure, save
from opponent.scan.local import scan_images
from opponent.selection import tense
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import write_text
from opponent.storage.run import Run, versions
from opponent.synthesis.inversion import SynthesisSettings, invert
from opponent.synthesis.objectives import LEAST_COSINE, dot_cosine

# Layers, units a layer and tense images a unit. Source: paper, appendix F.
LAYERS, UNITS, TENSE = 5, 20, 10
SIDES = {"excitation": 1, "inhibition": -1}
# Half the side of figure 11's plane, in lengths of v.
EXTENT = 2.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A layer whose units are verified, and the layer that their attributions go through.

    Args:
        target, through: layers' names.
        whole: whether all that the images do to the target goes through the other layer.
    """

    target: str
    through: str
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What inversions of one sign do to one layer's units, in standard deviations of each unit.

    Args:
        units, images: the unit and the photograph of each inversion.
        own: the photograph's activation.
        activation: at each step, before it, as the mean over the step's views.
        final: of the finished image.
    """

    units: Int[np.ndarray, " n"]
    images: tuple[str, ...]
    own: Float[np.ndarray, " n"]
    activation: Float[np.ndarray, "n steps"]
    final: Float[np.ndarray, " n"]

    def moved(self, sign: int) -> int:
        """How many end on the right side of their photograph's activation."""
        return int((sign * (self.final - self.own) > 0).sum())

    def describe(self, sign: int) -> dict[str, Any]:
        """All of it, ready for JSON; medians and ranges are over the inversions."""
        each = zip(self.units.tolist(), self.images, self.own, self.final, strict=True)
        return {
            "inversions": len(self.own),
            "moved_as_they_should": self.moved(sign),
            "own": _spread(self.own),
            "final": _spread(self.final),
            "steps": [_spread(column) for column in self.activation.T],
            "each": [
                {"unit": unit, "image": image, "own": float(own), "final": float(final)}
                for unit, image, own, final in each
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One layer's outcome.

    Args:
        pair: the layers.
        sides: 'excitation' and 'inhibition'.
        skipped: what was left out: unit, 'both' sides or which, and why.
        empty: tense images that were passed by, since nothing excites or nothing inhibits in them.
    """

    pair: Pair
    sides: Mapping[str, Traces]
    skipped: tuple[tuple[int, str, str], ...]
    empty: int

    def describe(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        values: dict[str, Any] = asdict(self.pair)
        for side, sign in SIDES.items():
            values[side] = self.sides[side].describe(sign)
        skipped = [dict(zip(("unit", "side", "why"), x, strict=True)) for x in self.skipped]
        return values | {"skipped": skipped, "images_with_an_empty_side": self.empty}


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was asked, and each layer's outcome."""

    asked: Mapping[str, Any]
    layers: tuple[Verified, ...]

    @property
    def count(self) -> int:
        """How many inversions were made."""
        return sum(len(each.sides[side].own) for each in self.layers for side in SIDES)

    @property
    def moved(self) -> int:
        """How many of them move the activation as they should."""
        return sum(each.sides[side].moved(SIDES[side]) for each in self.layers for side in SIDES)


def preceding(network: Network, target: str) -> str | None:
    """The nearest layer before a target that alone carries all that the images do to it.

    Candidates are outputs of activation functions, and of blocks that join branches. A sum or
    concatenation is passed over where a branch goes round it.

    Returns:
        None where only the pixels do.
    Source: paper, appendix F ('the preceding layer'); the rule is ours.
    """
    whole = [cut.layer for cut in through_layers(network, target)[1:] if cut.bottleneck]
    return whole[-1] if whole else None


def trunk(network: Network) -> list[Pair]:
    """The activation functions that all goes through from images to logits, with what precedes.

    Left out are those that only the pixels precede, and those that cannot be read before they act.
    """
    whole = [cut for cut in through_layers(network) if cut.bottleneck]
    # What all goes through on the way to the logits, all goes through to any later one of these.
    return [
        Pair(target=cut.layer, through=before.layer, whole=True)
        for before, cut in pairwise(whole)
        if cut.activation
        and before.layer != PIXELS
        and network.target_point(cut.layer).side == "input"
    ]


def choose_pairs(network: Network, layers: int = LAYERS) -> list[Pair]:
    """Layers to verify, spread evenly over the trunk, each with its preceding layer.

    Args:
        network: the network.
        layers: how many, at most.
    Raises:
        ValueError: no layer can be chosen.
    """
    if layers < 1:
        raise ValueError(f"at least one layer is verified, not {layers}")
    found = trunk(network)
    if not found:
        raise ValueError(
            f"{network.name} has no activation layer that all goes through; name layers yourself "
            "(--pair TARGET:THROUGH)"
        )
    places = np.linspace(0, len(found) - 1, min(layers, len(found))).round().astype(int)
    return [found[place] for place in places.tolist()]


def parse_pair(network: Network, text: str) -> Pair:
    """The pair that a text names: 'TARGET:THROUGH', or 'TARGET' for its preceding layer.

    Raises:
        ValueError: an unknown layer, one that does not lie before the other, or no preceding layer.
    """
    target, _, through = text.partition(":")
    if not through:
        before = preceding(network, target)
        if before is None:
            raise ValueError(
                f"no layer before {target!r} alone carries all that the images do to it; name one "
                "(TARGET:THROUGH)"
            )
        through = before
    return Pair(target=target, through=through, whole=is_bottleneck(network, target, through))


def random_units(network: Network, layer: str, count: int, seed: int) -> list[int]:
    """Units of a layer, drawn without replacement; the same whichever other layers are verified."""
    channels = network.layer(layer).shape[0]
    rng = np.random.default_rng([seed, zlib.crc32(layer.encode())])
    return sorted(rng.permutation(channels)[:count].tolist())


def verify(
    network: Network | str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    out: str | Path,
    *,
    pairs: Sequence[str] | None = None,
    layers: int = LAYERS,
    units: int = UNITS,
    images_each: int = TENSE,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Invert both sides of tense images of random units, and watch the units' activation.

    What was interrupted goes on where it stopped, and ends with the same numbers.

    Args:
        network: a network or its name.
        images: where tense images are looked for: a folder, files, a list, or 'photos'.
        out: a folder of its own.
        pairs: layers, as `parse_pair` takes them; default: `layers` of them, by `choose_pairs`.
        layers, units, images_each: layers, random units a layer, tensest images a unit.
        settings: how inversions are made; its seed draws the units too. Each unit's inversions
            start from noise of their own, the same for both signs.
        progress: called with what is being done, the steps done and the steps in all.
    Raises:
        ValueError: names or numbers that do not fit.
        RunError: the folder holds the results of another question.
    Source: paper, appendix F and figure 14.
    """
    if units < 1 or images_each < 1:
        raise ValueError(f"units and images must be at least 1, got {units} and {images_each}")
    network, settings = load(network), settings or SynthesisSettings()
    if pairs:
        chosen = [parse_pair(network, text) for text in pairs]
    else:
        chosen = choose_pairs(network, layers)
    if len({pair.target for pair in chosen}) < len(chosen):
        raise ValueError(f"a layer is given twice among {', '.join(x.target for x in chosen)}")
    found = open_images(images, size=network.preprocessing.size)
    asked: dict[str, Any] = {
        "question": "verify-inversions",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": asdict(network.preprocessing),
        "images": {"count": len(found), "sha256": found.digest()},
        "pairs": [asdict(pair) for pair in chosen],
        "units": [random_units(network, pair.target, units, settings.seed) for pair in chosen],
        "images_each": images_each,
        "settings": asdict(settings),
        "device": network.device.type,
        "versions": versions(),
    }
    asked = json.loads(json.dumps(asked))  # as a reader will find it
    parts, outcomes = CheckpointFolder(out, asked), []
    total = sum(len(SIDES) * len(each) for each in asked["units"]) * settings.steps
    for number, (pair, drawn) in enumerate(zip(chosen, asked["units"], strict=True)):
        name = f"{number}-{re.sub('[^A-Za-z0-9._]+', '_', pair.target)}"

        def scanned(done: int, images: int, pair: Pair = pair) -> None:
            if progress is not None:
                progress(f"scanning for {pair.target}", done, images)

        def inverted(done: int, before: int = sum(map(len, asked["units"][:number]))) -> None:
            if progress is not None:
                progress("inverting", before * len(SIDES) * settings.steps + done, total)

        run = scan_images(
            network,
            found,
            [Feature(layer=pair.target, unit=unit) for unit in drawn],
            pair.through,
            out=parts.folder / "scans" / name,
            seed=settings.seed,
            progress=scanned,
        )
        outcomes.append(
            _verify_layer(network, run, pair, parts, name, images_each, settings, inverted)
        )
    return Verification(asked=asked, layers=tuple(outcomes))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One unit with its tense images, their activation and its standard deviation over all."""

    feature: Feature
    images: ImageSet
    own: Float[np.ndarray, " n"]
    deviation: float


def _verify_layer(
    network: Network,
    run: Run,
    pair: Pair,
    parts: CheckpointFolder,
    name: str,
    images_each: int,
    settings: SynthesisSettings,
    progress: Callable[[int], None],
) -> Verified:
    skipped, empty = list[tuple[int, str, str]](), 0
    made: dict[str, list[tuple[_Job, dict[str, np.ndarray]]]] = {side: [] for side in SIDES}
    for number, feature in enumerate(run.features):
        assert feature.unit is not None
        job, passed = _job(run, feature, images_each)
        empty += passed
        if isinstance(job, str):
            skipped.append((feature.unit, "both", job))
            continue
        for turn, (side, sign) in enumerate(SIDES.items()):
            part = f"{name}-{feature.unit}-{side}"
            before = (len(SIDES) * number + turn) * settings.steps
            progress(before)
            if not parts.has(part):

                def step(done: int, steps: int, before: int = before) -> None:
                    progress(before + done * settings.steps // steps)

                parts.write(part, _invert(network, job, pair.through, sign, settings, step))
            found, _ = parts.read(part)
            if len(found["final"]):
                made[side].append((job, found))
            else:
                skipped.append((feature.unit, side, "that side is empty in a tense image"))
    progress(len(SIDES) * len(run.features) * settings.steps)
    sides = {side: _together(made[side], settings.steps) for side in SIDES}
    return Verified(pair=pair, sides=sides, skipped=tuple(skipped), empty=empty)


def _job(run: Run, feature: Feature, images_each: int) -> tuple[_Job | str, int]:
    """What to invert for a unit, or why nothing; and how many tense images are passed by."""
    columns = run.columns(feature, maps=False)
    if columns.activation.min() == columns.activation.max():
        return "its activation never changes", 0
    rows = tense(columns, images_each)
    if not len(rows):
        return "it has no tense image", 0
    kept = rows[columns.tension[rows] > 0]
    if not len(kept):
        return "a side is empty in all its tense images", len(rows)
    entries = tuple(run.images.find(columns.images[row]) for row in kept)
    job = _Job(
        feature=feature,
        images=ImageSet(source="tense images", entries=entries),
        own=columns.activation[kept],
        deviation=float(columns.activation.astype(np.float64).std()),
    )
    return job, len(rows) - len(kept)


def _invert(
    network: Network,
    job: _Job,
    through: str,
    sign: int,
    settings: SynthesisSettings,
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """One unit's inversions of one sign; no rows where a side turns out to be empty."""
    entropy = [settings.seed, zlib.crc32(job.feature.layer.encode()), job.feature.unit or 0]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    try:
        made = invert(
            network,
            job.images,
            job.feature,
            through,
            sign=sign,
            settings=replace(settings, seed=seed),
            progress=progress,
        )
    except EmptyTarget:
        # The scan found a trace of it, in another batch and so with another rounding.
        nothing = np.empty(0, np.float32)
        return {"activation": nothing.reshape(0, settings.steps), "final": nothing}
    return {
        "activation": made.activation.T.float().cpu().numpy(),
        "final": made.final.float().cpu().numpy(),
    }


def _together(made: Sequence[tuple[_Job, dict[str, np.ndarray]]], steps: int) -> Traces:
    """All inversions of one sign, in standard deviations."""
    none = np.empty(0)
    return Traces(
        units=np.array([job.feature.unit for job, _ in made for _ in job.own], np.int64),
        images=tuple(entry.id for job, _ in made for entry in job.images),
        own=np.concatenate([none, *(job.own / job.deviation for job, _ in made)]),
        activation=np.concatenate(
            [none.reshape(0, steps), *(x["activation"] / job.deviation for job, x in made)]
        ),
        final=np.concatenate([none, *(x["final"] / job.deviation for job, x in made)]),
    )


def _spread(values: Float[np.ndarray, " n"]) -> dict[str, float] | None:
    """Median and full range."""
    if not len(values):
        return None
    parts = {"median": np.median(values), "least": values.min(), "most": values.max()}
    return {name: float(value) for name, value in parts.items()}


def write_verification(
    found: Verification, folder: str | Path, *, suffix: str = "png"
) -> list[Path]:
    """Write all numbers, figure 14, and figure 11.

    Args:
        found: what `verify` gave.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths.
    """
    folder = Path(folder)
    values = {
        "asked": found.asked,
        "inversions": found.count,
        "moved_as_they_should": found.moved,
        "layers": [each.describe() for each in found.layers],
    }
    paths = [folder / "verify.json", folder / f"figure14.{suffix}", folder / f"figure11.{suffix}"]
    write_text(paths[0], json.dumps(values, indent=1) + "\n")
    steps = np.arange(found.asked["settings"]["steps"])
    save(activation_trace_figure(steps, [_panel(each) for each in found.layers]), paths[1])
    save(objective_figure(objective_planes(), EXTENT, clamp=LEAST_COSINE), paths[2])
    return paths


def _panel(found: Verified) -> TracePanel:
    plus, minus = found.sides["excitation"], found.sides["inhibition"]
    units = {*plus.units.tolist(), *minus.units.tolist()}
    return TracePanel(
        label=found.pair.target,
        excitatory=plus.activation,
        inhibitory=minus.activation,
        # Either sign starts from the same photographs, unless one could not be inverted.
        own=max(plus.own, minus.own, key=len),
        notes=(
            f"through {found.pair.through}",
            f"{len(units)} units; as they should:",
            f"S⁺ {plus.moved(1)} of {len(plus.own)}, S⁻ {minus.moved(-1)} of {len(minus.own)}",
        ),
    )


def objective_planes(size: int = 401) -> dict[str, Float[np.ndarray, "n n"]]:
    """What the objectives reward, at each hidden vector h of a plane, for v = (1, 0).

    Args:
        size: points a side, from -EXTENT to EXTENT.
    Source: paper, appendix C and figure 11.
    """
    line = torch.linspace(-EXTENT, EXTENT, size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    hidden = torch.stack([x.ravel(), y.ravel()], 1)
    target = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand_as(hidden)
    names = {0.0: "dot", 1.0: "dot × cosine", 2.0: "dot × cosine²"}
    maps = (hidden[:, :, None, None], target[:, :, None, None])
    planes = {name: dot_cosine(*maps, power) for power, name in names.items()}
    planes["cosine"] = F.cosine_similarity(hidden, target)
    order = ("dot", "cosine", "dot × cosine", "dot × cosine²")
    return {name: planes[name].view(size, size).numpy() for name in order}
