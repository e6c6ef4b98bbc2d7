"""A run's rows of some images: in any order, from any shard, with and without maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opponent import Run
from opponent.storage.run import SCALARS

pytestmark = pytest.mark.usefixtures("one_thread")


@given(rows=st.lists(st.integers(0, 79), min_size=1, max_size=100))
@settings(deadline=None, max_examples=40)
def test_rows_of_channels_come_in_the_order_asked(wave_run: Run, rows: list[int]) -> None:
    wanted = np.array(rows)
    for feature in ("mixed:2", "mixed:3"):
        found = wave_run.channels(feature, rows=wanted)
        np.testing.assert_array_equal(found, wave_run.channels(feature)[wanted])
        some = wave_run.channel_sides(feature, rows=wanted)
        for part, whole in zip(some, wave_run.channel_sides(feature), strict=True):
            np.testing.assert_array_equal(part, whole[wanted])


def test_rows_may_all_lie_in_one_shard_or_turn_all_around(wave_run: Run) -> None:
    channels = wave_run.channels(wave_run.features[0])
    for rows in ([3], [79], [24, 25], [25, 24], list(range(79, -1, -1)), [7] * 5, range(50, 60)):
        np.testing.assert_array_equal(
            wave_run.channels(wave_run.features[0], rows=np.array(rows)), channels[[*rows]]
        )


def test_columns_without_maps_are_the_columns(wave_run: Run) -> None:
    for feature in ("mixed:2", "mixed:3"):
        whole, plain = (wave_run.columns(feature, maps=maps) for maps in (True, False))
        assert plain.images == whole.images
        for name in SCALARS:
            np.testing.assert_array_equal(getattr(plain, name), getattr(whole, name))
        assert plain.excitation_map.shape == plain.inhibition_map.shape == (80, 0, 0)
        assert whole.excitation_map.shape == (80, 3, 3)
