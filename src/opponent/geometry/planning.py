"""Which crop gives exactly what the whole image gives: candidates, each checked on noise."""

from collections.abc import Hashable, Sequence

from opponent.core.errors import IndependentFeature, UnknownGeometry, out_of_memory
from opponent.core.feature import Feature
from opponent.core.text import one_line
from opponent.geometry.candidates import crops_from_pixels, crops_from_through
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.crop_check import CropCheck, random_weights
from opponent.models.network import PIXELS, Network


def plan_crop(
    network: Network, features: Sequence[Feature], through: str | None, *, start: str = PIXELS
) -> CropPlan:
    """The smallest boxes of image and layers that give some features, and the window of S, exactly.

    On noise, in double precision, it is checked that they give what the whole image gives: the
    activations, the through layer, and S for a random combination of the features. Where they do
    not (sizes that are built in, positions that are learnt), or where the network's geometry cannot
    be told, it is the whole image.

    Args:
        network: the network.
        features: of one layer, with positions written out; at most one of each position matters.
        through: a layer before the features'; None where only the features are wanted.
        start: where the crop begins: 'pixels', or the through layer.
    Returns:
        The plan; where it takes the whole image, it begins at the pixels and says why.
    """
    key = ("crop plan", tuple(features), through, start, weights_state(network))
    return network.cached(key, lambda: _plan(network, features, through, start))


def weights_state(network: Network) -> Hashable:
    """What changes when the weights change. A plan that was checked with some holds for these."""
    module = network.module
    return hash(
        tuple(
            (x.data_ptr(), 0 if x.is_inference() else x._version)
            for x in (*module.parameters(), *module.buffers())
        )
    )


def _plan(
    network: Network, features: Sequence[Feature], through: str | None, start: str
) -> CropPlan:
    try:
        if start == PIXELS:
            candidates = crops_from_pixels(network, features, through)
        else:
            candidates = crops_from_through(network, features, start)
    except (UnknownGeometry, IndependentFeature) as error:
        candidates = str(error)
    except Exception as error:
        if out_of_memory(error):
            raise
        # Networks that crop, roll, flip or round up have boxes at places that no crop allows for.
        candidates = f"the steps from pixels to layers are not even ({one_line(error)})"
    if isinstance(candidates, str):
        return plan_whole_image(network, features, through, candidates)
    reason = "a part of the image gives other numbers than the whole does"
    uncropped = plan_whole_image(network, features, through, reason)
    check = CropCheck.of(network, uncropped)
    if check is None:
        return uncropped
    if not check.bounded:
        raise UnknownGeometry(
            f"what {features[0].label} depends on in {through!r} is more than its operations say"
        )
    if not check.alive:
        candidates = _trusted(network, uncropped, candidates, start)
    confirmed = (check.confirm(candidate) for candidate in candidates)
    return next((plan for plan in confirmed if plan is not None), uncropped)


def _trusted(
    network: Network, uncropped: CropPlan, candidates: Sequence[CropPlan], start: str
) -> list[CropPlan]:
    """The candidates for features that are dead on noise, so that it says nothing about their S.

    All channels of their layer together are not dead. Where a crop is right for them, it is trusted
    for the features.
    """
    layer = uncropped.features[0].layer
    weights = list(random_weights(network.layer(layer).shape[0]))
    positions = dict.fromkeys(feature.position for feature in uncropped.features)
    channels = tuple(Feature.direction(layer, weights, position=x) for x in positions)
    if channels == uncropped.features:
        return []
    plan = plan_crop(network, channels, uncropped.through, start=start)
    return [x for x in candidates if plan.box is not None and (plan.crops or not x.crops)]
