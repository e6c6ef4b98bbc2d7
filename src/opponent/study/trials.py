"""From scans to trials: which pictures each trial shows.

Source: paper, appendix B. What it leaves open, and what is done here:

- The hidden vector whose L1 norm a distractor needs is the layer's output (after a ReLU) at the
  feature's position, of which the clusters are made; the appendix calls it the vector 'in the
  feature's layer', in contrast to 'the corresponding pre-relu layer' of the activation.
- The 'effective receptive field' it cites (Araujo et al., 2019) is the box of pixels that can
  change the activation, clipped at the image: `Run.receptive_field`. Crops are what the network
  saw, pixel for pixel.
- Distractors are drawn at random among those that qualify.
- MEIs have a positive activation and the MII a negative one: people are told that they excite and
  inhibit. Late clusters may have none such where they are looked at.
- A crop that is an MII or a distractor is shown in no other trial of its layer. So where another
  trial shows the image of the smallest activation, the next smallest is the MII, down to the
  seventh; the table says which (`mii_rank`), and the others are passed over. Crops with the same
  pixels are one crop, whatever their files are called. MEIs and examples may be those of other
  trials too, as the appendix has it.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8
from PIL import Image

from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.explain.crops import photograph
from opponent.images.imageset import ImageEntry
from opponent.models.network import Network
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.files import whole
from opponent.storage.manifest import versions
from opponent.storage.run import Run
from opponent.study.analysis import Plan
from opponent.study.study import FORMAT, Study, Trial, write_study

# Source of all five: paper, appendix B.
FEATURES, EXAMPLES, DISTRACTORS = 15, 6, 7
MODEST = 2.0  # standard deviations from the mean activation
SALIENT = 90.0  # percentile of the L1 norm
# The paper tells of none. Trials whose answer stands among the references, and practice before the
# first, are what Borowski et al. (2021) and Zimmermann et al. (2021) have; the numbers are ours.
CATCH, PRACTICE = 1, 1
_BATCH = 32

# In study.json and on the page a line is a paragraph's.
_WRAPS = re.compile(r"(?<!\n)\n(?!\n)")
CONSENT = _WRAPS.sub(
    " ",
    """\
You are asked to take part in a research study about pictures and artificial neural networks.

What you do: you look at small pictures and choose those that you think belong, or least belong, to
a group. It takes about 15 minutes.

What is stored: which pictures you choose, how long you take, the kind of your browser and the size
of its window, and the IDs that your recruiting service hands over. No name, address or e-mail.

Your rights: taking part is voluntary. You can withdraw at any time, without a reason; what you
have answered is then deleted.

There are no known risks. Some pictures show animals, food or people.

Who is responsible: [name, institution and e-mail; ethics approval].

I am at least 18 years old, I have read this, and I agree to take part.""",
)
DEBRIEFING = _WRAPS.sub(
    " ",
    """\
Thank you for taking part.

Each group of pictures was chosen by one small part of an artificial neural network: they are those
to which it responds most. Of the nine choices, one was another of these, and one was the picture
that silences it most. We want to know whether people can tell, and in which parts of the network.

Questions? [e-mail of who is responsible]""",
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A feature over the images of its scan: what a trial is chosen from.

    Args:
        label: the feature's name.
        activation: of each image.
        norm: the L1 norm of each image's hidden vector in the feature's layer.
        photos: the photograph that each image is, or is a part of.
        crop: from an image's index, what tells its crop from others.
    """

    label: str
    activation: Float[np.ndarray, " n"]
    norm: Float[np.ndarray, " n"]
    photos: Sequence[str]
    crop: Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a trial shows, as indices into the images of candidate number `feature`."""

    feature: int
    mei: int
    mii: int
    examples: tuple[int, ...]
    distractors: tuple[int, ...] = ()

    @property
    def exciting(self) -> tuple[int, ...]:
        """The target MEI and the examples, largest activation first."""
        return (self.mei, *self.examples)


def modest(activation: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The range of activations that a distractor may have: within 2 sd of the mean.

    Source: paper, appendix B.
    """
    values = activation.astype(np.float64)
    mean, spread = float(values.mean()), MODEST * float(values.std())
    return mean - spread, mean + spread


def salient(norm: Float[np.ndarray, " n"]) -> float:
    """The L1 norm that a distractor needs: the 90th percentile. Source: paper, appendix B."""
    return float(np.percentile(norm.astype(np.float64), SALIENT))


