"""The feature attribution atlas: a map of all the ways in which images drive a feature.

RUN/atlas/NAME/question.json       everything that determines the atlas
RUN/atlas/NAME/map.parquet         a row for each image: place, cell, activation and energies
RUN/atlas/NAME/cells.safetensors   mean S and mean h of each cell; of latents, decoded directions
RUN/atlas/NAME/icons/              inversions of the cells' mean S, with opacity
RUN/atlas/NAME/atlas.parquet       a row for each cell
RUN/atlas/NAME/atlas.json          the question, and how well the map holds; written last
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
from opponent.core.pictures import on_paper, png_bytes, read_png, seen_part
from opponent.core.side import Side
from opponent.storage.columns import SCALARS
from opponent.storage.files import AnyPath, local, opened
from opponent.storage.manifest import FeatureRecord
from opponent.storage.run import Run
from opponent.storage.tables import NUMBER, TEXT, TEXTS, WHOLE, damage_refused, read_table
from opponent.synthesis.settings import SynthesisSettings

COMMAND = "opponent atlas"
# Adam's learning rate and the cosine's power for icons. Source: paper's code.
RATE, POWER = 0.06, 2.0


@dataclass(frozen=True, kw_only=True)
class AtlasSettings:
    """Which images, cells and icons an atlas has.

    Args:
        top: number of images, those with the largest L2 norm of S.
        grid: number of cells along each side of the map.
        min_images: cells with fewer images stay empty; 6 is "more than 5".
        neighbours: UMAP's number of neighbours.
        min_dist: UMAP's smallest distance between places, from 0 to 1.
        space: lay out S with its rows and columns, not summed over them.
        seed: seed of the layout and of the icons.
        steps: number of steps of each icon's optimisation.
        batch: number of icons that are optimised together. It changes icons by rounding alone.
    Raises:
        ValueError: a number is out of range.
    Source: paper, section 5.

    >>> import opponent
    >>> opponent.AtlasSettings(top=2000, grid=12).synthesis.power
    2.0
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
        """How the icons are synthesised."""
        return SynthesisSettings(
            steps=self.steps, rate=RATE, power=POWER, seed=self.seed, batch=self.batch
        )


class IconAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether icons give the activation of their cells' images.

    Args:
        spearman: rank correlation of the icons' activations with their cells' mean activations;
            None with fewer than three cells, or where either is constant.
        p: its p value.
    """

    spearman: float | None
    p: float | None


class AtlasRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The record of a finished atlas, as atlas.json holds it.

    Args:
        feature: the feature.
        through: the layer that it is explained through.
        settings: which images, cells and icons the atlas has.
        run: SHA-256 of what determines the run.
        versions: versions of the software.
        images: number of images.
        cells: number of cells that hold enough images.
        deviation: standard deviation of the activation over all images of the run.
        trustworthiness: how far neighbours on the map are neighbours by their S, from 0 to 1.
        icons_against_images: whether icons give the activation of their cells' images.
        dictionary: SHA-256 of the dictionary whose latents S is of, if it is.
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
    dictionary: str | None = None


# What the columns of map.parquet and atlas.parquet hold.
MAP_COLUMNS = {
    "image": TEXT,
    "x": NUMBER,
    "y": NUMBER,
    "row": WHOLE,
    "column": WHOLE,
    **dict.fromkeys(SCALARS, NUMBER),
}
CELL_COLUMNS = {
    "row": WHOLE,
    "column": WHOLE,
    "images": TEXTS,
    "mean_activation": NUMBER,
    "mean_excitation": NUMBER,
    "mean_inhibition": NUMBER,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of an atlas: its place, its images and their means, its icons.

    Args:
        row, column: the cell's place in the grid, from the top left.
        images: ids of its images, the largest L2 norm of S first.
        mean_activation, mean_excitation, mean_inhibition: means over its images.
        activations: the feature's activation in the cell's icon (both sides) and, in a signed
            atlas, in the icon of each side; None where there is no icon.
        icon: the PNG file of its icon, with opacity as alpha channel.
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
        """The icon, or that of one side; None where there is none.

        Args:
            side: 'both' is the icon of |S|.
        Raises:
            RunError: the file is damaged.
        """
        path = self.icon.with_name(icon_name(self.row, self.column, Side.of(side)))
        if not path.is_file():
            return None
        with damage_refused(path, COMMAND), local(path) as file:
            return read_png(file)


class Atlas:
    """A finished atlas in a run folder, open for reading.

    Args:
        run: the run.
        folder: the folder of the atlas.
    Raises:
        RunError: the atlas is not finished, or its record is damaged.
    Source: paper, section 5 and figure 6.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> settings = opponent.AtlasSettings(grid=1, min_images=1, neighbours=2, steps=2)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     made = opponent.make_atlas(run, settings=settings)
    ...     atlas = opponent.Atlas(run, made.folder)
    ...     [len(cell.images) for cell in atlas.cells], atlas.mosaic(side=20).shape
    ([4], (20, 20, 3))
    """

    def __init__(self, run: Run, folder: AnyPath) -> None:
        self.run, self.folder = run, folder
        path = folder / "atlas.json"
        if not path.is_file():
            raise RunError(f"{folder} holds no finished atlas; give the same `{COMMAND}` again")
        with damage_refused(path, COMMAND):
            values = json.loads(path.read_text(encoding="utf-8"))
            self.about = msgspec.convert(values, AtlasRecord)
            # Not `about.settings`: msgspec ignores unknown settings, and they are damage.
            self.settings = AtlasSettings(**values["settings"])
            self.feature: Feature = self.about.feature.feature
            if self.about.run != run.digest:
                raise ValueError(f"it is of another scan than {run.folder / 'manifest.json'}")

    def __repr__(self) -> str:
        return (
            f"Atlas({self.feature.label!r}: {self.about.images:,} images, {self.about.cells} cells "
            f"of {self.settings.grid} x {self.settings.grid})"
        )

    @cached_property
    def map(self) -> pa.Table:
        """A row for each image: id, x, y (from 0 to 1, y upward), row, column, energies, norms."""
        return read_table(self.folder / "map.parquet", COMMAND, MAP_COLUMNS)

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
                    # Not the path in the table, which might lead elsewhere.
                    icon=self.folder / "icons" / icon_name(row["row"], row["column"], Side.BOTH),
                )
                for row in read_table(path, COMMAND, CELL_COLUMNS, others=True).to_pylist()
            )

    @property
    def signed(self) -> bool:
        """Whether each cell also has an icon of each side."""
        path = self.folder / "atlas.parquet"
        with damage_refused(path, COMMAND), opened(path) as file:
            return activation_column(Side.EXCITATION) in pq.read_schema(file).names

    def mosaic(self, side: int = 40) -> UInt8[np.ndarray, "h w 3"]:
        """The icons in their cells, on white, cut to where they are opaque: without borders.

        Args:
            side: side of a cell, in pixels.
        Returns:
            An image of grid * side pixels along each side.
        """
        grid = self.settings.grid
        sheet = Image.new("RGB", (grid * side, grid * side), "white")
        icons = [(cell, pixels) for cell in self.cells if (pixels := cell.pixels()) is not None]
        part = seen_part([pixels for _, pixels in icons]) if icons else ()
        for cell, pixels in icons:
            icon = Image.fromarray(on_paper(pixels[part])).resize((side, side))
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
    """The finished atlases of a run, newest first.

    Args:
        run: the run.
        feature: only those of this feature of the run; default: all.
    Returns:
        The atlases, open for reading.
    Raises:
        RunError: the record of an atlas is damaged.
        ValueError: the run does not hold that feature.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> settings = opponent.AtlasSettings(grid=1, min_images=1, neighbours=2, steps=2)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     _ = opponent.make_atlas(run, settings=settings)
    ...     opponent.atlases(run, "mixed3b:189")
    [Atlas('mixed3b:189@7,7': 4 images, 1 cells of 1 x 1)]
    """
    wanted = None if feature is None else run.feature(feature)
    paths: list[AnyPath] = list(run.folder.glob("atlas/*/atlas.json"))
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    finished = [Atlas(run, path.parent) for path in paths]
    return [atlas for atlas in finished if wanted in (None, atlas.feature)]


def activation_column(side: Side) -> str:
    """The column of atlas.parquet that holds the activation in the icons of a side."""
    return "activation" if side is Side.BOTH else f"activation_{side}"


def icon_name(row: int, column: int, side: Side) -> str:
    """The file name of a cell's icon.

    Args:
        row: of the cell, from the top.
        column: of the cell, from the left.
        side: the side that the icon shows.
    """
    return f"{row:02d}-{column:02d}{'' if side is Side.BOTH else f'-{side}'}.png"
