"""Pages of a run through the identity dictionary show what those of its channels show."""

import re
from pathlib import Path

import pytest
from tests.support.explorer import scattered
from tests.support.scans import branched, paint_shapes
from tests.support.synthesis import QUICK

from opponent import AtlasSettings, Dictionary, Run, make_atlas, scan_images
from opponent.atlas import build
from opponent.reports.explorer import write_explorer
from opponent.reports.report import write_report

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURE = re.compile(r"data:image/[a-z+]+;base64,[^\"'\\]+")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("pages")
    pictures = paint_shapes(folder / "in", 20)
    return [
        scan_images(branched(), pictures, "mixed:4", "early", out=folder / name, dictionary=given)
        for name, given in (("channels", None), ("identity", Dictionary.identity(4)))
    ]


def test_the_report_has_the_same_pictures_and_numbers(runs: list[Run]) -> None:
    texts = []
    for run in runs:
        path = write_report(run, network=branched(), k=2, settings=QUICK)
        texts.append(Path(str(path)).read_text())
    pictures = [PICTURE.findall(text) for text in texts]
    assert len(pictures[0]) > 20
    assert pictures[0] == pictures[1]
    bars = [re.findall(r"adds ([^ ]+) to excitation and ([^ ]+) to", text) for text in texts]
    assert bars[0] == bars[1] != []
    assert "early/latent:" in texts[1]
    assert "early/latent:" not in texts[0]
    record = runs[1].manifest.dictionary
    assert record is not None
    assert record.sha256 in texts[1]
    assert "4 latents, linear" in texts[1]
    assert "dictionary" not in re.sub(r"<script.*?</script>", "", texts[0], flags=re.DOTALL)


def test_the_explorer_has_the_same_pictures(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "lay_out", scattered)
    settings = AtlasSettings(top=20, grid=2, min_images=2, neighbours=3, steps=2)
    pictures = []
    for run in runs:
        make_atlas(run, network=branched(), settings=settings)
        path = write_explorer(run)
        pictures.append(PICTURE.findall(Path(str(path)).read_text()))
    assert len(pictures[0]) > 4
    assert pictures[0] == pictures[1]