def choose(
    candidates: Sequence[Candidate],
    count: int,
    *,
    examples: int = EXAMPLES,
    distractors: int = DISTRACTORS,
    seed: int = 0,
) -> tuple[list[Chosen], dict[str, str]]:
    """The trials of one layer: of the first features that can be filled, in their order.

    Args:
        candidates: the layer's features.
        count: how many trials.
        examples: MEIs shown beside the target MEI.
        distractors: choices that are neither target.
        seed: of the distractors.
    Returns:
        The trials, and the features passed over with the reason.
    Raises:
        ValueError: too few features can be filled; the message says why.
    Source: paper, appendix B.
    """
    unfit: dict[int, str] = {}
    while True:
        targets, clashes = _targets(candidates, count, examples, unfit)
        chosen, failed = _with_distractors(candidates, targets, distractors, seed)
        passed = {candidates[i].label: why for i, why in sorted((unfit | clashes).items())}
        if len(chosen) == count and not failed:
            return chosen, passed
        unfit |= failed
        if len(chosen) < count:
            passed |= {candidates[i].label: why for i, why in failed.items()}
            reasons = "; ".join(f"{label}: {why}" for label, why in [*passed.items()][:5])
            raise ValueError(
                f"{len(chosen) - len(failed)} of {count} trials can be filled from "
                f"{len(candidates)} features "
                f"({reasons}{'; …' if len(passed) > 5 else ''}). Scan more features, or the same "
                "ones in more images, or ask for fewer trials (--features, --catch, --practice); "
                f"N images hold distractors for at most N / {10 * distractors} trials"
            )


class _Shown:
    """The crops of a layer's trials: where each is shown, and of which photograph it is."""

    def __init__(self) -> None:
        self.roles: dict[str, tuple[str, str]] = {}
        self.photos: dict[str, str] = {}

    def clash(self, role: str, crop: str, photo: str) -> str | None:
        """Why this crop may not be shown in this role, besides what is."""
        other, label = self.roles.get(crop, (None, None))
        if other is not None and "MII" in (role, other):
            return f"the crop of its {role} is the {other} of {label}"
        if self.photos.get(photo, crop) != crop:
            return f"its {role} and another picture of the layer are crops of one photograph"
        return None

    def add(self, role: str, label: str, crop: str, photo: str) -> None:
        """Show it."""
        self.roles[crop] = (role, label)
        self.photos[photo] = crop


def _targets(
    candidates: Sequence[Candidate], count: int, examples: int, unfit: Mapping[int, str]
) -> tuple[list[Chosen], dict[int, str]]:
    """MEI, MII and examples of the first features that go together, and why others do not."""
    shown, chosen, clashes = _Shown(), list[Chosen](), dict[int, str]()
    for number, one in enumerate(candidates):
        if len(chosen) == count:
            break
        if number in unfit:
            continue
        found = _extremes(one, number, examples, shown)
        if isinstance(found, str):
            clashes[number] = found
            continue
        for i in (found.mii, *found.exciting):
            role = "MII" if i == found.mii else "MEI"
            shown.add(role, one.label, one.crop(i), one.photos[i])
        chosen.append(found)
    return chosen, clashes


def _extremes(one: Candidate, number: int, examples: int, shown: _Shown) -> Chosen | str:
    """MEI, MII and examples of a feature beside what is shown already, or why there are none."""
    f = one.activation
    if len(f) < 2 * (examples + 1):
        return f"{len(f)} images, too few for {examples + 1} at either end"
    if not np.isfinite(f).all() or not np.isfinite(one.norm).all():
        return "an activation or norm is not finite"
    if f.min() >= 0:
        return "its activation is never negative: scan the ReLU by name, which is read before it"
    order = np.argsort(-f, kind="stable").tolist()
    crops, photos, found = set[str](), set[str](), list[int]()
    for i in order:
        # With one crop a photograph, as usual, these are the first to seventh.
        if one.photos[i] in photos or one.crop(i) in crops:
            continue
        if why := shown.clash("MEI", one.crop(i), one.photos[i]):
            return why
        found.append(i)
        photos.add(one.photos[i])
        crops.add(one.crop(i))
        if len(found) == examples + 1:
            break
    else:
        return f"only {len(found)} of {examples + 1} MEIs are of different photographs"
    if f[found[-1]] <= 0:
        exciting = int((f[found] > 0).sum())
        return f"only {exciting} of {examples + 1} MEIs excite it: {f[found[-1]]:.3g} in the last"
    # As many count as smallest as count as largest. Stable: of equals, the image that comes first.
    smallest = np.argsort(f, kind="stable")[: examples + 1]
    inhibiting = smallest[f[smallest] < 0].tolist()
    reasons = []
    for i in inhibiting:
        if one.photos[i] in photos or one.crop(i) in crops:
            reasons.append("it and an MEI are of one photograph, or look the same")
        elif why := shown.clash("MII", one.crop(i), one.photos[i]):
            reasons.append(why)
        else:
            return Chosen(feature=number, mei=found[0], mii=i, examples=tuple(found[1:]))
    return (
        f"none of its smallest negative activations ({len(inhibiting)} tried) can be its MII; "
        f"the smallest: {reasons[0]}"
    )


