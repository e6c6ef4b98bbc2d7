"""Runs, their pages, and the explorer in a browser: made once, for tests that only read them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser
from tests.support import explorer
from tests.support.explorer import THUMB, Explored, ExplorerVisit, paint, scattered
from tests.support.pages import HOSTILE, QUICK
from tests.support.tense import tensest_unit
from tests.support.threads import single_thread

from opponent import (
    AtlasSettings,
    Dictionary,
    Network,
    Run,
    Who,
    Why,
    load,
    make_atlas,
    scan_images,
    who,
    why,
)
from opponent.atlas import build
from opponent.core.colour import overlay
from opponent.explain.crops import run_tiles
from opponent.explain.interference_images import InterferenceImages, interference_images
from opponent.reports.explorer import write_explorer
from opponent.reports.report import write_report


@pytest.fixture(scope="session")
def embedded() -> Network:
    """The embedded network."""
    return load()


@pytest.fixture(scope="session")
def run(embedded: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of 40 pictures, one with a hostile name and one that cannot be read."""
    folder = tmp_path_factory.mktemp("pages")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        small = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)
        image.save(pictures / (HOSTILE if i == 39 else f"{i:02d}.png"))
    feature = tensest_unit(embedded, pictures, "mixed3b")
    (pictures / "broken.png").write_bytes(b"no picture")
    return scan_images(embedded, pictures, feature, "mixed3a", out=folder / "run")


@pytest.fixture(scope="session")
def report(run: Run, embedded: Network) -> Path:
    """Its report, with every image in a group so that the hostile name is shown."""
    return write_report(run, network=embedded, k=40, settings=QUICK)


@pytest.fixture(scope="session")
def explored(embedded: Network, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """121 pictures in three folders, one with a hostile name; 90 of them are on the map."""
    folder = tmp_path_factory.mktemp("explore")
    generator = np.random.default_rng(0)
    for name in ("bars", "lines", "stripes"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(40):
            paint(folder / "pictures" / name / f"{i:02d}.png", generator)
    paint(folder / "pictures" / "lines" / explorer.HOSTILE, generator)
    settings = AtlasSettings(top=90, grid=3, min_images=3, neighbours=5, steps=2)
    with pytest.MonkeyPatch.context() as patch, single_thread():
        feature = tensest_unit(embedded, folder / "pictures", "mixed3b")
        run = scan_images(embedded, folder / "pictures", feature, "mixed3a", out=folder / "run")
        # Any layout will do here, and this one takes no time; tests/atlas looks at UMAP's.
        patch.setattr(build, "lay_out", scattered)
        atlas = make_atlas(run, network=embedded, settings=settings)
    columns = run.columns()
    on_map = atlas.map["image"].to_pylist()
    others = [image for image in columns.images if image not in on_map]
    return Explored(run=run, atlas=atlas, columns=columns, images=on_map + others)


@pytest.fixture(scope="session")
def page(explored: Explored) -> Path:
    """The page, where it lies by default."""
    path = write_explorer(explored.run)
    assert path == explored.run.folder / "explorer.html"
    return path


@pytest.fixture(scope="session")
def thumbs(explored: Explored) -> list[np.ndarray]:
    """What each image's thumbnail should show: its crop, and the same under its maps."""
    plus, minus = explored.columns.excitation_map, explored.columns.inhibition_map
    larger = [np.maximum(plus[row], minus[row]) for row in explored.rows]
    # As in all figures: nearly each image's maximum, and nearly the largest of those.
    peaks = [float(np.quantile(values, 0.995)) for values in larger if values.any()]
    scale = float(np.quantile(peaks, 0.9))
    expected = []
    for tile in run_tiles(
        explored.run, explored.atlas.feature, explored.columns, explored.rows, shown=THUMB
    ):
        assert tile.excitation is not None
        assert tile.inhibition is not None
        pair = [tile.image, overlay(tile.image, tile.excitation, tile.inhibition, scale)]
        small = [Image.fromarray(x).resize((THUMB, THUMB), Image.Resampling.LANCZOS) for x in pair]
        expected.append(np.concatenate([np.asarray(x) for x in small], axis=1))
    return expected


@pytest.fixture(scope="session")
def opened(browser: Browser, page: Path) -> Iterator[ExplorerVisit]:
    """The explorer, open in a browser."""
    with ExplorerVisit(browser, page) as visit:
        yield visit


@pytest.fixture
def desk(opened: ExplorerVisit) -> Iterator[ExplorerVisit]:
    """The page as it is opened; and it has complained of nothing when it is left."""
    opened.page.mouse.move(1, 1)
    opened.key("Escape")
    for name, value in (("colour", "activation"), ("group", ""), ("frame", "edge")):
        opened.page.select_option(f"#{name}", value)
    opened.page.locator("#zoom").fill("100")
    opened.page.evaluate("scrollTo(0, 0)")
    opened.settle()
    assert opened.marked() == []
    yield opened
    assert opened.complaints == []
    assert len(opened.loaded()) == 1


@pytest.fixture(scope="session")
def why_answer(run: Run, embedded: Network) -> Why:
    """Why one image does not make the feature fire."""
    with single_thread():
        image = run.images.find("05.png").path
        return why(embedded, image, run.features[0], run.through, run=run)


@pytest.fixture(scope="session")
def who_answer(run: Run, embedded: Network) -> Who:
    """Which channels drive the feature in two images."""
    with single_thread():
        return who(run, images=["03.png", "33.png"], channels=2, crops=2, network=embedded)


@pytest.fixture(scope="session")
def interference_answer(run: Run, embedded: Network, tmp_path_factory: pytest.TempPathFactory) -> (
    InterferenceImages
):  # fmt: skip
    """The images of which least and most tension remains, by latents at random directions."""
    channels = embedded.map_shape("mixed3a")[0]
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(200, channels, generator=generator))
    dictionary = Dictionary(
        decoder=decoder, encoder=decoder, bias=torch.zeros(channels),
        encoder_bias=torch.zeros(200), kind="topk", active=16, layer="mixed3a",
    )  # fmt: skip
    with single_thread():
        latents = scan_images(
            embedded, run.folder.parent / "pictures", run.features[0], "mixed3a",
            out=tmp_path_factory.mktemp("latents") / "run", dictionary=dictionary,
        )  # fmt: skip
        return interference_images(run, latents, k=2, listed=2, crops=2, network=embedded)
