"""Contact sheets of a study's trials."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from playwright.sync_api import Browser
from tests.support.pages import Visit, needs_axe

from opponent.core.text import file_name
from opponent.study.design.sheet import write_sheets
from opponent.study.design.study import Study, write_study


@pytest.fixture
def copy(study: Study, tmp_path: Path) -> Study:
    shutil.copytree(study.folder, tmp_path / "copy")
    return Study(tmp_path / "copy")


def test_sheets_show_every_trial(copy: Study) -> None:
    page, *prints = write_sheets(copy, suffix="svg")
    text = page.read_text()
    for trial in copy.trials:
        assert trial.feature.removeprefix(trial.layer + ":").partition("@")[0] in text
        assert trial.id in text
    assert text.count("data:image/png;base64,") == 15 * len(copy.trials)
    # What stands in a picture's data is chance.
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "http" not in words.replace("http://www.w3.org", "")
    assert [path.name for path in prints] == ["sheet-relu1.svg", "sheet-relu2.svg"]
    assert all(path.stat().st_size > 10_000 for path in prints)


def test_a_sheet_escapes_what_it_shows(copy: Study) -> None:
    hostile = "<script>alert(1)</script>"
    layers = tuple(structs.replace(x, label=hostile) for x in copy.settings.layers)
    write_study(
        copy.folder, structs.replace(copy.settings, title=hostile, layers=layers), copy.trials,
        {name: copy.table[name].to_pylist() for name in copy.table.column_names[8:]},
    )  # fmt: skip
    page, *_ = write_sheets(Study(copy.folder), suffix="png")
    assert "<script>" not in page.read_text()
    write_study(copy.folder, copy.settings, copy.trials)
    with pytest.raises(ValueError, match="no activations to show"):
        write_sheets(Study(copy.folder))


def test_a_sheet_s_name_is_the_layer_s(copy: Study) -> None:
    """Dots stay; what no file system takes does not."""
    names = {"relu1": "features.3", "relu2": "block/2 (last)"}
    trials = [replace(trial, layer=names[trial.layer]) for trial in copy.trials]
    layers = tuple(structs.replace(x, name=names[x.name]) for x in copy.settings.layers)
    write_study(
        copy.folder, structs.replace(copy.settings, layers=layers), trials,
        {name: copy.table[name].to_pylist() for name in copy.table.column_names[8:]},
    )  # fmt: skip
    _, *prints = write_sheets(Study(copy.folder), suffix="png")
    assert [path.name for path in prints] == [
        f"sheet-{file_name('features.3')}.png", f"sheet-{file_name('block/2 (last)')}.png",
    ]  # fmt: skip
    assert all(path.parent == copy.folder for path in prints)
    assert prints[0].name == "sheet-features.3.png"


@needs_axe
@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (1300, "dark"), (390, "light")])
def test_a_sheet_is_accessible(copy: Study, browser: Browser, width: int, scheme: str) -> None:
    page, *_ = write_sheets(copy, suffix="png")
    with Visit(browser, page, width=width, scheme=scheme) as visit:
        visit.assert_accessible()
