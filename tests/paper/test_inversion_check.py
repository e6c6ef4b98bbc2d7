"""Do inversions do what they say: which layers, which units, what is kept, what is left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import opponent.paper.inversion_check as module
from opponent.cli import app
from opponent.core.errors import EmptyTarget, RunError
from opponent.core.feature import Feature
from opponent.images.sources import ImageSet, open_images
from opponent.models.network import Network
from opponent.models.preprocessing import Preprocessing
from opponent.models.registry import load
from opponent.paper.inversion_check import (
    Pair,
    Traces,
    Verification,
    choose_pairs,
    parse_pair,
    preceding,
    random_units,
    trunk,
    verify,
    write_verification,
)
from opponent.selection import tense
from opponent.storage.run import Run
from opponent.synthesis.inversion import SynthesisSettings, invert

SETTINGS = SynthesisSettings(steps=3, canvas=(24, 24), batch=1, seed=3)
UNITS = 5


class Small(nn.Module):
    """Two convolutions; of the second's units the first three have something missing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.second = nn.Conv2d(6, UNITS, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.head = nn.Linear(UNITS, 4)
        with torch.no_grad():
            assert self.second.bias is not None
            self.second.weight[0] = 0  # dead
            self.second.bias[1] = 100  # always on: never tense
            self.second.weight[2] = -self.second.weight[2].abs()  # nothing excites it
            self.second.bias[3:] = 0

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu1(self.first(images))
        return self.head(self.relu2(self.second(hidden)).mean((2, 3)))


class Branches(nn.Module):
    """A block with two branches, and a sum that goes round a third."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.left, self.relu_left = nn.Conv2d(4, 4, 1), nn.ReLU()
        self.right, self.relu_right = nn.Conv2d(4, 4, 1), nn.ReLU()
        self.round, self.relu_round = nn.Conv2d(8, 8, 1), nn.ReLU()
        self.last, self.relu_last = nn.Conv2d(8, 4, 1), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        stem = self.relu(self.stem(images))
        both = torch.cat([self.relu_left(self.left(stem)), self.relu_right(self.right(stem))], 1)
        both = both + self.relu_round(self.round(both))
        return self.relu_last(self.last(both)).mean((2, 3))


def made(make: Callable[[], nn.Module]) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Network(make().eval(), preprocessing=Preprocessing(size=(16, 16)), name="small")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(60):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def network(pictures: Path) -> Network:
    """With the third unit's bias such that some of its images are in balance."""
    small = made(Small)
    inputs = torch.stack(
        [torch.from_numpy(np.array(Image.open(p))) for p in sorted(pictures.iterdir())]
    )
    with torch.no_grad():
        target = small.run(small.inputs(inputs.numpy()), "relu2").target
        small.module.second.bias[2] -= target[:, 2, 8, 8].median()  # type: ignore[index, union-attr]
    return small


@pytest.fixture(scope="module")
def mini() -> Network:
    return load("inceptionv1-mini")


