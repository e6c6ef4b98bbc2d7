"""An entry of the page: one figure, its pictures, and the paper's claims about it."""

from dataclasses import dataclass

from opponent.storage.files import AnyPath


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says or shows, and what came out here.

    Args:
        claim: in words.
        paper: its number, or what it shows.
        ours: the number measured here.
        agrees: whether it does; None where that is undecided.
    """

    claim: str
    paper: str
    ours: str
    agrees: bool | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure of the paper, or several that are drawn together.

    Args:
        figure: its number in the paper.
        title: in a few words.
        caption: what is shown.
        pictures: files.
        claims: what the paper says about it.
        chapter: 'the paper', or what goes beyond it.
    """

    figure: str
    title: str
    caption: str
    pictures: tuple[AnyPath, ...]
    claims: tuple[Claim, ...] = ()
    chapter: str = "the paper"
