"""The answer to one `why` or `who`, as a page or as a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from opponent.core.pictures import data_uri
from opponent.core.side import Side
from opponent.core.text import in_deviations
from opponent.explain.channels import Who
from opponent.explain.crops import Synthetic, Tile, opaque
from opponent.explain.drivers import Driver, Drivers
from opponent.explain.image import Why
from opponent.explain.silencing import Silenced
from opponent.plots.drivers import plot_who
from opponent.plots.layout import SUFFIXES, save
from opponent.plots.sides import covered_text, ends
from opponent.plots.why import plot_why
from opponent.reports.html import drawing, render
from opponent.storage.files import write_text

_KINDS = (".html", *(f".{suffix}" for suffix in SUFFIXES))


def write_why(why: Why, out: str | Path) -> Path:
    """Write the answer to `why` to a file: a page or a picture.

    Args:
        why: the answer.
        out: the file, ending .html, .png, .pdf or .svg.
    Returns:
        The file's path.
    Raises:
        ValueError: another suffix; a through layer that has no places to draw.
    Source: paper, section 3, for one image and by channel.
    """
    path = check_page(out)
    figure = plot_why(why)
    if path.suffix == ".html":
        page = render(
            "why.html.j2",
            title=why.question,
            verdict=why.verdict,
            picture=drawing(figure),
            through=why.through,
            kind=why.drivers.kind,
            rivals=None if why.against is None else why.titles,
            crops=any(x.exemplars for x in (*why.drivers.exciting, *why.drivers.inhibiting)),
            facts=why.facts(),
        )
        write_text(path, page)
    else:
        save(figure, path)
    return path


def write_who(who: Who, out: str | Path, silenced: Silenced | None = None) -> Path:
    """Write the answer to `who` to a file: a page or a picture.

    Args:
        who: the answer.
        out: the file, ending .html, .png, .pdf or .svg.
        silenced: what silencing channels does, as `silence_check` gives it; a page says it.
    Returns:
        The file's path.
    Raises:
        ValueError: another suffix.
    Source: paper, section 3, by channel.
    """
    path = check_page(out)
    if path.suffix == ".html":
        facts = [
            ("images", who.about),
            *([] if who.dictionary is None else [("dictionary", who.dictionary)]),
            ("mean excitation", f"{who.excitation.sum():.4g}"),
            ("mean inhibition", f"{who.inhibition.sum():.4g}"),
            *who.drivers.facts(),
            ("sd of the activation over all images", f"{who.deviation:.4g}"),
            *silence_facts(who, silenced),
        ]
        page = render(
            "who.html.j2",
            title=f"Who drives {who.feature.label}?",
            about=who.caption,
            scanned=who.scanned,
            channels=driver_values(who.drivers),
            facts=facts,
        )
        write_text(path, page)
    else:
        save(plot_who(who), path)
    return path


def driver_values(
    drivers: Drivers, command: Callable[[str], str | None] = lambda _: None, shown: int = 160
) -> dict[str, Any]:
    """What the template of channels needs.

    Args:
        drivers: the channels.
        command: from a channel's name how to scan it; None for no hint.
        shown: the longer side of its pictures, in pixels.
    """
    left, right = ends([*drivers.exciting, *drivers.inhibiting])
    sides = (
        (Side.EXCITATION, "Excite it", "red"),
        (Side.INHIBITION, "Inhibit it", "blue"),
    )
    return {
        # Of the space for bars, each side takes what its longest bar needs.
        "left": round(max(left, 0.02 * right), 6),
        "right": round(max(right, 0.02 * left), 6),
        "kind": drivers.kind,
        "sides": [
            {
                "title": title + covered_text(drivers, side),
                "colour": colour,
                "channels": [
                    {
                        "name": x.name,
                        "plus": f"{x.excitation:.3g}",
                        "minus": f"{x.inhibition:.3g}",
                        "plus_width": round(100 * x.excitation / right, 2) if right else 0,
                        "minus_width": round(100 * x.inhibition / left, 2) if left else 0,
                        "crops": [data_uri(opaque(tile), side=shown) for tile in _pictures(x)],
                        "command": command(x.name),
                    }
                    for x in drivers.listed(side)
                ],
            }
            for side, title, colour in sides
        ],
    }


def _pictures(driver: Driver) -> list[Tile | Synthetic]:
    made = [] if driver.visualisation is None else [driver.visualisation]
    return [*driver.exemplars, *made]


def silence_facts(who: Who, silenced: Silenced | None) -> list[tuple[str, str]]:
    """What silencing channels does to the activation, in words and standard deviations."""
    if silenced is None:
        return []
    deviation, facts = who.deviation or 1.0, []
    for verb, side, places, everywhere in (
        ("inhibits", who.inhibiting, silenced.inhibition, silenced.inhibiting),
        ("excites", who.exciting, silenced.excitation, silenced.exciting),
    ):
        for where, effect in ((f"where it {verb}", places), ("everywhere", everywhere)):
            if effect.top is None:
                continue
            text = in_deviations(effect.top / deviation, 3)
            if effect.random:
                changes = [change / deviation for change in effect.random]
                mean = in_deviations(sum(changes) / len(changes), 3)
                text += f"; one of {len(changes)} others at random: {mean}"
                text += f" ({min(changes):+.3f} to {max(changes):+.3f})".replace("-", "−")
            facts.append((f"without {side[0].name} {where}", text))
    return facts


def check_page(out: str | Path) -> Path:
    """Check that an answer can be written to a file of that name.

    Raises:
        ValueError: its suffix is none that we write.
    """
    path = Path(out)
    if path.suffix not in _KINDS:
        raise ValueError(f"{path} ends in none of {', '.join(_KINDS)}")
    return path
