"""Contact sheets: every trial of a study with what is right, for the eye of who runs it."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.explain.crops import Tile
from opponent.plots.experiment import SheetRow, sheet_figure
from opponent.plots.layout import save
from opponent.reports.html import render
from opponent.storage.files import write_text
from opponent.study.study import Study

_KINDS = {"trial": "", "catch": "catch trial", "practice": "practice"}


def write_sheets(study: Study, *, suffix: str = "pdf") -> list[Path]:
    """Write sheet.html, all in one file, and a sheet for print of each layer.

    Args:
        study: as `build` made it, with the activations in its table.
        suffix: pdf, png or svg, for print.
    Returns:
        The paths.
    Raises:
        ValueError: the table lacks the activations.
    """
    rows = study.table.to_pylist()
    if "choices_activation" not in study.table.column_names:
        raise ValueError(f"{study.folder / 'trials.parquet'} has no activations to show")
    layers, paths = [], []
    for layer in study.layers:
        of_layer = [row for row in rows if row["layer"] == layer]
        title = f"{study.label(layer)}: {layer}"
        layers.append({"title": title, "trials": [_html(study, row) for row in of_layer]})
        name = "".join(x if x.isalnum() else "-" for x in layer)
        paths.append(study.folder / f"sheet-{name}.{suffix}")
        counted = f"{title}, {len(of_layer)} trials; activations in sd from the mean"
        save(sheet_figure(counted, [_row(study, row) for row in of_layer]), paths[-1])
    page = render(
        "sheet.html.j2", title=study.settings["title"], layers=layers, runs=study.settings["runs"]
    )
    paths.insert(0, study.folder / "sheet.html")
    write_text(paths[0], page)
    return paths


def _row(study: Study, row: Mapping[str, Any]) -> SheetRow:
    """A trial's pictures, each captioned with its activation in sd from the mean."""

    def tiles(what: str) -> list[Tile]:
        pairs = zip(row[what], _deviations(row, what), strict=True)
        return [Tile(image=_pixels(study.stimulus(id)), caption=text) for id, text in pairs]

    mei, mii, *distractors = tiles("choices")
    return SheetRow(
        label=_name(row),
        about="\n".join(_about(row)),
        examples=tiles("examples"),
        mei=mei,
        mii=mii,
        distractors=distractors,
    )


def _html(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the page, where the browser enlarges the pictures as it does in the study."""

    def shown(what: str) -> list[dict[str, str]]:
        return [
            {
                "source": _inside(study.stimulus(id)),
                "caption": text,
                "role": {row["mei"]: "MEI", row["mii"]: "MII"}.get(id, ""),
            }
            for id, text in zip(row[what], _deviations(row, what), strict=True)
        ]

    groups = [shown("examples"), shown("choices")]
    return {"label": _name(row), "about": _about(row), "groups": groups}


def _deviations(row: Mapping[str, Any], what: str) -> list[str]:
    values = [(f - row["mean"]) / row["sd"] for f in row[f"{what}_activation"]]
    return [f"{value:+.1f}".replace("-", "−") for value in values]


def _name(row: Mapping[str, Any]) -> str:
    return str(row["feature"]).removeprefix(row["layer"] + ":").partition("@")[0]


def _about(row: Mapping[str, Any]) -> list[str]:
    height, width = row["box"][2:]
    rank = f"MII: smallest but {row['mii_rank'] - 1}" if row["mii_rank"] > 1 else ""
    return [x for x in (_KINDS[row["kind"]], f"{height} × {width} px", row["trial"], rank) if x]


def _pixels(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _inside(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
