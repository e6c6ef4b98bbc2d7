"""The feature attribution atlas: all the ways in which images drive one feature, on one map.

RUN/atlas/NAME/question.json  what was asked for
RUN/atlas/NAME/map.parquet    one row an image: its place and cell, its energies
RUN/atlas/NAME/cells.safetensors   each cell's mean S
RUN/atlas/NAME/icons/         each cell's inversions, with opacity
RUN/atlas/NAME/atlas.parquet  one row a cell
RUN/atlas/NAME/atlas.json     the question again, and how well the map holds: it is finished
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.pictures import on_paper, png_bytes
from opponent.core.side import Side
from opponent.storage.files import AnyPath, local, opened
from opponent.storage.manifest import FeatureRecord
from opponent.storage.run import Run
from opponent.storage.tables import damage_refused, read_table
from opponent.synthesis.settings import SynthesisSettings

COMMAND = "opponent atlas"
# Adam's learning rate and the cosine's power for icons. Source: paper's code.
RATE, POWER = 0.06, 2.0


@dataclass(frozen=True, kw_only=True)
class AtlasSettings:
    """What an atlas is made of.

    Args:
        top: how many images, those with the largest L2 norm of S.
        grid: cells a side.
        min_images: cells with fewer stay empty; 6 is "more than 5".
        neighbours, min_dist: of UMAP.
        space: lay out S with its rows and columns, not summed over them.
        seed: of the layout and of the icons.
        steps: of each icon's optimisation.
        batch: icons at once; they do not depend on it but for rounding.
    """

    top: int = 10_000
    grid: int = 20
    min_images: int = 6
    neighbours: int = 10
    min_dist: float = 0.1
    space: bool = False
    seed: int = 0
    steps: int = 100
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("top", "grid", "min_images", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.neighbours < 2:
            raise ValueError(f"neighbours must be at least 2, got {self.neighbours}")
        if not 0 <= self.min_dist <= 1:
            raise ValueError(f"min_dist lies between 0 and 1, got {self.min_dist}")

    @property
    def synthesis(self) -> SynthesisSettings:
        """How the icons are made."""
        return SynthesisSettings(
            steps=self.steps, rate=RATE, power=POWER, seed=self.seed, batch=self.batch
        )


class IconAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Spearman's correlation of icons' activation with that of their cells' images, and its p."""

    spearman: float | None
    p: float | None


class AtlasRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a finished atlas.

    Args:
        feature: whose atlas it is.
        through: the layer that it is explained through.
        settings: what it was made of.
        run: SHA-256 of what determines the run.
        versions: of the software.
        images, cells: how many.
        deviation: standard deviation of the activation over all images of the run.
        trustworthiness: how far neighbours on the map are neighbours in truth, from 0 to 1.
        icons_against_images: whether icons give the activation of their cells' images.
    """

    feature: FeatureRecord
    through: str
    settings: AtlasSettings
    run: str
    versions: dict[str, str]
    images: Annotated[int, msgspec.Meta(ge=1)]
    cells: Annotated[int, msgspec.Meta(ge=1)]
    deviation: float
    trustworthiness: float
    icons_against_images: IconAgreement


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: where it lies, which images it holds, and what they do on average.

    Args:
        row, column: in the grid, from the top left.
        images: ids, the largest L2 norm first.
        mean_activation, mean_excitation, mean_inhibition: of those images.
        activations: the feature's in the cell's icon (both) and, in a signed atlas, in those of
            either side; None where nothing was made.
        icon: a PNG with opacity.
    """

    row: int
    column: int
    images: tuple[str, ...]
    mean_activation: float
    mean_excitation: float
    mean_inhibition: float
    activations: dict[Side, float | None]
    icon: AnyPath

    def pixels(self, side: Side | str = Side.BOTH) -> UInt8[np.ndarray, "h w 4"] | None:
        """The icon, or that of one side; None where nothing was made for it."""
        path = self.icon.with_name(icon_name(self.row, self.column, Side.of(side)))
        if not path.is_file():
            return None
        with damage_refused(path, COMMAND), local(path) as file, Image.open(file) as image:
            return np.asarray(image.convert("RGBA"))


