"""Views over a zoo: what a part of the image gives is what all of it gives, in real architectures.

The weights are random, so that nothing needs to be downloaded; batch norm has the statistics of
noise, so that activations neither vanish nor explode.
"""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing
from opponent.attribution.attribute import attribute_each
from opponent.geometry.bottlenecks import through_layers
from opponent.geometry.crop import CropPlan, plan_crop, plan_whole_image
from opponent.models.network import LOGITS, PIXELS

TORCHVISION = {
    "alexnet": (128, 160),
    "vgg11": (64, 96),
    "resnet18": (128, 96),
    "squeezenet1_1": (96, 128),
    "densenet121": (96, 96),
    "mobilenet_v2": (96, 128),
    "mobilenet_v3_small": (96, 96),
    "efficientnet_b0": (64, 96),
    "convnext_tiny": (96, 96),
    "regnet_x_400mf": (96, 128),
    "shufflenet_v2_x0_5": (96, 128),
    "vit_b_32": (64, 64),
    "inception_v3": (107, 139),
}
TIMM = {
    "resnet10t": (96, 128),
    "convnext_atto": (96, 96),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def alive(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Random weights that keep activations in range, in evaluation mode."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over all passes
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    for name, value in module.named_parameters():
        if name.endswith(("layer_scale", "gamma")) and value.ndim:
            nn.init.uniform_(value, 0.1, 0.5)
    for part in module.modules():
        part.training = isinstance(part, nn.BatchNorm2d)
    with torch.no_grad():
        for seed in range(2):
            module(noise(2, 3, *size, seed=seed))
    return module.eval()


@cache
def built(source: str, name: str) -> Network:
    """A network of the zoo."""
    size = (TORCHVISION if source == "torchvision" else TIMM)[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if source == "timm":
            module = pytest.importorskip("timm").create_model(name)
        else:
            models = pytest.importorskip("torchvision").models
            more = {"init_weights": False} if name == "inception_v3" else {}
            more |= {"image_size": size[0]} if name.startswith("vit") else {}
            module = getattr(models, name)(**more)
        module = alive(module, size)
    return Network(module, preprocessing=Preprocessing(size=size), name=name)


def cases(network: Network) -> list[tuple[str, str]]:
    """Early, middle and late targets, each through a layer before it, and the logits."""
    whole = [cut.layer for cut in through_layers(network) if cut.bottleneck]
    last = len(whole) - 1
    places = [max(1, round(share * last)) for share in (0.06, 0.3, 0.55, 0.9)]
    pairs = [(whole[i], whole[max(0, i - 2)]) for i in places]
    return list(dict.fromkeys([*pairs, (LOGITS, whole[-1])]))


def extent(gradient: Tensor) -> float:
    """The share of the image that the box of all that is not zero takes."""
    there = gradient.abs().sum((0, 1)) > 0
    rows, columns = (there.any(axis).nonzero().flatten() for axis in (1, 0))
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    return float(box) / there.numel()


def is_needed(network: Network, part: CropPlan, inputs: Tensor) -> float:
    """The share of the image that activation and window depend on, by reverse mode."""
    assert part.through is not None
    pixels = inputs.clone().requires_grad_()
    target = network.run(pixels, part.feature.layer, differentiate="images").target
    with torch.enable_grad():
        total = part.feature.read(target).sum()
        if part.through != PIXELS:
            maps = network.run(pixels, part.through, after=True, differentiate="images").target
            maps = part.within(maps)
            total = total + (maps * noise(*maps.shape, seed=5)).sum()
    return extent(torch.autograd.grad(total, pixels)[0])


NETWORKS = [("torchvision", name) for name in TORCHVISION] + [("timm", name) for name in TIMM]
# In which no target's position depends on less than the whole image.
GLOBAL = {"vit_b_32"}


@pytest.mark.parametrize(("source", "name"), NETWORKS)
def test_views_give_what_the_whole_image_gives(source: str, name: str) -> None:
    network = built(source, name)
    inputs = noise(1, 3, *network.preprocessing.size)
    parts = 0
    for layer, through in cases(network):
        height, width = network.layer(layer).shape[1:]
        for place in dict.fromkeys([(height // 2, width // 2), (0, width - 1)]):
            with torch.no_grad():
                values = network.run(inputs, layer).target[0, :, *place]
            # Neither vanished nor exploded.
            assert 0.01 < values.std() < 100
            feature = network.resolve(
                Feature(layer=layer, unit=int(values.abs().argmax()), position=place)
            )
            part = plan_crop(network, [feature], through)
            if part.box is None:
                check_reason(network, part, inputs)
                continue
            parts += 1
            whole = plan_whole_image(network, [feature], through, "")
            [expected] = attribute_each(network, inputs, [feature], through)
            for one in (part, whole):
                [found] = attribute_each(network, inputs, [feature], through, plan=one)
                assert found.window is not None
                close(found.activation, expected.activation)
                within = expected.attribution[:, :, *found.window.slices]
                close(found.attribution, within)
                close(found.hidden, expected.hidden[:, :, *found.window.slices])
                # S is zero outside.
                assert within.count_nonzero() == expected.attribution.count_nonzero() > 0
    assert bool(parts) == (name not in GLOBAL)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to a hundred-thousandth of the largest."""
    limit = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)


def check_reason(network: Network, part: CropPlan, inputs: Tensor) -> None:
    """That there is no view for the reason given."""
    assert part.reason is not None
    if part.reason.endswith("has no rows and columns"):
        assert network.layer(part.feature.layer).shape[1:] == (1, 1)
    else:
        assert part.reason.endswith("% of the image is needed")
        assert is_needed(network, part, inputs) > 0.85


def test_layers_that_share_an_activation_have_views() -> None:
    """In a ResNet's block one ReLU is called twice: its calls lie at different places."""
    network = built("torchvision", "resnet18")
    for layer, through in (("layer2.0.relu#2", "layer1.1.relu#1"), ("layer2.0.relu", "layer1.0")):
        part = plan_crop(network, [network.resolve(f"{layer}:3@0,0")], through)
        assert part.box is not None
        assert part.crops
