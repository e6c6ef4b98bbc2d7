"""From a run folder back to what it was scanned with: network, rule, baseline, crop plan."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.attribution.all_units import AllUnits
from opponent.attribution.rules import AttributionRule, parse_rule
from opponent.core.box import Box
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.plugins import names_object
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.images.imageset import ImageEntry
from opponent.models.network import PIXELS, Network
from opponent.models.registry import load
from opponent.models.signature import is_other, signature
from opponent.storage.files import local
from opponent.storage.lookup import scan_command
from opponent.storage.manifest import CropRecord
from opponent.storage.run import Run
from opponent.storage.shards import COMMAND
from opponent.storage.tables import damage_refused

# The file of the dictionary in a run folder, where S is of latents.
DICTIONARY = "dictionary.safetensors"
# What a network may compute in.
DTYPES = {
    str(x).removeprefix("torch."): x
    for x in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
}


def network_of(run: Run, network: Network | nn.Module | str | None = None) -> Network:
    """The network that was scanned.

    Args:
        run: the run.
        network: the network, where the caller has it; default: loaded as it was for the scan, but
            for what 'module:...' names: a run folder never names code that is run.
    Returns:
        The network, checked against the run.
    Raises:
        RunError: it cannot be loaded, or its weights or preprocessing are others.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     opponent.network_of(run)
    Network('inceptionv1-small')
    """
    record = run.manifest.network
    if network is None:
        # Before manifests said how it was asked for, only the name could tell.
        asked = record.asked or record.name
        if names_object(asked):
            raise RunError(
                f"{run.folder} was scanned with {asked}, code of somebody's own, and a folder "
                "does not say what is run: hand the network over (network=), or name it "
                f"(--model {asked}{'' if record.weights_file is None else '=FILE'})"
            )
        try:
            opened = load(asked, record.weights_file)
        except (ValueError, OSError, ImportError) as error:
            raise RunError(
                f"the network of {run.folder}, {asked!r}, cannot be loaded: {error}. Hand the "
                "network itself over (network=...), or name it (--model MODEL[=FILE])"
            ) from error
    else:
        opened = load(network)
    if network is None or isinstance(network, str):
        opened = as_scanned(run, opened)
    check_network(run, opened)
    return opened


def as_scanned(run: Run, network: Network) -> Network:
    """A network that was loaded, with the run's preprocessing and type of numbers."""
    prepared = network.with_preprocessing(run.preprocessing)
    return prepared.to(dtype=DTYPES[run.manifest.network.dtype])


def check_network(run: Run, network: Network) -> None:
    """Check that a network is the one that was scanned.

    Raises:
        RunError: its weights, its preprocessing or what it computes are others.
    """
    record, weights = run.manifest.network, network.weights_sha256()
    if record.weights_sha256 != weights:
        raise RunError(
            f"{run.folder} was scanned with other weights of {record.name} "
            f"(SHA-256 {record.weights_sha256[:12]}…, now {weights[:12]}…)"
        )
    if run.preprocessing != network.preprocessing:
        raise RunError(
            f"{run.folder} was scanned with images prepared otherwise ({run.preprocessing}, "
            f"now {network.preprocessing}); hand over the network that was scanned"
        )
    check_computation(run, network)


def check_computation(run: Run, network: Network, found: Sequence[float] | None = None) -> None:
    """Check that a network of the same weights computes what was computed for the scan.

    Args:
        run: the run.
        network: the network.
        found: its signature, where that is known.
    Raises:
        RunError: it computes something else.
    """
    manifest = run.manifest
    recorded, units = manifest.network.signature, manifest.units
    if not recorded:
        return
    target = run.features[0].layer if units is None else units.layer
    ours = signature(network, target, run.through) if found is None else found
    on_cpu = manifest.device == network.device.type == "cpu"
    if is_other(ours, recorded, on_cpu=on_cpu, dtype=network.dtype):
        raise RunError(
            f"{run.folder} was scanned with a network of the same weights that computes something "
            f"else up to {target!r} (of made-up images): was the code of {network.name} "
            "changed? Take that of the scan, or scan again into another folder"
        )


def known_images(run: Run) -> list[ImageEntry]:
    """The images of the shards that are there, with what they contained.

    Args:
        run: the run; it need not be finished.
    Raises:
        RunError: a shard is damaged, or of another scan.
    """
    there = sorted(set(range(run.shard_count)) - set(run.missing()))
    return [
        replace(run.images[place], content=content)
        for number in there
        for place, content in zip(
            run.shard_rows(number), run.read_shard(number).contents(), strict=True
        )
    ]


