"""What an attribution gives, term by term, in its window and in the whole map."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.attribution import assert_lawful, randn
from torch import Tensor

from opponent import Attribution, Feature
from opponent.core.box import Box


def by_terms(attribution: Tensor) -> dict[str, Any]:
    """Equations 2 and 3 for one image, one term after the other."""
    channels, height, width = attribution.shape
    terms: dict[str, Any] = {"excitation": 0.0, "inhibition": 0.0, "l1": 0.0, "l2": 0.0}
    terms |= {name: np.zeros((height, width)) for name in ("excitation_map", "inhibition_map")}
    terms["channels"], terms["inhibition_channels"] = np.zeros(channels), np.zeros(channels)
    for k in range(channels):
        for row in range(height):
            for column in range(width):
                s = attribution[k, row, column].item()
                name = "excitation" if s > 0 else "inhibition"
                terms[name] += abs(s)
                terms[f"{name}_map"][row, column] += abs(s)
                terms["channels"][k] += s
                terms["inhibition_channels"][k] += max(-s, 0)
                terms["l1"] += abs(s)
                terms["l2"] += s**2
    terms["l2"] **= 0.5
    return terms


def result_of(s: Tensor, *, margins: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Attribution:
    """A result whose window lies so far from the map's left, right, top and bottom."""
    left, right, top, bottom = margins
    height, width = s.shape[2:]
    return Attribution(
        feature=Feature.parse("a:0"),
        through="b",
        activation=s.new_zeros(len(s)),
        window_attribution=s,
        hidden=s.abs(),
        window=Box(top=top, left=left, height=height, width=width),
        map_size=(top + height + bottom, left + width + right),
    )


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.booleans(),
    st.tuples(*[st.integers(0, 2)] * 4),
)
def test_energies_norms_and_maps_term_by_term(
    shape: tuple[int, ...], whole: bool, margins: tuple[int, int, int, int]
) -> None:
    s = randn(*shape, seed=sum(shape))
    s = s.round() if whole else s  # so that some terms are 0
    result = result_of(s, margins=margins)
    # The whole map, place by place: zero but in the window.
    everywhere = s.new_zeros(*shape[:2], *result.map_size)
    for row in range(shape[2]):
        for column in range(shape[3]):
            everywhere[:, :, margins[2] + row, margins[0] + column] = s[:, :, row, column]
    assert torch.equal(result.attribution, everywhere)
    slow = [by_terms(each) for each in everywhere]
    for name in slow[0] if slow else ():
        expected = torch.from_numpy(np.stack([each[name] for each in slow]))
        torch.testing.assert_close(getattr(result, name), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(result.tension, torch.minimum(result.excitation, result.inhibition))
    assert len(result) == len(result.excitation) == len(result.channels) == shape[0]
    assert_lawful(result)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 images"), (1, "1 image"), (1234, "1,234 images")]
)
def test_it_is_shown_in_one_line(count: int, words: str) -> None:
    assert repr(result_of(torch.ones(count, 1, 1, 1))) == f"Attribution('a:0' through 'b': {words})"


def test_rows_have_the_images_ids() -> None:
    s = randn(2, 3, 2, 2)
    for images in (None, ("a.png", "b/c.png")):
        result = replace(result_of(s), images=images)
        frame = result.to_pandas()
        assert frame["image"].tolist() == list(images or range(2))
        assert [*frame] == ["image", "activation", "excitation", "inhibition", "l1", "l2"]
        for name in frame.columns[1:]:
            assert frame[name].tolist() == getattr(result, name).float().tolist()
        assert result.to_arrow().to_pandas().equals(frame)
