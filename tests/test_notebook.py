"""What results show of themselves in notebooks: short reprs, tables, pictures that are true."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import opponent
from opponent.core import notebook
from opponent.core.colour import on_white, tension_colours

pytestmark = pytest.mark.usefixtures("one_thread")
UNIT, THROUGH = "2:1@6,5", "1"
SIZE = (12, 10)
# Names that would be markup, if nothing escaped them.
ODD = '<img src=x onerror="alert(1)">&'


class Noise:
    """An image source of seeded noise."""

    def __init__(self, count: int) -> None:
        self.name, self.count = ODD, count

    def ids(self) -> list[str]:
        return [f"{number}{ODD}" for number in range(self.count)]

    def image(self, id: str) -> np.ndarray:
        seed = int(id.removesuffix(ODD))
        return np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)


class Page(HTMLParser):
    """The tags and the text of a piece of HTML; fails where tags do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    @property
    def pictures(self) -> list[np.ndarray]:
        sources = [attrs["src"] for tag, attrs in self.tags if tag == "img"]
        return [pixels_of(source) for source in sources if source]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def pixels_of(uri: str) -> np.ndarray:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", uri).groups()  # type: ignore[union-attr]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == kind.upper()
        return np.asarray(image)


@pytest.fixture(scope="module")
def network() -> opponent.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding=1, bias=False),
        )  # fmt: skip
    return opponent.Network(module, preprocessing=opponent.Preprocessing(size=SIZE), name="small")


@pytest.fixture(scope="module")
def run(network: opponent.Network, tmp_path_factory: pytest.TempPathFactory) -> opponent.Run:
    out = tmp_path_factory.mktemp("notebook") / "run"
    return opponent.scan_images(network, Noise(40), [UNIT, "2:3@6,5"], THROUGH, out=out)


@pytest.fixture(scope="module")
def result(network: opponent.Network) -> opponent.Attribution:
    return opponent.attribute(network, Noise(12), UNIT, THROUGH)


def views(run: opponent.Run, network: opponent.Network) -> dict[str, Any]:
    images = run.images.entries[:2]
    settings = opponent.SynthesisSettings(steps=2)
    return {
        "Attribution": opponent.attribute(network, Noise(30), UNIT, THROUGH),
        "Columns": run.columns(UNIT),
        "Run": run,
        "Selected": opponent.select(run, k=3, feature=UNIT)["exciting"],
        "Synthesis": opponent.invert(
            network, images, UNIT, THROUGH, side="excitation", settings=settings
        ),
        "Who": opponent.who(run, UNIT, network=network, channels=3),
        "Why": opponent.why(network, images[0], UNIT, THROUGH, run=run),
        "Directions": opponent.Directions(
            vectors=np.eye(6, dtype=np.float32), labels=tuple("abcdef"), layer="1", provenance={}
        ),
        "ImageSet": run.images,
        "Network": network,
    }


def test_reprs_are_short(run: opponent.Run, network: opponent.Network) -> None:
    for name, value in views(run, network).items():
        assert repr(value).startswith(name)
        assert len(repr(value)) < 250, name
        assert "\n" not in repr(value)


def test_views_are_whole_html_that_escapes_names(
    run: opponent.Run, network: opponent.Network
) -> None:
    shown = {k: v for k, v in views(run, network).items() if hasattr(v, "_repr_html_")}
    assert set(shown) >= {"Attribution", "Columns", "Run", "Synthesis", "Who", "Why"}
    for value in shown.values():
        html = value._repr_html_()
        page = Page(html)
        assert page.pictures
        assert len(html) < 400_000
        # Nothing but ours, and nothing that runs or loads.
        assert {tag for tag, _ in page.tags} <= {
            "div", "b", "table", "tr", "th", "td", "figure", "img", "figcaption"
        }  # fmt: skip
        for _, attributes in page.tags:
            assert set(attributes) <= {"style", "src", "alt"}


def test_an_attribution_shows_its_numbers_and_its_maps(result: opponent.Attribution) -> None:
    page = Page(result._repr_html_())
    assert "2:1@6,5" in page.text
    assert page.count("tr") == 1 + 10
    assert "… and 2 more" in page.text
    for row in range(10):
        assert f"{row}{ODD}" in page.text
        assert f"{float(result.activation[row]):.4g}" in page.text
        assert f"{float(result.inhibition[row]):.4g}" in page.text
    assert len(page.pictures) == 8
    plus, minus = result.excitation_map.numpy(), result.inhibition_map.numpy()
    box = result.window
    rows, columns = box.slices
    scale = max(plus[:8].max(), minus[:8].max())
    expected = on_white(tension_colours(plus[2] / scale, minus[2] / scale))[rows, columns]
    picture = page.pictures[2].astype(int)
    step = (picture.shape[0] - 2) / box.height
    for y in range(box.height):
        for x in range(box.width):
            middle = picture[int(1 + step * (y + 0.5)), int(1 + step * (x + 0.5))]
            assert np.abs(middle[:3] - expected[y, x]).max() <= 1


