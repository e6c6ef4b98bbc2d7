"""What is said where excitation - inhibition does not follow the activation, and what is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.chains import chain
from tests.support.pictures import paint_noise
from tests.support.scans import begin, branched, paint_shapes

from opponent import Columns, Network, Preprocessing, SynthesisSettings, Transforms, scan_images
from opponent.explain.completeness import completeness_note
from opponent.reports.report import write_report

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = SynthesisSettings(steps=1, canvas=(16, 16), transforms=Transforms(draws=1))
ADVICE = "a scan with --rule integrated-zero attributes all of it"


def normed() -> Network:
    """Three convolutions with batch norm, whose shifts carry most of the activation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = chain(norm=True).eval()
        for i in (1, 2, 3):
            norm = getattr(module, f"norm{i}")
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.05, 0.2)
            norm.bias.data.uniform_(-2, 2)
    return Network(module, preprocessing=Preprocessing(size=(12, 10)), name="normed")


def turned(columns: Columns, r: float) -> Columns:
    """The same, with E that correlates as given with the activation."""
    f = columns.activation.astype(float)
    f = (f - f.mean()) / f.std()
    other = np.random.default_rng(0).normal(size=len(f))
    other -= other.mean() + f * (other @ f) / len(f)
    e = r * f + np.sqrt(1 - r**2) * other / other.std()
    return replace(columns, excitation=e.clip(0), inhibition=(-e).clip(0))


def test_integrated_gradients_are_advised_at_bottlenecks_with_a_low_r_alone(tmp_path: Path) -> None:
    network, shapes = branched(), paint_shapes(tmp_path / "shapes", 24)
    run = begin(network, shapes, tmp_path / "run")
    columns = run.columns(run.features[0])
    for r in (-0.3, 0.0, 0.5, 0.94):
        low = turned(columns, r)
        assert low.completeness == pytest.approx(r, abs=1e-6)
        note = completeness_note(run, network, low)
        assert note is not None
        assert note.startswith("Where r is under 0.95, the two sides do not account for")
        assert note.endswith(ADVICE)
    sides = low.excitation + low.inhibition
    cancelled = replace(low, excitation=sides, inhibition=sides * (1 + 1e-6))
    note = completeness_note(run, network, cancelled)
    assert note is not None
    assert note.startswith("Excitation and inhibition cancel in every image")
    assert "--rule" not in note
    for r in (0.96, 1.0):
        assert completeness_note(run, network, turned(columns, r)) is None
    # What is not measured is not complained of.
    few = replace(
        low,
        **{name: getattr(low, name)[:19] for name in vars(low) if getattr(low, name) is not None},
    )
    assert completeness_note(run, network, few) is None
    integrated = begin(network, shapes, tmp_path / "integrated", rule="integrated-zero/2")
    note = completeness_note(integrated, network, low)
    assert note is not None
    assert "--rule" not in note
    # One branch of two: whatever r is, no rule mends it.
    part = begin(network, shapes, tmp_path / "part", features=["head:1"], through="narrow")
    for r in (0.2, 1.0):
        note = completeness_note(part, network, turned(part.columns(), r))
        assert note is not None
        assert note.startswith("narrow is one branch of several: what reaches head around it")
        assert note.endswith("everything goes through these on its way to head: early, mixed")
        assert "--rule" not in note


def test_reports_print_r_the_distance_and_the_advice(tmp_path: Path) -> None:
    network = normed()
    folder = paint_noise(tmp_path / "pictures", 24, (10, 7))
    for rule, count in (("gradient", 24), ("gradient", 12)):
        images = sorted(folder.iterdir())[:count]
        run = scan_images(network, images, "conv3:2", "relu1", out=tmp_path / str(count), rule=rule)
        columns = run.columns()
        page = " ".join(write_report(run, network=network, k=1, settings=QUICK).read_text().split())
        shown = "none" if count < 20 else f"{columns.completeness:.3f}"
        assert f"<div><b>{shown}</b>r of excitation − inhibition with the activation</div>" in page
        assert f"<div><b>{columns.distance:.2g}</b>sd between them, the mean</div>" in page
        reason = "There is no correlation of E with the activation: 12 images; r takes 20 or more."
        assert (reason in page) == (count < 20)
        assert (ADVICE in page) == (count >= 20)
        assert columns.completeness < 0.95 or count < 20


def test_a_report_through_a_branch_names_bottlenecks(tmp_path: Path) -> None:
    network, shapes = branched(), paint_shapes(tmp_path / "shapes", 24)
    run = begin(network, shapes, tmp_path / "run", features=["head:1"], through="narrow")
    page = write_report(run, network=network, k=1, settings=QUICK).read_text()
    assert "Narrow is one branch" not in page
    assert "narrow is one branch of several" in page
    assert "on its way to head: early, mixed." in page
    assert ADVICE not in page
