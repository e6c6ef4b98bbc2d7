"""A module and PyTorch's settings, put back as they were after a pass."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's own mode, grad mode and random state come back.

    The caller's autocast is off in it: the numbers are those of the module's own type. Parameters
    need no gradient in it, so that a graph holds only what depends on the through layer.
    """
    training = [submodule for submodule in module.modules() if submodule.training]
    learning = [x for x in module.parameters() if x.requires_grad and x.is_leaf]
    gradients, fast = torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()
    for submodule in training:
        submodule.training = False
    for parameter in learning:
        parameter.requires_grad_(False)
    # Without gradients, PyTorch's transformers would go another way past their own layers.
    torch.backends.mha.set_fastpath_enabled(False)
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=devices), _without_autocast(), _eager():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_grad_enabled(gradients)
        for submodule in training:
            submodule.training = True
        for parameter in learning:
            parameter.requires_grad_()


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Without the caller's autocast; one that a network itself switches on is its own."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without inference mode and autocast, which the caller may have switched on.

    A backward pass needs this too: autocast would round what it computes.
    """
    with torch.inference_mode(False), _without_autocast():
        yield


def _eager() -> AbstractContextManager[object]:
    """What `torch.compile` made runs as it is written: compiled, it would compile the hooks too."""
    # Without dynamo nothing is compiled, and it takes seconds to import.
    loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


def apply_alone(module: nn.Module, inputs: Tensor) -> Any:
    """What a module makes of a copy of the input, without its hooks and without a graph."""
    with as_it_was(module), torch.inference_mode(False), torch.no_grad():
        return module.forward(inputs.clone())
