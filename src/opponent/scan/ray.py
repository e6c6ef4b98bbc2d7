"""The same parts of an experiment, computed by many machines: Ray's actors.

The driver hands out parts one at a time. An actor makes what it needs once (a network, say), writes
each part itself to where all can reach it, and says so; then the driver counts it as done.
"""

import logging
import os
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from copy import deepcopy
from functools import partial
from importlib import import_module
from math import floor
from pathlib import Path
from platform import node
from typing import Any, TypeVar

import torch

from opponent.attribution.attribute import Rule
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.images.sources import ImageSet
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.scan.local import BATCH, SHARD, begin, compute_shards
from opponent.storage.files import AnyPath, sweep
from opponent.storage.run import Run, versions

# How often a part may be lost with its machine before it is taken for the cause.
RETRIES = 3
# Seconds to wait when there were machines and none is left; a cluster that replaces them takes some
# minutes.
PATIENCE = 600.0
_Part = TypeVar("_Part")


def scan_on_ray(
    network: Network | str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    features: Sequence[Feature | str] | Feature | str,
    through: str,
    *,
    out: str | AnyPath,
    weights: str | Path | None = None,
    batch_size: int = BATCH,
    shard_size: int = SHARD,
    seed: int = 0,
    rule: Rule | str = "gradient",
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    actors: int | None = None,
    retries: int = RETRIES,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """The same scan as `scan`, its shards computed by Ray's actors.

    Interrupted, here or on any machine, it goes on where it stopped and ends with the same bytes as
    a scan in one process, whichever of the two began it; on machines whose processors compute
    alike, that is. Images and run folder must be where every machine finds them.

    Args:
        network: a network, sent to every actor, or a name, by which every actor loads it.
        features, through, images, weights, batch_size, shard_size, seed, rule: as for `scan`.
        out: the run folder, which may be on another file system: 's3://bucket/run'.
        address: of the cluster; 'auto' finds that of this machine; None starts Ray here alone.
        cpus: processors for each actor, which is also how many threads it computes with.
        gpus: GPUs for each actor, or a share of one. The driver needs one as well: it checks the
            network where the actors compute.
        actors: how many; default: as many as the cluster has room for.
        retries: how often a shard may be lost with its machine.
        progress: called with the images done and the images in all.
    Returns:
        The finished run.
    Raises:
        ImportError: Ray is not installed.
        ConnectionError: no cluster at that address.
        ValueError: as for `scan`, or a network that does not lie where the actors compute.
        RunError: as for `scan`; a shard that was lost too often; an actor that fits no machine; a
            machine that finds other images, or has other software.
    """
    opened = load(network, weights)
    check_device(opened, by_name=isinstance(network, str), gpus=gpus)
    run = begin(
        opened, features, through=through, images=images, out=out, batch_size=batch_size,
        shard_size=shard_size, seed=seed, rule=rule,
    )  # fmt: skip
    if not isinstance(run.folder, Path) and run.folder.protocol == "memory":
        raise ValueError(f"{run.folder} lies within this process; no other can write to it")
    folder = run.folder.absolute()
    shards = {number: _entries(run, number) for number in run.missing()}
    total = len(run.images)
    done = total - sum(len(entries) for entries in shards.values())
    if progress is not None:
        progress(done, total)
    handed = None if isinstance(network, str) else on_cpu(opened)
    make = partial(_scanner, folder, handed, opened.device.type, max(1, floor(cpus)))
    parts = [(number, entries.digest()) for number, entries in shards.items()]
    finished = map_parts(
        make, parts, address=address, cpus=cpus, gpus=gpus, actors=actors, retries=retries
    )
    with closing(finished):
        for number, _ in finished:
            done += len(shards[number])
            if progress is not None:
                progress(done, total)
    for name in ("scan", "channels", "units"):
        sweep(run.folder / name)
    run.finish()
    return run


def map_parts(
    make: Callable[[], Callable[[_Part], object]],
    parts: Sequence[_Part],
    *,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    actors: int | None = None,
    retries: int = RETRIES,
) -> Generator[_Part, None, None]:
    """Compute parts on Ray's actors, in any order; each function writes its part itself.

    A part whose machine or process is lost goes to another actor; an exception of the function's
    own ends it all. A Ray that is running in this process is used, and left running.

    Args:
        make: called once in each actor, gives the function of a part. It is pickled, and so are the
            parts.
        parts: what the function is called with.
        address, cpus, gpus, actors, retries: as for `scan_on_ray`.
    Returns:
        The parts, each when it is finished. Closing the generator stops the actors.
    Raises:
        ImportError, ConnectionError, ValueError: as for `scan_on_ray`.
        RunError: a part was lost more than `retries` times, or an actor fits no machine.
    """
    if cpus < 0 or gpus < 0 or cpus + gpus == 0 or (actors is not None and actors < 1):
        raise ValueError(
            f"an actor needs a share of a processor or GPU and there must be one at least, got "
            f"cpus={cpus:g}, gpus={gpus:g}, actors={actors}"
        )
    if not parts:
        return
    ray = _ray()
    started = _connect(ray, address)
    kind = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus)
    waiting, lost = deque(parts), Counter[_Part | None]()
    living, idle = list[Any](), list[Any]()
    # For each call that is under way its actor and part; None while the actor makes its function.
    calls: dict[Any, tuple[Any, _Part | None]] = {}
    seen = -float("inf")  # when there was room last
    try:
        made = ray.put(make)
        while waiting or any(part is not None for _, part in calls.values()):
            room = _room(ray, cpus, gpus) if actors is None else actors
            if room:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                raise RunError(_too_small(ray, cpus, gpus))
            busy = sum(part is not None for _, part in calls.values())
            wanted = min(room, busy + len(waiting))
            for _ in range(wanted - len(calls) - len(idle)):
                actor = kind.remote()
                living.append(actor)
                calls[actor.begin.remote(made)] = (actor, None)
            while idle and waiting:
                actor, given = idle.pop(), waiting.popleft()
                calls[actor.compute.remote(given)] = (actor, given)
            if not calls:
                time.sleep(1)
                continue
            for call in ray.wait(list(calls), num_returns=1, timeout=1)[0]:
                actor, part = calls.pop(call)
                try:
                    ray.get(call)
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from error
                except ray.exceptions.RayError as error:
                    lost[part] += 1
                    if part is not None:
                        waiting.appendleft(part)
                    if lost[part] > retries:
                        raise RunError(_gone(part, lost[part], error)) from error
                    living.remove(actor)
                    with suppress(ray.exceptions.RayError):
                        ray.kill(actor)
                else:
                    idle.append(actor)
                    if part is None:
                        lost[None] = 0
                    else:
                        yield part
    finally:
        for actor in living:
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)
        if started:
            ray.shutdown()


