"""Hugging Face's vision transformers with random weights: their layouts, and S."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import opponent
from opponent import Network
from opponent.models.outputs import main_tensor, with_main_tensor

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "docs" / "networks" / "transformers_small.py"
# Of each network a target, the layer it is explained through, its grid, and tokens beside it.
CASES = {
    "vit": ("vit.layers.3", "vit.layers.1", (8, 8), ("cls",)),
    "dinov2": ("dinov2.encoder.layer.3", "dinov2.encoder.layer.1", (8, 8), ("cls",)),
    "clip": (
        "vision_model.encoder.layers.3", "vision_model.encoder.layers.1", (8, 8), ("cls",)
    ),
    "swin": ("swin.encoder.layers.1.blocks.1", "swin.encoder.layers.0.blocks.1", (16, 16), ()),
    "convnext": (
        "convnext.encoder.stages.1.layers.1.pwconv1",
        "convnext.encoder.stages.1.layers.0.layernorm", (8, 8), (),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("transformers_small", EXAMPLES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slowly(
    network: Network, x: Tensor, target: str, through: str, read: Any
) -> tuple[Tensor, Tensor]:
    """The activation, and S as the module's own tensor lies, with hooks of the test's own."""
    kept: dict[str, Tensor] = {}

    def leaf(_module: object, _inputs: object, output: object) -> object:
        tensor = main_tensor(output)
        assert tensor is not None
        kept["h"] = tensor.detach().requires_grad_()
        return with_main_tensor(output, kept["h"] * 1.0)

    def keep(_module: object, _inputs: object, output: object) -> None:
        tensor = main_tensor(output)
        assert tensor is not None
        kept["f"] = tensor

    hooks = [
        network.module.get_submodule(through).register_forward_hook(leaf),
        network.module.get_submodule(target).register_forward_hook(keep),
    ]
    network.model(x)
    for hook in hooks:
        hook.remove()
    f = read(kept["f"])
    [gradient] = torch.autograd.grad(f.sum(), kept["h"])
    return f.detach(), gradient * kept["h"].detach()


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_channels_last(name: str, examples: ModuleType) -> None:
    network = getattr(examples, name)()
    network.module.double().eval()
    target, through, grid, tokens = CASES[name]
    layer = network.layer(through)
    assert layer.shape[1:] == grid
    assert layer.tokens == tokens
    step = 64 / grid[0]
    assert layer.placement == ((step - 1) / 2, (step - 1) / 2, step, step)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    height, width = network.layer(target).shape[1:]
    row, column = height // 2 + 1, 1

    def read(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:  # channels last
            return tensor[:, row, column, 5]
        return tensor[:, len(tokens) + row * width + column, 5]

    f, s = slowly(network, x, target, through, read)
    ours = opponent.attribute(network, x, f"{target}:5@{row},{column}", through)
    torch.testing.assert_close(ours.activation, f)
    if s.ndim == 4:
        torch.testing.assert_close(ours.attribution, s.permute(0, 3, 1, 2))
        return
    on_map = s[:, len(tokens) :].transpose(1, 2).unflatten(2, grid)
    torch.testing.assert_close(ours.attribution[:, :, *ours.grid.slices], on_map)
    if tokens:
        torch.testing.assert_close(ours.attribution[:, :, grid[0], 0], s[:, 0])
        of_token = opponent.attribute(network, x, f"{target}:5@cls", through)
        f, s = slowly(network, x, target, through, lambda tensor: tensor[:, 0, 5])
        torch.testing.assert_close(of_token.activation, f)
        torch.testing.assert_close(of_token.l1, s.abs().sum((1, 2)))


@pytest.mark.parametrize(
    ("name", "default"), [("vit", "@cls"), ("clip", "@cls"), ("dinov2", "@4,4")]
)
def test_the_class_token_is_the_default_where_the_answer_comes_from_it(
    name: str, default: str, examples: ModuleType
) -> None:
    network = getattr(examples, name)()
    target = CASES[name][0]
    assert network.resolve(f"{target}:5").label == f"{target}:5{default}"
    assert network.layer("logits").shape == (16 if name == "clip" else 10, 1, 1)
