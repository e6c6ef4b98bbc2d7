"""Scans in processes of their own, which are really killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.scans import files, paint_shapes

pytestmark = pytest.mark.slow

WORKER = '''
import os, random, signal, sys, time
from pathlib import Path
import torch
import opponent

images, out = Path(sys.argv[1]), Path(sys.argv[2])


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.two = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.relu = torch.nn.ReLU()

    def forward(self, x):
        return self.two(self.relu(self.one(x)))


size = opponent.Preprocessing(size=(32, 32))
network = opponent.Network(Small(), preprocessing=size, name="small")


def scan(name, progress=opponent.silent, count=None):
    entries = opponent.open_images(images).entries[:count]
    opponent.scan_images(
        network, opponent.ImageSet(source="some", entries=entries), "two:3", "relu",
        out=out / name,
        batch_size=3, shard_size=4, progress=progress,
    )


def child(do, *arguments):
    """Run in a child that has all modules already, also those that torch imports when needed."""
    number = os.fork()
    if number:
        return number
    do(*arguments)
    sys.exit(0)


def end(number):
    """How a child ended: its exit code, or the signal as a negative number."""
    waited = time.monotonic() + 60
    while time.monotonic() < waited:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return "still there after a minute"


def stop(name, signal_number, choose):
    """Stop a scan some images and a moment after it began."""
    reading, writing = os.pipe()

    def progress(what, done, total):
        os.write(writing, b".")

    number = child(scan, name, progress)
    os.close(writing)
    count = choose.randrange(1, 7)
    while count and os.read(reading, 1):
        count -= 1
    time.sleep(choose.random() * 0.03)
    os.kill(number, signal_number)
    code = end(number)
    os.close(reading)
    print(name, code, flush=True)


def die_at(step):
    """Scan, and die as the step-th file or folder would be flushed, or renamed."""
    fsync, replace, link, count = os.fsync, Path.replace, os.link, 0

    def counted(do):
        def wrapper(*arguments):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*arguments)
        return wrapper

    os.fsync, Path.replace, os.link = counted(fsync), counted(replace), counted(link)
    scan(f"step{step}", count=7)


def main():
    scan("whole")
    scan("few", count=7)
    for number in range(5):
        stop("killed", signal.SIGKILL, random.Random(number))
    stop("interrupted", signal.SIGINT, random.Random(9))
    for name in ("killed", "interrupted"):
        scan(name)
    step, code = 0, None
    while code != 0:
        step += 1
        code = end(child(die_at, step))
        print("step", step, code, flush=True)
        if code != 0:
            scan(f"step{step}", count=7)


# Each child comes through here too, and ends as a program does.
main()
'''


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Many scans, stopped in many ways and ended, in one process that imports once."""
    folder = tmp_path_factory.mktemp("stopped")
    paint_shapes(folder / "images", 26)
    (folder / "images" / "011-bad.png").write_text("no picture")
    (folder / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [sys.executable, folder / "worker.py", folder / "images", folder / "out"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout.splitlines()


def test_a_scan_killed_five_times_ends_with_the_same_bytes(
    stopped: tuple[Path, list[str]],
) -> None:
    out, lines = stopped
    codes = [line.split()[1] for line in lines if line.startswith("killed")]
    assert len(codes) == 5
    # A scan that was quicker than the kill has ended well; some were not.
    assert set(codes) <= {"-9", "0"}
    assert "-9" in codes
    assert files(out / "killed") == files(out / "whole")


def test_an_interrupted_scan_ends_and_goes_on(stopped: tuple[Path, list[str]]) -> None:
    out, lines = stopped
    [code] = [line.split(maxsplit=1)[1] for line in lines if line.startswith("interrupted")]
    # By the signal, as Python does, or with an error's code; and soon.
    assert code in ("-2", "1", "130", "0")
    assert files(out / "interrupted") == files(out / "whole")


def test_a_scan_killed_at_any_step_of_any_file_goes_on(stopped: tuple[Path, list[str]]) -> None:
    out, lines = stopped
    steps = [line.split()[1:] for line in lines if line.startswith("step")]
    # Two files first, two shards of two, two last; each is flushed, renamed, its folder flushed.
    assert len(steps) == 3 * (2 + 2 * 2 + 2) + 1
    assert {code for _, code in steps[:-1]} == {"-9"}
    for number, _ in steps:
        assert files(out / f"step{number}") == files(out / "few"), f"killed at step {number}"
