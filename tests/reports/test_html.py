"""Pages: templates that escape, and pictures inside the file."""

import numpy as np
from tests.support.pages import HOSTILE

from opponent.core.box import Box, scale_box
from opponent.core.pictures import data_uri
from opponent.reports.html import render


def test_names_are_escaped() -> None:
    page = render(
        "why.html.j2",
        title=HOSTILE,
        verdict=HOSTILE,
        picture="",
        through=HOSTILE,
        kind=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        rivals=None,
        crops=False,
    )
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 7


def test_pictures_are_inside() -> None:
    pixels = np.zeros((300, 200, 3), dtype=np.uint8)
    assert data_uri(pixels, side=50).startswith("data:image/jpeg;base64,")
    clear = np.zeros((30, 20, 4), dtype=np.uint8)
    assert data_uri(clear).startswith("data:image/png;base64,")


def test_boxes_are_scaled_by_their_edges() -> None:
    box = Box(top=10, left=20, height=31, width=15)
    assert scale_box(box, (64, 128), (128, 128)) == Box(top=20, left=20, height=62, width=15)
