"""Integrated gradients: against Captum, along the integration path, wherever S goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from tests.support.chains import SMALL, Residual, chain, double
from tests.support.pictures import paint_noise
from torch import nn

from opponent import Network, attribute, scan_images
from opponent.attribution.attribute import Rule, mean_activation
from opponent.core.errors import RunError
from opponent.storage.run import Run
from opponent.synthesis.inversion import invert
from opponent.synthesis.settings import SynthesisSettings


@pytest.fixture(autouse=True)
def _random_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Threads would wait for each other longer than such small layers take.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


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
        for child in module:
            if isinstance(child, nn.ReLU):
                child.inplace = False
        captum = LayerIntegratedGradients(module, dict(module.named_children())[through])
        theirs = captum.attribute(
            x, baselines=torch.zeros_like(x), target=1, n_steps=20, method="gausslegendre"
        )
        # Captum's path begins at the layer's output for a blank image; ours at zero or a baseline.
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
    folder = paint_noise(tmp_path / "pictures", 5, (10, 7))
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
    folder = paint_noise(tmp_path / "pictures", 9, (10, 7))
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
