"""Directions that are no units: the cosine's power, k-means, spreading, and files of them."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from opponent import Feature, Network, Preprocessing, Run, attribute, open_images, scan_images
from opponent.cli import app
from opponent.core.box import Box
from opponent.directions import Directions, find_directions
from opponent.geometry.receptive_field import receptive_field
from opponent.images.decode import load_image
from opponent.images.imageset import ImageEntry
from opponent.images.loader import stream
from opponent.storage.run import SCALARS


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZE = (12, 10)
BLACK_IS_ZERO = Preprocessing(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)


class Small(nn.Module):
    """No biases: where an image is black, all is zero."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.early = nn.ReLU()
            self.wide = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
            self.mixed = nn.ReLU()
            self.head = nn.Linear(6, 5, bias=False)
        with torch.no_grad():  # one channel that is positive wherever an image is not black
            self.stem.weight[0].abs_()
            self.wide.weight[0].abs_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixed(self.wide(self.early(self.stem(x)))).mean((2, 3)))


class Parallel(nn.Module):
    """Branches side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


@pytest.fixture(scope="module")
def small() -> Network:
    return Network(Small(), preprocessing=BLACK_IS_ZERO, name="small")


def paint(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Smooth pictures in many shapes."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blobs = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        width, height = generator.integers(12, 40, 2).tolist()
        picture = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy pictures, three batches, of which one cannot be read and two are black."""
    folder = paint(tmp_path_factory.mktemp("pictures"), 70)
    (folder / "005.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for number in (3, 66):
        Image.new("RGB", (20, 20)).save(folder / f"{number:03d}.png")
    return folder


UNREAD, BLACK = {5}, {3, 66}


@pytest.fixture(scope="module")
def found(small: Network, pictures: Path) -> Directions:
    return find_directions(small, "mixed", pictures, count=6)


def made(vectors: object, *labels: str, layer: str | None = "mixed") -> Directions:
    rows = np.asarray(vectors, np.float32)
    names = labels or tuple(f"v{i}" for i in range(len(rows)))
    return Directions(vectors=rows, labels=names, layer=layer, provenance={})


def saved(directions: Directions, path: Path) -> bytes:
    directions.save(path)
    return path.read_bytes()


# The power of the cosine


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0, 2, 4, 6]),
    st.booleans(),
    st.data(),
)
def test_a_power_is_that_of_the_cosine_element_by_element(
    shape: tuple[int, int, int, int], power: int, one_hot: bool, data: Any
) -> None:
    n, c, h, w = shape
    seed = data.draw(st.integers(0, 99))
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    row, column = data.draw(st.tuples(st.integers(0, h - 1), st.integers(0, w - 1)))
    unit = data.draw(st.integers(0, c - 1))
    weights = [float(k == unit) for k in range(c)]
    if not one_hot:
        rest = st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), min_size=c, max_size=c)
        weights = [a + 5 * b for a, b in zip(data.draw(rest), weights, strict=True)]
    what = {"unit": unit} if one_hot else {"vector": tuple(weights)}
    feature = Feature(layer="a", position=(row, column), power=power, **what)
    read = feature.read(maps)
    plain = Feature(layer="a", position=(row, column), **what).read(maps)
    for i in range(n):
        hidden = [maps[i, k, row, column].item() for k in range(c)]
        dot = sum(a * b for a, b in zip(hidden, weights, strict=True))
        lengths = math.sqrt(sum(a * a for a in hidden)) * math.sqrt(sum(b * b for b in weights))
        assert read[i].item() == pytest.approx(dot * (dot / lengths) ** power, rel=1e-9, abs=1e-15)
    assert (read * plain >= 0).all()
    assert (read.abs() <= plain.abs() * (1 + 1e-12)).all()
    if power == 0:
        assert torch.equal(read, plain)


