"""Transformers: what a scan measures of tokens, by every rule, against the definition."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.odd_network import seeded
from tests.support.scans import paint_shapes
from tests.support.token_networks import Tokens, small
from torch import Tensor, nn

import opponent
from opponent import Feature, Network, Preprocessing, Ray, Run, scan_images
from opponent.attribution.all_units import AllUnits, scores, scores_everywhere
from opponent.attribution.attribute import checked_plan
from opponent.models.outputs import main_tensor, with_main_tensor

SIZE = (32, 48)
STEPS = 5


def vision_transformer() -> nn.Module:
    """torchvision's, of two small blocks: a class token before 4 x 6 patches."""
    models = pytest.importorskip("torchvision.models")

    class Oblong(models.vision_transformer.VisionTransformer):  # type: ignore[misc, name-defined]
        def _process_input(self, x: Tensor) -> Tensor:
            tokens: Tensor = self.conv_proj(x).flatten(2).permute(0, 2, 1)
            return tokens

    module: nn.Module = Oblong(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24,
        num_classes=7,
    )  # fmt: skip
    module.encoder.pos_embedding = nn.Parameter(torch.randn(1, 25, 12))  # type: ignore[union-attr]
    nn.init.normal_(module.heads.head.weight)  # type: ignore[union-attr, arg-type]
    return module


def swin_transformer() -> nn.Module:
    """torchvision's, of windows of 4 x 4, shifted in every second block."""
    models = pytest.importorskip("torchvision.models")
    module: nn.Module = models.swin_transformer.SwinTransformer(
        patch_size=[4, 4], embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
        num_classes=7, stochastic_depth_prob=0,
    )  # fmt: skip
    return module


# For each network a target and the layer it is explained through, with the axes of their outputs.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "vit": (vision_transformer, "encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_0"),
    "swin": (swin_transformer, "features.3.0", "features.1.1"),
}
WEIGHTS = torch.arange(24.0) - 9
FEATURES = {
    "vit": [
        Feature(layer=NETWORKS["vit"][1], unit=3, position=(2, 4)),
        Feature(layer=NETWORKS["vit"][1], unit=5, token="cls"),
        Feature.direction(NETWORKS["vit"][1], WEIGHTS[:12], position=(0, 0), power=2),
    ],
    "swin": [
        Feature(layer=NETWORKS["swin"][1], unit=3, position=(1, 4)),
        Feature.direction(NETWORKS["swin"][1], WEIGHTS, position=(0, 0), power=2),
    ],
}


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network_of(name: str) -> Network:
    module = seeded(NETWORKS[name][0]).double()
    return Network(module, preprocessing=Preprocessing(size=SIZE), name=name)


