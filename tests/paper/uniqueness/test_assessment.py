"""U and shared images from measurements made by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from opponent import Feature, open_images
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.uniqueness.assessment import assess, sensible_top
from opponent.paper.uniqueness.measurements import SELECTIONS, FeatureGroup, FeatureMeasurements
from opponent.paper.uniqueness.statistics import chance, uniqueness
from opponent.selection import top


def measurements_of(
    values: dict[str, np.ndarray], population: int | None = None
) -> FeatureMeasurements:
    """Measurements of one layer: images by features by numbers."""
    pair = LayerPair(target="b", through="a", bottleneck=True)
    groups = [
        FeatureGroup(
            pair=pair,
            kind=kind,
            features=tuple(Feature(layer="b", unit=i) for i in range(x.shape[1])),
            population=population,
            values=x.astype(np.float32),
            hidden=np.zeros((len(x), 2), np.float32),
            sizes={},
            parallel=np.zeros((*x.shape[:2], 1), np.float32),
        )
        for kind, x in values.items()
    ]
    images = tuple(f"image{i}" for i in range(len(groups[0].values)))
    return FeatureMeasurements(
        folder=Path(), question={}, groups=tuple(groups), images=images, unreadable={},
        source=open_images(["image"]),
    )  # fmt: skip


@pytest.mark.parametrize(("images", "m"), [(50_000, 100), (10_000, 100), (1000, 20), (40, 1)])
def test_few_images_ask_for_fewer(images: int, m: int) -> None:
    assert sensible_top(images) == m
    assert chance(20, m, images) > 0.8 or images < 50


def test_assessed_by_hand() -> None:
    # Four images, three features. By activation each its own image; by L1 all image 3; by L2 two.
    values = np.zeros((4, 3, 4))
    for i in range(3):
        values[i, i] = [1, 0, 0, 0]
        values[3, i] = [-1, 2, 3, 1]
    values[2, 1] = [0, 0.5, 0.5, 9]
    assessment = assess(measurements_of({"units": values, "kmeans": values}), 1)
    units = {x.by: x for x in assessment.table if x.kind == "units"}
    assert [units[by].value for by in SELECTIONS] == [1, 1 / 3, 2 / 3]
    assert {x.chance for x in assessment.table} == {chance(3, 1, 4)}
    assert {(x.features, x.top, x.images, x.skipped) for x in assessment.table} == {(3, 1, 4, 0)}
    assert (units["l1"].low, units["l1"].high) == (1 / 3, 1 / 3)
    assert [(x.kind, x.image, x.features, x.of) for x in assessment.shared] == [
        ("units", "image3", 3, 3),
        ("kmeans", "image3", 3, 3),
    ]


def test_an_image_is_shared_by_15_of_20() -> None:
    rng = np.random.default_rng(0)
    for count in (14, 15):
        values = rng.random((50, 20, 4))
        values[7, :count] = 2
        shared = assess(measurements_of({"units": values, "kmeans": values[:, :4]}), 1).shared
        assert [(x.image, x.features, x.of) for x in shared if x.kind == "units"] == (
            [("image7", 15, 20)] if count == 15 else []
        )


def test_dead_features_are_left_out_and_counted() -> None:
    values = np.random.default_rng(0).random((20, 4, 4))
    values[:, 1, 1:] = 0  # no attribution in any image
    values[3:, 2, 1:] = 0  # in three of them
    assessment = assess(measurements_of({"units": values, "kmeans": np.zeros((20, 4, 4))}), 4)
    assert [(x.features, x.skipped) for x in assessment.table] == [(2, 2)] * 3 + [(0, 4)] * 3
    assert all(math.isnan(x.value) and math.isnan(x.chance) for x in assessment.table[3:])
    row = assess(measurements_of({"units": values, "kmeans": values}), 3).table[0]
    assert (row.features, row.skipped) == (3, 1)
    kept = values[:, [0, 2, 3], 0].astype(np.float32)
    assert row.value == uniqueness(np.array([top(x, 3) for x in kept.T]))


def test_too_many_top_images() -> None:
    values = np.random.default_rng(0).random((9, 2, 4))
    for m in (0, 5):
        with pytest.raises(ValueError, match=f"the top {m} of 9 images: give 1 to 4"):
            assess(measurements_of({"units": values, "kmeans": values}), m)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_ties_are_broken_by_order_and_do_not_count_dead_features(seed: int) -> None:
    # As many features that are silent in nearly all images do not look as if they agreed.
    rng = np.random.default_rng(seed)
    values = rng.random((30, 6, 4))
    values[:, 3:, 1:] *= rng.random((30, 3, 1)) < 0.05
    assume((values[:, 3:, 1] > 0).sum(0).max() < 8)
    assessment = assess(measurements_of({"units": values, "kmeans": values}), 8)
    assert {x.features for x in assessment.table} == {3}