def _with_distractors(
    candidates: Sequence[Candidate], chosen: Sequence[Chosen], count: int, seed: int
) -> tuple[list[Chosen], dict[int, str]]:
    """The same trials with distractors, and for which features there are too few."""
    crops, photos = set[str](), set[str]()
    for each in chosen:
        one = candidates[each.feature]
        crops |= {one.crop(i) for i in (each.mii, *each.exciting)}
        photos |= {one.photos[i] for i in (each.mii, *each.exciting)}
    filled, failed = list[Chosen](), dict[int, str]()
    for each in chosen:
        one = candidates[each.feature]
        low, high = modest(one.activation)
        f = one.activation.astype(np.float64)
        within = (low <= f) & (f <= high) & (f > f[each.mii]) & (f < f[each.mei])
        large = one.norm >= salient(one.norm)
        pool = np.flatnonzero(within & large)
        taken: list[int] = []
        for i in np.random.default_rng((seed, each.feature)).permutation(pool).tolist():
            if len(taken) == count:
                break
            if one.photos[i] not in photos and (crop := one.crop(i)) not in crops:
                taken.append(i)
                crops.add(crop)
                photos.add(one.photos[i])
        if len(taken) < count:
            failed[each.feature] = (
                f"{len(taken)} of {count} distractors: of {len(f):,} images {within.sum():,} lie "
                f"within {MODEST:g} sd of the mean activation, {large.sum():,} have an L1 norm in "
                f"the top tenth, {len(pool):,} both, and {len(pool) - len(taken):,} of these are "
                "shown already"
            )
        filled.append(replace(each, distractors=tuple(taken)))
    return filled, failed


