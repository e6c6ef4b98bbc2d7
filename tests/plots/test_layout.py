"""Saving: whole or not at all, by the ending."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opponent.plots import save, square_figure


def test_png_is_300_dpi(tmp_path: Path) -> None:
    save(square_figure(), tmp_path / "square.png")
    with Image.open(tmp_path / "square.png") as image:
        assert image.size == (510, 510)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_figure_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "square.png"
    path.write_bytes(b"old")
    figure = square_figure()

    def half(file: Any, **_: Any) -> None:
        file.write(b"half of a pic")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in '.jpg', expected .png, .pdf or .svg"):
        save(square_figure(), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
