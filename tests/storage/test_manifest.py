"""The manifest: typed, it comes back, and what is damaged is refused with the field's name."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.run_folders import FEATURES, NETWORK, images_for, manifest_for

from opponent import Feature, Preprocessing, Run, RunError
from opponent.core.box import Box
from opponent.storage.manifest import (
    CropRecord,
    FeatureRecord,
    KeptRecord,
    UnitsRecord,
    box_numbers,
    feature_record,
    read_manifest,
    versions,
)
from opponent.storage.run_writer import begin_run


def test_the_manifest_comes_back(run: Run) -> None:
    manifest = manifest_for(5)
    assert Run(run.folder).manifest == manifest
    assert json.loads(manifest.to_json())["format"] == 4
    assert run.features == FEATURES
    assert run.preprocessing == Preprocessing(size=(8, 9), mean=(0.5,) * 3, std=(1.0,) * 3)
    assert run.through_window(FEATURES[0]) == Box(top=0, left=1, height=2, width=3)
    assert run.receptive_field(FEATURES[1]) == Box(top=0, left=0, height=3, width=3)


def test_versions_name_what_numbers_depend_on() -> None:
    found = versions()
    assert set(found) == {"opponent", "python", "torch", "numpy", "pillow"}
    assert found["numpy"] == np.__version__
    assert all(value.count(".") >= 1 for value in found.values())


# Every field


CROP = CropRecord(
    crops={"pixels": (0, 0, 5, 7), "before": (1, 0, 2, 3)},
    positions=[(1, 2), (0, 0)],
    window=(0, 0, 2, 3),
    inner=(1, 0, 2, 3),
    region=(0, 0, 3, 3),
)
UNITS = UnitsRecord(layer="block", position=(1, 2), count=6, window=(0, 0, 2, 3), keep=16)
KEPT = KeptRecord(images=9, keep=2, deviations=[1.5, 0.0])
FULL = manifest_for(
    5, rule="integrated-zero", crop_plan=CROP, units=UNITS, kept=KEPT,
    units_crop_plan=CropRecord(reason="why"),
)  # fmt: skip
VALUES = json.loads(FULL.to_json())


def written(folder: Path, values: object) -> Path:
    path = folder / "manifest.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"rule": "module:own.rules:Own"},
        {"crop_plan": CROP},
        {"crop_plan": CropRecord(reason="no rows and columns")},
        {"units": UNITS, "units_crop_plan": CROP},
        {"units": msgspec.structs.replace(UNITS, position="*")},
        {"units": msgspec.structs.replace(UNITS, position=None), "features": [], "windows": []},
        {"kept": KEPT},
        {"placement": None},
        {"network": msgspec.structs.replace(NETWORK, weights_file="/a/caf\udce9.pt")},
        {"through": "pixels", "seed": -1, "device": "cuda"},
    ],
)
def test_records_come_back(tmp_path: Path, other: dict[str, Any]) -> None:
    manifest = manifest_for(5, **other)
    text = manifest.to_json()
    assert text.isascii()
    assert read_manifest(written(tmp_path, text)) == manifest
    assert read_manifest(written(tmp_path, text)).to_json() == text


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1).filter(any),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.tuples(st.integers(0, 999), st.integers(0, 999)),
    st.sampled_from([0, 2, 4]),
)
@settings(deadline=None, max_examples=50)
def test_features_come_back_to_the_bit(
    vector: list[float], name: str | None, position: tuple[int, int] | None, power: int
) -> None:
    feature = Feature(layer="a", vector=tuple(vector), name=name, position=position, power=power)
    record = feature_record(feature)
    values = json.loads(json.dumps(msgspec.to_builtins(record)))
    assert msgspec.convert(values, FeatureRecord) == record
    assert msgspec.convert(values, FeatureRecord).feature == feature
    assert values == json.loads(json.dumps(feature.describe()))


def test_boxes_come_back() -> None:
    box = Box(top=1, left=2, height=3, width=4)
    assert Box.of(box_numbers(box)) == box


def test_what_does_not_determine_numbers_is_left_out() -> None:
    values = FULL.determining()
    assert set(values) == set(VALUES) - {"crop_plan", "units_crop_plan"}
    assert set(values["network"]) == set(VALUES["network"]) - {"weights_file", "asked", "signature"}
    assert set(values["images"]) == {"count", "sha256"}
    assert {key: value for key, value in values.items() if key not in ("network", "images")} == {
        key: VALUES[key] for key in values if key not in ("network", "images")
    }


GONE = object()
PREPARED = ("network", "preprocessing")
# Where in the manifest, what it is there, and the place that the message names.
WRONG: list[tuple[tuple[str | int, ...], object, str]] = [
    (("network",), None, "$.network"),
    (("network",), GONE, "network"),
    (("network", "name"), 7, "$.network.name"),
    (("network", "asked"), 7, "$.network.asked"),
    (("network", "weights_file"), GONE, "weights_file` - at `$.network"),
    (("network", "weights_sha256"), None, "$.network.weights_sha256"),
    (("network", "dtype"), ["float32"], "$.network.dtype"),
    (("network", "new"), 1, "new` - at `$.network"),
    (PREPARED, [], "$.network.preprocessing"),
    ((*PREPARED, "size"), [8], "$.network.preprocessing.size"),
    ((*PREPARED, "size"), [8, 9, 3], "$.network.preprocessing.size"),
    ((*PREPARED, "size"), [8.0, 9], "$.network.preprocessing.size[0]"),
    ((*PREPARED, "size"), [0, 9], "$.network"),
    ((*PREPARED, "size"), GONE, "size - at `$.network.preprocessing"),
    ((*PREPARED, "resize"), "x", "$.network.preprocessing.resize"),
    ((*PREPARED, "resize"), -1, "$.network"),
    ((*PREPARED, "mean"), [0.5, 0.5], "$.network.preprocessing"),
    ((*PREPARED, "mean"), [0.5, float("nan"), 0.5], "$.network.preprocessing.mean[1]"),
    ((*PREPARED, "std"), [1, 1, "1"], "$.network.preprocessing.std[2]"),
    ((*PREPARED, "draft"), 1, "$.network.preprocessing.draft"),
    ((*PREPARED, "new"), 1, "new - at `$.network.preprocessing"),
    (("features",), None, "$.features"),
    (("features",), {}, "$.features"),
    (("features", 0), "block:3", "$.features[0]"),
    (("features", 0, "layer"), GONE, "layer` - at `$.features[0]"),
    (("features", 0, "unit"), -1, "$.features[0].unit"),
    (("features", 0, "unit"), 1.5, "$.features[0].unit"),
    (("features", 0, "unit"), True, "$.features[0].unit"),
    (("features", 0, "unit"), GONE, "$.features[0]"),
    (("features", 0, "vector"), [1.0], "$.features[0]"),
    (("features", 0, "position"), [1], "$.features[0].position"),
    (("features", 0, "position"), [1, -2], "$.features[0].position[1]"),
    (("features", 0, "power"), 3, "$.features[0]"),
    (("features", 0, "sign"), 1, "sign` - at `$.features[0]"),
    (("features", 1, "vector"), [], "$.features[1]"),
    (("features", 1, "vector"), [0, 0.0], "$.features[1]"),
    (("features", 1, "vector"), [1, None], "$.features[1].vector[1]"),
    (("features", 1, "vector"), [1, float("inf")], "$.features[1]"),
    (("features", 1, "name"), 7, "$.features[1].name"),
    (("through",), 7, "$.through"),
    (("through_shape",), [4, 3], "$.through_shape"),
    (("through_shape",), [4, 3, 0], "$.through_shape[2]"),
    (("windows",), [], "2 features have 0 windows"),
    (("windows", 0), [], "$.windows[0]"),
    (("windows", 0, "through"), [0, 1, 2], "$.windows[0].through"),
    (("windows", 1, "through"), [0, 1, 0, 3], "$.windows[1].through[2]"),
    (("windows", 1, "pixels"), GONE, "pixels` - at `$.windows[1]"),
    (("windows", 1, "new"), 0, "new` - at `$.windows[1]"),
    (("placement",), [0, 0, 2], "$.placement"),
    (("placement",), "0 0 2 2", "$.placement"),
    (("placement",), [0, 0.5, float("nan"), 2], "$.placement[2]"),
    (("placement",), [0, 0.5, 10**400, 2], "$.placement[2]"),
    (("images",), 5, "$.images"),
    (("images", "count"), 0, "$.images.count"),
    (("images", "count"), "5", "$.images.count"),
    (("images", "sha256"), None, "$.images.sha256"),
    (("images", "new"), None, "new` - at `$.images"),
    (("batch_size",), 0, "$.batch_size"),
    (("shard_size",), -1, "$.shard_size"),
    (("shard_size",), 2.0, "$.shard_size"),
    (("shard_size",), GONE, "shard_size"),
    (("device",), None, "$.device"),
    (("seed",), 0.5, "$.seed"),
    (("versions",), ["torch"], "$.versions"),
    (("versions", "torch"), 2, "$.versions"),
    (("rule",), None, "$.rule"),
    (("crop_plan",), {}, "$.crop_plan"),
    (("crop_plan",), {"reason": 3}, "$.crop_plan.reason"),
    (("crop_plan", "whole"), "why", "$.crop_plan"),
    (("crop_plan", "crops"), GONE, "$.crop_plan"),
    (("crop_plan", "inner"), GONE, "$.crop_plan"),
    (("crop_plan", "crops", "pixels"), GONE, "$.crop_plan"),
    (("crop_plan", "crops", "before"), [1, 2, 3], "$.crop_plan.crops"),
    (("crop_plan", "positions"), [[1, 2]], "2 features have 1 positions"),
    (("crop_plan", "positions", 1), [0], "$.crop_plan.positions[1]"),
    (("crop_plan", "new"), 0, "new` - at `$.crop_plan"),
    (("units", "layer"), None, "$.units.layer"),
    (("units", "position"), "centre", "$.units.position"),
    (("units", "position"), [1], "$.units.position"),
    (("units", "count"), 0, "$.units.count"),
    (("units", "keep"), "16", "$.units.keep"),
    (("units", "window"), None, "$.units.window"),
    (("units_crop_plan",), "why", "$.units_crop_plan"),
    (("kept", "images"), 0, "$.kept.images"),
    (("kept", "keep"), GONE, "keep` - at `$.kept"),
    (("kept", "deviations"), [1.0], "2 features have 1 deviations"),
    (("kept", "deviations"), [1.0, float("nan")], "$.kept.deviations[1]"),
    (("format",), 4.0, "$.format"),
    (("new",), {}, "unknown field `new`"),
]


def changed(place: tuple[str | int, ...], value: object) -> Any:
    values = inner = deepcopy(VALUES)
    *way, last = place
    for step in way:
        inner = inner[step]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return values


@pytest.mark.parametrize(("place", "value", "named"), WRONG)
def test_a_wrong_value_is_refused_by_its_name(
    tmp_path: Path, place: tuple[str | int, ...], value: object, named: str
) -> None:
    path = written(tmp_path, changed(place, value))
    with pytest.raises(RunError, match=r"manifest\.json is damaged \(.*\); delete") as caught:
        read_manifest(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_json_cannot_say_is_refused_all_the_same(tmp_path: Path) -> None:
    text = FULL.to_json()
    for number in ("1e400", "-1e400", "NaN", "Infinity", "-Infinity"):
        path = written(tmp_path, text.replace("0.5,\n  2.0", f"{number},\n  2.0"))
        with pytest.raises(
            RunError, match=r"a number that is not finite - at `\$\.placement\[1\]`"
        ):
            read_manifest(path)
    # A power that is no number of this machine, and more digits than Python reads.
    for number in ("1" * 500, "1" * 5000, "-1" + "0" * 500):
        path = written(tmp_path, text.replace('"seed": 0', f'"seed": {number}', 1))
        try:
            assert read_manifest(path).seed == int(number)
        except RunError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("depth", [100, 990, 100_000])
@pytest.mark.parametrize("place", ['{"format": 4, "versions": ', "", '{"format": '])
def test_depth_is_damage(tmp_path: Path, depth: int, place: str) -> None:
    end = "}" if place else ""
    path = written(tmp_path, place + "[" * depth + "]" * depth + end)
    with pytest.raises(RunError, match=r"manifest\.json is damaged|has format \[") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=3), values, max_size=3)
    ),
    max_leaves=8,
)
PLACES = sorted({place for place, *_ in WRONG if place[-1] != "new"}, key=str)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(PLACES), JSON)
def test_any_value_makes_a_manifest_or_damage(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], value: object
) -> None:
    path = written(tmp_path_factory.getbasetemp(), changed(place, value))
    try:
        manifest = read_manifest(path)
    except RunError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        path.write_text(manifest.to_json())
        assert read_manifest(path) == manifest


# Damage


@given(share=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_truncated_manifest_is_told(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("run")
    text = manifest_for(5).to_json().rstrip()
    (folder / "manifest.json").write_text(text[: int(share * (len(text) - 1))])
    with pytest.raises(RunError, match=r"manifest\.json is damaged \(.*\); delete .* scan again"):
        Run(folder)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        begin_run(folder, manifest_for(5), images_for(5))


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"format": 4}', b'{"format": 4, "new": 2}', b"\xff\xfe"]
)
def test_a_manifest_of_another_form_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged|has format None"):
        Run(tmp_path)


def test_a_manifest_of_another_version_is_told(run: Run) -> None:
    path = run.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 4', '"format": 9'))
    with pytest.raises(RunError, match=r"has format 9, this version .* reads format 4; scan again"):
        Run(run.folder)
