"""One batch: measured at once as feature by feature, from windows or the whole network."""

from collections.abc import Sequence

import pytest
import torch

from opponent import Feature, Network
from opponent.attribution.attribute import attribute_each
from opponent.geometry.crop import CropPlan
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.uniqueness.batch import LayerPlan, measure_batch, norms, plan_crops
from opponent.paper.uniqueness.controls import Controls
from opponent.paper.uniqueness.measure import choose_layers

pytestmark = pytest.mark.usefixtures("one_thread")


def plan_of(network: Network, crop: CropPlan) -> LayerPlan:
    controls = Controls.of(network, crop, draws=1, seed=0)
    return LayerPlan(crop=crop, controls=controls, kinds={"all": slice(None)})


def equal(network: Network, pairs: Sequence[LayerPair], *, cropped: bool = True) -> None:
    """Measured at once, and feature by feature over the whole maps."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(5, 3, *network.preprocessing.size, generator=generator)
    features = {}
    for pair in pairs:
        channels = network.layer(pair.target).shape[0]
        vector = torch.randn(channels, generator=generator)
        features[pair] = [
            Feature(layer=pair.target, unit=unit) for unit in range(0, channels, channels // 3)
        ]
        features[pair] += [Feature.direction(pair.target, vector, power=p) for p in (0, 2)]
    plans = {pair: plan_of(network, crop) for pair, crop in plan_crops(network, features).items()}
    assert all((plans[pair].crop.box is not None) == cropped for pair in pairs)
    arrays = measure_batch(network, inputs, plans)
    for pair in pairs:
        results = attribute_each(network, inputs, features[pair], pair.through)
        for i, s in enumerate(results):
            want = torch.stack([s.activation, s.excitation, s.inhibition, s.l2], 1)
            got = torch.from_numpy(arrays[pair.target][:, i])
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got[:, 1] + got[:, 2], s.l1, rtol=1e-4, atol=1e-5)


def test_measured_at_once_is_as_measured_one_by_one(small: Network) -> None:
    equal(small, choose_layers(small, ["first:pixels", "second", "third", "fourth"]))
    equal(small, choose_layers(small, ["fourth:first"]))


def test_the_embedded_network_too(embedded: Network) -> None:
    equal(embedded, choose_layers(embedded, ["mixed3a", "mixed4d"]))


def test_a_layer_within_a_branch_runs_the_whole_network(small: Network) -> None:
    # What goes by beside 'within' comes from the image: a crop alone does not tell it.
    equal(small, choose_layers(small, ["second:within"]), cropped=False)


def test_norms_of_whole_maps_lose_no_digits() -> None:
    maps = torch.randn(3, 64, 56, 56, generator=torch.Generator().manual_seed(0))
    plus, minus, l2 = norms(maps)
    exact = maps.double()
    for ours, expected in (
        (plus, exact.clamp(min=0).sum((1, 2, 3))),
        (minus, (-exact).clamp(min=0).sum((1, 2, 3))),
        (l2, exact.square().sum((1, 2, 3)).sqrt()),
    ):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)


def test_a_small_side_keeps_its_digits_beside_a_large_one() -> None:
    maps = torch.rand(2, 64, 28, 28, generator=torch.Generator().manual_seed(0)) + 1
    maps[0, 3, 4, 5:9] = torch.tensor([-0.001, -0.002, -0.0005, -0.0015])
    maps[1] *= -1
    maps[1, 60, 27, 27] = 0.003
    for one_map, (plus, minus) in zip(maps, zip(*norms(maps)[:2], strict=True), strict=True):
        values = one_map.flatten().double().tolist()
        above = sum(x for x in values if x > 0)
        below = -sum(x for x in values if x < 0)
        assert plus.item() == pytest.approx(above, rel=1e-6)
        assert minus.item() == pytest.approx(below, rel=1e-6)
