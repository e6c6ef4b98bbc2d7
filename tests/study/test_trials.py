"""From scans to trials: every rule of appendix B, for any scan; and a study from a real one."""

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, Run, scan_images
from opponent.core.errors import RunError
from opponent.explain.crops import Tile
from opponent.plots.experiment import SheetRow, sheet_figure
from opponent.study.sheet import write_sheets
from opponent.study.study import Study, write_study
from opponent.study.trials import Candidate, Chosen, build, choose


def candidate(
    activation: Sequence[float],
    norm: Sequence[float] | None = None,
    *,
    label: str = "a:0",
    photos: Sequence[str] | None = None,
    crops: Sequence[str] | None = None,
) -> Candidate:
    """A feature over images; each a photograph of its own, unless told otherwise."""
    count = len(activation)
    photos = photos or [f"photo {i}" for i in range(count)]
    names = crops or [f"crop {i}" for i in range(count)]
    return Candidate(
        label=label,
        activation=np.array(activation, np.float32),
        norm=np.array([1.0] * count if norm is None else norm, np.float32),
        photos=photos,
        crop=names.__getitem__,
    )


# Twenty images: 0 excites most, 19 inhibits most; the norms' 90th percentile is 1.
RAMP = [10.0, 9, 8, 7, 6, 5, 4, *[0.0] * 12, -10]


def test_a_trial_by_hand() -> None:
    [one], passed = choose([candidate(RAMP)], 1)
    assert passed == {}
    assert (one.mei, one.mii) == (0, 19)
    assert one.examples == (1, 2, 3, 4, 5, 6)
    assert len(set(one.distractors)) == 7
    assert set(one.distractors) <= set(range(7, 19))


def test_distractors_are_modest_and_salient() -> None:
    # Mean 0 and sd 1 but for the targets: 7 and 8 lie beyond 2 sd, 9 to 12 have small norms.
    activation = [60.0, 59, 58, 57, 56, 55, 54, *[0.0] * 193, -60]
    activation[7], activation[8] = 40.0, -40.0
    norm = np.zeros(201)
    norm[7:20] = 1  # 13 of 201 in the top tenth; of these 2 are not modest
    norm[9:13] = 0
    [one], _ = choose([candidate(activation, norm.tolist(), label="x")], 1, distractors=7)
    # The 90th percentile is 0 here, so that all are salient: raise the others.
    assert {7, 8}.isdisjoint(one.distractors)
    norm = np.arange(201) / 1000
    norm[13:34] += 1
    [one], _ = choose([candidate(activation, norm.tolist())], 1)
    assert set(one.distractors) <= set(range(13, 34))


def test_too_few_distractors_are_told_in_numbers() -> None:
    activation = [*RAMP[:7], *[0.0] * 6, -10]
    with pytest.raises(ValueError, match=r"0 of 1 trials can be filled from 1 features .*6 of 7 "):
        choose([candidate(activation)], 1)
    norm = [*[1.0] * 7, *[0.0] * 12, 1.0]
    with pytest.raises(ValueError, match=r"18 lie within 2 sd .*, 8 have .*, 6 both, and 6"):
        choose([candidate(RAMP, norm)], 1)


def test_no_more_trials_are_counted_than_have_distractors() -> None:
    """Of 40 images 20 are targets; the 4 with large norms are enough for one trial of two."""
    norm = [*[0.0] * 36, *[1.0] * 4]
    front = [float(x) for x in range(10, 3, -1)]
    one = candidate([*front, -10.0, *[0.0] * 32], norm, label="a:1")
    two = candidate([*[0.0] * 8, *front, -10.0, *[0.0] * 24], norm, label="a:2")
    [found], _ = choose([one, two], 1, distractors=3)
    assert set(found.distractors) <= {36, 37, 38, 39}
    with pytest.raises(ValueError, match=r"1 of 2 trials can .* 2 features \(a:2: 1 of 3 dist"):
        choose([one, two], 2, distractors=3)


def test_who_shares_its_mii_takes_the_next_smallest() -> None:
    one = candidate([*RAMP, *[0.1] * 20], label="a:1")
    same = candidate([*[0.1] * 20, *RAMP[:12], *[0.0] * 7, -10], label="a:2")
    values = same.activation.copy()
    values[19], values[30] = -11, -9
    same = candidate(values.tolist(), label="a:2")
    chosen, passed = choose([one, same], 2, distractors=2)
    assert passed == {}
    assert [x.mii for x in chosen] == [19, 39]


