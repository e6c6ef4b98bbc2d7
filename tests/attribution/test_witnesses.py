"""Attribution against Captum, and against another implementation of InceptionV1."""

import copy
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from tests.support.attribution import EXACT, assert_lawful, randn, seeded
from torch import Tensor, nn

import opponent
from opponent import Attribution, Feature, Network, Preprocessing, attribute
from opponent.geometry.receptive_field import receptive_field
from opponent.models.inceptionv1 import InceptionV1


def not_in_place(model: nn.Module) -> nn.Module:
    """A copy whose layers keep their outputs, which captum holds on to."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def witness(model: nn.Module, x: Tensor, target: str, unit: int, through: str) -> Tensor:
    """The same by captum, for a unit at the centre of a layer that is not an activation."""
    captum = pytest.importorskip("captum.attr")
    model = not_in_place(model).eval()
    modules, maps = dict(model.named_modules()), dict[str, Tensor]()

    def forward(x: Tensor) -> Tensor:
        with ExitStack() as stack:
            keep = modules[target].register_forward_hook(
                lambda m, i, out: maps.update(y=out.clone())
            )
            stack.callback(keep.remove)
            model(x)
        y = maps["y"]
        return y[:, unit] if y.ndim == 2 else y[:, unit, y.shape[2] // 2, y.shape[3] // 2]

    method = captum.LayerGradientXActivation(forward, modules[through])
    return method.attribute(x).detach()


def test_captum_on_the_embedded_network(photographs: Path) -> None:
    network = opponent.load()
    network.module.double()
    files = sorted(photographs.iterdir())[:3]
    inputs = network.load_inputs(files)[0]
    assert (inputs.shape, inputs.dtype) == ((3, 3, 112, 112), torch.float64)
    for target, unit, through in (
        ("softmax2_pre_activation_matmul", 7, "mixed4c"),
        ("mixed3b_3x3_pre_relu_conv", 30, "mixed3a"),
        ("mixed3a_5x5_pre_relu_conv", 3, "conv2d0"),
    ):
        result = attribute(network, files, Feature(layer=target, unit=unit), through)
        expected = witness(network.module, inputs, target, unit, through)
        torch.testing.assert_close(result.attribution, expected, **EXACT)
        assert result.attribution.count_nonzero()
    # Unit 64 of the block, before its ReLU, is unit 0 of its second branch.
    block = network.module.variant.channels(128)
    joined = attribute(network, files, f"mixed3b:{block}", "mixed3a")
    alone = attribute(network, files, "mixed3b_3x3_pre_relu_conv:0", "mixed3a")
    torch.testing.assert_close(joined.attribution, alone.attribution, **EXACT)


@pytest.mark.slow
def test_captum_on_squeezenet(squeezenet_weights: Path, photographs: Path) -> None:
    network = opponent.load("torchvision:squeezenet1_1", squeezenet_weights)
    network.module.double()
    files = sorted(photographs.iterdir())[3:5]
    inputs = network.load_inputs(files)[0]
    for target, unit, through in (
        ("features.7.expand3x3", 10, "features.6"),
        ("features.10.squeeze", 4, "features.3.squeeze_activation"),
        ("features.4.expand1x1", 0, "features.0"),
    ):
        result = attribute(network, files, Feature(layer=target, unit=unit), through)
        expected = witness(network.module, inputs, target, unit, through)
        torch.testing.assert_close(result.attribution, expected, **EXACT)
        # The ReLU in place that follows is another name for the same target.
        other = attribute(network, inputs, f"{target}_activation:{unit}", through)
        assert torch.equal(other.attribution, result.attribution)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_captum_on_skips_and_relus_in_place(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(lambda: models.get_model(name, weights=None))
    network = Network(model, preprocessing=Preprocessing(size=(65, 95)))
    x = randn(2, 3, 65, 95)
    last = "layer2.1.bn2" if name == "resnet18" else "layer2.1.bn3"
    for target, unit, through in (
        ("fc", 11, "layer3"),
        ("fc", 12, "layer1.0.bn1"),
        (last, 40, "layer2.0"),
        (last, 3, "maxpool"),
        ("layer1.1.conv1", 9, "bn1"),
    ):
        result = attribute(network, x, Feature(layer=target, unit=unit), through)
        expected = witness(model, x, target, unit, through)
        torch.testing.assert_close(result.attribution, expected, **EXACT)
        assert result.attribution.count_nonzero()


# Several features, branches, other entrances


@pytest.fixture(scope="module")
def inception() -> Network:
    """InceptionV1 in float64 with weights that anyone can draw again."""
    with torch.random.fork_rng(devices=[]):
        module = InceptionV1().double().eval()
    weights, generator = {}, torch.Generator().manual_seed(0)
    for name, old in sorted(module.state_dict().items()):
        value = torch.randn(old.shape, generator=generator, dtype=torch.float64)
        weights[name] = value * (0.01 if old.ndim == 1 else (2 / old[0].numel()) ** 0.5)
    module.load_state_dict(weights)
    return Network(module, name="golden")


@pytest.fixture(scope="module")
def golden_input() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 224, 224, generator=generator, dtype=torch.float64) * 255 - 117


def test_every_layer_of_another_implementation(
    inception: Network, golden_input: Tensor, golden: Path
) -> None:
    written = json.loads(golden.read_text())
    del written["attribution mixed3b:379 centre through mixed3a"]
    read = {}

    def keep(name: str, y: Tensor) -> None:
        if name in written:
            centre = y[0, :5, y.shape[2] // 2, y.shape[3] // 2]
            read[name] = (list(y.shape), y.mean().item(), y.std().item(), centre.tolist())

    inception.visit(golden_input, keep)
    assert read.keys() == written.keys()
    for name, (shape, mean, std, centre) in read.items():
        entry = written[name]
        assert shape[: len(entry["shape"])] == entry["shape"]
        assert mean == pytest.approx(entry["mean"], rel=1e-9)
        assert std == pytest.approx(entry["std"], rel=1e-9)
        assert centre == pytest.approx(entry["centre_first5"], rel=1e-9, abs=1e-9)


class Leaking(nn.ReLU):
    """A ReLU that lets a tenth of the gradient through where it is off."""

    def forward(self, x: Tensor) -> Tensor:
        leaking = nn.functional.leaky_relu(x, 0.1)
        return leaking + (x.relu() - leaking).detach()


@pytest.mark.slow
def test_the_attribution_of_another_implementation(
    inception: Network, golden_input: Tensor, golden: Path
) -> None:
    wanted = json.loads(golden.read_text())["attribution mixed3b:379 centre through mixed3a"]

    def compare(result: Attribution, *names: str) -> None:
        ours = {
            "activation": result.activation, "E_plus": result.excitation,
            "E_minus": result.inhibition, "l1": result.l1, "l2": result.l2,
        }  # fmt: skip
        for name in names or ours:
            assert ours[name].tolist() == pytest.approx(wanted[name], rel=1e-9), name
        _, _, rows, columns = result.attribution.nonzero().unbind(1)
        assert [rows.min(), rows.max()] == wanted["window_rows"]
        assert [columns.min(), columns.max()] == wanted["window_cols"]
        assert result.feature.label == "mixed3b:379@14,14"
        assert_lawful(result)

    result = attribute(inception, golden_input, "mixed3b:379", "mixed3a")
    compare(result, "activation")
    window = receptive_field(inception, "mixed3b:379", "mixed3a")
    assert window.slices == (slice(12, 17), slice(12, 17))

    # The other implementation's ReLUs leak a tenth of the gradient (which its file does not say),
    # where equation 1 has the gradient itself. With such ReLUs ours gives its numbers.
    module = copy.deepcopy(inception.module)
    module.mixed3b_5x5_bottleneck = Leaking()
    compare(attribute(Network(module), golden_input, "mixed3b:379", "mixed3a"))

    # The gradient itself leaves out nothing but what the biases add.
    with torch.no_grad():
        reading = inception.run(golden_input, "mixed3b_5x5_bottleneck")
        on = (reading.target > 0).double() * module.mixed3b_5x5_bottleneck_pre_relu_conv.bias.view(
            -1, 1, 1
        )
        last = module.mixed3b_5x5_pre_relu_conv
        biases = last(on)[:, 379 - 128 - 192, 14, 14]
    total = result.excitation - result.inhibition
    torch.testing.assert_close(total + biases, result.activation, **EXACT)
