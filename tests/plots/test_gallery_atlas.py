"""The figures of an atlas, as files in its folder."""

from pathlib import Path

import pytest
from tests.support.atlas import Call, copy_of, files

from opponent import Atlas, atlases
from opponent.plots.files import write_atlas

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_atlas_is_drawn_the_same_twice(signed_wave_atlas: Atlas, tmp_path: Path) -> None:
    run = copy_of(signed_wave_atlas.run, tmp_path / "run")
    [atlas] = atlases(run)
    before = files(run.folder)
    paths = write_atlas(atlas)
    names = ["figure6a", "figure6b", "atlas", "atlas-tension", "atlas-signed"]
    assert paths == [atlas.folder / f"{name}.png" for name in names]
    first = {path: path.read_bytes() for path in paths}
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert write_atlas(atlas) == paths
    assert {path: path.read_bytes() for path in paths} == first
    after = files(run.folder)
    assert {name: after[name] for name in before} == before
    with pytest.raises(ValueError, match="figures are png, pdf, svg, not 'gif'"):
        write_atlas(atlas, suffix="gif")


def test_an_atlas_without_sides_has_four_figures(
    wave_atlas: tuple[Atlas, list[Call]], tmp_path: Path
) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    [atlas] = atlases(run)
    paths = write_atlas(atlas, suffix="svg")
    names = ["figure6a.svg", "figure6b.svg", "atlas.svg", "atlas-tension.svg"]
    assert [path.name for path in paths] == names
    assert all(b"<svg" in path.read_bytes()[:1000] for path in paths)