# ------------------------------------------------------------------------------ from run folders


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One feature of a run, with what is known of each image."""

    run: Run
    feature: Feature
    candidate: Candidate
    images: tuple[str, ...]
    pictures: "_Pictures"

    def row(self, chosen: Chosen, kind: str, seed: int) -> tuple[Trial, dict[str, Any]]:
        """The trial, and what else its row of the table says."""
        examples = chosen.examples
        if kind == "catch":
            examples = chosen.exciting[: len(examples)]
        choices = (chosen.mei, chosen.mii, *chosen.distractors)
        ids = {i: self.candidate.crop(i) for i in (*examples, *choices)}
        name = json.dumps([seed, kind, self.feature.layer, self.feature.label])
        trial = Trial(
            id=hashlib.sha256(name.encode()).hexdigest()[:12],
            kind=kind,
            layer=self.feature.layer,
            feature=self.feature.label,
            examples=tuple(ids[i] for i in examples),
            choices=tuple(ids[i] for i in choices),
            mei=ids[chosen.mei],
            mii=ids[chosen.mii],
        )
        f, box = self.candidate.activation, self.run.receptive_field(self.feature)
        more: dict[str, Any] = {
            "mean": float(f.astype(np.float64).mean()),
            "sd": float(f.astype(np.float64).std()),
            "salient": salient(self.candidate.norm),
            "mii_rank": 1 + int((f < f[chosen.mii]).sum()),
            "box": [box.top, box.left, box.height, box.width],
        }
        for what, indices in (("examples", examples), ("choices", choices)):
            more[f"{what}_image"] = [self.images[i] for i in indices]
            more[f"{what}_activation"] = [float(f[i]) for i in indices]
            more[f"{what}_norm"] = [float(self.candidate.norm[i]) for i in indices]
        return trial, more


class _Pictures:
    """A run's images as the network sees them, cropped to a feature's receptive field."""

    def __init__(self, run: Run, feature: Feature, seed: int) -> None:
        self.run, self.seed = run, seed
        self.box = run.receptive_field(feature).slices

    def pixels(self, entry: ImageEntry) -> UInt8[np.ndarray, "h w 3"]:
        """The crop."""
        return np.ascontiguousarray(photograph(entry, self.run.preprocessing)[self.box])

    def id(self, entry: ImageEntry) -> str:
        """A name made of the crop's pixels and the seed alone: nobody can tell its role from it."""
        pixels = self.pixels(entry)
        about = f"{self.seed} {pixels.shape}\n".encode()
        return hashlib.sha256(about + pixels.tobytes()).hexdigest()[:16]

    def write(self, entry: ImageEntry, folder: Path, id: str) -> None:
        """The crop as PNG, without metadata."""
        path = folder / "stimuli" / f"{id}.png"
        if path.is_file():
            return
        data = io.BytesIO()
        Image.fromarray(self.pixels(entry)).save(data, "png", optimize=True)
        with whole(path) as part:
            part.write_bytes(data.getvalue())


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

    Interrupted, it goes on where it stopped, and ends with the same bytes. Once study.json is
    there, it is left as it is, so that its texts can be edited.

    Args:
        runs: finished scans of one network, one or several a layer.
        out: the study's folder, new or that of the same study.
        features: trials a layer.
        catch: catch trials a layer, of further features.
        practice: trials to practise with, of further features of the first layer.
        labels: what to call the layers in figures, from the network's first to its last.
        seed: of the distractors, and of what participants see.
        network: the network that was scanned; default: loaded by its name.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The study, and for each layer the features passed over with the reason.
    Raises:
        ValueError: the scans do not go together, or too few trials can be filled.
        RunError: a run is unfinished, or the folder holds something else.
    """
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    if features < 1 or min(catch, practice) < 0:
        raise ValueError(
            f"a study needs trials: got {features} a layer, {catch} catch and {practice} practice"
        )
    for run in opened:
        if run.missing():
            run.columns(maps=False)  # says that the scan is not finished
    if network is None and opened:
        network = opened[0].load_network()
    network, layers = _layers(opened, network)
    if labels is not None and len(labels) != len(layers):
        raise ValueError(f"{len(labels)} labels for {len(layers)} layers: {', '.join(layers)}")
    folder, report = Path(out), progress or (lambda *_: None)
    CheckpointFolder(
        folder,
        {
            "runs": [hashlib.sha256(_identity(run).encode()).hexdigest() for run in opened],
            "features": features, "catch": catch, "practice": practice, "seed": seed,
            "labels": None if labels is None else list(labels),
        },
    )  # fmt: skip
    rows: list[tuple[Trial, dict[str, Any]]] = []
    passed: dict[str, dict[str, str]] = {}
    for place, (layer, of_layer) in enumerate(layers.items()):
        sources = [
            source
            for run in of_layer
            for source in _sources(run, network, folder, seed, _named(report, f"{layer}: norms"))
        ]
        kinds = ["trial"] * features + ["catch"] * catch
        kinds += ["practice"] * (practice if place == 0 else 0)
        report(f"{layer}: choosing", 0, 1)
        try:
            chosen, passed[layer] = choose(
                [source.candidate for source in sources], len(kinds), seed=seed
            )
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        report(f"{layer}: choosing", 1, 1)
        for done, (kind, one) in enumerate(zip(kinds, chosen, strict=True)):
            source = sources[one.feature]
            rows.append(source.row(one, kind, seed))
            for i in (*one.exciting, one.mii, *one.distractors):
                entry = source.run.images.find(source.images[i])
                source.pictures.write(entry, folder, source.candidate.crop(i))
            report(f"{layer}: pictures", done + 1, len(kinds))
    if not (folder / "study.json").is_file():
        trials, more = zip(*rows, strict=True)
        columns = {name: [row[name] for row in more] for name in more[0]}
        numbers = {
            "features": features, "examples": EXAMPLES, "distractors": DISTRACTORS,
            "catch": catch, "practice": practice,
        }  # fmt: skip
        names = labels or _labels(len(layers))
        about = [{"name": x, "label": y} for x, y in zip(layers, names, strict=True)]
        write_study(folder, _settings(opened, seed, about, numbers), trials, columns)
    return Study(folder), passed


def _layers(runs: Sequence[Run], network: Network | None) -> tuple[Network, dict[str, list[Run]]]:
    """The runs by layer, from the network's first to its last."""
    if network is None:
        raise ValueError("a study needs at least one run; `opponent scan` makes them")
    found: dict[str, list[Run]] = {}
    for run in runs:
        run.check_network(network)
        found.setdefault(run.features[0].layer, []).append(run)
    for layer, of_layer in found.items():
        labels = [feature.label for run in of_layer for feature in run.features]
        if twice := sorted({x for x in labels if labels.count(x) > 1}):
            raise ValueError(
                f"{', '.join(twice[:5])} of {layer} {'is' if len(twice) == 1 else 'are'} in two "
                "of the runs; give each feature once"
            )
    order = sorted(found, key=lambda layer: network.target_point(layer).order)
    return network, {layer: found[layer] for layer in order}


