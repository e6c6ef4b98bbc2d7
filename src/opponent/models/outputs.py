"""The one tensor of what a module gives: itself, or the main one of a tuple or a mapping."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor

# What libraries call the main tensor of a mapping: classifiers and transformers, segmentation
# models of torchvision, encoders of transformers.
MAIN = ("logits", "out", "last_hidden_state")


def main_tensor(output: Any) -> Tensor | None:
    """The tensor that an output is read at; None where it has none, or several and none is main.

    Args:
        output: a tensor; a tuple or list, of which the first element counts; or a mapping, of which
            one of `MAIN` counts, or the only tensor.
    """
    key = _main_key(output)
    found = output if key is None else output[key]
    return found if isinstance(found, Tensor) and found.is_floating_point() else None


def with_main_tensor(output: Any, tensor: Tensor) -> Any:
    """The same output with another main tensor.

    Args:
        output: as `main_tensor` takes it, with a main tensor.
        tensor: the other one.
    """
    key = _main_key(output)
    if key is None:
        return tensor
    if isinstance(output, tuple):
        values = (tensor, *output[1:])
        return type(output)(*values) if hasattr(output, "_fields") else values
    changed = copy(output)
    changed[key] = tensor
    return changed


def _main_key(output: Any) -> int | str | None:
    """Where in an output its main tensor lies; None where the output is all there is."""
    if isinstance(output, tuple | list) and len(output):
        return 0
    if isinstance(output, Mapping):
        tensors = [key for key, value in output.items() if isinstance(value, Tensor)]
        named = [key for key in MAIN if key in tensors]
        if named or len(tensors) == 1:
            return (named or tensors)[0]
    return None
