"""Compiled, parallel, scripted, exported and quantised modules: right numbers, or a clear line."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.support.attribution import seeded
from tests.support.pictures import paint_noise
from torch import Tensor, fx, nn

from opponent import Network, Preprocessing, attribute, load, scan_images
from opponent.geometry.bottlenecks import through_layers
from opponent.models.unwrap import unwrap

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own, of what it means to give up.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SMALL = Preprocessing(size=(12, 10))
TARGET, THROUGH = "block.0:1", "relu"


class Plain(nn.Module):
    """A stem, a block of two, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU())
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.block(self.relu(self.stem(x))).mean((2, 3)))
        return y


def plain() -> Plain:
    return seeded(Plain).float()


def pixels() -> Tensor:
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def by_hand(module: Plain) -> tuple[Tensor, Tensor]:
    """f of unit 1 of the block at its centre, and S, with autograd alone."""
    hidden = module.stem(pixels()).relu().detach().requires_grad_()
    activation = module.block[0](hidden)[:, 1, 4, 3]
    [gradient] = torch.autograd.grad(activation.sum(), hidden)
    return activation.detach(), (gradient * hidden).detach()


def refuse(*_: object) -> None:
    """A backend that nothing may reach: wrapping is lazy."""
    pytest.fail("something was compiled")


@pytest.fixture
def compiled() -> Iterator[Callable[[nn.Module], nn.Module]]:
    """`torch.compile`, up to where it would compile."""
    yield lambda module: torch.compile(module, backend=refuse)
    torch._dynamo.reset()


WRAPPERS = {
    "compiled": lambda compile, module: compile(module),
    "parallel": lambda _, module: nn.DataParallel(module),
    "compiled parallel": lambda compile, module: compile(nn.DataParallel(module)),
    "parallel compiled": lambda compile, module: nn.DataParallel(compile(module)),
    "symbolic": lambda _, module: fx.symbolic_trace(module),
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_a_wrapped_module_gives_what_the_plain_one_does(
    how: str, compiled: Callable[[nn.Module], nn.Module]
) -> None:
    module = plain()
    wrapped = WRAPPERS[how](compiled, module).train()
    names = list(wrapped.state_dict())
    network = Network(wrapped, preprocessing=SMALL)
    if how != "symbolic":
        assert network.module is module
        assert network.name == "Plain"
        assert list(network.layers) == list(Network(module, preprocessing=SMALL).layers)
    assert network.weights_sha256() == Network(module).weights_sha256()
    result = attribute(network, pixels(), TARGET, THROUGH)
    activation, s = by_hand(module)
    assert torch.allclose(result.activation, activation, rtol=1e-5)
    assert torch.allclose(result.attribution, s, rtol=1e-5, atol=1e-7)
    # The user's own is left as it was.
    assert list(wrapped.state_dict()) == names
    assert wrapped.training


def test_distributed_modules_are_unwrapped_too() -> None:
    # Making one needs a group of processes.
    module = plain()
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = module
    assert unwrap(wrapped) is module


@pytest.mark.parametrize("in_place", [False, True])
def test_parts_that_are_compiled_run_as_they_are_written(
    in_place: bool, compiled: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    module = plain()
    activation, s = by_hand(module)
    folder = paint_noise(tmp_path / "pictures", 6, (12, 10))
    whole = scan_images(
        Network(plain(), preprocessing=SMALL), folder, TARGET, THROUGH, out=tmp_path / "plain"
    )
    target = TARGET
    if in_place:
        module.block.compile(backend=refuse)
        module.compile(backend=refuse)
    else:
        module.block, target = compiled(module.block), "block._orig_mod.0:1"
    network = Network(module, preprocessing=SMALL)
    result = attribute(network, pixels(), target, THROUGH)
    assert torch.allclose(result.activation, activation, rtol=1e-5)
    assert torch.allclose(result.attribution, s, rtol=1e-5, atol=1e-7)
    run = scan_images(network, folder, target, THROUGH, out=tmp_path / "run")
    assert run.manifest.windows == whole.manifest.windows
    for name in ("activation", "excitation", "inhibition", "l2"):
        assert (getattr(run.columns(), name) == getattr(whole.columns(), name)).all()
    found = [x.layer for x in through_layers(network, "logits")]
    assert found == ["pixels", "relu", "block.1" if in_place else "block._orig_mod.1"]
    # What was compiled still is.
    assert isinstance(module.block, nn.Sequential) is in_place
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_weights_fit_compiled_parts_and_come_from_them(
    compiled: Callable[[nn.Module], nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, other = plain(), plain()
    with torch.no_grad():
        other.stem.bias += 1
    torch.save(other.state_dict(), tmp_path / "plain.pth")
    other.block = compiled(other.block)
    torch.save(compiled(other).state_dict(), tmp_path / "compiled.pth")
    module.block = compiled(module.block)
    made = {"compiled": module, "plain": plain()}
    monkeypatch.setattr("opponent.models.registry.load_object", lambda name: lambda: made[name[7:]])
    for name in made:
        for file in ("plain.pth", "compiled.pth"):
            network = load(f"module:{name}", tmp_path / file)
            assert torch.equal(network.module.stem.bias, other.stem.bias)


def test_dynamo_is_not_imported_for_a_plain_module() -> None:
    import subprocess

    program = (
        "import sys, torch, opponent\n"
        "network = opponent.Network(torch.nn.Conv2d(3, 2, 1))\n"
        "assert list(network.layers) == ['logits'], list(network.layers)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# What has no layers that can be read


def scripted() -> nn.Module:
    return torch.jit.script(plain())


def traced() -> nn.Module:
    return torch.jit.trace(plain(), pixels())


def scripted_part() -> nn.Module:
    module = plain()
    module.block = torch.jit.script(module.block)
    return module


def exported() -> object:
    batch = torch.export.Dim("batch", min=1, max=8)
    return torch.export.export(plain(), (pixels(),), dynamic_shapes=({0: batch},))


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}, dtype=torch.qint8)


REFUSED = {
    "scripted": (
        scripted,
        r"cannot be read: it is TorchScript, .*; hand over the nn\.Module that",
    ),
    "traced": (traced, r"cannot be read: it is TorchScript, which runs outside Python; hand over"),
    "scripted part": (scripted_part, r"^Plain cannot be read: its layer 'block' is TorchScript"),
    "exported": (exported, r"^an exported program has lost its layers; hand over the nn\.Module"),
    "unflattened": (lambda: torch.export.unflatten(exported()), r"^an exported program has lost"),
    "quantised": (
        quantised,
        r"^Plain has no gradients: its layer 'head' is quantised \(Linear\); hand over the model",
    ),
    "no module": (lambda: pixels, r"^a network is made from an nn\.Module, not from function$"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_line(what: str) -> None:
    make, match = REFUSED[what]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make()
    # What is no module does not pass the type checks of these tests elsewhere.
    for use in (unwrap, Network, load) if isinstance(made, nn.Module) else (unwrap,):
        with pytest.raises(ValueError, match=match) as caught:
            use(made)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def exported_module() -> nn.Module:
    """It has a hook of torch's own, so it is made before any test counts hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exported().module()


def test_the_module_of_an_exported_program_has_its_logits(exported_module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Network(exported_module, preprocessing=SMALL)
        ours = attribute(network, pixels(), "logits:1", "pixels")
    wanted = attribute(Network(plain(), preprocessing=SMALL), pixels(), "logits:1", "pixels")
    assert torch.allclose(ours.attribution, wanted.attribution, rtol=1e-5, atol=1e-7)
