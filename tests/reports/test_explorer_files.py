"""The explorer's files: the page, its sheets of thumbnails, and what it refuses."""

import io
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser
from tests.support.explorer import (
    CHOICES,
    Explored,
    ExplorerVisit,
    copied,
    cut,
    data_of,
    distances,
)

from opponent import Run, RunError, Unreadable, select
from opponent.atlas.atlas import Atlas
from opponent.explain.crops import run_tiles
from opponent.reports import explorer
from opponent.reports.explorer import write_explorer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_page_is_the_same_twice(explored: Explored, page: Path, tmp_path: Path) -> None:
    again = write_explorer(explored.run, tmp_path / "again.html")
    # Bokeh gives its elements random names; all else is the same.
    plain = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|p\d+", "", p.read_text()) for p in (page, again)]
    assert plain[0] == plain[1]
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def sheets_of(run: Run) -> dict[Path, tuple[int, bytes]]:
    """The sheets of thumbnails: when each was written, and its bytes."""
    paths = sorted((run.folder / "explorer").rglob("*.*"))
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def few_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    """36 images a sheet, so that there are four."""
    monkeypatch.setattr(explorer, "DOWN", 3)
    monkeypatch.setattr(explorer, "_CHUNK", 36)


def test_thumbnails_are_made_once(
    explored: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_a_sheet(monkeypatch)
    run = copied(explored, tmp_path / "run", without=["explorer", "explorer.html"])
    made_for: list[list[int]] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        made_for.append(list(arguments[3]))
        return run_tiles(*arguments, **named)

    monkeypatch.setattr(explorer, "run_tiles", counted)
    calls: list[tuple[str, int, int]] = []
    write_explorer(run, tmp_path / "page.html", progress=lambda *x: calls.append(x))
    assert calls == [("thumbnails", done, 121) for done in (36, 72, 108, 121)]
    assert [len(rows) for rows in made_for] == [36, 36, 36, 13]
    assert [row for rows in made_for for row in rows] == explored.rows
    before = sheets_of(run)
    assert [path.suffix for path in before] == [".jpg"] * 4
    made_for.clear()
    write_explorer(run, tmp_path / "page.html")
    assert made_for == []
    assert sheets_of(run) == before
    second = list(before)[1]
    second.unlink()
    write_explorer(run, tmp_path / "page.html")
    assert made_for == [explored.rows[36:72]]
    after = sheets_of(run)
    assert {path: x[1] for path, x in after.items()} == {path: x[1] for path, x in before.items()}
    assert all(after[path] == before[path] for path in before if path != second)


@pytest.mark.browser
def test_many_thumbnails_lie_in_sheets_beside_the_page(
    explored: Explored,
    thumbs: list[np.ndarray],
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_a_sheet(monkeypatch)
    monkeypatch.setattr(explorer, "INLINE", 0)
    run = copied(explored, tmp_path / "run", without=["explorer", "explorer.html"])
    path = write_explorer(run, tmp_path / "out" / "a page's #1 (100 %).html")
    folder = tmp_path / "out" / "a page's #1 (100 %)_files"
    names = sorted(sheet.name for sheet in folder.iterdir())
    assert names == [f"{n:03d}.jpg" for n in range(4)]
    assert sorted(x.name for x in path.parent.iterdir()) == [path.name, folder.name]
    with ExplorerVisit(browser, path) as visit:
        chosen = [35, 36, 107, 120]
        visit.page.evaluate(f"explorer.mark({chosen})")
        visit.settle()
        for number, image in enumerate(chosen):
            thumb = visit.page.locator("#gallery .thumb").nth(number)
            differences = distances(thumbs, cut(visit, thumb))
            assert int(differences.argmin()) == image
            thumb.scroll_into_view_if_needed()
            shot = Image.open(io.BytesIO(thumb.screenshot())).convert("RGB").resize((128, 64))
            assert int(distances(thumbs, np.asarray(shot)).argmin()) == image
        assert visit.complaints == []
        asked = {Path(unquote(address.removeprefix("file://"))) for address in visit.loaded()}
        assert asked == {path, *(folder / name for name in names)}


def test_a_page_in_folders_that_are_not_there_yet(explored: Explored, tmp_path: Path) -> None:
    path = write_explorer(explored.run, str(tmp_path / "some" / "where" / "page.html"))
    assert path == tmp_path / "some" / "where" / "page.html"
    assert data_of(path)["images"] == explored.images


@pytest.mark.parametrize("room", [40, 90, 100])
def test_a_page_of_few_images_keeps_all_that_are_on_the_map(
    explored: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(explorer, "POINTS", room)
    run = copied(explored, tmp_path / "run", without=["explorer", "explorer.html"])
    data = data_of(write_explorer(run, tmp_path / "page.html"))
    others = data["images"][90:]
    assert data["images"][:90] == explored.images[:90]
    assert len(others) == max(0, room - 90)
    # Others as they come in the scan; the same each time, for they are drawn from the run's seed.
    assert others == [image for image in explored.images[90:] if image in others]
    assert data_of(write_explorer(run, tmp_path / "again.html")) == data
    assert len(data["cells"]) == len(data["images"]) == len(data["numbers"]["l2"])
    assert all(len(x["colours"]) == len(data["images"]) for x in data["colourings"].values())
    for name, selected in select(explored.columns, 50).items():
        kept = [image for image in selected.images if image in data["images"]]
        group = data["groups"].get(name.replace("_", " "), [])
        assert [data["images"][place] for place in group] == kept
    text = (tmp_path / "page.html").read_text()
    assert f"{len(data['images'])} of 121 images, 90 of them on the map" in text


def test_images_in_one_folder_have_no_class(
    explored: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where all that are shown lie in one."""
    monkeypatch.setattr(explorer, "_classes", lambda *_: [])
    data = data_of(write_explorer(explored.run, tmp_path / "page.html"))
    assert data["classes"] is None
    assert list(data["colourings"]) == list(CHOICES[:-1])


def test_a_run_without_an_atlas_says_what_makes_one(explored: Explored, tmp_path: Path) -> None:
    run = copied(explored, tmp_path / "run", without=["atlas", "explorer", "explorer.html"])
    with pytest.raises(RunError, match="no atlas of any feature: `opponent atlas` makes one"):
        write_explorer(run)
    label = run.features[0].label
    with pytest.raises(RunError, match=f"no atlas of {label}: `opponent atlas` makes one"):
        write_explorer(run, feature=label)
    with pytest.raises(ValueError, match="holds no 'mixed3a:7'"):
        write_explorer(explored.run, feature="mixed3a:7")
    assert not (run.folder / "explorer.html").exists()


def test_the_newest_atlas_is_shown_or_the_one_that_is_given(
    explored: Explored, tmp_path: Path
) -> None:
    run = copied(explored, tmp_path / "run", without=["explorer", "explorer.html"])
    [newest] = (run.folder / "atlas").iterdir()
    older = newest.with_name("older")
    shutil.copytree(newest, older)
    about = json.loads((older / "atlas.json").read_text())
    about["settings"]["grid"] = 5
    (older / "atlas.json").write_text(json.dumps(about))
    os.utime(older / "atlas.json", (10**9, 10**9))
    path = tmp_path / "page.html"
    assert "--grid: 3" in write_explorer(run, path).read_text()
    assert "--grid: 3" in write_explorer(run, path, feature=run.features[0]).read_text()
    assert "--grid: 5" in write_explorer(run, path, atlas=Atlas(run, older)).read_text()


def test_a_photograph_that_is_gone_is_named_and_nothing_is_left(
    explored: Explored, tmp_path: Path
) -> None:
    run = copied(explored, tmp_path / "run", without=["explorer", "explorer.html"])
    photograph = explored.run.images.find("bars/07.png").path
    hidden = photograph.with_suffix(".hidden")
    photograph.rename(hidden)
    try:
        with pytest.raises(Unreadable, match=r"07\.png cannot be shown"):
            write_explorer(run)
    finally:
        hidden.rename(photograph)
    assert not (run.folder / "explorer.html").exists()
    assert list(sheets_of(run)) == []
    assert write_explorer(run).is_file()


def test_a_missing_icon_is_named(explored: Explored, tmp_path: Path) -> None:
    run = copied(explored, tmp_path / "run", without=["explorer", "explorer.html"])
    [folder] = (run.folder / "atlas").iterdir()
    (folder / "icons" / explored.atlas.cells[0].icon.name).unlink()
    with pytest.raises(RunError, match=r"\.png is missing; give the same `opponent atlas` again"):
        write_explorer(run)


def test_a_feature_is_named_where_several_have_atlases(
    explored: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(feature=explored.atlas.feature.at((0, 0)))
    monkeypatch.setattr(explorer, "atlases", lambda *_: [other, explored.atlas])
    message = f"has atlases of {other.feature.label}, {explored.atlas.feature.label}; name one of"
    with pytest.raises(ValueError, match=message):
        write_explorer(explored.run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
