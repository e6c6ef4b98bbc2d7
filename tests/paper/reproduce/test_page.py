"""All of the paper's figures in one page, at sizes for a test."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.checkpoints import CHECKPOINTS

from opponent import ImageSet, open_images
from opponent.core.errors import RunError
from opponent.models.network import Network
from opponent.paper.reproduce.entries import Claim
from opponent.paper.reproduce.page import reproduce
from opponent.paper.reproduce.reproduction import sample_images
from opponent.paper.reproduce.scales import SCALES, Scale

TINY = Scale(
    images=40, measured=30, features=2, centroids=4, atlases=1, top=30, grid=2, least=2, layers=1,
    units=1, tense=1, steps=2, seeds=1,
    latents=64, active=4, learning=2, known=1,
)  # fmt: skip


@pytest.fixture(scope="session")
def page(embedded: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("paper") / "out"
    return reproduce(embedded, "photos", out=folder, scale=TINY)


@pytest.mark.slow
def test_every_figure_is_there_with_what_it_says(page: Path) -> None:
    written = json.loads((page.parent / "reproduce.json").read_text())
    assert [entry["figure"] for entry in written["figures"]] == [
        "2", "3", "4", "5", "6", "7, 15", "8", "11", "12", "13 A, B", "14", "16",
        "1, tested", "7, known features", "8, controls", "8, dictionaries",
    ]  # fmt: skip
    text = page.read_text()
    for entry in written["figures"]:
        assert f"Figure {entry['figure']}. {entry['title']}" in text
        for name in entry["pictures"]:
            assert (page.parent / name).stat().st_size > 1000
    count = sum(len(entry["pictures"]) for entry in written["figures"])
    assert text.count("data:image/jpeg") == count >= 14
    claims = [Claim(**claim) for entry in written["figures"] for claim in entry["claims"]]
    assert len(claims) >= 14
    compared = [claim for claim in claims if claim.agrees is not None]
    agreeing = sum(bool(claim.agrees) for claim in compared)
    assert f"{agreeing} of {len(compared)} claims" in text
    assert text.count("does not agree") == len(compared) - agreeing
    # What stands in a picture's data is chance.
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "http" not in words.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_numbers_come_from_the_steps_own_files(page: Path) -> None:
    written = json.loads((page.parent / "reproduce.json").read_text())
    claims = {c["claim"]: c for entry in written["figures"] for c in entry["claims"]}
    [measured] = json.loads((page.parent / "completeness" / "completeness.json").read_text())
    pixels = measured["layers"][0]["pearson"]
    ours = claims["through the pixels it does not"]["ours"]
    assert ours.startswith(f"r = {pixels:.3f}, mean |E - f| = ")
    [signs] = json.loads((page.parent / "weights" / "weights.json").read_text())["networks"]
    ours = claims["more weights are negative than positive"]
    assert ours["ours"].startswith(f"{signs['share']:.2%}")
    low, high = signs["interval"]
    assert ours["agrees"] == (None if low <= 0.5 <= high else low > 0.5)
    verified = json.loads((page.parent / "inversions" / "verify.json").read_text())
    said = claims["inversions move the activation as they should"]["ours"]
    assert said.startswith(f"{verified['moved_as_they_should']} of {verified['inversions']} ")
    toys = json.loads((page.parent / "toy-abs" / "toy.json").read_text())
    loss = toys["widths"][0]["largest_loss"]
    best = claims["absolute value: with 12 hidden units the best model is perfect"]
    assert best["ours"] == f"at most {loss:.1e} on any input"
    assert best["agrees"] == (loss < 1e-4)


@pytest.mark.slow
def test_a_second_call_computes_nothing_again(page: Path, embedded: Network) -> None:
    folder = page.parent
    folders = (CHECKPOINTS, "scan", "icons")
    kept = [path for path in folder.rglob("*") if path.parent.name in folders]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) > 20
    text, numbers = page.read_bytes(), (folder / "reproduce.json").read_bytes()
    assert reproduce(embedded, "photos", out=folder, scale=TINY) == page
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert page.read_bytes() == text
    assert (folder / "reproduce.json").read_bytes() == numbers


@pytest.mark.slow
def test_another_question_is_refused(page: Path, embedded: Network) -> None:
    with pytest.raises(RunError, match=r"another question \(other than this one in images, seed\)"):
        reproduce(embedded, "photos", out=page.parent, scale=TINY, seed=1)
    with pytest.raises(RunError, match=r"another question \(other than this one in scale\)"):
        reproduce(embedded, "photos", out=page.parent, scale=replace(TINY, steps=3))


def test_a_scale_has_a_name(embedded: Network, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--scale is one of quick, paper, not 'huge'"):
        reproduce(embedded, "photos", out=tmp_path / "out", scale="huge")
    assert not (tmp_path / "out").exists()


def test_the_papers_sizes_are_the_papers() -> None:
    paper = SCALES["paper"]
    assert (paper.features, paper.centroids, paper.atlases) == (20, 1000, 4)
    assert (paper.top, paper.grid) == (10_000, 20)
    assert (paper.layers, paper.units, paper.tense) == (5, 20, 10)
    assert (paper.seeds, paper.images) == (1000, None)


def test_a_part_of_the_images_is_drawn_in_their_order() -> None:
    images = open_images("photos", size=(64, 64))
    assert sample_images(images, None, 0) is images
    sample = sample_images(images, 30, 1)
    assert isinstance(sample, ImageSet)
    numbers = [images.entries.index(entry) for entry in sample]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 30
    assert [x.id for x in sample_images(images, 30, 1)] == [x.id for x in sample]
    assert [x.id for x in sample_images(images, 30, 2)] != [x.id for x in sample]
