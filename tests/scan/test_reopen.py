"""From a run folder back to what it was scanned with: network, rule, baseline, crop plans."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support.chains import SMALL, chain
from tests.support.extensions import FromMean, PositiveGradient, SmoothGrad
from tests.support.pictures import paint_noise
from tests.support.scans import branched, files, paint_shapes
from typer.testing import CliRunner

from opponent import (
    AttributionRule,
    Gradient,
    IntegratedGradients,
    Network,
    Preprocessing,
    Run,
    RunError,
    attribute,
    load,
    mean_activation,
    scan_images,
)
from opponent.attribution.all_units import AllUnits
from opponent.attribution.rules import parse_rule
from opponent.cli import app
from opponent.core.box import Box
from opponent.geometry.crop import plan_whole_image
from opponent.geometry.planning import plan_crop
from opponent.scan.plan import crop_record
from opponent.scan.reopen import (
    baseline_of,
    crop_plan_of,
    network_of,
    plan_from,
    rule_of,
    units_plan_of,
)
from opponent.storage.manifest import CropRecord

pytestmark = pytest.mark.usefixtures("one_thread")


# The network


def test_weights_from_a_file_are_loaded_again(
    tmp_path: Path, pictures: Path, embedded: Network
) -> None:
    changed = {name: value.clone() for name, value in embedded.module.state_dict().items()}
    changed["conv2d0_pre_relu_conv.bias"] += 0.01
    weights = tmp_path / "mine.safetensors"
    save_file(changed, weights)
    images = sorted(pictures.iterdir())[:2]
    network = load("inceptionv1-small", weights)
    run = scan_images(network, images, "conv2d1:3", "conv2d0", out=tmp_path / "run")
    again = network_of(Run(run.folder))
    assert again.weights_sha256() != embedded.weights_sha256()
    with pytest.raises(RunError, match=r"scanned with other weights of inceptionv1-small"):
        network_of(run, embedded)
    assert network_of(run, network) is network
    # The file is elsewhere now: the same scan goes on with it, and knows its place.
    moved = tmp_path / "moved.safetensors"
    weights.rename(moved)
    with pytest.raises(RunError, match=r"cannot be loaded: there is no file of weights.*mine"):
        network_of(Run(run.folder))
    scan_images(load("inceptionv1-small", moved), images, "conv2d1:3", "conv2d0", out=run.folder)
    assert network_of(Run(run.folder)).weights_sha256() == again.weights_sha256()


OWN = """
import torch
from opponent import Network, Preprocessing
from tests.support.scans import Branched

def network():
    return Network(Branched(), preprocessing=Preprocessing(size=(12, 10)), name="mine")

def other():
    network = Network(Branched(), preprocessing=Preprocessing(size=(12, 10)))
    with torch.no_grad():
        network.module.stem.bias += 1
    return network
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of factories, in the working folder."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return f"module:{name}"


def test_a_folder_never_names_code_that_is_run(own: str, tmp_path: Path, pictures: Path) -> None:
    run = scan_images(branched(), pictures, "mixed:1", "early", out=tmp_path / "run")
    (tmp_path / "helper.py").write_text("raise SystemExit('it ran')\n")
    path = Path(run.folder) / "manifest.json"
    values = json.loads(path.read_text())
    for key in ("name", "asked"):
        values["network"][key] = "module:helper:make"
        path.write_text(json.dumps(values))
        with pytest.raises(RunError, match=r"network=.*--model module:helper:make\)$") as refused:
            network_of(Run(run.folder))
        assert str(refused.value).count("\n") == 0
    values["network"]["weights_file"] = "w.pt"
    path.write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"--model module:helper:make=FILE\)$"):
        network_of(Run(run.folder))
    assert "helper" not in sys.modules


