"""Units of a scan of all units, attributed in the images that it keeps of them."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.pictures import paint_blobs
from tests.support.scans import gated

import opponent
from opponent import Network, Run, RunError, scan_images, scan_kept, select, who
from opponent.atlas.build import make_atlas
from opponent.reports.report import write_report

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = (3, 1)
# Images kept at either end of each score.
KEEP = 4


@pytest.fixture(scope="module")
def network() -> Network:
    return gated()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety pictures and one file that is none."""
    folder = paint_blobs(tmp_path_factory.mktemp("pictures"), 90, (12, 10))
    (folder / "05-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="module")
def layer(network: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All units of a layer, of which few images are kept."""
    out = tmp_path_factory.mktemp("run") / "layer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opponent.scan.plan.KEEP", KEEP)
        return scan_images(network, pictures, "last.1:*", "stem.1", out=out, batch_size=16)


@pytest.fixture(scope="module")
def whole(network: Network, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two of those units in all images."""
    out = tmp_path_factory.mktemp("run") / "whole"
    features = [f"last.1:{unit}" for unit in UNITS]
    return scan_images(network, pictures, features, "stem.1", out=out, batch_size=16)


@pytest.fixture(scope="module")
def kept(network: Network, layer: Run) -> Run:
    return scan_kept(layer, [f"last.1:{unit}" for unit in UNITS], network=network)


@pytest.mark.parametrize("unit", UNITS)
def test_the_images_are_those_at_either_end_of_a_score(
    layer: Run, kept: Run, whole: Run, unit: int
) -> None:
    wanted = {
        image
        for row in layer.units().to_pylist()
        if row["unit"] in UNITS
        for image in (*row["top_images"], *row["bottom_images"])
    }
    columns, every = kept.columns(f"last.1:{unit}"), whole.columns(f"last.1:{unit}")
    assert set(columns.images) == wanted
    assert len(columns) < len(every) == 90
    assert columns.kept is not None
    assert (columns.kept.images, columns.kept.keep) == (90, KEEP)
    assert columns.scope == f"{len(wanted)} images kept of 90"
    # The unit of captions and the band of tense images are those of all images.
    assert columns.deviation == pytest.approx(every.activation.std(), rel=0.01)
    assert columns.activation.std() > 1.1 * columns.deviation
    rows = [every.images.index(image) for image in columns.images]
    for name in ("activation", "excitation", "inhibition", "l1", "l2", "excitation_map"):
        np.testing.assert_allclose(
            getattr(columns, name), getattr(every, name)[rows], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("unit", UNITS)
def test_groups_begin_as_among_all_images(kept: Run, whole: Run, unit: int) -> None:
    some, every = (select(run, 20, feature=f"last.1:{unit}") for run in (kept, whole))
    assert list(some) == ["exciting", "inhibiting", "silent", "tense"]
    for name, group in some.items():
        assert group.images == every[name].images[: len(group)]
        assert len(group) == KEEP or name == "tense"
    # No tense image is shown that might have one before it.
    columns = whole.columns(f"last.1:{unit}")
    certain = np.sort(columns.l1)[-KEEP]
    l1 = dict(zip(columns.images, columns.l1, strict=True))
    expected = [x for x in every["tense"].images if l1[x] >= certain]
    assert list(some["tense"].images) == expected
    for name in ("tense_apart", "tense_together"):
        with pytest.raises(ValueError, match=f"{name} compares with the maps of all images"):
            select(kept, feature=f"last.1:{unit}", selections=[name])


def test_who_is_about_the_same_images_and_says_of_how_many(
    network: Network, kept: Run, whole: Run
) -> None:
    here = who(kept, "last.1:3", group="exciting", crops=0)
    rows = [whole.columns("last.1:3").images.index(x) for x in here.images]
    assert len(rows) == KEEP
    there = who(whole, "last.1:3", images=here.images, crops=0)
    np.testing.assert_allclose(here.excitation, there.excitation, rtol=1e-4, atol=1e-6)
    assert here.about == f"the {KEEP} most exciting images"
    assert here.scanned == kept.columns("last.1:3").scope
    assert here.deviation == pytest.approx(there.deviation, rel=0.01)


def test_it_is_computed_once(
    network: Network, layer: Run, kept: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("opponent.scan.shard._Scanner.add", never)
    again = scan_kept(layer, list(kept.features), network=network)
    assert again.folder == kept.folder
    assert layer.folder in Path(str(again.folder)).parents
    assert Run(again.folder).manifest == again.manifest
    assert layer.features == ()


def test_what_needs_all_images_is_refused(network: Network, kept: Run) -> None:
    for make, what in ((make_atlas, "an atlas"), (write_report, "a report")):
        with pytest.raises(RunError, match=rf"keeps, and {what} needs all 90; .*opponent scan "):
            make(kept, network=network)


def test_what_is_no_unit_of_the_scan_is_refused(
    network: Network, layer: Run, whole: Run, pictures: Path, tmp_path: Path
) -> None:
    for name, message in (
        ("stem.1:3", r"holds units last\.1:0 to last\.1:5, not stem\.1:3"),
        ("last.1:6", r"holds units last\.1:0 to last\.1:5, not last\.1:6"),
        ("last.1:3@0,0", r"was scanned at last\.1:3@5,6, not at last\.1:3@0,0; for that: opponent"),
    ):
        with pytest.raises(ValueError, match=message):
            scan_kept(layer, name, network=network)
    with pytest.raises(RunError, match="is no scan of all units"):
        scan_kept(whole, "last.1:3", network=network)
    (tmp_path / "none.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    run = scan_images(network, tmp_path / "none.jpg", "last.1:*", "stem.1", out=tmp_path / "run")
    with pytest.raises(RunError, match=r"no image of .* could be read"):
        scan_kept(run, "last.1:3", network=network)


def test_a_scan_of_every_position_has_no_place_to_look_at(tmp_path: Path) -> None:
    images = paint_blobs(tmp_path, 2, (64, 64))
    run = scan_images("inceptionv1-small", images, "conv2d2:*@*", "conv2d1", out=tmp_path / "run")
    message = r"not where it was; for pictures of conv2d2:3 scan it at one position: opponent scan "
    with pytest.raises(ValueError, match=message):
        opponent.scan_kept(run, "conv2d2:3")


def test_names_are_needed_where_there_are_several(layer: Run, whole: Run, kept: Run) -> None:
    for run in (whole, kept):
        with pytest.raises(
            ValueError, match=r"holds 2 features, last\.1:3@5,6, last\.1:1@5,6; name one \(--feat"
        ):
            run.columns()
    with pytest.raises(ValueError, match=r"all 6 units of last\.1; name one .*, such as last\.1:0"):
        layer.columns()
    message = r"keeps no rows of last\.1:3, only its extreme images.*opponent scan .* last\.1:3 "
    with pytest.raises(ValueError, match=message):
        layer.columns("last.1:3")
