"""Pictures that this package wrote are read back as what they are, and as nothing else."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from opponent.core.pictures import read_png

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
showpage
%%EOF
"""


def test_a_png_comes_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_png(tmp_path / "a.png"), pixels)
    assert read_png(io.BytesIO((tmp_path / "a.png").read_bytes()), "RGB").shape == (5, 7, 3)


def test_postscript_in_its_place_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / "a.png").write_bytes(EPS)
    # As Pillow takes it when it is not told which format to expect.
    with Image.open(tmp_path / "a.png") as image, pytest.raises(AssertionError):
        image.load()
    with pytest.raises(OSError, match="cannot identify"):
        read_png(tmp_path / "a.png")


def test_nothing_else_opens_pictures_without_naming_a_format() -> None:
    source = Path(__file__).parents[2] / "src" / "opponent"
    calls = [
        line.strip()
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "Image.open(" in line and not line.strip().startswith("#")
    ]
    assert len(calls) == 1
    assert "formats=" in calls[0]
