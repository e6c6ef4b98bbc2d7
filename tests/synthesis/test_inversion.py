"""Inversions, accentuations and visualisations: targets, sides, batches, photographs."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.synthesis import QUICK, SIZE, Call, Recorder, Toy, paint, seeded, toy
from torch import nn
from torch.nn import functional as F

import opponent
from opponent import (
    Columns,
    EmptyTarget,
    Feature,
    ImageSet,
    Network,
    Preprocessing,
    Synthesis,
    SynthesisSettings,
    Transforms,
    accentuate,
    attribute,
    invert,
    mean_activation,
    open_images,
    visualise,
)
from opponent.attribution.attribute import attribute_each
from opponent.core.progress import silent
from opponent.core.side import SIDES, Side
from opponent.images.decode import load_image
from opponent.images.fit import Fit
from opponent.selection import tense
from opponent.synthesis import objectives
from opponent.synthesis.objectives import DotCosine, dot_cosine
from opponent.synthesis.transforms import resize

pytestmark = pytest.mark.usefixtures("one_thread")


def test_visualisations_go_both_ways() -> None:
    up, down = (visualise(toy(), "end:1", side=side, settings=QUICK) for side in SIDES)
    assert up.final > down.final
    assert (up.side, down.side) == SIDES
    assert up.feature == Feature(layer="end", unit=1, position=(10, 8))


def test_what_comes_back_is_whole() -> None:
    calls: list[Call] = []
    network = toy()
    made = visualise(network, "end:1", settings=QUICK, progress=lambda *call: calls.append(call))
    assert calls == [("optimising", step, 12) for step in range(1, 13)]
    assert made.image.shape == (1, 3, 24, 22)
    assert made.opacity.shape == (1, 24, 22)
    assert made.objective.shape == made.activation.shape == (12, 1)
    for values in (made.image, made.opacity):
        assert not values.requires_grad
        assert values.min() >= 0
        assert values.max() <= 1
    assert made.opacity.max() == 1
    # The feature's activation in the image itself.
    inputs = network.preprocessing.normalise(resize(made.image, SIZE))
    maps = network.run(inputs, "end").target
    torch.testing.assert_close(made.final, maps[:, 1, 10, 8])
    rgba = made.rgba()
    assert rgba.shape == (1, 24, 22, 4)
    np.testing.assert_allclose(rgba[0, ..., :3] / 255, made.image[0].permute(1, 2, 0), atol=0.003)
    np.testing.assert_allclose(rgba[0, ..., 3] / 255, made.opacity[0], atol=0.003)


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "gradients": [parameter.grad for parameter in module.parameters()],
        "required": [parameter.requires_grad for parameter in module.parameters()],
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_comes_back_as_it_was(training: bool, frozen: bool) -> None:
    network = toy(norm=True)
    network.module.train(training).requires_grad_(not frozen)
    before = snapshot(network.module)
    images = torch.rand(2, 3, *SIZE, generator=seeded())
    visualise(network, "end:1", settings=QUICK)
    invert(network, images, "end:1", "relu", side="excitation", settings=QUICK)
    after = snapshot(network.module)
    assert before.keys() == after.keys()
    for name, value in before["state"].items():
        assert torch.equal(value, after["state"][name]), name
    assert after["modes"] == before["modes"]
    assert after["required"] == before["required"]
    assert after["gradients"] == [None] * len(before["gradients"])


def test_training_mode_changes_nothing() -> None:
    results = []
    for training in (True, False):
        network = toy(norm=True)
        network.module.train(training)
        results.append(visualise(network, "end:1", settings=QUICK))
    assert torch.equal(results[0].image, results[1].image)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_changes_nothing(mode: Callable[[], Any], tmp_path: Path) -> None:
    photo = paint(tmp_path, 1)
    images = torch.rand(1, 3, *SIZE, generator=seeded())

    network = toy()

    def all_three() -> list[Synthesis]:
        return [
            visualise(network, "end:1", settings=QUICK),
            invert(network, images.clone(), "end:1", "relu", side="inhibition", settings=QUICK),
            accentuate(network, photo, "end:1", "relu", side="excitation", settings=QUICK),
        ]

    expected = all_three()
    with mode():
        found = all_three()
        assert not torch.is_grad_enabled()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.image, other.image)


def test_in_place_relus_change_nothing() -> None:
    images = torch.rand(1, 3, *SIZE, generator=seeded())
    made = [
        invert(
            toy(activation=lambda inplace=inplace: nn.ReLU(inplace=inplace)),
            images,
            "end:1",
            "one",
            side="excitation",
            settings=QUICK,
        )
        for inplace in (True, False)
    ]
    assert torch.equal(made[0].image, made[1].image)


def test_a_batch_is_as_good_as_one_by_one(tmp_path: Path) -> None:
    images = paint(tmp_path, 3)
    few = replace(QUICK, steps=5)
    calls: list[Call] = []
    for do in (invert, accentuate):
        batch, singles = (
            do(
                toy(),
                images,
                "end:1",
                "relu",
                side="excitation",
                settings=replace(few, batch=size),
                progress=lambda *call: calls.append(call),
            )
            for size in (3, 1)
        )
        assert batch.image.shape == (3, 3, 24, 22)
        for part in ("image", "objective", "activation", "final", "opacity"):
            torch.testing.assert_close(
                getattr(batch, part), getattr(singles, part), atol=0.02, rtol=0.02
            )
        # Uneven batches, and each image against itself alone.
        uneven = do(
            toy(), images, "end:1", "relu", side="excitation", settings=replace(few, batch=2)
        )
        torch.testing.assert_close(uneven.image, singles.image, atol=0.02, rtol=0)
        alone = do(
            toy(),
            [images[1].path],
            "end:1",
            "relu",
            side="excitation",
            settings=replace(few, batch=2),
        )
        torch.testing.assert_close(alone.image[0], singles.image[1], atol=0.02, rtol=0)
    one_batch = [("optimising", step, 5) for step in range(1, 6)]
    assert calls == (one_batch + [("optimising", step, 15) for step in range(1, 16)]) * 2


def targets(
    network: Network, images: Any, feature: str, through: str, side: Side
) -> tuple[torch.Tensor, Synthesis]:
    """What an inversion's objective is given as its target, one an image; and the result."""
    recorder = Recorder(DotCosine())
    made = invert(
        network, images, feature, through, side=side,
        settings=replace(QUICK, steps=1, objective=recorder),
    )  # fmt: skip
    [views] = recorder.seen
    assert views.target is not None
    return views.target, made


