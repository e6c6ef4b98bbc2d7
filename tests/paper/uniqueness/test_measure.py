"""The measurements of all images: which layers, what each image gives, going on."""

from pathlib import Path

import pytest
from tests.support.uniqueness import QUICK, SIZE
from torch import nn

from opponent import Network, Preprocessing, RunError, attribute, open_images
from opponent.paper.uniqueness.measure import UniquenessSettings, choose_layers, measure_features
from opponent.paper.uniqueness.measurements import KINDS, SELECTIONS, FeatureMeasurements

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_papers_layers_are_the_default(embedded: Network) -> None:
    pairs = choose_layers(embedded)
    blocks = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    names = ["conv2d0", "conv2d1", "conv2d2", *(f"mixed{x}" for x in blocks)]
    assert [pair.target for pair in pairs] == names[1:]
    assert [pair.through for pair in pairs] == names[:-1]


def test_layers_by_name(small: Network) -> None:
    assert [pair.target for pair in choose_layers(small)] == ["second", "third", "fourth"]
    [first, second] = choose_layers(small, ["first:pixels", " third"])
    assert (first.through, second.through) == ("pixels", "second")
    with pytest.raises(ValueError, match="layer is named twice among third, third"):
        choose_layers(small, ["third", "third:first"])
    with pytest.raises(ValueError, match="no layer before 'first'"):
        choose_layers(small, ["first"])
    with pytest.raises(ValueError, match="no layer 'tird'"):
        choose_layers(small, ["tird"])


def test_a_network_without_such_layers_says_so() -> None:
    plain = Network(nn.Sequential(nn.AvgPool2d(2)), preprocessing=Preprocessing(size=SIZE))
    with pytest.raises(ValueError, match="no two activation functions that all goes through"):
        choose_layers(plain)


def test_a_scan_holds_what_each_image_gives(
    small: Network, pictures: Path, measured: FeatureMeasurements
) -> None:
    assert measured.images == tuple(f"{i:02d}.png" for i in range(60))
    assert measured.unreadable == {"broken.jpg": measured.unreadable["broken.jpg"]}
    assert [(x.pair.target, x.kind) for x in measured.groups] == [
        (layer, kind) for layer in ("second", "third", "fourth") for kind in KINDS
    ]
    for group in measured.groups:
        assert group.values.shape == (60, 5, 4)
        files = [pictures / "07.png", pictures / "41.png"]
        for i, feature in enumerate(group.features):
            result = attribute(small, files, feature, group.pair.through)
            columns = measured.columns(group, i)
            for name in ("activation", "excitation", "inhibition", "l1", "l2"):
                want = getattr(result, name).numpy()
                assert getattr(columns, name)[[7, 41]] == pytest.approx(want, rel=1e-4, abs=1e-6)
                if name in SELECTIONS:
                    assert (group.by(name)[:, i] == getattr(columns, name)).all()
    assert {feature.power for feature in measured.group("third", "kmeans").features} == {2}
    assert len({feature.unit for feature in measured.group("third", "units").features}) == 5


class Stopped(Exception):
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_interrupted_scan_ends_with_the_same_bytes(
    small: Network, pictures: Path, measured: FeatureMeasurements, tmp_path: Path
) -> None:
    wanted = contents(measured.folder)
    assert len(wanted) == 1 + 4 + 3
    for what, after in (("third: hidden vectors", 32), ("measuring", 30), ("measuring", 61)):

        def stop(now: str, done: int, _: int, what: str = what, after: int = after) -> None:
            if now == what and done >= after:
                raise Stopped

        with pytest.raises(Stopped):
            measure_features(small, pictures, out=tmp_path / "out", settings=QUICK, progress=stop)
    again = measure_features(small, pictures, out=tmp_path / "out", settings=QUICK)
    assert contents(tmp_path / "out") == wanted
    for group, other in zip(again.groups, measured.groups, strict=True):
        assert group.features == other.features
        assert (group.values == other.values).all()


def test_another_question_is_refused(
    small: Network, pictures: Path, measured: FeatureMeasurements
) -> None:
    for other in (
        {"settings": UniquenessSettings(features=4, kmeans=12)},
        {"settings": QUICK, "layers": ["third"]},
    ):
        with pytest.raises(RunError, match="another question"):
            measure_features(small, pictures, out=measured.folder, **other)


def test_settings_that_do_not_fit(small: Network, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features must be positive, got 0"):
        UniquenessSettings(features=0)
    with pytest.raises(ValueError, match="20 directions cannot be chosen from 10"):
        UniquenessSettings(kmeans=10)
    with pytest.raises(ValueError, match="61 images are too few for 20 k-means directions"):
        measure_features(small, pictures, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_units_depend_on_the_seed_and_the_layer_alone(
    small: Network, pictures: Path, measured: FeatureMeasurements, tmp_path: Path
) -> None:
    images = open_images(pictures)
    alone = measure_features(small, images, out=tmp_path / "a", layers=["third"], settings=QUICK)
    assert alone.group("third", "units").features == measured.group("third", "units").features
    assert (alone.group("third", "kmeans").values == measured.group("third", "kmeans").values).all()
