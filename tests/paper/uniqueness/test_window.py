"""The window of the through layer that decides the centre."""

from opponent import Network
from opponent.core.box import Box
from opponent.paper.uniqueness.measure import (
    choose_layers,
)
from opponent.paper.uniqueness.window import find_window


def test_windows_are_small(small: Network) -> None:
    [second, fourth] = choose_layers(small, ["second", "fourth"])
    assert find_window(small, second).box == Box(top=3, left=2, height=7, width=7)
    assert find_window(small, fourth).box == Box(top=1, left=1, height=1, width=1)