class Atlas:
    """A finished atlas in a run folder, open for reading."""

    def __init__(self, run: Run, folder: AnyPath) -> None:
        self.run, self.folder = run, folder
        path = folder / "atlas.json"
        if not path.is_file():
            raise RunError(f"{folder} holds no finished atlas; give the same `{COMMAND}` again")
        with damage_refused(path, COMMAND):
            values = json.loads(path.read_text(encoding="utf-8"))
            self.about = msgspec.convert(values, AtlasRecord)
            # From the text again: msgspec passes settings by that it does not know.
            self.settings = AtlasSettings(**values["settings"])
            self.feature: Feature = self.about.feature.feature

    def __repr__(self) -> str:
        return (
            f"Atlas({self.feature.label!r}: {self.about.images:,} images, {self.about.cells} cells "
            f"of {self.settings.grid} x {self.settings.grid})"
        )

    @cached_property
    def map(self) -> pa.Table:
        """One row an image: image, x, y (from 0 to 1, y upward), row, column and its energies."""
        return read_table(self.folder / "map.parquet", COMMAND)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that hold enough images, row by row."""
        names = ("row", "column", "mean_activation", "mean_excitation", "mean_inhibition")
        path = self.folder / "atlas.parquet"
        with damage_refused(path, COMMAND):
            return tuple(
                Cell(
                    **{name: row[name] for name in names},
                    images=tuple(row["images"]),
                    activations={side: row.get(activation_column(side)) for side in Side},
                    icon=self.folder / row["icon"],
                )
                for row in read_table(path, COMMAND).to_pylist()
            )

    @property
    def signed(self) -> bool:
        """Whether there are icons of either side."""
        path = self.folder / "atlas.parquet"
        with damage_refused(path, COMMAND), opened(path) as file:
            return activation_column(Side.EXCITATION) in pq.read_schema(file).names

    def mosaic(self, side: int = 40) -> UInt8[np.ndarray, "h w 3"]:
        """The icons in their cells, on white, without borders: a preview.

        Args:
            side: of a cell, in pixels.
        """
        grid = self.settings.grid
        sheet = Image.new("RGB", (grid * side, grid * side), "white")
        for cell in self.cells:
            pixels = cell.pixels()
            if pixels is not None:
                icon = Image.fromarray(on_paper(pixels)).resize((side, side))
                sheet.paste(icon, (cell.column * side, cell.row * side))
        return np.asarray(sheet)

    def _repr_html_(self) -> str:
        from opponent.core import notebook

        about = self.about
        facts = [
            ("images", f"{about.images:,} of {self.run.manifest.images.count:,}"),
            ("through", self.run.through),
            ("trustworthiness of the map", f"{about.trustworthiness:.3f}"),
        ]
        mosaic = notebook.pictures([(self.mosaic(), "icons of the cells")], side=480)
        return notebook.section(repr(self), notebook.facts(facts), mosaic)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.mosaic())


def atlases(run: Run, feature: Feature | str | None = None) -> list[Atlas]:
    """The finished atlases of a run, newest first; those of one feature, if it is given."""
    wanted = None if feature is None else run.feature(feature)
    paths: list[AnyPath] = list(run.folder.glob("atlas/*/atlas.json"))
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    finished = [Atlas(run, path.parent) for path in paths]
    return [atlas for atlas in finished if wanted in (None, atlas.feature)]


def activation_column(side: Side) -> str:
    """The column of the icons' activation."""
    return "activation" if side is Side.BOTH else f"activation_{side}"


def icon_name(row: int, column: int, side: Side) -> str:
    """The file of a cell's icon."""
    return f"{row:02d}-{column:02d}{'' if side is Side.BOTH else f'-{side}'}.png"
