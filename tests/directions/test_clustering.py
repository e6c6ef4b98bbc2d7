"""Directions from k-means of hidden vectors, and what is resumed of the pass over the images."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from tests.support.directions import (
    BLACK,
    BLACK_IS_ZERO,
    UNREAD,
    Small,
    paint_shapes,
    saved,
    slow_vectors,
)

from opponent import Directions, Network, RunError, find_directions, open_images
from opponent.directions import find_and_save_directions, load_or_find_directions
from opponent.images.imageset import ImageEntry
from opponent.images.loader import _stream
from opponent.storage.checkpoints import map_images

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("seed", [0, 3])
def test_directions_are_what_scikit_learn_finds_among_unit_vectors(
    small: Network, pictures: Path, seed: int
) -> None:
    from sklearn.cluster import KMeans

    vectors = np.maximum(slow_vectors(small, pictures, seed), 0)
    vectors = np.array([v / np.sqrt((v**2).sum()) for v in vectors if v.any()])
    kmeans = KMeans(n_clusters=6, n_init=1, random_state=seed).fit(vectors)
    expected = np.array([v / np.sqrt((v**2).sum()) for v in kmeans.cluster_centers_])
    found = find_directions(small, pictures, "mixed", count=6, seed=seed)
    np.testing.assert_allclose(found.vectors, expected, rtol=0, atol=1e-5)
    assert found.provenance["vectors"] == len(vectors) == 67


def test_directions_have_unit_length_names_and_a_history(
    found: Directions, small: Network, pictures: Path
) -> None:
    assert found.vectors.shape == (6, 6)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-6)
    assert (found.vectors > -1e-6).all()
    assert found.labels == tuple(f"kmeans{i}" for i in range(6))
    assert found.layer == "mixed"
    about = found.provenance
    assert (about["k"], about["seed"], about["network"]) == (6, 0, "small")
    assert about["weights_sha256"] == small.weights_sha256()
    assert about["images"] == {"count": 70, "sha256": open_images(pictures).digest()}


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    found: Directions, small: Network, pictures: Path, tmp_path: Path
) -> None:
    again = find_directions(small, pictures, "mixed", count=6)
    other = find_directions(small, pictures, "mixed", count=6, seed=1)
    first = saved(found, tmp_path / "a.safetensors")
    assert saved(again, tmp_path / "b.safetensors") == first
    assert saved(other, tmp_path / "c.safetensors") != first
    assert not np.allclose(other.vectors, found.vectors)


def shards_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder of checkpoint folders, and nothing else is in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shards = [path for path in files if path.suffix == ".safetensors"]
    assert all(path.parent.name == "checkpoints" for path in shards)
    assert {path.name for path in files} - {path.name for path in shards} == {"question.json"}
    return shards


def test_hidden_vectors_come_after_the_relu_one_of_each_image_in_order(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt, match="at 70"):
        find_directions(
            small, pictures, "mixed", count=6, seed=3, checkpoints=kept, progress=stop_at(70, [])
        )
    [shard] = shards_of(kept)
    vectors = load_file(shard)["vectors"]
    expected = slow_vectors(small, pictures, 3)
    assert (expected < 0).any()
    readable = [i for i in range(70) if i not in UNREAD]
    np.testing.assert_allclose(vectors, np.maximum(expected[readable], 0), rtol=1e-5, atol=1e-6)
    for row in BLACK:
        assert not vectors[readable.index(row)].any()
    with safe_open(shard, framework="numpy") as file:
        about = json.loads(file.metadata()["about"])
    assert about["images"] == [f"{i:03d}.png" for i in readable]
    assert list(about["unreadable"]) == [f"{i:03d}.png" for i in UNREAD]


def test_unreadable_and_black_images_give_no_vector(small: Network, tmp_path: Path) -> None:
    folder = paint_shapes(tmp_path / "few", 4)
    alone = find_directions(small, [folder / f"{i:03d}.png" for i in range(4)], "mixed", count=2)
    for number in range(4, 40):  # a whole batch of them
        (folder / f"{number:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("RGB", (20, 20)).save(folder / "999.png")
    files = sorted(folder.glob("*.png"))
    some = find_directions(small, files, "mixed", count=2)
    assert some.provenance["vectors"] == alone.provenance["vectors"] == 4
    assert some.provenance["images"]["count"] == 41
    with pytest.raises(
        ValueError, match=r"only 4 of 41 images gave a vector of 'mixed' .* too few for k = 5"
    ):
        find_directions(small, files, "mixed", count=5)
    with pytest.raises(ValueError, match=r"only 0 of 1 images gave a vector"):
        find_directions(small, [folder / "999.png"], "mixed", count=1)


def test_as_many_directions_as_images_are_their_vectors(small: Network, tmp_path: Path) -> None:
    folder = paint_shapes(tmp_path / "few", 5)
    found = find_directions(small, folder, "mixed", count=5)
    vectors = np.maximum(slow_vectors(small, folder, 0, unread=set()), 0)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.abs(found.vectors[:, None] - expected[None]).max(2).argmin(0)
    assert sorted(order) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.vectors[order], expected, rtol=0, atol=1e-5)


def test_a_layer_without_rows_and_columns_has_directions_too(
    small: Network, pictures: Path
) -> None:
    found = find_directions(small, pictures, "logits", count=3)
    assert found.vectors.shape == (3, 5)
    assert small.resolve(found.feature("kmeans2")).label == "logits:kmeans2"


@pytest.mark.parametrize(
    ("layer", "count", "match"),
    [
        ("mixed", 71, r"k = 71 directions from 70 images, one vector each: give more images"),
        ("mixed", 0, r"k = 0 directions from 70 images"),
        ("mixed", 68, r"only 65 of 70 images gave a vector of 'mixed' .* too few for k = 68"),
        ("mixt", 2, r"small has no layer 'mixt'; did you mean mixed"),
    ],
)
def test_too_few_images_and_unknown_layers_are_refused(
    small: Network, pictures: Path, layer: str, count: int, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        find_directions(small, pictures, layer, count=count)


def stop_at(done: int, calls: list[tuple[str, int, int]]) -> Callable[[str, int, int], None]:
    """A progress callback that is interrupted once so many images are done."""

    def progress(what: str, now: int, total: int) -> None:
        calls.append((what, now, total))
        if (what, now) == ("hidden vectors", done):
            raise KeyboardInterrupt(f"at {done}")

    return progress


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass asked for."""
    counts: list[int] = []

    def spy(entries: Sequence[ImageEntry], *given: Any, **named: Any) -> Any:
        counts.append(len(entries))
        return _stream(entries, *given, **named)

    monkeypatch.setattr("opponent.images.loader._stream", spy)
    return counts


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every 32 images."""
    monkeypatch.setattr("opponent.directions.find.map_images", partial(map_images, shard_size=32))


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_pass_goes_on_and_ends_with_the_same_bytes(
    small: Network, pictures: Path, found: Directions, decoded: list[int], tmp_path: Path
) -> None:
    kept, calls = tmp_path / "deep" / "kept", list[tuple[str, int, int]]()
    for done in (32, 64):
        with pytest.raises(KeyboardInterrupt, match=f"at {done}"):
            find_directions(
                small, pictures, "mixed", count=6, checkpoints=kept, progress=stop_at(done, calls)
            )
        # One of the first 32 cannot be read.
        vectors = [load_file(shard)["vectors"] for shard in shards_of(kept)]
        assert [x.shape for x in vectors] == [(31, 6), (32, 6)][: done // 32]
    again = find_directions(
        small, pictures, "mixed", count=6, checkpoints=kept, progress=stop_at(-1, calls)
    )
    assert decoded == [70, 38, 6]
    assert calls == [
        *(("hidden vectors", done, 70) for done in (0, 32, 32, 64, 64, 70)),
        ("clustering", 0, 1),
        ("clustering", 1, 1),
    ]
    assert len(shards_of(kept)) == 3  # until the caller has saved what came of it
    assert saved(again, tmp_path / "a.safetensors") == saved(found, tmp_path / "b.safetensors")


def test_an_interrupted_pass_serves_another_k(
    small: Network, pictures: Path, decoded: list[int], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt, match="at 70"):
        find_directions(
            small, pictures, "mixed", count=6, checkpoints=kept, progress=stop_at(70, [])
        )
    again = find_directions(small, pictures, "mixed", count=4, checkpoints=kept)
    plain = find_directions(small, pictures, "mixed", count=4)
    assert decoded == [70, 0, 70]
    assert len(shards_of(kept)) == 1
    assert again.provenance == plain.provenance
    assert saved(again, tmp_path / "a.safetensors") == saved(plain, tmp_path / "b.safetensors")


@pytest.mark.usefixtures("small_shards")
def test_a_failure_keeps_what_was_done(
    small: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, run, calls = tmp_path / "kept", small.run, list[int]()

    def fails(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # the first tells what the network computes
            raise RuntimeError("out of memory")
        return run(*given, **named)

    monkeypatch.setattr(small, "run", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        find_directions(small, pictures, "mixed", count=6, checkpoints=kept)
    [shard] = shards_of(kept)
    assert load_file(shard)["vectors"].shape == (31, 6)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("change", ["seed", "layer", "weights", "images"])
def test_what_another_pass_kept_is_not_used(
    small: Network, pictures: Path, found: Directions, decoded: list[int], tmp_path: Path,
    change: str,
) -> None:  # fmt: skip
    kept, files = tmp_path / "kept", sorted(pictures.glob("*.png"))
    network = small
    if change == "weights":
        network = Network(Small(seed=1), preprocessing=BLACK_IS_ZERO, name="small")
    with pytest.raises(KeyboardInterrupt, match="at 32"):
        find_directions(
            network,
            files[1:] if change == "images" else pictures,
            "early" if change == "layer" else "mixed",
            count=6,
            seed=int(change == "seed"),
            checkpoints=kept,
            progress=stop_at(32, []),
        )
    again = find_directions(small, pictures, "mixed", count=6, checkpoints=kept)
    assert decoded[1:] == [70]
    assert len(list(kept.iterdir())) == 2
    assert saved(again, tmp_path / "a.safetensors") == saved(found, tmp_path / "b.safetensors")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", [lambda x: x[:-5], lambda _: b""], ids=["cut", "empty"])
def test_a_damaged_checkpoint_is_named_and_made_again_once_deleted(
    small: Network, pictures: Path, found: Directions, decoded: list[int], tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:  # fmt: skip
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt, match="at 32"):
        find_directions(
            small, pictures, "mixed", count=6, checkpoints=kept, progress=stop_at(32, [])
        )
    [shard] = shards_of(kept)
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(RunError, match=rf"{shard.name} is damaged .*; delete it and give the same"):
        find_directions(small, pictures, "mixed", count=6, checkpoints=kept)
    shard.unlink()
    again = find_directions(small, pictures, "mixed", count=6, checkpoints=kept)
    assert decoded == [70, 70]
    assert saved(again, tmp_path / "a.safetensors") == saved(found, tmp_path / "b.safetensors")


# Saved in one step


def test_saved_in_one_step_no_folder_is_left(
    small: Network, pictures: Path, found: Directions, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "mine.safetensors"
    again = find_and_save_directions(small, pictures, "mixed", file, count=6)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == saved(found, tmp_path / "a.safetensors")
    assert Directions.load(file).labels == again.labels == found.labels


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_step_goes_on_from_a_folder_beside_the_file(
    small: Network, pictures: Path, decoded: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "new" / "mine.safetensors"
    with pytest.raises(KeyboardInterrupt, match="at 32"):
        find_and_save_directions(small, pictures, "mixed", file, count=6, progress=stop_at(32, []))
    [folder] = file.parent.iterdir()
    assert folder.name.startswith(".mine")
    assert len(shards_of(folder)) == 1
    # With another k, which changes nothing in the pass.
    find_and_save_directions(small, pictures, "mixed", file, count=4)
    assert decoded == [70, 38]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    plain = find_directions(small, pictures, "mixed", count=4)
    assert file.read_bytes() == saved(plain, tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", ["npy", "pt", ""])
def test_a_wrong_suffix_is_refused_before_anything_is_computed(
    small: Network, pictures: Path, decoded: list[int], tmp_path: Path, suffix: str
) -> None:
    with pytest.raises(ValueError, match=r"whose name ends \.safetensors"):
        find_and_save_directions(small, pictures, "mixed", tmp_path / f"a.{suffix}", count=2)
    assert not decoded
    assert not [*tmp_path.iterdir()]


def test_directions_that_are_there_are_read(
    small: Network, pictures: Path, found: Directions, decoded: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    first, again = (
        load_or_find_directions(small, pictures, "mixed", file, count=6) for _ in range(2)
    )
    assert decoded == [70]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    for directions in (first, again):
        assert directions.labels == found.labels
        assert (directions.vectors == found.vectors).all()
        assert directions.provenance == json.loads(json.dumps(found.provenance))
