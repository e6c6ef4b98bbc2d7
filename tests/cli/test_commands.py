"""The command, as a person gives it."""

import csv
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import opponent
from opponent.cli import app
from opponent.reports.demo import FEATURE, THROUGH

COMMANDS = (
    "models", "layers", "scan", "select", "figures", "why", "invert", "visualise", "report", "demo",
    "directions", "dictionary", "interference", "disinhibit", "atlas", "explore", "who",
    "completeness", "weights", "uniqueness", "toy", "toy-interference", "verify-inversions",
    "reproduce",
)  # fmt: skip
SCAN = ["scan", "inceptionv1-small", "mixed3b:189", "--through", "mixed3a"]


class Twice(nn.Module):
    """A ReLU of three calls, the second on a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.third, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.relu(self.third(x + self.relu(self.second(x))))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    words = [sys.executable, "-m", "opponent", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    for i in range(30):
        small = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((80, 80), Image.Resampling.BICUBIC)
        image.save(folder / f"[{i:02d}].png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan of them."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    text = within(*SCAN, "--images", pictures, "--out", folder)
    assert "30 images scanned" in text
    assert "broken.jpg: truncated" in text
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str) -> None:
    text = within(name, "--help")
    assert "Usage" in text
    if name != "models":
        assert "Example" in text
        assert f"opponent {name}" in " ".join(text.split())


def test_bokeh_stays_out_until_a_page_is_made() -> None:
    program = "import sys, opponent.cli; assert 'bokeh' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_models_and_layers() -> None:
    assert "inceptionv1-small" in within("models")
    text = within("layers", "inceptionv1-small")
    row = next(line for line in text.splitlines() if line.split()[:1] == ["mixed3b"])
    assert row.split() == [
        "mixed3b",
        "ReLU",
        "240",
        "14",
        "x",
        "14",
        "8",
        "x",
        "8",
        "91",
        "x",
        "91",
        "yes",
        "before",
        "it",
        "acts",
    ]
    assert [row.split()[0] for row in text.splitlines() if "a branch" in row][:2] == [
        "mixed3a_3x3_bottleneck",
        "mixed3a_5x5_bottleneck",
    ]
    before = within("layers", "inceptionv1-small", "--target", "mixed3b").splitlines()
    assert before[-2].split()[0] == "mixed3b_pool_reduce_pre_relu_conv"
    whole = within("layers", "inceptionv1-small", "--target", "mixed3b", "--bottlenecks")
    *rows, about = whole.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["conv2d0", "conv2d1", "conv2d2", "mixed3a"]
    assert about == "inceptionv1-small, input 112 x 112 pixels; bottlenecks before mixed3b"


def test_layers_that_are_called_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        twice = opponent.Network(Twice(), preprocessing=opponent.Preprocessing(size=(9, 12)))
    monkeypatch.setattr("opponent.cli.networks.open_network", lambda _: twice)
    rows = [row.split() for row in within("layers", "any", "--bottlenecks").splitlines()[1:-1]]
    assert [(row[0], row[-4]) for row in rows] == [("relu#1", "yes"), ("relu#3", "yes")]
    assert rows[0][-7:-4] == ["3", "x", "3"]
    assert rows[1][-7:-4] == ["7", "x", "7"]
    [row] = [row for row in within("layers", "any").splitlines() if row.strip().startswith("relu")]
    assert " ".join(row.split()).endswith("7 x 7 #1 yes, #2 a branch, #3 yes before it acts")


@pytest.mark.parametrize(
    ("through", "notes"),
    [
        ("mixed3a", []),
        (
            "mixed3a_3x3_bottleneck",
            ["is one branch of several", "way to mixed3b: conv2d0, conv2d1, conv2d2, mixed3a"],
        ),
        (
            "pixels",
            ["under 0.95", "a scan with --rule integrated-zero attributes all of it"],
        ),
    ],
)
def test_a_scan_says_what_to_do_where_the_sides_do_not_add_up(
    through: str, notes: list[str], pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    given = ("--through", through, "--images", pictures, "--out", folder)
    text = within(*SCAN[:3], "mixed3b:9", *given)
    run = opponent.Run(folder)
    for feature in run.features:
        columns = run.columns(feature)
        e = columns.excitation.astype(float) - columns.inhibition
        r = np.corrcoef(e, columns.activation)[0, 1]
        far = np.abs(e - columns.activation).mean() / columns.activation.std()
        start = f"{feature.label}: E = excitation - inhibition against the activation f: r = "
        [found] = re.findall(re.escape(start) + r"(\S+), mean \|E - f\| = (\S+) sd of f\n", text)
        assert found[0] == f"{r:.4f}"
        # To two digits, but for the rounding of single precision.
        assert float(found[1]) == pytest.approx(far, rel=0.05, abs=1e-6)
        assert (r > 0.9999) == (not notes)
    for note in notes:
        assert text.count(note) == 1, "once for both features"
    # Integrating mends what biases do, and no branch.
    assert ("integrated-zero" in text) == (through == "pixels")
    assert ("one branch of several" in text) == (through == "mixed3a_3x3_bottleneck")


def test_a_scan_of_few_images_gives_no_correlation(pictures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("\n".join(str(pictures / f"[{i:02d}].png") for i in range(19)))
    words = (*SCAN[:3], "mixed3b:*", "--through", "mixed3a_3x3_bottleneck", "--images", few)
    text = within(*words, "--out", tmp_path / "run")
    assert "no r (19 images; r takes 20 or more), mean |E - f| = " in text
    assert text.count("is one branch of several") == 1
    assert "integrated" not in text


def test_layers_read_after_an_activation_function_are_marked_and_noted(
    pictures: Path, tmp_path: Path
) -> None:
    text = within("layers", "module:tests.support.scans:ends_with_relu")
    read = {line.split()[0]: line.split()[-2:] for line in text.splitlines()[1:5]}
    assert read["block.relu"] == ["it", "acts"]
    assert read["block"] == ["after", "block.relu"]
    assert read["block.conv"] == ["x", "5"]
    scan = ["scan", "module:tests.support.scans:ends_with_relu", "block:1", "--through", "stem"]
    text = within(*scan, "--images", pictures, "--out", tmp_path / "run")
    note = "block is read after its activation function: after a ReLU, what is inhibited is 0; "
    assert text.splitlines()[0] == note + "block.relu would be read before"
    scan[2] = "block.relu:1"
    text = within(*scan, "--images", pictures, "--out", tmp_path / "other")
    assert "is read after" not in text


def test_select_lists_and_writes(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "chosen.csv"
    text = within("select", run, "-k", "3", "--csv", file)
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    columns = opponent.Run(run).columns()
    best = columns.images[int(columns.activation.argmax())]
    assert rows[0]["group"] == "exciting"
    assert rows[0]["image"] == best
    assert best in text
    assert {row["group"] for row in rows} >= {"exciting", "inhibiting", "silent"}


def test_figures(run: Path) -> None:
    words = within("figures", run, "-k", "2", "--format", "svg").split()
    paths = [Path(word) for word in words if word.endswith(".svg")]
    names = [path.name.replace(".", "-").split("-")[0] for path in paths]
    assert names == ["figure2", "figure4a", "figure4b"]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_why(run: Path, pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    image = pictures / "[03].png"
    text = within(
        "why", "inceptionv1-small", image, "mixed3b:189", "--through", "mixed3a", "--run", run,
        "--out", page,
    )  # fmt: skip
    assert "percentile of tension" in text
    assert "[03].png" in text
    assert page.is_file()


def test_why_takes_an_image_of_the_run(run: Path, pictures: Path) -> None:
    words = ("mixed3b:189", "--through", "mixed3a", "--run", run)
    by_id = within("why", "inceptionv1-small", "[03].png", *words)
    assert by_id == within("why", "inceptionv1-small", pictures / "[03].png", *words)
    wrong = command("why", "inceptionv1-small", "nope.png", *words)
    assert wrong.returncode == 2
    assert "there is no file 'nope.png', and" in " ".join(wrong.stderr.split())


def test_why_rather_than(pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    words = ("why", "inceptionv1-small", pictures / "[03].png", "mixed3b:189@2,3")
    text = " ".join(
        within(
            *words, "--against", "mixed3b:5", "--through", "mixed3a", "--channels", "2",
            "--out", page,
        ).split()
    )  # fmt: skip
    assert text.startswith("mixed3b:189@2,3 is at ")
    assert "mixed3a speaks for the first by " in text
    assert "against mixed3b:5@2,3" in text
    assert "for mixed3b:5@2,3 excitation inhibition share" in text
    assert "mixed3b:189@2,3 rather than mixed3b:5@2,3?" in page.read_text()
    assert "why a banana rather than an iguana" in " ".join(within("why", "--help").split())


@pytest.mark.parametrize("kind", ["topk", "kmeans", "nmf"])
def test_dictionary(pictures: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "d.safetensors"
    text = within(
        "dictionary", "inceptionv1-small", "mixed3a", "--images", pictures, "--latents", "20",
        "--active", "4", "--steps", "3", "--batch", "64", "--kind", kind, "--out", file,
    )  # fmt: skip
    assert "Dictionary(20 latents, " in text
    assert "of the variance of images that were kept out" in " ".join(text.split())
    assert opponent.Dictionary.load(file).layer == "mixed3a"
    assert file.with_suffix(".png").stat().st_size > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.png", "d.safetensors"]


def test_interference(run: Path, pictures: Path, tmp_path: Path) -> None:
    file, latents, page = tmp_path / "d.safetensors", tmp_path / "run", tmp_path / "page.html"
    opponent.Dictionary.identity(128, "mixed3a").save(file)
    within(*SCAN, "--images", pictures, "--dictionary", file, "--out", latents)
    text = within(
        "interference", run, latents, "-k", "2", "--channels", "2", "--out", page,
        "--csv", tmp_path / "all.csv", "--feature", "mixed3b:189", "--model", "inceptionv1-small",
    )  # fmt: skip
    assert "share of tension that remains, in the tenser half: 100%" in " ".join(text.split())
    assert text.split()[-2:] == [str(tmp_path / "all.csv"), str(page)]
    written = page.read_text()
    assert written.count('<article class="case">') == 4
    # With channels as latents all remains, and nothing is left.
    assert written.count("<b>100%</b> of the tension remains") == 4
    assert written.count("+0 and −0, 0% of |S|") == 4
    text = within("interference", run, latents, "-k", "99", "--out", tmp_path / "figure.png")
    assert "too few for 99 at either end" in text


def test_no_such_kind_of_dictionary(pictures: Path, tmp_path: Path) -> None:
    words = ("inceptionv1-small", "mixed3a", "--images", pictures, "--out", tmp_path / "d.pt")
    done = command("dictionary", *words, "--kind", "ica")
    assert done.returncode == 2
    assert "--kind is one of topk, random, kmeans, nmf, not 'ica'" in done.stderr


def test_invert_and_visualise(run: Path, tmp_path: Path) -> None:
    text = within("invert", run, "--image", "[03].png", "--steps", "2")
    assert text.count("[03]") + text.count("_03_") >= 2
    assert "excitation" in text
    assert "inhibition" in text
    assert len(list((run / "synthesis").glob("*.png"))) == 2
    within("invert", run, "--image", "[03].png", "--steps", "2", "--accentuate")
    assert len(list((run / "synthesis").glob("*accentuation*.png"))) == 2
    words = ("visualise", "inceptionv1-small", "mixed3a:5", "--out", tmp_path, "--steps", "2")
    within(*words, "--parameterisation", "fourier", "--side", "inhibition")
    assert [path.name for path in tmp_path.iterdir()] == ["mixed3a-5-7_7-inhibition.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scan", "inceptionv1-smmall", "mixed3b:1"], "did you mean 'inceptionv1-small'?"),
        (["scan", "inceptionv1-small", "mixed3c:1"], "no layer 'mixed3c'; did you mean"),
        (["scan", "inceptionv1-small", "mixed3b"], "does not name a feature"),
        (["scan", "inceptionv1-small", "mixed3b:240"], "has 240 channels, 0 to 239"),
        (["scan", "inceptionv1-small", "mixed3b:1@14,0"], "outside the layer's map"),
        (
            ["scan", "inceptionv1-small", "conv2d1:1"],
            "does not lie before the target 'conv2d1'; everything goes through these on its way to "
            "conv2d1: conv2d0",
        ),
    ],
)
def test_mistakes_are_explained(words: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [*words, "--through", "mixed3a", "--images", "photos", "--out", out]
    with pytest.raises(ValueError, match=r".") as caught:
        CliRunner().invoke(app, list(map(str, given)), catch_exceptions=False)
    assert message in str(caught.value)
    assert not out.exists()


def test_a_mistake_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    result = command("select", tmp_path)
    assert result.returncode == 2
    assert "no run folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_loses_nothing(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = [*SCAN, "--images", "photos", "--out", folder, "--shard-size", "16", "--batch-size", "4"]
    words = [sys.executable, "-m", "opponent", *map(str, slow)]
    # What a shell starts in the background ignores Ctrl-C, and so does what that starts.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        deadline = time.monotonic() + 120
        while not (folder / "scan").is_dir() or not list((folder / "scan").glob("0*.parquet")):
            assert time.monotonic() < deadline, "no shard came"
            assert process.poll() is None, "the scan ended by itself"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "give the same command again to go on" in errors
    assert "Traceback" not in errors
    assert not list(folder.rglob("*.tmp*"))
    assert list((folder / "scan").glob("0*.parquet"))


def test_the_demo_says_what_network_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opponent.reports.demo.run_demo", lambda folder: folder / "report.html")
    text = " ".join(within("demo", "--out", tmp_path / "demo").split())
    assert text.startswith("The network is inceptionv1-small, which ships inside")
    assert "inceptionv1-bvlc=FILE" in text
    assert text.endswith("report.html")


def test_the_demo_names_a_feature_of_the_embedded_network() -> None:
    network = opponent.load()
    network.layers.check(network.resolve(FEATURE).layer, THROUGH)
