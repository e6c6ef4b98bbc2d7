"""Where the parts of a long computation run: here, or wherever an executor sends them."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from opponent.models.network import Network

Part = TypeVar("Part")


@runtime_checkable
class Executor(Protocol):
    """Computes parts elsewhere, in any order. `opponent.Ray` is one."""

    @property
    def threads(self) -> int:
        """How many threads a worker computes with."""
        ...

    def check(self, network: Network, *, by_name: bool) -> None:
        """Raise `ValueError` where the network does not lie where the workers compute.

        Args:
            network: the network.
            by_name: whether the workers load it by its name.
        """
        ...

    def map(
        self, make: Callable[[], Callable[[Part], object]], parts: Sequence[Part]
    ) -> Generator[Part, None, None]:
        """Compute parts; each function writes its part itself.

        Args:
            make: called once in each worker, gives the function of a part. It is pickled, and so
                are the parts.
            parts: what the function is called with.
        Returns:
            The parts, each when it is finished. Closing the generator stops the workers.
        """
        ...
