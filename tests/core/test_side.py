"""Excitation, inhibition, or both."""

import json

import pytest

from opponent import Side
from opponent.core.side import SIDES


@pytest.mark.parametrize(
    ("text", "side", "sign"),
    [
        ("excitation", Side.EXCITATION, 1),
        ("inhibition", Side.INHIBITION, -1),
        ("both", Side.BOTH, 0),
    ],
)
def test_a_side_and_its_text_are_the_same(text: str, side: Side, sign: int) -> None:
    assert Side.of(text) is Side.of(side) is side
    assert side.sign == sign
    assert side == text == str(side) == f"{side}"
    assert json.loads(json.dumps({"side": side})) == {"side": text}
    assert {text: 1}[side] == 1  # as keys too


def test_where_one_side_is_meant() -> None:
    assert [Side.single(side) for side in SIDES] == ["excitation", "inhibition"]
    assert Side.single("inhibition") is Side.INHIBITION
    for side in ("both", Side.BOTH):
        with pytest.raises(ValueError, match=r"^give one side here: excitation or inhibition$"):
            Side.single(side)


@pytest.mark.parametrize("text", ["", "Excitation", "excitation ", "+1", "exciting", "b"])
def test_another_text_is_refused(text: str) -> None:
    for of in (Side.of, Side.single):
        with pytest.raises(ValueError, match=r"^a side is excitation, inhibition or both, not"):
            of(text)


def test_the_two_sides_in_the_order_of_figures() -> None:
    assert SIDES == (Side.EXCITATION, Side.INHIBITION)
    assert [side.sign for side in SIDES] == [1, -1]
