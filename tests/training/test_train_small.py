"""The script that trains the small network to imitate a large one: its parts, and a few steps."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.support.scripts import import_script

from opponent.models.inceptionv1 import BVLC, SMALL, InceptionV1

pytestmark = pytest.mark.usefixtures("one_thread", "seeded_weights")


@pytest.fixture
def seeded_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def script() -> ModuleType:
    return import_script("training/train_small.py")


@pytest.fixture
def quick(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with small batches, and a checkpoint after each step."""
    for name, value in (("BATCH", 2), ("STATISTICS", 2), ("SECONDS", 0.0), ("SIDE", 120)):
        monkeypatch.setattr(script, name, value)
    return script


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (130, 150, 3), np.uint8)
        name = f"n01440764_{number}.png" if number % 2 else f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    save_file(InceptionV1(BVLC).state_dict(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def test_channels_stand_for_those_of_the_teacher(script: ModuleType) -> None:
    assert script.chosen_channels(4, 10).tolist() == [0, 3, 6, 9]
    # The 3x3 branch of mixed3b: its 96 channels for 192, after the 64 of the 1x1 branch for 128.
    small, large = InceptionV1(SMALL), InceptionV1(BVLC)
    starts, ends = [0, 0], [0, 0]
    for branch in script.BRANCHES:
        sizes = [
            x.get_submodule(f"mixed3b_{branch}_pre_relu_conv").out_channels for x in (small, large)
        ]
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        if starts[0] <= 189 < ends[0]:
            chosen = script.chosen_channels(*sizes)
            assert starts[1] + int(chosen[189 - starts[0]]) == 379
        starts = ends


def test_maps_of_both_networks_lie_alike(script: ModuleType) -> None:
    image = torch.rand(1, 3, 112, 112)
    maps = [script.Watched(InceptionV1(x).eval())(image)[0] for x in (SMALL, BVLC)]
    assert [x.shape[2:] for x in maps[0].values()] == [x.shape[2:] for x in maps[1].values()]


def test_the_error_is_a_share_of_the_variance(quick: ModuleType) -> None:
    lesson = object.__new__(quick.Lesson)
    names = quick.convolutions()
    lesson.variance = {name: torch.tensor([1.0, 4.0]) for name in names}
    lesson.scale = dict.fromkeys(quick.LAYERS, torch.tensor(2.0))
    maps = {name: torch.zeros(1, 2, 1, 1) for name in names}
    shown = {name: torch.tensor([1.0, 3.0]).view(1, 2, 1, 1) for name in names}
    for loss, share in lesson.errors(maps, shown).values():
        # 1 / (1 + 0.05 * 4) and 9 / (4 + 0.05 * 4), and (1 + 9) / (1 + 4).
        assert float(loss) == pytest.approx((1 / 1.2 + 9 / 4.2) / 2)
        assert float(share) == pytest.approx(2)


@pytest.mark.slow
def test_a_training_that_is_interrupted_ends_with_the_same_weights(
    quick: ModuleType, photographs: Path, teacher: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def words(name: str) -> list[str]:
        out = str(tmp_path / f"{name}.safetensors")
        return [str(photographs), "--teacher", str(teacher), "--out", out, "--steps", "4"]

    quick.main(words("whole"))
    whole = capsys.readouterr().out
    assert "12 photographs, 2 of them kept out" in whole
    learn, calls = quick.Pupil.learn, [0]

    def stopped(*given: Any) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        done: dict[str, float] = learn(*given)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(quick.Pupil, "learn", stopped)
        with pytest.raises(SystemExit) as ended:
            quick.main(words("broken"))
    assert ended.value.code == 130
    quick.main(words("broken"))
    for suffix in (".safetensors", ".jsonl"):
        files = [(tmp_path / name).with_suffix(suffix) for name in ("whole", "broken")]
        assert files[0].read_bytes() == files[1].read_bytes()
    lines = (tmp_path / "whole.jsonl").read_text().splitlines()
    # The first convolution is solved for, and no step moves it away.
    assert all(json.loads(line)["conv2d0"] < 0.01 for line in lines)
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    weights = load_file(tmp_path / "whole.safetensors")
    InceptionV1(SMALL).load_state_dict(weights)
    assert {x.dtype for x in weights.values()} == {torch.float16}
    assert '"top1": ' in whole
    with pytest.raises(SystemExit):
        quick.main([*words("broken"), "--seed", "1"])
    assert "is of a training with" in capsys.readouterr().err
