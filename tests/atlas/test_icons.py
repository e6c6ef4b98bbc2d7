"""Icons: inversions of the cells' means, of both sides and of either, cropped."""

import json
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
    SIZE,
    Call,
    Colours,
    Small,
    files,
    network_of,
    scan_small,
    slow_means,
    with_map,
)
from torch import nn

from opponent import (
    Atlas,
    Network,
    Run,
    SynthesisSettings,
    attribute,
    invert_attribution,
    make_atlas,
)
from opponent.atlas import build
from opponent.core.side import SIDES, Side
from opponent.synthesis.transforms import resize

pytestmark = pytest.mark.usefixtures("one_thread")


def test_icons_are_inversions_of_the_mean_cut_to_the_receptive_field(
    wave_atlas: tuple[Atlas, list[Call]], wave_network: Network
) -> None:
    atlas = wave_atlas[0]
    means = load_file(atlas.folder / "cells.safetensors")["attribution"]
    how = SynthesisSettings(steps=3, rate=0.06, power=2.0, seed=0, batch=4)
    for first in range(0, len(means), 4):
        part = means[first : first + 4]
        unit = torch.stack([mean / mean.double().square().sum().sqrt().float() for mean in part])
        result = invert_attribution(wave_network, unit, CENTRE, "early", side="both", settings=how)
        inputs = wave_network.preprocessing.normalise(resize(result.image, SIZE))
        activation = attribute(wave_network, inputs, CENTRE, "early").activation
        for k, cell in enumerate(atlas.cells[first : first + 4]):
            expected = float(activation[k])
            assert cell.activations[Side.BOTH] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            # Rows 4 to 8 and columns 3 to 7 of 12 x 10 pixels, on a canvas of 27 x 23.
            icon = cell.pixels()
            assert icon is not None
            assert icon.shape == (11, 11, 4)
            whole = result.rgba()[k, 9:20, 7:18].astype(int)
            assert np.abs(icon.astype(int) - whole).max() <= 1
            assert 0 < icon[..., 3].max() <= 255


@pytest.mark.usefixtures("flat")
def test_icons_turn_with_a_layer_that_can_be_negative(wave_pictures: Path, tmp_path: Path) -> None:
    through, network = "stem", network_of(Small(nn.GELU))
    run = scan_small(network, wave_pictures, tmp_path / "run", through)
    atlas = make_atlas(
        run, run.features[0], network=network, settings=replace(QUICK, batch=9, grid=2)
    )
    expected = slow_means(atlas, network, wave_pictures, through)
    means = load_file(atlas.folder / "cells.safetensors")
    torch.testing.assert_close(means["hidden"].double(), expected[1], rtol=1e-4, atol=1e-6)
    assert (means["hidden"] < 0).any()
    unit = means["attribution"]
    unit = unit / unit.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    # |S| in the direction of h itself, by hand: the same as its excitatory part with that sign.
    target = means["hidden"].sign() * unit.abs()
    how = SynthesisSettings(steps=3, rate=0.06, power=2.0, batch=9)
    ones = torch.ones_like(target)
    result = invert_attribution(
        network,
        target.abs(),
        CENTRE,
        through,
        side="excitation",
        hidden=target.sign() * ones,
        settings=how,
    )
    found = [cell.activations[Side.BOTH] for cell in atlas.cells]
    np.testing.assert_allclose(found, result.final, rtol=1e-4, atol=1e-5)