def _labels(count: int) -> Sequence[str]:
    names = ("early", "middle", "late")
    return names if count == len(names) else [f"layer {i + 1}" for i in range(count)]


def _named(report: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: report(what, done, total)


def _identity(run: Run) -> str:
    return json.dumps(run.manifest.determining(), sort_keys=True)


def _sources(
    run: Run, network: Network, folder: Path, seed: int, report: Callable[[int, int], None]
) -> list[_Source]:
    """All features of a run, with the norms of the hidden vectors at their positions."""
    layer = run.features[0].layer
    shape = network.layer(layer).shape
    places = sorted({feature.resolve(*shape) for feature in run.features})
    name = hashlib.sha256(_identity(run).encode()).hexdigest()
    asked = {"run": name, "layer": layer, "norms at": places}
    rows, columns = (list(x) for x in zip(*places, strict=True))

    def norms(inputs: Any) -> dict[str, np.ndarray]:
        hidden = network.run(inputs, layer, after=True).target
        at = hidden[:, :, rows, columns].double().abs().sum(1)
        return {"norm": at.float().cpu().numpy()}

    parts = CheckpointFolder(folder / "norms" / name[:12], asked)
    arrays, ids, _ = map_images(
        parts, network, run.images, norms, batch_size=_BATCH, progress=report
    )
    at = dict(zip(ids, arrays["norm"], strict=True))
    images, activations = _activations(run)
    if gone := [image for image in images if image not in at]:
        raise RunError(
            f"{len(gone):,} images of {run.folder} cannot be read any more, first {gone[0]}; "
            "put them back, or scan again into another folder"
        )
    norm = np.stack([at[image] for image in images])
    photos = [str(run.images.find(image).path) for image in images]
    found = []
    for feature, activation in zip(run.features, activations, strict=True):
        pictures = _Pictures(run, feature, seed)
        found.append(
            _Source(
                run=run,
                feature=feature,
                images=images,
                pictures=pictures,
                candidate=Candidate(
                    label=feature.label,
                    activation=activation,
                    norm=norm[:, places.index(feature.resolve(*shape))],
                    photos=photos,
                    crop=_remembering(pictures, run, images),
                ),
            )
        )
    return found


def _activations(run: Run) -> tuple[tuple[str, ...], Float[np.ndarray, "features n"]]:
    """The images that could be read, and each feature's activation in them, in one reading."""
    images, parts = list[str](), list[np.ndarray]()
    for number in range(run.shard_count):
        path = run.shard(number)
        try:
            table = pq.read_table(
                path, columns=["image", "activation"], page_checksum_verification=True
            )
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete it and give the same `opponent scan` again"
            ) from error
        # Features follow each other, each with the same images.
        count = len(table) // len(run.features)
        images += table["image"].slice(0, count).to_pylist()
        parts.append(table["activation"].to_numpy().reshape(len(run.features), count))
    return tuple(images), np.concatenate(parts, 1)


def _remembering(pictures: _Pictures, run: Run, images: Sequence[str]) -> Callable[[int], str]:
    return cache(lambda i: pictures.id(run.images.find(images[i])))


def _settings(
    runs: Sequence[Run],
    seed: int,
    layers: Sequence[Mapping[str, str]],
    numbers: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "title": "Which picture switches it on, which switches it off?",
        "seed": seed,
        "layers": layers,
        "runs": [
            {
                "folder": str(run.folder),
                "layer": run.features[0].layer,
                "features": len(run.features),
                "power": run.features[0].power,
                "network": run.manifest.network["name"],
                "weights_sha256": run.manifest.network["weights_sha256"],
                "images": {k: run.manifest.images[k] for k in ("count", "sha256")},
                "versions": run.manifest.versions,
            }
            for run in runs
        ],
        "versions": versions(),
        "numbers": numbers,
        "consent": {"version": "1", "text": CONSENT},
        "debriefing": DEBRIEFING,
        # To be filled in from the page of the study at the recruiting service.
        "codes": {"complete": "", "screened_out": "", "no_consent": ""},
        "completion_url": "https://app.prolific.com/submissions/complete?cc={code}",
        "breaks": True,
        "min_window": [1024, 640],
        "analysis": asdict(Plan()),
    }
