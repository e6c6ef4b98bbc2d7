"""Settings of a synthesis: what is refused, the canvas, what they say of themselves."""

from typing import Any

import pytest
from tests.support.synthesis import Flat, toy

from opponent import Network, Preprocessing, SynthesisSettings, Transforms


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "must be at least 1"),
        ({"batch": 0}, "must be at least 1"),
        ({"transforms": Transforms(draws=0)}, "must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisSettings(**given)


def test_the_canvas_is_in_proportion() -> None:
    def canvas(height: int, width: int) -> tuple[int, int]:
        network = Network(Flat(), preprocessing=Preprocessing(size=(height, width)))
        return SynthesisSettings().canvas_for(network)

    assert canvas(224, 224) == (512, 512)
    assert canvas(64, 64) == (146, 146)
    assert canvas(56, 112) == (128, 256)
    assert SynthesisSettings(canvas=(7, 9)).canvas_for(toy()) == (7, 9)