@pytest.mark.parametrize("side", SIDES)
def test_the_target_is_one_side_of_s_within_its_window(side: Side) -> None:
    network = toy()
    images = torch.rand(3, 3, *SIZE, generator=seeded())
    target, made = targets(network, images, "end:3@4,5", "relu", side)
    [result] = attribute_each(network, images, [Feature.parse("end:3@4,5")], "relu")
    window = result.window
    assert (window.top, window.left) == (3, 4)
    assert (window.height, window.width) == (3, 3)
    expected = (side.sign * result.attribution[:, :, 3:6, 4:7]).clamp(min=0)
    torch.testing.assert_close(target, expected)
    assert made.feature == Feature.parse("end:3@4,5")


def test_of_both_sides_the_target_is_the_size_of_s() -> None:
    network = toy()
    images = torch.rand(3, 3, *SIZE, generator=seeded())
    target, made = targets(network, images, "end:3@4,5", "relu", Side.BOTH)
    [result] = attribute_each(network, images, [Feature.parse("end:3@4,5")], "relu")
    torch.testing.assert_close(target, result.attribution[:, :, 3:6, 4:7].abs())
    assert (result.attribution < 0).any()
    assert made.side is Side.BOTH


def test_what_is_optimised_is_equation_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective gets the hidden layer of each view beside the target of its image."""
    given: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def spy(hidden: torch.Tensor, target: torch.Tensor, power: float) -> torch.Tensor:
        given.append((hidden.detach(), target, power))
        return dot_cosine(hidden, target, power)

    monkeypatch.setattr(objectives, "dot_cosine", spy)
    network, images = toy(), torch.rand(2, 3, *SIZE, generator=seeded())
    quick = replace(QUICK, steps=3, power=2.0, transforms=Transforms(draws=3))
    made = invert(network, images, "end:3", "relu", side="inhibition", settings=quick)
    [result] = attribute_each(network, images, [network.resolve("end:3")], "relu")
    part = (-result.window_attribution).clamp(min=0)
    assert len(given) == 3
    for step, (hidden, target, power) in enumerate(given):
        assert power == 2
        assert hidden.shape == target.shape == (6, 6, 3, 3)
        for i in range(6):
            torch.testing.assert_close(target[i], part[i % 2])
        values = dot_cosine(hidden, target, 2.0)
        torch.testing.assert_close(
            made.objective[step], torch.stack([values[::2].mean(), values[1::2].mean()])
        )


class Gelu(nn.Module):
    """Three channels that are the input's, a GELU, and one unit with weights 1, -2 and -1."""

    def __init__(self) -> None:
        super().__init__()
        self.gelu = nn.GELU()
        self.out = nn.utils.skip_init(nn.Conv2d, 3, 1, 1, bias=False)
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([1.0, -2.0, -1.0]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gelu(x))


