"""Tension in channels beside tension in latents: which goes, and which remains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.dictionaries import made
from tests.support.scans import branched, paint_shapes
from torch import Tensor, nn

import opponent
from opponent import Dictionary, Network, Preprocessing, Run, RunError
from opponent.cli import app

SIZES = {"batch_size": 8, "shard_size": 16}


class Shared(nn.Module):
    """Two features on one channel: what either adds, the other's weight takes away.

    h = (r + g, r - g) for red and green; the target is 1 h0 + 0.9 h1 - 1.4 b: of red and green
    alone it has 1.9 r + 0.1 g, which has no tension, though g's two terms are of either sign.
    """

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.mix, self.read = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 1, 1, bias=False)
        rows = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
        self.mix.weight = nn.Parameter(rows.view(3, 3, 1, 1))
        self.read.weight = nn.Parameter(torch.tensor([1.0, 0.9, -1.4]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = self.read(self.mix(x))
        return read


# Latents are red, green and blue themselves.
TRUE = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])


class Colours:
    """Images of one colour each: red, green, red and blue; more or less of them."""

    name = "colours"

    def ids(self) -> list[str]:
        return [f"{kind}{i}" for kind in ("green", "both") for i in range(15)]

    def image(self, id: str) -> np.ndarray:
        light = 60 + 10 * int(id.removeprefix("green").removeprefix("both"))
        colour = (10, light, 0) if id.startswith("green") else (light, 0, light)
        return np.broadcast_to(np.array(colour, np.uint8), (4, 4, 3)).copy()


def shared() -> Network:
    prepared = Preprocessing(size=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Network(Shared(), preprocessing=prepared, name="shared")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("interference")
    true = Dictionary(
        decoder=TRUE, encoder=torch.linalg.inv(TRUE).T.contiguous(), bias=torch.zeros(3),
        encoder_bias=torch.zeros(3), kind="linear", layer="mix",
    )  # fmt: skip
    first, second = (
        opponent.scan_images(
            shared(), Colours(), "read:0", "mix", out=folder / name, dictionary=given, **SIZES
        )  # type: ignore[arg-type]
        for name, given in (("channels", None), ("latents", true))
    )
    return first, second


def test_interference_goes_and_function_stays(runs: tuple[Run, Run]) -> None:
    found = opponent.interference(*runs)
    green = np.array([image.startswith("green") for image in found.images])
    # Green alone: h0 and h1 differ in sign, and so do their terms; of green itself there is one.
    assert bool((found.channels.tension[green] > 0.1).all())
    assert found.remaining[green] == pytest.approx(0, abs=1e-5)
    # Red against blue: each is a latent, and holds the other back in either basis.
    assert found.remaining[~green] == pytest.approx(1, abs=1e-5)
    for row, image in enumerate(found.images):
        red, grn, blue = (Colours().image(image)[0, 0] / 255).tolist()
        terms = [1.9 * red, 0.1 * grn, -1.4 * blue]
        plus, minus = sum(x for x in terms if x > 0), -sum(x for x in terms if x < 0)
        assert found.latents.tension[row] == pytest.approx(min(plus, minus), abs=1e-5)
    first = found.order(functional=True, least=0.0)
    assert not green[first[:15]].any()
    assert green[found.order(functional=False, least=0.0)[:15]].all()


def test_what_is_hardly_tense_is_not_ranked(runs: tuple[Run, Run]) -> None:
    found = opponent.interference(*runs)
    tense = found.channels.tension
    rows = found.order(functional=True, least=0.5)
    assert set(rows) == set(np.flatnonzero(tense >= np.quantile(tense, 0.5)))


def test_it_is_told(runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:  # type: ignore[type-arg]
    found = opponent.interference(*runs, feature="read:0")
    facts = dict(found.facts())
    assert facts["mean L1 of S"].startswith(f"{found.channels.l1.mean():.4g} in channels")
    assert facts["mean |term| of bias, of rest"].startswith("0, ")
    assert found.to_pandas().shape == (30, 7)
    words = ["interference", *(str(run.folder) for run in runs), "--csv", str(tmp_path / "a.csv")]
    app(words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "share of tension that remains, in the tenser half" in said
    assert "tense, and it goes" in said
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 31


def test_runs_that_do_not_go_together_are_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    first, second = runs
    for pair in ((second, first), (first, first), (second, second)):
        with pytest.raises(RunError, match="a scan in channels first"):
            opponent.interference(*pair)
    pictures = paint_shapes(tmp_path / "in", 4)
    other = opponent.scan_images(
        branched(), pictures, "mixed:1", "early", out=tmp_path / "other",
        dictionary=made("topk", 9, 4).to(torch.zeros(1)), **SIZES,
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(RunError, match="are of different networks"):
        opponent.interference(first, other)
