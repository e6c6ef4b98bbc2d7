"""One pass over many images for many features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from opponent.attribution.all_units import KEEP, AllUnits, scores, scores_everywhere, summarise
from opponent.attribution.all_units import SCORES as UNIT_SCORES
from opponent.attribution.attribute import Attribution, Rule, attribute_each, mean_activation
from opponent.core.box import Box
from opponent.core.errors import Unreadable
from opponent.core.feature import Feature
from opponent.geometry.crop import ROUNDING, CropPlan, plan_crop, plan_whole_image
from opponent.geometry.receptive_field import placement, receptive_field
from opponent.images.sources import ImageSet, open_images, stream
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.storage.files import AnyPath, to_path
from opponent.storage.run import EXEMPLARS, SCALARS, Manifest, Run, versions

# A pass of 32 images keeps two cores busy and InceptionV1 at 224 x 224 under 2 GB.
BATCH = 32
# Large enough that files are few, small enough that an interruption costs seconds.
SHARD = 256
# Images on which a part of the image is compared with the whole, before a scan begins.
CHECKED = 8
# Largest relative difference that is rounding in half precision.
COARSE = 0.05


_Result = TypeVar("_Result")


def scan_images(
    network: Network | str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    features: Sequence[Feature | str] | Feature | str,
    through: str,
    *,
    out: str | AnyPath,
    weights: str | Path | None = None,
    batch_size: int = BATCH,
    shard_size: int = SHARD,
    seed: int = 0,
    rule: Rule | str = "gradient",
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Attribute features of one layer in every image, into a run folder.

    A scan that was interrupted goes on where it stopped, and ends with the same bytes.

    Args:
        network: a network or its name.
        features: one or more features of one layer; a feature without a position is read at the
            centre. 'LAYER:*' (or 'LAYER:*@ROW,COLUMN') is all its units: of these, the run keeps
            extremes and distributions; of the others, every image. 'LAYER:*@*' is each unit's
            largest score over all positions, where one convolution gives the layer.
        through: the layer to explain them through.
        images: a folder, files, a text list, or 'photos'.
        out: the run folder, new or that of the same scan.
        weights: a file of weights, for a network given by name.
        batch_size: images a pass.
        shard_size: images a file of results.
        seed: what later steps draw their random numbers from.
        rule: how S is computed: 'gradient', 'integrated-zero' or 'integrated-mean'; the last starts
            from the mean over the first 1,000 images.
        progress: called with the images done and the images in all.
    Returns:
        The finished run.
    Raises:
        ValueError: a feature, layer or source that does not fit.
        RunError: the folder holds another scan.
    """
    network = load(network, weights)
    run = begin(
        network, features, through=through, images=images, out=out, batch_size=batch_size,
        shard_size=shard_size, seed=seed, rule=rule,
    )  # fmt: skip
    missing = run.missing()
    done = len(run.images) - sum(len(_slice(run, shard)) for shard in missing)
    if progress is not None:
        progress(done, len(run.images))

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(run.images))

    compute_shards(run, network, missing, tell)
    run.finish()
    return run


def begin(
    network: Network,
    features: Sequence[Feature | str] | Feature | str,
    *,
    through: str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    out: str | AnyPath,
    batch_size: int = BATCH,
    shard_size: int = SHARD,
    seed: int = 0,
    rule: Rule | str = "gradient",
) -> Run:
    """The run folder with all but its shards: what each of them needs is in it. Args as `scan`."""
    rule = rule if isinstance(rule, Rule) else Rule.parse(rule)
    plan = _plan(network, features, through, images, batch_size, shard_size, seed, rule)
    manifest, found = plan
    if not (to_path(out) / "manifest.json").exists():
        manifest = replace(manifest, crop_plan=_checked_plan(network, manifest, found))
    run = Run.begin(out, manifest, found)
    if not run.has_baseline():
        run.write_baseline(mean_activation(network, run.images, through))
    return run


def compute_shards(
    run: Run, network: Network, shards: Sequence[int], tell: Callable[[], None] | None = None
) -> None:
    """Compute and write some shards of a run, in order.

    Args:
        run: the run folder.
        network: the network that the run names.
        shards: their numbers.
        tell: called after each image.
    """
    prepared = network.preprocessing
    decoded = stream(
        [run.images[n] for shard in shards for n in _slice(run, shard)],
        size=prepared.size,
        resize=prepared.resize,
        draft=prepared.draft,
        ahead=2 * run.manifest.batch_size,
    )
    with closing(decoded):
        for shard in shards:
            part = _Shard(run, network)
            for number in _slice(run, shard):
                part.add(run.images[number].id, next(decoded))
                if tell is not None:
                    tell()
            part.write(shard)


