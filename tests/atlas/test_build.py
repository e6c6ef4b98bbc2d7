"""How an atlas is made: map, cells, means, what is left in the folder, what goes wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.support.atlas import (
    BLACK,
    CENTRE,
    QUICK,
    Call,
    Small,
    copy_of,
    files,
    inside,
    network_of,
    scan_small,
    slow_cell,
    slow_largest,
    slow_means,
    times,
    with_map,
)

from opponent import (
    Atlas,
    Network,
    Run,
    RunError,
    Unreadable,
    atlases,
    attribute,
    make_atlas,
)
from opponent.atlas import build, icons
from opponent.atlas.layout import lay_out, to_square, trustworthiness
from opponent.core.errors import Changed
from opponent.core.side import Side
from opponent.storage.run import SCALARS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_map_holds_the_images_with_the_largest_norm(
    wave_atlas: tuple[Atlas, list[Call]], wave_run: Run
) -> None:
    table = wave_atlas[0].map
    assert table.column_names == ["image", "x", "y", "row", "column", *SCALARS]
    columns = wave_run.columns(CENTRE)
    chosen = slow_largest(columns.l2.tolist(), 70)
    assert len(columns.images) == 80
    assert table["image"].to_pylist() == [columns.images[i] for i in chosen]
    for name in SCALARS:
        assert table[name].to_pylist() == getattr(columns, name)[chosen].tolist()
    # The layout of S summed over space, in double steps of the paper's own order.
    vectors = wave_run.channels(CENTRE)[chosen]
    square = to_square(lay_out(vectors, neighbours=5, min_dist=0.1, seed=0))
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    assert np.stack([x, y], 1).tolist() == square.tolist()
    at = zip(table["row"].to_pylist(), table["column"].to_pylist(), strict=True)
    assert list(at) == [slow_cell(*place, 3) for place in square]
    assert wave_atlas[0].about.images == 70
    trust = trustworthiness(vectors, square, 5, 0)
    assert wave_atlas[0].about.trustworthiness == pytest.approx(trust)


def test_cells_hold_exactly_their_images_and_their_means(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, wave_pictures: Path
) -> None:
    atlas, expected = wave_atlas[0], inside(wave_atlas[0])
    assert 3 <= len(expected) == atlas.about.cells
    assert {(cell.row, cell.column): list(cell.images) for cell in atlas.cells} == expected
    assert [(cell.row, cell.column) for cell in atlas.cells] == list(expected)
    table = pq.read_table(atlas.folder / "atlas.parquet")
    assert table["count"].to_pylist() == [len(images) for images in expected.values()]
    for cell in atlas.cells:
        each = [attribute(wave_network, [wave_pictures / x], CENTRE, "early") for x in cell.images]
        for name in ("activation", "excitation", "inhibition"):
            slow = sum(float(getattr(x, name)) for x in each) / len(each)
            assert getattr(cell, f"mean_{name}") == pytest.approx(slow, rel=1e-4, abs=1e-5)
        difference = cell.mean_excitation - cell.mean_inhibition
        assert cell.mean_activation == pytest.approx(difference, rel=1e-4, abs=1e-5)


def test_mean_attributions_equal_their_slow_twin(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, wave_pictures: Path
) -> None:
    expected = slow_means(wave_atlas[0], wave_network, wave_pictures, "early")
    cells = load_file(wave_atlas[0].folder / "cells.safetensors")
    assert set(cells) == {"attribution", "hidden"}
    assert cells["attribution"].shape == (len(wave_atlas[0].cells), 6, 3, 3)
    for name, slow in zip(("attribution", "hidden"), expected, strict=True):
        torch.testing.assert_close(cells[name].double(), slow, rtol=1e-4, atol=1e-6)


def test_the_correlation_is_spearmans(wave_atlas: tuple[Atlas, list[Call]]) -> None:
    from scipy.stats import spearmanr

    cells = wave_atlas[0].cells
    pairs = [(cell.activations[Side.BOTH], cell.mean_activation) for cell in cells]
    found = wave_atlas[0].about.icons_against_images
    expected = spearmanr(*zip(*pairs, strict=True))
    assert found.spearman == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)
    ranks = [[sorted(side).index(value) for value in side] for side in zip(*pairs, strict=True)]
    assert found.spearman == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_an_atlas_says_what_it_is_made_of(
    wave_atlas: tuple[Atlas, list[Call]], wave_run: Run
) -> None:
    about = wave_atlas[0].about
    assert about.feature.feature == wave_run.feature(CENTRE)
    assert about.through == "early"
    assert about.settings == QUICK
    assert {"umap-learn", "torch", "numpy"} <= set(about.versions)
    deviation = wave_run.columns(CENTRE).activation.astype(float).std()
    assert about.deviation == pytest.approx(deviation, rel=1e-5)
    # The file holds the same, and so does the question of the folder.
    written = json.loads((wave_atlas[0].folder / "atlas.json").read_text())
    question = json.loads((wave_atlas[0].folder / "question.json").read_text())
    assert question.keys() == {"feature", "through", "settings", "run", "versions"}
    assert {key: written[key] for key in question} == question
    assert question["feature"] == {"layer": "mixed", "unit": 2, "position": [6, 5]}


def test_an_atlas_leaves_nothing_but_its_files(
    wave_atlas: tuple[Atlas, list[Call]], wave_run: Run
) -> None:
    atlas = wave_atlas[0]
    pictures = {f"icons/{row:02d}-{column:02d}.png" for row, column in inside(atlas)}
    batches = {f"icons/both-{number:03d}.json" for number in range(-(-len(pictures) // 4))}
    plain = {"question.json", "atlas.json", "atlas.parquet", "cells.safetensors", "map.parquet"}
    assert set(files(atlas.folder)) == plain | pictures | batches
    assert atlas.folder.parent == atlas.run.folder / "atlas"
    assert atlas.folder.name.startswith("mixed-2-6_5-")
    for name in pictures:
        with Image.open(atlas.folder / name) as image:
            assert image.mode == "RGBA"
    # The rest of the run folder stays as it was.
    rest = {name: x for name, x in files(atlas.run.folder).items() if not name.startswith("atlas/")}
    assert rest == files(wave_run.folder)


def test_progress_runs_through_the_stages(wave_atlas: tuple[Atlas, list[Call]]) -> None:
    atlas, calls = wave_atlas
    count, batches = sum(len(cell.images) for cell in atlas.cells), -(-len(atlas.cells) // 4)
    assert calls == [
        *((f"{CENTRE}: map of 70 images", done, 1) for done in (0, 1)),
        *(
            (f"{CENTRE}: mean attributions", min(done, count), count)
            for done in range(7, count + 7, 7)
        ),
        *((f"{CENTRE}: icons", done, 3 * batches) for done in range(1, 3 * batches + 1)),
    ]


def test_a_finished_atlas_computes_nothing_again(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = copy_of(wave_atlas[0].run, tmp_path / "run")
    before, then = files(run.folder), times(run.folder)

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("computed again")

    for name in ("lay_out", "trustworthiness", "attribute_each"):
        monkeypatch.setattr(build, name, refuse)
    monkeypatch.setattr(icons, "invert_attribution", refuse)
    calls: list[Call] = []
    again = make_atlas(
        run, CENTRE, network=wave_network, settings=QUICK, progress=lambda *call: calls.append(call)
    )
    assert not calls
    assert files(run.folder) == before
    after = times(run.folder)
    for name in then:
        if Path(name).name not in ("atlas.parquet", "atlas.json"):
            assert after[name] == then[name], name
    assert [replace(x, icon=Path()) for x in again.cells] == [
        replace(x, icon=Path()) for x in wave_atlas[0].cells
    ]


def test_the_same_images_give_the_same_bytes_in_another_run(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, wave_pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(wave_pictures, tmp_path / "moved")
    run = scan_small(wave_network, tmp_path / "moved", tmp_path / "run")
    again = make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert again.folder.name == wave_atlas[0].folder.name
    assert files(again.folder) == files(wave_atlas[0].folder)


@pytest.mark.usefixtures("flat")
def test_all_that_differs_gets_a_folder_of_its_own(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, tmp_path: Path
) -> None:
    run, before = copy_of(wave_atlas[0].run, tmp_path / "run"), files(wave_atlas[0].run.folder)
    quick = replace(QUICK, steps=1)
    others = [
        make_atlas(run, feature, network=wave_network, settings=given)
        for feature, given in [
            (CENTRE, quick),
            (CENTRE, replace(quick, seed=1)),
            (CENTRE, replace(quick, grid=2)),
            ("mixed:3", quick),
        ]
    ]
    names = {each.folder.name for each in others} | {wave_atlas[0].folder.name}
    assert len(names) == 5
    assert len(atlases(run)) == 5
    assert [each.folder for each in atlases(run, "mixed:3")] == [others[-1].folder]
    assert others[0].map["image"] == wave_atlas[0].map["image"]
    assert others[1].map["x"] != others[0].map["x"]
    assert others[2].map["x"] == others[0].map["x"]
    assert {name: files(run.folder)[name] for name in before} == before


def test_the_callers_grad_mode_changes_nothing(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, tmp_path: Path
) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        run = copy_of(wave_atlas[0].run, tmp_path / mode.__name__)
        folder = run.folder / "atlas" / wave_atlas[0].folder.name
        shutil.rmtree(folder / "icons")
        (folder / "cells.safetensors").unlink()
        with mode():
            make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
        assert files(run.folder) == files(wave_atlas[0].run.folder)


def test_images_may_be_laid_out_with_space(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_run: Run,
    wave_network: Network,
    wave_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []

    def spy(vectors: np.ndarray, **named: Any) -> np.ndarray:
        seen.append(vectors)
        return lay_out(vectors, **named)

    monkeypatch.setattr(build, "lay_out", spy)
    run = copy_of(wave_run, tmp_path / "run")
    given = replace(QUICK, space=True)
    # As many bytes as there may be, and not one more.
    monkeypatch.setattr(build, "LARGEST", 4 * 6 * 3 * 3 * 70)
    atlas = make_atlas(run, run.features[0], network=wave_network, settings=given)
    images = atlas.map["image"].to_pylist()
    assert images == wave_atlas[0].map["image"].to_pylist()
    rows, columns = run.through_window(atlas.feature).slices
    slow = attribute(
        wave_network, [wave_pictures / image for image in images], CENTRE, "early"
    ).attribution
    np.testing.assert_allclose(
        seen[0], slow[:, :, rows, columns].flatten(1).numpy(), rtol=1e-3, atol=1e-6
    )
    assert atlas.folder.name != wave_atlas[0].folder.name
    square = to_square(lay_out(seen[0], neighbours=5))
    assert atlas.map["x"].to_pylist() == square[:, 0].tolist()


def test_space_that_takes_too_much_memory_is_refused(
    wave_run: Run, wave_network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(wave_run, tmp_path / "run")
    monkeypatch.setattr(build, "LARGEST", 4 * 6 * 3 * 3 * 70 - 1)
    message = r"takes 0\.0 GB for 70 images; lay out at most 69 \(--top\), or S summed over space"
    with pytest.raises(ValueError, match=message):
        make_atlas(run, run.features[0], network=wave_network, settings=replace(QUICK, space=True))
    assert files(run.folder) == files(wave_run.folder)


def test_too_few_images_make_no_atlas(wave_run: Run, wave_network: Network, tmp_path: Path) -> None:
    run = copy_of(wave_run, tmp_path / "run")
    with pytest.raises(ValueError, match=r"a map of 9 images: UMAP with 5 neighbours needs at le"):
        make_atlas(run, run.features[0], network=wave_network, settings=replace(QUICK, top=9))
    assert files(run.folder) == files(wave_run.folder)
    assert atlases(run) == []


def test_a_grid_without_a_full_cell_makes_no_atlas(
    wave_run: Run, wave_network: Network, tmp_path: Path
) -> None:
    run = copy_of(wave_run, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds 40 images .* of 70\); take a coarser grid"):
        make_atlas(
            run,
            run.features[0],
            network=wave_network,
            settings=replace(QUICK, grid=9, min_images=40),
        )
    left = set(files(run.folder)) - set(files(wave_run.folder))
    assert {Path(name).name for name in left} <= {"question.json", "map.parquet"}
    assert atlases(run) == []


def test_an_unfinished_run_makes_no_atlas(
    wave_run: Run, wave_network: Network, tmp_path: Path
) -> None:
    run = copy_of(wave_run, tmp_path / "run")
    run.shard(2).unlink()
    before = files(run.folder)
    with pytest.raises(RunError, match=r"not finished \(3 of 4 shards\).*opponent scan"):
        make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert files(run.folder) == before


def test_another_network_makes_no_atlas(wave_run: Run, tmp_path: Path) -> None:
    run = copy_of(wave_run, tmp_path / "run")
    module = Small()
    with torch.no_grad():
        module.stem.weight.mul_(1.01)
    with pytest.raises(RunError, match="was scanned with other weights of small"):
        make_atlas(run, run.features[0], network=network_of(module), settings=QUICK)
    with pytest.raises(RunError, match="was scanned with images prepared otherwise"):
        make_atlas(run, run.features[0], network=network_of(**BLACK), settings=QUICK)
    with pytest.raises(RunError, match="cannot be loaded"):
        make_atlas(run, run.features[0], settings=QUICK)
    assert files(run.folder) == files(wave_run.folder)


def test_a_feature_that_was_not_scanned_makes_no_atlas(
    wave_run: Run, wave_network: Network
) -> None:
    with pytest.raises(ValueError, match=r"holds no 'mixed:1'; it holds mixed:2@6,5"):
        make_atlas(wave_run, "mixed:1", network=wave_network, settings=QUICK)
    assert not (wave_run.folder / "atlas").exists()


def test_a_photograph_that_is_gone_is_named(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network, wave_pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(wave_pictures, tmp_path / "in")
    bare = scan_small(wave_network, tmp_path / "in", tmp_path / "bare")
    run = with_map(bare, wave_atlas[0], tmp_path / "run")
    before = files(run.folder)
    # The last of a cell, so that others have been read before.
    name = max(wave_atlas[0].cells, key=lambda cell: len(cell.images)).images[-1]
    gone = tmp_path / "in" / name
    content = gone.read_bytes()
    damages: list[tuple[bytes | None, type[Exception], str]] = [
        (None, Unreadable, rf"{name} was scanned but cannot be read.*no such file"),
        (content[:80], Changed, rf"{name}' changed since the scan"),
    ]
    for damage, kind, message in damages:
        if damage is None:
            gone.unlink()
        else:
            gone.write_bytes(damage)
        with pytest.raises(kind, match=message):
            make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
        assert files(run.folder) == before
    gone.write_bytes(content)
    again = make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert files(again.folder) == files(wave_atlas[0].folder)