def test_a_factory_is_asked_again_where_the_caller_names_it(
    own: str, tmp_path: Path, pictures: Path
) -> None:
    run = scan_images(f"{own}:network", pictures, "mixed:1", "early", out=tmp_path / "run")
    record = Run(run.folder).manifest.network
    assert (record.name, record.asked, record.weights_file) == ("mine", f"{own}:network", None)
    again = network_of(Run(run.folder), f"{own}:network")
    assert (again.name, again.asked) == ("mine", f"{own}:network")
    assert again.weights_sha256() == record.weights_sha256
    # With a file of weights too.
    changed = {k: v + 0.5 for k, v in again.module.state_dict().items()}
    save_file(changed, tmp_path / "w.safetensors")
    loaded = load(f"{own}:network", tmp_path / "w.safetensors")
    run = scan_images(loaded, pictures, "mixed:1", "early", out=tmp_path / "changed")
    record = run.manifest.network
    assert (record.asked, record.weights_file) == (
        f"{own}:network",
        str(tmp_path / "w.safetensors"),
    )
    reopened = network_of(Run(run.folder), load(f"{own}:network", tmp_path / "w.safetensors"))
    for name, value in reopened.module.state_dict().items():
        assert torch.equal(value, changed[name])


def test_a_scan_says_what_comes_next_ready_to_be_pasted(
    own: str, tmp_path: Path, pictures: Path
) -> None:
    words = ["scan", f"{own}:network", "mixed:1", "--through", "early", "--images", str(pictures)]
    done = CliRunner().invoke(app, [*words, "--out", "my run"])
    assert done.exit_code == 0, done.output
    [line] = [line for line in done.output.splitlines() if line.startswith("next: ")]
    assert line == (
        f"next: opponent select 'my run'; opponent report 'my run' --model {own}:network"
    )


def test_the_scans_preprocessing_and_numbers_come_back(tmp_path: Path, pictures: Path) -> None:
    size = Preprocessing(size=(40, 48), draft=True)
    network = load().with_preprocessing(size).to(dtype=torch.float64)
    assert network.asked == "inceptionv1-small"
    run = scan_images(network, pictures, "conv2d1:3", "conv2d0", out=tmp_path / "run")
    again = network_of(Run(run.folder))
    assert (again.preprocessing, again.dtype) == (size, torch.float64)
    assert network_of(run, "inceptionv1-small").preprocessing == size


def test_a_network_that_was_handed_over_is_handed_over_or_named_again(
    own: str, tmp_path: Path, pictures: Path
) -> None:
    run = scan_images(branched(), pictures, "mixed:1", "early", out=tmp_path / "run")
    before = files(Path(run.folder))
    assert run.manifest.network.asked is None
    with pytest.raises(
        RunError, match=r"'small', cannot be loaded: .*over \(network=.*\(--model MODEL\[=FILE\]\)$"
    ):
        network_of(Run(run.folder))
    assert network_of(run, f"{own}:network").name == "mine"
    with pytest.raises(RunError, match="was scanned with other weights of small"):
        network_of(run, f"{own}:other")
    # What it was once asked for stays, whoever goes on with the run.
    named = scan_images(
        Network(
            branched().module, preprocessing=branched().preprocessing, name="small", asked="text"
        ),
        pictures, "mixed:1", "early", out=run.folder,
    )  # fmt: skip
    assert named.manifest.network.asked == "text"
    named = scan_images(branched(), pictures, "mixed:1", "early", out=run.folder)
    assert named.manifest.network.asked == "text"
    written = files(Path(run.folder))
    assert {k for k in written if written[k] != before[k]} == {"manifest.json"}


def test_a_manifest_that_does_not_say_what_was_asked_is_opened_by_the_name(
    tmp_path: Path, pictures: Path
) -> None:
    run = scan_images("inceptionv1-small", pictures, "conv2d1:3", "conv2d0", out=tmp_path / "run")
    determining = run.manifest.determining()
    path = Path(run.folder) / "manifest.json"
    values = json.loads(path.read_text())
    assert values["network"].pop("asked") == "inceptionv1-small"
    path.write_text(json.dumps(values))
    old = Run(run.folder)
    assert old.manifest.network.asked is None
    assert old.manifest.determining() == determining
    assert network_of(old).name == "inceptionv1-small"
    # The same scan goes on with it, and it says so from then on.
    scan_images("inceptionv1-small", pictures, "conv2d1:3", "conv2d0", out=run.folder)
    assert Run(run.folder).manifest.network.asked == "inceptionv1-small"


