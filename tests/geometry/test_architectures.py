"""Crop plans and receptive fields in the architectures of torchvision and timm.

The weights are random, so that nothing needs to be downloaded. For crop plans, batch norm has the
statistics of noise, so that activations neither vanish nor explode.
"""

import warnings
from functools import cache, partial

import pytest
import torch
from tests.support.attribution import whole_image
from tests.support.receptive_fields import (
    boxes,
    rand,
    rising,
    seeded,
    timm_model,
    torchvision_model,
)
from torch import Tensor, nn

import opponent
from opponent import Feature, Network, Preprocessing, attribute
from opponent.attribution.attribute import attribute_each
from opponent.core.box import Box
from opponent.geometry.bottlenecks import through_layers
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.geometry.receptive_field import receptive_field, receptive_fields
from opponent.models.inceptionv1 import InceptionV1, MaxPoolSame, Variant
from opponent.models.network import LOGITS, PIXELS

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHVISION = {
    "resnet18": (128, 96),
    "squeezenet1_1": (96, 128),
    "densenet121": (96, 96),
    "mobilenet_v2": (96, 128),
    "mobilenet_v3_small": (96, 96),
    "efficientnet_b0": (64, 96),
    "convnext_tiny": (96, 96),
    "shufflenet_v2_x0_5": (96, 128),
    "vit_b_32": (64, 64),
    "inception_v3": (107, 139),
}
TIMM = {"resnet10t": (96, 128)}


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def alive(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Random weights that keep activations in range, in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all passes
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    for name, value in module.named_parameters():
        if name.endswith(("layer_scale", "gamma")) and value.ndim:
            nn.init.uniform_(value, 0.1, 0.5)
    for layer in module.modules():
        layer.training = isinstance(layer, nn.BatchNorm2d)
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
    layers = [x.layer for x in through_layers(network) if x.bottleneck]
    last = len(layers) - 1
    places = [max(1, round(share * last)) for share in (0.06, 0.3, 0.55, 0.9)]
    pairs = [(layers[i], layers[max(0, i - 2)]) for i in places]
    return list(dict.fromkeys([*pairs, (LOGITS, layers[-1])]))


def extent(gradient: Tensor) -> float:
    """The share of the image that the smallest box of all that is not zero takes."""
    there = gradient.abs().sum((0, 1)) > 0
    rows, columns = (there.any(axis).nonzero().flatten() for axis in (1, 0))
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    return float(box) / there.numel()


def is_needed(network: Network, plan: CropPlan, inputs: Tensor) -> float:
    """The share of the image that activation and window depend on, by reverse mode."""
    assert plan.through is not None
    pixels = inputs.clone().requires_grad_()
    target = network.run(pixels, plan.feature.layer, differentiate="images").target
    with torch.enable_grad():
        total = plan.feature.read(target).sum()
        if plan.through != PIXELS:
            maps = network.run(pixels, plan.through, after=True, differentiate="images").target
            maps = plan.within(maps)
            total = total + (maps * noise(*maps.shape, seed=5)).sum()
    return extent(torch.autograd.grad(total, pixels)[0])


NETWORKS = [("torchvision", name) for name in TORCHVISION] + [("timm", name) for name in TIMM]
# In which no target's position depends on less than the whole image.
GLOBAL = {"vit_b_32"}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "name"), NETWORKS)
def test_crop_plans_give_what_the_whole_image_gives(source: str, name: str) -> None:
    network = built(source, name)
    inputs = noise(1, 3, *network.preprocessing.size)
    crops = 0
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
            plan = plan_crop(network, [feature], through)
            if plan.box is None:
                check_reason(network, plan, inputs)
                continue
            crops += 1
            whole = plan_whole_image(network, [feature], through, "")
            activation, attribution, hidden = whole_image(network, inputs, feature, through)
            for chosen in (plan, whole):
                [result] = attribute_each(network, inputs, [feature], through, plan=chosen)
                close(result.activation, activation)
                within = attribution[:, :, *result.window.slices]
                close(result.window_attribution, within)
                close(result.attribution, attribution)
                close(result.hidden, hidden[:, :, *result.window.slices])
                # S is zero outside.
                assert within.count_nonzero() == attribution.count_nonzero() > 0
    assert bool(crops) == (name not in GLOBAL)


