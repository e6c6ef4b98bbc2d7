"""Labels as file names, and numbers as people read them."""

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable

# File systems take names of 255 bytes; a name here may get a suffix and a digest.
LONGEST = 100
# Marks, embeddings, overrides and isolates of the direction of writing. Source: Unicode UAX 9.
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROLS = ("Cc", "Zl", "Zp", "Cs")
# What begins a formula. Source: OWASP, CSV injection.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_PLAIN = str.maketrans({":": "-", "@": "-", ",": "_", "/": "-", " ": "_"})


def file_name(text: str) -> str:
    """A text as the name of one file or folder: letters, digits, '.', '_' and '-'.

    Where that loses more than ':', '@', ',', '/' or a space, or the text is long or begins with a
    dot, a digest of the text follows, so that different texts get different names.

    >>> file_name("mixed3b:379@7,3")
    'mixed3b-379-7_3'
    >>> file_name("../../x")
    '_..-..-x-9cdf6a50'
    """
    plain = text.translate(_PLAIN)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", plain)
    if not name or name[0] in ".-":
        name = f"_{name}"
    if name == plain and len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[:LONGEST]}-{digest}"


def printable(text: str) -> str:
    r"""A text without what would steer a terminal, or turn its line around.

    Control characters, but for line feeds, and marks that change the direction of writing are
    written as escapes.

    >>> printable("a\x1b[2J\u202ebmp.exe")
    'a\\x1b[2J\\u202ebmp.exe'
    """
    return "".join(_escaped(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    # Controls, separators of lines and paragraphs, and halves of a character.
    steering = character in _DIRECTIONS or unicodedata.category(character) in _CONTROLS
    return steering and character != "\n"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def csv_cell(value: object) -> object:
    """A value for a cell of a CSV file: what a spreadsheet would take for a formula is text.

    >>> csv_cell("=HYPERLINK(1)"), csv_cell("-0.5"), csv_cell(True), csv_cell(3)
    ("'=HYPERLINK(1)", '-0.5', 'true', 3)
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) and not _number(value):
        return f"'{value}"
    return value


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file, without formulas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def in_deviations(value: float, digits: int = 1) -> str:
    """A number of standard deviations with its sign, '+1.3 sd'; zero never has a minus sign.

    Args:
        value: the number.
        digits: after the point; up to three where the number would be shown as zero.

    >>> in_deviations(-1.26), in_deviations(-0.04), in_deviations(-0.0)
    ('−1.3 sd', '−0.04 sd', '+0.0 sd')
    """
    while value and digits < 3 and not round(value, digits):
        digits += 1
    return f"{round(value, digits) + 0.0:+.{digits}f} sd".replace("-", "−")


def first_few(names: "list[str] | tuple[str, ...]", count: int = 5) -> str:
    """The first few of several names, quoted, for an error message."""
    return ", ".join(map(repr, names[:count])) + (", ..." if len(names) > count else "")


def one_line(error: BaseException, longest: int = 200) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__
