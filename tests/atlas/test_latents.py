"""Atlases by latents: the identity's is that of channels; decoded directions; bounded sums."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tests.support.atlas import (
    CENTRE,
    QUICK,
    Small,
    copy_of,
    files,
    network_of,
    paint_waves,
    with_map,
)
from tests.support.dictionaries import made
from torch import Tensor, nn

from opponent import Atlas, Dictionary, Network, Run, attribute, make_atlas, scan_images
from opponent.atlas import means
from opponent.atlas.means import decoded_sides
from opponent.core.side import SIDES, Side
from opponent.synthesis.inversion import invert_directions

pytestmark = pytest.mark.usefixtures("one_thread", "flat")
FEW = replace(QUICK, top=40, grid=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_waves(tmp_path_factory.mktemp("waves") / "in", 48)


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return made("topk", 11, 6, layer="early").to(torch.zeros(1))


def scan(network: Network, pictures: Path, out: Path, given: Dictionary | None) -> Run:
    # Before a GELU, where h can be negative.
    through = "stem" if isinstance(network.module.get_submodule("early"), nn.GELU) else "early"
    return scan_images(
        network, pictures, "mixed:2", through, out=out, batch_size=7, shard_size=25,
        dictionary=given,
    )  # fmt: skip


@pytest.mark.parametrize("space", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_the_identitys_atlas_is_that_of_channels(
    activation: Callable[[], nn.Module], space: bool, pictures: Path, tmp_path: Path
) -> None:
    network, atlases = network_of(Small(activation)), list[Atlas]()
    for name, given in (("channels", None), ("identity", Dictionary.identity(6))):
        run = scan(network, pictures, tmp_path / name, given)
        atlases.append(
            make_atlas(run, network=network, settings=replace(FEW, space=space), signed=True)
        )
    one, other = (files(Path(str(atlas.folder))) for atlas in atlases)
    assert one.keys() == other.keys()
    same = [name for name in one if name.startswith("icons/") or name.endswith(".parquet")]
    assert len(same) > 3 * len(atlases[0].cells)
    assert {name: one[name] for name in same} == {name: other[name] for name in same}
    # What differs names the scan, and the directions are those that channels give.
    channels, latents = (load_file(atlas.folder / "cells.safetensors") for atlas in atlases)
    unit = means.to_unit(channels["attribution"])
    assert torch.equal(latents["both"], channels["hidden"].sign() * unit.abs() + 0)
    assert torch.equal(latents["latents"], channels["attribution"].sum((2, 3)))
    about = json.loads((atlases[1].folder / "atlas.json").read_text())
    assert about["dictionary"] == Dictionary.identity(6).sha256()
    assert "dictionary" not in json.loads((atlases[0].folder / "atlas.json").read_text())


@pytest.fixture(scope="module")
def run(pictures: Path, dictionary: Dictionary, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scan(network_of(), pictures, tmp_path_factory.mktemp("run") / "run", dictionary)


def slow_decoded(mean: Tensor, code: Tensor, side: Side, dictionary: Dictionary) -> Tensor:
    """Latent by latent and position by position, from a mean S_z at unit norm."""
    total = float(mean.double().square().sum()) ** 0.5
    direction = torch.zeros(dictionary.channels, *mean.shape[1:], dtype=torch.float64)
    for latent, row, column in np.ndindex(*mean.shape):
        term = float(mean[latent, row, column]) / total
        part = abs(term) if side is Side.BOTH else max(side.sign * term, 0.0)
        vector = dictionary.decoder[latent].double()
        up = np.sign(float(code[latent, row, column]))
        direction[:, row, column] += up * part * vector / float(vector.norm())
    return direction


def test_icons_take_the_decoded_mean_of_their_cell(
    run: Run, pictures: Path, dictionary: Dictionary, tmp_path: Path
) -> None:
    network, run = network_of(), copy_of(run, tmp_path / "run")
    atlas = make_atlas(run, network=network, settings=FEW, signed=True)
    kept = load_file(atlas.folder / "cells.safetensors")
    assert kept["both"].shape[1] == 6
    for number, cell in enumerate(atlas.cells):
        found = attribute(
            network, [pictures / image for image in cell.images], CENTRE, "early",
            dictionary=dictionary,
        )  # fmt: skip
        mean = found.window_attribution.double().mean(0)
        code = found.hidden.double().mean(0)
        torch.testing.assert_close(
            kept["latents"][number].double(), mean.sum((1, 2)), rtol=1e-3, atol=1e-5
        )
        for side in (Side.BOTH, *SIDES):
            expected = slow_decoded(mean, code, side, dictionary)
            torch.testing.assert_close(
                kept[str(side)][number].double(), expected, rtol=1e-3, atol=1e-5
            )
    first = kept["inhibition"][: FEW.batch]
    result = invert_directions(
        network, first, run.feature(), "early", side=Side.INHIBITION, origin=dictionary.bias,
        settings=FEW.synthesis,
    )  # fmt: skip
    activations = [cell.activations[Side.INHIBITION] for cell in atlas.cells[: FEW.batch]]
    np.testing.assert_allclose(activations, result.final, rtol=1e-4, atol=1e-5)
    mapped = pq.read_table(atlas.folder / "map.parquet")
    assert mapped.num_rows == 40


def test_cells_are_summed_in_parts_where_latents_are_many(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part after the other gives the same; an interruption anywhere repeats no part."""
    network = network_of()
    whole = make_atlas(copy_of(run, tmp_path / "whole"), network=network, settings=FEW)
    one = load_file(whole.folder / "cells.safetensors")
    monkeypatch.setattr(means, "_AT_ONCE", 1)
    monkeypatch.setattr(means, "_SAVED", 7)
    again = with_map(run, whole, tmp_path / "again")
    seen, parts = list[str](), None
    while parts is None:
        assert len(seen) < 200, "it never ends"

        def stop(what: str, _done: int, _total: int, upto: int = len(seen) + 4) -> None:
            seen.append(what)
            if len(seen) == upto:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            parts = make_atlas(again, network=network, settings=FEW, progress=stop)
    count = len(whole.cells)
    assert {f"{CENTRE}: mean attributions, part {k + 1} of {count}" for k in range(count)} <= {
        *seen
    }
    order = [what.rpartition("part ")[2] for what in seen if "part " in what]
    assert order == sorted(order)
    other = load_file(parts.folder / "cells.safetensors")
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-4, atol=1e-6)
    assert not list(Path(str(parts.folder)).glob("checkpoints/*"))


def test_an_empty_side_has_no_direction() -> None:
    dictionary = made("relu", 5, 3).to(torch.zeros(1))
    mean = torch.rand(2, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    found = decoded_sides(mean, torch.ones_like(mean), dictionary)
    assert not found["inhibition"].any()
    torch.testing.assert_close(found["both"], found["excitation"])
