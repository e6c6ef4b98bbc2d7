"""InceptionV1 and the small one that ships inside."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from opponent import Network, Preprocessing, attribute
from opponent.images.decode import load_image
from opponent.images.imageset import ImageEntry
from opponent.models.inceptionv1 import BVLC, FULL, SMALL, InceptionV1, Variant
from opponent.models.registry import imagenet_classes, load


def test_the_embedded_networks_classes_are_imagenets() -> None:
    network, lines = load(), imagenet_classes()
    assert len({line.split()[0] for line in lines}) == 1000
    assert network.classes is not None
    assert list(network.classes) == [line.partition(" ")[2].strip() for line in lines]
    assert (network.class_name(0), network.class_name(954)) == ("tench", "banana")
    assert network.name == "inceptionv1-small"
    assert network.layer("logits").shape == (1000, 1, 1)
    assert network.preprocessing.size == (112, 112)
    # It was trained without biases in the mixed blocks, and has none.
    assert not [x for x in network.module.state_dict() if "mixed" in x and x.endswith("bias")]


def test_the_embedded_network_tells_photographs_apart_and_is_complete(photographs: Path) -> None:
    network = load()
    files = sorted(photographs.glob("*.JPEG"))
    labels = torch.arange(len(files))[1::5]
    entries = [ImageEntry(id=files[k].name, path=files[k]) for k in labels.tolist()]
    pixels = np.stack([load_image(entry, network.preprocessing.fit) for entry in entries])

    def accuracy(inputs: torch.Tensor) -> tuple[float, float]:
        top = network.run(inputs, "logits").target[:, :, 0, 0].topk(5).indices
        hit = (top == labels[:, None]).double()
        return hit[:, 0].mean().item(), hit.sum(1).mean().item()

    inputs = network.inputs(pixels)
    first, five = accuracy(inputs)
    # It has seen these in training. By chance, 0.1 % and 0.5 %.
    assert first > 0.1
    assert five > 0.2
    # No other way to read them does as well: blue first, upside down, or without mean and scale.
    blue, down = (np.ascontiguousarray(x) for x in (pixels[..., ::-1], pixels[:, ::-1]))
    raw = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    for other in (network.inputs(blue), network.inputs(down), raw):
        others = accuracy(other)
        assert first > others[0]
        assert five > others[1]
    result = attribute(network, inputs[:20], "mixed3b:189", "mixed3a")
    total = result.excitation - result.inhibition
    torch.testing.assert_close(total, result.activation, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", [FULL, Variant(width=0.5)])
@pytest.mark.parametrize("size", [(64, 64), (63, 90)])
def test_inceptionv1_pads_as_tensorflow_does(variant: Any, size: tuple[int, int]) -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1(variant), preprocessing=Preprocessing(size=size))
    halving = {"conv2d0", "maxpool0", "maxpool1", "maxpool4", "maxpool10"}
    height, width = size
    for name, layer in network.layers.items():
        if name in halving:
            height, width = height // 2, width // 2
        if name in {"mixed3b", "mixed4e", "mixed5b", *halving}:
            assert layer.shape[1:] == (height, width), name
    full = {"conv2d2": 192, "mixed3a": 256, "mixed3b": 480, "mixed4a": 508, "mixed5b": 1024}
    half = {"conv2d2": 96, "mixed3a": 128, "mixed3b": 240, "mixed4a": 256, "mixed5b": 512}
    wanted = full if variant is FULL else half
    assert {name: network.layer(name).shape[0] for name in wanted} == wanted


@pytest.mark.parametrize("variant", [BVLC, SMALL])
def test_caffes_padding_is_even_and_its_pools_round_up(variant: Variant) -> None:
    """Against Caffe's rule: ceil((n - 3) / 2) + 1, and 7 x 7 with 3 on every side."""
    with torch.random.fork_rng(devices=[]):
        network = Network(InceptionV1(variant), preprocessing=Preprocessing(size=(97, 130)))
    height, width = 97, 130
    for name in ("conv2d0", "maxpool0", "maxpool1", "maxpool4", "maxpool10"):
        if name == "conv2d0":
            height, width = ((n + 2 * 3 - 7) // 2 + 1 for n in (height, width))
        else:
            height, width = (-(-(n - 3) // 2) + 1 for n in (height, width))
        assert network.layer(name).shape[1:] == (height, width), name
    shapes = [network.layer(name).shape[0] for name in ("mixed3b", "mixed4a", "mixed5a", "logits")]
    assert shapes == ([480, 512, 832, 1000] if variant is BVLC else [240, 256, 416, 1000])


def test_caffes_normalisation_is_over_five_channels() -> None:
    with torch.random.fork_rng(devices=[]):
        norm = InceptionV1(BVLC).localresponsenorm0
    x = torch.rand(1, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    # y = x / (1 + alpha / 5 * sum over five channels of x^2) ^ 0.75
    sums = F.pad(x**2, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    torch.testing.assert_close(norm(x), x / (1 + 1e-4 / 5 * sums) ** 0.75)
