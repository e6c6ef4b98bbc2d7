"""An atlas in its folder: settings, cells, reading it back, damage."""

import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.support.atlas import CENTRE, QUICK, Call, copy_of, files, halve

from opponent import (
    Atlas,
    AtlasSettings,
    Network,
    Run,
    RunError,
    SynthesisSettings,
    atlases,
    make_atlas,
)
from opponent.atlas.atlas import Cell
from opponent.core.pictures import seen_part
from opponent.core.side import Side

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"grid": -1}, "grid must be at least 1, got -1"),
        ({"min_images": 0}, "min_images must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"neighbours": 1}, "neighbours must be at least 2, got 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtlasSettings(**given)


def test_the_papers_settings_are_the_usual_ones() -> None:
    assert AtlasSettings() == AtlasSettings(
        top=10_000, grid=20, min_images=6, neighbours=10, min_dist=0.1, space=False
    )
    made = AtlasSettings(seed=7, steps=120, batch=3).synthesis
    assert made == SynthesisSettings(steps=120, rate=0.06, power=2.0, seed=7, batch=3)


def test_an_atlas_is_opened_again(wave_atlas: tuple[Atlas, list[Call]]) -> None:
    atlas = wave_atlas[0]
    for again in (
        Atlas(Run(atlas.run.folder), atlas.folder),
        *atlases(Run(atlas.run.folder)),
        *atlases(atlas.run, CENTRE),
        *atlases(atlas.run, atlas.feature),
    ):
        assert again.folder == atlas.folder
        assert again.feature == atlas.feature
        assert again.settings == QUICK
        assert again.about == atlas.about
        assert again.map == atlas.map
        assert again.cells == atlas.cells
        assert not again.signed
    assert len(atlases(atlas.run)) == 1
    assert atlases(atlas.run, "mixed:3") == []
    with pytest.raises(ValueError, match=r"holds no 'mixed:4'; it holds mixed:2@6,5, mixed:3@6,5"):
        atlases(atlas.run, "mixed:4")


def test_atlases_come_newest_first(wave_atlas: tuple[Atlas, list[Call]], tmp_path: Path) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    first = run.folder / "atlas" / wave_atlas[0].folder.name
    for name in ("old", "older"):
        shutil.copytree(first, first.with_name(name))
    for name, age in (("old", 100), ("older", 200)):
        os.utime(first.with_name(name) / "atlas.json", (1e9 - age, 1e9 - age))
    os.utime(first / "atlas.json", (1e9, 1e9))
    assert [each.folder.name for each in atlases(run)] == [first.name, "old", "older"]


def test_a_cell_finds_the_icons_of_either_side(tmp_path: Path) -> None:
    icon = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    Image.fromarray(icon).save(tmp_path / "03-12-inhibition.png")
    cell = Cell(
        row=3,
        column=12,
        images=("a",),
        mean_activation=0.0,
        mean_excitation=1.0,
        mean_inhibition=1.0,
        activations={Side.BOTH: None, Side.EXCITATION: None, Side.INHIBITION: -1.0},
        icon=tmp_path / "03-12.png",
    )
    assert cell.pixels() is None
    assert cell.pixels("excitation") is None
    np.testing.assert_array_equal(cell.pixels("inhibition"), icon)


def test_a_changed_byte_of_the_maps_values_is_told(
    wave_atlas: tuple[Atlas, list[Call]], tmp_path: Path
) -> None:
    """In each column's pages; what follows them, Parquet leaves without a checksum."""
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    file = run.folder / "atlas" / wave_atlas[0].folder.name / "map.parquet"
    content, group = file.read_bytes(), pq.read_metadata(file).row_group(0)
    for column in range(group.num_columns):
        one = group.column(column)
        end = (one.dictionary_page_offset or one.data_page_offset) + one.total_compressed_size
        changed = bytearray(content)
        changed[end - 3] ^= 0x55
        file.write_bytes(changed)
        with pytest.raises(RunError, match=r"map\.parquet is damaged \(.+\); delete it"):
            _ = atlases(run)[0].map


def test_damage_is_told_on_reading_too(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, tmp_path: Path
) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    folder = run.folder / "atlas" / wave_atlas[0].folder.name
    for name, read in (("map", lambda x: x.map), ("atlas", lambda x: x.cells)):
        file = folder / f"{name}.parquet"
        content = file.read_bytes()
        for damaged in (halve(content), b"", None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            [atlas] = atlases(run)
            with pytest.raises(RunError, match=rf"{name}\.parquet is damaged .*delete it and give"):
                read(atlas)
        file.write_bytes(content)
    # The table and the description are written each time anew.
    (folder / "atlas.parquet").write_bytes(b"")
    (folder / "atlas.json").write_bytes(b"{")
    make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert files(run.folder) == files(wave_atlas[0].run.folder)


def changed(about: dict[str, Any], *path: str, to: Any = None) -> bytes:
    """A description with one value changed, or taken away."""
    about = json.loads(json.dumps(about))
    place = about
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(about).encode()


DAMAGE: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": lambda _: b"",
    "a list": lambda _: b"[]",
    "nothing in it": lambda _: b"{}",
    "a number": lambda _: b"3",
    "no text": lambda _: b"\xff",
    "cut short": lambda about: halve(json.dumps(about).encode()),
    "settings that are a number": lambda about: changed(about, "settings", to=3),
    "settings that cannot be": lambda about: changed(about, "settings", "top", to=0),
    "other settings": lambda about: changed(about, "settings", "other", to=1),
    "no feature": lambda about: changed(about, "feature"),
    "no such feature": lambda about: changed(about, "feature", "unit", to=-1),
    "no images": lambda about: changed(about, "images", to=0),
    "cells in words": lambda about: changed(about, "cells", to="many"),
    "more than there is": lambda about: changed(about, "other", to=1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_description_is_told(
    wave_atlas: tuple[Atlas, list[Call]],
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], bytes],
) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    folder = run.folder / "atlas" / wave_atlas[0].folder.name
    path = folder / "atlas.json"
    path.write_bytes(damage(json.loads(path.read_text())))
    message = r"atlas\.json is damaged \(.+\); delete it and give the same `opponent atlas` again"
    with pytest.raises(RunError, match=message):
        atlases(run)
    with pytest.raises(RunError, match=message):
        Atlas(run, folder)
    path.unlink()
    assert atlases(run) == []
    with pytest.raises(RunError, match=r"holds no finished atlas; give the same `opponent atlas`"):
        Atlas(run, folder)


def test_an_atlas_has_a_short_repr_and_a_picture(
    wave_atlas: tuple[Atlas, list[Call]], signed_wave_atlas: Atlas
) -> None:
    atlas = wave_atlas[0]
    assert repr(atlas) == f"Atlas('{CENTRE}': 70 images, {len(atlas.cells)} cells of 3 x 3)"
    with Image.open(io.BytesIO(atlas._repr_png_())) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), atlas.mosaic())
    # Its icons of either side are not shown.
    np.testing.assert_array_equal(signed_wave_atlas.mosaic(), atlas.mosaic())


