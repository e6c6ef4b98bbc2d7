"""Scans on a cluster of Ray's that loses machines and drivers: the same bytes as alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.support.scans import files, paint_with_one_bad

from opponent import Run

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# Everything that needs Ray, in a process of its own: three machines of one processor each, as Ray's
# own tests have them.
SCRIPT = '''
import json, os, signal, sys, threading, time
from pathlib import Path

import torch

import opponent
from opponent import Ray, scan_images
from opponent.attribution.rules import parse_rule
from opponent.scan.local import begin_scan
from opponent.scan.shard import compute_shards
from opponent.storage.run_writer import finish_run

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
        # The machine that will be lost stops in its third batch, in the middle of its second task.
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


SCAN = {
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
        scan_images(network(), out=out / name, executor=Ray(address=address), **SCAN)
    os._exit(0)


def tell_driver(driver, text):
    os.write(driver[1], text.encode())
    os.close(driver[1])


def code(driver):
    return os.waitstatus_to_exitcode(os.waitpid(driver[0], 0)[1])


def shards(name):
    return len(list((out / name / "scan").glob("[0-9]*.parquet")))


def raising():
    """What makes a function that fails. Made here, so that it is sent with what it needs."""
    def compute(task):
        with log.with_name("tried").open("a") as file:
            file.write(f"{task}\\n")
        raise ValueError(f"task {task} is no good")
    return compute


def ended(make, **other):
    try:
        list(Ray(**other).map(make, [1, 2, 3]))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main():
    facts = {}
    slow = network()
    rule = parse_rule(SCAN["rule"])
    run = begin_scan(slow, out=out / "alone", **{**SCAN, "rule": rule})
    slow.module.batches = 0
    compute_shards(run, slow, rule, run.missing())
    finish_run(run)
    facts["batches alone"] = slow.module.batches
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
        facts["lost after"] = reached[-1]
        cluster.remove_node(others[0], allow_graceful=False)

    threading.Thread(target=lose, daemon=True).start()
    scan_images(
        network(), out=out / "lost", executor=Ray(),
        progress=lambda what, done, total: reached.append(done), **SCAN,
    )
    facts["machines"] = sorted(machines())
    facts["batches"] = len(log.read_text().split())
    victim.unlink()
    facts["raises"] = ended(raising, actors=1)
    facts["tried"] = log.with_name("tried").read_text().split()
    facts["no room"] = ended(raising, cpus=64.0)
    facts["still connected"] = ray.is_initialized()
    ray.shutdown()

    tell_driver(drivers[0], cluster.address)
    until = time.monotonic() + 600
    while shards("killed") < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(drivers[0][0], signal.SIGKILL)
    facts["first driver"] = code(drivers[0])
    facts["shards before"] = shards("killed")
    tell_driver(drivers[1], cluster.address)
    facts["second driver"] = code(drivers[1])
    cluster.shutdown()
    print(json.dumps(facts))


main()
'''


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The scans of the script, and what it facts."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("cluster")
    paint_with_one_bad(folder / "images", 47)
    (folder / "script.py").write_text(SCRIPT)
    # Sockets' names may have 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    arguments = ["images", "out", "log"]
    try:
        ended = subprocess.run(
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
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert not (left := _running(str(temporary))), f"still running: {left}"
    finally:
        for process in _running(str(temporary)):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "out", json.loads(ended.stdout.splitlines()[-1])


def _running(name: str) -> list[int]:
    """Processes that were started with that name in their arguments."""
    facts = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name.encode() in (process / "cmdline").read_bytes():
                facts.append(int(process.name))
        except OSError:  # it has ended
            pass
    return facts


def test_a_scan_that_loses_a_machine_gives_the_same_bytes(
    done: tuple[Path, dict[str, object]],
) -> None:
    out, facts = done
    assert files(out / "lost") == files(out / "alone")
    assert len(Run(out / "lost").columns("two:3").images) == 47
    # It was lost in the middle, all three had computed, and what it was at was computed again.
    assert 0 <= facts["lost after"] < 48
    assert len(facts["machines"]) == 3
    assert facts["batches"] > facts["batches alone"] >= 24


def test_a_scan_whose_driver_is_killed_goes_on(done: tuple[Path, dict[str, object]]) -> None:
    out, facts = done
    assert facts["first driver"] == -signal.SIGKILL
    assert 2 <= facts["shards before"] < 12
    assert facts["second driver"] == 0
    assert files(out / "killed") == files(out / "alone")


def test_an_error_of_the_part_itself_is_told_and_not_tried_again(
    done: tuple[Path, dict[str, object]],
) -> None:
    assert done[1]["raises"] == "ValueError: task 1 is no good"
    assert done[1]["tried"] == ["1"]


def test_an_actor_that_fits_nowhere_is_tell_driver(done: tuple[Path, dict[str, object]]) -> None:
    message = done[1]["no room"]
    assert "asks for 64 processors and 0 GPUs, and no machine has as many" in message
    assert "machine by machine: 1 and 0, 1 and 0." in message
    assert done[1]["tried"] == ["1"]


def test_a_ray_that_was_running_is_left_running(done: tuple[Path, dict[str, object]]) -> None:
    assert done[1]["still connected"] is True