def _plan(
    network: Network,
    features: Sequence[Feature | str] | Feature | str,
    through: str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    batch_size: int,
    shard_size: int,
    seed: int,
    rule: Rule,
) -> tuple[Manifest, ImageSet]:
    """Check everything before the first image, and write it down."""
    given = [features] if isinstance(features, Feature | str) else list(features)
    if not given:
        raise ValueError("a scan needs at least one feature, such as 'mixed3b:9'")
    if batch_size < 1 or shard_size < 1:
        raise ValueError(
            f"batch and shard size must be positive, got {batch_size} and {shard_size}"
        )
    asked = [AllUnits.parse(each) if isinstance(each, str) else None for each in given]
    stars = [each for each in asked if each is not None]
    if len(stars) > 1:
        raise ValueError("one scan takes all units of one layer, at one position")
    if stars and rule.kind != "gradient":
        raise ValueError(f"all units at once take the rule 'gradient', not {rule.label!r}")
    whole = stars[0].widest(network) if stars else None
    resolved = [
        network.resolve(feature) for feature, star in zip(given, asked, strict=True) if not star
    ]
    labels = [feature.label for feature in resolved]
    if len(set(labels)) < len(labels):
        raise ValueError(f"a feature is given twice among {', '.join(labels)}")
    layers = sorted({x.layer for x in (*resolved, *([whole] if whole else []))})
    if len(layers) > 1:
        raise ValueError(f"one scan takes features of one layer, got {', '.join(layers)}")
    network.check(layers[0], through)
    if stars and stars[0].everywhere:
        blank = torch.zeros(1, 3, *network.preprocessing.size)
        scores_everywhere(
            network, blank.to(network.device, network.dtype), layers[0], through
        )  # says whether it can
    found = open_images(images, size=network.preprocessing.size)
    if not found:
        raise ValueError(f"{found.source!r} has no images")
    manifest = Manifest(
        network={
            "name": network.name,
            "weights_file": None if network.weights_file is None else str(network.weights_file),
            "weights_sha256": network.weights_sha256(),
            "preprocessing": asdict(network.preprocessing),
            "dtype": str(network.dtype).removeprefix("torch."),
        },
        features=[feature.describe() for feature in resolved],
        through=through,
        through_shape=network.map_shape(through),
        windows=[
            {
                "through": receptive_field(network, feature, through).numbers,
                "pixels": receptive_field(network, feature).numbers,
            }
            for feature in resolved
        ],
        placement=placement(network, through),
        images={"source": found.source, "count": len(found), "sha256": found.digest()},
        batch_size=batch_size,
        shard_size=shard_size,
        device=network.device.type,
        seed=seed,
        versions=versions(),
        rule=rule.label,
        units=None
        if whole is None
        else {
            "layer": whole.layer,
            "position": "*" if stars[0].everywhere else whole.position and list(whole.position),
            "count": network.layer(whole.layer).shape[0],
            "window": receptive_field(network, whole, through).numbers
            if not stars[0].everywhere
            else [0, 0, *network.map_shape(through)[1:]],
            "keep": KEEP,
        },
    )
    return manifest, found


def _slice(run: Run, shard: int) -> range:
    size = run.manifest.shard_size
    return range(shard * size, min((shard + 1) * size, len(run.images)))


def _checked_plan(network: Network, manifest: Manifest, images: ImageSet) -> dict[str, Any]:
    """The parts of image and layers that are enough, described, after a check on the first images.

    On each of them S must be what the whole image gives, up to rounding.
    """
    features = [Feature.restore(each) for each in manifest.features]
    found: dict[str, Any] = {}
    if features:
        found = _checked(network, manifest.through, features, images)
    if manifest.units is not None and manifest.units["position"] == "*":
        found["units"] = {"whole": "every position is asked for"}
    elif manifest.units is not None:
        widest = [_widest(network, manifest.units)]
        found["units"] = _checked(network, manifest.through, widest, images)
    return found


