"""Many machines: the same bytes, whoever computes them and whatever is lost on the way."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, Run, RunError, scan_images
from opponent.scan import ray as module
from opponent.scan.ray import map_parts, scan_on_ray
from opponent.storage.files import AnyPath, to_path

# Everything that needs Ray, in a process of its own: three machines of one processor each, as Ray's
# own tests have them.
SCRIPT = '''
import json, os, signal, sys, threading, time
from pathlib import Path

import torch

import opponent
from opponent.scan.ray import map_parts, scan_on_ray
from opponent.scan.local import begin, compute_shards

torch.set_num_threads(1)
images, out, log = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
victim, stalled = log.with_name("victim"), log.with_name("stalled")


class Slow(torch.nn.Module):
    """Counts its batches; in an actor, writes down on which machine, and waits for the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.two = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.relu = torch.nn.ReLU()
        self.batches = 0

    def forward(self, x):
        self.batches += bool(x.any())
        if x.any() and "ray" in sys.modules and sys.modules["ray"].is_initialized():
            context = sys.modules["ray"].get_runtime_context()
            if context.get_actor_id():
                self.wait(context.get_node_id())
        return self.two(self.relu(self.one(x)))

    def wait(self, machine):
        with log.open("a") as file:
            file.write(machine + "\\n")
        until = time.monotonic() + 60
        while len(machines()) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        # The machine that will be lost stops in its third batch, in the middle of its second part.
        if victim.exists() and log.read_text().split().count(victim.read_text()) == 3:
            if machine == victim.read_text():
                stalled.touch()
                time.sleep(600)
        time.sleep(0.2)


def machines():
    return set(log.read_text().split()) if log.exists() else set()


def network():
    size = opponent.Preprocessing(size=(16, 16))
    return opponent.Network(Slow(), preprocessing=size, name="slow")


ASKED = {
    "features": ["two:3", "two:1"], "through": "relu", "images": images, "batch_size": 2,
    "shard_size": 4, "rule": "integrated-mean/2",
}


def drive(name):
    """A driver that waits until it is told the address, and then scans."""
    reading, writing = os.pipe()
    number = os.fork()
    if number:
        os.close(reading)
        return number, writing
    os.close(writing)
    address = os.read(reading, 100).decode()
    if address:
        scan_on_ray(network(), out=out / name, address=address, **ASKED)
    os._exit(0)


def told(driver, text):
    os.write(driver[1], text.encode())
    os.close(driver[1])


def code(driver):
    return os.waitstatus_to_exitcode(os.waitpid(driver[0], 0)[1])


def shards(name):
    return len(list((out / name / "scan").glob("[0-9]*.parquet")))


def raising():
    """What makes a function that fails. Made here, so that it is sent with what it needs."""
    def compute(part):
        with log.with_name("tried").open("a") as file:
            file.write(f"{part}\\n")
        raise ValueError(f"part {part} is no good")
    return compute