def test_sides_are_added_and_nothing_else_changes(
    wave_atlas: tuple[Atlas, list[Call]], signed_wave_atlas: Atlas
) -> None:
    before, after = files(wave_atlas[0].run.folder), files(signed_wave_atlas.run.folder)
    changed = {name for name in before if before[name] != after[name]}
    assert {Path(name).name for name in changed} <= {"atlas.parquet"}
    icons = {
        f"icons/{cell.row:02d}-{cell.column:02d}-{side}.png"
        for cell in signed_wave_atlas.cells
        for side in ("excitation", "inhibition")
    }
    records = {
        f"icons/{side}-{number:03d}.json"
        for side in ("excitation", "inhibition")
        for number in range(-(-len(signed_wave_atlas.cells) // 4))
    }
    new = {
        str(Path(name).relative_to(f"atlas/{signed_wave_atlas.folder.name}"))
        for name in {*after} - {*before}
    }
    assert new == icons | records
    old, table = (
        pq.read_table(each.folder / "atlas.parquet") for each in (wave_atlas[0], signed_wave_atlas)
    )
    assert table.select(old.column_names) == old
    assert set(table.column_names) - set(old.column_names) == {
        "activation_excitation", "activation_inhibition",
    }  # fmt: skip
    assert signed_wave_atlas.signed


def test_each_side_is_an_inversion_of_that_side(
    signed_wave_atlas: Atlas, wave_network: Network
) -> None:
    means = load_file(signed_wave_atlas.folder / "cells.safetensors")["attribution"]
    unit = means / means.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    how = SynthesisSettings(steps=3, rate=0.06, power=2.0, seed=0, batch=4)
    for side in SIDES:
        result = invert_attribution(wave_network, unit, CENTRE, "early", side=side, settings=how)
        found = [cell.activations[side] for cell in signed_wave_atlas.cells]
        np.testing.assert_allclose(found, result.final, rtol=1e-4, atol=1e-5)
        for k, cell in enumerate(signed_wave_atlas.cells):
            icon = cell.pixels(side)
            assert icon is not None
            whole = result.rgba()[k, 9:20, 7:18].astype(int)
            assert np.abs(icon.astype(int) - whole).max() <= 1


def test_both_sides_at_once_or_later_give_the_same_bytes(
    signed_wave_atlas: Atlas, wave_run: Run, wave_network: Network, tmp_path: Path
) -> None:
    run = with_map(wave_run, signed_wave_atlas, tmp_path / "run")
    make_atlas(run, run.features[0], network=wave_network, settings=QUICK, signed=True)
    assert files(run.folder) == files(signed_wave_atlas.run.folder)
    # And a call that does not ask for them keeps them.
    again = make_atlas(run, run.features[0], network=wave_network, settings=QUICK)
    assert again.signed
    assert files(run.folder) == files(signed_wave_atlas.run.folder)


@pytest.mark.usefixtures("flat")
def test_a_side_that_is_nowhere_has_no_icon(wave_pictures: Path, tmp_path: Path) -> None:
    network = network_of(Colours(1, 2, 0.5), **BLACK)
    run = scan_small(network, wave_pictures, tmp_path / "run")
    assert not run.columns(run.features[0]).inhibition.any()
    atlas = make_atlas(run, run.features[0], network=network, settings=QUICK, signed=True)
    assert atlas.signed
    for cell in atlas.cells:
        assert cell.activations["inhibition"] is None
        assert cell.pixels("inhibition") is None
        assert cell.activations["excitation"] is not None
        assert cell.pixels("excitation") is not None
        assert cell.mean_inhibition == 0
    assert not list(atlas.folder.glob("icons/*-inhibition.png"))
    record = json.loads((atlas.folder / "icons" / "inhibition-000.json").read_text())
    assert record == [None] * min(4, len(atlas.cells))
    # The two are one and the same target.
    for cell in atlas.cells:
        np.testing.assert_array_equal(cell.pixels("excitation"), cell.pixels())


def test_in_one_batch_cells_may_lack_a_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red excites, blue inhibits; a third of the pictures has both."""

    def by_colour(vectors: np.ndarray, **_: Any) -> np.ndarray:
        return vectors[:, [0, 2]] / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(build, "lay_out", by_colour)
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(90):
        pixels = generator.integers(20, 250, (12, 10, 3), dtype=np.uint8)
        pixels[..., 1] //= 50
        pixels[..., {0: [2], 1: [0, 1], 2: []}[number % 3]] = 0
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number:02d}.png")
    network = network_of(Colours(1, 0.5, -1), **BLACK)
    run = scan_small(network, tmp_path / "in", tmp_path / "run")
    given = replace(QUICK, top=90, grid=4, batch=50, neighbours=6)
    atlas = make_atlas(run, run.features[0], network=network, settings=given, signed=True)
    means = load_file(atlas.folder / "cells.safetensors")["attribution"]
    sides = []
    for cell, mean in zip(atlas.cells, means, strict=True):
        there = {"both": True, "excitation": (mean > 0).any(), "inhibition": (mean < 0).any()}
        for side, is_there in there.items():
            assert (cell.activations[side] is not None) == is_there
            assert (cell.pixels(side) is not None) == is_there
        sides.append(tuple(map(bool, there.values())))
    assert {(True, True, False), (True, False, True)} <= set(sides)
    # Each icon is its own cell's, also after one that was left out.
    unit = means / means.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for side in SIDES:
        made = [x for x, cell in enumerate(atlas.cells) if cell.activations[side] is not None]
        assert made != list(range(len(made))) or side is Side.EXCITATION
        part, how = unit[made[-1:]], SynthesisSettings(steps=3, rate=0.06, power=2.0)
        alone = invert_attribution(network, part, CENTRE, "early", side=side, settings=how)
        found = atlas.cells[made[-1]].activations[side]
        assert found == pytest.approx(float(alone.final), rel=1e-3)
