"""Completeness: E against f, over images, going on, and on real networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tests.support.chains import SMALL, Residual, chain
from tests.support.pictures import paint_noise
from typer.testing import CliRunner

from opponent import ImageSet, Network, open_images
from opponent.cli import app
from opponent.core.errors import RunError
from opponent.geometry.bottlenecks import through_layers
from opponent.models.registry import load
from opponent.paper.completeness import Completeness, completeness, write_completeness

pytestmark = pytest.mark.usefixtures("one_thread", "random_weights")


def test_the_measures_are_scipys(tmp_path: Path) -> None:
    network = Network(chain(norm=True).eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 30, (10, 7))
    result = completeness(network, folder, out=tmp_path / "out", features=3, seed=4)
    assert [x.layer for x in result.layers] == ["pixels", "relu1", "relu2", "relu3"]
    assert sorted(feature.unit or 0 for feature in result.features) == [0, 1, 2]
    f, e = result.activation.astype(float), result.total.astype(float)
    for i in range(4):
        for k in range(3):
            pearson = stats.pearsonr(f[:, k], e[:, k, i]).statistic
            spearman = stats.spearmanr(f[:, k], e[:, k, i]).statistic
            assert result.pearson[i, k] == pytest.approx(pearson, abs=1e-12)
            assert result.spearman[i, k] == pytest.approx(spearman, abs=1e-12)
            assert result.l1[i, k] == pytest.approx(np.abs(f - e[:, :, i])[:, k].mean())
    rows = result.rows()
    assert rows[0]["pearson"] == pytest.approx(result.pearson[0].mean())
    assert rows[0]["pearson_sd"] == pytest.approx(result.pearson[0].std())
    assert rows[2]["l1_in_sd"] == pytest.approx((result.l1[2] / f.std(0)).mean())


def test_a_constant_feature_is_left_out_and_counted(tmp_path: Path) -> None:
    module = chain()
    with torch.no_grad():
        module.head.weight[1] = 0
    network = Network(module.eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 20, (10, 7))
    result = completeness(network, folder, out=tmp_path / "out", features=3)
    assert np.isnan(result.pearson[:, 1]).all()
    assert result.describe()["constant_features"] == 1
    assert result.rows()[0]["pearson"] == pytest.approx(result.pearson[0, [0, 2]].mean())


@pytest.mark.slow
def test_batch_norm_shows_and_integrating_mends_it(tmp_path: Path) -> None:
    module = chain(norm=True)
    for i in (1, 2, 3):
        norm = getattr(module, f"norm{i}")
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.05, 0.2)
        norm.bias.data.uniform_(-2, 2)
    network = Network(module.eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 40, (10, 7))
    plain = completeness(network, folder, out=tmp_path / "plain", features=3)
    assert np.nanmin(plain.pearson[1]) < 0.95
    mended = completeness(
        network, folder, out=tmp_path / "mended", features=3, rule="integrated-zero/24"
    )
    assert mended.pearson[1:].min() > 0.999
    mean = completeness(
        network, folder, out=tmp_path / "mean", features=3, rule="integrated-mean/24"
    )
    assert mean.pearson[1:].min() > 0.999


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    network = Network(chain().eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 300, (10, 7))

    def stop(_what: str, done: int, _total: int) -> None:
        if done > 256:
            raise KeyboardInterrupt

    uninterrupted = completeness(network, folder, out=tmp_path / "whole", features=2)
    with pytest.raises(KeyboardInterrupt):
        completeness(network, folder, out=tmp_path / "broken", features=2, progress=stop)
    seen: list[int] = []
    again = completeness(
        network,
        folder,
        out=tmp_path / "broken",
        features=2,
        progress=lambda _, done, __: seen.append(done),
    )
    assert seen[0] == 256
    assert np.array_equal(uninterrupted.total, again.total)
    for measurement, out in ((uninterrupted, "a"), (again, "b")):
        write_completeness([measurement], tmp_path / out)
    for name in ("completeness.json", "figure3.png", "figure13.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(RunError, match="another question"):
        completeness(network, folder, out=tmp_path / "whole", features=3)


@pytest.mark.parametrize(("count", "no_r"), [(19, "19 images; r takes 20 or more"), (20, None)])
def test_few_images_give_distances_and_no_correlation(
    count: int, no_r: str | None, tmp_path: Path
) -> None:
    network = Network(chain().eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", count, (10, 7))
    result = completeness(network, folder, out=tmp_path / "out", features=2)
    assert result.no_r == result.describe()["no_r"] == no_r
    for values in (result.pearson, result.spearman):
        assert np.isnan(values).all() == (no_r is not None)
    assert np.isfinite(result.l1).all()
    assert all(path.is_file() for path in write_completeness([result], tmp_path / "figures"))


def test_branches_are_marked_and_measured_on_request(tmp_path: Path) -> None:
    network = Network(Residual().eval(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 8, (10, 7))
    result = completeness(network, folder, out=tmp_path / "whole", features=2)
    assert [x.layer for x in result.layers] == ["pixels"]
    result = completeness(network, folder, out=tmp_path / "all", features=2, branches=True)
    assert [(x.layer, x.bottleneck) for x in result.layers] == [("pixels", True), ("relu", False)]
    assert [row["bottleneck"] for row in result.rows()] == [True, False]


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    network = Network(chain(), preprocessing=SMALL)
    folder = paint_noise(tmp_path / "pictures", 3, (10, 7))
    cases = [
        ({"features": 4}, "4 random units of 'logits', which has 3"),
        ({"features": ["conv1:0", "conv2:0"]}, "features are of one layer; got conv1, conv2"),
        ({"features": []}, "features are of one layer; got none"),
        ({"throughs": ["conv1"]}, "'conv1' is neither the output of an activation"),
        ({"throughs": ["relu9"]}, "has no layer 'relu9'"),
        ({"rule": "best"}, "names no rule"),
    ]
    for number, (given, message) in enumerate(cases):
        with pytest.raises(ValueError, match=message):
            completeness(network, folder, out=tmp_path / str(number), **({"features": 2} | given))
        assert not (tmp_path / str(number)).exists()
    with pytest.raises(ValueError, match="has 1 images; a correlation needs some"):
        completeness(network, folder / "000.png", out=tmp_path / "one", features=2)


def test_the_command(tmp_path: Path) -> None:
    folder = paint_noise(tmp_path / "pictures", 4, (64, 64))
    command = ["completeness", "inceptionv1-small", "--images", str(folder)]
    command += ["--out", str(tmp_path / "out"), "--logits", "3"]
    result = CliRunner().invoke(app, [*command, "--through", "mixed4a", "--through", "pixels"])
    assert result.exit_code == 0, result.output
    assert "3 units of logits, 4 images" in result.output
    assert "no correlations: 4 images; r takes 20 or more" in result.output
    [written] = json.loads((tmp_path / "out" / "completeness.json").read_text())
    assert written["no_r"] == "4 images; r takes 20 or more"
    for row in written["layers"]:
        assert row["pearson"] is row["spearman"] is None
        assert row["l1_in_sd"] >= 0
    assert [row["layer"] for row in written["layers"]] == ["mixed4a", "pixels"]
    assert written["question"]["weights_sha256"]
    assert {"figure3.png", "figure13.png"} <= {x.name for x in (tmp_path / "out").iterdir()}


# Real networks


def measured(network: Network, images: Path, out: Path, **given: object) -> Completeness:
    sample = ImageSet(source="some", entries=open_images(images).entries[::41][:24])
    return completeness(network, sample, out=out, features=6, **given)  # type: ignore[arg-type]


def test_the_embedded_network_is_complete_but_early_on(
    embedded: Network, tiny_photographs: Path, tmp_path: Path
) -> None:
    result = measured(embedded, tiny_photographs, tmp_path / "out")
    mean = dict(zip((x.layer for x in result.layers), result.pearson.mean(1), strict=True))
    late = [name for name in mean if name.startswith("mixed")]
    assert len(late) == 9
    assert min(mean[name] for name in late) >= 0.99
    assert mean["pixels"] < 0.8


@pytest.mark.slow
def test_efficientnets_batch_norms_break_it_and_integrating_mends_it(
    photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network = load("module:benchmarks.efficientnet_lite:lite0")
    names = [through.layer for through in through_layers(network) if through.bottleneck]
    late = names[-3]
    plain = measured(network, photographs, tmp_path / "plain", throughs=[late])
    mended = measured(
        network, photographs, tmp_path / "mended", throughs=[late], rule="integrated-zero/8"
    )
    assert plain.pearson.mean() < 0.5
    assert mended.pearson.mean() > 0.99
