"""Contact sheets: every trial of a study with its right answers, for those who run the study."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from opponent.core.pictures import read_png
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import file_name
from opponent.explain.crops import Tile
from opponent.plots.experiment import SheetRow, sheet_figure
from opponent.plots.layout import save
from opponent.reports.html import render
from opponent.storage.files import write_text
from opponent.study.design.study import Study

_KINDS = {"trial": "", "catch": "catch trial", "practice": "practice"}


@displayed
def write_sheets(
    study: Study, *, suffix: str = "pdf", progress: Progress | None = None
) -> list[Path]:
    """Write sheet.html with all trials in one file, and a sheet for print of each layer.

    Args:
        study: made by `build`, with the activations in its table.
        suffix: format of the sheets for print: pdf, png or svg.
        progress: called with what is being done, the layers done and the layers in all; default: a
            display, where it takes longer than two seconds.
    Returns:
        The paths of the files.
    Raises:
        ValueError: the table lacks the activations.
    """
    rows = study.table.to_pylist()
    if "choices_activation" not in study.table.column_names:
        raise ValueError(f"{study.folder / 'trials.parquet'} has no activations to show")
    layers, prints = [], []
    report = progress or silent
    for done, layer in enumerate(study.layers):
        report("sheets", done, len(study.layers))
        of_layer = [row for row in rows if row["layer"] == layer]
        title = f"{study.label(layer)}: {layer}"
        layers.append({"title": title, "trials": [_html(study, row) for row in of_layer]})
        prints.append(study.folder / f"sheet-{file_name(layer)}.{suffix}")
        head = f"{title}, {len(of_layer)} trials; activations in sd from the mean"
        save(sheet_figure(head, [_row(study, row) for row in of_layer]), prints[-1])
    page = study.folder / "sheet.html"
    settings = study.settings
    write_text(
        page, render("sheet.html.j2", title=settings.title, layers=layers, runs=settings.runs)
    )
    return [page, *prints]


def _row(study: Study, row: Mapping[str, Any]) -> SheetRow:
    """A trial's pictures for the figure, each captioned with its activation."""

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


def _html(study: Study, row: Mapping[str, Any]) -> dict[str, object]:
    """A trial's pictures for the page, where the browser enlarges them as it does in the study."""

    def shown(what: str) -> list[dict[str, str]]:
        return [
            {
                "source": _data_uri(study.stimulus(id)),
                "caption": text,
                "role": {row["mei"]: "MEI", row["mii"]: "MII"}.get(id, ""),
            }
            for id, text in zip(row[what], _deviations(row, what), strict=True)
        ]

    groups = [shown("examples"), shown("choices")]
    return {"label": _name(row), "about": _about(row), "groups": groups}


def _deviations(row: Mapping[str, Any], what: str) -> list[str]:
    """The activations in standard deviations from the mean."""
    values = [(f - row["mean"]) / row["sd"] for f in row[f"{what}_activation"]]
    return [f"{value:+.1f}".replace("-", "−") for value in values]


def _name(row: Mapping[str, Any]) -> str:
    """The feature's label without layer and position."""
    return str(row["feature"]).removeprefix(row["layer"] + ":").partition("@")[0]


def _about(row: Mapping[str, Any]) -> list[str]:
    height, width = row["box"][2:]
    rank = f"MII: smallest but {row['mii_rank'] - 1}" if row["mii_rank"] > 1 else ""
    return [x for x in (_KINDS[row["kind"]], f"{height} × {width} px", row["trial"], rank) if x]


def _pixels(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    return read_png(path, "RGB")


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
