"""Figure 4b to g: one scale, empty groups, blank maps."""

import numpy as np
import pytest
from matplotlib.lines import Line2D
from tests.support.figures import pictures, plain, tile, words

from opponent.core.colour import group_colours, subdued
from opponent.explain.crops import Tile
from opponent.plots import groups_figure


def test_equal_values_have_equal_colours_in_all_images_of_a_figure() -> None:
    def grey(value: float, peak: float) -> Tile:
        excitation = np.full((10, 10), peak)
        excitation[0, 0] = value
        image = np.full((10, 10, 3), 90, np.uint8)
        return Tile(image=image, excitation=excitation, inhibition=np.zeros((10, 10)))

    figure = groups_figure({"exciting": [grey(1.0, 5.0)], "silent": [grey(1.0, 1.0)]}, label="f")
    photo, strong, other, weak = (p for p in pictures(figure) if p.shape == (10, 10, 3))
    np.testing.assert_array_equal(photo, other)
    np.testing.assert_array_equal(strong[0, 0], weak[0, 0])
    np.testing.assert_array_equal(weak[0, 0], weak[5, 5])
    assert (strong[5, 5] != weak[5, 5]).any()


def test_empty_groups_are_named_and_letters_follow_the_paper() -> None:
    figure = groups_figure({"exciting": [tile()], "tense": [], "apart": []}, label="mixed3b:379")
    text = words(figure).splitlines()
    assert text.count("none among these images") == 2
    assert [line for line in text if len(line) == 1] == ["B", "C", "D"]
    assert {"mixed3b:379", "exciting", "tense", "apart"} <= set(text)


def test_blank_maps_show_the_photograph_without_a_tint() -> None:
    blank = tile(size=0.0)
    figure = groups_figure({"silent": [blank]}, label="f")
    assert "every map is blank" in words(figure)
    assert any(np.array_equal(p, subdued(blank.image)) for p in pictures(figure))


def test_a_tile_without_maps_says_so() -> None:
    figure = groups_figure({"exciting": [plain()]}, label="f")
    assert "no map" in words(figure)
    assert len(pictures(figure)) == 2  # the square and the photograph


def test_groups_keep_their_order_and_have_the_colours_that_are_given() -> None:
    groups = {"exciting": [tile()], "tense": [tile(1)], "mine": []}
    figure = groups_figure(groups, label="f", colours={"mine": "#123456", "exciting": "#abcdef"})
    names = [line for line in words(figure).splitlines() if line in groups]
    assert names == list(groups)
    rings = [x.get_markeredgecolor() for x in figure.artists if isinstance(x, Line2D)]
    assert rings == ["#abcdef", group_colours(["tense"])["tense"], "#123456"]
    expected = [tile().image, tile(1).image]
    for shown, image in zip(pictures(figure)[1::2], expected, strict=True):
        np.testing.assert_array_equal(shown, image)


def test_no_group_is_refused() -> None:
    with pytest.raises(ValueError, match="groups is empty"):
        groups_figure({}, label="f")
