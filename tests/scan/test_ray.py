"""How tasks are handed out to Ray's actors: with a Ray of the test's own that loses some."""

import random
import socket
import types
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.scans import files, paint_with_one_bad, two_convolutions

from opponent import Network, Ray, Run, RunError, scan_images
from opponent.attribution.rules import Gradient
from opponent.scan import ray as module
from opponent.scan.local import _shard_worker, shard_images


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
        number, _, task, _ = call
        if self.losses.get(task, 0):
            self.losses[task] -= 1
            self.alive.discard(number)
            raise Lost("gone")
        if task is not None and task < 0:
            raise Task(ValueError(f"{task} is no good"))
        self.computed += [] if task is None else [task]

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
        finished = list(Ray(retries=3).map(lambda: print, range(count)))
    assert sorted(finished) == sorted(fake.computed) == list(range(count))
    assert not fake.alive
    assert not fake.connected
    assert fake.most <= max(map(sum, ([1], *machines, [2, 0, 1])))


@pytest.mark.parametrize(("task", "what"), [(1, "task 1"), (None, "an actor, as it began,")])
def test_what_is_lost_too_often_ends_it(
    task: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake({task: 3}, [[1]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    with pytest.raises(RunError, match=rf"^{what} was lost 3 times \(Lost: gone\); is there"):
        list(Ray(retries=2).map(lambda: print, range(3)))
    assert not fake.alive
    assert not fake.connected


def test_an_error_is_told_as_it_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, [[2]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    with pytest.raises(ValueError, match="-1 is no good"):
        list(Ray().map(lambda: print, [0, -1, 2]))
    assert not fake.alive


def test_whoever_stops_early_stops_the_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, [[2]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    finished = Ray().map(lambda: print, range(5))
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
    assert list(Ray().map(lambda: print, [0, 1])) == [0, 1]
    assert 400 < quick[0] < module.PATIENCE
    fake = Fake({0: 1}, [[1], [1], [0]])
    with pytest.raises(RunError, match=r"has as many; there are, .*: none\. What is done"):
        list(Ray().map(lambda: print, [0, 1]))
    assert quick[0] > module.PATIENCE
    # None at all from the beginning: at once.
    before, fake = quick[0], Fake({}, [[0]])
    with pytest.raises(RunError, match="asks for 1 processors and 0 GPUs"):
        list(Ray().map(lambda: print, [0, 1]))
    assert quick[0] == before
    # Unless so many are asked for: then they wait for machines.
    fake = Fake({}, [[0]])
    assert sorted(Ray(actors=2).map(lambda: print, [0, 1])) == [0, 1]
    assert fake.most == 2


# What needs no Ray


@pytest.fixture
def small() -> Network:
    return two_convolutions()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return paint_with_one_bad(tmp_path / "pictures", 9)


def test_what_is_finished_starts_no_ray(
    small: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = {"through": "relu", "images": pictures, "out": tmp_path / "run", "shard_size": 4}
    scan_images(small, features="two:3", **scan)
    monkeypatch.setattr(module, "import_module", _absent)
    calls: list[tuple[str, int, int]] = []
    run = scan_images(
        small, features="two:3", **scan, executor=Ray(), progress=lambda *x: calls.append(x)
    )
    assert calls == [("scanning", 10, 10)]
    assert list(run.unreadable()) == ["007-bad.png"]


def _absent(name: str) -> types.ModuleType:
    raise ModuleNotFoundError(f"No module named {name!r}")


def test_without_ray_it_says_what_to_install(
    small: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "import_module", _absent)
    with pytest.raises(ImportError, match=r"ray is not installed: pip install 'opponent\[cluster"):
        scan_images(small, pictures, "two:3", "relu", out=tmp_path / "run", executor=Ray())
    # The plan is checked first.
    with pytest.raises(ValueError, match="'two' has 4 channels"):
        scan_images(small, pictures, "two:4", "relu", out=tmp_path / "other", executor=Ray())


def test_where_no_cluster_is_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, [[1]])
    monkeypatch.setattr(module, "_ray", lambda: fake)
    with socket.socket() as free:
        # Bound, but nobody listens.
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
        with pytest.raises(ConnectionError, match=f"no Ray answers at {address} .*refused"):
            list(Ray(address=address).map(lambda: print, [1]))
        free.listen()
        assert list(Ray(address=address).map(lambda: print, [1])) == [1]
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
        list(Ray(**given).map(lambda: print, [1]))


def test_a_network_must_lie_where_actors_compute(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    scan = {"through": "relu", "images": pictures, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"small lies on cpu, and gpus is 0\.5"):
        scan_images(small, features="two:3", **scan, executor=Ray(gpus=0.5))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="the driver needs a GPU as its actors do"):
            scan_images("inceptionv1-small", features="mixed4a:3", **scan, executor=Ray(gpus=0.5))
    assert not (tmp_path / "run").exists()


def test_an_actor_checks_its_images_and_its_software(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    scan_images(small, pictures, "two:3", "relu", out=tmp_path / "run", shard_size=4)
    run, threads = Run(tmp_path / "run"), torch.get_num_threads()
    digest = shard_images(run, 1).digest()
    assert shard_images(run, 2).entries == run.images.entries[8:]
    before = files(run.folder)
    run.shard(1).unlink()
    compute = _shard_worker(run.folder, small, "cpu", threads, Gradient(), None)
    compute((1, digest))
    assert files(run.folder) == before
    (pictures / "005.png").unlink()
    with pytest.raises(RunError, match=r"does not find the images .* as the driver does .*shard 1"):
        compute((1, digest))
    manifest = msgspec.structs.replace(
        run.manifest, versions={**run.manifest.versions, "torch": "1.0"}
    )
    (run.folder / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(RunError, match=r"other software .*began with \(torch 2.*same versions on"):
        _shard_worker(run.folder, small, "cpu", threads, Gradient(), None)


def test_a_folder_within_this_process_is_refused(
    small: Network, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("upath")
    scan = {"through": "relu", "images": pictures, "out": "memory://refused/run"}
    with pytest.raises(ValueError, match="memory://refused/run lies within this process"):
        scan_images(small, features="two:3", **scan, executor=Ray())
