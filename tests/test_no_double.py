"""Everything works on a device without double precision, such as Apple's."""

import ast
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.atlas import CENTRE, QUICK, Small, network_of, paint_waves
from tests.support.no_double import DoubleUsed, no_double
from tests.support.token_networks import Tokens
from torch import nn

import opponent
from opponent import Feature, Network, Preprocessing, Run, SynthesisSettings
from opponent.atlas import build
from opponent.core.errors import IndependentFeature
from opponent.core.progress import silent
from opponent.geometry.receptive_field import receptive_field
from opponent.models.signature import signature
from opponent.paper.weight_signs import weight_signs
from opponent.scan.plan import rounding

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FEW_STEPS = SynthesisSettings(steps=2)
THROUGH = "early"


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_waves(tmp_path_factory.mktemp("no-double") / "images", 80)


@pytest.fixture
def network(device: str) -> Network:
    return network_of(Small()).to(device)


@pytest.fixture(scope="module")
def run(device: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan on a device, for what needs one."""
    out = tmp_path_factory.mktemp("no-double-run") / "run"
    return opponent.scan_images(
        network_of(Small()).to(device), images, [CENTRE], THROUGH, out=out, progress=silent
    )


def direction() -> Feature:
    return Feature.direction("mixed", [0.5, -1.0, 0.0, 2.0, 0.0], position=(6, 5), power=2)


def attributes(network: Network, images: Path, run: Run) -> None:
    for rule in ("gradient", "integrated-zero/2"):
        for feature in (CENTRE, direction()):
            result = opponent.attribute(network, images, feature, THROUGH, rule=rule)
            result.to_arrow()
            result._repr_html_()


def takes_a_baseline(network: Network, images: Path, run: Run) -> None:
    for through in (THROUGH, "pixels"):
        mean = opponent.mean_activation(network, images, through, count=4)
        assert mean.device.type == network.device.type
        opponent.attribute(
            network, images, CENTRE, through, rule="integrated-mean/2", baseline=mean
        )


def scans(network: Network, images: Path, run: Run) -> None:
    for features in ([CENTRE], ["mixed:*"]):
        opponent.scan_images(
            network, images, features, THROUGH, out=run.folder.parent / features[0],
            progress=silent,
        )  # fmt: skip


def rounds(network: Network, images: Path, run: Run) -> None:
    rounding(network, images, [CENTRE], THROUGH, torch.bfloat16)


def asks_why(network: Network, images: Path, run: Run) -> None:
    [first, *_] = sorted(images.iterdir())
    opponent.why(network, first, CENTRE, THROUGH, run=run)
    opponent.why(network, first, CENTRE, THROUGH, against="mixed:3@6,5")


def asks_who(network: Network, images: Path, run: Run) -> None:
    opponent.who(run, network=network, channels=2, visualise=FEW_STEPS, progress=silent)


def makes_an_atlas(network: Network, images: Path, run: Run) -> None:
    opponent.make_atlas(run, network=network, settings=QUICK, signed=True, progress=silent)


def synthesises(network: Network, images: Path, run: Run) -> None:
    [first, *_] = sorted(images.iterdir())
    some = network.load_inputs(images)[0][:2]
    for make, given in ((opponent.invert, some), (opponent.accentuate, first)):
        make(
            network, given, CENTRE, THROUGH, side="inhibition", settings=FEW_STEPS, progress=silent
        )
    opponent.visualise(network, CENTRE, settings=FEW_STEPS, progress=silent)


def finds_directions(network: Network, images: Path, run: Run) -> None:
    found = opponent.find_directions(network, images, "mixed", count=3, progress=silent)
    feature = Feature.direction("mixed", torch.tensor(found.vectors[0]), position=(6, 5))
    opponent.attribute(network, images, feature, THROUGH)


def makes_a_direction_of_a_tensor(network: Network, images: Path, run: Run) -> None:
    hidden = network.run(network.load_inputs(images)[0][:1], "mixed").target
    Feature.direction("mixed", hidden[0, :, 6, 5])


def disinhibits(network: Network, images: Path, run: Run) -> None:
    dictionary = opponent.Dictionary.identity(network.map_shape(THROUGH)[0], THROUGH)
    opponent.disinhibit(
        network, images, [CENTRE], THROUGH, dictionary=dictionary, k=2, draws=1,
        out=run.folder.parent / "without", progress=silent,
    )  # fmt: skip


def knows_receptive_fields(network: Network, images: Path, run: Run) -> None:
    receptive_field(network, direction(), THROUGH)


def signs(network: Network, images: Path, run: Run) -> None:
    signature(network, "mixed", THROUGH)
    weight_signs(network)


WORK: list[Callable[[Network, Path, Run], None]] = [
    attributes, takes_a_baseline, scans, rounds, asks_why, asks_who, makes_an_atlas, synthesises,
    disinhibits, finds_directions, makes_a_direction_of_a_tensor, knows_receptive_fields, signs,
]  # fmt: skip


@pytest.mark.parametrize("work", WORK, ids=[x.__name__ for x in WORK])
def test_without_double_precision_it(
    work: Callable[[Network, Path, Run], None],
    network: Network,
    images: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # UMAP takes longer than all else, and sees arrays alone.
    monkeypatch.setattr(build, "lay_out", lambda vectors, **_: np.ascontiguousarray(vectors[:, :2]))
    with no_double(network, monkeypatch):
        work(network, images, run)


class Upsampled(nn.Module):
    """A layer between whose elements another one lies."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.early = nn.ReLU()
            self.larger = nn.Upsample(scale_factor=2, mode="bilinear")
            self.mixed = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(self.larger(self.early(self.stem(x))))


@pytest.mark.parametrize("make", [Upsampled, Tokens])
def test_networks_of_all_kinds_are_read_without_double_precision(
    make: Callable[[], nn.Module], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        module = make().eval().to(device)
    network = Network(module, preprocessing=Preprocessing(size=(16, 16)))
    with no_double(network, monkeypatch):
        for name in network.layers:
            with suppress(IndependentFeature):
                receptive_field(network, f"{name}:0", "pixels")


def test_the_watch_sees_what_it_is_there_for(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = network.module.stem.weight.detach()
    wrong = {
        "double": lambda: weight.double(),
        "to": lambda: weight.to(torch.float64),
        "first double": lambda: weight.abs().double().cpu(),
        "sum": lambda: weight.sum(0, dtype=torch.float64),
        "promoted": lambda: weight.cpu().double().to(network.device) * weight,
        "module": lambda: network.module.double(),
    }
    with no_double(network, monkeypatch):
        for attempt in wrong.values():
            with pytest.raises(DoubleUsed):
                attempt()
        assert weight.abs().cpu().double().sum() > 0
        assert (weight + torch.ones(1, dtype=torch.float64).to(weight)).dtype == torch.float32
    network.module.stem.weight.detach().double()


SOURCES = sorted(Path(opponent.__file__).parent.rglob("*.py"))


def _is_double(node: ast.AST) -> bool:
    return ast.unparse(node) in ("torch.float64", "torch.double")


def test_nothing_is_made_in_double_precision_on_a_device() -> None:
    """What the watch cannot see on the CPU: a tensor of no others, made on the network's device."""
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            named = {x.arg: x.value for x in node.keywords}
            given = [*node.args, *named.values()]
            what = ast.unparse(node)
            if "device" in named and any(_is_double(x) for x in given):
                wrong.append(f"{path.name}:{node.lineno}: {what}")
            # Of a chain, the part before the call that makes it double.
            if isinstance(node.func, ast.Attribute) and node.func.attr == "double":
                before = ast.unparse(node.func.value)
                if not before.endswith(".cpu()"):
                    wrong.append(f"{path.name}:{node.lineno}: {what}")
    assert not wrong
