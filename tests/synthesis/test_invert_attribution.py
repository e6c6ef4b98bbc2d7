"""Inversions of any attribution: an image's own, both sides, negative layers, passes cut short."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.atlas import CENTRE, SIZE, Call, Small, network_of
from torch import nn

from opponent import (
    Box,
    EmptyTarget,
    Network,
    SynthesisSettings,
    attribute,
    invert,
    invert_attribution,
)
from opponent.core.side import SIDES, Side

pytestmark = pytest.mark.usefixtures("one_thread")


BRISK = SynthesisSettings(steps=4, power=2.0, seed=3)


def windowed(network: Network, images: torch.Tensor, through: str = "early") -> tuple[Any, ...]:
    """S and h within the window, which for a 3 x 3 unit at 6, 5 are rows 5 to 7, columns 4 to 6."""
    result = attribute(network, images, CENTRE, through)
    assert result.window == Box(top=5, left=4, height=3, width=3)
    return result.attribution[:, :, 5:8, 4:7], result.hidden


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", SIDES)
def test_an_images_own_attribution_gives_its_inversion(
    wave_network: Network, inputs: torch.Tensor, side: Side
) -> None:
    attribution, _ = windowed(wave_network, inputs)
    ours = invert_attribution(wave_network, attribution, CENTRE, "early", side=side, settings=BRISK)
    theirs = invert(wave_network, inputs, CENTRE, "early", side=side, settings=BRISK)
    for name in ("image", "opacity", "objective", "final"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-4)
    assert (ours.side, ours.feature) == (side, theirs.feature)
    # Its passes end at the through layer, so that nobody watches the activation.
    assert ours.activation.shape == (0, 3)
    assert theirs.activation.shape == (4, 3)


@pytest.mark.parametrize("through", ["early", "stem"])
@pytest.mark.parametrize("side", SIDES)
def test_where_the_layer_is_negative_the_target_is_too(
    inputs: torch.Tensor, through: str, side: Side
) -> None:
    network = network_of(Small(nn.GELU))
    attribution, hidden = windowed(network, inputs, through)
    assert (hidden < 0).any()
    asked = {"side": side, "settings": BRISK}
    ours = invert_attribution(network, attribution, CENTRE, through, hidden=hidden, **asked)
    theirs = invert(network, inputs, CENTRE, through, **asked)
    torch.testing.assert_close(ours.image, theirs.image, atol=1e-4, rtol=1e-4)
    other = invert_attribution(network, attribution, CENTRE, through, **asked)
    assert (other.image - theirs.image).abs().max() > 1e-3


def test_without_a_sign_both_sides_are_the_target(
    wave_network: Network, inputs: torch.Tensor
) -> None:
    attribution, _ = windowed(wave_network, inputs)
    both = invert_attribution(
        wave_network, attribution, CENTRE, "early", side="both", settings=BRISK
    )
    size = invert_attribution(
        wave_network, attribution.abs(), CENTRE, "early", side="excitation", settings=BRISK
    )
    turned = invert_attribution(
        wave_network, -attribution, CENTRE, "early", side="both", settings=BRISK
    )
    for name in ("image", "opacity", "objective", "final"):
        assert torch.equal(getattr(both, name), getattr(size, name)), name
        assert torch.equal(getattr(both, name), getattr(turned, name)), name
    assert both.side is Side.BOTH
    one = invert_attribution(
        wave_network, attribution, CENTRE, "early", side="excitation", settings=BRISK
    )
    assert (one.image - both.image).abs().max() > 1e-3


def test_the_length_of_an_attribution_changes_no_image(
    wave_network: Network, inputs: torch.Tensor
) -> None:
    """Adam's steps do not depend on the objective's size, and its cosine on no length."""
    attribution, _ = windowed(wave_network, inputs)
    one, ten = (
        invert_attribution(
            wave_network, k * attribution, CENTRE, "early", side="both", settings=BRISK
        )
        for k in (1, 10)
    )
    torch.testing.assert_close(one.image, ten.image, atol=1e-3, rtol=0)
    torch.testing.assert_close(10 * one.objective, ten.objective, rtol=1e-2, atol=1e-4)


def test_an_attribution_of_another_shape_is_refused(wave_network: Network) -> None:
    for shape in ((1, 6, 12, 10), (1, 5, 3, 3), (2, 6, 3, 2)):
        message = r"has shape .*; mixed:2@6,5 through 'early' takes \(n, 6, 3, 3\)"
        with pytest.raises(ValueError, match=message):
            invert_attribution(wave_network, torch.ones(shape), CENTRE, "early", side="both")


@pytest.mark.parametrize(
    ("side", "value", "message"),
    [
        (Side.EXCITATION, -1.0, r"nothing excites mixed:2@6,5 through 'early' in image 1 of 2"),
        (Side.INHIBITION, 1.0, r"nothing inhibits mixed:2@6,5 through 'early' in image 1 of 2"),
        (Side.BOTH, 0.0, r"nothing drives mixed:2@6,5 through 'early' in image 1 of 2"),
    ],
)
def test_an_empty_side_is_refused(
    wave_network: Network, side: Side, value: float, message: str
) -> None:
    attribution = torch.full((2, 6, 3, 3), value)
    attribution[0, 0, 0] = torch.tensor([-1.0, 1.0, 1.0])
    with pytest.raises(EmptyTarget, match=message):
        invert_attribution(wave_network, attribution, CENTRE, "early", side=side)


def test_a_side_is_one_of_three(wave_network: Network) -> None:
    with pytest.raises(ValueError, match="a side is excitation, inhibition or both, not 'none'"):
        invert_attribution(wave_network, torch.ones(1, 6, 3, 3), CENTRE, "early", side="none")


class Counted(nn.ReLU):
    """A ReLU that counts its calls."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.calls += 1
        return super().forward(x)