def close(result: Tensor, expected: Tensor) -> None:
    """Equal to a hundred-thousandth of the largest."""
    limit = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(result, expected, rtol=0, atol=limit)


def check_reason(network: Network, plan: CropPlan, inputs: Tensor) -> None:
    """That there is no crop for the reason given."""
    assert plan.reason is not None
    if plan.reason.endswith("has no rows and columns"):
        assert network.layer(plan.feature.layer).shape[1:] == (1, 1)
    else:
        assert plan.reason.endswith("% of the image is needed")
        assert is_needed(network, plan, inputs) > 0.85


def test_layers_that_share_an_activation_have_crop_plans() -> None:
    """In a ResNet's block one ReLU is called twice: its calls lie at different places."""
    network = built("torchvision", "resnet18")
    for layer, through in (("layer2.0.relu#2", "layer1.1.relu#1"), ("layer2.0.relu", "layer1.0")):
        plan = plan_crop(network, [network.resolve(f"{layer}:3@0,0")], through)
        assert plan.box is not None
        assert plan.crops


# Receptive fields


def smoothed(module: nn.Module) -> nn.Module:
    """The same geometry with a gradient in all that an element depends on."""
    for name, layer in [*module.named_children()]:
        if isinstance(layer, nn.MaxPool2d):
            same = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            setattr(module, name, same)
        elif isinstance(layer, MaxPoolSame):
            same = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, 2))
            setattr(module, name, same)
        elif isinstance(layer, nn.ReLU6):
            setattr(module, name, nn.ReLU())
        else:
            smoothed(layer)
    return module


