"""An atlas by other rules, with its icons made by an executor, and its progress."""

import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.atlas import CENTRE, QUICK, Call, files, slow_means, with_map

from opponent import (
    Atlas,
    AttributionRule,
    Executor,
    Network,
    Run,
    RunError,
    Segment,
    attribute,
    make_atlas,
    scan_images,
    silent,
)
from opponent.core.side import SIDES, Side

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.usefixtures("flat")
def test_from_a_mean_cells_hold_what_s_weighs(
    wave_network: Network, wave_pictures: Path, tmp_path: Path
) -> None:
    rule = "integrated-mean/8"
    run = scan_images(
        wave_network, wave_pictures, "mixed:2", "early", out=tmp_path / "run", rule=rule,
        batch_size=7,
    )  # fmt: skip
    atlas = make_atlas(
        run, run.features[0], network=wave_network, settings=replace(QUICK, steps=1, grid=2)
    )
    mean = run.baseline()
    means = load_file(atlas.folder / "cells.safetensors")
    assert (means["hidden"] < 0).any()
    for cell, attribution, hidden in zip(
        atlas.cells, means["attribution"], means["hidden"], strict=True
    ):
        paths = [wave_pictures / image for image in cell.images]
        result = attribute(wave_network, paths, CENTRE, "early", rule=rule, baseline=mean)
        slow = result.window_attribution.double().mean(0), result.change.double().mean(0)
        torch.testing.assert_close(attribution.double(), slow[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(hidden.double(), slow[1], rtol=1e-4, atol=1e-6)


class Halved(AttributionRule):
    """Half the gradient times h."""

    @property
    def label(self) -> str:
        return "halved"

    def attribute(self, segment: Segment) -> Iterator[torch.Tensor]:
        for gradient in segment.unchanged.gradients():
            yield 0.5 * gradient * segment.hidden


@pytest.mark.usefixtures("flat")
def test_an_own_rule_is_handed_over(
    wave_network: Network, wave_pictures: Path, tmp_path: Path
) -> None:
    run = scan_images(
        wave_network, wave_pictures, "mixed:2", "early", out=tmp_path / "run", rule=Halved()
    )
    quick = replace(QUICK, steps=1, grid=2)
    with pytest.raises(RunError, match=r"was scanned by the rule 'halved'.*hand it over"):
        make_atlas(run, run.features[0], network=wave_network, settings=quick)
    with pytest.raises(RunError, match=r"by the rule 'halved', not by 'gradient'"):
        make_atlas(run, run.features[0], network=wave_network, settings=quick, rule="gradient")
    assert not (run.folder / "atlas").exists()
    atlas = make_atlas(run, run.features[0], network=wave_network, settings=quick, rule=Halved())
    means = load_file(atlas.folder / "cells.safetensors")["attribution"].double()
    slow = slow_means(atlas, wave_network, wave_pictures, "early")[0]
    torch.testing.assert_close(means, 0.5 * slow, rtol=1e-4, atol=1e-6)


class Here(Executor):
    """An executor that computes in this process, the last task first."""

    threads = 1

    def __init__(self) -> None:
        self.tasks = list[object]()

    def check(self, network: Network, *, by_name: bool) -> None:
        assert not by_name

    def map(self, make: Callable[[], Callable[[Any], object]], tasks: Any) -> Any:
        compute = pickle.loads(pickle.dumps(make))()
        for task in reversed(tasks):
            compute(task)
            self.tasks.append(task)
            yield task


def test_an_executor_makes_the_same_icons(
    wave_atlas: tuple[Atlas, list[Call]],
    signed_wave_atlas: Atlas,
    wave_run: Run,
    wave_network: Network,
    tmp_path: Path,
) -> None:
    run = with_map(wave_run, wave_atlas[0], tmp_path / "run")
    here, calls = Here(), list[Call]()
    make_atlas(
        run, run.features[0], network=wave_network, settings=QUICK, signed=True, executor=here,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert files(run.folder) == files(signed_wave_atlas.run.folder)
    batches = -(-len(wave_atlas[0].cells) // 4)
    tasks = [(side, number) for side in ("both", *SIDES) for number in range(batches)]
    assert here.tasks == tasks[::-1]
    made = [call for call in calls if "icons" in call[0]]
    assert made == [
        (f"{CENTRE}: batches of icons", done, len(tasks)) for done in range(1, len(tasks) + 1)
    ]
    # Only what is missing.
    atlas = run.folder / "atlas" / wave_atlas[0].folder.name
    (atlas / "icons" / "inhibition-000.json").unlink()
    again = Here()
    make_atlas(run, run.features[0], network=wave_network, settings=QUICK, executor=again)
    assert again.tasks == [(Side.INHIBITION, 0)]
    assert files(run.folder) == files(signed_wave_atlas.run.folder)


def test_no_progress_is_shown_where_none_is_wanted(
    wave_atlas: tuple[Atlas, list[Call]],
    wave_run: Run,
    wave_network: Network,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minutes = itertools.count(step=100)  # between any two looks at the clock
    clock = SimpleNamespace(monotonic=lambda: float(next(minutes)))
    monkeypatch.setattr("opponent.core.progress.time", clock)
    for name, progress in (("silent", silent), ("shown", None)):
        run = with_map(wave_run, wave_atlas[0], tmp_path / name)
        make_atlas(run, run.features[0], network=wave_network, settings=QUICK, progress=progress)
        printed = capsys.readouterr()
        assert not printed.out
        assert {line.partition(":")[0] for line in printed.err.splitlines()} == (
            set() if progress else {"mixed"}
        )
