"""Pictures that this package wrote are read back as what they are, and as nothing else."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    with pytest.raises(OSError, match="no PNG file that can be read: not a PNG file"):
        read_png(tmp_path / "a.png")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.data())
def test_damage_is_one_kind_of_error(seed: int, cut: bool, data: st.DataObject) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = bytearray(file.getvalue())
    at = data.draw(st.integers(0, len(content) - 1))
    if cut:
        del content[at:]
    else:
        noise = np.random.default_rng(seed).bytes(min(12, len(content) - at))
        content[at : at + len(noise)] = noise
    said, found = "one line", np.empty((1, 1, 1), np.uint8)
    try:
        found = read_png(io.BytesIO(bytes(content)))
    except OSError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert found.ndim == 3


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((5, 7, 4), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    with pytest.raises(OSError, match="7 x 5 pixels, which are too many"):
        read_png(tmp_path / "a.png")


def test_no_picture_is_opened_without_a_format() -> None:
    source = Path(__file__).parents[2] / "src" / "opponent"
    calls = [
        line.strip()
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "Image.open(" in line and not line.strip().startswith("#")
    ]
    assert calls == []
