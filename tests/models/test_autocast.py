"""Autocast: the caller's changes no number, and the network's own is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.pictures import paint_noise
from torch import Tensor, nn
from typer.testing import CliRunner

from opponent import (
    Feature,
    Network,
    Preprocessing,
    Run,
    SynthesisSettings,
    attribute,
    completeness,
    invert,
    scan_images,
)
from opponent.cli import app
from opponent.models.state import undisturbed

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (10, 7)


class Plain(nn.Module):
    """Convolutions and a linear layer, all of which autocast would round."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.early = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.late = nn.Conv2d(4, 5, 3, padding=1)
            self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.early(x)).relu().mean((2, 3)))


class Cast(Plain):
    """Part of it in half the bits, as networks do that were trained so."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(x)
        with torch.autocast("cpu", torch.bfloat16):
            x = self.late(x)
        return self.head(x.float().relu().mean((2, 3)))


def network(kind: type[Plain] = Plain) -> Network:
    return Network(kind().eval(), preprocessing=Preprocessing(size=SIZE), name="plain")


def cast() -> Network:
    return network(Cast)


def images() -> Tensor:
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "feature", ["logits:1", "late:1@4,3", Feature.direction("late", [0.1, -0.7, 0.3, 1.1, -0.2])]
)
@pytest.mark.parametrize("rule", ["gradient", "integrated-zero/4"])
def test_attribution_is_the_same_under_autocast(feature: Feature | str, rule: str) -> None:
    expected = attribute(network(), images(), feature, "early", rule=rule)
    with torch.autocast("cpu", torch.bfloat16):
        result = attribute(network(), images(), feature, "early", rule=rule)
    assert result.activation.dtype == result.window_attribution.dtype == torch.float32
    assert torch.equal(result.activation, expected.activation)
    assert torch.equal(result.window_attribution, expected.window_attribution)


def test_passes_and_layers_are_the_same_under_autocast() -> None:
    expected = network().activations(images(), ["late", "logits"])
    with torch.autocast("cpu", torch.bfloat16):
        found = network().activations(images(), ["late", "logits"])
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.autocast("cpu", torch.bfloat16), undisturbed():
        assert not torch.is_autocast_enabled("cpu")


def test_scans_are_the_same_under_autocast(tmp_path: Path) -> None:
    folder = paint_noise(tmp_path / "pictures", 5, (SIZE[1], SIZE[0]))
    features = ["late:1@4,3", "late:*@4,3"]
    expected = scan_images(network(), folder, features, "early", out=tmp_path / "a")
    with torch.autocast("cpu", torch.bfloat16):
        run = scan_images(network(), folder, features, "early", out=tmp_path / "b")
    assert run.manifest.to_json() == expected.manifest.to_json()
    assert run.manifest.network.narrower is None
    assert run.units().equals(expected.units())
    np.testing.assert_array_equal(run.columns().l1, expected.columns().l1)


def test_measurements_and_syntheses_are_the_same_under_autocast(tmp_path: Path) -> None:
    folder = paint_noise(tmp_path / "pictures", 5, (SIZE[1], SIZE[0]))

    def compute(out: Path) -> list[Tensor]:
        measured = completeness(network(), folder, out=out, features=["logits:0"])
        settings = SynthesisSettings(steps=3)
        image = invert(
            network(), images()[:1], "late:1", "early", side="excitation", settings=settings
        ).image
        return [torch.from_numpy(measured.activation), torch.from_numpy(measured.total), image]

    expected = compute(tmp_path / "a")
    with torch.autocast("cpu", torch.bfloat16):
        found = compute(tmp_path / "b")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_what_the_network_itself_casts_is_in_the_manifest(tmp_path: Path) -> None:
    folder = paint_noise(tmp_path / "pictures", 5, (SIZE[1], SIZE[0]))
    assert cast().layers.narrower(torch.float32) == ("late", torch.bfloat16)
    assert network().layers.narrower(torch.float32) is None
    run = scan_images(cast(), folder, "late:1", "early", out=tmp_path / "run")
    record = Run(run.folder).manifest.network
    assert (record.dtype, record.narrower) == ("float32", ("bfloat16", "late"))
    # The numbers are those that the network gives.
    one = cast().module
    x = one.early(cast().load_inputs(folder)[0])  # type: ignore[union-attr, operator]
    with torch.autocast("cpu", torch.bfloat16):
        expected = one.late(x)[:, 1, 5, 3]  # type: ignore[union-attr, operator]
    assert expected.dtype == torch.bfloat16
    np.testing.assert_array_equal(run.columns().activation, expected.float().detach())
    command = ["scan", "module:tests.models.test_autocast:cast", "late:1", "--through", "early"]
    result = CliRunner().invoke(
        app, [*command, "--images", str(folder), "--out", str(tmp_path / "b")]
    )
    assert result.exit_code == 0, result.exception
    assert "late computes in bfloat16, though the weights are float32: the" in result.output
