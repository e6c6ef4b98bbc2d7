"""Images whose tension is interference beside those where it is functional, as page or picture."""

from pathlib import Path
from typing import Any

from opponent.core.pictures import data_uri
from opponent.explain.interference_images import InterferenceImage, InterferenceImages
from opponent.plots.interference import plot_interference, tensions_figure
from opponent.plots.layout import save
from opponent.plots.square import square_figure
from opponent.reports.explanations import check_page, driver_values
from opponent.reports.html import drawing, render
from opponent.storage.files import write_text

# The longer side of a photograph, and of a latent's crop, in pixels.
_SHOWN, _CROP = 320, 112


def write_interference(images: InterferenceImages, out: str | Path) -> Path:
    """Write images from either end of what remains of their tension to a file: page or picture.

    Args:
        images: as `interference_images` gives them.
        out: the file, ending .html, .png, .pdf or .svg.
    Returns:
        The file's path.
    Raises:
        ValueError: another suffix.
    """
    path = check_page(out)
    if path.suffix != ".html":
        save(plot_interference(images), path)
        return path
    found, scale = images.found, images.scale
    shown = [(images.goes, "a"), (images.stays, "b")]
    plot = tensions_figure(
        found.channels.tension,
        found.latents.tension,
        goes=[x.row for x in images.goes],
        stays=[x.row for x in images.stays],
    )
    page = render(
        "interference.html.j2",
        title=f"Interference or function? {found.feature.label}",
        through=images.run.through,
        latents=images.dictionary.latents,
        left=images.left,
        count=f"{len(found.images):,}",
        facts=found.facts(),
        notes=images.notes,
        plot=drawing(plot),
        square=drawing(square_figure(scale or None)),
        ends=[
            {
                "title": title,
                "meaning": meaning,
                "colour": colour,
                "images": [_values(x, f"{letter}{i + 1}", scale) for i, x in enumerate(each)],
            }
            for (each, letter), (title, colour, meaning) in zip(shown, _ENDS, strict=True)
        ],
        provenance=images.provenance(),
    )
    write_text(path, page)
    return path


_ENDS = (
    (
        "Least remains",
        "goes",
        "Large in channels, small in latents: interference, as far as this dictionary tells.",
    ),
    (
        "Most remains",
        "stays",
        "Large in channels and in latents: one latent holds the feature back against another, or "
        "at one place against itself at another.",
    ),
)


def _values(image: InterferenceImage, mark: str, scale: float) -> dict[str, Any]:
    """What the template needs of one image."""
    pictures = [("photograph", image.channels.image)]
    if image.channels.excitation is not None:
        pictures.append(("in channels", image.channels.overlaid(scale)))
        pictures.append(("in latents", image.latents.overlaid(scale)))
    return {
        "mark": mark,
        "name": image.image,
        "remaining": f"{image.remaining:.0%}",
        "channels": f"{image.tension[0]:.3g}",
        "latents": f"{image.tension[1]:.3g}",
        "pictures": [(name, data_uri(pixels, side=_SHOWN)) for name, pixels in pictures],
        "facts": image.facts(),
        "by_latents": driver_values(image.by_latents, shown=_CROP),
        "by_channels": driver_values(image.by_channels, shown=_CROP),
    }
