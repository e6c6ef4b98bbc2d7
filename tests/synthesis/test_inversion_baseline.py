"""Inversions by a rule that starts from the mean."""

import pytest
import torch
from tests.support.chains import SMALL, chain

from opponent import Network, SynthesisSettings, invert, mean_activation


def small_network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(chain().eval(), preprocessing=SMALL)


def test_an_inversion_under_a_mean_points_away_from_the_mean() -> None:
    network = small_network()
    x = torch.randn(1, 3, 7, 10, generator=torch.Generator().manual_seed(1))
    baseline = 5 * torch.ones(4, 7, 10)  # above all that the layer does
    result = invert(
        network, x, "conv2:0", "relu1", side="excitation", rule="integrated-mean/2",
        baseline=baseline, settings=SynthesisSettings(steps=2),
    )  # fmt: skip
    assert result.image.isfinite().all()


@pytest.mark.parametrize(("target", "through"), [("conv2:0", "relu1"), ("logits:2", "pool")])
def test_an_inversion_computes_the_mean_over_its_images(target: str, through: str) -> None:
    network = small_network()
    x = torch.randn(4, 3, 7, 10, generator=torch.Generator().manual_seed(1))
    results = [
        invert(
            network, x, target, through, side="inhibition", rule="integrated-mean/2",
            baseline=baseline, settings=SynthesisSettings(steps=2),
        )
        for baseline in (None, mean_activation(network, x, through))
    ]  # fmt: skip
    assert torch.equal(results[0].image, results[1].image)