def test_who_has_none_of_the_seven_smallest_left_is_passed_over() -> None:
    count = 40
    low = [*range(-20, -13)]
    first = [
        candidate(
            [*np.roll(low, i), *[0.0] * 26, *[float(x + 10 * i) for x in range(1, 8)]],
            label=f"a:{i}",
        )
        for i in range(8)
    ]
    assert len(first[0].activation) == count
    chosen, _ = choose(first[:7], 7, distractors=0)
    assert sorted(x.mii for x in chosen) == list(range(7)), "one each"
    with pytest.raises(ValueError, match=r"a:7: .* \(7 tried\) .* its MII is the MII of a"):
        choose(first, 8, distractors=0)


def test_what_is_an_mii_is_no_other_feature_s_mei() -> None:
    one = candidate([*RAMP, *[0.1] * 20], label="a:1")
    turned = candidate([*(-x for x in RAMP), *[0.1] * 20], label="a:2")
    with pytest.raises(ValueError, match="a:2: the crop of its MEI is the MII of a:1"):
        choose([one, turned], 2)


def test_no_two_crops_of_one_photograph() -> None:
    photos = [f"photo {i}" for i in range(20)]
    photos[3] = photos[1]
    photos[12] = photos[0]
    [one], _ = choose([candidate([*RAMP[:7], 3.0, *RAMP[8:]], photos=photos)], 1, distractors=2)
    assert one.examples == (1, 2, 4, 5, 6, 7), "the next photograph stands in for a second crop"
    photos[19] = photos[0]
    [one], _ = choose(
        [candidate([*RAMP[:7], 3.0, *RAMP[8:18], -5.0, -10.0], photos=photos)], 1, distractors=2
    )
    assert one.mii == 18, "and for an MII that is a crop of the MEI's photograph"
    alone = [*RAMP[:7], 3.0, *RAMP[8:18], 0.0, -10.0]
    with pytest.raises(ValueError, match=r"\(1 tried\) can be its MII; .* an MEI"):
        choose([candidate(alone, photos=photos)], 1)
    photos[12:19] = [photos[1]] * 7
    with pytest.raises(ValueError, match=r"negative activations \(7 tried\) can be its MII"):
        choose([candidate([*RAMP[:7], 3.0, *range(-1, -13, -1)], photos=photos)], 1)
    with pytest.raises(ValueError, match="only 4 of 7 MEIs are of different photographs"):
        choose([candidate(RAMP, photos=["x"] * 7 + ["y"] * 10 + ["z", "z", "w"])], 1)


def test_pictures_that_look_the_same_are_one() -> None:
    crops = [f"crop {i}" for i in range(20)]
    crops[1] = crops[0]
    crops[8] = crops[9] = crops[10]
    for seed in range(20):
        [one], _ = choose(
            [candidate([*RAMP[:7], 3.0, *RAMP[8:]], crops=crops)], 1, seed=seed, distractors=7
        )
        assert one.examples == (2, 3, 4, 5, 6, 7)
        assert len({8, 9, 10} & set(one.distractors)) <= 1


