"""Every command and every piece of Python in README and docs runs, or says why it does not.

A comment before a block says `not run: REASON` or `run by TEST`. All others run here, one after the
other in a folder of their page, with sizes made smaller.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import opponent
from opponent.cli import app
from opponent.images.fit import Fit
from opponent.images.loader import load_images
from opponent.reports import demo

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^ *<!-- ([^\n]+) -->\n)?^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.M | re.S)
# What takes long is made smaller; no weights are fetched.
SMALLER = {
    r"inceptionv1-bvlc=\S+": "inceptionv1-small",
    r"mixed3b:379": "mixed3b:189",
    r"--top 1000 --grid 8": "--top 30 --grid 2",
    r"--images photos": "--images photographs",
    r"invert run --image \S+": "invert run --image photograph-07.png",
    r"why inceptionv1-small astronaut\S+": "why inceptionv1-small photograph-07.png",
    r"--k 200 --spread 20": "--k 12 --spread 12",
    r"kmeans17": "kmeans7",
    r"toy abs --seeds 100": "toy abs --seeds 1",
    r"--parts 20": "--parts 2",
    r"(opponent completeness .*)": r"\1 --through mixed4e --through mixed5a",
    r"squeezenet1_1(?!=)": "squeezenet1_1=weights.safetensors",
    r"(opponent report .*)": r"\1 --steps 2",
    r"(opponent atlas .*)": r"\1 --steps 2",
    r"(opponent invert .*)": r"\1 --steps 2",
    r"(opponent visualise .*)": r"\1 --steps 2",
    r"(opponent verify-inversions .*)": r"\1 --layers 1 --units 1 --tense 1 --steps 2",
    r"(opponent uniqueness .*)": r"\1 --features 2 --kmeans 4",
}


WEIGHTS = 'weights="weights.safetensors"'
QUICK = "settings=opponent.SynthesisSettings(steps=2)"


@dataclass(frozen=True)
class Block:
    """A block of code, and what the comment before it says."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def commands(self) -> list[str]:
        """The lines after a prompt, with those that go on."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]
        return [line.split("  #")[0] for line in lines]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[3], match[4], match[1] or "")
        for match in BLOCK.finditer(text)
    ]


def runs(block: Block) -> bool:
    """Whether it runs here; a page names the file that a block shows."""
    return not block.comment.startswith(("not run: ", "run by ", "extending/"))


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=lambda x: f"{x.page.name}-{x.line}")
def test_a_block_runs_or_says_why_not(block: Block) -> None:
    if runs(block):
        assert block.language in {"console", "python"}
        assert not block.comment
    elif block.comment.startswith("run by "):
        test = ROOT / block.comment.removeprefix("run by ")
        assert block.page.name in test.read_text(encoding="utf-8")
    elif block.comment.startswith("extending/"):
        assert (ROOT / "docs" / block.comment).read_text(encoding="utf-8") == block.text
    else:
        assert len(block.comment) > len("not run: ") + 10
        for path in re.findall(r"tests/\S+\.py", block.comment):
            assert (ROOT / path).is_file()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: 40 crops of photographs, two single ones, and weights."""
    pytest.importorskip("skimage")
    models = pytest.importorskip("torchvision.models")
    folder = tmp_path_factory.mktemp("reader")
    (folder / "photographs").mkdir()
    images = opponent.open_images("photos", size=(112, 112))
    step = len(images) // 40
    for number, pixels in enumerate(load_images(list(images)[::step][:40], Fit(size=(112, 112)))):
        Image.fromarray(pixels).save(folder / "photographs" / f"photograph-{number:02d}.png")
    for name in ("coffee.jpg", "banana.jpg"):
        Image.fromarray(pixels).save(folder / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.squeezenet1_1()
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def execute(code: str, where: str, names: dict[str, object]) -> None:
    """Python of a page, with the reader's files in the place of what has to be fetched."""
    for asked, given in (
        ('"photos"', '"photographs"'),
        ('load("torchvision:squeezenet1_1")', f'load("torchvision:squeezenet1_1", {WEIGHTS})'),
        ('load("inceptionv1-bvlc", weights="bvlc_googlenet.caffemodel")', "load()"),
        ("mixed3b:379", "mixed3b:189"),
        ("grid=8, top=600, min_images=4, steps=60", "grid=2, top=30, steps=2"),
        (", unit, through, side=", f", unit, through, {QUICK}, side="),
    ):
        code = code.replace(asked, given)
    exec(compile(code, where, "exec"), names)


def fragments() -> dict[str, object]:
    """What pieces of Python on a page take for granted."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 112, 112, 3), np.uint8)
    return {"opponent": opponent, "network": opponent.load(), "dataset": list(noise)}


def run(command: str) -> None:
    """A command, in this process, made smaller."""
    for pattern, smaller in SMALLER.items():
        command = re.sub(pattern, smaller, command)
    words = shlex.split(command)
    assert words[0] == "opponent", command
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(runs, blocks(page)))], ids=lambda page: page.name
)
def test_the_commands_of_a_page_run_in_its_order(
    page: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tmp_path / "reader"
    shutil.copytree(pictures, reader)
    monkeypatch.chdir(reader)
    monkeypatch.setattr(demo, "SOURCE", "photographs")
    monkeypatch.setattr(demo, "SynthesisSettings", partial(opponent.SynthesisSettings, steps=2))
    for block in filter(runs, blocks(page)):
        if block.language == "console":
            for command in block.commands:
                if not command.startswith("pip install"):
                    run(command)
        else:
            shutil.rmtree("run", ignore_errors=True)
            execute(block.text, f"{page.name}, line {block.line}", fragments())


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reader = tmp_path / "reader"
    shutil.copytree(pictures, reader)
    monkeypatch.chdir(reader)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        execute("".join(cell["source"]), f"cell {number}", names)
        assert cell["outputs"] == []
    assert isinstance(names["run"], opponent.Run)
    assert len(opponent.atlases(names["run"])) == 1