def asked(
    network: Network,
    images: Path | ImageSet,
    out: Path,
    settings: SynthesisSettings = SETTINGS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    return verify(
        network, images, out, units=UNITS, images_each=2, settings=settings, progress=progress
    )


@pytest.fixture(scope="module")
def finished(
    network: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Verification]:
    folder = tmp_path_factory.mktemp("verify") / "out"
    found = asked(network, pictures, folder)
    write_verification(found, folder)
    return folder, found


# ---------------------------------------------------------------------------- layers and units


def test_preceding_layer_carries_all() -> None:
    branches = made(Branches)
    assert preceding(branches, "relu") is None
    assert preceding(branches, "relu_left") == "relu"
    # The concatenation and the sum lie in no block of their own, and each branch carries a part.
    assert preceding(branches, "relu_last") == "relu"
    assert trunk(branches) == [Pair(target="relu_last", through="relu", whole=True)]


def test_trunk_is_what_preceding_says(mini: Network) -> None:
    found = {pair.target: pair.through for pair in trunk(mini)}
    assert found["mixed3b"] == "mixed3a"
    assert found["mixed4a"] == "mixed3b"  # not the pool between them
    assert "conv2d0" not in found  # only pixels precede it
    for target in ("conv2d1", "mixed3a"):
        assert found[target] == preceding(mini, target)


def test_layers_are_spread_over_the_trunk(mini: Network) -> None:
    all_of_them = trunk(mini)
    assert [x.target for x in choose_pairs(mini, 3)] == [
        all_of_them[0].target,
        all_of_them[5].target,
        all_of_them[10].target,
    ]
    assert choose_pairs(mini, 99) == all_of_them
    with pytest.raises(ValueError, match="at least one layer"):
        choose_pairs(mini, 0)


def test_a_network_without_a_trunk_needs_pairs() -> None:
    flat = made(lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    with pytest.raises(ValueError, match="--pair TARGET:THROUGH"):
        choose_pairs(flat)


def test_pairs_by_name() -> None:
    branches = made(Branches)
    assert parse_pair(branches, "relu_last") == Pair(target="relu_last", through="relu", whole=True)
    assert not parse_pair(branches, "relu_last:relu_left").whole
    assert parse_pair(branches, "relu:pixels").whole
    with pytest.raises(ValueError, match="no layer before 'relu' alone carries"):
        parse_pair(branches, "relu")
    with pytest.raises(ValueError, match="does not lie before"):
        parse_pair(branches, "relu_left:relu_last")
    with pytest.raises(ValueError, match="no layer 'rely'"):
        parse_pair(branches, "rely:relu")


def test_units_are_random_and_their_layers_own(network: Network, mini: Network) -> None:
    units = random_units(mini, "mixed3b", 20, 0)
    assert units == random_units(mini, "mixed3b", 20, 0)
    assert len(set(units)) == 20
    assert units != random_units(mini, "mixed3b", 20, 1)
    assert random_units(mini, "mixed4c", 20, 0) != random_units(mini, "mixed4b", 20, 0)
    assert random_units(network, "relu2", 20, 0) == list(range(UNITS))


# --------------------------------------------------------------------------------------- numbers


def test_moved_counts_by_hand() -> None:
    traces = Traces(
        units=np.array([1, 1, 2]),
        images=("a", "b", "a"),
        own=np.array([-0.5, -0.25, -0.125]),
        activation=np.array([[0.0, 1.0], [0.0, 3.0], [0.0, -1.0]]),
        final=np.array([2.0, -1.0, -0.125]),
    )
    assert traces.moved(1) == 1  # an activation that stays has not moved
    assert traces.moved(-1) == 1
    told = traces.describe(1)
    assert told["inversions"] == 3
    assert told["steps"][1] == {"median": 1.0, "least": -1.0, "most": 3.0}
    assert told["own"]["median"] == -0.25
    assert told["each"][2] == {"unit": 2, "image": "a", "own": -0.125, "final": -0.125}


def test_against_inversions_made_one_by_one(
    network: Network, pictures: Path, finished: tuple[Path, Verification]
) -> None:
    folder, found = finished
    [layer] = found.layers
    assert layer.pair == Pair(target="relu2", through="relu1", whole=True)
    run = Run(folder / "scans" / "0-relu2")
    for side, sign in (("excitation", 1), ("inhibition", -1)):
        traces, first = layer.sides[side], 0
        for unit in sorted(set(traces.units.tolist())):
            columns = run.columns(Feature(layer="relu2", unit=unit))
            rows = tense(columns, 2)
            deviation = np.std([float(x) for x in columns.activation])
            state = np.random.SeedSequence([3, module.zlib.crc32(b"relu2"), unit])
            seed = int(state.generate_state(1)[0])
            for row in rows:
                here = first
                first += 1
                assert traces.units[here] == unit
                assert traces.images[here] == columns.images[row]
                assert traces.own[here] == pytest.approx(columns.activation[row] / deviation)
                made = invert(
                    network,
                    pictures / columns.images[row],
                    f"relu2:{unit}",
                    "relu1",
                    sign=sign,
                    settings=replace(SETTINGS, seed=seed),
                )
                np.testing.assert_allclose(
                    traces.activation[here],
                    made.activation[:, 0].numpy() / deviation,
                    rtol=1e-3,
                    atol=1e-3,
                )
                assert traces.final[here] == pytest.approx(
                    float(made.final[0]) / deviation, rel=1e-3, abs=1e-3
                )
        assert first == len(traces.own) > 0


def test_either_sign_starts_from_the_same_noise(finished: tuple[Path, Verification]) -> None:
    sides = finished[1].layers[0].sides
    start = {side: sides[side].activation[:, 0] for side in sides}
    np.testing.assert_array_equal(start["excitation"], start["inhibition"])
    units = sides["excitation"].units
    assert len({start["excitation"][units == unit][0] for unit in set(units.tolist())}) > 1


def test_what_cannot_be_inverted_is_left_out_and_named(
    finished: tuple[Path, Verification],
) -> None:
    [layer] = finished[1].layers
    why = {unit: reason for unit, _, reason in layer.skipped}
    assert why[0] == "its activation never changes"
    assert why[1] == "it has no tense image"
    assert why[2] == "a side is empty in all its tense images"
    assert layer.empty >= 1
    assert not {0, 1, 2} & set(layer.sides["excitation"].units.tolist())
    told = json.loads((finished[0] / "verify.json").read_text())["layers"][0]["skipped"]
    assert told[0] == {"unit": 0, "side": "both", "why": "its activation never changes"}


def test_an_inversion_without_a_direction_is_left_out(
    network: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object, sign: int, **named: object) -> object:
        if sign < 0:
            raise EmptyTarget("nothing inhibits")
        return invert(*arguments, sign=sign, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "invert", none)
    found = asked(network, pictures, tmp_path / "out")
    [layer] = found.layers
    assert len(layer.sides["inhibition"].own) == 0
    assert layer.sides["inhibition"].describe(-1)["final"] is None
    assert {x for _, x, why in layer.skipped if "in a tense image" in why} == {"inhibition"}
    assert len(layer.sides["excitation"].own) == found.count
    assert all(path.is_file() for path in write_verification(found, tmp_path / "out"))


# --------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("calls", [30, 71])
def test_interrupted_it_ends_with_the_same_bytes(
    calls: int,
    network: Network,
    pictures: Path,
    finished: tuple[Path, Verification],
    tmp_path: Path,
) -> None:
    count = 0

    def stop(*_: object) -> None:
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(network, pictures, tmp_path / "out", progress=stop)
    made = list((tmp_path / "out").glob("parts/*.safetensors"))
    assert len(made) == (calls > 60)  # stopped while it scans, or makes the second inversion
    found = asked(network, pictures, tmp_path / "out")
    for path in write_verification(found, tmp_path / "out"):
        assert path.read_bytes() == (finished[0] / path.name).read_bytes()


def test_nothing_is_made_twice(
    network: Network, pictures: Path, finished: tuple[Path, Verification]
) -> None:
    parts = {path: path.stat().st_mtime_ns for path in (finished[0] / "parts").iterdir()}
    again = asked(network, pictures, finished[0])
    assert again.count == finished[1].count
    assert parts == {path: path.stat().st_mtime_ns for path in (finished[0] / "parts").iterdir()}


def test_another_question_is_refused(
    network: Network, pictures: Path, finished: tuple[Path, Verification]
) -> None:
    with pytest.raises(RunError, match="another question"):
        asked(network, pictures, finished[0], replace(SETTINGS, steps=4))
    some = open_images(pictures)
    with pytest.raises(RunError, match="another question"):
        asked(network, ImageSet(source="some", entries=some.entries[:50]), finished[0])


def test_numbers_that_do_not_fit_are_refused(
    network: Network, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="units and images must be at least 1, got 0 and 3"):
        verify(network, pictures, tmp_path / "out", units=0, images_each=3)
    with pytest.raises(ValueError, match="a layer is given twice"):
        verify(network, pictures, tmp_path / "out", pairs=["relu2", "relu2:relu1"])
    assert not (tmp_path / "out").exists()


def test_command(pictures: Path, tmp_path: Path) -> None:
    words = ["verify-inversions", "inceptionv1-mini", "--images", str(pictures)]
    words += ["--pair", "conv2d1", "--units", "2", "--tense", "1", "--steps", "2"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.exception
    told = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert told["asked"]["network"] == "inceptionv1-mini"
    assert told["asked"]["weights_sha256"] == load("inceptionv1-mini").weights_sha256()
    assert f"{told['moved_as_they_should']} of {told['inversions']} inversions" in result.output
    for name in ("figure11.png", "figure14.png"):
        assert (tmp_path / "out" / name).is_file()
