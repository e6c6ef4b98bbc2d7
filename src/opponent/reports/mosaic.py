"""The mosaic of the explorer: an atlas' cells as buttons with icons."""

import base64
import io
import json
import shlex
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.atlas.atlas import Atlas
from opponent.core.colour import activation_colours, balance_colours, hex_colours, on_white
from opponent.core.errors import RunError
from opponent.core.pictures import seen_part
from opponent.core.side import Side
from opponent.core.text import in_deviations

# The longer side of an icon, in pixels.
_ICON = 160


def mosaic_cells(atlas: Atlas) -> list[dict[str, Any]]:
    """What the mosaic's buttons show: where, which icon, in which colours, and in words."""
    deviation = atlas.about.deviation or 1.0
    energies = [(cell.mean_excitation, cell.mean_inhibition) for cell in atlas.cells]
    tints = on_white(balance_colours(*np.array(energies, float).reshape(-1, 2).T)[0])
    made = [pixels for cell in atlas.cells if (pixels := cell.pixels()) is not None]
    part = seen_part(made) if made else (slice(None), slice(None))
    command = ["opponent", "who", str(atlas.run.folder), "--feature", atlas.feature.label]
    cells = []
    for cell, tint in zip(atlas.cells, tints, strict=True):
        pixels, value = cell.pixels(), cell.activations[Side.BOTH]
        if pixels is None or value is None:
            raise RunError(
                f"{cell.icon} is missing; give the same `opponent atlas` again, and it is made"
            )
        edge = activation_colours(np.array([value / deviation]), 4.0)
        cells.append(
            {
                "row": cell.row + 1,
                "column": cell.column + 1,
                "icon": _icon(pixels[part]),
                "edge": hex_colours(edge)[0],
                "tint": hex_colours(np.append(tint / 255, 1.0)[None])[0],
                "facts": json.dumps(
                    [
                        ("images", f"{len(cell.images):,}"),
                        ("excitation E⁺, the mean", f"{cell.mean_excitation:.3g}"),
                        ("inhibition E⁻, the mean", f"{cell.mean_inhibition:.3g}"),
                        ("activation, the mean", in_deviations(cell.mean_activation / deviation)),
                        ("the icon's activation", in_deviations(value / deviation)),
                    ],
                    ensure_ascii=False,
                ),
                "command": shlex.join(
                    [*command, "--cell", f"{cell.row},{cell.column}", "--out", "who.html"]
                ),
                "words": f"{len(cell.images)} images, mean activation "
                f"{in_deviations(cell.mean_activation / deviation)}; "
                f"icon {in_deviations(value / deviation)}",
            }
        )
    return cells


def _icon(pixels: UInt8[np.ndarray, "h w 4"]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_ICON, _ICON), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