def test_powers_by_hand() -> None:
    maps = torch.tensor([[3.0, 4.0], [-3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)[..., None, None]
    for what, expected in (
        ({"unit": 0, "power": 2}, [3 * 0.6**2, -3 * 0.6**2, 0]),
        ({"unit": 0, "power": 4}, [3 * 0.6**4, -3 * 0.6**4, 0]),
        ({"vector": (10.0, 0.0), "power": 2}, [30 * 0.6**2, -30 * 0.6**2, 0]),
        ({"vector": (3.0, 4.0), "power": 2}, [25, 7 * 0.28**2, 8 * 0.8**2]),
    ):
        read = Feature(layer="a", **what).read(maps)
        np.testing.assert_allclose(read, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("power", [2, 4])
def test_where_all_is_zero_the_activation_is_and_its_gradient_is_finite(
    dtype: torch.dtype, power: int
) -> None:
    maps = torch.zeros(2, 3, 1, 1, dtype=dtype)
    maps[1] = 1
    maps.requires_grad_()
    for what in ({"unit": 1}, {"vector": (1.0, -2.0, 0.5)}):
        read = Feature(layer="a", power=power, **what).read(maps)
        assert read.dtype == dtype
        assert read[0] == 0
        assert read[1] != 0
        [gradient] = torch.autograd.grad(read.sum(), maps)
        assert gradient.isfinite().all()
        assert gradient[1].any()


@pytest.mark.parametrize("power", [-2, -1, 1, 3])
def test_a_power_that_would_lose_the_sign_is_refused(power: int) -> None:
    with pytest.raises(ValueError, match=f"power is 0, 2 or another even number, not {power}$"):
        Feature(layer="a", unit=1, power=power)
    with pytest.raises(ValueError, match=f"even number, not {power}$"):
        Feature.direction("a", [1.0, 2.0], power=power)


@pytest.mark.parametrize("power", [0, 2, 4])
def test_a_power_is_described_and_restored_through_json(power: int) -> None:
    for feature in (
        Feature(layer="a", unit=3, power=power),
        Feature.direction("a", [1.0, -0.5], name="edge", position=(0, 2), power=power),
    ):
        described = feature.describe()
        assert ("power" in described) == bool(power)
        assert Feature.restore(json.loads(json.dumps(described))) == feature
        placed = feature.placed(2 if feature.unit is None else 4, 3, 3)
        assert placed.power == feature.at(None).power == power


@pytest.mark.parametrize("through", ["early", "stem", "pixels"])
@pytest.mark.parametrize("power", [2, 4])
def test_without_biases_attributions_sum_to_the_weighted_activation(
    generator: torch.Generator, through: str, power: int
) -> None:
    network = Network(Small().double(), preprocessing=BLACK_IS_ZERO)
    images = torch.randn(5, 3, *SIZE, generator=generator, dtype=torch.float64)
    # dot * cos^p is homogeneous of degree 1 in the hidden vector.
    for what in ({"vector": (1.0, -0.5, 0.25, 2.0, -1.0, 0.0)}, {"unit": 2}):
        feature = Feature(layer="mixed", power=power, **what)
        result = attribute(network, images, feature, through)
        assert result.feature.power == power
        assert result.activation.abs().max() > 1e-4
        total = result.attribution.sum((1, 2, 3))
        torch.testing.assert_close(total, result.activation, rtol=1e-10, atol=1e-12)
        difference = result.excitation - result.inhibition
        torch.testing.assert_close(difference, result.activation, rtol=1e-10, atol=1e-12)


def test_a_power_looks_through_the_boxes_of_all_channels(generator: torch.Generator) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        branches = Parallel(
            nn.Conv2d(3, 1, 1),
            nn.Conv2d(3, 1, (5, 1), padding=(2, 0)),
            nn.Conv2d(3, 1, (1, 3), padding=(0, 1)),
        )
    module = nn.Sequential(branches, nn.Identity()).double()
    network = Network(module, preprocessing=Preprocessing(size=(11, 9)))
    own = Box(top=5, left=4, height=1, width=1)
    union = Box(top=3, left=3, height=5, width=3)
    assert receptive_field(network, "0:0") == own
    assert receptive_field(network, Feature.direction("0", [2.0, 0.0, 0.0])) == own
    corner = Box(top=0, left=0, height=3, width=2)
    images = torch.randn(1, 3, 11, 9, generator=generator, dtype=torch.float64)
    for what in ({"unit": 0}, {"unit": 1}, {"vector": (2.0, 0.0, 0.0)}):
        feature = Feature(layer="0", power=2, **what)
        assert receptive_field(network, feature) == union
        assert receptive_field(network, feature.at((0, 0))) == corner
        moved = attribute(network, images, feature, "pixels").attribution[0].any(0)
        rows, columns = moved.nonzero().unbind(1)
        assert (rows.min(), rows.max()) == (3, 7)
        assert (columns.min(), columns.max()) == (3, 5)


# A direction in a scan


def test_a_one_hot_direction_is_scanned_as_its_unit_is(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    directions = made(np.eye(6), *(f"e{i}" for i in range(6)))
    features = directions.features(["mixed:2", "e2", "mixed:4@0,3", "mixed:e4@0,3"])
    run = scan_images(small, pictures, features, "early", out=tmp_path / "run")
    assert [x.label for x in Run(run.folder).features] == [
        "mixed:2@3,2", "mixed:e2@3,2", "mixed:4@0,3", "mixed:e4@0,3",
    ]  # fmt: skip
    for unit, direction in (run.features[:2], run.features[2:]):
        assert run.through_window(unit) == run.through_window(direction)
        expected, columns = run.columns(unit), run.columns(direction)
        assert columns.images == expected.images
        assert len(columns.images) == 70 - len(UNREAD)
        for name in (*SCALARS, "excitation_map", "inhibition_map"):
            value = getattr(expected, name)
            assert value.any()
            np.testing.assert_allclose(getattr(columns, name), value, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(run.channels(direction), run.channels(unit), rtol=1e-6)


def test_a_power_lasts_through_a_scan(small: Network, pictures: Path, tmp_path: Path) -> None:
    vector = np.array([1.0, -0.5, 0.25, 2.0, -1.0, 0.0])
    features = made([vector], "mine").features(["mine"], power=2)
    scan_images(small, pictures, features, "early", out=tmp_path / "run")
    run = Run(tmp_path / "run")
    [feature] = run.features
    assert (feature.label, feature.power) == ("mixed:mine@3,2", 2)
    columns = run.columns(feature)
    by_id = {entry.id: entry for entry in open_images(pictures)}
    for image, activation in zip(columns.images[:6], columns.activation, strict=False):
        hidden = before_relu(small, by_id[image])[:, 3, 2].astype(np.float64)
        dot, lengths = hidden @ vector, np.linalg.norm(hidden) * np.linalg.norm(vector)
        cosine = dot / lengths if lengths else 0.0
        np.testing.assert_allclose(activation, dot * cosine**2, rtol=1e-4, atol=1e-6)


# k-means


def before_relu(network: Network, entry: ImageEntry) -> Float[np.ndarray, "c h w"]:
    """The layer 'mixed' before its ReLU, from one image."""
    module: Any = network.module
    pixels = torch.from_numpy(load_image(entry, size=SIZE)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return module.wide(module.stem(pixels).clamp(min=0))[0].numpy()


def slow_vectors(
    network: Network, folder: Path, seed: int, unread: Set[int] = UNREAD
) -> Float[np.ndarray, "n c"]:
    """One image at a time: the layer before its ReLU at a random position, zeros if unreadable."""
    entries = open_images(folder)
    channels, height, width = network.map_shape("mixed")
    generator = np.random.default_rng(seed)
    rows = generator.integers(height, size=len(entries))
    columns = generator.integers(width, size=len(entries))
    vectors = np.zeros((len(entries), channels), np.float32)
    for i, entry in enumerate(entries):
        if i not in unread:
            vectors[i] = before_relu(network, entry)[:, rows[i], columns[i]]
    return vectors


@pytest.mark.parametrize("seed", [0, 3])
def test_directions_are_what_scikit_learn_finds_among_unit_vectors(
    small: Network, pictures: Path, seed: int
) -> None:
    from sklearn.cluster import KMeans

    vectors = np.maximum(slow_vectors(small, pictures, seed), 0)
    vectors = np.array([v / np.sqrt((v**2).sum()) for v in vectors if v.any()])
    kmeans = KMeans(n_clusters=6, n_init=1, random_state=seed).fit(vectors)
    expected = np.array([v / np.sqrt((v**2).sum()) for v in kmeans.cluster_centers_])
    found = find_directions(small, "mixed", pictures, count=6, seed=seed)
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
    again = find_directions(small, "mixed", pictures, count=6)
    other = find_directions(small, "mixed", pictures, count=6, seed=1)
    first = saved(found, tmp_path / "a.safetensors")
    assert saved(again, tmp_path / "b.safetensors") == first
    assert saved(other, tmp_path / "c.safetensors") != first
    assert not np.allclose(other.vectors, found.vectors)


def test_hidden_vectors_come_after_the_relu_one_of_each_image_in_order(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    keep = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt, match="at 70"):
        find_directions(
            small, "mixed", pictures, count=6, seed=3, keep=keep, progress=stop_at(70, [])
        )
    with safe_open(keep, framework="numpy") as file:
        kept = file.get_tensor("vectors")
    expected = slow_vectors(small, pictures, 3)
    assert (expected < 0).any()
    np.testing.assert_allclose(kept, np.maximum(expected, 0), rtol=1e-5, atol=1e-6)
    for row in UNREAD | BLACK:
        assert not kept[row].any()


def test_unreadable_and_black_images_give_no_vector(small: Network, tmp_path: Path) -> None:
    folder = paint(tmp_path / "few", 4)
    alone = find_directions(small, "mixed", [folder / f"{i:03d}.png" for i in range(4)], count=2)
    for number in range(4, 40):  # a whole batch of them
        (folder / f"{number:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("RGB", (20, 20)).save(folder / "999.png")
    files = sorted(folder.glob("*.png"))
    some = find_directions(small, "mixed", files, count=2)
    assert some.provenance["vectors"] == alone.provenance["vectors"] == 4
    assert some.provenance["images"]["count"] == 41
    with pytest.raises(
        ValueError, match=r"only 4 of 41 images gave a vector of 'mixed' .* too few for k = 5"
    ):
        find_directions(small, "mixed", files, count=5)
    with pytest.raises(ValueError, match=r"only 0 of 1 images gave a vector"):
        find_directions(small, "mixed", [folder / "999.png"], count=1)


def test_as_many_directions_as_images_are_their_vectors(small: Network, tmp_path: Path) -> None:
    folder = paint(tmp_path / "few", 5)
    found = find_directions(small, "mixed", folder, count=5)
    vectors = np.maximum(slow_vectors(small, folder, 0, unread=set()), 0)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.abs(found.vectors[:, None] - expected[None]).max(2).argmin(0)
    assert sorted(order) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.vectors[order], expected, rtol=0, atol=1e-5)


def test_a_layer_without_rows_and_columns_has_directions_too(
    small: Network, pictures: Path
) -> None:
    found = find_directions(small, "logits", pictures, count=3)
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
        find_directions(small, layer, pictures, count=count)


# Interruptions


def stop_at(done: int, told: list[tuple[str, int, int]]) -> Callable[[str, int, int], None]:
    """A progress callback that is interrupted once so many images are done."""

    def progress(what: str, now: int, total: int) -> None:
        told.append((what, now, total))
        if (what, now) == ("hidden vectors", done):
            raise KeyboardInterrupt(f"at {done}")

    return progress


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass asked for."""
    counts: list[int] = []

    def spy(entries: Sequence[ImageEntry], **named: Any) -> Any:
        counts.append(len(entries))
        return stream(entries, **named)

    monkeypatch.setattr("opponent.directions.stream", spy)
    return counts


def test_an_interrupted_pass_goes_on_and_ends_with_the_same_bytes(
    small: Network, pictures: Path, found: Directions, decoded: list[int], tmp_path: Path
) -> None:
    keep, told = tmp_path / "deep" / "kept.safetensors", list[tuple[str, int, int]]()
    for done in (32, 64):
        with pytest.raises(KeyboardInterrupt, match=f"at {done}"):
            find_directions(
                small, "mixed", pictures, count=6, keep=keep, progress=stop_at(done, told)
            )
        with safe_open(keep, framework="numpy") as file:
            assert file.get_tensor("vectors").shape == (done, 6)
        assert [x.name for x in keep.parent.iterdir()] == [keep.name]
    again = find_directions(
        small, "mixed", pictures, count=6, keep=keep, progress=stop_at(-1, told)
    )
    assert decoded == [70, 38, 6]
    assert told == [
        *(("hidden vectors", done, 70) for done in (32, 64, 70)),
        ("clustering", 0, 1),
        ("clustering", 1, 1),
    ]
    assert keep.exists()  # until the caller has saved what came of it
    assert saved(again, tmp_path / "a.safetensors") == saved(found, tmp_path / "b.safetensors")


def test_an_interrupted_pass_serves_another_k(
    small: Network, pictures: Path, decoded: list[int], tmp_path: Path
) -> None:
    keep = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt, match="at 70"):
        find_directions(small, "mixed", pictures, count=6, keep=keep, progress=stop_at(70, []))
    again = find_directions(small, "mixed", pictures, count=4, keep=keep)
    plain = find_directions(small, "mixed", pictures, count=4)
    assert decoded == [70, 0, 70]
    assert saved(again, tmp_path / "a.safetensors") == saved(plain, tmp_path / "b.safetensors")


def test_a_failure_keeps_what_was_done(
    small: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, run, calls = tmp_path / "kept", small.run, list[int]()

    def fails(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return run(*given, **named)

    monkeypatch.setattr(small, "run", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        find_directions(small, "mixed", pictures, count=6, keep=keep)
    with safe_open(keep, framework="numpy") as file:
        assert file.get_tensor("vectors").shape == (32, 6)


@pytest.mark.parametrize("change", ["seed", "layer", "weights", "images", "damage", "emptiness"])
def test_what_another_pass_kept_is_not_used(
    small: Network, pictures: Path, found: Directions, decoded: list[int], tmp_path: Path,
    change: str,
) -> None:  # fmt: skip
    keep, files = tmp_path / "kept", sorted(pictures.glob("*.png"))
    network = small
    if change == "weights":
        network = Network(Small(seed=1), preprocessing=BLACK_IS_ZERO, name="small")
    with pytest.raises(KeyboardInterrupt, match="at 32"):
        find_directions(
            network,
            "early" if change == "layer" else "mixed",
            files[1:] if change == "images" else pictures,
            count=6,
            seed=int(change == "seed"),
            keep=keep,
            progress=stop_at(32, []),
        )
    if change == "damage":
        keep.write_bytes(keep.read_bytes()[:-5])
    if change == "emptiness":
        keep.write_bytes(b"")
    again = find_directions(small, "mixed", pictures, count=6, keep=keep)
    assert decoded[1:] == [70]
    assert saved(again, tmp_path / "a.safetensors") == saved(found, tmp_path / "b.safetensors")


# Spread


def bundles(seed: int = 0) -> Directions:
    """One bundle of 40 directions that nearly agree, and five of 4."""
    generator = np.random.default_rng(seed)
    centres = np.linalg.qr(generator.normal(size=(8, 8)))[0][:6]
    rows = np.repeat(centres, [40, 4, 4, 4, 4, 4], axis=0)
    rows = rows + 0.03 * generator.normal(size=rows.shape)
    return made(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def apart(rows: Float[np.ndarray, "n c"]) -> float:
    """The mean distance between two of these rows."""
    return float(np.mean([np.linalg.norm(a - b) for a, b in combinations(rows, 2)]))


@pytest.mark.parametrize("count", [1, 2, 6, 59, 60])
def test_spread_directions_are_as_many_as_asked_and_some_of_those_there_are(count: int) -> None:
    everything = bundles()
    chosen = everything.spread(count, seed=4)
    assert len(chosen) == len(set(chosen.labels)) == count
    for label, vector in zip(chosen.labels, chosen.vectors, strict=True):
        assert (everything.vectors[everything.labels.index(label)] == vector).all()
    assert list(chosen.labels) == sorted(chosen.labels, key=everything.labels.index)
    assert chosen.layer == "mixed"
    assert chosen.provenance == {"spread": {"count": count, "seed": 4}}


def test_spread_directions_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    everything = bundles()
    first = saved(everything.spread(6, seed=4), tmp_path / "a.safetensors")
    assert saved(bundles().spread(6, seed=4), tmp_path / "b.safetensors") == first
    assert len({everything.spread(6, seed=seed).labels for seed in range(5)}) == 5


def test_spread_directions_lie_farther_apart_than_random_ones() -> None:
    everything = bundles()
    spread = [apart(everything.spread(6, seed=seed).vectors) for seed in range(8)]
    generator = np.random.default_rng(0)
    random = [apart(everything.vectors[generator.choice(60, 6, replace=False)]) for _ in range(200)]
    assert min(spread) > np.mean(random) + np.std(random)
    # One of each bundle: at right angles, but for the noise.
    assert max(spread) == pytest.approx(math.sqrt(2), abs=0.05)


@pytest.mark.parametrize("count", [-1, 0, 61])
def test_more_than_there_are_cannot_be_spread(count: int) -> None:
    with pytest.raises(ValueError, match=f"^{count} of 60 directions cannot be spread"):
        bundles().spread(count)


# Files


def test_what_is_saved_is_loaded(found: Directions, tmp_path: Path) -> None:
    for directions in (
        found,
        found.spread(2),
        made([[0.5, -1.0], [3.0, 0.0]], "kräftig", "β.2", layer=None),
    ):
        first = saved(directions, tmp_path / "new" / "a.safetensors")
        again = Directions.load(tmp_path / "new" / "a.safetensors")
        assert again.labels == directions.labels
        assert again.layer == directions.layer
        assert again.vectors.dtype == np.float32
        assert (again.vectors == directions.vectors).all()
        written = json.loads(json.dumps(directions.provenance)) or {"file": "a.safetensors"}
        assert again.provenance == written
        if directions.provenance:
            assert saved(again, tmp_path / "b.safetensors") == first
    assert [x.name for x in (tmp_path / "new").iterdir()] == ["a.safetensors"]


ROWS = np.array([[0.5, -1.0, 2.0], [3.0, 0.0, 0.25]])


def write(path: Path, **tensors: Tensor) -> Path:
    if path.suffix == ".npy":
        [values] = tensors.values()
        np.save(path, values.numpy(), allow_pickle=False)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


SUFFIXES = ("npy", "safetensors", "pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_anyones_array_is_called_by_its_file(
    suffix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = write(tmp_path / f"my curves:v2@x.{suffix}", rows=torch.tensor(ROWS, dtype=dtype))
    directions = Directions.load(path)
    assert directions.labels == ("my_curves_v2_x-0", "my_curves_v2_x-1")
    assert directions.layer is None
    assert directions.provenance == {"file": path.name}
    assert directions.vectors.dtype == np.float32
    assert (directions.vectors == ROWS).all()
    assert directions.feature("mixed:my_curves_v2_x-1").vector == (3.0, 0.0, 0.25)


def test_brain_floats_and_learned_parameters_are_read(tmp_path: Path) -> None:
    rows = torch.tensor(ROWS)
    for path in (
        write(tmp_path / "a.safetensors", rows=rows.bfloat16()),
        write(tmp_path / "b.pt", rows=nn.Parameter(rows)),
    ):
        assert (Directions.load(str(path)).vectors == ROWS).all()


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_one_tensor_called_directions_is_taken_among_others(suffix: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"file.{suffix}", torch.tensor(ROWS)
    write(path, bias=torch.ones(3), directions=rows)
    assert (Directions.load(path).vectors == ROWS).all()
    write(path, bias=torch.ones(3), weight=rows)
    match = rf"file\.{suffix} holds 2 tensors and none called 'directions': give one array"
    with pytest.raises(ValueError, match=match):
        Directions.load(path)
    write(path)
    with pytest.raises(ValueError, match=r"holds 0 tensors and none called 'directions'"):
        Directions.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1.0, 2.0], r"holds an array of shape \(2,\) .* one row a direction"),
        ([[[1.0, 2.0]]], r"holds an array of shape \(1, 1, 2\) .* one row a direction"),
        (2.0, r"holds an array of shape \(\) "),
        (np.ones((0, 3)), r"there is no direction in an array of shape \(0, 3\)"),
        (np.ones((3, 0)), r"there is no direction in an array of shape \(3, 0\)"),
        ([[1.0, 2.0], [math.nan, 1.0]], r"direction 1 \('file-1'\) of 2 holds NaN or infinity"),
        ([[1.0, 2.0], [1.0, -math.inf]], r"direction 1 \('file-1'\) of 2 holds NaN or infinity"),
        ([[0.0, -0.0], [1.0, 0.0]], r"direction 0 \('file-0'\) of 2 is zero"),
    ],
)
def test_arrays_that_are_no_directions_are_refused(
    suffix: str, values: object, match: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"file.{suffix}", rows=torch.tensor(values))
    with pytest.raises(ValueError, match=rf"file\.{suffix}:? {match}"):
        Directions.load(path)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool, np.complex64, "S4"])
def test_arrays_of_other_types_are_refused(kind: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "file.npy", np.ones((2, 3)).astype(kind), allow_pickle=False)
    with pytest.raises(ValueError, match=r"file\.npy holds .* numbers with a point"):
        Directions.load(tmp_path / "file.npy")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    np.save(tmp_path / "a.npy", np.array([[_Bomb()]], dtype=object), allow_pickle=True)
    torch.save({"weight": _Bomb()}, tmp_path / "a.pt")
    with pytest.raises(OSError, match=r"a\.npy is no array that can be read"):
        Directions.load(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"a\.pt is no file of weights that can be read safely"):
        Directions.load(tmp_path / "a.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"there is no file of .*none\.{suffix}"):
        Directions.load(tmp_path / f"none.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"there is no file of .*folder\.{suffix}"):
        Directions.load(tmp_path / f"folder.{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_cut_short_cannot_be_read(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"file.{suffix}", rows=torch.tensor(ROWS))
    whole = path.read_bytes()
    for length in {0, 1, 5, len(whole) - 1, *range(0, len(whole), len(whole) // 20)}:
        path.write_bytes(whole[:length])
        with pytest.raises(OSError, match=rf"file\.{suffix} is no (array|file of weights) that"):
            Directions.load(path)


BEGINNINGS = (
    b"", b"\x80\x02", b"\x80\x04\x95", b"{}", b"\x02" + bytes(7) + b"{}", b"PK\x03\x04",
    b"\x93NUMPY\x01\x00",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=60), st.sampled_from(SUFFIXES))
def test_garbage_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, beginning: bytes, rest: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"garbage.{suffix}"
    path.write_bytes(beginning + rest)
    with pytest.raises((OSError, ValueError), match=rf"garbage\.{suffix} (is no|holds) "):
        Directions.load(path)


# Names


def test_labels_are_as_many_as_rows_and_all_different() -> None:
    for labels in (("a",), ("a", "b", "c"), ("a", "a")):
        with pytest.raises(ValueError, match="2 directions need as many labels, all different"):
            made([[1.0, 0.0], [0.0, 1.0]], *labels)


@pytest.mark.parametrize("label", ["", "17", "0", "a:b", "a@1", "*", "a,b", "two words"])
def test_labels_that_mean_something_else_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match="cannot name a direction: a number names a unit") as found:
        made([[1.0, 0.0], [0.0, 1.0]], "fine", label)
    assert str(found.value).startswith(repr(label))


def test_rows_that_point_nowhere_are_refused() -> None:
    for row, match in (
        ([0.0, 0.0], r"direction 1 \('b'\) of 2 is zero; take it out"),
        ([math.inf, 0.0], r"direction 1 \('b'\) of 2 holds NaN or infinity; take it out"),
    ):
        with pytest.raises(ValueError, match=match):
            made([[1.0, 0.0], row], "a", "b")
    with pytest.raises(ValueError, match=r"no direction in an array of shape \(0, 4\)"):
        made(np.ones((0, 4)))


def test_names_of_features() -> None:
    directions = made(ROWS, "curve", "edge", layer="mixed4c")
    for name, label in (
        ("curve", "mixed4c:curve"),
        ("mixed4c:edge", "mixed4c:edge"),
        (" mixed4c:edge@7,3\n", "mixed4c:edge@7,3"),
        ("edge@0,11", "mixed4c:edge@0,11"),
    ):
        for power in (0, 2):
            feature = directions.feature(name, power=power)
            assert (feature.label, feature.power) == (label, power)
            assert feature.vector == tuple(ROWS[int("edge" in name)])
    assert made(ROWS, layer=None).feature("a.b:v1").label == "a.b:v1"
    assert len(directions) == 2


def test_units_and_directions_are_mixed_in_the_order_given() -> None:
    directions = made(np.eye(3), "kmeans0", "kmeans1", "kmeans17", layer="mixed4c")
    names = ["mixed4c:5", "mixed4c:kmeans17@7,3", "kmeans0", "mixed4c:2@1,1", "mixed4c:*"]
    features = directions.features(names, power=2)
    assert [x.label for x in features] == [
        "mixed4c:5", "mixed4c:kmeans17@7,3", "mixed4c:kmeans0", "mixed4c:2@1,1",
        "mixed4c:kmeans0", "mixed4c:kmeans1", "mixed4c:kmeans17",
    ]  # fmt: skip
    assert [x.power for x in features if x.vector is not None] == [2] * 5
    assert [x.unit for x in features] == [5, None, None, 2, None, None, None]
    assert features[1].vector == (0.0, 0.0, 1.0)
    assert features[1].position == (7, 3)
    assert {x.power for x in directions.features(names)} == {0}
    everywhere = directions.features(["*@2,4"])
    assert [x.label for x in everywhere] == [f"mixed4c:{x}@2,4" for x in directions.labels]
    assert directions.features([]) == []


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mixed4c:kmens17", r"no direction 'kmens17' among these 3; .*names: kmeans17, kmeans1"),
        ("mixed4c:zzz", r"no direction 'zzz' among these 3; .*names: kmeans0, kmeans1, kmeans17"),
        ("mixed4c:", r"no direction '' among these 3"),
        ("mixed4d:kmeans1", r"'mixed4d:kmeans1': these directions belong to layer 'mixed4c'"),
        ("mixed4d:*", r"these directions belong to layer 'mixed4c'"),
        ("mixed4c:kmeans1@7", r"@7' does not name a feature"),
        ("mixed4c:kmeans1@-1,2", r"@-1,2' does not name a feature"),
        ("mixed4c:5@7", r"'mixed4c:5@7' does not name a feature"),
        ("5", r"'5' does not name a feature"),
    ],
)
def test_names_that_name_nothing_are_refused(name: str, match: str) -> None:
    directions = made(np.eye(3), "kmeans0", "kmeans1", "kmeans17", layer="mixed4c")
    with pytest.raises(ValueError, match=match):
        directions.features([name])


def test_directions_of_no_layer_need_one() -> None:
    with pytest.raises(ValueError, match=r"names no layer, nor do these .*: write LAYER:v0$"):
        made(ROWS, layer=None).feature("v0")


def test_a_power_that_is_odd_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="even number, not 1"):
        made(ROWS).features(["v0"], power=1)


def test_a_wrong_length_is_told_where_it_is_used(
    small: Network, pictures: Path, tmp_path: Path
) -> None:
    feature = made(ROWS).feature("v1")
    match = r"mixed:v1: the direction has 3 weights, but layer 'mixed' has 6 channels"
    with pytest.raises(ValueError, match=match):
        small.resolve(feature)
    with pytest.raises(ValueError, match=match):
        scan_images(small, pictures, feature, "early", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The command


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_finds_directions_and_scans_them(tmp_path: Path) -> None:
    folder, file = paint(tmp_path / "pictures", 12), tmp_path / "made" / "found.safetensors"
    words = ("directions", "inceptionv1-mini", "mixed3a", "--images", folder, "--k", 5)
    text = within(*words, "--spread", 2, "--out", file)
    assert f"{file}: 5 directions of mixed3a" in text
    assert sorted(x.name for x in file.parent.iterdir()) == [
        "found-spread.safetensors",
        "found.safetensors",
    ]
    everything = Directions.load(file)
    assert everything.vectors.shape[0] == 5
    assert everything.layer == "mixed3a"
    few = Directions.load(file.with_name("found-spread.safetensors"))
    assert few.labels == everything.spread(2).labels
    assert ", ".join(few.labels) in text
    first = file.read_bytes()
    within(*words, "--out", file)
    assert file.read_bytes() == first

    scanning = ("scan", "inceptionv1-mini", "mixed3a:kmeans0", "mixed3a:7", "--directions", file)
    rest = ("--through", "maxpool1", "--images", folder, "--out", tmp_path / "run")
    assert "12 images scanned" in within(*scanning, *rest, "--power", 2)
    run = Run(tmp_path / "run")
    assert [x.label for x in run.features] == ["mixed3a:kmeans0@8,8", "mixed3a:7@8,8"]
    assert [x.power for x in run.features] == [2, 0]
    np.testing.assert_array_equal(
        np.asarray(run.features[0].vector, np.float32), everything.vectors[0]
    )
    assert run.columns(run.features[0]).activation.any()

    wrong = ("scan", "inceptionv1-mini", "mixed3a:kmeens0", "--directions", file)
    unmade = ("--through", "maxpool1", "--images", folder, "--out", tmp_path / "none")
    result = subprocess.run(
        [sys.executable, "-m", "opponent", *map(str, (*wrong, *unmade))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert "there is no direction 'kmeens0' among these 5" in line
    assert "kmeans0" in line
    assert not (tmp_path / "none").exists()


SCAN_MINI = ("scan", "inceptionv1-mini", "mixed3a:kmeans0", "--through", "maxpool1")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("directions", "inceptionv1-mini", "mixed3z", "--k", 2), r"no layer 'mixed3z'"),
        (("directions", "inceptionv1-mini", "mixed3a", "--k", 9), r"k = 9 .* from 3 images"),
        (
            ("directions", "inceptionv1-mini", "mixed3a", "--k", 2, "--spread", 3),
            r"--spread 3 is more than the --k 2 directions",
        ),
        (
            SCAN_MINI,
            r"'kmeans0' .* is not a unit's number; .* a direction's name needs its file",
        ),
        (
            (*SCAN_MINI, "--directions", "absent.npy"),
            r"there is no file of directions at absent\.npy",
        ),
    ],
)
def test_mistakes_in_the_command_are_explained(
    words: tuple[object, ...], match: str, tmp_path: Path
) -> None:
    folder, file = paint(tmp_path / "pictures", 3), tmp_path / "found.safetensors"
    given = [*words, "--images", folder, "--out", file]
    with pytest.raises((ValueError, OSError), match=match):
        CliRunner().invoke(app, list(map(str, given)), catch_exceptions=False)
    assert [x.name for x in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize("suffix", ["npy", "pt", "SAFETENSORS", ""])
def test_directions_are_saved_only_where_they_can_be_loaded(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"whose name ends \.safetensors"):
        made(ROWS).save(tmp_path / f"found.{suffix}")
    assert not [*tmp_path.iterdir()]


def test_spread_tells_directions_not_lengths() -> None:
    directions = made([[1.0, 0.0], [100.0, 0.0], [0.0, 1.0]], "x", "long_x", "y")
    assert all("y" in directions.spread(2, seed=seed).labels for seed in range(5))
    with pytest.raises(ValueError, match="fewer than 3 directions that differ"):
        directions.spread(3)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1.0, 1e19, 1e30])
def test_a_cosine_depends_on_no_scale(scale: float) -> None:
    hidden = (torch.tensor([1.0, 2.0, 3.0]) * scale).view(1, 3, 1, 1).requires_grad_()
    value = Feature(layer="a", vector=(1.0, 1.0, 0.0), power=2).read(hidden)
    # 3 * (3 / sqrt(14 * 2))^2
    torch.testing.assert_close(value / scale, torch.tensor([27 / 28]), rtol=1e-5, atol=0)
    [gradient] = torch.autograd.grad(value.sum(), hidden)
    # Homogeneous of degree 1: the sum of S is the activation.
    total = (gradient.double() * hidden.detach().double()).sum() / scale
    torch.testing.assert_close(float(total), 27 / 28, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "about", [{"labels": 5}, [1, 2], {"labels": [["a"], ["b"]]}, {"layer": 3}, {"provenance": 5}]
)
def test_metadata_of_others_is_passed_by(tmp_path: Path, about: object) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"directions": torch.eye(2)}, path, {"opponent": json.dumps(about)})
    assert Directions.load(path).labels == ("theirs-0", "theirs-1")
