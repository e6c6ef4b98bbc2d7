"""What drives a feature, split into excitation and inhibition."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opponent.attribution.baseline import mean_activation
from opponent.attribution.result import Attribution
from opponent.attribution.rules import BUILT_IN, AttributionRule, Gradient, parse_rule
from opponent.attribution.segment import AT_ONCE, Segment
from opponent.attribution.through_dictionary import (
    attribute_written,
    check_dictionary,
    images_at_once,
)
from opponent.core.errors import Unreadable
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.crop_check import ROUNDING, copy_in, equal_to_rounding, rounding_limit
from opponent.geometry.planning import plan_crop, weights_state
from opponent.geometry.through import check_through
from opponent.images.imageset import ImageSet
from opponent.images.loader import load_batches
from opponent.images.sources import Images, open_images
from opponent.models.finite import likely_cause
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.models.state import undisturbed

# Images a pass of `attribute`: 32 keep two cores busy and InceptionV1 at 224 x 224 under 2 GB.
BATCH = 32
# Images on which a crop is compared with the whole image before it is trusted.
CHECKED = 8


@undisturbed()
def attribute_each(
    network: Network,
    inputs: Float[Tensor, "n bands h w"],
    features: Sequence[Feature],
    through: str,
    *,
    rule: AttributionRule | None = None,
    baseline: Float[Tensor, "k y x"] | None = None,
    plan: CropPlan | None = None,
    dictionary: Dictionary | None = None,
) -> list[Attribution]:
    """Attribute several features of one layer, which share the forward pass.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: features of one and the same layer.
        through: an earlier layer.
        rule: default: the gradient times h.
        baseline: the mean of h, for a rule that starts there (see `mean_activation`).
        plan: for these features through that layer, to compute no more than S needs; default: the
            whole images.
        dictionary: of the through layer, whose latents S is then of; for the gradient times h.
    Returns:
        One result a feature, without graph.
    Raises:
        ValueError: no feature, features of several layers, or a name or position that does not fit;
            a target that does not depend on the through layer; no baseline where one is needed, or
            one of another shape; a rule that gives S of another shape, or beyond the window; a
            dictionary of another layer or width, or with another rule.
    Source: paper, eq. 1.
    """
    layers = {feature.layer for feature in features}
    if len(layers) != 1:
        raise ValueError(f"one pass takes features of one layer, got {sorted(layers) or 'none'}")
    rule = rule or Gradient()
    if (baseline is not None) != rule.needs_mean:
        raise ValueError(
            f"the rule {rule.label} takes "
            + ("a baseline: `mean_activation` computes it" if rule.needs_mean else "no baseline")
        )
    network = network.at_size((inputs.shape[2], inputs.shape[3]))
    check_through(network, features[0].layer, through)
    if baseline is not None and baseline.shape != network.map_shape(through):
        raise ValueError(
            f"the baseline has shape {tuple(baseline.shape)}, and {through!r} gives maps of "
            f"{network.map_shape(through)}"
        )
    if dictionary is not None:
        check_dictionary(network, dictionary, through)
        if not isinstance(rule, Gradient):
            raise ValueError(f"a dictionary takes the rule 'gradient', not {rule.label!r}")
    features = [network.resolve(feature) for feature in features]
    plan = plan or plan_whole_image(network, features, through, "")
    at_once = AT_ONCE // rule.copies if rule.copies > 1 else len(inputs)
    if dictionary is not None:
        at_once = images_at_once(dictionary, plan)
    results = [
        _attribute_batch(network, batch, features, plan, rule, baseline)
        if dictionary is None
        else attribute_written(network, batch, features, plan, dictionary)
        for batch in inputs.split(max(1, at_once))
    ]
    return [_joined(batches) for batches in zip(*results, strict=True)]


def _attribute_batch(
    network: Network,
    inputs: Tensor,
    features: Sequence[Feature],
    plan: CropPlan,
    rule: AttributionRule,
    baseline: Tensor | None,
) -> list[Attribution]:
    """Attribute one batch, whose copies go through the network together."""
    assert plan.through is not None
    assert plan.window is not None
    segment = Segment(network, inputs, plan, features, baseline)
    hidden = plan.within(segment.hidden)
    start = segment.baseline
    return [
        Attribution(
            feature=feature,
            through=plan.through,
            activation=activation.detach().clone(),
            window_attribution=_in_window(plan, segment, rule, attribution.detach()),
            hidden=hidden,
            baseline=None if start is None else plan.within(start[None])[0],
            window=plan.window,
            map_size=network.map_shape(plan.through)[1:],
            tokens=network.layers.tokens(plan.through),
        )
        for feature, activation, attribution in zip(
            features, segment.unchanged.activations, rule.attribute(segment), strict=True
        )
    ]


def _in_window(
    plan: CropPlan, segment: Segment, rule: AttributionRule, attribution: Tensor
) -> Float[Tensor, "n k h w"]:
    """S within the window, after a check that it has its shape and is zero elsewhere."""
    if attribution.shape != segment.hidden.shape:
        raise ValueError(
            f"the rule {rule.label} gives S of shape {tuple(attribution.shape)} where h has "
            f"{tuple(segment.hidden.shape)}"
        )
    inside = plan.within(attribution)
    if inside.shape != attribution.shape:
        total = attribution.abs().sum()
        # Some ways to convolve leave rounding where zeros should be.
        if total - inside.abs().sum() > rounding_limit(attribution.dtype) * total:
            raise ValueError(
                f"the rule {rule.label} gives S beyond {plan.window}, on which alone the features "
                f"depend of {plan.through!r}"
            )
    return inside


def _joined(batches: Sequence[Attribution]) -> Attribution:
    if len(batches) == 1:
        return batches[0]
    return replace(
        batches[0],
        activation=torch.cat([x.activation for x in batches]),
        window_attribution=torch.cat([x.window_attribution for x in batches]),
        hidden=torch.cat([x.hidden for x in batches]),
        bias=_together([x.bias for x in batches]),
        rest=_together([x.rest for x in batches]),
    )


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def checked_plan(
    network: Network,
    features: Sequence[Feature],
    through: str,
    inputs: Float[Tensor, "n bands h w"] | None,
    *,
    rule: AttributionRule | None = None,
    baseline: Float[Tensor, "k y x"] | None = None,
) -> CropPlan:
    """The crop that gives some features' attribution exactly, after a check on the first images.

    On each of them activation and S must be what the whole image gives, up to rounding; else the
    plan takes the whole image and says why.

    Args:
        network: the network.
        features: of one layer, with positions written out.
        through: an earlier layer.
        inputs: the network's own input of some images; None checks nothing but noise.
        rule: how S is computed. A rule of the user's own may look at more of h than S needs, and
            is checked itself; the built-in ones need no more than the gradient.
        baseline: the mean of h, for a rule that starts there.
    Returns:
        The plan.
    """
    plan = plan_crop(network, features, through)
    if plan.box is None or inputs is None or not len(inputs):
        return plan
    if rule is None or type(rule) in BUILT_IN:
        rule, baseline = Gradient(), None
    inputs = inputs[: max(1, CHECKED // rule.copies)]
    if network.dtype not in ROUNDING:
        # In half precision values are often equal, and a pool picks any of them.
        network, inputs = copy_in(network, torch.float32), inputs.float()
        baseline = None if baseline is None else baseline.float()
    uncropped = plan_whole_image(network, features, through, "")
    for cropped, expected in zip(
        attribute_each(network, inputs, features, through, rule=rule, baseline=baseline, plan=plan),
        attribute_each(
            network, inputs, features, through, rule=rule, baseline=baseline, plan=uncropped
        ),
        strict=True,
    ):
        # The activation may be small because its terms cancel.
        size = torch.maximum(expected.l1, expected.activation.abs())
        differs = None
        if not equal_to_rounding(cropped.activation, expected.activation, size):
            differs = "activation"
        elif not equal_to_rounding(cropped.window_attribution, expected.window_attribution):
            differs = "S"
        if differs is not None:
            reason = f"on the first images, {differs} of {cropped.feature.label} differs"
            return replace(uncropped, reason=reason)
    return plan


@undisturbed()
def attribute(
    network: Network | nn.Module | str,
    images: Tensor | Images,
    feature: Feature | str,
    through: str,
    *,
    rule: AttributionRule | str = "gradient",
    baseline: Float[Tensor, "k y x"] | None = None,
    dictionary: Dictionary | str | Path | None = None,
    progress: Progress | None = None,
) -> Attribution:
    """What drives a feature in each image, split into excitation and inhibition.

    Only the crop of the image that the feature depends on is computed, where that gives exactly
    what the whole image gives. This is checked on noise and on the first images, once a network,
    feature and through layer.

    Args:
        network: a network, a module or a name.
        images: photographs (a folder, files, a list), or the network's own input as a tensor.
        feature: a feature or its name, such as 'mixed3b:379' or 'logits:254'.
        through: an earlier layer, or 'pixels'.
        rule: 'gradient', 'integrated-zero', 'integrated-mean', or a rule of the user's own.
        baseline: the through layer's mean, for 'integrated-mean'; default: the mean over these
            images, at most 1,000 of them.
        dictionary: of the through layer, or its file: S is then of its latents.
        progress: called with what is being done, the images done and the images in all; default: a
            display that appears after two seconds.
    Returns:
        S, in the window of the through layer where it is not zero and in its whole map; activation,
        excitation, inhibition, norms and maps.
    Raises:
        ValueError: a name, unit, position or shape that does not fit; a baseline that the rule does
            not take; the mean over one image; an activation or S that is not finite; a dictionary
            of another layer or width.
        FileNotFoundError: there is no such folder or file of images.
        Unreadable: an image that cannot be read.
    Source: paper, eqs. 1 to 3.

    >>> import opponent, torch
    >>> network = opponent.load()
    >>> images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> result = opponent.attribute(network, images, "mixed3b:189", "mixed3a")
    >>> result
    Attribution('mixed3b:189@7,7' through 'mixed3a': 2 images)
    >>> total = result.excitation - result.inhibition
    >>> torch.allclose(total, result.activation, atol=1e-4)
    True
    """
    network, rule = load(network), parse_rule(rule)
    if isinstance(images, Tensor):
        images, _ = network.load_inputs(images)
        network = network.at_size((images.shape[2], images.shape[3]))
    feature = network.resolve(feature)
    check_through(network, feature.layer, through)
    if rule.needs_mean and baseline is None:
        baseline = _own_mean(network, images, through, rule)
    if isinstance(dictionary, str | Path):
        dictionary = Dictionary.load(dictionary)
    batches = _input_batches(network, images)
    what, results, ids = f"attributing {feature.label}", list[Attribution](), list[str]()
    with shown(progress) as report, closing(batches):
        for inputs, batch_ids, done, total in batches:
            plan = _plan_once(network, feature, through, inputs, rule, baseline)
            results += attribute_each(
                network, inputs, [feature], through, rule=rule, baseline=baseline, plan=plan,
                dictionary=dictionary,
            )  # fmt: skip
            ids += batch_ids
            report(what, done, total)
    result = _joined(results)
    if not isinstance(images, Tensor):
        result = replace(result, images=tuple(ids))
    _refuse_not_finite(result, network)
    return result


def _refuse_not_finite(result: Attribution, network: Network) -> None:
    finite = result.activation.isfinite() & result.l1.isfinite()
    wrong = (~finite).nonzero().flatten().tolist()
    if wrong:
        names = range(len(result)) if result.images is None else result.images
        listed = ", ".join(str(names[i]) for i in wrong[:3]) + (", …" if len(wrong) > 3 else "")
        raise ValueError(
            f"activation or S of {result.feature.label} through {result.through!r} is not finite "
            f"in {len(wrong)} of {len(result)} images ({listed}): {likely_cause(network)}"
        )


def _plan_once(
    network: Network,
    feature: Feature,
    through: str,
    inputs: Tensor,
    rule: AttributionRule,
    baseline: Tensor | None,
) -> CropPlan:
    """The crop for a feature, checked on the first images that are asked about."""

    def plan() -> CropPlan:
        return checked_plan(network, [feature], through, inputs, rule=rule, baseline=baseline)

    if not len(inputs):
        return plan()
    key = ("checked plan", feature, through, rule.label, weights_state(network))
    return network.cached(key, plan)


def _input_batches(
    network: Network, images: Tensor | Images
) -> Generator[tuple[Float[Tensor, "m bands h w"], list[str], int, int], None, None]:
    """The network's input in batches, with ids, images done and images in all."""
    if isinstance(images, Tensor):
        done = 0
        for batch in images.split(BATCH):
            done += len(batch)
            yield batch, [], done, len(images)
        return
    chosen = open_images(images, size=network.preprocessing.size)
    loaded = load_batches(chosen.entries, network.preprocessing.fit, batch_size=BATCH)
    with closing(loaded):
        for batch in loaded:
            refuse_unreadable(batch.unreadable, chosen)
            ids = [chosen[number].id for number in batch.numbers]
            yield network.inputs(batch.pixels), ids, batch.done, len(chosen)


def refuse_unreadable(
    unreadable: dict[int, str], images: ImageSet, problem: str = "cannot be read"
) -> None:
    """Raise `Unreadable` for the first of the images that cannot be read, if there is one.

    Args:
        unreadable: reasons, by the images' places in the set.
        images: the image set.
        problem: what the message says of the image.
    """
    for number, reason in unreadable.items():
        raise Unreadable(f"{images[number].where} {problem}: {reason}")


def _own_mean(
    network: Network,
    images: Tensor | Images,
    through: str,
    rule: AttributionRule,
) -> Float[Tensor, "k y x"]:
    """The mean over the images themselves, where there are several."""
    if isinstance(images, Tensor):
        count = len(images)
    else:
        images = open_images(images, size=network.preprocessing.size)
        count = len(images)
    if count < 2:
        raise ValueError(
            f"the rule {rule.label} starts from the mean over images, and there is one: give its "
            "`baseline` (`mean_activation` computes it)"
        )
    return mean_activation(network, images, through)
