"""Whether inversions excite and inhibit as they should: appendix F and the paper's figure 14.

DIR/scans/NUMBER-TARGET   a run folder for each layer
DIR/checkpoints/...       the activations of one unit's inversions of one side
DIR/verify.json           all results, beside the figures
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.side import SIDES, Side
from opponent.core.text import file_name
from opponent.images.imageset import ImageSet
from opponent.images.sources import open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.paper.inversion_traces import InversionTraces, LayerInversions
from opponent.paper.layer_pairs import LAYERS, LayerPair, choose_pairs, parse_pair, random_units
from opponent.paper.objectives import EXTENT, objective_planes
from opponent.plots import TracePanel, activation_trace_figure, objective_figure, save
from opponent.scan.local import scan_images
from opponent.selection import tense
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath, to_path, write_text
from opponent.storage.manifest import versions
from opponent.storage.run import Run
from opponent.synthesis.inversion import invert
from opponent.synthesis.objectives import LEAST_COSINE
from opponent.synthesis.settings import SynthesisSettings

# Units a layer and tense images a unit. Source: paper, appendix F.
UNITS, TENSE = 20, 10


@dataclass(frozen=True, kw_only=True)
class InversionCheck:
    """The inversions of all layers.

    Args:
        question: what determines the numbers.
        layers: the results by layer.
    """

    question: Mapping[str, Any]
    layers: tuple[LayerInversions, ...]

    @property
    def count(self) -> int:
        """How many inversions there are."""
        return sum(len(layer.sides[side].own) for layer in self.layers for side in SIDES)

    @property
    def moved(self) -> int:
        """How many of them move the activation as they should."""
        return sum(layer.sides[side].moved(side) for layer in self.layers for side in SIDES)


@displayed
def check_inversions(
    network: Network | str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    *,
    out: str | AnyPath,
    pairs: Sequence[str] | None = None,
    layers: int = LAYERS,
    units: int = UNITS,
    images_each: int = TENSE,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> InversionCheck:
    """Invert both sides of tense images of random units, and record the units' activation.

    An interrupted check goes on where it stopped, and ends with the same numbers.

    Args:
        network: a network or its name.
        images: where tense images are looked for: a folder, files, a list, or 'photos'.
        out: the folder, new or that of the same question.
        pairs: layers, as `parse_pair` takes them; default: `layers` of them, by `choose_pairs`.
        layers: how many layers.
        units: random units a layer.
        images_each: tensest images a unit.
        settings: of the inversions; the seed draws the units too. Each unit's inversions start
            from noise of their own, the same for both sides.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The activations of all inversions, in standard deviations of each unit.
    Raises:
        ValueError: names or numbers that do not fit.
        RunError: the folder holds the results of another question.
    Source: paper, appendix F and figure 14.
    """
    if units < 1 or images_each < 1:
        raise ValueError(f"units and images must be at least 1, got {units} and {images_each}")
    network, settings, report = load(network), settings or SynthesisSettings(), progress or silent
    if pairs:
        chosen = [parse_pair(network, text) for text in pairs]
    else:
        chosen = choose_pairs(network, layers)
    if len({pair.target for pair in chosen}) < len(chosen):
        raise ValueError(f"a layer is given twice among {', '.join(x.target for x in chosen)}")
    source = open_images(images, size=network.preprocessing.size)
    question = _question(network, source, chosen, units, images_each, settings)
    checkpoints = CheckpointFolder(out, question)
    total = sum(len(SIDES) * len(drawn) for drawn in question["units"]) * settings.steps
    results, before = list[LayerInversions](), 0
    for number, (pair, drawn) in enumerate(zip(chosen, question["units"], strict=True)):
        name = f"{number}-{file_name(pair.target)}"

        def scanned(
            _: str, done: int, count: int, what: str = f"scanning for {pair.target}"
        ) -> None:
            report(what, done, count)

        def inverted(done: int, before: int = before) -> None:
            report("inverting", before + done, total)

        run = scan_images(
            network,
            source,
            [Feature(layer=pair.target, unit=unit) for unit in drawn],
            pair.through,
            out=checkpoints.folder / "scans" / name,
            seed=settings.seed,
            progress=scanned,
        )
        results.append(
            _check_layer(network, run, pair, checkpoints, name, images_each, settings, inverted)
        )
        before += len(SIDES) * len(drawn) * settings.steps
    return InversionCheck(question=question, layers=tuple(results))


def _question(
    network: Network,
    images: ImageSet,
    pairs: Sequence[LayerPair],
    units: int,
    images_each: int,
    settings: SynthesisSettings,
) -> dict[str, Any]:
    """What determines the numbers, as it is read back from JSON."""
    question = {
        "experiment": "verify-inversions",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": network.preprocessing.describe(),
        "images": {"count": len(images), "sha256": images.digest()},
        "pairs": [asdict(pair) for pair in pairs],
        "units": [random_units(network, pair.target, units, settings.seed) for pair in pairs],
        "images_each": images_each,
        "settings": asdict(settings),
        "device": network.device.type,
        "versions": versions(),
    }
    restored: dict[str, Any] = json.loads(json.dumps(question))
    return restored


@dataclass(frozen=True, kw_only=True)
class _TenseImages:
    """One unit with its tense images, their activation and its standard deviation over all."""

    feature: Feature
    images: ImageSet
    own: Float[np.ndarray, " n"]
    deviation: float


_Inversions = list[tuple[_TenseImages, dict[str, np.ndarray]]]


def _check_layer(
    network: Network,
    run: Run,
    pair: LayerPair,
    checkpoints: CheckpointFolder,
    name: str,
    images_each: int,
    settings: SynthesisSettings,
    progress: Callable[[int], None],
) -> LayerInversions:
    """Invert the tense images of one layer's units, but for those that have a checkpoint."""
    skipped, empty = list[tuple[int, str, str]](), 0
    inversions: dict[Side, _Inversions] = {side: [] for side in SIDES}
    for number, feature in enumerate(run.features):
        assert feature.unit is not None
        images, passed = _tense_images(run, feature, images_each)
        empty += passed
        if isinstance(images, str):
            skipped.append((feature.unit, "both", images))
            continue
        for turn, side in enumerate(SIDES):
            checkpoint = f"{name}-{feature.unit}-{side}"
            before = (len(SIDES) * number + turn) * settings.steps
            progress(before)
            if not checkpoints.has(checkpoint):

                def step(done: int, steps: int, before: int = before) -> None:
                    progress(before + done * settings.steps // steps)

                arrays = _invert(network, images, pair.through, side, settings, step)
                checkpoints.write(checkpoint, arrays)
            arrays, _ = checkpoints.read(checkpoint)
            if len(arrays["final"]):
                inversions[side].append((images, arrays))
            else:
                skipped.append((feature.unit, side.value, "that side is empty in a tense image"))
    progress(len(SIDES) * len(run.features) * settings.steps)
    sides = {side: _join(inversions[side], settings.steps) for side in SIDES}
    return LayerInversions(pair=pair, sides=sides, skipped=tuple(skipped), empty=empty)


def _tense_images(run: Run, feature: Feature, count: int) -> tuple[_TenseImages | str, int]:
    """What to invert for a unit, or why nothing; and how many tense images are passed by."""
    columns = run.columns(feature, maps=False)
    if columns.activation.min() == columns.activation.max():
        return "its activation never changes", 0
    rows = tense(columns, count)
    if not len(rows):
        return "it has no tense image", 0
    kept = rows[columns.tension[rows] > 0]
    if not len(kept):
        return "a side is empty in all its tense images", len(rows)
    entries = tuple(run.images.find(columns.images[row]) for row in kept)
    images = _TenseImages(
        feature=feature,
        images=ImageSet(source="tense images", entries=entries),
        own=columns.activation[kept],
        deviation=float(columns.activation.astype(np.float64).std()),
    )
    return images, len(rows) - len(kept)


def _invert(
    network: Network,
    tense_images: _TenseImages,
    through: str,
    side: Side,
    settings: SynthesisSettings,
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """One unit's inversions of one side; no rows where a side turns out to be empty."""
    feature = tense_images.feature
    entropy = [settings.seed, zlib.crc32(feature.layer.encode()), feature.unit or 0]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    try:
        synthesis = invert(
            network,
            tense_images.images,
            feature,
            through,
            side=side,
            settings=replace(settings, seed=seed),
            progress=lambda _, done, steps: progress(done, steps),
        )
    except EmptyTarget:
        # The scan found a trace of it, in another batch and so with another rounding.
        nothing = np.empty(0, np.float32)
        return {"activation": nothing.reshape(0, settings.steps), "final": nothing}
    return {
        "activation": synthesis.activation.T.float().cpu().numpy(),
        "final": synthesis.final.float().cpu().numpy(),
    }


def _join(inversions: _Inversions, steps: int) -> InversionTraces:
    """All inversions of one side, in standard deviations."""
    none = np.empty(0)
    return InversionTraces(
        units=np.array([x.feature.unit for x, _ in inversions for _ in x.own], np.int64),
        images=tuple(entry.id for x, _ in inversions for entry in x.images),
        own=np.concatenate([none, *(x.own / x.deviation for x, _ in inversions)]),
        activation=np.concatenate(
            [
                none.reshape(0, steps),
                *(arrays["activation"] / x.deviation for x, arrays in inversions),
            ]
        ),
        final=np.concatenate([none, *(arrays["final"] / x.deviation for x, arrays in inversions)]),
    )


def write_inversion_check(
    check: InversionCheck, folder: str | AnyPath, *, suffix: str = "png"
) -> list[AnyPath]:
    """Write all numbers, figure 14, and figure 11.

    Args:
        check: as `check_inversions` returns it.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths, in this order.
    """
    folder = to_path(folder)
    values = {
        "question": check.question,
        "inversions": check.count,
        "moved_as_they_should": check.moved,
        "layers": [layer.describe() for layer in check.layers],
    }
    paths = [folder / "verify.json", folder / f"figure14.{suffix}", folder / f"figure11.{suffix}"]
    write_text(paths[0], json.dumps(values, indent=1) + "\n")
    steps = np.arange(check.question["settings"]["steps"])
    save(activation_trace_figure(steps, [_panel(layer) for layer in check.layers]), paths[1])
    save(objective_figure(objective_planes(), EXTENT, clamp=LEAST_COSINE), paths[2])
    return paths


def _panel(layer: LayerInversions) -> TracePanel:
    excitation, inhibition = (layer.sides[side] for side in SIDES)
    units = {*excitation.units.tolist(), *inhibition.units.tolist()}
    moved, count = excitation.moved(Side.EXCITATION), len(excitation.own)
    notes = f"S⁺ {moved} of {count}, "
    moved, count = inhibition.moved(Side.INHIBITION), len(inhibition.own)
    notes += f"S⁻ {moved} of {count}"
    return TracePanel(
        label=layer.pair.target,
        excitatory=excitation.activation,
        inhibitory=inhibition.activation,
        # Either side starts from the same photographs, unless one could not be inverted.
        own=max(excitation.own, inhibition.own, key=len),
        notes=(f"through {layer.pair.through}", f"{len(units)} units; as they should:", notes),
    )
