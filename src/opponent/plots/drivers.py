"""The answer to `who` as a figure: the upstream channels that drive a feature."""

from dataclasses import replace

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.side import Side
from opponent.explain.channels import Who
from opponent.explain.crops import Synthetic, Tile, opaque
from opponent.explain.drivers import Driver, Drivers
from opponent.plots.layout import (
    FAINT,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    TITLE,
    Area,
    add_heading,
    add_note,
    add_picture,
    add_text,
    styled,
)
from opponent.plots.sides import add_numbers, add_sides, covered_text, ends, within_text


def plot_who(who: Who) -> Figure:
    """The answer to `who` as a figure of two columns.

    Args:
        who: the answer.
    Returns:
        The figure.
    Source: ours; the sums are those of paper, section 3, by channel.
    """
    return drivers_figure(who.drivers, title=who.feature.label, about=who.caption)


@styled
def drivers_figure(drivers: Drivers, *, title: str, about: str) -> Figure:
    """Channels that excite a feature on the left, channels that inhibit it on the right.

    Each has a bar to either side of zero, its mean excitation to the right and its mean inhibition
    to the left, with whiskers of one standard deviation over the images, all on one scale. The
    headings say what the channels below cover of all excitation and of all inhibition.

    Args:
        drivers: the channels.
        title: the feature.
        about: which images the means are over, and through which layer.
    Returns:
        A figure of two columns.
    Source: ours; the sums are those of paper, section 3, by channel.
    """
    gap, listed = 0.3, (*drivers.exciting, *drivers.inhibiting)
    rows = max(len(drivers.exciting), len(drivers.inhibiting), 1)
    room = PAGE - 2 * MARGIN
    column = (room - gap) / 2
    crops = max((len(driver.exemplars) for driver in listed), default=0)
    pictures = crops + any(driver.visualisation for driver in listed)
    cell = min((column - 0.04 * (pictures - 1)) / pictures, 0.8) if pictures else 0.0
    pitch = cell + (2.3 if pictures else 1.3) * LINE
    top = MARGIN + 5.4 * LINE
    figure = Figure(figsize=(PAGE, top + rows * pitch + MARGIN))
    add_text(figure, MARGIN, MARGIN, title, width=room, size=TITLE, weight="bold")
    lines = [about, *([within_text(drivers)] if drivers.tension_within is not None else [])]
    for k, line in enumerate(lines):
        y = MARGIN + (1 + k) * LINE
        add_text(figure, MARGIN, y, line, width=room, size=SMALL, color=FAINT)
    scale = ends(listed)
    for k, (side, name, colour) in enumerate(
        ((Side.EXCITATION, "excite it", RED), (Side.INHIBITION, "inhibit it", BLUE))
    ):
        left, channels = MARGIN + k * (column + gap), drivers.listed(side)
        heading = name + covered_text(drivers, side)
        add_heading(figure, left, top - 1.6 * LINE, column, heading, colour)
        if not channels:
            add_note(figure, Area(left, top, column, LINE), f"no {drivers.kind} does")
        for number, driver in enumerate(channels):
            # The layer of latents stands above, and their names are long.
            short = driver.name.rpartition("/")[2] if drivers.kind == "latent" else driver.name
            area = Area(left, top + number * pitch, column, cell)
            _driver(figure, replace(driver, name=short), area, side, scale)
    return figure


def _driver(
    figure: Figure, driver: Driver, area: Area, side: Side, scale: tuple[float, float]
) -> None:
    middle, width = area.top + LINE / 2, area.width
    add_text(figure, area.left, middle, driver.name, width=0.27 * width, weight="bold", va="center")
    bars = Area(area.left + 0.28 * width, area.top, 0.39 * width, LINE)
    add_sides(figure, bars, [driver], side, scale)
    add_numbers(figure, area.left + width, middle, 0.32 * width, driver)
    pictures: list[Tile | Synthetic] = [*driver.exemplars]
    if driver.visualisation is not None:
        pictures.append(driver.visualisation)
    for k, picture in enumerate(pictures):
        left = area.left + k * (area.height + 0.04)
        cell = Area(left, area.top + 1.2 * LINE, area.height, area.height)
        add_picture(figure, cell, opaque(picture))
    if not pictures and area.height:
        cell = Area(area.left, area.top + 1.2 * LINE, area.width, area.height)
        add_note(figure, cell, "never active")
