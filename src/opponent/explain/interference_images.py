"""Images whose tension goes in latents, beside images whose tension stays, and what drives them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opponent.attribution.through_dictionary import in_channels
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import in_deviations
from opponent.dictionaries.dictionary import Dictionary
from opponent.explain.channels import exemplar_tiles
from opponent.explain.crops import Tile, overlay_scale, run_tiles
from opponent.explain.drivers import Driver, Drivers, rank_channels
from opponent.explain.interference import Interference, interference
from opponent.models.network import Network
from opponent.scan.reopen import crop_plan_of, dictionary_of, network_of
from opponent.storage.run import Run


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InterferenceImage:
    """One image, in channels and in latents.

    Args:
        image: its id.
        row: its row of the comparison's columns.
        tension: in channels, and in latents.
        activation: in standard deviations of all images, as text.
        channels, latents: the image with excitation and inhibition map of either scan.
        by_channels, by_latents: what adds most to either side of it.
        bias: what the dictionary's bias adds to the activation.
        rest: what the rest adds.
        written_sides: excitation and inhibition of what the latents write, counted in channels.
        rest_sides: those of the rest, counted in channels.
        l1: the L1 norm of S in channels.
    """

    image: str
    row: int
    tension: tuple[float, float]
    activation: str
    channels: Tile
    latents: Tile
    by_channels: Drivers
    by_latents: Drivers
    bias: float
    rest: float
    written_sides: tuple[float, float]
    rest_sides: tuple[float, float]
    l1: float

    @property
    def remaining(self) -> float:
        """The share of the tension in channels that remains in latents."""
        return self.tension[1] / self.tension[0]

    @property
    def remaining_of_written(self) -> float:
        """The same, of the tension in channels of what the latents write; NaN without any.

        What latents leave is not counted in it on either side.
        """
        tension = min(self.written_sides)
        return self.tension[1] / tension if tension else float("nan")

    @property
    def left(self) -> float:
        """|S| of the rest, counted in channels, over |S| in channels."""
        return sum(self.rest_sides) / self.l1

    def facts(self) -> list[tuple[str, str]]:
        """Its other numbers, as names and values."""
        plus, minus = self.rest_sides
        facts = [
            ("activation", self.activation),
            ("the bias adds", f"{self.bias:+.3g}"),
            ("the rest adds", f"{self.rest:+.3g}"),
            ("the rest in channels", f"+{plus:.3g} and -{minus:.3g}, {self.left:.0%} of |S|"),
            ("what latents write, tension in channels", f"{min(self.written_sides):.3g}"),
            ("share of that which remains", f"{self.remaining_of_written:.0%}"),
        ]
        return [(name, value.replace("-", "−").replace("nan%", "none")) for name, value in facts]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InterferenceImages:
    """Images from either end of what remains of their tension.

    Args:
        found: all images.
        run, latents: the two scans.
        dictionary: whose latents they are.
        goes: images of which least remains, the least first.
        stays: images of which most remains, the most first.
        notes: sentences on what is missing: too few tense images, or none.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return [str(i) for i in range(6)]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> dictionary = opponent.Dictionary.identity(128, "mixed3a")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     runs = [
    ...         opponent.scan_images("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a",
    ...             out=f"{out}/{name}", dictionary=given)
    ...         for name, given in (("channels", None), ("latents", dictionary))]
    ...     shown = opponent.interference_images(*runs, k=1, listed=1, crops=0)
    >>> shown
    InterferenceImages('mixed3b:189@7,7': 1 whose tension goes, 1 whose tension stays)
    >>> shown.goes[0].rest_sides
    (0.0, 0.0)
    """

    found: Interference
    run: Run
    latents: Run
    dictionary: Dictionary
    goes: tuple[InterferenceImage, ...]
    stays: tuple[InterferenceImage, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"InterferenceImages({self.found.feature.label!r}: {len(self.goes)} whose tension "
            f"goes, {len(self.stays)} whose tension stays)"
        )

    @property
    def scale(self) -> float:
        """The value of all maps that is drawn at full strength, in channels and in latents."""
        shown = (*self.goes, *self.stays)
        return overlay_scale([tile for x in shown for tile in (x.channels, x.latents)])

    @property
    def left(self) -> str:
        """What the dictionary leaves of the variance, in words."""
        value = self.dictionary.provenance.get("left")
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return f"{value:.1%}" if known else "not known"

    def provenance(self) -> list[tuple[str, str]]:
        """What all of it was made from, as names and values."""
        ours, theirs, dictionary = self.run.manifest, self.latents.manifest, self.dictionary
        kind = dictionary.kind + (f", {dictionary.active} on" if dictionary.active else "")
        made = [("versions", ours.versions)]
        if theirs.versions != ours.versions:
            made = [("versions, in channels", ours.versions), ("in latents", theirs.versions)]
        return [
            ("network", ours.network.name),
            ("weights (SHA-256)", ours.network.weights_sha256),
            ("feature", self.found.feature.label),
            ("through", ours.through),
            ("rule of attribution", ours.rule),
            ("images", f"{ours.images.count:,} from {ours.images.source}"),
            ("image list (SHA-256)", ours.images.sha256),
            ("dictionary", f"{dictionary.latents:,} latents ({kind})"),
            ("dictionary (SHA-256)", dictionary.sha256()),
            ("variance that it leaves", self.left),
            *((name, ", ".join(f"{k} {v}" for k, v in each.items())) for name, each in made),
            ("run folders", f"{self.run.folder.absolute()}, {self.latents.folder.absolute()}"),
        ]


@displayed
def interference_images(
    run: Run,
    latents: Run,
    feature: Feature | str | None = None,
    *,
    k: int = 4,
    listed: int = 4,
    crops: int = 3,
    network: Network | None = None,
    progress: Progress | None = None,
) -> InterferenceImages:
    """Images whose tension is interference, beside images whose tension is functional.

    What remains of the tension ranks the tenser half of the images. Only the few chosen ones are
    attributed again, for what the rest would add in channels.

    Args:
        run: a scan of the feature through a layer.
        latents: the same through a dictionary of that layer.
        feature: one of the runs' features; default: the only one.
        k: images at either end; fewer where fewer are tense, and none is at both ends.
        listed: latents and channels to list on either side of each image.
        crops: exemplars of each, at most 9.
        network: the network that was scanned; default: loaded again.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The images of either end, with maps, numbers, latents and channels.
    Raises:
        RunError: as `interference` says; the network cannot be loaded or is another.
        ValueError: the runs do not hold that feature, or k or listed is not positive.
        Unreadable: an image that was scanned cannot be read any more.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return [str(i) for i in range(6)]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> dictionary = opponent.Dictionary.identity(128, "mixed3a")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     runs = [
    ...         opponent.scan_images("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a",
    ...             out=f"{out}/{name}", dictionary=given)
    ...         for name, given in (("channels", None), ("latents", dictionary))]
    ...     shown = opponent.interference_images(*runs, k=1, listed=1, crops=0)
    >>> [round(x.remaining, 3) for x in (*shown.goes, *shown.stays)]
    [1.0, 1.0]
    """
    for name, value in (("k", k), ("listed", listed)):
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    found = interference(run, latents, feature)
    dictionary, network = dictionary_of(latents), network_of(run, network)
    if dictionary is None:  # `interference` refuses it
        raise RunError(f"{latents.folder} was scanned through no dictionary")
    goes, stays, notes = _ends(found, k)
    rows = [*goes, *stays]
    made = _Images(run, latents, network, dictionary, found, progress or silent)
    images = made.of(rows, listed, crops)
    return InterferenceImages(
        found=found,
        run=run,
        latents=latents,
        dictionary=dictionary,
        goes=tuple(images[: len(goes)]),
        stays=tuple(images[len(goes) :]),
        notes=notes,
    )


def _ends(found: Interference, k: int) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Rows of which least, and of which most of the tension remains; none is among both."""
    rows, count = found.order(functional=False).tolist(), len(found.images)
    notes = list[str]()
    off = int(((found.channels.tension > 0) & ~found.on).sum())
    if off:
        notes.append(
            f"In {off:,} of the {count:,} images no latent is on: all is in the bias's and the "
            "rest's terms, so that nothing says whether their tension is interference. They are "
            "left out."
        )
    if not rows:
        notes.append(
            f"No image is tense: in none of the {count:,} does {found.feature.label} have both "
            "excitation and inhibition in channels, so there is nothing to compare."
            if not off
            else "No other image is tense, so there is nothing to compare."
        )
        return [], [], tuple(notes)
    each = min(k, len(rows) // 2)
    if each < k:
        several = "image is" if len(rows) == 1 else "images are"
        notes.append(
            f"Only {len(rows)} {several} among the tenser half of {count:,}, too few for {k} at "
            "either end."
        )
    if len(rows) == 1:
        stays = bool(found.remaining[rows[0]] >= 0.5)
        return ([], rows, tuple(notes)) if stays else (rows, [], tuple(notes))
    return rows[:each], rows[::-1][:each], tuple(notes)


class _Images:
    """What makes some rows' images."""

    def __init__(
        self,
        run: Run,
        latents: Run,
        network: Network,
        dictionary: Dictionary,
        found: Interference,
        progress: Progress,
    ) -> None:
        self.run, self.latents, self.network = run, latents, network
        self.dictionary, self.found, self.progress = dictionary, found, progress
        self.feature = found.feature

    def of(self, rows: Sequence[int], listed: int, crops: int) -> list[InterferenceImage]:
        """Images, in the order of the rows."""
        if not rows:
            return []
        found, deviation = self.found, self.found.channels.deviation
        sides = self._sides(rows)
        pairs = [(self.run, found.channels), (self.latents, found.latents)]
        tiles = [run_tiles(run, self.feature, columns, rows) for run, columns in pairs]
        drivers = [self._drivers(run, rows, listed, crops) for run, _ in pairs]
        bias, rest = found.latents.bias, found.latents.rest
        assert bias is not None
        assert rest is not None
        return [
            InterferenceImage(
                image=found.images[row],
                row=row,
                tension=(
                    float(found.channels.tension[row]),
                    float(found.latents.tension[row]),
                ),
                activation=in_deviations(float(found.channels.activation[row]) / deviation),
                channels=tiles[0][i],
                latents=tiles[1][i],
                by_channels=drivers[0][i],
                by_latents=drivers[1][i],
                bias=float(bias[row]),
                rest=float(rest[row]),
                written_sides=sides[i][0],
                rest_sides=sides[i][1],
                l1=float(found.channels.l1[row]),
            )
            for i, row in enumerate(rows)
        ]

    def _sides(self, rows: Sequence[int]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """For each row what the latents write and what they leave, in channels."""
        plan, sides = crop_plan_of(self.run, self.network, [self.feature]), []
        for done, row in enumerate(rows):
            self.progress("what latents leave", done, len(rows))
            inputs, _ = self.network.load_inputs(self.run.images.find(self.found.images[row]))
            (plus, minus), rest = in_channels(
                self.network, inputs, self.feature, plan, self.dictionary
            )
            written = (float(plus[0]), float(minus[0]))
            sides.append((written, (float(rest[0][0]), float(rest[1][0]))))
        return sides

    def _drivers(self, run: Run, rows: Sequence[int], listed: int, crops: int) -> list[Drivers]:
        """For each row its channels, or latents, each shown by its own exemplars."""
        kind = "channel" if run is self.run else "latent"
        plus, minus = run.channel_sides(self.feature, rows=np.asarray(rows, np.int64))
        ranked = [
            rank_channels(plus[[i]], minus[[i]], run.through, listed, kind)
            for i in range(len(rows))
        ]
        shown = list(
            dict.fromkeys(x.channel for each in ranked for x in (*each.exciting, *each.inhibiting))
        )
        self.progress(f"crops of {kind}s", 0, 1)
        tiles = exemplar_tiles(run, self.network, shown, crops) if crops else {}

        def illustrated(side: tuple[Driver, ...]) -> tuple[Driver, ...]:
            return tuple(replace(x, exemplars=tuple(tiles.get(x.channel, ()))) for x in side)

        return [
            replace(
                each,
                exciting=illustrated(each.exciting),
                inhibiting=illustrated(each.inhibiting),
            )
            for each in ranked
        ]