def check_whole(run: Run, what: str) -> None:
    """Check that a run is not only of the images that a scan of all units keeps.

    Args:
        run: the run.
        what: what needs all images, such as 'an atlas'.
    Raises:
        RunError: it holds only some of the images.
    """
    kept, images = run.manifest.kept, run.manifest.images
    if kept is not None:
        raise RunError(
            f"{run.folder} holds the {images.count:,} images that a scan of all units keeps, and "
            f"{what} needs all {kept.images:,}; scan the unit by itself: "
            f"{scan_command(run.folder, run.manifest, run.features[0].label)}"
        )


def rule_of(run: Run, rule: AttributionRule | str | None = None) -> AttributionRule:
    """The rule that S was computed by.

    Args:
        run: the run.
        rule: the rule, where it is the user's own; a run folder never names code that is run.
    Raises:
        RunError: the run was scanned by another rule, or by one that has to be handed over.
    """
    label = run.manifest.rule
    if rule is not None:
        chosen = parse_rule(rule)
        if chosen.label != label:
            raise RunError(
                f"{run.folder} was scanned by the rule {label!r}, not by {chosen.label!r}"
            )
        return chosen
    try:
        if names_object(label):
            raise ValueError(label)
        return parse_rule(label)
    except ValueError as error:
        raise RunError(
            f"{run.folder} was scanned by the rule {label!r}, which is none of the built-in ones: "
            "hand it over (`rule=`, --rule module:PACKAGE.MODULE:NAME)"
        ) from error


def baseline_of(run: Run, network: Network, rule: AttributionRule) -> Float[Tensor, "k h w"] | None:
    """The through layer's mean, where the network computes; None where the rule needs none.

    Args:
        run: the run.
        network: the network that was scanned.
        rule: the rule that S was computed by.
    Raises:
        RunError: it is missing or damaged.
    """
    return run.baseline(network.device, network.dtype) if rule.needs_mean else None


def dictionary_of(run: Run) -> Dictionary | None:
    """The dictionary whose latents S is of; None where S is of channels.

    Args:
        run: the run.
    Raises:
        RunError: it is missing or damaged, or another than that of the scan.
    """
    record, path = run.manifest.dictionary, run.folder / DICTIONARY
    if record is None:
        return None
    with damage_refused(path, COMMAND), local(path) as here:
        dictionary = Dictionary.load(here)
        if dictionary.sha256() != record.sha256:
            raise ValueError("it is another dictionary than that of the scan")
        return dictionary


def crop_plan_of(run: Run, network: Network, features: Sequence[Feature] | None = None) -> CropPlan:
    """What a pass computes for the run's features, or for some of them.

    Args:
        run: the run.
        network: the network that was scanned.
        features: some of the run's features; default: all.
    """
    record = run.manifest.crop_plan or CropRecord(reason="unknown")
    if record.crops is None:
        chosen = features or run.features
        return plan_whole_image(network, chosen, run.through, record.reason or "unknown")
    if features is not None:
        return plan_crop(network, features, run.through)
    return plan_from(record, run.features, run.through)


def units_plan_of(run: Run, network: Network) -> CropPlan:
    """What a pass computes for all units together."""
    units, through = run.all_units(), run.through
    position = None if units.position == "*" else units.position
    widest = AllUnits(layer=units.layer, position=position, token=units.token).widest(network)
    record = run.manifest.units_crop_plan or CropRecord(reason="unknown")
    if record.crops is not None:
        return plan_from(record, [widest], through)
    window = Box.of(units.window)
    return CropPlan(
        features=(widest,), through=through, window=window, inner=window, reason=record.reason
    )


def plan_from(record: CropRecord, features: Sequence[Feature], through: str) -> CropPlan:
    """The plan that a manifest records.

    Args:
        record: what the manifest holds.
        features: the features, at their positions in the whole map.
        through: the through layer.
    """
    assert record.crops is not None
    assert record.positions is not None
    crops = {name: Box.of(numbers) for name, numbers in record.crops.items()}

    def box(numbers: Sequence[int] | None) -> Box | None:
        return None if numbers is None else Box.of(numbers)

    return CropPlan(
        box=crops.pop(PIXELS),
        crops=crops,
        features=tuple(
            feature.at(place) for feature, place in zip(features, record.positions, strict=True)
        ),
        through=through,
        window=box(record.window),
        inner=box(record.inner),
        region=box(record.region),
    )
