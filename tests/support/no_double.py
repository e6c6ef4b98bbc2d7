"""A device without double precision, such as Apple's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opponent import Network
from opponent.geometry import crop_check


class DoubleUsed(BaseException):
    """What gives double precision was called. Nothing that mends errors of modules catches it."""


def _tensors(values: object) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


class _NoDouble(TorchDispatchMode):
    """Refuses what gives double precision on a device.

    On the CPU the device is played: there lies what is computed from the network's weights, until
    `Tensor.cpu` takes it away. On a real device everything that lies on it is watched, too.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.device, self.moving = network.device, False
        # Kept, so that no other storage comes to lie where one lay.
        self.storages: dict[int, torch.UntypedStorage] = {}
        for tensor in network.module.state_dict().values():
            self._put(tensor)

    @property
    def played(self) -> bool:
        return self.device.type == "cpu"

    def _put(self, tensor: Tensor) -> None:
        if self.played and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = storage

    def holds(self, tensor: Tensor) -> bool:
        if not self.played:
            return tensor.device.type == self.device.type
        return tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self.storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        there = any(self.holds(x) for x in _tensors((args, kwargs)))
        result = func(*args, **kwargs or {})
        if self.moving:
            return result
        for tensor in _tensors(result):
            if there:
                self._put(tensor)
            if tensor.dtype == torch.float64 and self.holds(tensor):
                raise DoubleUsed(f"{func} gives double precision")
        return result


@contextmanager
def no_double(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While active, double precision on the network's device raises `DoubleUsed`.

    A copy of a network in double precision, which is given up where there is none, is refused as
    such a device refuses it.

    Args:
        network: where it lies is the device; on the CPU the device is played.
        monkeypatch: of the test.
    """
    mode, move, copy = _NoDouble(network), Tensor.cpu, crop_check.copy_in

    def cpu(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
        mode.moving = True
        try:
            moved = move(tensor, *arguments, **named)
            return moved.clone() if mode.played else moved
        finally:
            mode.moving = False

    def copy_in(network: Network, dtype: torch.dtype) -> Network:
        if dtype == torch.float64:
            raise TypeError("this device has no double precision")
        return copy(network, dtype)

    with monkeypatch.context() as patch, mode:
        patch.setattr(crop_check, "copy_in", copy_in)
        patch.setattr(Tensor, "cpu", cpu)
        yield
