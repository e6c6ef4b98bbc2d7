"""Completeness: E against f, by hand, by slow twins, by Captum, and on real networks."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from typer.testing import CliRunner

from opponent import Feature, ImageSet, Network, Preprocessing, attribute, open_images, scan_images
from opponent.attribution.attribute import Rule, mean_activation
from opponent.cli import app
from opponent.core.errors import RunError
from opponent.geometry.bottlenecks import through_layers
from opponent.models.registry import load
from opponent.paper.completeness import (
    Completeness,
    completeness,
    integrated_totals,
    totals,
    write_completeness,
)
from opponent.plots import Curve, completeness_figure
from opponent.storage.run import Run
from opponent.synthesis.inversion import SynthesisSettings, invert

SMALL = Preprocessing(size=(7, 10))


@pytest.fixture(autouse=True)
def _random_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Threads would wait for each other longer than such small layers take.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


def chain(*, bias: bool = True, norm: bool = False) -> nn.Sequential:
    """Three convolutions and a linear layer; its ReLUs are 'relu1' to 'relu3'."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, channels in enumerate((3, 4, 5), 1):
        parts[f"conv{i}"] = nn.Conv2d(channels, channels + 1, 3, padding=1, bias=bias)
        if norm:
            parts[f"norm{i}"] = nn.BatchNorm2d(channels + 1)
        parts[f"relu{i}"] = nn.ReLU(inplace=True)
    parts["pool"], parts["flat"] = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    parts["head"] = nn.Linear(24, 3, bias=bias)
    return nn.Sequential(parts)


def double(module: nn.Module) -> Network:
    return Network(module.double().eval(), preprocessing=SMALL, name="small")


def pictures(folder: Path, count: int, size: tuple[int, int] = (10, 7)) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        values = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i:03d}.png")
    return folder


def whole_numbers(*shape: int, low: int = -3, high: int = 4, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(low, high, shape).astype(np.float64))


# By hand


def test_what_is_missing_is_what_the_biases_add_by_hand() -> None:
    """f = 2 relu(x1 - x2 + 1) - 3 relu(x1 + 2 x2 - 2) + 5, through the pixels and the ReLU."""
    module = nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 2, 1), relu=nn.ReLU(), flat=nn.Flatten(), head=nn.Linear(2, 1)
    ))  # fmt: skip
    with torch.no_grad():
        module.conv.weight.copy_(torch.tensor([[1, -1, 0], [1, 2, 0]])[..., None, None])
        module.conv.bias.copy_(torch.tensor([1, -2]))
        module.head.weight.copy_(torch.tensor([[2, -3]]))
        module.head.bias.fill_(5)
    network = Network(module.double(), preprocessing=Preprocessing(size=(1, 1)))
    x = torch.tensor([[3, 1, 7], [0, 4, 7], [-5, 1, 7]], dtype=torch.float64)[..., None, None]
    f, e = totals(network, x, [Feature(layer="logits", unit=0)], ["pixels", "relu"])
    # Both units on: 2 * 3 - 3 * 3 + 5; only the second: -3 * 6 + 5; none: 5.
    assert f[:, 0].tolist() == [2, -13, 5]
    # Through the ReLU, the head's bias is missing; through the pixels, those of the units that are
    # on too: 2 * 1 - 3 * -2 + 5 = 13, -3 * -2 + 5 = 11, 5.
    assert (f - e[:, :, 1])[:, 0].tolist() == [5, 5, 5]
    assert (f - e[:, :, 0])[:, 0].tolist() == [13, 11, 5]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_missing_is_what_the_biases_add(seed: int) -> None:
    """Whole numbers: f - E equals the biases sent on through the units that are on, exactly."""
    module = chain()
    for i, parameter in enumerate(module.parameters()):
        values = whole_numbers(*parameter.shape, low=-2, high=3, seed=100 * seed + i)
        parameter.data = values.clone()
    module.pool = nn.MaxPool2d(3, 3)  # a mean would leave the whole numbers
    module.head = nn.Linear(6 * 2 * 3, 3)
    module.head.weight.data = whole_numbers(3, 36, seed=seed)
    module.head.bias.data = whole_numbers(3, seed=seed)
    network = double(module)
    x = whole_numbers(4, 3, 7, 10, seed=seed)
    features = [Feature(layer="logits", unit=unit) for unit in range(3)]
    throughs = ["pixels", "relu1", "relu2", "relu3"]
    f, e = totals(network, x, features, throughs)
    assert f.abs().max() > 100
    # The slow twin: the same units on, as in the real pass, all numbers 0 but the biases.
    hidden, on = x, []
    for part in module:
        before, hidden = hidden, part(hidden)
        if isinstance(part, nn.ReLU):
            on.append((before > 0).double() if before is not hidden else (hidden > 0).double())
        if isinstance(part, nn.MaxPool2d):
            _, where = nn.functional.max_pool2d(before, 3, 3, return_indices=True)
    for number in range(len(throughs)):
        biases, layer = torch.zeros_like(x), 0
        for name, part in module.named_children():
            if isinstance(part, nn.ReLU):
                layer += 1
                biases = (
                    biases * on[layer - 1] if layer > number else torch.zeros_like(on[layer - 1])
                )
            elif isinstance(part, nn.MaxPool2d):
                biases = biases.flatten(2).gather(2, where.flatten(2)).view(where.shape)
            elif name == "flat" or layer >= number:
                biases = part(biases)
        assert torch.equal(f - e[:, :, number], biases)


