"""From scans to a study."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opponent.core.progress import Progress, displayed, silent
from opponent.models.network import Network
from opponent.scan.reopen import network_of
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.manifest import versions
from opponent.storage.run import Run
from opponent.study.design import texts
from opponent.study.design.choosing import DISTRACTORS, EXAMPLES, Chosen, choose, salient
from opponent.study.design.scans import (
    ScannedFeature,
    check_finished,
    record,
    runs_by_layer,
    scanned_features,
)
from opponent.study.design.settings import (
    FORMAT,
    Codes,
    Consent,
    LayerLabel,
    Numbers,
    Plan,
    Settings,
)
from opponent.study.design.study import Study, Trial, write_study

# Trials a layer. Source: paper, appendix B.
FEATURES = 15
# The paper has no catch trials and no practice. Borowski et al. (2021) and Zimmermann et al. (2021)
# have trials whose answer is among the examples, and practice before the first trial; the numbers
# are ours.
CATCH, PRACTICE = 1, 1

# A trial, and what else its row of trials.parquet holds.
_Row = tuple[Trial, dict[str, object]]


@displayed
def build(
    runs: Sequence[Run | str | Path],
    out: str | Path,
    *,
    features: int = FEATURES,
    catch: int = CATCH,
    practice: int = PRACTICE,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    network: Network | None = None,
    progress: Progress | None = None,
) -> tuple[Study, dict[str, dict[str, str]]]:
    """Make a study from scans of several layers.

    A build that was interrupted continues where it stopped, and ends with the same bytes. An
    existing study.json is left as it is, so that its texts can be edited.

    Args:
        runs: finished scans of one network, one or several a layer.
        out: the study's folder, new or that of the same study.
        features: trials a layer.
        catch: catch trials a layer, of further features.
        practice: trials to practise with, of further features of the first layer.
        labels: of the layers in figures, from the network's first to its last. Default: early,
            middle and late for three layers, else their numbers.
        seed: of the distractors, and of the orders that participants see.
        network: the network that was scanned. Default: loaded again.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The study, and for each layer the features passed over with the reason.
    Raises:
        ValueError: the scans do not go together, or too few trials can be filled.
        RunError: a run is unfinished, or the folder holds something else.
    """
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    numbers = Numbers(
        features=features,
        examples=EXAMPLES,
        distractors=DISTRACTORS,
        catch=catch,
        practice=practice,
    )
    network = _check(opened, numbers, network)
    layers = runs_by_layer(opened, network)
    if labels is not None and len(labels) != len(layers):
        raise ValueError(f"{len(labels)} labels for {len(layers)} layers: {', '.join(layers)}")
    folder, progress = Path(out), progress or silent
    CheckpointFolder(
        folder,
        {
            "runs": [run.digest for run in opened],
            "features": features, "catch": catch, "practice": practice, "seed": seed,
            "labels": None if labels is None else list(labels),
        },
    )  # fmt: skip
    rows: list[_Row] = []
    passed: dict[str, dict[str, str]] = {}
    for place, (layer, of_layer) in enumerate(layers.items()):
        scanned = [
            feature
            for run in of_layer
            for feature in scanned_features(run, network, folder, seed, progress)
        ]
        kinds = ["trial"] * features + ["catch"] * catch
        kinds += ["practice"] * (practice if place == 0 else 0)
        of_kinds, passed[layer] = _fill(layer, scanned, kinds, folder, seed, progress)
        rows += of_kinds
    if not (folder / "study.json").is_file():
        names = labels or _labels(len(layers))
        settings = _settings(
            opened, seed, numbers,
            [LayerLabel(name=x, label=y) for x, y in zip(layers, names, strict=True)],
        )  # fmt: skip
        trials, more = zip(*rows, strict=True)
        write_study(folder, settings, trials, {x: [row[x] for row in more] for x in more[0]})
    return Study(folder), passed


def _check(runs: Sequence[Run], numbers: Numbers, network: Network | None) -> Network:
    """The network of the runs, after checking that numbers and runs are complete."""
    if numbers.features < 1 or min(numbers.catch, numbers.practice) < 0:
        raise ValueError(
            f"a study needs trials: got {numbers.features} a layer, {numbers.catch} catch and "
            f"{numbers.practice} practice"
        )
    if not runs:
        raise ValueError("a study needs at least one run; `opponent scan` makes them")
    for run in runs:
        check_finished(run)
    return network or network_of(runs[0])


def _fill(
    layer: str,
    scanned: Sequence[ScannedFeature],
    kinds: Sequence[str],
    folder: Path,
    seed: int,
    progress: Progress,
) -> tuple[list[_Row], dict[str, str]]:
    """One layer's trials with their pictures written, and the features passed over."""
    progress(f"{layer}: choosing", 0, 1)
    try:
        chosen, passed = choose([x.candidate for x in scanned], len(kinds), seed=seed)
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from error
    progress(f"{layer}: choosing", 1, 1)
    rows = []
    for done, (kind, images) in enumerate(zip(kinds, chosen, strict=True)):
        feature = scanned[images.feature]
        rows.append(_row(feature, images, kind, seed))
        for i in _examples(images, kind):
            feature.write_crop(i, folder, example=True)
        for i in (images.mei, images.mii, *images.distractors):
            feature.write_crop(i, folder, example=False)
        progress(f"{layer}: pictures", done + 1, len(kinds))
    return rows, passed


