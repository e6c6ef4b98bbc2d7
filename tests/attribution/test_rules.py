"""Rules of attribution: integrated gradients against Captum, names, and rules of a user's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from tests.support.chains import SMALL, Residual, chain, double
from tests.support.extensions import FromMean, PositiveGradient, SmoothGrad
from tests.support.pictures import paint_noise
from torch import Tensor, nn

from opponent import (
    Feature,
    Gradient,
    IntegratedGradients,
    Network,
    Preprocessing,
    Segment,
    attribute,
    load,
    mean_activation,
)
from opponent.attribution.attribute import attribute_each
from opponent.attribution.rules import parse_rule
from opponent.geometry.planning import plan_crop

OWN = [SmoothGrad(), PositiveGradient(), FromMean()]


@pytest.fixture(autouse=True)
def _random_weights(one_thread: None) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


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
        points, weights = IntegratedGradients(steps=20).path()
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
        result = attribute(network, x, "logits:0", "relu3", rule=rule, baseline=baseline)
        start = torch.zeros_like(mean) if baseline is None else mean
        at = network.run(x, "logits", "relu3", substitute=lambda h, s=start: s.expand_as(h)).target
        change = result.activation - at[:, 0, 0, 0]
        assert torch.allclose(result.excitation - result.inhibition, change, atol=1e-10)
        assert torch.allclose(result.change, result.hidden - start)
        plain = attribute(network, x, "logits:0", "relu3")
        assert torch.allclose(result.activation, plain.activation, atol=1e-12)
        assert torch.equal(result.hidden, plain.hidden)


def test_what_goes_around_the_through_layer_stays_as_it_is() -> None:
    network = double(Residual())
    x = torch.randn(3, 3, 7, 10, dtype=torch.float64)
    result = attribute(network, x, "logits:1", "relu", rule="integrated-zero/32")
    points, weights = IntegratedGradients(steps=32).path()
    total = torch.zeros_like(result.hidden)
    for point, weight in zip(points, weights, strict=True):
        h = (point * result.hidden).requires_grad_()
        module = network.module
        f = module.head(module.norm(x + h).relu()).amax((2, 3))[:, 1]
        total += weight * torch.autograd.grad(f.sum(), h)[0]
    assert torch.allclose(result.attribution, result.hidden * total, atol=1e-12)


def test_the_path_integrates_what_a_polynomial_is() -> None:
    points, weights = IntegratedGradients(steps=4).path()
    assert ((points > 0) & (points < 1)).all()
    for power in range(8):
        assert (weights * points**power).sum() == pytest.approx(1 / (power + 1), abs=1e-14)


@pytest.mark.parametrize("rule", ["integrated-zero/4", "integrated-mean/4"])
def test_rules_take_crops(rule: str, generator: torch.Generator) -> None:
    network = load()
    feature, through = network.resolve("mixed3b:189@13,0"), "mixed3a"
    plan = plan_crop(network, [feature], through)
    assert plan.box is not None
    assert plan.window is not None
    inputs = torch.randn(2, 3, *network.preprocessing.size, generator=generator)
    mean = torch.rand(*network.map_shape(through), generator=generator)
    baseline = mean if "mean" in rule else None
    options = {"rule": parse_rule(rule), "baseline": baseline}
    [cropped] = attribute_each(network, inputs, [feature], through, plan=plan, **options)
    [whole] = attribute_each(network, inputs, [feature], through, **options)
    assert cropped.window == whole.window == plan.window
    for name in ("attribution", "window_attribution", "hidden", "change"):
        torch.testing.assert_close(
            getattr(cropped, name), getattr(whole, name), rtol=1e-4, atol=1e-6
        )
    torch.testing.assert_close(cropped.activation, whole.activation, rtol=1e-5, atol=1e-5)


# The mean that a rule starts from


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
    with pytest.raises(ValueError, match=r"none of the first 1000 images can be read"):
        mean_activation(network, tmp_path / "bad", "relu1")


def test_a_mean_over_a_tensor() -> None:
    network = double(chain())
    x = torch.randn(70, 3, 7, 10, dtype=torch.float64)  # more than go together
    hidden = network.run(x, "relu2", after=True).target
    torch.testing.assert_close(mean_activation(network, x, "relu2"), hidden.mean(0))
    torch.testing.assert_close(mean_activation(network, x, "relu2", 3), hidden[:3].mean(0))
    with pytest.raises(ValueError, match=r"none of the first 9 images can be read"):
        mean_activation(network, x[:0], "relu2", 9)


@pytest.mark.parametrize("target", ["logits:0", "conv3:2@0,9"])
def test_a_rule_that_starts_from_the_mean_computes_it_over_its_images(
    target: str, tmp_path: Path
) -> None:
    network = Network(chain(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 5, (10, 7))
    tensor, _ = network.load_inputs(folder)
    for images in (folder, tensor):
        mean = mean_activation(network, images, "relu1")
        own = attribute(network, images, target, "relu1", rule="integrated-mean/3")
        given = attribute(network, images, target, "relu1", rule="integrated-mean/3", baseline=mean)
        for name in ("activation", "attribution", "hidden", "change", "baseline"):
            assert torch.equal(getattr(own, name), getattr(given, name))
        zero = attribute(network, images, target, "relu1", rule="integrated-zero/3")
        assert not torch.allclose(own.attribution, zero.attribution, atol=1e-3)


def test_over_one_image_there_is_no_mean(tmp_path: Path) -> None:
    network = Network(chain(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 1, (10, 7))
    for images in (folder, folder / "000.png", torch.zeros(1, 3, 7, 10), torch.zeros(0, 3, 7, 10)):
        with pytest.raises(
            ValueError, match=r"integrated-mean/32 starts from the mean over images"
        ):
            attribute(network, images, "logits:0", "relu1", rule="integrated-mean")


def test_a_baseline_fits_the_rule_and_the_layer() -> None:
    network = double(chain())
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    feature = [network.resolve("logits:0")]
    with pytest.raises(ValueError, match="takes a baseline: `mean_activation`"):
        attribute_each(network, x, feature, "relu1", rule=parse_rule("integrated-mean"))
    with pytest.raises(ValueError, match="takes no baseline"):
        attribute(network, x, "logits:0", "relu1", rule="integrated-zero", baseline=x[0])
    with pytest.raises(ValueError, match=r"shape \(3, 7, 10\), and 'relu1' gives .* \(4, 7, 10\)"):
        attribute(network, x, "logits:0", "relu1", rule="integrated-mean", baseline=x[0])
    # One pixel would stand at all places.
    mean = torch.zeros(4, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the baseline has shape \(4, 1, 1\)"):
        attribute(network, x, "logits:0", "relu1", rule="integrated-mean", baseline=mean)


# Names


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("gradient", "gradient"),
        ("integrated-zero", "integrated-zero/32"),
        ("integrated-mean/3", "integrated-mean/3"),
    ],
)
def test_rules_have_names(text: str, label: str) -> None:
    assert parse_rule(text).label == label
    assert parse_rule(label) == parse_rule(text) == parse_rule(parse_rule(text))


@pytest.mark.parametrize("text", ["", "integrated", "integrated-zero/", "integrated-one", "ig"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="there are gradient, integrated-zero and"):
        parse_rule(text)


def test_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        IntegratedGradients(steps=0)
    with pytest.raises(ValueError, match="at least one step"):
        parse_rule("integrated-zero/0")
    wrong = object.__new__(IntegratedGradients)  # past the check of types that tests have
    object.__setattr__(wrong, "baseline", "median")
    with pytest.raises(ValueError, match="begins at 'zero' or at the 'mean', not at 'median'"):
        wrong.__post_init__()


# Rules of the user's own


def slow_smoothgrad(
    network: Network, x: Tensor, feature: Feature, through: str, rule: SmoothGrad
) -> Tensor:
    """One image after the other, one copy after the other, in the whole image."""
    noise = rule.noise(network.map_shape(through), x)
    attributions = []
    for image in x.split(1):
        gradients = []
        for each in noise:
            result = network.run(
                image, feature.layer, through, differentiate="target",
                substitute=lambda h, noise=each: h + noise,
            )  # fmt: skip
            with torch.enable_grad():
                f = feature.read(result.target).sum()
            gradients += torch.autograd.grad(f, result.through)
        hidden = network.run(image, through, after=True).target
        attributions.append(torch.stack(gradients).mean(0) * hidden)
    return torch.cat(attributions)


@pytest.mark.parametrize("target", ["logits:1", "conv3:2", "conv3:1@0,9"])
def test_a_rule_of_ones_own_is_what_it_says(target: str) -> None:
    network, rule = double(chain(norm=True)), SmoothGrad()
    x = torch.randn(40, 3, 7, 10, dtype=torch.float64)  # more than go together
    feature = network.resolve(target)
    result = attribute(network, x, target, "relu1", rule=rule)
    expected = slow_smoothgrad(network, x, feature, "relu1", rule)
    torch.testing.assert_close(result.attribution, expected, rtol=1e-10, atol=1e-10)
    plain = attribute(network, x, target, "relu1")
    assert not torch.allclose(plain.attribution, expected, atol=1e-3)
    torch.testing.assert_close(result.activation, plain.activation)
    torch.testing.assert_close(
        result.excitation - result.inhibition, expected.sum((1, 2, 3)), rtol=1e-10, atol=1e-10
    )


class Watched(nn.Sequential):
    """It remembers the shapes of its inputs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.shapes = list[tuple[int, ...]]()

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return super().forward(x)