def test_without_biases_nothing_is_missing() -> None:
    network = double(chain(bias=False))
    x = torch.randn(5, 3, 7, 10, dtype=torch.float64)
    f, e = totals(network, x, [Feature(layer="logits", unit=1)], ["pixels", "relu2"])
    assert torch.allclose(e, f[:, :, None].expand_as(e), rtol=1e-12)


# Slow twins


def test_totals_are_the_sums_of_s() -> None:
    network = double(chain(norm=True))
    x = torch.randn(4, 3, 7, 10, dtype=torch.float64)
    features = [network.resolve(name) for name in ("conv3:2@1,6", "conv3:5@6,0")]
    throughs = ["pixels", "relu1", "relu2"]
    f, e = totals(network, x, features, throughs)
    for k, feature in enumerate(features):
        for i, through in enumerate(throughs):
            one = attribute(network, x, feature, through)
            assert torch.equal(f[:, k], one.activation)
            assert torch.allclose(e[:, k, i], one.excitation - one.inhibition, atol=1e-12)


def test_the_measures_are_scipys(tmp_path: Path) -> None:
    network = Network(chain(norm=True).eval(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 30)
    found = completeness(network, folder, out=tmp_path / "out", features=3, seed=4)
    assert [cut.layer for cut in found.cuts] == ["pixels", "relu1", "relu2", "relu3"]
    assert sorted(feature.unit or 0 for feature in found.features) == [0, 1, 2]
    f, e = found.activation.astype(float), found.total.astype(float)
    for i in range(4):
        for k in range(3):
            pearson = stats.pearsonr(f[:, k], e[:, k, i]).statistic
            spearman = stats.spearmanr(f[:, k], e[:, k, i]).statistic
            assert found.pearson[i, k] == pytest.approx(pearson, abs=1e-12)
            assert found.spearman[i, k] == pytest.approx(spearman, abs=1e-12)
            assert found.l1[i, k] == pytest.approx(np.abs(f - e[:, :, i])[:, k].mean())
    rows = found.rows()
    assert rows[0]["pearson"] == pytest.approx(found.pearson[0].mean())
    assert rows[0]["pearson_sd"] == pytest.approx(found.pearson[0].std())
    assert rows[2]["l1_in_sd"] == pytest.approx((found.l1[2] / f.std(0)).mean())


def test_a_constant_feature_is_left_out_and_counted(tmp_path: Path) -> None:
    module = chain()
    with torch.no_grad():
        module.head.weight[1] = 0
    network = Network(module.eval(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 6)
    found = completeness(network, folder, out=tmp_path / "out", features=3)
    assert np.isnan(found.pearson[:, 1]).all()
    assert found.describe()["constant_features"] == 1
    assert found.rows()[0]["pearson"] == pytest.approx(found.pearson[0, [0, 2]].mean())


# Integrated gradients


@pytest.mark.parametrize("through", ["pixels", "relu1", "relu2"])
def test_integrated_gradients_are_captums(through: str) -> None:
    module = chain(norm=True).double().eval()
    network = Network(module, preprocessing=SMALL)
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    ours = attribute(network, x, "logits:1", through, rule="integrated-zero/20")
    if through == "pixels":
        shape = x[:1].shape
        grads = []
        points, weights = Rule.parse("integrated-zero/20").path()
        for point in points:
            inputs = (x * point).requires_grad_()
            grads.append(torch.autograd.grad(module(inputs)[:, 1].sum(), inputs)[0])
        theirs = x * sum(w * g for w, g in zip(weights, grads, strict=True))
        assert theirs[:1].shape == shape
    else:
        for part in module:
            if isinstance(part, nn.ReLU):
                part.inplace = False
        captum = LayerIntegratedGradients(module, dict(module.named_children())[through])
        theirs = captum.attribute(
            x, baselines=torch.zeros_like(x), target=1, n_steps=20, method="gausslegendre"
        )
        # Captum's way begins at the layer's output for a blank image; ours at zero, or where asked.
        blank = network.run(torch.zeros_like(x[:1]), through, after=True).target[0]
        ours = attribute(network, x, "logits:1", through, rule="integrated-mean/20", baseline=blank)
    assert torch.allclose(ours.attribution, theirs, atol=1e-12)


def test_integrated_gradients_sum_to_the_change() -> None:
    network = double(chain(norm=True))
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    mean = torch.rand(6, 7, 10, dtype=torch.float64)
    for rule, baseline in (("integrated-zero/64", None), ("integrated-mean/64", mean)):
        found = attribute(network, x, "logits:0", "relu3", rule=rule, baseline=baseline)
        start = torch.zeros_like(mean) if baseline is None else mean
        at = network.run(x, "logits", "relu3", substitute=lambda h, s=start: s.expand_as(h)).target
        change = found.activation - at[:, 0, 0, 0]
        assert torch.allclose(found.excitation - found.inhibition, change, atol=1e-10)
        assert torch.allclose(found.change, found.hidden - start)
        plain = attribute(network, x, "logits:0", "relu3")
        assert torch.allclose(found.activation, plain.activation, atol=1e-12)
        assert torch.equal(found.hidden, plain.hidden)


class Residual(nn.Module):
    """f depends on the images around 'relu' too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(x + self.relu(self.conv(x))).relu())
        return y.amax((2, 3))


def test_what_goes_around_the_through_layer_stays_as_it_is() -> None:
    network = double(Residual())
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    found = attribute(network, x, "logits:1", "relu", rule="integrated-zero/32")
    points, weights = Rule.parse("integrated-zero/32").path()
    total = torch.zeros_like(found.hidden)
    for point, weight in zip(points, weights, strict=True):
        h = (point * found.hidden).requires_grad_()
        module = network.module
        f = module.head(module.norm(x + h).relu()).amax((2, 3))[:, 1]
        total += weight * torch.autograd.grad(f.sum(), h)[0]
    assert torch.allclose(found.attribution, found.hidden * total, atol=1e-12)


@pytest.mark.parametrize("rule", ["integrated-zero/5", "integrated-mean/5"])
def test_integrated_totals_are_the_sums_of_s(rule: str) -> None:
    network = double(Residual())
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    features = [network.resolve(f"logits:{unit}") for unit in range(2)]
    found = through_layers(network)
    baselines: dict[str, Tensor] = {}
    if "mean" in rule:
        baselines = {
            cut.layer: torch.rand(network.map_shape(cut.layer), dtype=torch.float64)
            for cut in found
        }
    f, e = integrated_totals(
        network, x, features, [cut.layer for cut in found], Rule.parse(rule), baselines
    )
    assert e.shape == (3, 2, len(found))
    for i, cut in enumerate(found):
        for k, feature in enumerate(features):
            one = attribute(
                network, x, feature, cut.layer, rule=rule, baseline=baselines.get(cut.layer)
            )
            assert torch.allclose(f[:, k], one.activation)
            assert torch.allclose(e[:, k, i], one.excitation - one.inhibition, atol=1e-12)


def test_batch_norm_is_told_and_integrating_mends_it(tmp_path: Path) -> None:
    module = chain(norm=True)
    for i in (1, 2, 3):
        norm = getattr(module, f"norm{i}")
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.05, 0.2)
        norm.bias.data.uniform_(-2, 2)
    network = Network(module.eval(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 40)
    plain = completeness(network, folder, out=tmp_path / "plain", features=3)
    assert np.nanmin(plain.pearson[1]) < 0.95
    mended = completeness(
        network, folder, out=tmp_path / "mended", features=3, rule="integrated-zero/24"
    )
    assert mended.pearson[1:].min() > 0.999
    mean = completeness(
        network, folder, out=tmp_path / "mean", features=3, rule="integrated-mean/24"
    )
    assert mean.pearson[1:].min() > 0.999


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("gradient", "gradient"),
        ("integrated-zero", "integrated-zero/32"),
        ("integrated-mean/3", "integrated-mean/3"),
    ],
)
def test_rules_have_names(text: str, label: str) -> None:
    assert Rule.parse(text).label == label
    assert Rule.parse(label) == Rule.parse(text)


@pytest.mark.parametrize("text", ["", "integrated", "integrated-zero/", "integrated-one", "ig"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="there are gradient, integrated-zero and"):
        Rule.parse(text)


def test_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Rule(kind="integrated", steps=0)
    with pytest.raises(ValueError, match="there are gradient"):
        Rule(kind="integrated", baseline="median")
    network = double(chain())
    x = torch.randn(1, 3, 7, 10, dtype=torch.float64)
    with pytest.raises(ValueError, match="takes a baseline: `mean_activation`"):
        attribute(network, x, "logits:0", "relu1", rule="integrated-mean")
    with pytest.raises(ValueError, match="takes no baseline"):
        attribute(network, x, "logits:0", "relu1", rule="integrated-zero", baseline=x[0])


def test_the_path_integrates_what_a_polynomial_is() -> None:
    points, weights = Rule(kind="integrated", steps=4).path()
    assert ((points > 0) & (points < 1)).all()
    for power in range(8):
        assert (weights * points**power).sum() == pytest.approx(1 / (power + 1), abs=1e-14)


def test_a_mean_is_the_mean_over_images_that_can_be_read(tmp_path: Path) -> None:
    network = Network(chain(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 5)
    (folder / "002.png").write_bytes(b"")
    each = [
        attribute(network, folder / f"{i:03d}.png", "logits:0", "relu2").hidden for i in (0, 1, 3)
    ]
    mean = mean_activation(network, folder, "relu2", count=4)
    assert torch.allclose(mean, torch.cat(each).mean(0), atol=1e-6)
    assert mean_activation(network, folder, "pixels").shape == (3, 7, 10)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the first 1000 images of .* can be read"):
        mean_activation(network, tmp_path / "bad", "relu1")


# A rule goes wherever S goes


@pytest.mark.parametrize("rule", ["integrated-zero/4", "integrated-mean/4"])
def test_a_scan_takes_a_rule(rule: str, tmp_path: Path) -> None:
    network = Network(chain(norm=True).eval(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 9)
    run = scan_images(network, folder, "conv3:2", "relu1", out=tmp_path / "run", rule=rule)
    assert Run(run.folder).rule.label == rule
    baseline = None if "zero" in rule else mean_activation(network, folder, "relu1")
    kept = run.baseline(network)
    assert (kept is None) == (baseline is None)
    assert kept is None or torch.equal(kept, baseline)
    columns = run.columns()
    for i, image in enumerate(columns.images):
        one = attribute(network, folder / image, "conv3:2", "relu1", rule=rule, baseline=baseline)
        assert columns.excitation[i] == pytest.approx(float(one.excitation), rel=1e-4)
        assert columns.inhibition[i] == pytest.approx(float(one.inhibition), rel=1e-4)
    if baseline is not None:
        (run.folder / "baseline.safetensors").write_bytes(b"")
        with pytest.raises(RunError, match=r"baseline\.safetensors is damaged"):
            run.baseline(network)
    with pytest.raises(RunError, match="rule was integrated"):
        scan_images(network, folder, "conv3:2", "relu1", out=tmp_path / "run")


def test_an_inversion_under_a_mean_points_away_from_the_mean() -> None:
    network = Network(chain().eval(), preprocessing=SMALL)
    x = torch.randn(1, 3, 7, 10)
    baseline = 5 * torch.ones(4, 7, 10)  # above all that the layer does
    made = invert(
        network,
        x,
        "conv2:0",
        "relu1",
        sign=1,
        rule="integrated-mean/2",
        baseline=baseline,
        settings=SynthesisSettings(steps=2),
    )
    assert made.image.isfinite().all()


# The experiment


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    network = Network(chain().eval(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 300)

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 270:
            raise KeyboardInterrupt

    whole = completeness(network, folder, out=tmp_path / "whole", features=2)
    with pytest.raises(KeyboardInterrupt):
        completeness(network, folder, out=tmp_path / "broken", features=2, progress=stop)
    seen: list[int] = []
    again = completeness(
        network,
        folder,
        out=tmp_path / "broken",
        features=2,
        progress=lambda _, done, __: seen.append(done),
    )
    assert seen[0] == 256
    assert np.array_equal(whole.total, again.total)
    for one, out in ((whole, "a"), (again, "b")):
        write_completeness([one], tmp_path / out)
    for name in ("completeness.json", "figure3.png", "figure13.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(RunError, match="another question"):
        completeness(network, folder, out=tmp_path / "whole", features=3)


def test_branches_are_marked_and_measured_on_request(tmp_path: Path) -> None:
    network = Network(Residual().eval(), preprocessing=SMALL)
    folder = pictures(tmp_path / "pictures", 8)
    found = completeness(network, folder, out=tmp_path / "whole", features=2)
    assert [cut.layer for cut in found.cuts] == ["pixels"]
    found = completeness(network, folder, out=tmp_path / "all", features=2, branches=True)
    assert [(cut.layer, cut.bottleneck) for cut in found.cuts] == [
        ("pixels", True),
        ("relu", False),
    ]
    assert [row["bottleneck"] for row in found.rows()] == [True, False]


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    network, folder = Network(chain(), preprocessing=SMALL), pictures(tmp_path / "pictures", 3)
    cases = [
        ({"features": 4}, "4 random units of 'logits', which has 3"),
        ({"features": ["conv1:0", "conv2:0"]}, "features are of one layer; got conv1, conv2"),
        ({"features": []}, "features are of one layer; got none"),
        ({"throughs": ["conv1"]}, "'conv1' is neither the output of an activation"),
        ({"throughs": ["relu9"]}, "has no layer 'relu9'"),
        ({"rule": "best"}, "names no rule"),
    ]
    for number, (given, message) in enumerate(cases):
        with pytest.raises(ValueError, match=message):
            completeness(network, folder, out=tmp_path / str(number), **({"features": 2} | given))
        assert not (tmp_path / str(number)).exists()
    with pytest.raises(ValueError, match="has 1 images; a correlation needs some"):
        completeness(network, folder / "000.png", out=tmp_path / "one", features=2)


def test_a_figure_joins_whole_cuts_only() -> None:
    curve = Curve(
        label="net",
        depth=np.array([0, 0.5, 0.7, 1]),
        mean=np.array([0.2, np.nan, 0.5, 0.9]),
        spread=np.array([0.1, np.nan, 0.1, 0.1]),
        whole=np.array([True, True, False, True]),
    )
    figure = completeness_figure([("Pearson's r", [curve]), ("mean |f - E|", [curve])])
    for axes in figure.axes:
        line, branch = axes.lines[:2]
        assert list(np.asarray(line.get_xdata())) == [0, 1]
        assert list(np.asarray(branch.get_xdata())) == [0.7]
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.04)
    assert figure.axes[1].get_ylim()[0] == 0


def test_the_command(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 4, (64, 64))
    command = ["completeness", "inceptionv1-mini", "--images", str(folder)]
    command += ["--out", str(tmp_path / "out"), "--logits", "3"]
    result = CliRunner().invoke(app, [*command, "--through", "mixed4a", "--through", "pixels"])
    assert result.exit_code == 0, result.output
    assert "3 units of logits, 4 images" in result.output
    [written] = json.loads((tmp_path / "out" / "completeness.json").read_text())
    assert [row["layer"] for row in written["layers"]] == ["mixed4a", "pixels"]
    assert written["asked"]["weights_sha256"]
    assert {"figure3.png", "figure13.png"} <= {x.name for x in (tmp_path / "out").iterdir()}


# Real networks


def measured(network: Network, images: Path, out: Path, **given: object) -> Completeness:
    some = ImageSet(source="some", entries=open_images(images).entries[::41][:24])
    return completeness(network, some, out=out, features=6, **given)  # type: ignore[arg-type]


def test_the_embedded_network_is_complete_but_early_on(
    tiny_photographs: Path, tmp_path: Path
) -> None:
    found = measured(load("inceptionv1-mini"), tiny_photographs, tmp_path / "out")
    mean = dict(zip((cut.layer for cut in found.cuts), found.pearson.mean(1), strict=True))
    late = [name for name in mean if name.startswith("mixed")]
    assert len(late) == 9
    assert min(mean[name] for name in late) >= 0.99
    assert mean["pixels"] < 0.8


def test_efficientnets_batch_norms_break_it_and_integrating_mends_it(
    photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network = load("module:benchmarks.efficientnet_lite:lite0")
    names = [cut.layer for cut in through_layers(network) if cut.bottleneck]
    late = names[-3]
    plain = measured(network, photographs, tmp_path / "plain", throughs=[late])
    mended = measured(
        network, photographs, tmp_path / "mended", throughs=[late], rule="integrated-zero/8"
    )
    assert plain.pearson.mean() < 0.5
    assert mended.pearson.mean() > 0.99