def test_of_a_negative_layer_growing_drive_is_more_negative() -> None:
    prepared = Preprocessing(size=(1, 1), mean=(0.5,) * 3, std=(0.25,) * 3)
    network = Network(Gelu(), preprocessing=prepared)
    x = torch.tensor([0.4, -0.6, 0.8]).view(1, 3, 1, 1)
    h = F.gelu(x).flatten()
    assert (h > 0).tolist() == [True, False, True]
    # S is 1 h0, -2 h1, -1 h2: the second is excitation, though the layer is negative there.
    excitatory = targets(network, x, "out:0", "gelu", Side.EXCITATION)[0].flatten()
    torch.testing.assert_close(excitatory, torch.stack([h[0], 2 * h[1], h[0] * 0]))
    inhibitory = targets(network, x, "out:0", "gelu", Side.INHIBITION)[0].flatten()
    torch.testing.assert_close(inhibitory, torch.stack([h[0] * 0, h[0] * 0, h[2]]))
    both = targets(network, x, "out:0", "gelu", Side.BOTH)[0].flatten()
    torch.testing.assert_close(both, torch.stack([h[0], 2 * h[1], h[2]]))
    quick = SynthesisSettings(steps=60, canvas=(6, 6), transforms=Transforms(draws=1))
    quick = replace(quick, parameterisation="pixels")
    up, down = (invert(network, x, "out:0", "gelu", side=side, settings=quick) for side in SIDES)
    own = network.run(x, "out").target.flatten()
    assert up.final > own > down.final
    # The excitatory image is light in the first channel and dark in the second.
    means = up.image.mean((0, 2, 3))
    assert means[0] > 0.55
    assert means[1] < 0.45


@pytest.mark.parametrize(
    ("side", "verb"), [("excitation", "excites"), ("inhibition", "inhibits"), ("both", "drives")]
)
def test_an_image_without_that_side_is_named(side: str, verb: str) -> None:
    network = toy()
    images = torch.rand(4, 3, *SIZE, generator=seeded())
    # A layer that is dead for an image has no S at all.
    with torch.no_grad():
        network.module.get_parameter("one.bias").fill_(-10)
        network.module.get_parameter("one.weight").abs_()
    images[1], images[3] = -5, -5
    images[[0, 2]] += 5
    with pytest.raises(
        EmptyTarget, match=rf"nothing {verb} end:1@10,8 through 'relu' in image 1, 3 of 4"
    ) as error:
        invert(network, images, "end:1", "relu", side=side, settings=QUICK)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("side", ["", "up", "+1", "Excitation"])