def watched() -> Network:
    """Two convolutions of 3 x 3 and one of a pixel, each after a ReLU but the first."""
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
    module = Watched(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    return Network(module, preprocessing=Preprocessing(size=(20, 24)))


@pytest.mark.parametrize(("rule", "takes"), [*zip(OWN, [False, True, True], strict=True)])
def test_a_rule_takes_a_crop_where_that_gives_what_the_whole_image_gives(
    rule: SmoothGrad | PositiveGradient | FromMean, takes: bool
) -> None:
    """Noise of another shape is other noise; a rule that works place by place may take crops."""
    network = watched()
    x = torch.randn(5, 3, 20, 24, dtype=torch.float64)
    feature = network.resolve("4:1")
    baseline = mean_activation(network, x, "1") if rule.needs_mean else None
    [whole] = attribute_each(network, x, [feature], "1", rule=rule, baseline=baseline)
    attribute(network, x, "4:1", "1", rule=rule)
    network.module.shapes.clear()
    result = attribute(network, x, "4:1", "1", rule=rule, baseline=baseline)
    sizes = {shape[2:] for shape in network.module.shapes}
    # The pixels that 3 x 3 of 3 x 3 see.
    assert sizes == ({(5, 5)} if takes else {(20, 24)})
    torch.testing.assert_close(result.attribution, whole.attribution, rtol=1e-10, atol=1e-12)
    assert result.window == whole.window


def test_rules_by_name_or_class_or_object() -> None:
    name = "module:tests.support.extensions"
    assert parse_rule(f"{name}:SmoothGrad") == parse_rule(SmoothGrad) == SmoothGrad()
    assert parse_rule(SmoothGrad(seed=3)).label == "smoothgrad-0.5/3-3"
    assert parse_rule(f"{name}:PositiveGradient").label == "positive-gradient"
    network, x = double(chain()), torch.randn(2, 3, 7, 10, dtype=torch.float64)
    results = [
        attribute(network, x, "logits:0", "relu1", rule=rule)
        for rule in (f"{name}:SmoothGrad", SmoothGrad, SmoothGrad())
    ]
    assert torch.equal(results[0].attribution, results[1].attribution)
    assert torch.equal(results[0].attribution, results[2].attribution)


@dataclass(frozen=True)
class Disguised(Gradient):
    """Other numbers under the name of a built-in rule."""

    def attribute(self, segment: Segment) -> list[Tensor]:
        return [2 * segment.hidden for _ in segment.features]


class Borrowed(PositiveGradient):
    def __init__(self, label: str) -> None:
        self.label = label


@pytest.mark.parametrize(
    "rule", [Disguised(), *map(Borrowed, ("gradient", "integrated-zero", "integrated-mean/7"))]
)
def test_the_label_of_a_built_in_rule_is_refused(rule: Disguised | Borrowed) -> None:
    network, x = double(chain()), torch.zeros(1, 3, 7, 10, dtype=torch.float64)
    message = rf"has the label '{rule.label}', which is that of a built-in rule"
    with pytest.raises(ValueError, match=message):
        parse_rule(rule)
    with pytest.raises(ValueError, match=message):
        attribute(network, x, "logits:0", "relu1", rule=rule)
    assert parse_rule(Borrowed("integrated-other")).label == "integrated-other"


def test_what_is_no_rule_is_refused() -> None:
    for name in ("tests.support.extensions:noise_source", "tests.support.extensions:InMemory"):
        with pytest.raises((ValueError, TypeError), match=r"no rule of attribution|missing"):
            parse_rule(f"module:{name}")
    with pytest.raises(ValueError, match="must read module:PACKAGE"):
        parse_rule("module:rules")
    with pytest.raises(ValueError, match=r"No module named 'no_such_rules'; run where Python"):
        parse_rule("module:no_such_rules:Rule")


class Shapeless(PositiveGradient):
    """S of the central place alone."""

    label = "shapeless"

    def attribute(self, segment: Segment) -> list[Tensor]:
        return [x[:, :, 1:2, 1:2] for x in super().attribute(segment)]


class Everywhere(PositiveGradient):
    """S that is nowhere zero."""

    label = "everywhere"

    def attribute(self, segment: Segment) -> list[Tensor]:
        return [segment.hidden + 1 for _ in segment.features]


def test_s_that_cannot_be_s_is_refused() -> None:
    network, x = watched(), torch.randn(2, 3, 20, 24, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"shapeless gives S of shape \(2, 4, 1, 1\) where h has"):
        attribute(network, x, "4:0", "1", rule=Shapeless())
    with pytest.raises(ValueError, match=r"everywhere gives S beyond Box\(top=9, left=11, "):
        attribute(network, x, "4:0", "1", rule=Everywhere())


@pytest.mark.parametrize("fails", [False, True])
def test_a_rule_leaves_the_model_as_it_was(fails: bool) -> None:
    class Failing(SmoothGrad):
        def noise(self, shape: object, like: Tensor) -> Tensor:
            raise RuntimeError("no noise today")

    module = chain(norm=True).train()
    module.conv2.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    x, rule = torch.randn(4, 3, 7, 10), Failing() if fails else SmoothGrad()
    before = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="no noise today"):
            attribute(module, x, "conv3:1", "relu1", rule=rule)
    else:
        attribute(module, x, "conv3:1", "relu1", rule=rule)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in module.modules())
    assert [p.requires_grad for p in module.parameters()].count(False) == 1
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