def to_map(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """An output as a map, and what lies beside it."""
    if name == "swin":
        return tensor.permute(0, 3, 1, 2), tensor.new_zeros(len(tensor), tensor.shape[3], 0)
    tokens = tensor.transpose(1, 2)
    return tokens[:, :, 1:].unflatten(2, (4, 6)), tokens[:, :, :1]


class Slow:
    """The network from a module to another, by hooks of its own."""

    def __init__(self, name: str, x: Tensor) -> None:
        self.name, self.x = name, x
        self.module = network_of(name).module
        _, self.target, self.through = NETWORKS[name]
        kept: list[Tensor] = []
        with self._hooked(self.through, lambda tensor: kept.append(tensor.detach())):
            self.module(x)
        self.hidden = kept[0]

    def _hooked(self, layer: str, do: Callable[[Tensor], Tensor | None]) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            tensor = main_tensor(output)
            assert tensor is not None
            changed = do(tensor)
            return None if changed is None else with_main_tensor(output, changed)

        return self.module.get_submodule(layer).register_forward_hook(hook)

    def activation(self, feature: Feature, hidden: Tensor) -> Tensor:
        """The feature's activation where the through layer gives `hidden`."""
        kept: list[Tensor] = []
        with (
            self._hooked(self.through, lambda _: hidden * 1.0),
            self._hooked(self.target, lambda tensor: kept.append(tensor)),
        ):
            self.module(self.x)
        on_map, beside = to_map(self.name, kept[0])
        if feature.token is not None:
            here = beside[:, :, 0]
        else:
            assert feature.position is not None
            here = on_map[:, :, feature.position[0], feature.position[1]]
        if feature.unit is not None:
            return here[:, feature.unit]
        v = torch.tensor(feature.vector, dtype=here.dtype)
        dot = here @ v
        cosine = dot / (here.norm(dim=1) * v.norm())
        return dot * cosine**feature.power

    def attribution(self, feature: Feature, rule: str) -> Tensor:
        """S by the definition: the gradient, or its mean on the way from zero, times h."""
        points, weights = np.array([1.0]), np.array([1.0])
        if rule != "gradient":
            nodes, lengths = np.polynomial.legendre.leggauss(STEPS)
            points, weights = (nodes + 1) / 2, lengths / 2
        total = torch.zeros_like(self.hidden)
        for point, weight in zip(points, weights, strict=True):
            leaf = (point * self.hidden).requires_grad_()
            [gradient] = torch.autograd.grad(self.activation(feature, leaf).sum(), leaf)
            total += weight * gradient
        return total * self.hidden


def inputs() -> Tensor:
    return torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("rule", ["gradient", f"integrated-zero/{STEPS}"])
def test_every_rule_and_power_is_the_definition(name: str, rule: str) -> None:
    network, x = network_of(name), inputs()
    slow = Slow(name, x)
    for feature in FEATURES[name]:
        ours = opponent.attribute(network, x, feature, slow.through, rule=rule)
        on_map, beside = to_map(name, slow.attribution(feature, rule))
        torch.testing.assert_close(ours.activation, slow.activation(feature, slow.hidden))
        below = ours.attribution[:, :, ours.grid.height :].flatten(2)[..., : len(ours.tokens)]
        torch.testing.assert_close(ours.attribution[:, :, *ours.grid.slices], on_map)
        torch.testing.assert_close(below, beside)
        both = torch.cat([on_map.flatten(1), beside.flatten(1)], 1)
        torch.testing.assert_close(ours.excitation, both.clamp(min=0).sum(1))
        torch.testing.assert_close(ours.inhibition, -both.clamp(max=0).sum(1))
        torch.testing.assert_close(ours.excitation_map, on_map.clamp(min=0).sum(1))


def test_all_units_at_once(name: str) -> None:
    network, x = network_of(name), inputs()
    slow, feature = Slow(name, x), FEATURES[name][0]
    for place in ({"position": feature.position}, {"token": "cls"} if name == "vit" else {}):
        star = AllUnits(layer=feature.layer, **place)  # type: ignore[arg-type]
        plan = checked_plan(network, [star.widest(network)], slow.through, x)
        every = scores(network, x, plan)
        for unit in (0, 4, 11):
            one = network.resolve(Feature(layer=feature.layer, unit=unit, **place))  # type: ignore[arg-type]
            s = slow.attribution(one, "gradient").flatten(1)
            expected = torch.stack([s.clamp(min=0).sum(1), -s.clamp(max=0).sum(1)], 1)
            torch.testing.assert_close(every[:, unit, 1:3], expected)
            torch.testing.assert_close(every[:, unit, 0], slow.activation(one, slow.hidden))


def test_every_position_at_once_needs_one_convolution(name: str) -> None:
    network, x = network_of(name), inputs()
    _, target, through = NETWORKS[name]
    with pytest.raises(ValueError, match="needs a layer that one convolution makes"):
        scores_everywhere(network, x, target, through)
    patches = "conv_proj" if name == "vit" else "features.0.0"
    every = scores_everywhere(network, x, patches, "pixels")
    weight = network.module.get_submodule(patches).weight.detach()  # type: ignore[union-attr, operator]
    step = weight.shape[2]
    positive = nn.functional.conv2d(x.clamp(min=0), weight.clamp(min=0), stride=step)
    negative = nn.functional.conv2d((-x).clamp(min=0), (-weight).clamp(min=0), stride=step)
    torch.testing.assert_close(every[:, :, 1], (positive + negative).flatten(2).amax(2))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return paint_shapes(tmp_path / "pictures", 12)


def test_a_scan_keeps_maps_on_the_image_and_sums_of_all_tokens(
    name: str, pictures: Path, tmp_path: Path
) -> None:
    network = network_of(name)
    _, _, through = NETWORKS[name]
    out = tmp_path / "run"
    run = scan_images(network, pictures, FEATURES[name], through, out=out, shard_size=5)
    assert run.manifest.tokens == (("cls",) if name == "vit" else ())
    step = 8 if name == "vit" else 4
    assert run.manifest.placement == ((step - 1) / 2, (step - 1) / 2, step, step)
    for feature, expected in zip(run.features, FEATURES[name], strict=True):
        assert feature.label == expected.label
        columns = run.columns(feature)
        result = opponent.attribute(network, pictures, expected, through)
        np.testing.assert_allclose(columns.excitation, result.excitation, rtol=1e-6)
        np.testing.assert_allclose(columns.inhibition, result.inhibition, rtol=1e-6)
        whole = result.excitation_map[:, *run.through_window(feature).slices]
        np.testing.assert_allclose(columns.excitation_map, whole, rtol=1e-5, atol=1e-9)
        again = Run(tmp_path / "run").columns(feature.label)
        np.testing.assert_array_equal(again.excitation, columns.excitation)


@pytest.mark.cluster
def test_ray_computes_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    network, features = small(seeded(Tokens)), ["mlp:3@1,2", "mlp:5@cls"]
    here, there = (
        scan_images(
            network, pictures, features, "norm", out=tmp_path / folder, shard_size=5,
            executor=executor,
        )
        for folder, executor in (("here", None), ("there", Ray(cpus=1.0)))
    )  # fmt: skip
    for ours, theirs in zip(_files(here), _files(there), strict=True):
        assert ours.name == theirs.name
        assert ours.read_bytes() == theirs.read_bytes()


def _files(run: Run) -> Iterator[Path]:
    return iter(sorted((Path(str(run.folder)) / "scan").glob("*.parquet")))
