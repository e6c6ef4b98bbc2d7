"""An objective and a parameterisation of the user's own, in every synthesis and in the cache."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.synthesis import (
    HERE,
    QUICK,
    SIZE,
    Bright,
    Greys,
    Recorder,
    logits_of,
    paint,
    seeded,
    toy,
)

from opponent import (
    Activation,
    Box,
    DotCosine,
    Network,
    Objective,
    Run,
    Synthesis,
    SynthesisSettings,
    Transforms,
    accentuate,
    invert,
    scan_images,
    visualise,
)
from opponent.core.side import Side
from opponent.synthesis.cache import CachedImage, synthesise
from opponent.synthesis.inversion import invert_attribution
from opponent.synthesis.parameterisations import (
    Parameterisation,
    Pixels,
    parameterisation_label,
    parse_parameterisation,
)

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = Transforms(draws=1, uniform=0.0, gaussian=0.0)


def inputs(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=seeded())


def brightness(settings: SynthesisSettings, make: Callable[[SynthesisSettings], Any]) -> float:
    return float(logits_of(make(settings).image).mean())


def test_an_own_objective_is_what_an_inversion_climbs(tmp_path: Path) -> None:
    network, photos = toy(), paint(tmp_path, 2)
    quick = replace(QUICK, transforms=QUIET, steps=8, parameterisation="pixels")
    for make in (
        lambda settings: invert(
            network, inputs(), "end:1", "relu", side="excitation", settings=settings
        ),
        lambda settings: accentuate(
            network, photos, "end:1", "relu", side="excitation", settings=settings
        ),
        lambda settings: visualise(network, "end:1", settings=settings),
    ):
        plain = brightness(quick, make)
        light = brightness(replace(quick, objective=Bright()), make)
        dark = brightness(replace(quick, objective=Bright(-1.0)), make)
        named = brightness(replace(quick, objective=f"{HERE}:Bright"), make)
        assert dark < plain < light == named


def test_an_objective_sees_views_hidden_layer_and_target() -> None:
    network, quick = toy(), replace(QUICK, steps=2, transforms=Transforms(draws=3))
    recorder = Recorder(DotCosine())
    made = invert(
        network, inputs(), "end:3@4,5", "relu", side="excitation",
        settings=replace(quick, objective=recorder),
    )  # fmt: skip
    assert len(recorder.seen) == 2
    for step, views in enumerate(recorder.seen):
        # Three boxes of two images; a 3 x 3 window of six channels; a 7 x 7 field of pixels.
        assert views.images.shape == (6, 3, 7, 7)
        assert views.hidden.shape == (6, 6, 3, 3)
        assert views.target is not None
        assert views.target.shape == (6, 6, 3, 3)
        assert views.activation is None
        values = DotCosine().values(views).detach()
        torch.testing.assert_close(made.objective[step], values.view(3, 2).mean(0))
    recorder = Recorder(Activation())
    made = visualise(network, "end:3@4,5", settings=replace(quick, objective=recorder))
    for step, views in enumerate(recorder.seen):
        assert views.target is None
        assert views.activation is not None
        # Without a through layer, it is the feature's own.
        assert views.hidden.shape[:2] == (3, 4)
        torch.testing.assert_close(made.objective[step], views.activation.detach().mean()[None])
    torch.testing.assert_close(made.objective, made.activation)


def test_a_sum_of_objectives_is_climbed() -> None:
    network, photos = toy(), inputs()

    def made(objective: Objective | None, parameterisation: str) -> Synthesis:
        quick = replace(QUICK, transforms=QUIET, parameterisation=parameterisation)
        return invert(
            network, photos, "end:1", "relu", side="inhibition",
            settings=replace(quick, objective=objective),
        )  # fmt: skip

    plain = made(None, "phases")
    nearly = made(DotCosine() + 1e-9 * Bright(), "phases")
    torch.testing.assert_close(nearly.image, plain.image, atol=1e-3, rtol=0)
    torch.testing.assert_close(nearly.objective, plain.objective, atol=1e-3, rtol=1e-3)
    plain, lighter = made(None, "pixels"), made(DotCosine() + 100 * Bright(), "pixels")
    assert (lighter.image.mean((1, 2, 3)) > plain.image.mean((1, 2, 3)) + 0.01).all()


def test_an_objective_that_does_not_serve_is_told() -> None:
    with pytest.raises(ValueError, match="needs a target: it serves inversions"):
        visualise(toy(), "end:1", settings=replace(QUICK, objective=DotCosine()))
    with pytest.raises(ValueError, match="activation serves feature visualisations"):
        invert(
            toy(), inputs(), "end:1", "relu", side="excitation",
            settings=replace(QUICK, objective=Activation()),
        )  # fmt: skip


def test_an_own_parameterisation_is_optimised() -> None:
    network = toy()
    window = Box(top=3, left=2, height=5, width=6)
    start = Greys(2, (12, 13), generator=seeded())
    assert isinstance(start, Parameterisation)
    torch.testing.assert_close(start.images(window), start.images()[:, :, *window.slices])
    for given in (Greys, f"{HERE}:Greys"):
        quick = replace(QUICK, parameterisation=given)
        results = [
            visualise(network, "end:1", settings=quick),
            invert(network, inputs(), "end:1", "relu", side="both", settings=quick),
            invert_attribution(
                network, torch.rand(2, 6, 3, 3, generator=seeded()), "end:1", "relu", side="both",
                settings=quick,
            ),
        ]  # fmt: skip
        for result in results:
            assert result.image.shape[1:] == (3, 24, 22)
            assert torch.equal(result.image[:, 0], result.image[:, 1])
            assert torch.equal(result.image[:, 0], result.image[:, 2])
            assert result.image.std() > 0.01
            assert (result.objective[-3:].mean(0) > result.objective[:3].mean(0)).all()


def test_an_accentuation_starts_from_the_photograph_whatever_the_parameterisation(
    tmp_path: Path,
) -> None:
    photos = paint(tmp_path, 1)
    grey, plain = (
        accentuate(
            toy(), photos, "end:1", "relu", side="excitation",
            settings=replace(QUICK, parameterisation=given),
        )
        for given in (Greys, "phases")
    )  # fmt: skip
    assert torch.equal(grey.image, plain.image)


class Labelled(Greys):
    label = "greys of mine"


def test_labels_of_parameterisations() -> None:
    assert parameterisation_label("phases") == "phases"
    assert parameterisation_label(Pixels) == "pixels"
    # By name and as an object it is the same.
    assert parameterisation_label(Greys) == "tests.support.synthesis.Greys"
    assert parameterisation_label(f"{HERE}:Greys") == "tests.support.synthesis.Greys"
    assert parameterisation_label(Labelled) == "greys of mine"
    for nameless in (partial(Greys, device="cpu"), lambda *given, **named: Greys(*given, **named)):
        with pytest.raises(ValueError, match="has no name of its own: give it a `label`"):
            parameterisation_label(nameless)
    named = partial(Greys, device="cpu")
    named.label = "greys here"  # type: ignore[attr-defined]
    assert parameterisation_label(named) == "greys here"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phase", r"no parameterisation 'phase'; there are phases, fourier, pixels"),
        (f"{HERE}:SIZE", r":SIZE' cannot be called with a number and a size"),
        (f"{HERE}:Absent", r"has no attribute 'Absent'"),
    ],
)
def test_what_is_no_parameterisation_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisSettings(parameterisation=name)
    with pytest.raises(ValueError, match=message):
        parse_parameterisation(name)


def test_settings_describe_what_is_the_users_own() -> None:
    plain = SynthesisSettings().describe()
    assert "objective" not in plain
    own = SynthesisSettings(objective=2 * Bright(), parameterisation=Greys).describe()
    assert own["objective"] == "2 * (bright 1)"
    assert own["parameterisation"] == "tests.support.synthesis.Greys"
    assert {key for key in plain if plain[key] != own[key]} == {"parameterisation"}
    assert json.loads(json.dumps(own)) == json.loads(json.dumps(own))


# The cache


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "in").mkdir()
    return scan_images(toy(), paint(tmp_path / "in", 2), "end:1", "relu", out=tmp_path / "run")


def cached(run: Run, network: Network, image: str | None, **changed: Any) -> CachedImage:
    kind: Any = "visualisation" if image is None else "inversion"
    settings = replace(QUICK, steps=2, **changed)
    return synthesise(run, network, run.features[0], image, kind, Side.EXCITATION, settings)


@pytest.mark.parametrize("image", ["1.png", None])
def test_the_cache_keeps_what_is_the_users_own_apart_by_label(run: Run, image: str | None) -> None:
    network = toy()
    usual: Objective = Activation() if image is None else DotCosine()
    given: list[dict[str, Any]] = [
        {},
        {"objective": Bright()},
        {"objective": Bright(2.0)},
        {"objective": usual + Bright()},
        {"objective": usual + 0.5 * Bright()},
        {"parameterisation": Greys},
        {"parameterisation": Labelled},
        {"parameterisation": Greys, "objective": Bright()},
    ]
    made = [cached(run, network, image, **changed) for changed in given]
    assert len({x.path for x in made}) == len(given)
    for changed, first in zip(given, made, strict=True):
        assert cached(run, network, image, **changed) == first
    # By name it is the same image as by the object.
    names = {"objective": f"{HERE}:Bright", "parameterisation": f"{HERE}:Greys"}
    assert cached(run, network, image, **names) == made[-1]
    described = json.loads(made[-1].path.with_suffix(".json").read_text(encoding="utf-8"))
    assert described["settings"]["objective"] == "bright 1"
    assert described["settings"]["parameterisation"] == "tests.support.synthesis.Greys"
    assert len(list((run.folder / "synthesis").iterdir())) == 2 * len(given)
    np.testing.assert_array_equal(np.ptp(made[-1].pixels()[..., :3], axis=2), 0)
