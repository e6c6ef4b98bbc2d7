"""Checkpoint folders: kept whole, refused where they are another question's, gone on with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, open_images
from opponent.core.errors import RunError
from opponent.storage.checkpoints import CheckpointFolder, map_images, plain, question_digest
from opponent.storage.files import AnyPath, to_path

NETWORK = Network(
    nn.Sequential(nn.Conv2d(3, 1, 1)),
    preprocessing=Preprocessing(size=(4, 6), mean=(0.0,) * 3, std=(1.0,) * 3),
)
GOOD = [i for i in range(11) if i != 5]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(11):
        Image.new("RGB", (6, 4), (i, 0, 0)).save(folder / f"{i:02d}.png")
    (folder / "05.png").write_bytes(b"no picture")
    return folder


def means(inputs: torch.Tensor, _numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {"red": (255 * inputs[:, 0].mean((1, 2))).numpy().astype(np.float32)}


# One checkpoint


def test_a_part_comes_back_with_what_was_said(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path / "out", {"question": [1, 2]})
    values = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert not checkpoints.has("a")
    checkpoints.write("a", {"x": values}, {"why": "because"})
    arrays, about = CheckpointFolder(tmp_path / "out", {"question": (1, 2)}).read("a")
    assert about == {"why": "because"}
    assert np.array_equal(arrays["x"], values)


def test_a_checkpoint_that_nobody_needs_is_dropped(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path / "out", {})
    checkpoints.drop("a")
    for name in ("a", "b"):
        checkpoints.write(name, {"x": np.zeros(2)})
    checkpoints.drop("a")
    assert (checkpoints.has("a"), checkpoints.has("b")) == (False, True)
    assert not checkpoints.path("a").exists()
    assert checkpoints.read("b")[1] == {}


@pytest.fixture
def memory() -> Iterator[AnyPath]:
    """A folder of another file system."""
    pytest.importorskip("upath")
    folder = to_path("memory://opponent-tests/checkpoints")
    yield folder
    folder.fs.rm("/opponent-tests", recursive=True) if folder.fs.exists("/opponent-tests") else None


def test_elsewhere_it_is_the_same(memory: AnyPath) -> None:
    checkpoints = CheckpointFolder(str(memory), {"seed": 0})
    checkpoints.write("a", {"x": np.arange(3)}, {"why": "because"})
    again = CheckpointFolder(memory, {"seed": 0})
    arrays, about = again.read("a")
    assert (arrays["x"].tolist(), about) == ([0, 1, 2], {"why": "because"})
    again.drop("a")
    again.drop("a")
    assert not again.has("a")
    with pytest.raises(RunError, match="another question"):
        CheckpointFolder(memory, {"seed": 1})


# Whose folder it is


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
    checkpoints = CheckpointFolder(tmp_path / "out", {})
    checkpoints.path("a").parent.mkdir()
    checkpoints.path("a").write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"a\.safetensors is damaged"):
        checkpoints.read("a")
    (tmp_path / "out" / "question.json").write_text("{")
    with pytest.raises(RunError, match=r"question\.json is damaged"):
        CheckpointFolder(tmp_path / "out", {})


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"7", b"\xff", b"[" * 100_000])
def test_a_question_that_is_none_is_damage(tmp_path: Path, content: bytes) -> None:
    CheckpointFolder(tmp_path / "out", {"seed": 0})
    (tmp_path / "out" / "question.json").write_bytes(content)
    with pytest.raises(RunError, match=r"question\.json is damaged \(.+\); delete") as caught:
        CheckpointFolder(tmp_path / "out", {"seed": 0})
    assert "\n" not in str(caught.value)


def test_folders_of_several_questions_lie_side_by_side(tmp_path: Path) -> None:
    first = CheckpointFolder.named(tmp_path, "mixed3b:379@7,3", {"seed": 0})
    second = CheckpointFolder.named(tmp_path, "mixed3b:379@7,3", {"seed": 1})
    assert first.folder != second.folder
    assert first.folder.name == f"mixed3b-379-7_3-{question_digest({'seed': 0}, 8)}"
    first.write("a", {"x": np.zeros(1)})
    assert CheckpointFolder.named(tmp_path, "mixed3b:379@7,3", {"seed": 0}).has("a")
    assert not second.has("a")
    outside = CheckpointFolder.named(tmp_path, "../../x", {})
    assert outside.folder.parent == tmp_path


QUESTIONS = st.dictionaries(
    st.text(max_size=3), st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
)


@given(QUESTIONS, QUESTIONS)
def test_digests_differ_where_questions_do(a: dict[str, object], b: dict[str, object]) -> None:
    assert (question_digest(a) == question_digest(b)) == (a == b)
    assert question_digest(dict(reversed(a.items()))) == question_digest(a)
    assert len(question_digest(a)) == 10
    assert question_digest(a, 20).startswith(question_digest(a))


def test_a_plain_question_is_as_its_reader_finds_it() -> None:
    assert plain({"size": (1, 2), "inner": {1: None}}) == {"size": [1, 2], "inner": {"1": None}}


# A pass over images


def test_all_images_are_computed_once_and_in_order(pictures: Path, tmp_path: Path) -> None:
    checkpoints, seen = CheckpointFolder(tmp_path / "out", {}), list[tuple[str, int, int]]()
    batches: list[list[int]] = []

    def compute(inputs: torch.Tensor, numbers: np.ndarray) -> dict[str, np.ndarray]:
        assert len(inputs) == len(numbers)
        batches.append(numbers.tolist())
        return means(inputs, numbers)

    arrays, ids, unreadable = map_images(
        checkpoints,
        NETWORK,
        open_images(pictures),
        compute,
        until="0",
        batch_size=3,
        shard_size=4,
        what="means",
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert ids == tuple(f"{i:02d}.png" for i in GOOD)
    assert np.allclose(arrays["red"], GOOD)
    assert list(unreadable) == ["05.png"]
    assert batches == [[0, 1, 2], [3], [4, 6, 7], [8, 9, 10]]
    assert seen == [("means", done, 11) for done in (0, 3, 4, 8, 11)]


def test_an_interruption_costs_its_shard_and_changes_no_byte(
    pictures: Path, tmp_path: Path
) -> None:
    images = open_images(pictures)
    whole = CheckpointFolder(tmp_path / "whole", {})
    map_images(whole, NETWORK, images, means, until="0", batch_size=3, shard_size=4)
    broken, calls = CheckpointFolder(tmp_path / "broken", {}), 0

    def stop(inputs: torch.Tensor, numbers: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return means(inputs, numbers)

    with pytest.raises(KeyboardInterrupt):
        map_images(broken, NETWORK, images, stop, until="0", batch_size=3, shard_size=4)
    again: list[list[int]] = []
    seen: list[int] = []

    def go_on(inputs: torch.Tensor, numbers: np.ndarray) -> dict[str, np.ndarray]:
        again.append(numbers.tolist())
        return means(inputs, numbers)

    arrays, ids, unreadable = map_images(
        broken, NETWORK, images, go_on, until="0", batch_size=3, shard_size=4,
        progress=lambda _what, done, _total: seen.append(done),
    )  # fmt: skip
    assert again == [[4, 6, 7], [8, 9, 10]]  # but for the first shard
    assert seen == [4, 8, 11]
    assert len(ids) == len(arrays["red"]) == 10
    assert list(unreadable) == ["05.png"]
    files = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert files == [f"images-00000{i}.safetensors" for i in range(3)]
    for name in files:
        here, there = (tmp_path / x / "checkpoints" / name for x in ("whole", "broken"))
        assert here.read_bytes() == there.read_bytes()


def test_shards_in_the_middle_that_are_missing_are_computed(pictures: Path, tmp_path: Path) -> None:
    images, checkpoints = open_images(pictures), CheckpointFolder(tmp_path / "out", {})
    wanted = map_images(checkpoints, NETWORK, images, means, until="0", batch_size=3, shard_size=2)
    for number in (1, 4):
        checkpoints.drop(f"images-{number:06d}")
    again: list[list[int]] = []

    def compute(inputs: torch.Tensor, numbers: np.ndarray) -> dict[str, np.ndarray]:
        again.append(numbers.tolist())
        return means(inputs, numbers)

    arrays, *rest = map_images(
        checkpoints, NETWORK, images, compute, until="0", batch_size=3, shard_size=2
    )
    # No batch holds images of two shards.
    assert again == [[2, 3], [8, 9]]
    assert np.array_equal(arrays["red"], wanted[0]["red"])
    assert rest == list(wanted[1:])


def test_what_is_finished_is_read_and_not_computed(pictures: Path, tmp_path: Path) -> None:
    images, checkpoints = open_images(pictures), CheckpointFolder(tmp_path / "out", {})
    wanted = map_images(checkpoints, NETWORK, images, means, until="0", batch_size=3, shard_size=4)
    seen: list[tuple[str, int, int]] = []
    arrays, *rest = map_images(
        checkpoints, NETWORK, images, lambda *_: pytest.fail("it was computed again"),
        until="0", batch_size=3, shard_size=4, progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert np.array_equal(arrays["red"], wanted[0]["red"])
    assert rest == list(wanted[1:])
    assert seen == [("images", 11, 11)]
    checkpoints.path("images-000001").write_bytes(b"half")
    with pytest.raises(RunError, match=r"images-000001\.safetensors is damaged"):
        map_images(checkpoints, NETWORK, images, means, until="0", batch_size=3, shard_size=4)


def test_a_shard_that_cannot_be_read_at_all_is_finished(pictures: Path, tmp_path: Path) -> None:
    for i in (4, 6, 7):
        (pictures / f"{i:02d}.png").write_bytes(b"")
    images, checkpoints = open_images(pictures), CheckpointFolder(tmp_path / "out", {})
    for compute in (means, lambda *_: pytest.fail("it was computed again")):
        arrays, ids, unreadable = map_images(
            checkpoints, NETWORK, images, compute, until="0", batch_size=3, shard_size=4
        )
        assert np.allclose(arrays["red"], [0, 1, 2, 3, 8, 9, 10])
        assert len(ids) == 7
        assert unreadable == {
            "04.png": "empty file",
            "05.png": "not an image",
            "06.png": "empty file",
            "07.png": "empty file",
        }


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(RunError, match="no image could be read"):
        map_images(
            CheckpointFolder(tmp_path / "out", {}),
            NETWORK,
            open_images(tmp_path / "pictures"),
            means,
            until="0",
            batch_size=3,
        )


def test_images_whose_numbers_are_not_finite_are_left_out(pictures: Path, tmp_path: Path) -> None:
    def fragile(inputs: torch.Tensor, numbers: np.ndarray) -> dict[str, np.ndarray]:
        arrays = means(inputs, numbers) | {"other": np.zeros((len(numbers), 2), np.float32)}
        arrays["red"][numbers == 3] = np.nan
        arrays["other"][numbers == 8, 1] = np.inf
        return arrays

    images = open_images(pictures, size=(4, 6))
    arrays, ids, left_out = map_images(
        CheckpointFolder(tmp_path / "out", {}),
        NETWORK,
        images,
        fragile,
        until="0",
        batch_size=3,
        shard_size=4,
    )
    kept = [i for i in GOOD if i not in (3, 8)]
    assert ids == tuple(f"{i:02d}.png" for i in kept)
    assert arrays["red"].round().tolist() == kept
    assert arrays["other"].shape == (8, 2)
    assert left_out["03.png"] == "not finite: red"
    assert left_out["08.png"] == "not finite: other"
    assert set(left_out) == {"03.png", "05.png", "08.png"}
