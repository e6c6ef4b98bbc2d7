"""What a scan is to compute: checked before the first image, and written down as its manifest."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.all_units import AllUnits, scores_everywhere
from opponent.attribution.attribute import CHECKED, attribute_each, checked_plan
from opponent.attribution.rules import AttributionRule, Gradient
from opponent.attribution.through_dictionary import check_dictionary
from opponent.core.box import Box, overlap
from opponent.core.feature import Feature
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan
from opponent.geometry.receptive_field import placement, receptive_field
from opponent.geometry.through import check_through
from opponent.images.imageset import ImageSet
from opponent.images.loader import load_batches
from opponent.images.sources import Images, open_images
from opponent.models.finite import likely_cause, not_finite_weight
from opponent.models.network import PIXELS, Network
from opponent.models.signature import signature
from opponent.storage.manifest import (
    BoxNumbers,
    CropRecord,
    DictionaryRecord,
    ImagesRecord,
    Manifest,
    NetworkRecord,
    UnitsRecord,
    WindowRecord,
    box_numbers,
    feature_record,
    versions,
)
from opponent.storage.summary import KEEP

Features = Sequence[Feature | str] | Feature | str


def plan_scan(
    network: Network,
    images: Images,
    features: Features,
    through: str,
    *,
    rule: AttributionRule,
    batch_size: int,
    shard_size: int,
    seed: int,
    dictionary: Dictionary | None = None,
) -> tuple[Manifest, ImageSet]:
    """Check everything before the first image, and write it down, but for the crop plans.

    Args as `scan_images`.

    Raises:
        ValueError: a feature, layer, number or source that does not fit.
    """
    if batch_size < 1 or shard_size < 1:
        raise ValueError(
            f"batch and shard size must be positive, got {batch_size} and {shard_size}"
        )
    resolved, all_units = chosen_features(network, features)
    if all_units is not None and not isinstance(rule, Gradient):
        raise ValueError(f"all units at once take the rule 'gradient', not {rule.label!r}")
    if dictionary is not None and (all_units is not None or not isinstance(rule, Gradient)):
        raise ValueError("a dictionary takes features by name, and the rule 'gradient'")
    widest = None if all_units is None else all_units.widest(network)
    layers = sorted({x.layer for x in (*resolved, *([widest] if widest else []))})
    if len(layers) > 1:
        raise ValueError(f"one scan takes features of one layer, got {', '.join(layers)}")
    check_through(network, layers[0], through)
    if all_units is not None and all_units.everywhere:
        blank = torch.zeros(1, *network.map_shape(PIXELS))
        # It says whether it can.
        scores_everywhere(network, blank.to(network.device, network.dtype), layers[0], through)
    if dictionary is not None:
        check_dictionary(network, dictionary, through)
    chosen = open_images(images, size=network.preprocessing.size)
    if not chosen:
        raise ValueError(f"{chosen.source!r} has no images")
    grid = network.grid(through)
    channels = network.map_shape(through)[0] if dictionary is None else dictionary.latents
    manifest = Manifest(
        network=NetworkRecord(
            name=network.name,
            weights_file=None if network.weights_file is None else str(network.weights_file),
            weights_sha256=network.weights_sha256(),
            preprocessing=network.preprocessing,
            dtype=_dtype_name(network.dtype),
            narrower=_narrower(network),
            asked=network.asked,
            signature=tuple(signature(network, layers[0], through)),
        ),
        features=[feature_record(feature) for feature in resolved],
        through=through,
        through_shape=(channels, grid.height, grid.width),
        tokens=network.layers.tokens(through),
        windows=[
            WindowRecord(
                through=box_numbers(overlap(receptive_field(network, feature, through), grid)),
                pixels=box_numbers(receptive_field(network, feature)),
            )
            for feature in resolved
        ],
        placement=placement(network, through),
        images=ImagesRecord(source=chosen.source, count=len(chosen), sha256=chosen.digest()),
        batch_size=batch_size,
        shard_size=shard_size,
        device=network.device.type,
        seed=seed,
        versions=versions(),
        rule=rule.label,
        dictionary=None if dictionary is None else _dictionary_record(dictionary),
        units=None if all_units is None else _units_record(network, all_units, through),
    )
    return manifest, chosen


def _dictionary_record(dictionary: Dictionary) -> DictionaryRecord:
    return DictionaryRecord(
        sha256=dictionary.sha256(), latents=dictionary.latents, kind=dictionary.kind
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _narrower(network: Network) -> tuple[str, str] | None:
    """The type of fewer bits than its own that a network computes in, and in which layer."""
    found = network.layers.narrower(network.dtype)
    return None if found is None else (_dtype_name(found[1]), found[0])


def chosen_features(network: Network, features: Features) -> tuple[list[Feature], AllUnits | None]:
    """The features that are asked for, with positions, and all units, where these are.

    Raises:
        ValueError: no feature, a feature given twice, all units of several layers.
    """
    given = [features] if isinstance(features, Feature | str) else list(features)
    if not given:
        raise ValueError("a scan needs at least one feature, such as 'mixed3b:9'")
    parsed = [AllUnits.parse(each) if isinstance(each, str) else None for each in given]
    stars = [star for star in parsed if star is not None]
    if len(stars) > 1:
        raise ValueError("one scan takes all units of one layer, at one position")
    resolved = [
        network.resolve(feature) for feature, star in zip(given, parsed, strict=True) if not star
    ]
    labels = [feature.label for feature in resolved]
    if len(set(labels)) < len(labels):
        raise ValueError(f"a feature is given twice among {', '.join(labels)}")
    return resolved, stars[0] if stars else None


def _units_record(network: Network, all_units: AllUnits, through: str) -> UnitsRecord:
    widest = all_units.widest(network)
    everywhere = all_units.everywhere
    window = (
        Box.full(network.map_shape(through)[1:])
        if everywhere
        else receptive_field(network, widest, through)
    )
    return UnitsRecord(
        layer=widest.layer,
        position="*" if everywhere else widest.position,
        token=widest.token,
        count=network.layer(widest.layer).shape[0],
        window=box_numbers(window),
        keep=KEEP,
    )


def with_crop_plans(
    network: Network,
    manifest: Manifest,
    images: ImageSet,
    rule: AttributionRule,
    baseline: Float[Tensor, "k h w"] | None,
) -> Manifest:
    """The manifest with what has to be computed of image and layers.

    On each of the first images S must be what the whole image gives, up to rounding.

    Args:
        network: the network.
        manifest: the manifest without.
        images: the images of the scan.
        rule: the scan's rule.
        baseline: the through layer's mean, for a rule that starts there.
    Raises:
        ValueError: a weight that is not finite makes a feature NaN in all of the first images.
    """
    inputs, through = first_inputs(network, images), manifest.through
    features = [record.feature for record in manifest.features]
    crop_plan = units_plan = None
    if features:
        _refuse_weights(network, features, through, inputs)
        crop_plan = crop_record(
            checked_plan(network, features, through, inputs, rule=rule, baseline=baseline)
        )
    units = manifest.units
    if units is not None:
        if isinstance(units.position, str):
            units_plan = CropRecord(reason="every position is asked for")
        else:
            all_units = AllUnits(layer=units.layer, position=units.position, token=units.token)
            plan = checked_plan(network, all_units.probes(network), through, inputs)
            units_plan = crop_record(replace(plan, features=plan.features[:1]))
    return msgspec.structs.replace(manifest, crop_plan=crop_plan, units_crop_plan=units_plan)


def _refuse_weights(
    network: Network,
    features: Sequence[Feature],
    through: str,
    inputs: Float[Tensor, "n bands h w"] | None,
) -> None:
    """Refuse features that a weight makes NaN, before a pass over all images."""
    weight = not_finite_weight(network)
    if weight is None or inputs is None:
        return
    for result in attribute_each(network, inputs, features, through):
        if not (result.activation.isfinite() & result.l1.isfinite()).any():
            raise ValueError(
                f"activation or S of {result.feature.label} is not finite in any of the first "
                f"{len(inputs)} images: {likely_cause(network)}"
            )


def first_inputs(network: Network, images: ImageSet) -> Float[Tensor, "n bands h w"] | None:
    """The network's input of the first images, as far as they can be read."""
    batches = load_batches(images[:CHECKED], network.preprocessing.fit, batch_size=CHECKED)
    pixels = next(batches).pixels
    batches.close()
    return network.inputs(pixels) if len(pixels) else None