def _examples(chosen: Chosen, kind: str) -> Sequence[int]:
    """The images that a trial shows as examples: in a catch trial the MEI is the first of them."""
    return chosen.exciting[: len(chosen.examples)] if kind == "catch" else chosen.examples


def _row(scanned: ScannedFeature, chosen: Chosen, kind: str, seed: int) -> _Row:
    """A trial, and what else its row of the table says."""
    feature, candidate = scanned.feature, scanned.candidate
    examples, choices = _examples(chosen, kind), (chosen.mei, chosen.mii, *chosen.distractors)
    ids = {i: scanned.stimulus(i, example=False) for i in choices}
    name = json.dumps([seed, kind, feature.layer, feature.label])
    trial = Trial(
        id=hashlib.sha256(name.encode()).hexdigest()[:12],
        kind=kind,
        layer=feature.layer,
        feature=feature.label,
        examples=tuple(scanned.stimulus(i, example=True) for i in examples),
        choices=tuple(ids[i] for i in choices),
        mei=ids[chosen.mei],
        mii=ids[chosen.mii],
    )
    f = candidate.activation
    more: dict[str, object] = {
        "mean": float(f.astype(np.float64).mean()),
        "sd": float(f.astype(np.float64).std()),
        "salient": salient(candidate.norm),
        "mii_rank": 1 + int((f < f[chosen.mii]).sum()),
        "box": scanned.crops.box.numbers,
    }
    for what, indices in (("examples", examples), ("choices", choices)):
        more[f"{what}_image"] = [scanned.images[i] for i in indices]
        more[f"{what}_activation"] = [float(f[i]) for i in indices]
        more[f"{what}_norm"] = [float(candidate.norm[i]) for i in indices]
    return trial, more


def _labels(count: int) -> Sequence[str]:
    names = ("early", "middle", "late")
    return names if count == len(names) else [f"layer {i + 1}" for i in range(count)]


def _settings(
    runs: Sequence[Run], seed: int, numbers: Numbers, layers: Sequence[LayerLabel]
) -> Settings:
    return Settings(
        format=FORMAT,
        title=texts.TITLE,
        seed=seed,
        layers=tuple(layers),
        runs=tuple(record(run) for run in runs),
        versions=versions(),
        numbers=numbers,
        consent=Consent(version="1", text=texts.CONSENT),
        debriefing=texts.DEBRIEFING,
        # To be filled in from the page of the study at the recruiting service.
        codes=Codes(),
        completion_url="https://app.prolific.com/submissions/complete?cc={code}",
        breaks=True,
        min_window=(1024, 640),
        analysis=Plan(),
    )
