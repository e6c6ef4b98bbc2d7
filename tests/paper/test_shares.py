"""What f - E is made of: each module's own part, exactly."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.chains import SMALL, chain
from tests.support.odd_network import seeded
from tests.support.pictures import paint_noise
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from typer.testing import CliRunner

from opponent import Feature, Network
from opponent.cli import app
from opponent.paper.missing import measure_missing, write_missing
from opponent.paper.shares import shares

pytestmark = pytest.mark.usefixtures("one_thread", "random_weights")


def whole(module: nn.Module, seed: int) -> nn.Module:
    """Small whole numbers for weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).double()
    return module.double().eval()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("through", ["pixels", "relu1", "relu2"])
def test_a_convolutions_share_is_its_bias_times_the_gradient(seed: int, through: str) -> None:
    """Whole numbers: equal to the last digit."""
    module = chain()
    module.pool = nn.MaxPool2d(3, 3)
    module.head = nn.Linear(6 * 2 * 3, 3)
    network = Network(whole(module, seed), preprocessing=SMALL)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (3, 3, 7, 10), generator=generator).double()
    features = [Feature(layer="logits", unit=unit) for unit in range(3)]
    f, e, parts = shares(network, x, features, through)
    assert f.abs().max() > 100
    assert torch.equal(f - e, parts.share.sum(2))
    assert not parts.rest.any()
    own = {name: parts.share[:, :, i] for i, name in enumerate(parts.modules)}
    assert all(not share.any() for name, share in own.items() if name[:4] in ("relu", "pool"))
    after = {"pixels": 0, "relu1": 1, "relu2": 2}[through]
    convolutions = [f"conv{k}" for k in (1, 2, 3)]
    assert [name for name in own if name.startswith("conv")] == convolutions[after:]
    for name in [*convolutions[after:], "head"]:
        bias = getattr(module, name).bias
        for n in range(3):
            for k in range(3):
                [gradient] = torch.autograd.grad(module(x[n : n + 1])[0, k], bias)
                assert own[name][n, k] == (gradient * bias).sum()


class Mixed(nn.Module):
    """Norms, an activation that is no ReLU, a layer called twice, and a sum outside of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.normal, self.batch = nn.LocalResponseNorm(3, alpha=0.5), nn.BatchNorm2d(4)
        self.soft, self.head = nn.Softplus(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.soft(self.again(self.normal(self.first(x)))))
        return self.head((self.batch(x) + 0.75).mean((2, 3)))


def test_what_any_module_adds_is_its_output_without_its_derivative_along_the_input() -> None:
    module = seeded(Mixed).double()
    network = Network(module, preprocessing=SMALL)
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    f, e, parts = shares(network, x, [network.resolve("logits:1")], "first")
    assert parts.modules == ("normal", "again", "soft", "again#2", "batch", "head")
    torch.testing.assert_close((f - e)[:, 0], parts.share[:, 0].sum(1) + parts.rest[:, 0])
    # Outside of modules 0.75 is added to each channel.
    outside = 0.75 * module.head.weight[1].sum().expand(2).detach()
    torch.testing.assert_close(parts.rest[:, 0], outside)
    hidden = module.first(x).detach()
    for number, part in enumerate(
        [module.normal, module.again, module.soft, module.again, module.batch]
    ):
        with dual_level(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
            output, slope = unpack_dual(part(make_dual(hidden, hidden)))
        output, own = output.detach().requires_grad_(), (output - slope).detach()
        rest = output
        for later in [module.normal, module.again, module.soft, module.again, module.batch][
            number + 1 :
        ]:
            rest = later(rest)
        value = module.head((rest + 0.75).mean((2, 3)))[:, 1]
        [gradient] = torch.autograd.grad(value.sum(), output)
        expected = (own * gradient).flatten(1).sum(1)
        torch.testing.assert_close(parts.share[:, 0, number], expected)
        hidden = output.detach()
    torch.testing.assert_close(parts.share[:, 0, 5], module.head.bias[1].expand(2).detach())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_over_images_the_same_and_written(tmp_path: Path) -> None:
    network = Network(seeded(lambda: chain(norm=True)), preprocessing=SMALL, name="chain")
    folder = paint_noise(tmp_path / "pictures", 24, (10, 7))
    measured = measure_missing(network, folder, out=tmp_path / "out", features=2)
    missing = measured.activation - measured.total
    np.testing.assert_allclose(measured.share.sum(2) + measured.rest, missing, atol=1e-4)
    rows = {row["module"]: row for row in measured.rows()}
    deviation = measured.activation.astype(float).std(0)
    at = measured.modules.index("norm2")
    of_norm = measured.share[:, :, at] / deviation
    assert rows["norm2"]["varying"] == pytest.approx(of_norm.std(0).mean(), rel=1e-5)
    assert rows["norm2"]["constant"] == pytest.approx(abs(of_norm.mean(0)).mean(), rel=1e-5)
    assert "relu1" not in rows
    again = measure_missing(network, folder, out=tmp_path / "out", features=2)
    assert np.array_equal(again.share, measured.share)
    paths = write_missing(measured, tmp_path / "written")
    assert [path.name for path in paths] == ["missing.json", "missing.png"]
    assert all(path.stat().st_size > 100 for path in paths)


def test_the_command_writes_the_parts_too(tmp_path: Path) -> None:
    pictures = paint_noise(tmp_path / "pictures", 3, (64, 64))
    words = ["completeness", "inceptionv1-small", "--images", str(pictures), "--layer", "mixed3a"]
    words += ["--logits", "3", "--through", "conv2d2", "--parts", "2", "--out", str(tmp_path / "c")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "c" / "inceptionv1-small" / "missing" / "missing.json").is_file()
