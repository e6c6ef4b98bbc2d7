"""Who drives a feature: channel by channel against slow twins, and which images it is about."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.drivers import CELLS, DEAD, TWINS, WIDTH, cells, slow_attribution

from opponent import Feature, Network, Run, RunError, attribute, select
from opponent.explain import channels as channels_module
from opponent.explain.channels import who
from opponent.explain.silencing import silence
from opponent.selection import SELECTIONS, Selected, Selection
from opponent.storage.columns import Columns, Indices

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["mixed:1@6,5", "mixed:2@0,9"])
def test_every_number_by_hand(integer_run: Run, integer_network: Network, name: str) -> None:
    feature = integer_run.feature(name)
    images = ["03.png", "21.png", "11.png", "00.png"]
    answer = who(integer_run, feature, images=images, channels=WIDTH, crops=0)
    s = np.stack(
        [slow_attribution(integer_network.module, integer_run, image, feature) for image in images]
    )
    assert answer.feature == feature
    assert answer.through == "early"
    assert answer.images == tuple(images)
    assert answer.about == "4 images"
    plus, minus = (np.maximum(side, 0).sum((2, 3)).mean(0) for side in (s, -s))
    np.testing.assert_array_equal(answer.excitation, plus)
    np.testing.assert_array_equal(answer.inhibition, minus)
    channels = range(WIDTH)
    up = sorted((k for k in channels if plus[k] > 0), key=lambda k: (-plus[k], k))
    down = sorted((k for k in channels if minus[k] > 0), key=lambda k: (-minus[k], k))
    assert set(up) & set(down)  # channels with two sides are on both
    assert [driver.channel for driver in answer.exciting] == up
    assert [driver.channel for driver in answer.inhibiting] == down
    assert up
    assert down
    deviations = [np.maximum(side, 0).sum((2, 3)).std(0) for side in (s, -s)]
    for driver in (*answer.exciting, *answer.inhibiting):
        k = driver.channel
        assert (driver.excitation, driver.inhibition) == (plus[k], minus[k])
        assert driver.net == s.sum((2, 3)).mean(0)[k]
        assert driver.excitation_sd == pytest.approx(deviations[0][k], rel=1e-12)
        assert driver.inhibition_sd == pytest.approx(deviations[1][k], rel=1e-12)
        assert driver.name == f"early:{driver.channel}"
        assert driver.exemplars == ()
        assert driver.visualisation is None
    assert DEAD not in {*up, *down}
    assert answer.deviation == pytest.approx(integer_run.columns(feature).activation.std())
    # Twin channels are a tie: the first comes first.
    side = up if TWINS[0] in up else down
    assert side.index(TWINS[1]) == side.index(TWINS[0]) + 1
    # All are listed, so all is covered; the tension within channels image by image.
    assert answer.drivers.covered("excitation") == answer.drivers.covered("inhibition") == 1
    within = tension = 0
    for image in s:
        both = [(image[k].clip(0).sum(), (-image[k]).clip(0).sum()) for k in channels]
        within += sum(min(pair) for pair in both)
        tension += min(sum(p for p, _ in both), sum(m for _, m in both))
    assert 0 < within < tension
    assert answer.drivers.tension_within == pytest.approx(within / tension, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_more_channels_than_the_caller_wants(integer_run: Run, count: int) -> None:
    all_channels = who(integer_run, "mixed:1", channels=WIDTH, crops=0)
    few = who(integer_run, "mixed:1", channels=count, crops=0)
    assert few.exciting == all_channels.exciting[:count]
    assert few.inhibiting == all_channels.inhibiting[:count]
    np.testing.assert_array_equal(few.excitation, all_channels.excitation)


def test_silencing_takes_away_what_a_channel_adds(
    integer_run: Run, integer_network: Network
) -> None:
    """From the ReLU on that network is linear: the change is -S, to the last bit."""
    for feature in integer_run.features:
        answer = who(integer_run, feature, channels=WIDTH, crops=0)
        chosen = [driver.channel for driver in (*answer.inhibiting, *answer.exciting)]
        pixels = [np.asarray(Image.open(integer_run.images.find(x).path)) for x in answer.images]
        inputs = integer_network.inputs(np.stack(pixels))
        changes = silence(integer_network, inputs, feature, "early", chosen)
        rows = np.array([integer_run.columns(feature).images.index(x) for x in answer.images])
        sums = integer_run.channels(feature, rows=rows)
        np.testing.assert_array_equal(changes.numpy(), -sums[:, chosen].T)
        assert changes[0].mean() == -answer.inhibiting[0].net
        # Only where S is negative, and only where it is positive: one side alone.
        s = attribute(integer_network, inputs, feature, "early").attribution
        for where, side in ((s < 0, answer.inhibition), (s > 0, -answer.excitation)):
            alone = silence(integer_network, inputs, feature, "early", chosen, where=where)
            np.testing.assert_array_equal(alone.numpy().mean(1), side[chosen])


def slow_sides(
    network: Network, run: Run, feature: Feature, images: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative part of S summed over space, image by image, in double precision."""
    plus, minus = [], []
    for image in images:
        one = attribute(network, [run.images.find(image).path], feature, run.manifest.through)
        s = one.attribution[0].double().numpy()
        plus.append([sum(x for x in channel.ravel() if x > 0) for channel in s])
        minus.append([-sum(x for x in channel.ravel() if x < 0) for channel in s])
    return np.array(plus), np.array(minus)


