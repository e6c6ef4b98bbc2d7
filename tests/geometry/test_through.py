"""Which layers messages name: those that everything goes through, and no branch."""

from collections.abc import Callable, Iterator

import pytest
import torch
from tests.support.chains import Residual, chain
from torch import nn

from opponent import Network, Preprocessing, attribute, load, scan_images
from opponent.geometry.bottlenecks import through_layers
from opponent.geometry.through import bottlenecks_before, branch_note, check_through
from opponent.paper.completeness import completeness
from opponent.paper.layer_pairs import parse_pair

SMALL = Preprocessing(size=(7, 10))


@pytest.fixture(autouse=True)
def _random_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def embedded() -> Network:
    return load()


def test_bottlenecks_are_those_of_all_through_layers(embedded: Network) -> None:
    for target in ("logits", "mixed3b", "mixed3a", "conv2d1", "conv2d0"):
        whole = [x.layer for x in through_layers(embedded, target) if x.bottleneck]
        assert ["pixels", *bottlenecks_before(embedded, target)] == whole
    assert bottlenecks_before(embedded, "mixed3b") == ("conv2d0", "conv2d1", "conv2d2", "mixed3a")
    assert bottlenecks_before(embedded, "conv2d0") == ()


@pytest.mark.parametrize(
    ("target", "through", "message"),
    [
        (
            "mixed3b",
            "mixed3a_3x3",
            "inceptionv1-small has no layer 'mixed3a_3x3'; did you mean mixed3a? everything goes "
            "through these on its way to mixed3b: conv2d0, conv2d1, conv2d2, mixed3a",
        ),
        (
            "conv2d1",
            "xyzzy",
            "inceptionv1-small has no layer 'xyzzy'; everything goes through these on its way to "
            "conv2d1: conv2d0",
        ),
        (
            "conv2d1",
            "conv2d1",
            "through 'conv2d1' does not lie before the target 'conv2d1'; everything goes through "
            "these on its way to conv2d1: conv2d0",
        ),
        (
            "conv2d1",
            "conv2d0#3",
            "'conv2d0#3': conv2d0 is called 1 times in a pass; everything goes through these on "
            "its way to conv2d1: conv2d0",
        ),
        (
            "conv2d0",
            "logits",
            "through 'logits' does not lie before the target 'conv2d0'; everything goes through "
            "the pixels alone before conv2d0",
        ),
    ],
)
def test_a_through_layer_that_does_not_fit_names_bottlenecks_alone(
    embedded: Network, target: str, through: str, message: str
) -> None:
    branches = {x.layer for x in through_layers(embedded, target) if not x.bottleneck}
    images = torch.zeros(1, 3, 112, 112)
    calls: list[Callable[[], object]] = [
        lambda: check_through(embedded, target, through),
        lambda: attribute(embedded, images, f"{target}:1", through),
        lambda: scan_images(embedded, "photos", f"{target}:1", through, out="never written"),
        lambda: completeness(
            embedded, "photos", out="never written", features=[f"{target}:1"], throughs=[through]
        ),
        lambda: parse_pair(embedded, f"{target}:{through}"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="everything goes through") as caught:
            call()
        assert str(caught.value) == message
        assert not any(branch in str(caught.value) for branch in branches)


def test_an_unknown_target_is_named_as_ever(embedded: Network) -> None:
    with pytest.raises(ValueError, match="no layer 'mixed3'; did you mean mixed3"):
        check_through(embedded, "mixed3", "conv2d0")


def test_of_many_bottlenecks_the_nearest_are_named() -> None:
    layers = [part for _ in range(9) for part in (nn.Conv2d(3, 3, 1), nn.ReLU())]
    network = Network(nn.Sequential(*layers, nn.Conv2d(3, 2, 1)), preprocessing=SMALL)
    with pytest.raises(ValueError, match=r"to 18: …, 3, 5, 7, 9, 11, 13, 15, 17$"):
        check_through(network, "18", "18")
    with pytest.raises(ValueError, match=r"to 16: 1, 3, 5, 7, 9, 11, 13, 15$"):
        check_through(network, "16", "16")


def test_completeness_names_bottlenecks_alone() -> None:
    network = Network(chain().eval(), preprocessing=SMALL)
    with pytest.raises(ValueError, match=r"branches; everything goes through pixels, relu1, relu2"):
        completeness(network, "photos", out="never written", features=1, throughs=["conv2"])


def test_a_branch_is_said_to_be_one(embedded: Network) -> None:
    assert branch_note(embedded, "mixed3b", "mixed3a") is None
    assert branch_note(embedded, "mixed3b", "pixels") is None
    # Whatever all goes through counts, not only what S is usually taken through.
    assert branch_note(embedded, "mixed3b", "conv2d0_pre_relu_conv") is None
    assert branch_note(embedded, "mixed3b", "mixed3a_3x3_bottleneck") == (
        "mixed3a_3x3_bottleneck is one branch of several: what reaches mixed3b around it is in no "
        "attribution through it, by any rule; everything goes through these on its way to mixed3b: "
        "conv2d0, conv2d1, conv2d2, mixed3a"
    )
    residual = Network(Residual().eval(), preprocessing=Preprocessing(size=(7, 7)))
    assert branch_note(residual, "logits", "relu") == (
        "relu is one branch of several: what reaches logits around it is in no attribution through "
        "it, by any rule; everything goes through the pixels alone before logits"
    )
