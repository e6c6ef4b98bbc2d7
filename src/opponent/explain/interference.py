"""Which tension is interference: it goes away where interfering features are counted as latents.

A layer of more features than channels writes several features by the same channels. What one of
them adds to a channel, another may take away, without any weight between the features themselves.
Counted by latents of a dictionary, such terms fall together. What is tense in channels and not in
latents was interference; what is tense in both is held back by one latent against another.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.storage.columns import Columns
from opponent.storage.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame

# How far activations of the two scans may lie apart, in standard deviations. Ours.
_APART = 1e-2
# What a message says of two runs that differ in it.
_SHORT = ("computations", "through layers", "rules")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Interference:
    """One feature's tension over the same n images, in channels and in latents.

    Args:
        feature: the feature.
        images: the images' ids.
        channels, latents: the columns of either scan, in the images' order.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> dictionary = opponent.Dictionary.identity(128, "mixed3a")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     runs = [
    ...         opponent.scan_images("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a",
    ...             out=f"{out}/{name}", dictionary=given)
    ...         for name, given in (("channels", None), ("latents", dictionary))]
    ...     opponent.interference(*runs).remaining
    array([1., 1., 1., 1.], dtype=float32)
    """

    feature: Feature
    images: tuple[str, ...]
    channels: Columns
    latents: Columns

    def __repr__(self) -> str:
        return f"Interference({self.feature.label!r}: {len(self.images):,} images)"

    @property
    def remaining(self) -> Float[np.ndarray, " n"]:
        """Tension in latents over tension in channels.

        It is NaN where there is none in channels, and where no latent is `on`: there nothing goes
        away, it is not counted.
        """
        tense = self.channels.tension
        shares: Float[np.ndarray, " n"] = np.divide(
            self.latents.tension, tense, out=np.full_like(tense, np.nan), where=self._ranked
        )
        return shares

    @property
    def on(self) -> Bool[np.ndarray, " n"]:
        """Whether the S of any latent is not zero."""
        counted: Bool[np.ndarray, " n"] = self.latents.l1 > 0
        return counted

    @property
    def _ranked(self) -> Bool[np.ndarray, " n"]:
        ranked: Bool[np.ndarray, " n"] = (self.channels.tension > 0) & self.on
        return ranked

    def order(self, *, functional: bool, least: float = 0.5) -> Int[np.ndarray, " m"]:
        """Rows of tense images: first those whose tension remains, or first those where it goes.

        Args:
            functional: whether what remains comes first.
            least: only images at or over this quantile of tension in channels: of what is hardly
                tense, a share says nothing.
        Returns:
            The rows; without those of images in which no latent is on.
        """
        tense = self.channels.tension
        [rows] = np.nonzero((tense >= np.quantile(tense, least)) & self._ranked)
        shares = self.remaining[rows]
        return rows[np.argsort(-shares if functional else shares, kind="stable")]

    def facts(self) -> list[tuple[str, str]]:
        """What is to be said of all images together, as names and values."""
        rows = self.order(functional=True)
        found = list[tuple[str, str]]()
        for name, one, other in (
            ("mean L1 of S", self.channels.l1, self.latents.l1),
            ("mean tension", self.channels.tension, self.latents.tension),
        ):
            found.append((name, f"{one.mean():.4g} in channels, {other.mean():.4g} in latents"))
        found.append(("mean |E|", f"{float(np.abs(self.channels.total).mean()):.4g}"))
        apart = [x for x in (self.latents.bias, self.latents.rest) if x is not None]
        if apart:
            sizes = [float(np.abs(x).mean()) for x in apart]
            found.append(("mean |term| of bias, of rest", ", ".join(f"{x:.4g}" for x in sizes)))
        if off := int(((self.channels.l1 > 0) & ~self.on).sum()):
            found.append(("images in which no latent is on", f"{off:,} of {len(self.images):,}"))
        if len(rows):
            low, middle, high = np.quantile(self.remaining[rows], [0.1, 0.5, 0.9])
            found.append(
                (
                    "share of tension that remains, in the tenser half",
                    f"{middle:.0%} (median; 10 % to 90 %: {low:.0%} to {high:.0%})",
                )
            )
        return found

    def to_arrow(self) -> pa.Table:
        """One row an image: tension in channels and in latents, the share that remains, norms."""
        return pa.table(
            {
                "image": list(self.images),
                "activation": self.channels.activation,
                "tension_channels": self.channels.tension,
                "tension_latents": self.latents.tension,
                "remaining": self.remaining,
                "l1_channels": self.channels.l1,
                "l1_latents": self.latents.l1,
            }
        )

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.to_arrow().to_pandas()


def interference(run: Run, latents: Run, feature: Feature | str | None = None) -> Interference:
    """Compare one feature's tension in channels with that in a dictionary's latents.

    Args:
        run: a scan of the feature through a layer.
        latents: the same through a dictionary of that layer.
        feature: one of the runs' features; default: the only one.
    Returns:
        Both, over the images of both, which are the same.
    Raises:
        RunError: the second scan is through no dictionary, the first is, or they are of different
            networks, layers, rules or images; other activations; no latent is on in any image.
        ValueError: the runs do not hold that feature.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> dictionary = opponent.Dictionary.identity(128, "mixed3a")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     runs = [
    ...         opponent.scan_images("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a",
    ...             out=f"{out}/{name}", dictionary=given)
    ...         for name, given in (("channels", None), ("latents", dictionary))]
    ...     opponent.interference(*runs)
    Interference('mixed3b:189@7,7': 4 images)
    """
    if latents.manifest.dictionary is None or run.manifest.dictionary is not None:
        raise RunError(
            "give a scan in channels first, and then one through a dictionary (scan --dictionary)"
        )
    ours, theirs = run.manifest, latents.manifest
    for what, one, other in (
        ("computations", ours.network.dtype, theirs.network.dtype),
        ("networks", ours.network.weights_sha256, theirs.network.weights_sha256),
        ("preparations of images", ours.network.preprocessing, theirs.network.preprocessing),
        ("through layers", ours.through, theirs.through),
        ("rules", ours.rule, theirs.rule),
        ("images", ours.images.sha256, theirs.images.sha256),
    ):
        if one != other:
            raise RunError(
                f"{run.folder} and {latents.folder} are of different {what}"
                + (f" ({one} and {other})" if what in _SHORT else "")
                + "; scan both alike, the second with --dictionary"
            )
    chosen = run.feature(feature)
    if chosen not in latents.features:
        held = ", ".join(x.label for x in latents.features) or "none"
        raise RunError(
            f"{latents.folder} holds no {chosen.label}, but {held}; scan it through the dictionary "
            "too"
        )
    first, second = run.columns(chosen), latents.columns(chosen)
    if first.images != second.images:
        raise RunError(f"{run.folder} and {latents.folder} have other images that could be read")
    apart = np.abs(first.activation.astype(np.float64) - second.activation)
    # The same network, images and feature: what is more than rounding is another one of them.
    if others := int((apart > _APART * first.deviation).sum()):
        raise RunError(
            f"{run.folder} and {latents.folder} have other activations of {chosen.label} in "
            f"{others:,} of {len(apart):,} images, so that images or network changed between them; "
            "scan both again, into other folders"
        )
    found = Interference(feature=chosen, images=first.images, channels=first, latents=second)
    if first.l1.any() and not found.on.any():
        raise RunError(
            f"no latent of the dictionary of {latents.folder} is on where {chosen.label} looks, in "
            f"any of its {len(found.images):,} images: all of S is in the bias's and the rest's "
            "terms; learn the dictionary from images like these, or of that layer"
        )
    return found
