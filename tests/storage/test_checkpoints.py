"""CheckpointFolder of experiments: kept whole, refused where they are another question's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, open_images
from opponent.core.errors import RunError
from opponent.storage.checkpoints import CheckpointFolder, map_images

NETWORK = Network(
    nn.Conv2d(3, 1, 1), preprocessing=Preprocessing(size=(4, 6), mean=(0.0,) * 3, std=(1.0,) * 3)
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(11):
        Image.new("RGB", (6, 4), (i, 0, 0)).save(folder / f"{i:02d}.png")
    (folder / "05.png").write_bytes(b"no picture")
    return folder


def means(inputs: torch.Tensor) -> dict[str, np.ndarray]:
    return {"red": (255 * inputs[:, 0].mean((1, 2))).numpy().astype(np.float32)}


def test_a_part_comes_back_with_what_was_said(tmp_path: Path) -> None:
    parts = CheckpointFolder(tmp_path / "out", {"question": [1, 2]})
    values = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert not parts.has("a")
    parts.write("a", {"x": values}, {"why": "because"})
    arrays, about = CheckpointFolder(tmp_path / "out", {"question": (1, 2)}).read("a")
    assert about == {"why": "because"}
    assert np.array_equal(arrays["x"], values)


def test_another_question_is_refused(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "out", {"seed": 0, "k": 2})
    with pytest.raises(RunError, match=r"another question \(other than this one in seed\)"):
        CheckpointFolder(tmp_path / "out", {"seed": 1, "k": 2})
    with pytest.raises(RunError, match="in its kind"):
        CheckpointFolder(tmp_path / "out", {"seed": 0})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="holds other files"):
        CheckpointFolder(tmp_path / "mine", {"seed": 0})
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_damage_is_told(tmp_path: Path) -> None:
    parts = CheckpointFolder(tmp_path / "out", {})
    parts.path("a").parent.mkdir()
    parts.path("a").write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"a\.safetensors is damaged"):
        parts.read("a")
    (tmp_path / "out" / "asked.json").write_text("{")
    with pytest.raises(RunError, match=r"asked\.json is damaged"):
        CheckpointFolder(tmp_path / "out", {})


def test_all_images_are_computed_once_and_in_order(pictures: Path, tmp_path: Path) -> None:
    parts, seen = CheckpointFolder(tmp_path / "out", {}), list[tuple[int, int]]()
    batches: list[int] = []

    def compute(inputs: torch.Tensor) -> dict[str, np.ndarray]:
        batches.append(len(inputs))
        return means(inputs)

    arrays, ids, unreadable = map_images(
        parts,
        NETWORK,
        open_images(pictures),
        compute,
        batch_size=3,
        shard_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    good = [i for i in range(11) if i != 5]
    assert ids == tuple(f"{i:02d}.png" for i in good)
    assert np.allclose(arrays["red"], good)
    assert list(unreadable) == ["05.png"]
    assert batches == [3, 1, 3, 3]
    assert seen == [(i, 11) for i in range(12)]


def test_an_interruption_costs_its_shard_and_changes_no_byte(
    pictures: Path, tmp_path: Path
) -> None:
    images = open_images(pictures)
    whole = CheckpointFolder(tmp_path / "whole", {})
    map_images(whole, NETWORK, images, means, batch_size=3, shard_size=4)
    broken, calls = CheckpointFolder(tmp_path / "broken", {}), 0

    def stop(inputs: torch.Tensor) -> dict[str, np.ndarray]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return means(inputs)

    with pytest.raises(KeyboardInterrupt):
        map_images(broken, NETWORK, images, stop, batch_size=3, shard_size=4)
    again: list[int] = []

    def go_on(inputs: torch.Tensor) -> dict[str, np.ndarray]:
        again.append(len(inputs))
        return means(inputs)

    arrays, ids, _ = map_images(broken, NETWORK, images, go_on, batch_size=3, shard_size=4)
    assert again == [3, 3]  # but for the first shard
    assert len(ids) == len(arrays["red"]) == 10
    files = sorted(path.name for path in (tmp_path / "whole" / "parts").iterdir())
    assert files == [f"images-00000{i}.safetensors" for i in range(3)]
    for name in files:
        here, there = (tmp_path / x / "parts" / name for x in ("whole", "broken"))
        assert here.read_bytes() == there.read_bytes()


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(RunError, match="no image could be read"):
        map_images(
            CheckpointFolder(tmp_path / "out", {}),
            NETWORK,
            open_images(tmp_path / "pictures"),
            means,
            batch_size=3,
        )
