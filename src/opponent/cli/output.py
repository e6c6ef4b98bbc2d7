"""What all commands print with: consoles, tables, lines."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from opponent.core.text import printable


class _Console(Console):
    """A console that names of files and features cannot steer."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


# A pipe has no width of its own: tables keep their lines whole there.
out = _Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = _Console(stderr=True, highlight=False)


def plain(text: str) -> str:
    """Text whose brackets are not taken for markup."""
    return text.replace("[", r"\[")


def command(*words: object) -> str:
    """A command of this program, to be pasted into a shell.

    >>> command("report", "my run")
    "opponent report 'my run'"
    """
    return shlex.join(["opponent", *map(str, words)])


def new_table(*columns: str) -> Table:
    """A plain table whose cells are folded, never cut."""
    table = Table(box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def two_sides(
    headings: tuple[str, ...],
    exciting: Sequence[tuple[str, ...]],
    inhibiting: Sequence[tuple[str, ...]],
    names: tuple[str, str] = ("excites", "inhibits"),
) -> Table:
    """A table of what excites, in red, beside what inhibits, in blue.

    Args:
        headings: of the columns after the name.
        exciting, inhibiting: rows of a name and one text a heading.
        names: what stands over the names of either side.
    """
    table = new_table(names[0], *headings, names[1], *headings)
    nothing = ("",) * (1 + len(headings))
    for i in range(max(len(exciting), len(inhibiting))):
        cells: list[str] = []
        for side, colour in ((exciting, "red"), (inhibiting, "blue")):
            name, *values = side[i] if i < len(side) else nothing
            cells += [f"[{colour}]{plain(name)}[/]" if name else "", *values]
        table.add_row(*cells)
    return table


def print_paths(paths: Iterable[object]) -> None:
    """One path a line, never folded or taken for markup."""
    for path in paths:
        out.print(str(path), markup=False, soft_wrap=True)