@pytest.mark.parametrize(
    ("activation", "match"),
    [
        ([-1.0] * 20, "only 0 of 7 MEIs excite it: -1 in the last"),
        ([*RAMP[:6], *[0.0] * 13, -10], "only 6 of 7 MEIs excite it: 0 in the last"),
        ([x + 10 for x in RAMP], "never negative: scan the ReLU by name"),
        ([*RAMP[:-1], float("nan")], "not finite"),
        (RAMP[:13], "13 images, too few for 7 at either end"),
    ],
)
def test_features_that_say_nothing_are_passed_over(activation: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        choose([candidate(activation)], 1)


def test_one_seed_one_choice() -> None:
    many = candidate([*RAMP[:7], *[0.0] * 100, -10])
    assert choose([many], 1, seed=3) == choose([many], 1, seed=3)
    drawn = {choose([many], 1, seed=seed)[0][0].distractors for seed in range(10)}
    assert len(drawn) == 10


def follows_appendix_b(candidates: Sequence[Candidate], chosen: Sequence[Chosen]) -> None:
    """Every rule, written out slowly."""
    crops: list[tuple[str, str]] = []
    photos: dict[str, set[str]] = {}
    for trial in chosen:
        one = candidates[trial.feature]
        f = [float(x) for x in one.activation]
        targets = [trial.mei, *trial.examples]
        everything = [*targets, trial.mii, *trial.distractors]
        assert len(everything) == len(set(everything)) == 15
        assert f[trial.mei] == max(f)
        assert f[trial.mii] < 0 < f[trial.examples[-1]]
        # 2nd to 7th: whatever is larger is the MEI, an example, or of a photograph shown here.
        shown = {one.photos[i] for i in (*targets, trial.mii)}
        shown_crops = {one.crop(i) for i in (*targets, trial.mii)}
        for i in range(len(f)):
            if f[i] > f[targets[-1]]:
                assert i in targets or one.photos[i] in shown or one.crop(i) in shown_crops
        assert [f[i] for i in targets] == sorted((f[i] for i in targets), reverse=True)
        mean = sum(f) / len(f)
        sd = (sum((x - mean) ** 2 for x in f) / len(f)) ** 0.5
        norms = sorted(float(x) for x in one.norm)
        # The 90th percentile, linear between the two ranks beside it.
        rank = 0.9 * (len(norms) - 1)
        low = norms[int(rank)]
        bound = low + (rank - int(rank)) * (norms[min(int(rank) + 1, len(norms) - 1)] - low)
        for i in trial.distractors:
            assert abs(f[i] - mean) <= 2 * sd * (1 + 1e-9) + 1e-9
            assert float(one.norm[i]) >= bound * (1 - 1e-9) - 1e-9
        crops += [("MEI", one.crop(i)) for i in targets]
        crops += [("once", one.crop(i)) for i in (trial.mii, *trial.distractors)]
        for i in everything:
            photos.setdefault(one.photos[i], set()).add(one.crop(i))
    # The smallest that no other trial shows, of the seven smallest.
    everywhere = {name for _, name in crops}
    for trial in chosen:
        one = candidates[trial.feature]
        smaller = [
            i for i in range(len(one.photos)) if one.activation[i] < one.activation[trial.mii]
        ]
        assert len(smaller) < 7
        assert all(one.crop(i) in everywhere or one.photos[i] in photos for i in smaller)
    once = [crop for role, crop in crops if role == "once"]
    assert len(set(once)) == len(once)
    assert set(once).isdisjoint(crop for role, crop in crops if role == "MEI")
    assert all(len(found) == 1 for found in photos.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(60, 400), st.integers(1, 4))
def test_every_rule_holds_for_any_scan(seed: int, count: int, images: int, per: int) -> None:
    """Scans with ties, several crops a photograph, copies of files, and features that are alike."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(images)
    photos = [f"photo {i // per}" for i in range(images)]
    names = [f"crop {i}" for i in range(images)]
    for i in rng.integers(0, images, images // 20):
        names[i] = names[0]
    candidates = []
    for number in range(12):
        share = rng.choice([0.0, 0.3, 0.95])
        f = share * common + (1 - share) * rng.standard_normal(images)
        f = np.round(f, 1) if rng.random() < 0.3 else f
        norm = np.abs(rng.standard_normal(images)).round(int(rng.integers(0, 4)))
        candidates.append(
            candidate(f.tolist(), norm.tolist(), label=f"a:{number}", photos=photos, crops=names)
        )
    try:
        chosen, passed = choose(candidates, count, seed=seed)
    except ValueError as error:
        if "trials can be filled from 12 features" not in str(error):
            raise
        return
    assert len(chosen) == count
    follows_appendix_b(candidates, chosen)
    features = [x.feature for x in chosen]
    assert features == sorted(features)
    # Whoever was not chosen before the last one was passed over, with a reason.
    before = {f"a:{i}" for i in range(features[-1])} - {f"a:{i}" for i in features}
    assert before <= set(passed)


# ------------------------------------------------------------------------------ from run folders


@pytest.fixture(scope="module")
def network() -> Network:
    """Two convolutions with ReLUs, which see 5 x 5 and 9 x 9 pixels of 12 x 16."""
    generator = torch.Generator().manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(3, 8, 5, padding=2), "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 8, 5, padding=2), "relu2": nn.ReLU(),
    }  # fmt: skip
    module = nn.Sequential(OrderedDict(layers))
    for values in module.parameters():
        with torch.no_grad():
            values.copy_(torch.randn(values.shape, generator=generator) / 4)
    return Network(module, preprocessing=Preprocessing(size=(12, 16)), name="two")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(400):
        image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        image.save(folder / ("<b>&.png" if i == 399 else f"{i:03d}.png"))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def runs(network: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    early, late = ([f"{layer}:{i}" for i in range(6)] for layer in ("relu1", "relu2"))
    return [
        scan_images(network, pictures, late, "relu1", out=folder / "late"),
        scan_images(network, pictures, early, "pixels", out=folder / "early"),
    ]


def make(runs: Sequence[Run], out: Path, network: Network, **more: Any) -> Study:
    given: dict[str, Any] = {"features": 1, "network": network, **more}
    return build(runs, out, **given)[0]


@pytest.fixture(scope="module")
def study(runs: list[Run], network: Network, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make(runs, tmp_path_factory.mktemp("made") / "study", network)


def test_a_study_comes_of_scans(study: Study, runs: list[Run], network: Network) -> None:
    assert study.layers == ("relu1", "relu2"), "from the first to the last"
    assert [x["label"] for x in study.settings["layers"]] == ["layer 1", "layer 2"]
    kinds = [(x.layer, x.kind) for x in study.trials]
    assert kinds == [
        ("relu1", "trial"), ("relu1", "catch"), ("relu1", "practice"),
        ("relu2", "trial"), ("relu2", "catch"),
    ]  # fmt: skip
    for trial in study.trials:
        assert len(trial.examples) == 6
        assert len(trial.choices) == 9
        assert (trial.mei in trial.examples) == (trial.kind == "catch")
        assert trial.mii not in trial.examples
    about = study.settings["runs"][0]
    assert about["weights_sha256"] == network.weights_sha256()
    assert about["images"]["count"] == 401


def test_the_pictures_are_the_crops_that_it_says(study: Study, runs: list[Run]) -> None:
    """From the table alone: each picture is the image's crop, its numbers are those of the scan."""
    by_layer = {run.features[0].layer: run for run in runs}
    for row in study.table.to_pylist():
        run = by_layer[row["layer"]]
        columns = run.columns(row["feature"], maps=False)
        top, left, height, width = row["box"]
        for what in ("examples", "choices"):
            for id, image, f in zip(
                row[what], row[f"{what}_image"], row[f"{what}_activation"], strict=True
            ):
                found = np.array(Image.open(study.stimulus(id)))
                whole = np.array(Image.open(run.images.find(image).path))
                assert np.array_equal(found, whole[top : top + height, left : left + width])
                assert f == columns.activation[columns.images.index(image)]
        f = row["choices_activation"]
        assert f[0] == columns.activation.max()
        assert row["mii_rank"] == 1 + (columns.activation < f[1]).sum() <= 7
        assert row["mean"] == pytest.approx(columns.activation.mean(dtype=np.float64))
        assert all(abs(x - row["mean"]) <= 2 * row["sd"] for x in f[2:])
        assert all(x >= row["salient"] for x in row["choices_norm"][2:])


def test_the_norm_is_that_of_the_layer_s_output(study: Study, network: Network) -> None:
    row = study.table.to_pylist()[-1]
    layer, (_, _, position) = row["layer"], row["feature"].partition("@")
    y, x = map(int, position.split(","))
    folder = Path(json.loads((study.folder / "study.json").read_text())["runs"][0]["folder"])
    images = Run(folder).images
    for image, norm in zip(row["choices_image"], row["choices_norm"], strict=True):
        pixels = np.array(Image.open(images.find(image).path))
        hidden = network.run(network.inputs(pixels[None]), layer, after=True).target
        assert norm == pytest.approx(float(hidden[0, :, y, x].abs().sum()), rel=1e-4)


def test_nothing_tells_the_answer(study: Study) -> None:
    for trial in study.trials:
        sizes = set()
        for id in trial.choices:
            data = study.stimulus(id).read_bytes()
            kinds, at = [], 8
            while at < len(data):
                length = int.from_bytes(data[at : at + 4], "big")
                kinds.append(data[at + 4 : at + 8])
                at += 12 + length
            assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}
            sizes.add(data[16:26])
        assert len(sizes) == 1, "one size and one pixel format in a trial"
    files = {path.stem for path in (study.folder / "stimuli").iterdir()}
    assert study.stimuli <= files


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_interrupted_one_ends_with_the_same_bytes(
    study: Study, runs: list[Run], network: Network, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(when: tuple[str, int]) -> Callable[[str, int, int], None]:
        def tell(what: str, done: int, total: int) -> None:
            if (what, done) == when:
                raise Stop

        return tell

    for when in [
        ("relu1: norms", 100), ("relu1: choosing", 0), ("relu1: pictures", 2),
        ("relu2: norms", 300), ("relu2: pictures", 1),
    ]:  # fmt: skip
        with pytest.raises(Stop):
            make(runs, tmp_path / "s", network, progress=stop(when))
        with pytest.raises(RunError, match="the same command again finishes"):
            Study(tmp_path / "s")
    assert contents(make(runs, tmp_path / "s", network).folder) == contents(study.folder)


def test_texts_that_were_edited_stay(
    study: Study, runs: list[Run], network: Network, tmp_path: Path
) -> None:
    before = contents(study.folder)
    assert contents(make(runs, study.folder, network).folder) == before
    shutil.copytree(study.folder, tmp_path / "s")
    write_study(
        tmp_path / "s", dict(study.settings) | {"title": "mine"}, study.trials,
        {name: study.table[name].to_pylist() for name in study.table.column_names[8:]},
    )  # fmt: skip
    assert make(runs, tmp_path / "s", network).settings["title"] == "mine"


def test_what_does_not_go_together_is_refused(
    study: Study, runs: list[Run], network: Network, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        build([], tmp_path / "a")
    with pytest.raises(ValueError, match=r"relu1:0@6,8.* are in two of the runs"):
        make([runs[1], runs[1]], tmp_path / "b", network)
    with pytest.raises(ValueError, match="1 labels for 2 layers: relu1, relu2"):
        make(runs, tmp_path / "c", network, labels=["early"])
    with pytest.raises(ValueError, match="a study needs trials: got 0"):
        make(runs, tmp_path / "d", network, features=0)
    with pytest.raises(ValueError, match=r"relu1: \d of 9 trials can be filled from 6 features"):
        make(runs, tmp_path / "e", network, features=7)
    with pytest.raises(RunError, match="another question"):
        make(runs, study.folder, network, features=2)


def test_sheets_show_every_trial(study: Study) -> None:
    page, *prints = write_sheets(study, suffix="svg")
    text = page.read_text()
    for trial in study.trials:
        assert trial.feature.removeprefix(trial.layer + ":").partition("@")[0] in text
        assert trial.id in text
    assert text.count("data:image/png;base64,") == 15 * len(study.trials)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert [path.name for path in prints] == ["sheet-relu1.svg", "sheet-relu2.svg"]
    assert all(path.stat().st_size > 10_000 for path in prints)


def test_a_sheet_escapes_what_it_shows(study: Study, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    layers = [dict(x) | {"label": hostile} for x in study.settings["layers"]]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "stimuli").symlink_to(study.folder / "stimuli")
    write_study(
        copy, dict(study.settings) | {"title": hostile, "layers": layers}, study.trials,
        {name: study.table[name].to_pylist() for name in study.table.column_names[8:]},
    )  # fmt: skip
    page, *_ = write_sheets(Study(copy), suffix="png")
    assert "<script>" not in page.read_text()
    write_study(copy, study.settings, study.trials)
    with pytest.raises(ValueError, match="no activations to show"):
        write_sheets(Study(copy))


def test_a_sheet_s_figure() -> None:
    tile = Tile(image=np.zeros((5, 5, 3), np.uint8), caption="+1.0")
    row = SheetRow(
        label="a", about="x\ny", examples=[tile] * 6, mei=tile, mii=tile, distractors=[tile] * 7
    )
    figure = sheet_figure("a layer", [row, row])
    assert len(figure.axes) == 30
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("+1.0") == 30
    assert {"a layer", "examples", "MEI", "MII", "distractors", "x", "y"} <= set(texts)
    with pytest.raises(ValueError, match="at least one trial"):
        sheet_figure("nothing", [])
