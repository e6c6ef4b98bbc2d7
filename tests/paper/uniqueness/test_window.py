"""The window of the through layer that decides the centre."""

from opponent import Feature, Network
from opponent.core.box import Box
from opponent.paper.uniqueness.batch import plan_crops
from opponent.paper.uniqueness.measure import choose_layers


def test_windows_are_small(small: Network) -> None:
    [second, fourth] = choose_layers(small, ["second", "fourth"])
    features = {pair: [Feature(layer=pair.target, unit=0)] for pair in (second, fourth)}
    plans = plan_crops(small, features)
    assert plans[second].box == Box(top=3, left=2, height=7, width=7)
    assert plans[fourth].box == Box(top=1, left=1, height=1, width=1)
