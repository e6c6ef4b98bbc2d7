"""What is not finite is refused, with a cause, wherever S is computed or goes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.pictures import paint_noise
from torch import nn

from opponent import (
    Network,
    Preprocessing,
    RunError,
    SynthesisSettings,
    accentuate,
    attribute,
    completeness,
    find_directions,
    invert,
    invert_attribution,
    mean_activation,
    visualise,
)
from opponent.paper.uniqueness.measure import UniquenessSettings, measure_features

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (10, 7)
CAUSE = "the weight 'early.bias' of broken holds NaN or infinity; load others"
SETTINGS = SynthesisSettings(steps=2)


def broken(*, bias: float = torch.nan) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential()
        module.add_module("early", nn.Conv2d(3, 4, 3, padding=1))
        module.add_module("relu", nn.ReLU())
        module.add_module("late", nn.Conv2d(4, 5, 3, padding=1))
        module.add_module("last", nn.ReLU())
    module.early.bias.data[0] = bias
    return Network(module.eval(), preprocessing=Preprocessing(size=SIZE), name="broken")


def test_attribute_names_images_and_cause(tmp_path: Path) -> None:
    inputs = torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        ValueError,
        match=r"S of late:1@5,3 through 'relu' is not finite in 5 of 5 images \(0, 1, 2, …\): "
        + CAUSE,
    ):
        attribute(broken(), inputs, "late:1", "relu")
    inputs[3, 0, 5, 3] = torch.inf
    with pytest.raises(ValueError, match=r"is not finite in 1 of 5 images \(3\): all weights of"):
        attribute(broken(bias=0), inputs, "late:1", "relu")
    folder = paint_noise(tmp_path / "pictures", 2, (SIZE[1], SIZE[0]))
    with pytest.raises(ValueError, match=r"in 2 of 2 images \(000.png, 001.png\)"):
        attribute(broken(), folder, "late:1", "relu")


def test_the_l2_norm_fits_in_half_precision() -> None:
    with torch.random.fork_rng(devices=[]):
        layers = [nn.Conv2d(channels, 1, 1, bias=False) for channels in (3, 1)]
    module = nn.Sequential(*layers).half()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(10)
    network = Network(module, preprocessing=Preprocessing(size=(4, 4)))
    result = attribute(network, torch.ones(1, 3, 4, 4), "1:0", "0")
    # 30 upstream, times 10: its square, 90,000, is over 65,504.
    assert result.l2.tolist() == result.activation.tolist() == [300.0]


@pytest.mark.parametrize(
    "compute",
    [
        lambda network, folder: invert(
            network, folder, "late:1", "relu", side="excitation", settings=SETTINGS
        ),
        lambda network, folder: accentuate(
            network, folder, "late:1", "relu", side="excitation", settings=SETTINGS
        ),
    ],
)
def test_syntheses_of_images(compute: Callable[[Network, Path], object], tmp_path: Path) -> None:
    folder = paint_noise(tmp_path / "pictures", 2, (SIZE[1], SIZE[0]))
    with pytest.raises(ValueError, match=CAUSE):
        compute(broken(), folder)


def test_a_visualisation() -> None:
    with pytest.raises(
        ValueError, match=f"objective is not finite from step 1 on, for late:1@5,3: {CAUSE}"
    ):
        visualise(broken(), "late:1", settings=SETTINGS)


def test_an_inversion_of_an_s_that_is_not_finite() -> None:
    s = torch.ones(3, 4, 3, 3)
    s[1, 2, 0, 0] = torch.nan
    s[2, 0, 0, 0] = -torch.inf
    for side in ("excitation", "inhibition", "both"):
        with pytest.raises(
            ValueError, match=r"S of late:1@5,3 through 'relu' is not finite in image 1, 2 of 3"
        ):
            invert_attribution(broken(bias=0), s, "late:1", "relu", side=side, settings=SETTINGS)


def test_a_mean() -> None:
    inputs = torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=f"the mean of 'relu' over 5 images is not.*{CAUSE}"):
        mean_activation(broken(), inputs, "relu")


@pytest.mark.parametrize(
    "measure",
    [
        lambda network, folder, out: completeness(
            network, folder, out=out, features=["late:1"], throughs=["relu"]
        ),
        lambda network, folder, _: find_directions(network, folder, "late", count=2),
        lambda network, folder, out: measure_features(
            network, folder, out=out, settings=UniquenessSettings(features=2, kmeans=2)
        ),
    ],
)
def test_measurements_of_many_images(
    measure: Callable[[Network, Path, Path], object], tmp_path: Path
) -> None:
    folder = paint_noise(tmp_path / "pictures", 8, (SIZE[1], SIZE[0]))
    with pytest.raises(RunError, match=rf"no image gave finite numbers \(not finite: .*{CAUSE}"):
        measure(broken(), folder, tmp_path / "out")