def test_a_side_is_one_of_three(side: str, tmp_path: Path) -> None:
    images = paint(tmp_path, 1)
    message = rf"a side is excitation, inhibition or both, not '{re.escape(side)}'"
    with pytest.raises(ValueError, match=message):
        visualise(toy(), "end:1", side=side, settings=QUICK)
    for do in (invert, accentuate):
        with pytest.raises(ValueError, match=message):
            do(toy(), images, "end:1", "relu", side=side, settings=QUICK)


def test_a_visualisation_takes_one_side() -> None:
    for side in (Side.BOTH, "both"):
        with pytest.raises(ValueError, match="give one side here: excitation or inhibition"):
            visualise(toy(), "end:1", side=side, settings=QUICK)


def test_an_accentuation_starts_as_the_photograph(tmp_path: Path) -> None:
    # Taller than the canvas' shape, so that its middle is what the network sees.
    images = paint(tmp_path, 2, size=(61, 33))
    still = replace(QUICK, steps=1, rate=1e-9)
    made = accentuate(toy(), images, "end:1", "relu", side="excitation", settings=still)
    for number, entry in enumerate(images):
        photo = load_image(entry, Fit(size=(24, 22))).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(made.image[number], photo, atol=1 / 255)


def test_an_accentuation_sees_what_the_network_sees(tmp_path: Path) -> None:
    images = paint(tmp_path, 1, size=(90, 120))
    prepared = Preprocessing(size=(20, 16), resize=30)
    network = Network(Toy(), preprocessing=prepared)
    still = replace(QUICK, canvas=(40, 32), steps=1, rate=1e-9)
    made = accentuate(network, images, "end:1", "relu", side="excitation", settings=still)
    # The same part of the photograph: 20 of 30, and 16 of 40.
    expected = load_image(images[0], Fit(size=(40, 32), resize=60)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(made.image[0], expected, atol=1 / 255)
    inputs = network.load_inputs(images)[0]
    back = network.preprocessing.normalise(resize(made.image, (20, 16)))
    assert (back - inputs).abs().mean() < 0.1


def test_accentuations_go_both_ways(tmp_path: Path) -> None:
    images, network = paint(tmp_path, 3), toy()
    longer = replace(QUICK, steps=30)
    own = network.run(network.load_inputs(images)[0], "end").target[:, 1, 10, 8]
    up, down = (
        accentuate(network, images, "end:1", "relu", side=side, settings=longer) for side in SIDES
    )
    assert (up.final > own).all()
    assert (down.final < own).all()
    for made in (up, down):
        assert (made.objective[-5:].mean(0) > made.objective[:5].mean(0)).all()


@pytest.fixture(scope="module")
def embedded() -> Network:
    """The embedded network on a smaller canvas."""
    network = opponent.load()
    return network.with_preprocessing(replace(network.preprocessing, size=(96, 96)))


@pytest.fixture(scope="module")
def tense_images(embedded: Network) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of some units the three tensest of a hundred crops of photographs, and the activations."""
    pytest.importorskip("skimage")
    crops = open_images("photos", size=embedded.preprocessing.size)[::20]
    inputs = embedded.load_inputs(ImageSet(source="crops", entries=crops))[0]
    units = [embedded.resolve(f"mixed3b:{unit}") for unit in range(5, 240, 47)]
    found = {}
    for result in attribute_each(embedded, inputs, units, "mixed3a"):
        columns = Columns(
            images=tuple(entry.id for entry in crops),
            **{
                name: getattr(result, name).numpy()
                for name in ("activation", "excitation", "inhibition", "l1", "l2")
            },
            excitation_map=result.excitation_map.numpy(),
            inhibition_map=result.inhibition_map.numpy(),
        )
        if chosen := tense(columns, 3).tolist():
            found[result.feature.label] = inputs[chosen], result.activation[chosen]
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("side", SIDES)
def test_inversions_of_tense_images_show_what_they_should(
    embedded: Network, tense_images: dict[str, tuple[torch.Tensor, torch.Tensor]], side: Side
) -> None:
    """Not each in so few steps, but most; of a wrong side few would, of noise about half."""
    enough = SynthesisSettings(steps=24, canvas=(104, 104), transforms=Transforms(draws=1))
    moved = []
    for feature, (images, own) in tense_images.items():
        made = invert(embedded, images, feature, "mixed3a", side=side, settings=enough)
        moved += (side.sign * (made.final - own) > 0).tolist()
        assert (made.objective[-5:].mean(0) > made.objective[:5].mean(0)).all()
    assert sum(moved) >= 0.8 * len(moved)


def test_photographs_are_known_by_their_ids_and_equal_their_tensor(tmp_path: Path) -> None:
    network, photos = toy(), paint(tmp_path, 3)
    inputs, ids = network.load_inputs(photos)
    assert ids == ("0.png", "1.png", "2.png")
    quick = replace(QUICK, steps=4, batch=2)
    given = {"side": "excitation", "settings": quick}
    by_file, by_tensor, by_folder = (
        invert(network, x, "end:1", "relu", **given) for x in (photos, inputs, tmp_path)
    )
    for part in ("image", "opacity", "objective", "activation", "final"):
        assert torch.equal(getattr(by_file, part), getattr(by_tensor, part)), part
        assert torch.equal(getattr(by_file, part), getattr(by_folder, part)), part
    assert by_file.images == by_folder.images == ids
    assert by_tensor.images is None
    assert accentuate(network, photos, "end:1", "relu", **given).images == ids
    assert visualise(network, "end:1", settings=quick).images is None
    assert len(by_file) == 3


@pytest.mark.parametrize("do", [invert, accentuate])
def test_the_mean_that_s_starts_from_is_taken_over_the_images(
    do: Callable[..., Synthesis], tmp_path: Path
) -> None:
    network, photos = toy(), paint(tmp_path, 3)
    mean = mean_activation(network, photos, "relu")
    given = {"side": "excitation", "settings": replace(QUICK, steps=2), "rule": "integrated-mean"}
    own = do(network, photos, "end:1", "relu", **given)
    handed = do(network, photos, "end:1", "relu", **given, baseline=mean)
    other = do(network, photos, "end:1", "relu", **given, baseline=torch.zeros_like(mean))
    torch.testing.assert_close(own.image, handed.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(own.objective, handed.objective)
    assert (own.objective - other.objective).abs().max() > 1e-3
    with pytest.raises(ValueError, match="starts from the mean over images, and there is one"):
        do(network, [photos[0].path], "end:1", "relu", **given)


def test_from_a_mean_the_target_follows_what_s_weighs() -> None:
    """Where h lies under its mean, growing drive is less of the layer."""
    network, images = toy(), torch.rand(3, 3, *SIZE, generator=seeded())
    recorder = Recorder(DotCosine())
    invert(
        network, images, "end:3", "relu", side="excitation", rule="integrated-mean/8",
        settings=replace(QUICK, steps=1, objective=recorder),
    )  # fmt: skip
    result = attribute(network, images, "end:3", "relu", rule="integrated-mean/8")
    assert (result.change < 0).any()
    part = result.window_attribution.clamp(min=0)
    [views] = recorder.seen
    assert views.target is not None
    torch.testing.assert_close(views.target, result.change.sign() * part)


def test_progress_is_shown_by_none_but_the_callback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, a display appears; `silent` shows nothing, not even of S."""
    minutes = count(step=100)  # between any two looks at the clock
    clock = SimpleNamespace(monotonic=lambda: float(next(minutes)))
    monkeypatch.setattr("opponent.core.progress.time", clock)
    network, photos, quick = toy(), paint(tmp_path, 2), replace(QUICK, steps=2)
    given = {"side": "excitation", "settings": quick}
    for progress in (silent, None):
        invert(network, photos, "end:1", "relu", **given, progress=progress)
        accentuate(network, photos, "end:1", "relu", **given, progress=progress)
        visualise(network, "end:1", settings=quick, progress=progress)
        printed = capsys.readouterr()
        assert not printed.out
        lines = printed.err.splitlines()
        assert (len(lines) > 0) == (progress is None)
        assert all(line.startswith("optimising: ") for line in lines)
