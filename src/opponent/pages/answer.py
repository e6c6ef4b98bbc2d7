"""The answer to one `why`, as a page or as a picture."""

from pathlib import Path

from opponent.figures import save, why_figure
from opponent.files import write_text
from opponent.pages.html import drawing, render
from opponent.why import Why


def write_answer(why: Why, out: str | Path) -> Path:
    """Write an answer to a file: a page (.html) or a picture (.png, .pdf, .svg).

    Raises:
        ValueError: another suffix; a through layer that has no places to draw.
    """
    path = Path(out)
    kinds = (".html", ".png", ".pdf", ".svg")
    if path.suffix not in kinds:
        raise ValueError(f"{path} ends in none of {', '.join(kinds)}")
    if why.tile.excitation is None:
        raise ValueError(
            f"{why.through} has no rows and columns, so there are no maps to draw; choose a "
            "convolutional layer"
        )
    figure = why_figure(
        why.tile,
        excitatory=why.excitatory,
        inhibitory=why.inhibitory,
        title=why.title,
        facts=why.facts()[4:8],
    )
    if path.suffix == ".html":
        page = render(
            "why.html.j2",
            title=why.question,
            verdict=why.verdict,
            picture=drawing(figure),
            through=why.through,
            facts=why.facts(),
        )
        write_text(path, page)
    else:
        save(figure, path)
    return path
