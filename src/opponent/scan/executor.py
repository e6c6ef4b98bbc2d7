"""Where the parts of a long computation run: here, or wherever an executor sends them."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from opponent.models.network import Network

Part = TypeVar("Part")


@runtime_checkable
class Executor(Protocol):
    """Computes parts elsewhere, in any order. `opponent.Ray` is one.

    >>> import tempfile, numpy as np, opponent, torch
    >>> class Here:  # one part after another, in this process
    ...     threads = torch.get_num_threads()
    ...     def check(self, network, *, by_name):
    ...         pass
    ...     def map(self, make, parts):
    ...         compute = make()
    ...         for part in parts:
    ...             compute(part)
    ...             yield part
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-mini", Noise(), "mixed3b:168", "mixed3a", out=out, shard_size=2,
    ...         executor=Here())
    ...     run.columns()
    Columns(4 images, maps of 5 x 5)
    """

    @property
    def threads(self) -> int:
        """How many threads a worker computes with."""
        ...

    def check(self, network: Network, *, by_name: bool) -> None:
        """Check that the network lies where the workers compute.

        Args:
            network: the network.
            by_name: whether the workers load it by its name.
        Raises:
            ValueError: it does not.
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
