"""Where images come from: folders, files, lists, and image sources of the user's own."""

from pathlib import Path

import pytest
from tests.support.image_files import SHARP, encoded

from opponent.images.sources import open_images


def test_one_file_and_several(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.png", "a/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(SHARP, "PNG"))
    assert [item.id for item in open_images(tmp_path / "a" / "1.png")] == ["1.png"]
    several = open_images([str(tmp_path / "a/b/3.png"), tmp_path / "a/1.png"])
    assert [item.id for item in several] == ["b/3.png", "1.png"]
    assert [item.id for item in open_images([tmp_path / "a/b/3.png"])] == ["3.png"]
    assert "2 files" in several.source
    assert open_images(several) is several
    with pytest.raises(ValueError, match=r"more than once: '3\.png'; name each image once"):
        open_images([tmp_path / "a/b/3.png", str(tmp_path / "a/b/3.png")])


def test_sources_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images"):
        open_images(tmp_path)
    (tmp_path / "list.txt").write_text("# only\n\n  # comments\n")
    with pytest.raises(ValueError, match=r"has no images.*each line is a path"):
        open_images(tmp_path / "list.txt")
    with pytest.raises(ValueError, match="at least one file"):
        open_images([])
    with pytest.raises(FileNotFoundError, match=r"no folder and no file; give a folder"):
        open_images(tmp_path / "missing")


def test_a_folder_called_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(SHARP, "PNG"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"write '\./photos'"):
        open_images("photos")
    assert [item.id for item in open_images("./photos")] == ["a.png"]
    assert [item.id for item in open_images(Path("photos"))] == ["a.png"]