@pytest.mark.parametrize(
    "words",
    [
        ["figures", "--synthesise"],
        ["report", "--steps", "1"],
        pytest.param(
            ["atlas", "--steps", "1", "--grid", "1", "--min-images", "1"], marks=pytest.mark.slow
        ),
        ["who", "--out", "who.html"],
        ["invert", "--image", "000.png", "--steps", "1", "--side", "excitation"],
    ],
)
def test_commands_that_need_the_network_take_its_name(
    own: str, words: list[str], tmp_path: Path
) -> None:
    shapes = paint_shapes(tmp_path / "shapes", 30)
    run = scan_images(branched(), shapes, "mixed:1", "early", out=tmp_path / "run")
    command, *others = [words[0], str(run.folder), *words[1:]]
    runner = CliRunner()
    with pytest.raises(RunError, match=r"or name it \(--model MODEL\[=FILE\]\)"):
        runner.invoke(app, [command, *others], catch_exceptions=False)
    made = runner.invoke(
        app, [command, *others, "--model", f"{own}:network"], catch_exceptions=False
    )
    assert made.exit_code == 0, made.output


# The rule


@pytest.mark.parametrize("rule", ["gradient", "integrated-zero/4", "integrated-mean/4"])
def test_a_scan_takes_a_rule(rule: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(chain(norm=True).eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 9, (10, 7))
    run = scan_images(network, folder, "conv3:2", "relu1", out=tmp_path / "run", rule=rule)
    again = Run(run.folder)
    chosen = rule_of(again)
    assert chosen.label == rule
    assert chosen == parse_rule(rule)
    assert isinstance(chosen, Gradient | IntegratedGradients)
    baseline = None if "mean" not in rule else mean_activation(network, folder, "relu1")
    kept = baseline_of(run, network, chosen)
    assert (kept is None) == (baseline is None)
    assert kept is None or torch.equal(kept, baseline)
    columns = run.columns()
    for i, image in enumerate(columns.images):
        one = attribute(network, folder / image, "conv3:2", "relu1", rule=rule, baseline=baseline)
        assert columns.excitation[i] == pytest.approx(float(one.excitation), rel=1e-4)
        assert columns.inhibition[i] == pytest.approx(float(one.inhibition), rel=1e-4)
    # All images are fewer than the mean is taken over: `attribute` computes the same.
    together = attribute(network, folder, "conv3:2", "relu1", rule=rule)
    np.testing.assert_allclose(columns.l2, together.l2, rtol=1e-4)
    if baseline is not None:
        (run.folder / "baseline.safetensors").write_bytes(b"")
        with pytest.raises(RunError, match=r"baseline\.safetensors is damaged"):
            baseline_of(run, network, chosen)
    other = "integrated-zero/5" if rule == "gradient" else "gradient"
    with pytest.raises(RunError, match=f"rule was {rule}, is {other}"):
        scan_images(network, folder, "conv3:2", "relu1", out=tmp_path / "run", rule=other)


@pytest.mark.parametrize("rule", [SmoothGrad(), PositiveGradient(), FromMean()])
@pytest.mark.parametrize("target", ["conv3:2", "logits:1"])
def test_a_scan_takes_a_rule_of_ones_own(
    rule: AttributionRule, target: str, tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(chain(norm=True).eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 9, (10, 7))
    sizes = {"batch_size": 2, "shard_size": 5}
    run = scan_images(network, folder, target, "relu1", out=tmp_path / "run", rule=rule, **sizes)
    baseline = mean_activation(network, folder, "relu1") if rule.needs_mean else None
    result = attribute(network, folder, target, "relu1", rule=rule, baseline=baseline)
    columns, window = run.columns(), run.through_window(run.features[0])
    assert columns.images == result.images
    for name in ("activation", "excitation", "inhibition", "l1", "l2"):
        np.testing.assert_allclose(
            getattr(columns, name), getattr(result, name), rtol=1e-4, atol=1e-5
        )
    for name in ("excitation_map", "inhibition_map"):
        np.testing.assert_allclose(
            getattr(columns, name), getattr(result, name)[:, *window.slices], rtol=1e-4, atol=1e-5
        )
    # A folder never names code that is run.
    again = Run(run.folder)
    assert again.manifest.rule == rule.label
    with pytest.raises(RunError, match=rf"by the rule '{rule.label}', which is none of the built"):
        rule_of(again)
    assert rule_of(again, rule) is rule
    name = f"module:tests.support.extensions:{type(rule).__name__}"
    assert rule_of(again, name).label == rule.label
    with pytest.raises(RunError, match=rf"by the rule '{rule.label}', not by 'gradient'"):
        rule_of(again, "gradient")
    kept = baseline_of(again, network, rule_of(again, rule))
    assert (kept is None) == (baseline is None)
    assert kept is None or torch.equal(kept, baseline)
    # It goes on with the rule, to the same bytes, and with no other.
    before = files(Path(run.folder))
    (Path(run.folder) / "scan" / "000001.parquet").unlink()
    with pytest.raises(RunError, match=f"rule was {rule.label}, is gradient"):
        scan_images(network, folder, target, "relu1", out=run.folder, **sizes)
    scan_images(network, folder, target, "relu1", out=run.folder, rule=name, **sizes)
    assert files(Path(run.folder)) == before


def test_other_settings_are_another_rule(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(chain().eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 3, (10, 7))
    run = scan_images(
        network, folder, "conv3:2", "relu1", out=tmp_path / "run", rule=SmoothGrad(seed=1)
    )
    with pytest.raises(RunError, match=r"'smoothgrad-0\.5/3-1', not by 'smoothgrad-0\.5/3-2'"):
        rule_of(run, SmoothGrad(seed=2))
    assert rule_of(run, SmoothGrad(seed=1)) == SmoothGrad(seed=1)


def test_a_manifest_that_names_code_runs_none(tmp_path: Path, pictures: Path) -> None:
    run = scan_images(branched(), pictures, "mixed:1", "early", out=tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    values = json.loads(path.read_text()) | {"rule": "module:tests.support.extensions:SmoothGrad"}
    path.write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"which is none of the built-in ones: hand it over"):
        rule_of(Run(run.folder))


def test_the_crop_is_that_which_suits_the_rule(tmp_path: Path, pictures: Path) -> None:
    """Noise of another shape is other noise, so SmoothGrad is given whole images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(chain(norm=True).eval(), preprocessing=branched().preprocessing)
    records = {}
    for rule in (SmoothGrad(), PositiveGradient()):
        name = type(rule).__name__
        run = scan_images(network, pictures, "conv3:1@0,0", "relu1", out=tmp_path / name, rule=rule)
        records[name] = run.manifest.crop_plan
    assert records["SmoothGrad"] == CropRecord(
        reason="on the first images, S of conv3:1@0,0 differs"
    )
    assert records["PositiveGradient"].crops is not None


# Crop plans


def test_a_crop_plan_can_be_written_down() -> None:
    network = load()
    features = [network.resolve(f"mixed3b:{unit}") for unit in (3, 189)]
    plan = plan_crop(network, features, "mixed3a")
    assert plan.box is not None
    record = crop_record(plan)
    assert record.reason is None
    assert plan_from(record, features, "mixed3a") == plan
    whole = plan_whole_image(network, features, "mixed3a", "no reason")
    assert crop_record(whole) == CropRecord(reason="no reason")


def test_crop_plans_come_back_from_the_folder(
    embedded: Network, small: Network, pictures: Path, tmp_path: Path
) -> None:
    features = ["mixed3a:5@0,0", "mixed3a:100@1,0"]
    run = scan_images(
        embedded, pictures, [*features, "mixed3a:*@0,0"], "conv2d2", out=tmp_path / "crop"
    )
    again = Run(run.folder)
    resolved = [embedded.resolve(x) for x in features]
    plan = crop_plan_of(again, embedded)
    assert plan == plan_crop(embedded, resolved, "conv2d2")
    assert plan.box is not None
    assert crop_plan_of(again, embedded, resolved[:1]) == plan_crop(
        embedded, resolved[:1], "conv2d2"
    )
    units = units_plan_of(again, embedded)
    widest = [AllUnits(layer="mixed3a", position=(0, 0)).widest(embedded)]
    assert units == plan_crop(embedded, widest, "conv2d2")
    whole = scan_images(small, pictures, ["head:1", "head:*"], "mixed", out=tmp_path / "whole")
    plan = crop_plan_of(whole, small)
    assert plan == plan_whole_image(
        small, [small.resolve("head:1")], "mixed", "'head' has no rows and columns"
    )
    units = units_plan_of(whole, small)
    assert (units.box, units.reason) == (None, plan.reason)
    assert units.window == units.inner == Box.full((12, 10))
