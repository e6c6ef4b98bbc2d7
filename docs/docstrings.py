"""Docstrings as the site's reference shows them: what google style does not know, in its terms."""

import re
from typing import Any

import griffe

# A section, which follows the one before it without a blank line.
_SECTION = re.compile(r"^(?=(?:Args|Returns|Raises|Yields):)", re.M)
# `Source: ...` at the start of a line, after which no section goes on.
_SOURCE = re.compile(r"^Source: ", re.M)
# `>>>` up to the next blank line or the end.
_EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.M | re.S)
# `row, column: text` under `Args:`, with the lines that continue it.
_SHARED = re.compile(r"^ {4}(\w+(?:, \w+)+)(: .*(?:\n {5,}.*)*)", re.M)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object.

        Args:
            obj: the object.
            **kwargs: what else griffe says.
        """
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring with an item for each parameter, and its sections, source and examples apart."""
    text = _SHARED.sub(_one_each, text)
    text = _SECTION.sub("\n", text)
    text = _SOURCE.sub("\n*Source:* ", text)
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


def _one_each(found: re.Match[str]) -> str:
    return "\n".join(f"    {name}{found[2]}" for name in found[1].split(", "))