def test_no_step_goes_beyond_the_through_layer(inputs: torch.Tensor) -> None:
    module = Small()
    module.wide = nn.Sequential(Counted(), module.wide)
    network = network_of(module)
    attribution, _ = windowed(network, inputs)

    def calls(make: Callable[..., Any], given: torch.Tensor, steps: int) -> int:
        Counted.calls = 0
        make(
            network, given, CENTRE, "early", side="excitation", settings=replace(BRISK, steps=steps)
        )
        return Counted.calls

    invert_attribution(network, attribution, CENTRE, "early", side="excitation", settings=BRISK)
    few, many = (calls(invert_attribution, attribution, steps) for steps in (2, 9))
    assert few == many
    few, many = (calls(invert, inputs, steps) for steps in (2, 9))
    assert many - few == 7


def test_through_the_pixels_there_is_nothing_to_leave_out(
    wave_network: Network, inputs: torch.Tensor
) -> None:
    result = attribute(wave_network, inputs, CENTRE, "pixels")
    # A 5 x 5 field around 6, 5.
    assert result.window == Box(top=4, left=3, height=5, width=5)
    given = {"side": "excitation", "settings": BRISK}
    ours = invert_attribution(
        wave_network, result.attribution[:, :, 4:9, 3:8], CENTRE, "pixels", hidden=result.hidden,
        **given,
    )  # fmt: skip
    theirs = invert(wave_network, inputs, CENTRE, "pixels", **given)
    torch.testing.assert_close(ours.image, theirs.image, atol=1e-4, rtol=1e-4)
    assert ours.activation.shape == (0, 3)


def test_batches_of_attributions_follow_each_other(
    wave_network: Network, inputs: torch.Tensor
) -> None:
    attribution, _ = windowed(wave_network, inputs)
    calls: list[Call] = []
    found = invert_attribution(
        wave_network,
        attribution,
        CENTRE,
        "early",
        side="both",
        settings=replace(BRISK, batch=2),
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("optimising", step, 8) for step in range(1, 9)]
    whole = invert_attribution(
        wave_network, attribution, CENTRE, "early", side="both", settings=BRISK
    )
    torch.testing.assert_close(found.image, whole.image, atol=1e-4, rtol=1e-4)
