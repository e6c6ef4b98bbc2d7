"""Ascent: the objective rises, the same bits again, the model as it was, opacity, crops."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.synthesis import QUICK, SIZE, Bright, Flat, logits_of, paint, seeded, toy

from opponent import (
    Feature,
    Network,
    Preprocessing,
    Synthesis,
    Transforms,
    accentuate,
    invert,
    visualise,
)
from opponent.core.side import SIDES, Side
from opponent.geometry.crop import CropPlan, plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.synthesis import inversion, optimise
from opponent.synthesis.optimise import ascend
from opponent.synthesis.parameterisations import PARAMETERISATIONS, Pixels

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_the_objective_rises(name: str, side: Side) -> None:
    quiet = Transforms(draws=1, uniform=0.0, gaussian=0.0, wander=0.0, smallest=1.0, largest=1.0)
    quick = replace(QUICK, parameterisation=name, transforms=quiet, steps=20)
    made = visualise(toy(), "end:2", side=side, settings=quick)
    objective = made.objective[:, 0]
    assert objective[-5:].mean() > objective[:5].mean() + 0.05
    torch.testing.assert_close(made.activation, side.sign * made.objective)
    assert side.sign * (made.final[0] - made.activation[0, 0]) > 0


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    quick = replace(QUICK, parameterisation=name, steps=4)
    first, again = (visualise(toy(), "end:1", settings=quick) for _ in range(2))
    for part in ("image", "opacity", "objective", "activation", "final"):
        assert torch.equal(getattr(first, part), getattr(again, part)), part
    other = visualise(toy(), "end:1", settings=replace(quick, seed=1))
    assert not torch.equal(first.image, other.image)


def test_opacity_is_high_where_the_gradient_acted() -> None:
    # A unit in a corner sees pixels up to 5 rows and columns away, of 20 x 16.
    quick = replace(QUICK, parameterisation="pixels", canvas=(100, 80), steps=8)
    for position, (inside, outside) in {
        (2, 2): ((slice(0, 20), slice(0, 20)), (slice(60, 100), slice(50, 80))),
        (17, 13): ((slice(80, 100), slice(60, 80)), (slice(0, 40), slice(0, 30))),
    }.items():
        feature = Feature(layer="end", unit=1, position=position)
        opacity = visualise(toy(), feature, settings=quick).opacity[0]
        assert opacity[inside].mean() > 0.3
        assert opacity[outside].max() < 0.02


def slow_opacity(acted: np.ndarray) -> np.ndarray:
    """Clipped at its 99th percentile, blurred (edges go on), scaled to its largest value."""
    clipped = np.minimum(acted, np.percentile(acted, 99))
    for axis, length in enumerate(acted.shape):
        sd, lines = 0.012 * length, np.moveaxis(clipped, axis, 0)
        blurred = np.zeros_like(lines)
        for here in range(length):
            weights = [math.exp(-(step**2) / (2 * sd**2)) for step in range(-20, 21)]
            for step, weight in zip(range(-20, 21), weights, strict=True):
                there = min(max(here + step, 0), length - 1)
                blurred[here] += weight / sum(weights) * lines[there]
        clipped = np.moveaxis(blurred, 0, axis)
    return clipped / clipped.max()


def test_opacity_equals_its_slow_twin() -> None:
    acted = torch.rand(2, 50, 90, generator=seeded()).double() ** 8
    acted[1, 10, 70] = 1e6  # one pixel alone does not make all others transparent
    found = optimise._opacity(acted)
    for number in range(2):
        expected = slow_opacity(acted[number].numpy())
        np.testing.assert_allclose(found[number], expected, atol=2e-3)
    assert found[1].mean() > 0.05


def test_where_nothing_acts_nothing_is_opaque() -> None:
    network = Network(Flat(), preprocessing=Preprocessing(size=SIZE))
    made = visualise(network, "layer:0", settings=replace(QUICK, parameterisation="pixels"))
    assert not made.opacity.any()
    assert made.image.isfinite().all()


def everything(network: Network, features: list[Feature], through: str | None = None) -> CropPlan:
    """The whole input, where a crop would do."""
    return plan_whole_image(network, features, through, "asked for")


@pytest.mark.parametrize("name", ["end:1", "end:1@0,15", "end:3@19,0", "end:2@4,9"])
def test_views_change_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = toy(), paint(tmp_path, 2)

    def all_three() -> list[Synthesis]:
        # Noise is drawn for what a view shows alone.
        quiet = replace(QUICK.transforms, uniform=0.0, gaussian=0.0)
        quick = replace(QUICK, steps=4, transforms=quiet)
        return [
            visualise(network, name, settings=quick),
            invert(network, images, name, "relu", side="excitation", settings=quick),
            accentuate(network, images, name, "relu", side="inhibition", settings=quick),
        ]

    box = plan_crop(network, [network.resolve(name)], "relu").box
    assert box is not None
    assert box.height < 20
    found = all_three()
    monkeypatch.setattr(inversion, "plan_crop", everything)
    for one, other in zip(found, all_three(), strict=True):
        assert one.feature == other.feature
        for part in ("image", "objective", "activation", "final", "opacity"):
            torch.testing.assert_close(
                getattr(one, part), getattr(other, part), atol=0.02, rtol=0.02
            )


def test_ascent_takes_any_objective() -> None:
    """The loop itself, on an objective whose answer is known: brightness."""
    network, generator = toy(), seeded()
    made = ascend(
        network,
        Pixels(1, (18, 20), generator=generator),
        Bright(),
        Feature(layer="end", unit=0),
        side=Side.EXCITATION,
        plan=everything(network, [Feature(layer="end", unit=0)], "pixels"),
        transforms=Transforms(draws=3),
        steps=10,
        rate=0.5,
        generator=generator,
    )
    # Adam's steps are as long as the rate, or shorter where the gradient fades.
    assert 3.5 < logits_of(made.image).mean() < 5.2
