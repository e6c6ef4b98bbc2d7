"""Labels as file names, and numbers as people read them."""

import hashlib
import re

# File systems take names of 255 bytes; a name here may get a suffix and a digest.
LONGEST = 100
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
