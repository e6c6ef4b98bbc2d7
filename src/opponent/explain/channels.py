"""Who drives a feature: the upstream channels that excite it, and those that inhibit it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from opponent.atlas.atlas import atlases
from opponent.core.box import Box
from opponent.core.errors import RunError, Unreadable
from opponent.core.feature import Feature
from opponent.core.pictures import contact_sheet
from opponent.core.progress import Progress, displayed, silent
from opponent.core.side import Side
from opponent.dictionaries.dictionary import Dictionary
from opponent.explain.crops import (
    SHOWN,
    Synthetic,
    Tile,
    crop_picture,
    crop_synthetic,
    opaque,
    photographs,
    zoom_for,
)
from opponent.explain.drivers import Driver, Drivers, rank_channels
from opponent.explain.places import known_fields
from opponent.geometry.receptive_field import box_of, receptive_field
from opponent.models.network import PIXELS, Network
from opponent.scan.reopen import dictionary_of, network_of
from opponent.selection import Selection, select
from opponent.storage.columns import Indices
from opponent.storage.lookup import scan_command
from opponent.storage.run import Run
from opponent.synthesis.cache import synthesise
from opponent.synthesis.settings import SynthesisSettings

if TYPE_CHECKING:
    from pandas import DataFrame

# Images that a question without images is about: the tensest of all.
IMAGES = 20


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Who:
    """Which channels drive a feature in some images.

    Args:
        feature: the feature, with its position written out.
        through: the layer whose channels are named.
        about: which images, in words.
        images: their ids.
        drivers: the channels, with what they cover of either side.
        deviation: standard deviation of the activation over all images of the scan.
        scanned: how many images the run holds, in words.
        dictionary: where S is of a dictionary's latents, which one, in words.
    Source: paper, section 3, by channel.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     answer = opponent.who(run, channels=2, crops=0)
    >>> answer.caption
    'channels of mixed3a that add most to either side, means over all 4 images'
    >>> len(answer.exciting), len(answer.inhibiting)
    (2, 2)
    >>> bool(answer.exciting[0].excitation == answer.excitation.max())
    True
    >>> 0 < answer.drivers.covered("excitation") < 1
    True
    >>> answer.to_arrow().column_names[:4]
    ['side', 'channel', 'name', 'excitation']
    """

    feature: Feature
    through: str
    about: str
    images: tuple[str, ...]
    drivers: Drivers
    deviation: float
    scanned: str
    dictionary: str | None = None

    @property
    def excitation(self) -> Float[np.ndarray, " k"]:
        """What each of the k channels adds to the images' mean excitation."""
        return self.drivers.excitation

    @property
    def inhibition(self) -> Float[np.ndarray, " k"]:
        """What each of the k channels adds to the images' mean inhibition."""
        return self.drivers.inhibition

    @property
    def exciting(self) -> tuple[Driver, ...]:
        """The channels that add most to excitation, largest first."""
        return self.drivers.exciting

    @property
    def inhibiting(self) -> tuple[Driver, ...]:
        """The channels that add most to inhibition, largest first."""
        return self.drivers.inhibiting

    @property
    def caption(self) -> str:
        """Which channels they are, of which images, in words."""
        over = "in" if len(self.images) == 1 else "means over"
        what = f"{self.drivers.kind}s of {self.through}"
        return f"{what} that add most to either side, {over} {self.about}"

    def to_arrow(self) -> pa.Table:
        """One row a listed channel and side, with the shares that they cover."""
        return self.drivers.to_arrow()

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.drivers.to_pandas()

    def __repr__(self) -> str:
        return f"Who({self.feature.label!r} through {self.through!r}, {self.about})"

    def _repr_html_(self) -> str:
        from opponent.core import notebook

        tables, shown = [], []
        for heading, drivers in (("excites", self.exciting), ("inhibits", self.inhibiting)):
            rows = [(x.name, f"{x.excitation:.4g}", f"{x.inhibition:.4g}") for x in drivers]
            headings = (heading, "excitation", "inhibition")
            tables.append(notebook.table(headings, rows, len(rows)))
            for driver in drivers[: notebook.PICTURES // 2]:
                tiles = [opaque(tile) for tile in driver.exemplars[:4]]
                if tiles:
                    sheet = contact_sheet(tiles, across=2, side=160)
                    shown.append((sheet, f"{driver.name} {heading}"))
        return notebook.section(
            f"Who drives {self.feature.label}?",
            notebook.text(self.caption),
            notebook.beside(*tables),
            notebook.facts(self.drivers.facts()),
            notebook.pictures(shown),
        )


@displayed
def who(
    run: Run,
    feature: Feature | str | None = None,
    *,
    group: Selection | str | None = None,
    images: Sequence[str] | None = None,
    cell: tuple[int, int] | None = None,
    channels: int = 8,
    crops: int = 4,
    network: Network | None = None,
    visualise: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> Who:
    """The upstream channels that excite, and that inhibit, a feature most.

    They are those of the tensest images, or of others: give a group, ids or a cell of the atlas.

    Args:
        run: a finished run.
        feature: one of its features; default: the only one.
        group: such as 'tense' or 'inhibiting', or a selection of the user's own; at most 20 images
            of it count.
        images: ids, or their ends.
        cell: (row, column) of the feature's newest atlas.
        channels: how many on either side. A channel that excites in one place and inhibits in
            another is ranked on each side by itself.
        crops: how many exemplars of each, at most 9.
        network: the network that was scanned, for the exemplars' crops; default: loaded again.
        visualise: how to synthesise a feature visualisation of each channel; None makes none.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The channels on either side, the largest mean first, with crops and visualisations.
            Excitation and inhibition of a channel do not cancel.
    Raises:
        ValueError: a name or cell that is not there; several choices at once.
        LookupError: an id that fits no image of the run, or several.
        RunError: the run is unfinished; it has no atlas of the feature; the network is another or
            cannot be loaded.
    Source: paper, section 3, by channel.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     opponent.who(run, group="exciting", channels=2, crops=1)
    Who('mixed3b:189@7,7' through 'mixed3a', the 4 most exciting images)
    """
    feature = run.feature(feature)
    columns = run.columns(feature)
    about, rows = _choose(run, feature, group, images, cell)
    record = run.manifest.dictionary
    kind = "channel" if record is None else "latent"
    drivers = rank_channels(*run.channel_sides(feature, rows=rows), run.through, channels, kind)
    if crops or visualise:
        drivers = _illustrated(run, network_of(run, network), drivers, crops, visualise, progress)
    return Who(
        feature=feature,
        through=run.through,
        about=about,
        images=tuple(columns.images[i] for i in rows),
        drivers=drivers,
        deviation=columns.spread,
        scanned=columns.scope,
        dictionary=None
        if record is None
        else f"{record.latents:,} latents, {record.kind}, SHA-256 {record.sha256[:12]}",
    )


def _illustrated(
    run: Run,
    network: Network,
    drivers: Drivers,
    crops: int,
    visualise: SynthesisSettings | None,
    progress: Progress | None,
) -> Drivers:
    """The same channels with exemplars and, where asked for, visualisations; each made once."""
    listed = {each.channel: each.name for each in (*drivers.exciting, *drivers.inhibiting)}
    tiles = exemplar_tiles(run, network, list(listed), crops)
    made: dict[int, Synthetic] = {}
    if visualise is not None:
        dictionary = dictionary_of(run)
        for done, (channel, name) in enumerate(listed.items()):
            shown: Feature | str = name
            if dictionary is not None:
                shown = latent_feature(dictionary, run.through, channel)
            made[channel] = visualise_channel(
                run, network, shown, visualise, progress, done, len(listed)
            )
    exciting, inhibiting = (
        tuple(
            replace(
                each,
                exemplars=tuple(tiles[each.channel]),
                visualisation=made.get(each.channel),
            )
            for each in side
        )
        for side in (drivers.exciting, drivers.inhibiting)
    )
    return replace(drivers, exciting=exciting, inhibiting=inhibiting)


def _choose(
    run: Run,
    feature: Feature,
    group: Selection | str | None,
    images: Sequence[str] | None,
    cell: tuple[int, int] | None,
) -> tuple[str, Indices]:
    """Which images, in words, and their rows of the columns."""
    if sum(x is not None for x in (group, images, cell)) > 1:
        raise ValueError("choose images by a group, by their ids or by a cell, not by several")
    columns = run.columns(feature)
    if images is None and cell is None:
        [selected] = select(columns, IMAGES, selections=[group or "tense"]).values()
        what, rows = selected.selection.name.replace("_", " "), selected.rows
        if len(rows):
            several = f"the {len(rows)} most {what} images"
            return several if len(rows) > 1 else f"the most {what} image", rows
        if columns.kept is not None:
            raise ValueError(
                f"none of the {columns.scope} in {run.folder} is surely {what}; choose another "
                f"group, or scan the unit by itself: "
                f"{scan_command(run.folder, run.manifest, feature.label)}"
            )
        if group is not None:
            raise ValueError(f"no image of {run.folder} is {what}")
        return f"all {len(columns.images):,} images", np.arange(len(columns.images))
    if cell is not None:
        about, images = f"the images of cell {cell[0]},{cell[1]}", _images_of(run, feature, cell)
    else:
        images = [run.images.find(image).id for image in images or ()]
        about = images[0] if len(images) == 1 else f"{len(images)} images"
    places = {image: row for row, image in enumerate(columns.images)}
    left_out = [image for image in images if image not in places]
    if left_out or not images:
        raise ValueError(
            f"{', '.join(left_out) or 'no image'}: not among the images that the scan could read "
            "and that gave finite numbers"
        )
    return about, np.array([places[image] for image in images])


def _images_of(run: Run, feature: Feature, cell: tuple[int, int]) -> tuple[str, ...]:
    finished = atlases(run, feature)
    if not finished:
        raise RunError(f"{run.folder} has no atlas of {feature.label}: `opponent atlas` makes one")
    cells = {(each.row, each.column): each.images for each in finished[0].cells}
    if cell not in cells:
        near = sorted(cells, key=lambda at: abs(at[0] - cell[0]) + abs(at[1] - cell[1]))[:5]
        raise ValueError(
            f"the atlas has no images in cell {cell[0]},{cell[1]}; the nearest cells that have: "
            f"{'; '.join(f'{row},{column}' for row, column in near)}"
        )
    return cells[cell]


def exemplar_tiles(
    run: Run, network: Network, channels: Sequence[int], count: int, shown: int = SHOWN
) -> dict[int, list[Tile]]:
    """Where the scan's images excite channels of the through layer most, as crops.

    Args:
        run: the run.
        network: the network that was scanned.
        channels: of the through layer, or latents where S is of a dictionary's.
        count: crops a channel, at most 9; fewer where it is seldom active.
        shown: a crop's wanted shorter side, in pixels.
    Returns:
        For each channel its crops, most active first; none where the through layer is the pixels.
    """
    through, prepared = run.manifest.through, run.preprocessing
    if through == PIXELS:
        return {channel: [] for channel in channels}
    extremes, dictionary = known_fields(network, through), dictionary_of(run)
    pixels = Box.full(prepared.size)
    tiles: dict[int, list[Tile]] = {}
    for channel in channels:
        tiles[channel] = []
        seen = [channel] if dictionary is None else dictionary.listens_to(channel)
        for exemplar in run.exemplars(channel, count):
            box = pixels
            if extremes is not None and seen:
                box = box_of(extremes[:, seen, exemplar.row, exemplar.column]) or pixels
            zoom = zoom_for(prepared, box, shown)
            try:
                [image] = photographs([run.images.find(exemplar.image)], prepared, zoom)
            except Unreadable:
                continue  # gone since; the numbers do not need it
            crop = crop_picture(image, box, prepared.size)
            tiles[channel].append(Tile(image=crop, caption=f"{exemplar.activation:.3g}"))
    return tiles


def latent_feature(dictionary: Dictionary, through: str, latent: int) -> Feature:
    """A latent's decoder as a direction of its layer, at unit length.

    Args:
        dictionary: the dictionary.
        through: its layer.
        latent: the latent's number.
    """
    vector = dictionary.directions[latent]
    return Feature.direction(through, vector, name=f"latent:{latent}")


def visualise_channel(
    run: Run,
    network: Network,
    unit: Feature | str,
    settings: SynthesisSettings,
    progress: Progress | None = None,
    done: int = 0,
    total: int = 1,
) -> Synthetic:
    """The feature visualisation of any unit of a run's network, cropped to its receptive field.

    A latent's is that of its decoder; it is read as all directions are, before a ReLU.

    Args:
        run: the run, whose folder keeps the image.
        network: the network that was scanned.
        unit: the unit or direction, such as 'mixed3a:17'.
        settings: how the image is synthesised.
        progress: called with what is being done, the steps done and the steps in all.
        done, total: which of how many channels this is, for progress.
    """
    feature, report = network.resolve(unit), progress or silent

    def step(_: str, i: int, steps: int) -> None:
        report("visualisations of channels", done * steps + i, total * steps)

    image = synthesise(
        run, network, feature, None, "visualisation", Side.EXCITATION, settings, progress=step
    )
    return crop_synthetic(image, receptive_field(network, feature), run.preprocessing.size)
