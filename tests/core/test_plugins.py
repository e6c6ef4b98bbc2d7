"""Objects of the user's own by name."""

import sys
from pathlib import Path

import pytest

from opponent.core.plugins import load_object, names_object

OWN = """
import collections
value = 7
nothing = None

class Own:
    inner = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package in the working folder, with a module inside."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("top = 1")
    (folder / "inside.py").write_text(OWN)
    (folder / "broken.py").write_text("import a_module_that_is_nowhere")
    (folder / "failing.py").write_text("1 / 0")
    (folder / "asking.py").write_text("raise AttributeError('asked for too much')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.modules", {**sys.modules})
    return name


def test_what_names_an_object() -> None:
    assert names_object("module:a.b:c")
    assert names_object("module:")
    assert not names_object("Module:a.b:c")
    assert not names_object("modulea.b:c")
    assert not names_object("inceptionv1")


def test_objects_of_a_module(package: str) -> None:
    assert load_object(f"module:{package}:top") == 1
    assert load_object(f"module:{package}.inside:value") == 7
    assert load_object(f"module:{package}.inside:nothing") is None
    own = load_object(f"module:{package}.inside:Own")
    assert isinstance(own, type)
    # It is imported as usual, once.
    assert own is load_object(f"module:{package}.inside:Own")
    assert own is sys.modules[f"{package}.inside"].Own
    assert load_object("module:pathlib:Path") is Path


def test_the_working_folder_is_looked_in_once(package: str) -> None:
    load_object(f"module:{package}:top")
    load_object(f"module:{package}.inside:value")
    assert sys.path.count(str(Path.cwd())) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "module:",
        "module::",
        "module:a",
        "module:a:",
        "module::b",
        "a:b",
        "module:.a:b",
        "x:a:b",
    ],
)
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' must read module:PACKAGE.MODULE:NAME$"):
        load_object(text)


def test_what_there_is_not_is_said(package: str) -> None:
    with pytest.raises(ValueError, match=r"'module:nowhere_at_all:x': No module named 'nowhere_at"):
        load_object("module:nowhere_at_all:x")
    with pytest.raises(ValueError, match=r"No module named .*nothing'; run where Python can"):
        load_object(f"module:{package}.nothing:x")
    with pytest.raises(ValueError, match=r"module .*inside' has no attribute 'missing'$"):
        load_object(f"module:{package}.inside:missing")
    # What a module of the user's own lacks is named.
    with pytest.raises(ValueError, match="No module named 'a_module_that_is_nowhere'"):
        load_object(f"module:{package}.broken:x")


def test_what_goes_wrong_inside_a_module_is_the_users_to_see(package: str) -> None:
    with pytest.raises(ZeroDivisionError, match="division"):
        load_object(f"module:{package}.failing:x")
    with pytest.raises(AttributeError, match=r"^asked for too much$"):
        load_object(f"module:{package}.asking:x")
