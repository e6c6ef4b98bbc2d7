"""Weights that a layer computes (weight norm): the right numbers, and nothing is changed."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from opponent import Network, Preprocessing, SynthesisSettings, attribute, invert

pytestmark = pytest.mark.usefixtures("one_thread")


def old(wrap: Callable[[nn.Module], nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls them deprecated
        return wrap(layer)


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": partial(old, nn.utils.weight_norm),
    "spectral norm": partial(old, nn.utils.spectral_norm),
    "parametrised weight norm": parametrizations.weight_norm,
    "parametrised spectral norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WRAPS)
def test_attribution_through_computed_weights(name: str, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [WRAPS[name](nn.Conv2d(n, 4, 3, padding=1)) for n in (3, 4)]
    module = nn.Sequential(layers[0], nn.ReLU(), layers[1]).to(dtype).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network = Network(module, preprocessing=Preprocessing(size=(10, 8)))
    images = torch.rand(2, 3, 10, 8, generator=torch.Generator().manual_seed(0))
    result = attribute(network, images, "2:1", "1")
    settings = SynthesisSettings(steps=2)
    invert(network, images[:1], "2:1", "1", side="excitation", settings=settings)
    assert all(submodule.training for submodule in module.modules())
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    # With plain layers of the same weights.
    plain = nn.Sequential(*(_plain(x) for x in (layers[0].eval(), nn.ReLU(), layers[1].eval())))
    expected = attribute(
        Network(plain, preprocessing=Preprocessing(size=(10, 8))), images, "2:1", "1"
    )
    torch.testing.assert_close(result.window_attribution, expected.window_attribution)
    torch.testing.assert_close(result.activation, expected.activation)


def _plain(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.Conv2d):
        return layer
    with torch.random.fork_rng(devices=[]):
        copy = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
    assert isinstance(layer.bias, Tensor)
    copy.weight, copy.bias = nn.Parameter(layer.weight.detach()), nn.Parameter(layer.bias)
    return copy
