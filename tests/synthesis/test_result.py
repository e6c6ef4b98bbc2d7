"""What a synthesis gives: a short repr, a picture in notebooks, files, ids."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opponent import Feature, Synthesis
from opponent.core.side import Side


def synthesis(count: int, size: tuple[int, int] = (9, 14)) -> Synthesis:
    generator = torch.Generator().manual_seed(0)
    return Synthesis(
        feature=Feature(layer="end", unit=1, position=(2, 3)),
        side=Side.INHIBITION,
        image=torch.rand(count, 3, *size, generator=generator),
        opacity=torch.rand(count, *size, generator=generator),
        objective=torch.rand(5, count, generator=generator),
        activation=torch.rand(5, count, generator=generator),
        final=torch.rand(count, generator=generator),
    )


def test_a_repr_is_one_short_line() -> None:
    assert repr(synthesis(1)) == "Synthesis('end:1@2,3', inhibition: 1 image of 9 x 14)"
    assert repr(synthesis(3)) == "Synthesis('end:1@2,3', inhibition: 3 images of 9 x 14)"
    assert len(synthesis(3)) == 3
    assert synthesis(3).images is None


def test_one_image_is_saved_under_its_name(tmp_path: Path) -> None:
    made = synthesis(1)
    paths = made.save(tmp_path / "new" / "curve.png")
    assert paths == [tmp_path / "new" / "curve.png"]
    with Image.open(paths[0]) as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image), made.rgba()[0])
    assert made.save(str(tmp_path / "CURVE.PNG")) == [tmp_path / "CURVE.PNG"]
    # In place of what was there, and no other file beside it.
    synthesis(1, (4, 4)).save(paths[0])
    with Image.open(paths[0]) as image:
        assert image.size == (4, 4)
    assert [x.name for x in paths[0].parent.iterdir()] == ["curve.png"]


def test_several_images_have_their_numbers(tmp_path: Path) -> None:
    made = synthesis(3)
    paths = made.save(tmp_path / "a.curve.png")
    assert [path.name for path in paths] == [f"a.curve-{number}.png" for number in range(3)]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    for path, pixels in zip(paths, made.rgba(), strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"images with opacity are saved as \.png"):
        synthesis(2).save(tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_notebook_shows_all_images_on_white(count: int) -> None:
    made = synthesis(count, (240, 240))
    with Image.open(io.BytesIO(made._repr_png_())) as image:
        assert image.format == "PNG"
        image.load()
        across, down = min(4, count), -(-count // 4)
        assert image.size == (246 * across - 6, 246 * down - 6)
        pixels = np.asarray(image.convert("RGB"))
    for number, rgba in enumerate(made.rgba().astype(float)):
        alpha = rgba[..., 3:] / 255
        on_white = np.rint(alpha * rgba[..., :3] + (1 - alpha) * 255)
        top, left = 246 * (number // 4), 246 * (number % 4)
        np.testing.assert_array_equal(pixels[top : top + 240, left : left + 240], on_white)
    assert count != 9 or (pixels[-1, -1] == 255).all()  # an empty place


def test_a_notebook_shows_images_of_any_size_and_a_narrow_one() -> None:
    for size in ((3, 5), (512, 300), (1, 400)):
        with Image.open(io.BytesIO(synthesis(2, size)._repr_png_())) as image:
            assert image.size == (486, 240)
