"""A run through a small dictionary goes through every command that looks at it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import opponent
from opponent import Run
from opponent.cli import app

pytestmark = pytest.mark.usefixtures("one_thread")


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    for i in range(30):
        small = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((80, 80), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def dictionary(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More latents than mixed3a has channels, so that a latent's number is no channel's."""
    file = tmp_path_factory.mktemp("dictionary") / "d.safetensors"
    within(
        "dictionary", "inceptionv1-small", "mixed3a", "--images", pictures, "--latents", 200,
        "--active", 8, "--steps", 4, "--batch", 128, "--out", file,
    )  # fmt: skip
    return file


@pytest.fixture(scope="module")
def run(pictures: Path, dictionary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    within(
        "scan", "inceptionv1-small", "mixed3b:189", "--through", "mixed3a", "--images", pictures,
        "--dictionary", dictionary, "--out", folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def digest(dictionary: Path) -> str:
    return opponent.Dictionary.load(dictionary).sha256()


def test_invert(run: Path, digest: str) -> None:
    text = within("invert", run, "--image", "03.png", "--steps", 2, "--side", "both")
    assert "both, mixed3b:189@7,7 goes from" in text
    [record] = (run / "synthesis").glob("*03-inversion-both-*.json")
    assert json.loads(record.read_text())["dictionary_sha256"] == digest
    within("invert", run, "--image", "03.png", "--steps", 2, "--accentuate")
    records = [*(run / "synthesis").glob("*-03-accentuation-*.json")]
    assert len(records) == 2
    assert all(json.loads(x.read_text())["dictionary_sha256"] == digest for x in records)


def test_atlas_and_explore(run: Path, digest: str) -> None:
    words = ("--top", 25, "--grid", 1, "--min-images", 2, "--steps", 1, "--signed")
    text = within("atlas", run, *words)
    assert "25 images" in text
    [record] = (run / "atlas").glob("*/atlas.json")
    assert json.loads(record.read_text())["dictionary"] == digest
    [atlas] = opponent.atlases(Run(run))
    assert atlas.cells[0].pixels("inhibition") is not None
    within("explore", run)
    assert (run / "explorer.html").stat().st_size > 100_000
    text = within("who", run, "--cell", "0,0")
    assert "by latents of mixed3a" in text
    assert "mixed3a/latent:" in text


def test_report_and_figures(run: Path, digest: str) -> None:
    within("report", run, "--steps", 2, "-k", 2)
    page = (run / "report.html").read_text()
    assert digest in page
    assert "mixed3a/latent:" in page
    assert "explained through <code>latents of mixed3a</code>" in page
    assert "<figcaption>Latents of <code>mixed3a</code>" in page
    assert "mean absolute term of the dictionary's rest" in page.replace("&#39;", "'")
    assert "What drives mixed3a/latent" not in page
    within("figures", run)
    assert len(list((run / "figures").glob("*.png"))) >= 3


def test_why(run: Path, dictionary: Path, tmp_path: Path) -> None:
    words = ("why", "inceptionv1-small", "03.png", "mixed3b:189", "--through", "mixed3a")
    for page in (tmp_path / "why.html", tmp_path / "why.png"):
        text = within(*words, "--run", run, "--out", page)
        assert "mixed3a/latent:" in text
        assert "percentile of tension" in text
        assert "dictionary's rest" in text
        assert page.stat().st_size > 5000
    image = Run(run).images[3].path
    alone = within(words[0], words[1], image, *words[3:], "--dictionary", dictionary)
    assert "mixed3a/latent:" in alone


def test_who(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "who.html"
    text = within("who", run, "--silence", "--visualise", "--channels", 1, "--out", page)
    assert "without mixed3a/latent:" in text
    assert "others at random" in text
    shown = page.read_text()
    assert "what each latent adds to inhibition" in shown
    assert shown.count("data:image/") >= 4
    assert [*(run / "synthesis").glob("mixed3a-latent-*-visualisation-excitation-*.png")]
    latents = [x.channel for x in opponent.who(Run(run), crops=0, channels=12).exciting]
    assert max(latents) >= 128
