"""Where the tasks of a long computation are done: here, or wherever an executor sends them."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from opponent.models.network import Network

Task = TypeVar("Task")


@runtime_checkable
class Executor(Protocol):
    """Computes tasks elsewhere, in any order. `opponent.Ray` is one.

    >>> import tempfile, numpy as np, opponent, torch
    >>> class Here:  # one task after another, in this process
    ...     threads = torch.get_num_threads()
    ...     def check(self, network, *, by_name):
    ...         pass
    ...     def map(self, make, tasks):
    ...         compute = make()
    ...         for task in tasks:
    ...             compute(task)
    ...             yield task
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out, shard_size=2,
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
        self, make: Callable[[], Callable[[Task], object]], tasks: Sequence[Task]
    ) -> Generator[Task, None, None]:
        """Compute tasks; each function writes its result itself.

        Args:
            make: called once in each worker, gives the function of a task. It is pickled, and so
                are the tasks.
            tasks: what the function is called with.
        Returns:
            The tasks, each when it is finished. Closing the generator stops the workers.
        """
        ...
