"""What all tests share: data that may be absent, small networks, and a watch on side effects."""

import importlib.util
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tests.support.browser import (  # noqa: F401
    browser,
    pytest_runtest_setup,
    pytest_runtest_teardown,
)
from torch import nn

if TYPE_CHECKING:
    from opponent import Atlas, Network, Run

# torchvision does not import beside a build of torch for which its compiled operators are missing.
# Their names alone let its models and transforms import.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def _without_operators() -> bool:
    """Whether torchvision is there, and its operators do not load."""
    found = importlib.util.find_spec("torchvision")
    files = [] if found is None or found.origin is None else Path(found.origin).parent.glob("_C*")
    try:
        for file in files:
            torch.ops.load_library(file)
    except OSError:
        pass
    return found is not None and not hasattr(torch.ops.torchvision, "nms")


if _without_operators():
    for _name in ("nms", "qnms", "qroi_align", "deform_conv2d", "_deform_conv2d_backward"):
        _OPERATORS.define(f"{_name}(Tensor x) -> Tensor")
    for _name in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool"):
        _OPERATORS.define(f"{_name}(Tensor x) -> Tensor")
        _OPERATORS.define(f"_{_name}_backward(Tensor x) -> Tensor")

# Where tests run two at a time, two threads each only wait for one another.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

SHARED = Path(os.environ.get("OPPONENT_SHARED", Path(__file__).parents[2] / "shared"))


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not there")
    return path


@pytest.fixture(scope="session")
def photographs() -> Path:
    """1,000 photographs, one a class of ImageNet."""
    return _shared("images", "imagenet-samples")


@pytest.fixture(scope="session")
def tiny_photographs() -> Path:
    """10,000 photographs of 64 x 64 in 200 folders."""
    return _shared("images", "tiny-imagenet-val")


@pytest.fixture(scope="session")
def squeezenet_weights() -> Path:
    """SqueezeNet 1.1's weights."""
    pytest.importorskip("torchvision")
    return _shared("models", "squeezenet1_1_imagenet1k_v1_fp16.safetensors")


@pytest.fixture(scope="session")
def golden() -> Path:
    """What another implementation of InceptionV1 computes."""
    return _shared("reference", "inceptionv1-golden.json")


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers."""
    return torch.Generator().manual_seed(0)


_MODULES: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_initialise = nn.Module.__init__


def _remember(module: nn.Module, *arguments: object, **named: object) -> None:
    _initialise(module, *arguments, **named)
    _MODULES.add(module)


nn.Module.__init__ = _remember  # type: ignore[method-assign]


def _hooked() -> set[int]:
    """Modules, anywhere, that carry a hook."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {id(x) for x in list(_MODULES) if any(x.__dict__.get(kind) for kind in kinds)}


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail on a left-over hook, or a changed global random state or grad mode."""
    # Python's own random state is left out: beartype draws from it.
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    hooked = _hooked()
    yield
    assert torch.equal(torch.get_rng_state(), torch_state), "torch's global random state changed"
    assert (np.random.get_state()[1] == numpy_state).all(), "numpy's random state changed"  # noqa: NPY002
    assert torch.is_grad_enabled(), "gradients were left switched off"
    assert not torch.is_inference_mode_enabled(), "inference mode was left switched on"
    assert _hooked() <= hooked, "a hook was left on a module"


@contextmanager
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch, for a module of tests on small tensors."""
    with _single_thread():
        yield


# A small run and its atlas, made once; to be read, or copied, only. The helpers import the package,
# which runtime checks of shapes need to see first: so not above.


@pytest.fixture(scope="session")
def wave_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty pictures, and one that cannot be read."""
    from tests.support.atlas import paint_waves

    folder = paint_waves(tmp_path_factory.mktemp("waves") / "in", 80)
    (folder / "030-broken.png").write_bytes((folder / "030.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="session")
def wave_network() -> "Network":
    """The small network that the pictures of waves were scanned with."""
    from tests.support.atlas import network_of

    return network_of()


@pytest.fixture(scope="session")
def wave_run(
    wave_network: "Network", wave_pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Run":
    """A run of four shards, without an atlas."""
    from tests.support.atlas import scan_small

    with _single_thread():
        return scan_small(wave_network, wave_pictures, tmp_path_factory.mktemp("scanned") / "run")


@pytest.fixture(scope="session")
def wave_atlas(
    wave_network: "Network", wave_run: "Run", tmp_path_factory: pytest.TempPathFactory
) -> tuple["Atlas", list[tuple[str, int, int]]]:
    """An atlas in a run folder of its own, and the progress on the way."""
    from tests.support.atlas import QUICK, copy_of

    from opponent import make_atlas

    calls: list[tuple[str, int, int]] = []
    run = copy_of(wave_run, tmp_path_factory.mktemp("atlas") / "run")
    with _single_thread():
        atlas = make_atlas(
            run,
            run.features[0],
            network=wave_network,
            settings=QUICK,
            progress=lambda *call: calls.append(call),
        )
    return atlas, calls


@pytest.fixture(scope="session")
def signed_wave_atlas(
    wave_network: "Network",
    wave_atlas: tuple["Atlas", list[tuple[str, int, int]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> "Atlas":
    """The same atlas, to which both sides were added later."""
    from tests.support.atlas import QUICK, copy_of

    from opponent import make_atlas

    run = copy_of(wave_atlas[0].run, tmp_path_factory.mktemp("signed") / "run")
    with _single_thread():
        return make_atlas(run, run.features[0], network=wave_network, settings=QUICK, signed=True)