def rounding(
    network: Network,
    dtype: torch.dtype,
    features: Sequence[Feature | str],
    *,
    through: str,
    images: str | Path | Sequence[str | Path] | ImageSet,
) -> dict[str, float]:
    """Put a network into another type, and say what that does on the first images.

    Args:
        network: it stays in the new type.
        dtype: the new type.
        features: features as `scan` takes them.
        through: the layer to explain them through.
        images: as `scan` takes them.
    Returns:
        For activation, excitation and inhibition the root mean square of their differences over
        that of their values.
    Raises:
        ValueError: no image can be read.
    """
    stars = [AllUnits.parse(each) if isinstance(each, str) else None for each in features]
    asked = [
        network.resolve(feature) if star is None else star.widest(network)
        for feature, star in zip(features, stars, strict=True)
    ]
    found = open_images(images, size=network.preprocessing.size)
    inputs = _first(network, found)
    if inputs is None:
        raise ValueError(f"none of the first {CHECKED} images of {found.source!r} can be read")
    results = [attribute_each(network, inputs, asked, through)]
    network.module.to(dtype)
    results.append(attribute_each(network, inputs.to(dtype), asked, through))
    error = {}
    for name in ("activation", "excitation", "inhibition"):
        exact, coarse = (torch.stack([getattr(x, name).double() for x in r]) for r in results)
        error[name] = float((coarse - exact).norm() / exact.norm())
    return error


def _first(network: Network, images: ImageSet) -> Float[Tensor, "n 3 h w"] | None:
    """The network's input from the first images, as far as they can be read."""
    prepared = network.preprocessing
    decoded = stream(
        images[:CHECKED], size=prepared.size, resize=prepared.resize, draft=prepared.draft
    )
    with closing(decoded):
        readable = [image for image in decoded if not isinstance(image, Unreadable)]
    return network.inputs(np.stack(readable)) if readable else None


def _widest(network: Network, units: Mapping[str, Any]) -> Feature:
    place = units["position"]
    position = (place[0], place[1]) if place and place != "*" else None
    return AllUnits(layer=units["layer"], position=position).widest(network)


def _checked(
    network: Network, through: str, features: Sequence[Feature], images: ImageSet
) -> dict[str, Any]:
    part = plan_crop(network, features, through)
    if part.box is None:
        return part.describe()
    whole = plan_whole_image(network, features, through, "")
    inputs = _first(network, images)
    if inputs is not None:
        for one, other in zip(
            attribute_each(network, inputs, features, through, plan=part),
            attribute_each(network, inputs, features, through, plan=whole),
            strict=True,
        ):
            for name in ("activation", "attribution"):
                found, expected = getattr(one, name), getattr(other, name)
                limit = ROUNDING.get(network.dtype, COARSE) * float(expected.abs().max())
                if float((found - expected).abs().max()) > limit:
                    reason = f"on the first images, {name} of {one.feature.label} differs"
                    return replace(whole, reason=reason).describe()
    return part.describe()


