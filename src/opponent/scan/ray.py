"""Tasks computed by many machines: Ray's actors.

The driver hands out tasks one at a time. An actor makes what it needs once (a network, say), writes
the result of each task to where all can reach it, and says so; then the driver counts it as done.
"""

import logging
import os
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from math import floor
from typing import Any

from opponent.core.errors import RunError
from opponent.models.network import Network
from opponent.scan.executor import Task

# How often a task may be lost with its machine before it is taken for the cause.
RETRIES = 3
# Seconds to wait when there were machines and none is left; a cluster that replaces them takes some
# minutes.
PATIENCE = 600.0


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Computes tasks on Ray's actors: an executor.

    What was interrupted, here or on any machine, goes on where it stopped and ends with the same
    bytes as in one process, whichever of the two began it; on machines whose processors compute
    alike, that is. Images and folders must be where every machine finds them. A Ray that is running
    in this process is used, and left running.

    Args:
        address: of the cluster; 'auto' finds that of this machine; 'local' starts Ray here alone.
        cpus: processors for each actor, which is also how many threads it computes with.
        gpus: GPUs for each actor, or a share of one. The driver needs one as well: it checks the
            network where the actors compute.
        actors: how many; default: as many as the cluster has room for.
        retries: how often a task may be lost with its machine.
    Raises:
        ValueError: no processor and no GPU for an actor, or no actor.

    >>> import opponent
    >>> executor = opponent.Ray(cpus=2.0)  # for scan_images(..., executor=executor)
    >>> executor.threads
    2
    """

    address: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    actors: int | None = None
    retries: int = RETRIES

    def __post_init__(self) -> None:
        cpus, gpus, actors = self.cpus, self.gpus, self.actors
        if cpus < 0 or gpus < 0 or cpus + gpus == 0 or (actors is not None and actors < 1):
            raise ValueError(
                f"an actor needs a share of a processor or GPU and there must be one at least, got "
                f"cpus={cpus:g}, gpus={gpus:g}, actors={actors}"
            )

    @property
    def threads(self) -> int:
        """How many threads an actor computes with."""
        return max(1, floor(self.cpus))

    def check(self, network: Network, *, by_name: bool) -> None:
        """Check that the network lies where the actors compute.

        Args:
            network: the network.
            by_name: whether the actors load it by its name; then it is moved to the GPU if they
                have one.
        Raises:
            ValueError: it does not.
        """
        if by_name and self.gpus:
            try:
                network.to("cuda")
            except ValueError as error:
                raise ValueError(
                    f"the driver needs a GPU as its actors do ({error}); start it on a machine "
                    "that has one"
                ) from error
        kind = network.device.type
        if kind not in ("cpu", "cuda") or (kind == "cuda") != (self.gpus > 0):
            raise ValueError(
                f"{network.name} lies on {kind}, and gpus is {self.gpus:g}: actors compute on cuda "
                "with gpus above 0, or on cpu with gpus 0"
            )

    def map(
        self, make: Callable[[], Callable[[Task], object]], tasks: Sequence[Task]
    ) -> Generator[Task, None, None]:
        """Compute tasks on the actors, in any order; each function writes its result itself.

        A task whose machine or process is lost goes to another actor; an exception of the
        function's own ends it all.

        Args:
            make: called once in each actor, gives the function of a task. It is pickled, and so are
                the tasks.
            tasks: what the function is called with.
        Returns:
            The tasks, each when it is finished. Closing the generator stops the actors.
        Raises:
            ImportError: Ray is not installed.
            ConnectionError: no cluster at the address.
            RunError: a task was lost too often, or an actor fits no machine.
        """
        if not tasks:
            return
        ray = _ray()
        started = _connect(ray, self.address)
        pool = _Pool(ray, self, ray.put(make), deque(tasks))
        try:
            while pool.busy():
                yield from pool.step()
        finally:
            pool.stop()
            if started:
                ray.shutdown()


class _Pool:
    """The actors that live, those that wait, and the calls that are under way."""

    def __init__(self, ray: Any, executor: Ray, make: Any, waiting: deque[Any]) -> None:
        self.ray, self.executor, self.make, self.waiting = ray, executor, make, waiting
        options = {"num_cpus": executor.cpus, "num_gpus": executor.gpus}
        self.kind = ray.remote(_Actor).options(**options)
        self.lost = Counter[Any]()
        self.living, self.idle = list[Any](), list[Any]()
        # For each call its actor and task; None while the actor makes its function.
        self.calls: dict[Any, tuple[Any, Any]] = {}
        self.last_room = -float("inf")

    def busy(self) -> bool:
        """Whether a task waits or is being computed."""
        return bool(self.waiting) or any(task is not None for _, task in self.calls.values())

    def step(self) -> Generator[Any, None, None]:
        """Start actors that fit, hand out tasks, and take what is finished."""
        self._start_actors()
        while self.idle and self.waiting:
            actor, task = self.idle.pop(), self.waiting.popleft()
            self.calls[actor.compute.remote(task)] = (actor, task)
        if not self.calls:
            time.sleep(1)
            return
        for call in self.ray.wait(list(self.calls), num_returns=1, timeout=1)[0]:
            actor, task = self.calls.pop(call)
            if self._succeeded(call, actor, task):
                self.idle.append(actor)
                if task is not None:
                    yield task

    def _start_actors(self) -> None:
        ray, executor = self.ray, self.executor
        room = _room(ray, executor) if executor.actors is None else executor.actors
        if room:
            self.last_room = time.monotonic()
        elif time.monotonic() - self.last_room > PATIENCE:
            raise RunError(_too_small(ray, executor))
        computing = sum(task is not None for _, task in self.calls.values())
        wanted = min(room, computing + len(self.waiting))
        for _ in range(wanted - len(self.calls) - len(self.idle)):
            actor = self.kind.remote()
            self.living.append(actor)
            self.calls[actor.begin.remote(self.make)] = (actor, None)

    def _succeeded(self, call: Any, actor: Any, task: Any) -> bool:
        """Whether a call succeeded; a task that was lost waits again."""
        errors = self.ray.exceptions
        try:
            self.ray.get(call)
        except errors.RayTaskError as error:
            raise (error.cause or error) from error
        except errors.RayError as error:
            self.lost[task] += 1
            if task is not None:
                self.waiting.appendleft(task)
            if self.lost[task] > self.executor.retries:
                raise RunError(_lost(task, self.lost[task], error)) from error
            self.living.remove(actor)
            self._kill(actor)
            return False
        if task is None:
            self.lost[None] = 0
        return True

    def stop(self) -> None:
        """Stop all actors."""
        for actor in self.living:
            self._kill(actor)

    def _kill(self, actor: Any) -> None:
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(actor)


class _Actor:
    """What lives on the machines: one function, made there, and called with one task at a time."""

    def begin(self, make: Callable[[], Callable[[Any], object]]) -> None:
        # Not in __init__: what is raised there does not reach the driver as what it is.
        self.function = make()

    def compute(self, task: Any) -> None:
        self.function(task)


def _ray() -> Any:
    # It measures how it is used and sends that away, unless told otherwise before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise ImportError("ray is not installed: pip install 'opponent[cluster]'") from error


def _connect(ray: Any, address: str) -> bool:
    """Whether this process was connected to no Ray before."""
    if ray.is_initialized():
        return False
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in host:
        try:
            # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(
                f"no Ray answers at {address} ({error}); `ray start --head` starts one there"
            ) from error
    alone = {"address": "local", "include_dashboard": False}
    with warnings.catch_warnings():
        # Of changes that a future version of Ray will bring.
        warnings.simplefilter("ignore")
        ray.init(
            **(alone if address == "local" else {"address": address}),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return True


def _room(ray: Any, executor: Ray) -> int:
    """How many actors fit into the machines that are there."""
    shares = [("CPU", executor.cpus), ("GPU", executor.gpus)]
    return sum(
        min(floor(each["Resources"].get(name, 0) / share) for name, share in shares if share)
        for each in ray.nodes()
        if each["Alive"]
    )


def _too_small(ray: Any, executor: Ray) -> str:
    machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    listed = ", ".join(f"{x.get('CPU', 0):g} and {x.get('GPU', 0):g}" for x in machines) or "none"
    return (
        f"an actor asks for {executor.cpus:g} processors and {executor.gpus:g} GPUs, and no "
        f"machine has as many; there are, machine by machine: {listed}. What is done is kept: give "
        "the same again, and it goes on (with a number of actors, it waits for machines to come)"
    )


def _lost(task: object, times: int, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    what = "an actor, as it began," if task is None else f"task {task}"
    return (
        f"{what} was lost {times} times ({type(error).__name__}: {reason}); is there enough "
        "memory? What is done is kept: give the same again, and it goes on"
    )
