"""Scans whose shards are computed elsewhere: the protocol, with workers of the test's own."""

from pathlib import Path

import pytest
import torch
from tests.support.extensions import SmoothGrad, Workers, noise_source
from tests.support.scans import files, paint_with_one_bad, two_convolutions

from opponent import Executor, Ray, Run, RunError, scan_images
from opponent.scan.local import copy_on_cpu, reopen_in_worker, shard_images

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"batch_size": 2, "shard_size": 3}


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Nine pictures and one file that is none."""
    return paint_with_one_bad(tmp_path / "pictures", 9)


def test_ray_and_workers_are_executors() -> None:
    assert isinstance(Workers(), Executor)
    assert isinstance(Ray(), Executor)
    assert not isinstance(print, Executor)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("rule", ["gradient", "integrated-mean/2", SmoothGrad()])
def test_what_workers_compute_has_the_same_bytes(
    noise: Path, tmp_path: Path, count: int, rule: str | SmoothGrad
) -> None:
    network, features = two_convolutions(), ["two:3", "two:1@0,9"]
    alone = scan_images(network, noise, features, "relu", out=tmp_path / "a", rule=rule, **SIZES)
    workers, calls = Workers(count), list[tuple[str, int, int]]()
    run = scan_images(
        network, noise, features, "relu", out=tmp_path / "b", rule=rule, executor=workers,
        progress=lambda *call: calls.append(call), **SIZES,
    )  # fmt: skip
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert run.columns(run.features[0]).images == alone.columns(alone.features[0]).images
    assert list(run.unreadable()) == ["007-bad.png"]
    # Shards of 3, 3, 3 and 1 images; the last comes first.
    assert calls == [("scanning", done, 10) for done in (0, 1, 4, 7, 10)]
    assert workers.checked == [("small", False)]
    assert workers.started == min(count, 4)
    assert not workers.open


def test_workers_load_a_network_by_its_name(tmp_path: Path) -> None:
    source, workers = noise_source(4, size=(70, 70)), Workers()
    for name, executor in (("alone", None), ("spread", workers)):
        scan_images(
            "inceptionv1-small", source, ["mixed3a:3", "mixed3a:*"], "conv2d2",
            out=tmp_path / name, executor=executor, **SIZES,
        )  # fmt: skip
    assert workers.checked == [("inceptionv1-small", True)]
    assert files(tmp_path / "alone") == files(tmp_path / "spread")


def test_what_is_finished_needs_no_worker(noise: Path, tmp_path: Path) -> None:
    network, out = two_convolutions(), tmp_path / "run"
    scan_images(network, noise, "two:3", "relu", out=out, **SIZES)
    before, workers = files(out), Workers()
    calls: list[tuple[str, int, int]] = []
    scan_images(
        network, noise, "two:3", "relu", out=out, executor=workers,
        progress=lambda *call: calls.append(call), **SIZES,
    )  # fmt: skip
    assert calls == [("scanning", 10, 10)]
    assert workers.started == 0
    assert files(out) == before


def test_a_scan_goes_on_where_workers_failed(noise: Path, tmp_path: Path) -> None:
    network, out = two_convolutions(), tmp_path / "run"
    workers = Workers(fails_after=2)
    with pytest.raises(ConnectionError, match="a worker is gone"):
        scan_images(network, noise, "two:3", "relu", out=out, executor=workers, **SIZES)
    assert not workers.open
    assert Run(out).missing() == [0, 1]

    def stop(_what: str, done: int, _total: int) -> None:
        if done > 4:
            raise KeyboardInterrupt("stop")

    workers = Workers()
    with pytest.raises(KeyboardInterrupt, match="stop"):
        scan_images(
            network, noise, "two:3", "relu", out=out, executor=workers, progress=stop, **SIZES
        )
    assert not workers.open
    assert Run(out).missing() == [0]
    # The rest alone; then all at once, for comparison.
    scan_images(network, noise, "two:3", "relu", out=out, **SIZES)
    scan_images(network, noise, "two:3", "relu", out=tmp_path / "whole", **SIZES)
    assert files(out) == files(tmp_path / "whole")


def test_an_executor_may_refuse_a_network_before_anything_is_written(
    noise: Path, tmp_path: Path
) -> None:
    network = two_convolutions().to(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="these workers do not compute in bfloat16"):
        scan_images(network, noise, "two:3", "relu", out=tmp_path / "run", executor=Workers())
    assert not (tmp_path / "run").exists()


def test_a_worker_checks_its_images(noise: Path, tmp_path: Path) -> None:
    class Elsewhere(Workers):
        def map(self, make, tasks):  # type: ignore[no-untyped-def]
            (noise / "004.png").unlink()
            return super().map(make, tasks)

    with pytest.raises(RunError, match=r"does not find the images .* as the driver does .*shard 1"):
        scan_images(
            two_convolutions(), noise, "two:3", "relu", out=tmp_path / "run",
            executor=Elsewhere(), **SIZES,
        )  # fmt: skip
    # The others are kept.
    assert Run(tmp_path / "run").missing() == [0, 1]


def test_a_worker_opens_the_run_with_so_many_threads(noise: Path, tmp_path: Path) -> None:
    network = two_convolutions()
    run = scan_images(network, noise, "two:3", "relu", out=tmp_path / "run", **SIZES)
    threads = torch.get_num_threads()
    try:
        opened, same = reopen_in_worker(run.folder, network, "cpu", 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert same is network
    assert opened.manifest == run.manifest
    assert [len(shard_images(opened, number)) for number in range(4)] == [3, 3, 3, 1]
    assert shard_images(opened, 2).entries == run.images.entries[6:9]
    assert copy_on_cpu(network) is network