class _Shard:
    """The rows of one shard as they come, batch by batch."""

    def __init__(self, run: Run, network: Network) -> None:
        self.run, self.network = run, network
        self.rule, self.baseline = run.rule, run.baseline(network)
        self.plan = run.plan(network) if run.features else None
        units = run.manifest.units
        self.units = None if units is None else run.units_plan(_widest(network, units))
        self.scores: list[Float[np.ndarray, "n u s"]] = []
        self.waiting: list[UInt8[np.ndarray, "h w 3"]] = []
        self.images: list[str] = []
        self.unreadable: dict[str, str] = {}
        self.parts: list[list[dict[str, np.ndarray]]] = [[] for _ in run.features]
        channels = run.manifest.through_shape[0]
        self.exemplars = _Exemplars(
            np.empty((0, channels), np.float32), *np.empty((2, 0, channels), np.int64)
        )

    def add(self, image: str, decoded: UInt8[np.ndarray, "h w 3"] | Unreadable) -> None:
        if isinstance(decoded, Unreadable):
            self.unreadable[image] = decoded.reason
            return
        self.images.append(image)
        self.waiting.append(decoded)
        if len(self.waiting) == self.run.manifest.batch_size:
            self._compute()

    def write(self, number: int) -> None:
        if self.waiting:
            self._compute()
        if self.units is not None:
            self._summarise(number)
        self.run.write_exemplars(number, self.images, self.exemplars)
        self.run.write_shard(number, self.images, self.parts, self.unreadable)

    def _compute(self) -> None:
        inputs = self.network.inputs(np.stack(self.waiting))
        self.waiting.clear()
        first = len(self.images) - len(inputs)
        for some in _fitting(self._attribute, inputs):
            self._keep(*some, first)
            first += len(some[0])

    def _attribute(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, list[Attribution]]:
        """The images themselves, the scores of all units, and each feature's attribution."""
        found = None if self.units is None else self._score(inputs, self.units)
        if self.plan is None:
            return inputs, found, []
        results = attribute_each(
            self.network,
            inputs,
            self.run.features,
            self.run.manifest.through,
            rule=self.rule,
            baseline=self.baseline,
            plan=self.plan,
        )
        return inputs, found, results

    def _score(self, inputs: Tensor, part: CropPlan) -> Float[Tensor, "n u s"]:
        units = self.run.manifest.units
        assert units is not None
        if units["position"] == "*":
            through = self.run.manifest.through
            return scores_everywhere(self.network, inputs, units["layer"], through)
        return scores(self.network, inputs, part)

    def _keep(
        self, inputs: Tensor, found: Tensor | None, results: list[Attribution], first: int
    ) -> None:
        if found is not None:
            self.scores.append(found.float().cpu().numpy())
        if not results:
            return
        box = results[0].window
        assert box is not None
        width = self.run.manifest.through_shape[2]
        self.exemplars = _most_active(self.exemplars, results[0].hidden, first, box, width)
        for parts, result in zip(self.parts, results, strict=True):
            window = self.run.through_window(result.feature)
            window = replace(window, top=window.top - box.top, left=window.left - box.left)
            values = {name: getattr(result, name) for name in SCALARS} | {
                "excitation_map": _within(window, result.excitation_map),
                "inhibition_map": _within(window, result.inhibition_map),
                "channels": result.channels,
                "inhibition_channels": result.inhibition_channels,
            }
            parts.append({k: v.float().cpu().numpy() for k, v in values.items()})

    def _summarise(self, number: int) -> None:
        assert self.run.manifest.units is not None
        units = self.run.manifest.units
        places = {self.run.images[n].id: n for n in _slice(self.run, number)}
        numbers = np.array([places[image] for image in self.images], np.int64)
        empty = np.empty((0, units["count"], len(UNIT_SCORES)), np.float32)
        summary = summarise(np.concatenate([empty, *self.scores]), numbers, units["keep"])
        self.run.write_summary(number, summary)


def _fitting(compute: Callable[[Tensor], _Result], inputs: Tensor) -> Iterator[_Result]:
    """What is computed of a batch, or, where memory does not hold all of it, of its halves."""
    try:
        yield compute(inputs)
        return
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if len(inputs) == 1 or not (full or "can't allocate memory" in str(error)):
            raise
    # Here, and not above: the exception held what was computed.
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()
    for half in inputs.split(-(-len(inputs) // 2)):
        yield from _fitting(compute, half)


class _Exemplars(NamedTuple):
    """For each channel its largest values, the images that they lie in, and where in the map."""

    values: Float[np.ndarray, "m k"]
    numbers: Int[np.ndarray, "m k"]
    places: Int[np.ndarray, "m k"]


def _most_active(
    found: _Exemplars, hidden: Float[Tensor, "n k h w"], first: int, box: Box, width: int
) -> _Exemplars:
    """The largest of what was found and of more images, counted from `first`, one an image.

    Of the images the box of the map is known; places count along the rows of all of it.
    """
    values, places = (x.cpu().numpy() for x in hidden.float().flatten(2).max(2))
    places = (places // box.width + box.top) * width + places % box.width + box.left
    numbers = np.broadcast_to(first + np.arange(len(values))[:, None], values.shape)
    more = _Exemplars(values.astype(np.float32), numbers, places)
    joined = [np.concatenate(pair) for pair in zip(found, more, strict=True)]
    order = np.argsort(-joined[0], axis=0, kind="stable")[:EXEMPLARS]
    return _Exemplars(*(np.take_along_axis(x, order, 0) for x in joined))


def _within(window: Box, maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n y x"]:
    """Maps within the window where S is not zero, after checking that it is zero elsewhere."""
    inside = maps[:, *window.slices]
    assert inside.count_nonzero() == maps.count_nonzero(), f"S reaches beyond {window}"
    return inside