def crop_record(plan: CropPlan) -> CropRecord:
    """A plan for the manifest."""
    if plan.box is None:
        return CropRecord(reason=plan.reason or "unknown")
    boxes = {PIXELS: plan.box, **plan.crops}

    def numbers(box: Box | None) -> BoxNumbers | None:
        return None if box is None else box_numbers(box)

    return CropRecord(
        crops={name: box_numbers(box) for name, box in boxes.items()},
        positions=[x.position for x in plan.features if x.position is not None],
        window=numbers(plan.window),
        inner=numbers(plan.inner),
        region=numbers(plan.region),
    )


def rounding(
    network: Network, images: Images, features: Features, through: str, dtype: torch.dtype
) -> dict[str, float]:
    """Put a network into another type of numbers, and say what that does on the first images.

    Args:
        network: it stays in the new type.
        images, features, through: as `scan_images` takes them.
        dtype: the new type.
    Returns:
        For activation, excitation and inhibition the root mean square of their differences over
        that of their values.
    Raises:
        ValueError: no image can be read.
    """
    resolved, all_units = chosen_features(network, features)
    targets = [*resolved, *([] if all_units is None else [all_units.widest(network)])]
    chosen = open_images(images, size=network.preprocessing.size)
    inputs = first_inputs(network, chosen)
    if inputs is None:
        raise ValueError(f"none of the first {CHECKED} images of {chosen.source!r} can be read")
    exact_results = attribute_each(network, inputs, targets, through)
    network.to(dtype=dtype)
    coarse_results = attribute_each(network, inputs.to(dtype), targets, through)
    error = {}
    for name in ("activation", "excitation", "inhibition"):
        exact, coarse = (
            torch.stack([getattr(x, name).cpu().double() for x in results])
            for results in (exact_results, coarse_results)
        )
        error[name] = float((coarse - exact).norm() / exact.norm())
    return error