def ended(make, **other):
    try:
        list(map_parts(make, [1, 2, 3], **other))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main():
    found = {}
    slow = network()
    run = begin(slow, out=out / "alone", **ASKED)
    slow.module.batches = 0
    compute_shards(run, slow, run.missing())
    run.finish()
    found["batches alone"] = slow.module.batches
    # Before Ray runs here: a process that has threads cannot fork.
    drivers = [drive("killed"), drive("killed")]
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500,
             "health_check_timeout_ms": 2000, "health_check_failure_threshold": 2}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "_system_config": quick})
    others = [cluster.add_node(**small) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    victim.write_text(others[0].node_id)
    reached = [0]

    def lose():
        while not stalled.exists():
            time.sleep(0.05)
        found["lost after"] = reached[-1]
        cluster.remove_node(others[0], allow_graceful=False)

    threading.Thread(target=lose, daemon=True).start()
    scan_on_ray(network(), out=out / "lost", progress=lambda done, _: reached.append(done), **ASKED)
    found["machines"] = sorted(machines())
    found["batches"] = len(log.read_text().split())
    victim.unlink()
    found["raises"] = ended(raising, actors=1)
    found["tried"] = log.with_name("tried").read_text().split()
    found["no room"] = ended(raising, cpus=64.0)
    found["still connected"] = ray.is_initialized()
    ray.shutdown()

    told(drivers[0], cluster.address)
    until = time.monotonic() + 600
    while shards("killed") < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(drivers[0][0], signal.SIGKILL)
    found["first driver"] = code(drivers[0])
    found["shards before"] = shards("killed")
    told(drivers[1], cluster.address)
    found["second driver"] = code(drivers[1])
    cluster.shutdown()
    print(json.dumps(found))


main()
'''


def paint(folder: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    (folder / "007-bad.png").write_text("no picture")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The scans of the script, and what it found."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("cluster")
    paint(folder / "images", 47)
    (folder / "script.py").write_text(SCRIPT)
    # Sockets' names may have 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    arguments = ["images", "out", "log"]
    try:
        made = subprocess.run(
            [sys.executable, "script.py", *(folder / name for name in arguments)],
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=900,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "RAY_TMPDIR": str(temporary),
                "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
        )
        assert made.returncode == 0, made.stderr[-3000:]
        assert not (left := _running(str(temporary))), f"still running: {left}"
    finally:
        for process in _running(str(temporary)):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "out", json.loads(made.stdout.splitlines()[-1])


def _running(name: str) -> list[int]:
    """Processes that were started with that name in their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:  # it has ended
            pass
    return found


def test_a_scan_that_loses_a_machine_gives_the_same_bytes(
    done: tuple[Path, dict[str, object]],
) -> None:
    out, found = done
    assert files(out / "lost") == files(out / "alone")
    assert len(Run(out / "lost").columns().images) == 47
    # It was lost in the middle, all three had computed, and what it was at was computed again.
    assert 0 <= found["lost after"] < 48
    assert len(found["machines"]) == 3
    assert found["batches"] > found["batches alone"] >= 24


def test_a_scan_whose_driver_is_killed_goes_on(done: tuple[Path, dict[str, object]]) -> None:
    out, found = done
    assert found["first driver"] == -signal.SIGKILL
    assert 2 <= found["shards before"] < 12
    assert found["second driver"] == 0
    assert files(out / "killed") == files(out / "alone")


def test_an_error_of_the_part_itself_is_told_and_not_tried_again(
    done: tuple[Path, dict[str, object]],
) -> None:
    assert done[1]["raises"] == "ValueError: part 1 is no good"
    assert done[1]["tried"] == ["1"]


def test_an_actor_that_fits_nowhere_is_told(done: tuple[Path, dict[str, object]]) -> None:
    message = done[1]["no room"]
    assert "asks for 64 processors and 0 GPUs, and no machine has as many" in message
    assert "machine by machine: 1 and 0, 1 and 0." in message
    assert done[1]["tried"] == ["1"]


def test_a_ray_that_was_running_is_left_running(done: tuple[Path, dict[str, object]]) -> None:
    assert done[1]["still connected"] is True


# How parts are handed out, with a Ray that loses what it is told to


class Task(Exception):
    """What an actor's function raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class Lost(Exception):
    """An actor that is gone."""


class Fake:
    """As much of Ray as there is need for, in this process, with calls that end in any order."""

    exceptions = types.SimpleNamespace(RayTaskError=Task, RayError=Lost)

    def __init__(self, losses: dict[object, int], cpus: list[list[int]], seed: int = 0) -> None:
        self.losses, self.cpus = dict(losses), cpus
        self.random = random.Random(seed)
        self.alive, self.most, self.connected = set[int](), 0, False
        self.computed: list[int] = []

    def is_initialized(self) -> bool:
        return self.connected

    def init(self, **_: object) -> None:
        self.connected = True

    def shutdown(self) -> None:
        self.connected = False

    def nodes(self) -> list[dict[str, object]]:
        """The machines of now; the last that were given stay."""
        machines = self.cpus.pop(0) if len(self.cpus) > 1 else self.cpus[0]
        return [{"Alive": bool(n), "Resources": {"CPU": float(n)} if n else {}} for n in machines]

    def put(self, thing: object) -> object:
        return thing

    def remote(self, _: type) -> "Fake":
        return types.SimpleNamespace(options=lambda **_: types.SimpleNamespace(remote=self.start))

    def start(self) -> object:
        actor = types.SimpleNamespace(number=self.random.random())
        self.alive.add(actor.number)
        self.most = max(self.most, len(self.alive))
        for name in ("begin", "compute"):
            call = types.SimpleNamespace(remote=partial(self.call, actor, name))
            setattr(actor, name, call)
        return actor

    def call(self, actor: types.SimpleNamespace, name: str, given: object) -> tuple[object, ...]:
        assert actor.number in self.alive, "a call of an actor that is gone"
        return actor.number, name, given if name == "compute" else None, self.random.random()

    def wait(self, calls: list[object], **_: object) -> tuple[list[object], list[object]]:
        self.random.shuffle(calls)
        return calls[:1], calls[1:]

    def get(self, call: tuple[float, str, int, float]) -> None:
        number, _, part, _ = call
        if self.losses.get(part, 0):
            self.losses[part] -= 1
            self.alive.discard(number)
            raise Lost("gone")
        if part is not None and part < 0:
            raise Task(ValueError(f"{part} is no good"))
        self.computed += [] if part is None else [part]

    def kill(self, actor: types.SimpleNamespace) -> None:
        self.alive.discard(actor.number)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that sleeping moves on."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


@given(
    count=st.integers(1, 9),
    losses=st.dictionaries(st.none() | st.integers(0, 8), st.integers(0, 3)),
    machines=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=5),
    seed=st.integers(0, 99),
)
def test_every_part_is_computed_once_whatever_is_lost(
    count: int, losses: dict[object, int], machines: list[list[int]], seed: int
) -> None:
    fake = Fake(losses, [[1], *machines, [2, 0, 1]], seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ray", lambda: fake)
        patch.setattr(module.time, "sleep", lambda _: None)
        found = list(map_parts(lambda: print, range(count), retries=3))
    assert sorted(found) == sorted(fake.computed) == list(range(count))
    assert not fake.alive
    assert not fake.connected
    assert fake.most <= max(map(sum, ([1], *machines, [2, 0, 1])))


@pytest.mark.parametrize(("part", "what"), [(1, "part 1"), (None, "an actor, as it began,")])
def test_what_is_lost_too_often_ends_it(
    part: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake({part: 3}, [[1]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    with pytest.raises(RunError, match=rf"^{what} was lost 3 times \(Lost: gone\); is there"):
        list(map_parts(lambda: print, range(3), retries=2))
    assert not fake.alive
    assert not fake.connected


def test_an_error_is_told_as_it_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, [[2]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    with pytest.raises(ValueError, match="-1 is no good"):
        list(map_parts(lambda: print, [0, -1, 2]))
    assert not fake.alive


def test_whoever_stops_early_stops_the_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, [[2]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    finished = map_parts(lambda: print, range(5))
    next(finished)
    assert fake.alive
    finished.close()
    assert not fake.alive
    assert not fake.connected


def test_machines_may_be_gone_for_a_while(
    quick: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ray", lambda: fake)
    fake = Fake({0: 1}, [[1], [1], *[[0]] * 500, [1]])
    assert list(map_parts(lambda: print, [0, 1])) == [0, 1]
    assert 400 < quick[0] < module.PATIENCE
    fake = Fake({0: 1}, [[1], [1], [0]])
    with pytest.raises(RunError, match=r"has as many; there are, .*: none\. What is done"):
        list(map_parts(lambda: print, [0, 1]))
    assert quick[0] > module.PATIENCE
    # None at all from the beginning: at once.
    before, fake = quick[0], Fake({}, [[0]])
    with pytest.raises(RunError, match="asks for 1 processors and 0 GPUs"):
        list(map_parts(lambda: print, [0, 1]))
    assert quick[0] == before
    # Unless so many are asked for: then they wait for machines.
    fake = Fake({}, [[0]])
    assert sorted(map_parts(lambda: print, [0, 1], actors=2)) == [0, 1]
    assert fake.most == 2


# What needs no Ray


class Small(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one = nn.Conv2d(3, 4, 3, padding=1)
            self.relu = nn.ReLU()
            self.two = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.relu(self.one(x)))


@pytest.fixture
def small() -> Network:
    return Network(Small(), preprocessing=Preprocessing(size=(16, 16)), name="small")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return paint(tmp_path / "pictures", 9)


def test_what_is_finished_starts_no_ray(
    small: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"through": "relu", "images": pictures, "out": tmp_path / "run", "shard_size": 4}
    scan_images(small, features="two:3", **asked)
    monkeypatch.setattr(module, "import_module", _absent)
    calls: list[tuple[int, int]] = []
    run = scan_on_ray(small, features="two:3", **asked, progress=lambda *x: calls.append(x))
    assert calls == [(10, 10)]
    assert list(run.unreadable()) == ["007-bad.png"]


def _absent(name: str) -> types.ModuleType:
    raise ModuleNotFoundError(f"No module named {name!r}")


def test_without_ray_it_says_what_to_install(
    small: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "import_module", _absent)
    with pytest.raises(ImportError, match=r"ray is not installed: pip install 'opponent\[cluster"):
        scan_on_ray(small, pictures, "two:3", "relu", out=tmp_path / "run")
    # The plan is checked first.
    with pytest.raises(ValueError, match="'two' has 4 channels"):
        scan_on_ray(small, pictures, "two:4", "relu", out=tmp_path / "other")


def test_where_no_cluster_is_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, [[1]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    with socket.socket() as free:
        # Bound, but nobody listens.
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
        with pytest.raises(ConnectionError, match=f"no Ray answers at {address} .*refused"):
            list(map_parts(lambda: print, [1], address=address))
        free.listen()
        assert list(map_parts(lambda: print, [1], address=address)) == [1]
    assert not fake.connected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpus": 0.0}, "got cpus=0, gpus=0, actors=None"),
        ({"gpus": -1.0}, "got cpus=1, gpus=-1, actors=None"),
        ({"actors": 0}, "got cpus=1, gpus=0, actors=0"),
    ],
)
def test_actors_need_something_to_compute_with(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(map_parts(lambda: print, [1], **given))


def test_a_network_must_lie_where_actors_compute(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    asked = {"through": "relu", "images": pictures, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"small lies on cpu, and gpus is 0\.5"):
        scan_on_ray(small, features="two:3", **asked, gpus=0.5)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="the driver needs a GPU as its actors do"):
            scan_on_ray("inceptionv1-mini", features="mixed4a:3", **asked, gpus=0.5)
    assert not (tmp_path / "run").exists()


def test_an_actor_checks_its_images_and_its_software(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    scan_images(small, pictures, "two:3", "relu", out=tmp_path / "run", shard_size=4)
    run, threads = Run(tmp_path / "run"), torch.get_num_threads()
    digest = module._entries(run, 1).digest()
    assert module._entries(run, 2).entries == run.images.entries[8:]
    before = files(run.folder)
    run.shard(1).unlink()
    compute = module._scanner(run.folder, small, "cpu", threads)
    compute((1, digest))
    assert files(run.folder) == before
    (pictures / "005.png").unlink()
    with pytest.raises(RunError, match=r"does not find the images .* as the driver does .*part 1"):
        compute((1, digest))
    manifest = replace(run.manifest, versions={**run.manifest.versions, "torch": "1.0"})
    (run.folder / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(RunError, match=r"other software .*began with \(torch 2.*same versions on"):
        module._scanner(run.folder, small, "cpu", threads)


def test_a_folder_within_this_process_is_refused(
    small: Network, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("upath")
    asked = {"through": "relu", "images": pictures, "out": "memory://refused/run"}
    with pytest.raises(ValueError, match="memory://refused/run lies within this process"):
        scan_on_ray(small, features="two:3", **asked)


# Run folders elsewhere


@pytest.fixture
def memory() -> Iterator[AnyPath]:
    """A folder of another file system, as an object store's."""
    pytest.importorskip("upath")
    folder = to_path("memory://opponent-runs")
    yield folder
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)


def test_a_run_elsewhere_has_the_same_bytes(
    small: Network, pictures: Path, tmp_path: Path, memory: AnyPath
) -> None:
    asked = {"through": "relu", "images": pictures, "shard_size": 4, "rule": "integrated-mean/2"}
    here = scan_images(small, features="two:3", **asked, out=tmp_path / "run")
    there = scan_images(small, features="two:3", **asked, out=f"{memory}/run")
    expected = files(tmp_path / "run")

    def found() -> dict[str, bytes]:
        prefix = f"{there.folder.path}/"
        return {
            path.removeprefix(prefix): there.folder.fs.cat_file(path)
            for path in there.folder.fs.find(there.folder.path)
        }

    assert found() == expected
    again = Run(f"{memory}/run")
    assert str(again.folder) == "memory://opponent-runs/run"
    assert again.images.entries == here.images.entries
    assert again.unreadable() == here.unreadable()
    np.testing.assert_array_equal(again.columns().l2, here.columns().l2)
    np.testing.assert_array_equal(again.channels(rows=np.array([7, 2])), here.channels()[[7, 2]])
    assert again.exemplars(2, 3) == here.exemplars(2, 3)
    assert torch.equal(again.baseline(small), here.baseline(small))
    # What is lost is computed again, and only that.
    again.shard(1).unlink()
    assert again.missing() == [1]
    with pytest.raises(RunError, match=r"memory://opponent-runs/run is not finished \(2 of 3"):
        again.columns()
    scan_images(small, features="two:3", **asked, out=f"{memory}/run")
    assert found() == expected


def test_whose_folder_it_is_matters_elsewhere_too(
    small: Network, pictures: Path, memory: AnyPath
) -> None:
    asked = {"through": "relu", "images": pictures, "out": f"{memory}/run"}
    scan_images(small, features="two:3", **asked)
    with pytest.raises(RunError, match="memory://opponent-runs/run holds another scan"):
        scan_images(small, features="two:2", **asked)
    with pytest.raises(RunError, match="memory://opponent-runs exists and is not a run folder"):
        scan_images(small, features="two:3", **{**asked, "out": str(memory)})
    with pytest.raises(RunError, match="memory://opponent-runs/none is no run folder"):
        Run(f"{memory}/none")
    (memory / "run" / "scan" / "000000.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(RunError, match=r"memory://.*000000\.parquet is damaged .*delete it"):
        Run(f"{memory}/run").columns()


def test_toy_models_train_on_ray_as_they_do_alone(tmp_path: Path) -> None:
    """In a process of its own, since Ray would stay in this one."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "opponent", "toy", "abs", "--hidden", "6", "--seeds", "20"]
    command += ["--steps", "50", "--out"]
    for name, more in (("alone", []), ("spread", ["--ray", "local"])):
        done = subprocess.run(
            [*command, str(tmp_path / name), *more], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    for file in ("asked.json", "toy.json", "models.safetensors"):
        alone, spread = ((tmp_path / name / file).read_bytes() for name in ("alone", "spread"))
        assert alone == spread


def test_icons_are_made_on_ray_as_they_are_alone(tmp_path: Path) -> None:
    """In processes of their own, since Ray would stay in this one."""
    pytest.importorskip("ray")

    def opponent(*given: object) -> None:
        command = [sys.executable, "-m", "opponent", *map(str, given)]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=alone)
        assert done.returncode == 0, done.stderr

    images, run = paint(tmp_path / "images", 24), tmp_path / "alone"
    opponent(
        "scan", "inceptionv1-mini", "mixed3a:0", "--through", "conv2d2", "--images", images,
        "--out", run,
    )  # fmt: skip
    shutil.copytree(run, tmp_path / "spread")
    for name, more in (("alone", []), ("spread", ["--ray", "local"])):
        few = ("--grid", 4, "--min-images", 1, "--steps", 2, "--signed")
        opponent("atlas", tmp_path / name, *few, *more)
    alone, spread = files(run), files(tmp_path / "spread")
    assert len([name for name in alone if "/icons/" in name and name.endswith(".json")]) > 3
    assert alone == spread