@pytest.mark.parametrize("name", ["mixed3b:189", "mixed3b:9"])
def test_channels_are_what_attribute_gives_image_by_image(
    embedded: Network, run: Run, name: str
) -> None:
    feature = run.feature(name)
    answer = who(run, name, crops=0, group="exciting")
    assert len(answer.images) == 20
    plus, minus = slow_sides(embedded, run, feature, answer.images)
    close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(answer.excitation, plus.mean(0), **close)
    np.testing.assert_allclose(answer.inhibition, minus.mean(0), **close)
    for which, of_images in (("excitation", plus), ("inhibition", minus)):
        side, mean = answer.drivers.listed(which), of_images.mean(0)
        assert len(side) == 8
        for driver in side:
            k = driver.channel
            np.testing.assert_allclose(driver.excitation, plus[:, k].mean(), **close)
            np.testing.assert_allclose(driver.inhibition, minus[:, k].mean(), **close)
            np.testing.assert_allclose(driver.excitation_sd, plus[:, k].std(), **close)
            np.testing.assert_allclose(driver.inhibition_sd, minus[:, k].std(), **close)
        # None that was left out matters more, and they come in order.
        matter = [driver.of(which) for driver in side]
        assert matter == sorted(matter, reverse=True)
        others = np.delete(mean, [driver.channel for driver in side])
        assert others.max() <= matter[-1] + 1e-3
        assert answer.drivers.covered(which) == pytest.approx(sum(matter) / mean.sum(), rel=1e-3)
    tension = np.minimum(plus.sum(1), minus.sum(1)).sum()
    expected = np.minimum(plus, minus).sum() / tension
    assert answer.drivers.tension_within == pytest.approx(expected, rel=1e-3, abs=1e-6)
    columns = run.columns(name)
    rows = [columns.images.index(image) for image in answer.images]
    for side, energy in (
        (answer.excitation, columns.excitation),
        (answer.inhibition, columns.inhibition),
    ):
        assert np.isfinite(side).all()
        assert (side >= 0).all()
        assert side.sum() == pytest.approx(energy[rows].mean(), rel=1e-4)


@pytest.mark.parametrize("group", SELECTIONS)
def test_groups_are_those_of_select(run: Run, integer_run: Run, group: str) -> None:
    what = group.replace("_", " ")
    for source in (run, integer_run):
        feature = source.features[0]
        columns = source.columns(feature)
        selected = select(columns, 20)[group]
        if not len(selected):
            with pytest.raises(ValueError, match=rf"no image of .* is {what}"):
                who(source, feature, group=group, crops=0)
            continue
        answer = who(source, feature, group=group, crops=0)
        assert answer.images == tuple(columns.images[row] for row in selected.rows)
        several = f"the {len(selected)} most {what} images"
        assert answer.about == (several if len(selected) > 1 else f"the most {what} image")


def test_a_selection_of_the_users_own_is_a_group(run: Run) -> None:
    def middle(columns: Columns, k: int) -> Indices:
        return np.argsort(columns.activation, kind="stable")[30 : 30 + min(k, 3)]

    answer = who(
        run,
        "mixed3b:189",
        group=Selection("of_the_middle", "neither high nor low", middle),
        crops=0,
    )
    assert answer.about == "the 3 most of the middle images"
    columns = run.columns("mixed3b:189")
    ordered = sorted(range(60), key=lambda i: columns.activation[i])
    assert answer.images == tuple(columns.images[i] for i in ordered[30:33])
    same = who(run, "mixed3b:189", images=answer.images, crops=0)
    assert answer.exciting == same.exciting
    np.testing.assert_array_equal(answer.inhibition, same.inhibition)


