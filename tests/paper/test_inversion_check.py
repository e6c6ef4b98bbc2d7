"""Whether inversions do what they should: numbers, what is left out, going on, the command."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.checkpoints import checkpoint_files
from tests.support.inversions import UNITS, Small, small_network
from tests.support.pictures import paint_blobs
from typer.testing import CliRunner

import opponent.paper.inversion_check as module
from opponent.cli import app
from opponent.core.errors import EmptyTarget, RunError
from opponent.core.feature import Feature
from opponent.core.side import SIDES, Side
from opponent.images.imageset import ImageSet
from opponent.images.sources import open_images
from opponent.models.network import Network
from opponent.paper.inversion_check import InversionCheck, check_inversions, write_inversion_check
from opponent.paper.layer_pairs import LayerPair
from opponent.selection import tense
from opponent.storage.run import Run
from opponent.synthesis.inversion import invert
from opponent.synthesis.settings import SynthesisSettings

SETTINGS = SynthesisSettings(steps=3, canvas=(24, 24), batch=1, seed=3)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_blobs(tmp_path_factory.mktemp("pictures"), 60, (16, 16))


@pytest.fixture(scope="session")
def network(pictures: Path) -> Network:
    """With the third unit's bias such that some of its images are in balance."""
    small = small_network(Small)
    inputs = torch.stack(
        [torch.from_numpy(np.array(Image.open(p))) for p in sorted(pictures.iterdir())]
    )
    with torch.no_grad():
        target = small.run(small.inputs(inputs.numpy()), "relu2").target
        small.module.second.bias[2] -= target[:, 2, 8, 8].median()  # type: ignore[index, union-attr]
    return small


def check_small(
    network: Network,
    images: Path | ImageSet,
    out: Path,
    settings: SynthesisSettings = SETTINGS,
    progress: Callable[[str, int, int], None] | None = None,
) -> InversionCheck:
    return check_inversions(
        network, images, out=out, units=UNITS, images_each=2, settings=settings, progress=progress
    )


@pytest.fixture(scope="session")
def finished(
    network: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, InversionCheck]:
    folder = tmp_path_factory.mktemp("verify") / "out"
    check = check_small(network, pictures, folder)
    write_inversion_check(check, folder)
    return folder, check


def test_against_inversions_made_one_by_one(
    network: Network, pictures: Path, finished: tuple[Path, InversionCheck]
) -> None:
    folder, finished_check = finished
    [layer] = finished_check.layers
    assert layer.pair == LayerPair(target="relu2", through="relu1", bottleneck=True)
    run = Run(folder / "scans" / "0-relu2")
    for side in SIDES:
        traces, first = layer.sides[side], 0
        for unit in sorted(set(traces.units.tolist())):
            columns = run.columns(Feature(layer="relu2", unit=unit))
            rows = tense(columns, 2)
            deviation = np.std([float(x) for x in columns.activation])
            state = np.random.SeedSequence([3, zlib.crc32(b"relu2"), unit])
            seed = int(state.generate_state(1)[0])
            for row in rows:
                here = first
                first += 1
                assert traces.units[here] == unit
                assert traces.images[here] == columns.images[row]
                assert traces.own[here] == pytest.approx(columns.activation[row] / deviation)
                synthesis = invert(
                    network,
                    pictures / columns.images[row],
                    f"relu2:{unit}",
                    "relu1",
                    side=side,
                    settings=replace(SETTINGS, seed=seed),
                )
                np.testing.assert_allclose(
                    traces.activation[here],
                    synthesis.activation[:, 0].numpy() / deviation,
                    rtol=1e-3,
                    atol=1e-3,
                )
                assert traces.final[here] == pytest.approx(
                    float(synthesis.final[0]) / deviation, rel=1e-3, abs=1e-3
                )
        assert first == len(traces.own) > 0


def test_either_sign_starts_from_the_same_noise(finished: tuple[Path, InversionCheck]) -> None:
    sides = finished[1].layers[0].sides
    start = {side: sides[side].activation[:, 0] for side in sides}
    np.testing.assert_array_equal(start["excitation"], start["inhibition"])
    units = sides["excitation"].units
    assert len({start["excitation"][units == unit][0] for unit in set(units.tolist())}) > 1