class _Actor:
    """What lives on the machines: one function, made there, and called with one part at a time."""

    def begin(self, make: Callable[[], Callable[[Any], object]]) -> None:
        # Not in __init__: what is raised there does not reach the driver as what it is.
        self.function = make()

    def compute(self, part: Any) -> None:
        self.function(part)


def _scanner(
    folder: AnyPath, network: Network | None, device: str, threads: int
) -> Callable[[tuple[int, str]], None]:
    """What computes a run's shards on this machine: each with its number and its images' digest."""
    run, network = settle(folder, network, device, threads)

    def compute(part: tuple[int, str]) -> None:
        number, digest = part
        if _entries(run, number).digest() != digest:
            raise RunError(
                f"{node()} does not find the images of the scan in {folder} as the driver does "
                f"(those of part {number}); put them where every machine finds them by the same "
                "path"
            )
        compute_shards(run, network, [number])

    return compute


def _entries(run: Run, shard: int) -> ImageSet:
    """The images of one shard."""
    size = run.manifest.shard_size
    return ImageSet(source="", entries=run.images.entries[shard * size : (shard + 1) * size])


def settle(
    folder: AnyPath, network: Network | None, device: str, threads: int
) -> tuple[Run, Network]:
    """A run and its network in an actor's process, on its device and with so many threads.

    Raises:
        RunError: this machine has other versions than the run was begun with.
    """
    torch.set_num_threads(threads)
    run = Run(folder)
    here, there = versions(), run.manifest.versions
    if here != there:
        other = ", ".join(f"{k} {here.get(k)}" for k in there if here.get(k) != there[k])
        raise RunError(
            f"{node()} has other software than the scan in {run.folder} began with ({other}); "
            "install the same versions on every machine"
        )
    network = network or run.load_network()
    network.module.to(device)
    return run, network


def check_device(network: Network, *, by_name: bool, gpus: float) -> None:
    """Raise ValueError where a network lies elsewhere than actors with so many GPUs compute."""
    if by_name and gpus:
        try:
            network.module.to("cuda")
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"the driver needs a GPU as its actors do ({str(error).splitlines()[0]}); start it "
                "on a machine that has one"
            ) from error
    if network.device.type not in ("cpu", "cuda") or (network.device.type == "cuda") != (gpus > 0):
        raise ValueError(
            f"{network.name} lies on {network.device.type}, and gpus is {gpus:g}: actors compute "
            "on cuda with gpus above 0, or on cpu with gpus 0"
        )


def on_cpu(network: Network) -> Network:
    """A network that can be sent to where there is no such device, or one of another number."""
    if network.device.type == "cpu":
        return network
    network = deepcopy(network)
    network.module.cpu()
    return network


def _ray() -> Any:
    # It measures how it is used and sends that away, unless told otherwise before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise ImportError("ray is not installed: pip install 'opponent[cluster]'") from error


def _connect(ray: Any, address: str | None) -> bool:
    """Whether this process was connected to no Ray before."""
    if ray.is_initialized():
        return False
    host, _, port = (address or "").rpartition(":")
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
            **(alone if address in (None, "local") else {"address": address}),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return True


def _room(ray: Any, cpus: float, gpus: float) -> int:
    """How many actors fit into the machines that are there."""
    asked = [("CPU", cpus), ("GPU", gpus)]
    return sum(
        min(floor(each["Resources"].get(name, 0) / share) for name, share in asked if share)
        for each in ray.nodes()
        if each["Alive"]
    )


def _too_small(ray: Any, cpus: float, gpus: float) -> str:
    machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    found = ", ".join(f"{x.get('CPU', 0):g} and {x.get('GPU', 0):g}" for x in machines) or "none"
    return (
        f"an actor asks for {cpus:g} processors and {gpus:g} GPUs, and no machine has as many; "
        f"there are, machine by machine: {found}. What is done is kept: give the same again, and "
        "it goes on (with a number of actors, it waits for machines to come)"
    )


def _gone(part: object, times: int, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    what = "an actor, as it began," if part is None else f"part {part}"
    return (
        f"{what} was lost {times} times ({type(error).__name__}: {reason}); is there enough "
        "memory? What is done is kept: give the same again, and it goes on"
    )