def test_without_a_choice_it_is_about_the_tensest(integer_run: Run) -> None:
    answer = who(integer_run, "mixed:1", crops=0)
    assert answer.images == who(integer_run, "mixed:1", group="tense", crops=0).images
    assert len(answer.images) < 30
    assert answer.about == f"the {len(answer.images)} most tense images"
    assert answer.feature == integer_run.features[0]


def test_without_a_tense_image_it_is_about_all(
    integer_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_tense(*given: Any, **named: Any) -> dict[str, Selected]:
        selected = select(*given, **named)
        empty = replace(selected["tense"], rows=np.empty(0, dtype=np.intp), images=())
        return {**selected, "tense": empty}

    monkeypatch.setattr(channels_module, "select", none_tense)
    answer = who(integer_run, "mixed:1", crops=0)
    assert answer.about == "all 30 images"
    assert answer.images == integer_run.columns("mixed:1").images
    with pytest.raises(ValueError, match=r"no image of .* is tense"):
        who(integer_run, "mixed:1", group="tense", crops=0)


def test_images_are_those_that_were_named(run: Run) -> None:
    answer = who(run, "mixed3b:189", images=["41.png", "07.png"], crops=0)
    assert answer.images == ("41.png", "07.png")
    assert answer.about == "2 images"
    one = who(run, "mixed3b:189", images=["41"[:2] + ".png"], crops=0)
    assert one.about == "41.png"
    assert [driver.excitation_sd for driver in one.exciting] == [0.0] * 8
    other = who(run, "mixed3b:189", images=["07.png"], crops=0)
    np.testing.assert_allclose(
        answer.excitation, (one.excitation + other.excitation) / 2, rtol=1e-5, atol=1e-6
    )


def test_a_cell_is_one_of_the_newest_atlas(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def atlases(*arguments: Any) -> list[Any]:
        calls.append(arguments)
        return cells(CELLS)(*arguments)

    monkeypatch.setattr(channels_module, "atlases", atlases)
    answer = who(run, "mixed3b:9", cell=(0, 4), crops=0)
    assert answer.images == ("05.png", "50.png")
    assert answer.about == "the images of cell 0,4"
    assert calls == [(run, run.feature("mixed3b:9"))]
    same = who(run, "mixed3b:9", images=["05.png", "50.png"], crops=0)
    np.testing.assert_array_equal(answer.inhibition, same.inhibition)
    assert answer.exciting == same.exciting
    message = r"no images in cell 1,2; the nearest cells that have: 1,1; 0,4; 3,3"
    with pytest.raises(ValueError, match=message):
        who(run, "mixed3b:189", cell=(1, 2), crops=0)


def test_a_cell_of_a_run_without_an_atlas(run: Run) -> None:
    message = "no atlas of mixed3b:189@7,7: `opponent atlas` makes one"
    with pytest.raises(RunError, match=message):
        who(run, "mixed3b:189", cell=(0, 0), crops=0)


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [
        ({"group": "nonsense"}, ValueError, "no group 'nonsense'; there are exciting, inhibiting"),
        ({"images": ["zebra.png"]}, LookupError, "no image 'zebra.png' among its 61; the nearest"),
        ({"images": ["7.png"]}, LookupError, "'7.png' fits 6 images"),
        ({"images": ["broken.png"]}, ValueError, "broken.png: not among the images that the scan"),
        ({"images": []}, ValueError, "no image: not among the images that the scan could read"),
        ({"group": "tense", "images": ["01.png"]}, ValueError, "by a group, by their ids or by a"),
        ({"group": "tense", "cell": (0, 0)}, ValueError, "or by a cell, not by several"),
        ({"images": [], "cell": (0, 0)}, ValueError, "or by a cell, not by several"),
        ({"feature": "mixed3b:7"}, ValueError, "holds no 'mixed3b:7'; it holds mixed3b:189@7,7"),
    ],
)
def test_wrong_choices_are_refused(
    run: Run, choice: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        who(run, **{"feature": "mixed3b:189"} | choice, crops=0)


def test_an_unfinished_scan_is_refused(integer_run: Run, tmp_path: Path) -> None:
    shutil.copytree(integer_run.folder, tmp_path / "run")
    (tmp_path / "run" / "scan" / "000001.parquet").unlink()
    with pytest.raises(RunError, match=r"is not finished \(2 of 3 shards\)"):
        who(Run(tmp_path / "run"), "mixed:1", crops=0)