def test_a_mosaic_has_the_icons_in_their_cells_on_white(
    wave_atlas: tuple[Atlas, list[Call]], tmp_path: Path
) -> None:
    atlas = wave_atlas[0]
    part = seen_part([cell.pixels() for cell in atlas.cells])
    assert part == (slice(0, 11), slice(0, 11)), "opaque all over: all of it is shown"
    mosaic = atlas.mosaic(11)  # the icons' own size
    assert mosaic.shape == (33, 33, 3)
    assert mosaic.dtype == np.uint8
    occupied = {(cell.row, cell.column): cell for cell in atlas.cells}
    assert len(occupied) < 9
    for row, column in itertools.product(range(3), range(3)):
        tile = mosaic[11 * row : 11 * row + 11, 11 * column : 11 * column + 11]
        if (row, column) not in occupied:
            assert (tile == 255).all()
            continue
        icon = occupied[row, column].pixels()
        assert icon is not None
        alpha = icon[..., 3:] / 255
        on_white = alpha * icon[..., :3] + (1 - alpha) * 255
        np.testing.assert_array_equal(tile, np.rint(on_white))
    assert atlas.mosaic().shape == (120, 120, 3)
    # A lost icon leaves its place empty.
    run = copy_of(atlas.run, tmp_path / "run")
    [copied] = atlases(run)
    first = copied.cells[0]
    Path(first.icon).unlink()
    tile = copied.mosaic(11)[11 * first.row :, 11 * first.column :][:11, :11]
    assert (tile == 255).all()
    # Margins in which no icon shows anything are cut off.
    for cell in copied.cells:
        small = np.zeros((11, 11, 4), np.uint8)
        small[3:8, 4:9] = (0, 1, 2, 255)
        Image.fromarray(small).save(Path(cell.icon))
        tile = copied.mosaic(5)[5 * cell.row :, 5 * cell.column :][:5, :5]
    assert (tile == (0, 1, 2)).all()
