"""The documentation site: its pages and its reference, checked without building it."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import opponent

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def _pages(nav: object) -> Iterator[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from (page for part in nav.values() for page in _pages(part))
    elif isinstance(nav, list):
        yield from (page for part in nav for page in _pages(part))


PAGES = list(_pages(SITE["nav"]))
REFERENCE = [page for page in PAGES if page.startswith("reference/")]


def _names(page: str) -> list[str]:
    """What a page of the reference shows."""
    return re.findall(r"^::: (\S+)$", (DOCS / page).read_text(encoding="utf-8"), re.M)


def test_the_navigation_has_every_page_once() -> None:
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert Counter(PAGES) == Counter(there)


@pytest.mark.parametrize("page", REFERENCE)
def test_the_reference_shows_what_can_be_imported(page: str) -> None:
    for name in _names(page):
        package, _, public = name.partition(".")
        assert package == "opponent", f"{name} is no public name"
        assert public in opponent.__all__
        assert getattr(opponent, public) is not None


def test_the_reference_shows_every_public_name_once() -> None:
    shown = [name for page in REFERENCE for name in _names(page)]
    assert Counter(shown) == Counter(f"opponent.{name}" for name in opponent.__all__)


def test_the_reference_has_a_page_for_each_room_that_names_come_from() -> None:
    rooms = {
        page: {getattr(opponent, name.partition(".")[2]).__module__.split(".")[1] for name in names}
        for page in REFERENCE
        if (names := _names(page))
    }
    assert rooms == {page: {Path(page).stem} for page in rooms}


def test_the_index_of_the_reference_names_every_public_name() -> None:
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[`(\w+)`\]\[opponent\.(\w+)\]", text)
    assert all(shown == target for shown, target in linked)
    assert Counter(target for _, target in linked) == Counter(opponent.__all__)


def test_pages_of_other_files_include_files_that_are_there() -> None:
    included = [
        name
        for page in PAGES
        for name in re.findall(
            r'^--8<-- "(.+)"$', (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert included == ["CHANGELOG.md", "CONTRIBUTING.md"]
    assert all((ROOT / name).is_file() for name in included)


def test_pages_load_nothing_from_elsewhere() -> None:
    assert SITE["strict"] is True
    assert SITE["theme"]["font"] is False
    assert "extra_javascript" not in SITE
    assert "extra_css" not in SITE
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert not re.search(r"!\[[^]]*\]\(\s*https?:|<(?:img|script|link|iframe)\b", text), page