def test_what_cannot_be_inverted_is_left_out_and_named(
    finished: tuple[Path, InversionCheck],
) -> None:
    [layer] = finished[1].layers
    why = {unit: reason for unit, _, reason in layer.skipped}
    assert why[0] == "its activation never changes"
    assert why[1] == "it has no tense image"
    assert why[2] == "a side is empty in all its tense images"
    assert layer.empty >= 1
    assert not {0, 1, 2} & set(layer.sides["excitation"].units.tolist())
    described = json.loads((finished[0] / "verify.json").read_text())["layers"][0]["skipped"]
    assert described[0] == {"unit": 0, "side": "both", "why": "its activation never changes"}


def test_an_inversion_without_a_direction_is_left_out(
    network: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def invert_excitation(*arguments: object, side: Side, **named: object) -> object:
        if side == Side.INHIBITION:
            raise EmptyTarget("nothing inhibits")
        return invert(*arguments, side=side, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "invert", invert_excitation)
    check = check_small(network, pictures, tmp_path / "out")
    [layer] = check.layers
    assert len(layer.sides["inhibition"].own) == 0
    assert layer.sides["inhibition"].describe(Side.INHIBITION)["final"] is None
    assert {x for _, x, why in layer.skipped if "in a tense image" in why} == {"inhibition"}
    assert len(layer.sides["excitation"].own) == check.count
    assert all(path.is_file() for path in write_inversion_check(check, tmp_path / "out"))


# Folders


@pytest.mark.parametrize(
    ("what", "when", "finished_inversions"), [("scanning for relu2", 32, 0), ("inverting", 23, 1)]
)
def test_interrupted_it_ends_with_the_same_bytes(
    what: str,
    when: int,
    finished_inversions: int,
    network: Network,
    pictures: Path,
    finished: tuple[Path, InversionCheck],
    tmp_path: Path,
) -> None:
    def stop(now: str, done: int, _: int) -> None:
        if (now, done) == (what, when):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_small(network, pictures, tmp_path / "out", progress=stop)
    kept = checkpoint_files(tmp_path / "out")
    # Stopped while it scans, or makes the second inversion.
    assert len(kept) == finished_inversions
    check = check_small(network, pictures, tmp_path / "out")
    for path in write_inversion_check(check, tmp_path / "out"):
        assert path.read_bytes() == (finished[0] / path.name).read_bytes()


def test_nothing_is_made_twice(
    network: Network, pictures: Path, finished: tuple[Path, InversionCheck]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in checkpoint_files(finished[0])}
    again = check_small(network, pictures, finished[0])
    assert again.count == finished[1].count
    assert before == {path: path.stat().st_mtime_ns for path in checkpoint_files(finished[0])}


def test_another_question_is_refused(
    network: Network, pictures: Path, finished: tuple[Path, InversionCheck]
) -> None:
    with pytest.raises(RunError, match="another question"):
        check_small(network, pictures, finished[0], replace(SETTINGS, steps=4))
    images = open_images(pictures)
    with pytest.raises(RunError, match="another question"):
        check_small(network, ImageSet(source="some", entries=images.entries[:50]), finished[0])


def test_numbers_that_do_not_fit_are_refused(
    network: Network, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="units and images must be at least 1, got 0 and 3"):
        check_inversions(network, pictures, out=tmp_path / "out", units=0, images_each=3)
    with pytest.raises(ValueError, match="a layer is given twice"):
        check_inversions(network, pictures, out=tmp_path / "out", pairs=["relu2", "relu2:relu1"])
    assert not (tmp_path / "out").exists()


def test_command(embedded: Network, pictures: Path, tmp_path: Path) -> None:
    words = ["verify-inversions", "inceptionv1-small", "--images", str(pictures)]
    words += ["--pair", "conv2d1", "--units", "2", "--tense", "1", "--steps", "2"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.exception
    described = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert described["question"]["network"] == "inceptionv1-small"
    assert described["question"]["weights_sha256"] == embedded.weights_sha256()
    assert (
        f"{described['moved_as_they_should']} of {described['inversions']} inversions"
        in result.output
    )
    for name in ("figure11.png", "figure14.png"):
        assert (tmp_path / "out" / name).is_file()
