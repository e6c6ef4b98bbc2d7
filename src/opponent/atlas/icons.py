"""The icons of an atlas: inversions of the cells' mean attributions, in batches of cells."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from opponent.atlas.atlas import COMMAND, AtlasSettings, icon_name
from opponent.atlas.means import Directions, Means, part_of, to_unit
from opponent.core.box import scale_box
from opponent.core.feature import Feature
from opponent.core.progress import Progress, silent
from opponent.core.side import Side
from opponent.images.sources import Images
from opponent.models.network import Network
from opponent.scan.executor import Executor
from opponent.scan.local import copy_on_cpu, reopen_in_worker
from opponent.storage.files import AnyPath, atomic_write, write_text
from opponent.storage.run import Run
from opponent.storage.tables import damage_refused
from opponent.synthesis.inversion import invert_attribution, invert_directions
from opponent.synthesis.result import Synthesis


class IconMaker:
    """Makes the icons of an atlas, and knows which are there.

    Args:
        run: the run.
        network: the network that was scanned.
        feature: the feature of the atlas.
        settings: the settings of the atlas.
        folder: the folder of the atlas.
        cells: (row, column) of the cells that hold enough images, in order.
        means: the means of these cells, or the directions that they give.
        progress: called with what is being done, the steps done and the steps in all.
    """

    def __init__(
        self,
        run: Run,
        network: Network,
        feature: Feature,
        settings: AtlasSettings,
        folder: AnyPath,
        cells: Sequence[tuple[int, int]],
        means: Means | Directions,
        progress: Progress = silent,
    ) -> None:
        self.run, self.network, self.feature, self.settings = run, network, feature, settings
        self.folder, self.means, self.progress = folder, means, progress
        size = settings.batch
        self.batches = [cells[first : first + size] for first in range(0, len(cells), size)]

    def missing(self, side: Side) -> list[int]:
        """Numbers of the batches that lack an icon of a side."""
        return [number for number in range(len(self.batches)) if not self._is_made(side, number)]

    def activations(self, side: Side) -> list[float | None]:
        """The feature's activation in the icon of each cell; None where the side is empty."""
        return [
            value
            for number, cells in enumerate(self.batches)
            for value in _read_activations(self._record(side, number), len(cells))
        ]

    def make(self, side: Side, number: int) -> None:
        """Invert the mean S of a batch of cells, and write the icons and their record."""
        rows = slice(number * self.settings.batch, (number + 1) * self.settings.batch)
        if isinstance(self.means, Directions):
            target = self.means.of(side)[rows]
            filled = target.flatten(1).any(1).tolist()
        else:
            target = to_unit(self.means.attribution[rows])
            filled = part_of(target, side).flatten(1).any(1).tolist()
        activations: list[float | None] = [None] * len(filled)
        if any(filled):
            result = self._invert(target[filled], filled, rows, side, number)
            images = iter(zip(result.rgba(), result.final.tolist(), strict=True))
            for place, cell in enumerate(self.batches[number]):
                if filled[place]:
                    pixels, activations[place] = next(images)
                    self._save(cell, side, pixels)
        write_text(self._record(side, number), json.dumps(activations) + "\n")

    def _invert(
        self,
        target: Float[Tensor, "n k y x"],
        filled: Sequence[bool],
        rows: slice,
        side: Side,
        number: int,
    ) -> Synthesis:
        """Images of some cells: of their directions, or of their mean S."""
        settings, report = self.settings.synthesis, self._report(side, number)
        what = (self.network, target, self.feature, self.run.through)
        if isinstance(self.means, Directions):
            origin = self.means.origin
            return invert_directions(
                *what, side=side, origin=origin, settings=settings, progress=report
            )
        hidden = self.means.hidden[rows]
        weighed = None if (hidden >= 0).all() else hidden[filled]
        return invert_attribution(
            *what, side=side, hidden=weighed, settings=settings, progress=report
        )

    def make_elsewhere(self, tasks: Sequence[tuple[Side, int]], executor: Executor) -> None:
        """Have an executor make batches of icons, given by side and number."""
        worker = partial(
            _icon_worker, self.run.folder.absolute(), copy_on_cpu(self.network), self.feature,
            self.settings, self.folder.absolute(), [x for batch in self.batches for x in batch],
            self.means, self.network.device.type, executor.threads, self.run.images.origin,
        )  # fmt: skip
        with closing(executor.map(worker, tasks)) as finished:
            for done, _ in enumerate(finished, 1):
                self.progress(f"{self.feature.label}: batches of icons", done, len(tasks))

    def _record(self, side: Side, number: int) -> AnyPath:
        return self.folder / "icons" / f"{side}-{number:03d}.json"

    def _is_made(self, side: Side, number: int) -> bool:
        """Whether a batch has its record and all its icons."""
        record, cells = self._record(side, number), self.batches[number]
        if not record.is_file():
            return False
        return all(
            value is None or (self.folder / "icons" / icon_name(*cell, side)).is_file()
            for value, cell in zip(_read_activations(record, len(cells)), cells, strict=True)
        )

    def _report(self, side: Side, number: int) -> Progress:
        what = f"{self.feature.label}: icons" + ("" if side is Side.BOTH else f" of {side}")

        def report(_: str, done: int, steps: int) -> None:
            self.progress(what, number * steps + done, len(self.batches) * steps)

        return report

    def _save(self, cell: tuple[int, int], side: Side, pixels: UInt8[np.ndarray, "h w 4"]) -> None:
        """Write an icon, cropped to the receptive field."""
        size = self.run.preprocessing.size
        box = scale_box(self.run.receptive_field(self.feature), size, pixels.shape)
        with atomic_write(self.folder / "icons" / icon_name(*cell, side)) as file:
            Image.fromarray(pixels[box.slices]).save(file)


def _icon_worker(
    run_folder: AnyPath,
    network: Network,
    feature: Feature,
    settings: AtlasSettings,
    folder: AnyPath,
    cells: Sequence[tuple[int, int]],
    means: Means | Directions,
    device: str,
    threads: int,
    origin: Images | None,
) -> Callable[[tuple[Side, int]], None]:
    """In a worker: the function that makes a batch of icons, given its side and number."""
    run, network = reopen_in_worker(run_folder, network, device, threads, origin)
    maker = IconMaker(run, network, feature, settings, folder, cells, means)
    return lambda batch: maker.make(*batch)


def _read_activations(path: AnyPath, cells: int) -> list[float | None]:
    """The record of a batch: the feature's activation in each icon."""
    with damage_refused(path, COMMAND):
        values = json.loads(path.read_text(encoding="utf-8"))
        if (
            not isinstance(values, list)
            or len(values) != cells
            or not all(value is None or isinstance(value, float) for value in values)
        ):
            raise ValueError(f"it does not hold {cells} numbers")
        return values
