"""What is said where memory is missing: one line, and no wrong cause."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from opponent import Network, Preprocessing
from opponent.core.errors import out_of_memory
from opponent.geometry.planning import plan_crop

FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 3411968 bytes"


class Full(nn.Module):
    """A layer that finds no memory, but at first."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.passes = passes

    def forward(self, x: Tensor) -> Tensor:
        self.passes -= 1
        if self.passes < 0:
            raise RuntimeError(FULL)
        passed: Tensor = self.two(self.one(x))
        return passed


def test_it_is_known_by_its_kind_and_by_what_is_said() -> None:
    for error in (
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError(FULL),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ):
        assert out_of_memory(error)
    for other in (RuntimeError("sizes differ"), ValueError("out of memory of what happened")):
        assert not out_of_memory(other)


def test_a_network_without_memory_is_no_network_of_unknown_layout() -> None:
    """Whichever of the passes that look at it finds none."""
    said = list[str]()
    for passes in range(12):
        network = Network(Full(passes), preprocessing=Preprocessing(size=(16, 16)))
        try:
            assert network.layers["one"].shape == (4, 14, 14)
            plan = plan_crop(network, [network.resolve("two:1")], "one")
            said.append(plan.reason or "a crop")
        except RuntimeError as error:
            said.append(str(error))
    assert FULL in said
    # Where only the check of a crop found none, all of the image is computed.
    assert set(said) <= {
        FULL,
        "a crop",
        "a part of the image gives other numbers than the whole does",
    }


PROGRAM = """
import sys
from opponent import cli
from opponent.__main__ import main
def full(): raise {error}
cli.app = full
sys.argv = ["opponent"]
main()
"""


@pytest.mark.parametrize("error", ["MemoryError()", f"RuntimeError({FULL!r})"])
def test_the_command_says_so_in_a_line(error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("opponent: error: there is not enough memory (")
    assert "a smaller --batch-size" in done.stderr
    assert done.stderr.count("\n") == 1
