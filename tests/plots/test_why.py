"""Why: each side alone, bars on one scale."""

import numpy as np
import pytest
from tests.support.figures import driver, drivers, pictures, plain, tile, words

from opponent.core.colour import BLUE, RED, overlay
from opponent.plots import why_figure


def test_why_shows_each_sign_alone_and_bars_on_one_scale() -> None:
    one = tile(0, 6, 8)
    both = driver("a", 2.0, 1.5)
    figure = why_figure(
        one, drivers=drivers([both, driver("b", 1.0)], [driver("c", 0.0, 4.0), both]), title="f",
        scale=1.5,
    )  # fmt: skip
    blank = np.zeros((6, 8))
    assert one.excitation is not None
    assert one.inhibition is not None
    expected = [
        one.image,
        overlay(one.image, one.excitation, one.inhibition, 1.5),
        overlay(one.image, one.excitation, blank, 1.5),
        overlay(one.image, blank, one.inhibition, 1.5),
    ]
    for shown, picture in zip(pictures(figure)[:4], expected, strict=True):
        np.testing.assert_array_equal(shown, picture)
    bars = [axes for axes in figure.axes if axes.patches]
    # Inhibition to the left of zero, then excitation to the right, channel by channel.
    assert [[bar.get_width() for bar in axes.patches] for axes in bars] == [
        [-1.5, 0, 2, 1],
        [-4, -1.5, 0, 2],
    ]
    assert all(axes.get_xlim() == (-4, 2) for axes in bars)
    texts = words(figure).splitlines()
    # Of 3 and of 5.5 in all, and as much again by channels that are not listed.
    assert "excite it: 50 % of all excitation" in texts
    assert "inhibit it: 50 % of all inhibition" in texts
    assert [texts.count(x) for x in ("+2", "−1.5", "+1", "−4", "0")] == [2, 2, 1, 1, 2]


def test_why_shows_the_crop_of_each_channel_and_which_side_is_which() -> None:
    crops = [tile(k, 5, 3 + k) for k in range(3)]
    figure = why_figure(
        tile(9), title="f rather than g", rivals=("f (first)", "g (second)"),
        drivers=drivers(
            [driver("a", 2.0, exemplars=(crops[0],)), driver("b", 1.0)],
            [driver("c", 0.0, 4.0, exemplars=(crops[1], crops[2]))],
        ),
    )  # fmt: skip
    # After the photograph three times more and the scale: one crop a channel, left of its bars.
    small = [image for image in pictures(figure) if image.shape[0] == 5]
    for shown, crop in zip(small, crops[:2], strict=True):
        np.testing.assert_array_equal(shown, crop.image)
    texts = words(figure).splitlines()
    for text in (
        "for f (first)", "50 % of all excitation", "for g (second)", "50 % of all inhibition",
        "for the first alone", "for the second alone",
    ):  # fmt: skip
        assert texts.count(text) == 1
    colours = {text.get_text(): text.get_color() for text in figure.texts}
    assert (colours["for f (first)"], colours["for g (second)"]) == (RED, BLUE)
    assert not any("excite it" in text or "inhibit it" in text for text in texts)


def test_why_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="the tile has no maps"):
        why_figure(plain(), drivers=drivers([], []), title="f")
