"""What the explorer's dots are coloured by, and the scale beside the choice."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.explorer import CHOICES, Explored, ExplorerVisit, assert_marked, lonely

from opponent.core.colour import (
    activation_colours,
    category_colours,
    hex_colours,
    on_white,
    tension_colours,
)

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("one_thread")]


def coloured(explored: Explored, choice: str) -> list[str]:
    """The colour of each image, one image after the other."""
    c, rows = explored.columns, explored.rows
    ends = sorted([*c.excitation[rows].tolist(), *c.inhibition[rows].tolist()])
    end, top = float(np.quantile(ends, 0.98)), float(np.quantile(c.l2[rows], 0.98))
    names = ["bars", "lines", "stripes"]
    colours = []
    for row, image in zip(rows, explored.images, strict=True):
        plus, minus = float(c.excitation[row]) / end, float(c.inhibition[row]) / end
        pair = {
            "excitation and inhibition": (plus, minus),
            "excitation": (plus, 0.0),
            "inhibition": (0.0, minus),
            "tension": (min(plus, minus),) * 2,
        }.get(choice)
        if pair is not None:
            colour = on_white(tension_colours(*(np.array([x]) for x in pair)))[0] / 255
        elif choice == "activation":
            spread = float(c.activation.std())
            colour = activation_colours(np.array([float(c.activation[row])]), 4 * spread)[0, :3]
        elif choice == "norm":
            grey = 0.88 - 0.68 * min(float(c.l2[row]) / top, 1)
            colour = np.array([grey, 0.94 * grey, grey])
        else:
            colour = category_colours(3)[names.index(image.split("/")[0])][:3]
        colours.append(hex_colours(np.append(colour, 1.0)[None])[0])
    return colours


def test_dots_have_the_colours_that_were_chosen(desk: ExplorerVisit, explored: Explored) -> None:
    """In the plots' source and on the screen; what is marked stays marked."""
    assert desk.page.locator("#colour option").all_inner_texts() == list(CHOICES)
    cell = explored.atlas.cells[0]
    desk.cell(cell.row, cell.column).click()
    marked = desk.marked()
    alone = next(image for image in lonely(desk.screen("energies")) if image in marked)
    for choice in (*CHOICES[1:], CHOICES[0]):
        desk.page.select_option("#colour", choice)
        desk.page.wait_for_timeout(150)
        expected = coloured(explored, choice)
        assert desk.column("colour") == expected
        assert_marked(desk, marked)
        # Where it now is, for the colour square is higher than the other scales.
        [(x, y)] = desk.screen("energies", [alone])
        clip: Any = {"x": round(x), "y": round(y), "width": 1, "height": 1}
        shot = Image.open(io.BytesIO(desk.page.screenshot(clip=clip))).convert("RGB")
        wanted = [int(expected[alone][k : k + 2], 16) for k in (1, 3, 5)]
        # Dots are a little transparent.
        np.testing.assert_allclose(
            shot.getpixel((0, 0)), 0.9 * np.array(wanted) + 0.1 * 255, atol=14
        )


def test_a_scale_stands_beside_the_choice(desk: ExplorerVisit, explored: Explored) -> None:
    rows = explored.rows
    both = np.concatenate([explored.columns.excitation[rows], explored.columns.inhibition[rows]])
    end = f"{np.quantile(both, 0.98):.3g}"
    for choice, texts in (
        ("activation", ("−4 sd", "+4 sd")),
        ("excitation", ("0", end)),
        ("tension", ("0", end)),
        ("norm", ("0", f"{np.quantile(explored.columns.l2[rows], 0.98):.3g}")),
    ):
        desk.page.select_option("#colour", choice)
        assert desk.page.locator("#scale").inner_text().split("\n") == list(texts)
        bar = desk.page.locator("#scale i").evaluate("x => getComputedStyle(x).backgroundImage")
        assert bar.startswith("linear-gradient(90deg, rgb(")
    desk.page.select_option("#colour", "excitation and inhibition")
    desk.settle()
    assert desk.page.locator("#scale").inner_text().endswith(f"to {end}")
    assert desk.page.locator("#scale img").evaluate("x => x.naturalWidth") == 96
    desk.page.select_option("#colour", "class")
    assert desk.page.locator("#scale").inner_text() == ""
