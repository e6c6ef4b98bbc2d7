"""Labels as file names, and numbers as people read them."""

import io
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opponent import Feature
from opponent.cli.output import new_table, out, plain
from opponent.core.text import (
    LONGEST,
    csv_cell,
    file_name,
    first_few,
    in_deviations,
    one_line,
    printable,
)

LABELS = st.text() | st.text("./\\-_ :@,~ab0é\0", max_size=12) | st.text(min_size=150)


@given(LABELS)
@example("")
@example(".")
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example("C:\\windows")
@example("a\0b")
@example("a\nb")
@example("\ud800")
@example("-rf")
@example("~")
def test_a_file_name_never_leaves_its_folder(label: str) -> None:
    name = file_name(label)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert len(name) <= LONGEST + 9
    folder = Path("/somewhere/below")
    path = folder / name
    assert (path.parent, path.name) == (folder, name)
    assert path.resolve().parent == folder
    assert file_name(label) == name


@given(LABELS, LABELS)
def test_different_labels_have_different_names(a: str, b: str) -> None:
    # But for those that differ in what a name replaces as a matter of course.
    plain = str.maketrans({":": "-", "@": "-", ",": "_", "/": "-", " ": "_"})
    if a.translate(plain) != b.translate(plain):
        assert file_name(a) != file_name(b)


PLACES = st.tuples(
    st.text("abc0._#", min_size=1, max_size=4), st.integers(0, 20), st.integers(0, 20)
)


@given(PLACES, PLACES)
def test_features_have_names_of_their_own(a: tuple[str, int, int], b: tuple[str, int, int]) -> None:
    one, other = (
        Feature(layer=layer, unit=unit, position=(unit, column)).label
        for layer, unit, column in (a, b)
    )
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("mixed3b:379", "mixed3b-379"),
        ("mixed3b:379@7,3", "mixed3b-379-7_3"),
        ("layer1.0.relu", "layer1.0.relu"),
        ("torchvision:squeezenet1_1", "torchvision-squeezenet1_1"),
        ("n01440764/tench 1.jpg", "n01440764-tench_1.jpg"),
    ],
)
def test_names_as_people_read_them(label: str, name: str) -> None:
    assert file_name(label) == name


def test_what_a_name_loses_is_in_its_digest() -> None:
    names = {file_name(label) for label in ("é", "è", "relu#1", "relu#2", ".a", "_.a", "_", "")}
    assert len(names) == 8
    for label in ("é", "relu#1", ".a", "", "x" * 200):
        assert re.search(r"-[0-9a-f]{8}$", file_name(label))
    assert file_name("x" * 200).startswith("x" * LONGEST + "-")
    assert file_name("x" * LONGEST) == "x" * LONGEST


@given(st.floats(-1e6, 1e6), st.integers(0, 3))
def test_deviations_have_a_sign_and_zero_no_minus(value: float, digits: int) -> None:
    text = in_deviations(value, digits)
    number = re.fullmatch(r"([+−])(\d+(?:\.(\d+))?) sd", text)
    assert number is not None
    shown = len(number[3] or "")
    # More digits only where fewer would show zero, and no more than three.
    assert shown == digits or (digits < shown <= 3 and not round(value, shown - 1))
    assert float(number[1].replace("−", "-") + number[2]) == pytest.approx(
        value, abs=0.5 * 10**-shown + 1e-9
    )
    assert number[1] == ("−" if round(value, shown) < 0 else "+")


def test_deviations_by_hand() -> None:
    assert in_deviations(1.26) == "+1.3 sd"
    assert in_deviations(-2.0) == "−2.0 sd"
    assert in_deviations(0.0) == in_deviations(-0.0) == "+0.0 sd"
    assert in_deviations(-0.04) == in_deviations(-0.04, 2) == "−0.04 sd"
    assert in_deviations(0.004) == "+0.004 sd"
    assert in_deviations(-0.0004) == "+0.000 sd"


def test_the_first_few_of_several_names() -> None:
    assert first_few(["a", "b"]) == "'a', 'b'"
    assert first_few(list("abcde")) == "'a', 'b', 'c', 'd', 'e'"
    assert first_few(tuple("abcdef")) == "'a', 'b', 'c', 'd', 'e', ..."
    assert first_few(["a", "b"], count=1) == "'a', ..."
    assert first_few([]) == ""


def test_an_error_in_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError()) == one_line(ValueError(" \n ")) == "ValueError"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(one_line(ValueError("x" * 999))) == 200
    assert one_line(ValueError("abcdef"), 3) == "abc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("a\rb\tc\x9bd\u2028e", r"a\x0db\x09c\x9bd\u2028e"),
        ("two\nlines, naïve, 写真, 👩\u200d🎨", "two\nlines, naïve, 写真, 👩\u200d🎨"),
    ],
)
def test_nothing_steers_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    written = io.StringIO()
    console = type(out)(file=written, force_terminal=True, width=200)
    console.print(text, markup=False)
    table = new_table("name")
    table.add_row(plain(text))
    console.print(table)
    for line in shown.splitlines():
        assert re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue()).count(line) == 2


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "＝1"])
def test_nothing_is_a_formula_in_a_spreadsheet(text: str) -> None:
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(f" {text}") == f"' {text}"