def test_columns_show_their_quantiles_and_energies(run: opponent.Run) -> None:
    columns = run.columns(UNIT)
    page = Page(columns._repr_html_())
    assert repr(columns) == "Columns(40 images, maps of 3 x 3)"
    for name in ("activation", "excitation", "inhibition", "l1", "l2"):
        values = getattr(columns, name)
        assert f" {np.median(values):.4g} " in page.text
        assert f" {values.max():.4g} " in page.text
    [dots] = page.pictures
    end = 1.04 * max(columns.excitation.max(), columns.inhibition.max())
    for plus, minus in zip(columns.excitation, columns.inhibition, strict=True):
        y, x = int(len(dots) * (1 - minus / end)), int(len(dots) * plus / end)
        near = dots[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert near.min() < 245


def test_a_run_shows_what_was_scanned(run: opponent.Run) -> None:
    page = Page(run._repr_html_())
    for words in ("small", "40 from", "gradient", "1 of 1", "2:1@6,5", "2:3@6,5", ODD):
        assert words in page.text
    assert len(page.pictures) == 2


def test_an_unfinished_run_is_shown_without_pictures(
    network: opponent.Network, tmp_path: Path
) -> None:
    run = opponent.scan_images(network, Noise(8), UNIT, THROUGH, out=tmp_path, shard_size=4)
    run.shard(1).unlink()
    page = Page(run._repr_html_())
    assert "1 of 2" in page.text
    assert not page.pictures


def test_a_synthesis_shows_what_is_opaque(network: opponent.Network) -> None:
    settings = opponent.SynthesisSettings(steps=2)
    made = opponent.invert(
        network, Noise(3), UNIT, THROUGH, side="inhibition", settings=settings
    )  # fmt: skip
    page = Page(made._repr_html_())
    assert len(page.pictures) == 3
    for number, value in enumerate(made.final.tolist()):
        assert f"{number}{ODD}: activation {value:+.4g}" in page.text
    with Image.open(io.BytesIO(made._repr_png_())) as sheet:
        assert sheet.format == "PNG"


def test_why_and_who_show_both_sides(run: opponent.Run, network: opponent.Network) -> None:
    why = opponent.why(network, run.images[0], UNIT, THROUGH, run=run)
    page = Page(why._repr_html_())
    assert why.verdict in page.text
    assert len(page.pictures) == 2
    for driver in (*why.drivers.exciting, *why.drivers.inhibiting):
        assert driver.name in page.text
        assert f"{driver.excitation:.4g} {driver.inhibition:.4g}" in page.text
    who = opponent.who(run, UNIT, network=network, channels=3)
    page = Page(who._repr_html_())
    for driver in (*who.exciting, *who.inhibiting):
        assert f"{driver.excitation:.4g} {driver.inhibition:.4g}" in page.text
        assert f"{driver.name} " in page.text


def test_an_atlas_shows_its_icons(signed_wave_atlas: opponent.Atlas) -> None:
    page = Page(signed_wave_atlas._repr_html_())
    assert f"{signed_wave_atlas.about.trustworthiness:.3f}" in page.text
    assert len(page.pictures) == 1
    with Image.open(io.BytesIO(signed_wave_atlas._repr_png_())) as mosaic:
        assert mosaic.size[0] == mosaic.size[1]


def test_nothing_to_show_is_said(result: opponent.Attribution) -> None:
    zero = replace(result, window_attribution=torch.zeros_like(result.window_attribution))
    page = Page(zero._repr_html_())
    assert all((picture[2:-2, 2:-2] > 250).all() for picture in page.pictures)
    empty = opponent.Columns(
        images=(), excitation_map=np.zeros((0, 3, 3)), inhibition_map=np.zeros((0, 3, 3)),
        **{name: np.zeros(0) for name in ("activation", "excitation", "inhibition", "l1", "l2")},
    )  # fmt: skip
    assert Page(empty._repr_html_()).text.strip() == "Columns(0 images, maps of 3 x 3)"


def test_a_flat_scatter_is_drawn() -> None:
    same = np.zeros(5)
    picture = notebook.scatter(same, same, same)
    assert picture[-3, 3, :3].max() < 250


def test_data_frames_hold_the_same_numbers(run: opponent.Run, result: opponent.Attribution) -> None:
    for value in (run.columns(UNIT), result):
        frame = value.to_pandas()
        assert list(frame.columns) == [
            "image",
            "activation",
            "excitation",
            "inhibition",
            "l1",
            "l2",
        ]
        assert frame["image"].tolist() == list(value.images)
        np.testing.assert_allclose(frame["excitation"], np.asarray(value.excitation))