LOCAL = {
    "resnet18": (partial(torchvision_model, "resnet18"), (64, 96), "layer1.0.relu#1 layer2.0"),
    "squeezenet": (partial(torchvision_model, "squeezenet1_0"), (64, 95), "features.7"),
    "densenet121": (partial(torchvision_model, "densenet121"), (64, 80), "features.transition2"),
    "mobilenet_v2": (partial(torchvision_model, "mobilenet_v2"), (65, 80), "features.8"),
    "shufflenet": (partial(torchvision_model, "shufflenet_v2_x0_5"), (64, 99), "stage2 stage3.1"),
    "googlenet": (partial(torchvision_model, "googlenet"), (64, 95), "inception3a inception4a"),
    "inception_v3": (partial(torchvision_model, "inception_v3"), (111, 127), "Mixed_5c"),
    "regnet_x": (partial(torchvision_model, "regnet_x_400mf"), (64, 80), "trunk_output.block2"),
    "convnext_tiny": (partial(torchvision_model, "convnext_tiny"), (64, 96), "features.3.0"),
    "swin_t": (partial(torchvision_model, "swin_t"), (64, 96), "features.1.0 features.1.1"),
    "inceptionv1-small": (lambda: opponent.load().module, (85, 128), "mixed3b mixed4a_5x5"),
    "inceptionv1": (
        lambda: InceptionV1(Variant(width=0.25, normalise=False)),
        (86, 128),
        "mixed3b mixed4a_5x5",
    ),
    "dla34": (partial(timm_model, "dla34"), (64, 96), "level2 level3"),
    "res2net": (partial(timm_model, "res2net50_26w_4s"), (64, 80), "layer1.1"),
    "resnet26d": (partial(timm_model, "resnet26d"), (64, 80), "maxpool layer2"),
    "hrnet": (partial(timm_model, "hrnet_w18_small"), (64, 64), "stage2.0.fuse_layers.0.1"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_boxes_of_known_networks_are_where_gradients_are(name: str) -> None:
    make, size, targets = LOCAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's and torchvision's own
        model = seeded(make)
    network = Network(model, preprocessing=Preprocessing(size=size))
    targets = [x for x in targets.split() if x.partition("#")[0] in network.layers]
    extents = {target: receptive_fields(network, target) for target in targets}
    field = receptive_field(network, f"{targets[0]}:0@0,0")
    network = Network(smoothed(rising(model)), preprocessing=Preprocessing(size=size))
    assert targets
    for target in targets:
        channels, height, width = network.map_shape(target)
        x = rand(1, 3, *size).requires_grad_()
        maps = network.run(x, target, differentiate="images").target
        for unit, row, column in (
            (0, 0, 0),
            (channels // 2, height // 2, width // 2),
            (channels - 1, height - 1, width // 3),
        ):
            [gradient] = torch.autograd.grad(maps[0, unit, row, column], x, retain_graph=True)
            expected = boxes((gradient[0] != 0).any(0)[None, None, None])[:, 0, 0, 0]
            assert extents[target][:, unit, row, column].tolist() == expected.tolist()
    top, _, left, _ = extents[targets[0]][:, 0, 0, 0].tolist()
    assert (field.top, field.left) == (-top, -left)


# Twelve networks


# With each a feature that sees a part of the map that it is explained through, or all of it where
# the network pools over the image on the way.
TWELVE = {
    "alexnet": ((95, 127), "features.3:30", "features.1", "part"),
    "vgg11": ((64, 80), "features.11:200", "features.4", "part"),
    "resnet18": ((64, 95), "layer2.0.relu#1:100", "layer1", "part"),
    "squeezenet1_1": ((64, 95), "features.4.expand3x3_activation:10", "features.1", "part"),
    "densenet121": ((64, 80), "features.denseblock1.denselayer2.relu2:7", "features.relu0", "part"),
    "mobilenet_v3_small": ((64, 95), "features.4.block.0.2:17", "features.0", "whole"),
    "efficientnet_b0": ((64, 80), "features.3.0.block.0.2:17", "features.0", "whole"),
    "convnext_tiny": ((96, 128), "features.1.0.block.0:50", "features.0", "part"),
    "regnet_y_400mf": ((64, 80), "trunk_output.block1.block1-0.f.a.2:20", "stem", "part"),
    "shufflenet_v2_x0_5": ((64, 95), "stage2.1.branch2.2:20", "maxpool", "part"),
    "vit_b_16": ((224, 224), "encoder.layers.encoder_layer_1.mlp.1:1000@5,0", "conv_proj", "whole"),
    "inception_v3": ((107, 139), "Mixed_5c:200", "maxpool1", "part"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TWELVE)
def test_twelve_networks(name: str) -> None:
    size, feature, through, sees = TWELVE[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision_model(name)
    network = Network(model, preprocessing=Preprocessing(size=size))
    before = -1
    for layer in network.layers.values():
        channels, height, width = layer.shape
        resolved = network.resolve(f"{layer.name}:{channels - 1}")
        centre = None if height == width == 1 else (height // 2, width // 2)
        # The class token, in the row below the grid, where the answer comes from it.
        assert resolved.position == ((height, 0) if layer.tokens else centre)
        rows = height + bool(layer.tokens)
        assert network.map_shape(layer.name) == (channels, rows, width)
        before, order = network.layers.through_point(layer.name).order, before
        assert order < before, layer.name
    for target in (feature, "logits:9"):
        result = attribute(network, rand(2, 3, *size).float(), target, through)
        assert result.attribution.shape == (2, *network.map_shape(through))
        assert result.attribution.isfinite().all()
        # Random logits may be silent: ViT's begin at 0, SqueezeNet's end in a ReLU.
        assert target != feature or (result.l1 > 0).all()
        torch.testing.assert_close(result.excitation + result.inhibition, result.l1)
        field = receptive_field(network, target, through)
        outside = result.attribution.clone()
        outside[:, :, *field.slices] = 0
        assert outside.count_nonzero() == 0
        _, height, width = network.map_shape(through)
        whole = Box(top=0, left=0, height=height, width=width)
        if target == feature and sees == "part":
            assert field.height < height
            assert 0 <= field.top <= height - field.height
            assert 0 <= field.left <= width - field.width
        else:
            assert field == whole
    assert model.training
