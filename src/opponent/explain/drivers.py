"""Upstream channels by what they add to either side of a feature, and how much these cover."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from opponent.core.side import SIDES, Side
from opponent.explain.crops import Synthetic, Tile

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class Driver:
    """One upstream channel, with both of its sides.

    S of a channel can be positive at one place and negative at another, so a channel can excite and
    inhibit at once.

    Args:
        channel: of the through layer; the latent's number, where S is of a dictionary's latents.
        name: 'mixed3a:17', or 'mixed3a/latent:17'.
        excitation, inhibition: the positive and the negative part of S summed over space, both
            >= 0, in units of the activation: means over the images.
        excitation_sd, inhibition_sd: their standard deviations over the images.
        exemplars: in `who`, where in the scan's images the channel is most active, most active
            first; in `why`, where in the image it adds most to the side that it is listed for.
        visualisation: what is made to excite it, if that was asked for.
    Source: paper, section 3, by channel.

    >>> from opponent.explain.drivers import Driver
    >>> Driver(channel=17, name="mixed3a:17", excitation=2.5, inhibition=2.0).net
    0.5
    """

    channel: int
    name: str
    excitation: float
    inhibition: float
    excitation_sd: float = 0.0
    inhibition_sd: float = 0.0
    exemplars: tuple[Tile, ...] = ()
    visualisation: Synthetic | None = None

    @property
    def net(self) -> float:
        """Excitation minus inhibition: what the channel adds once its two sides cancel."""
        return self.excitation - self.inhibition

    def of(self, side: Side | str) -> float:
        """What it adds to one side, >= 0.

        Args:
            side: 'excitation' or 'inhibition'.
        """
        return self.excitation if Side.single(side) is Side.EXCITATION else self.inhibition


@dataclass(frozen=True, kw_only=True, eq=False)
class Drivers:
    """The channels that matter most on either side, and what all channels add.

    A channel with two large sides is listed on both.

    Args:
        excitation, inhibition: what each of the k channels adds to either side, the mean over the
            images; they sum to the images' mean excitation and inhibition.
        exciting: the channels that add most to excitation, largest first.
        inhibiting: the channels that add most to inhibition, largest first.
        tension_within: the share of the tension that lies within single channels, as
            `tension_within_channels` defines it; None where there is no tension.
        kind: 'channel', or 'latent' where S is of a dictionary's latents.
    Source: paper, section 3, by channel.

    >>> import numpy as np
    >>> from opponent.explain.drivers import rank_channels
    >>> plus, minus = np.array([[3.0, 0.0, 1.0]]), np.array([[2.0, 4.0, 0.0]])
    >>> drivers = rank_channels(plus, minus, "mixed3a", count=1)
    >>> drivers.exciting[0].name, drivers.inhibiting[0].name
    ('mixed3a:0', 'mixed3a:1')
    >>> drivers.covered("excitation"), drivers.tension_within
    (0.75, 0.5)
    """

    excitation: Float[np.ndarray, " k"]
    inhibition: Float[np.ndarray, " k"]
    exciting: tuple[Driver, ...]
    inhibiting: tuple[Driver, ...]
    tension_within: float | None
    kind: str = "channel"

    def listed(self, side: Side | str) -> tuple[Driver, ...]:
        """The channels that are listed on a side.

        Args:
            side: 'excitation' or 'inhibition'.
        """
        return self.exciting if Side.single(side) is Side.EXCITATION else self.inhibiting

    def whole(self, side: Side | str) -> float:
        """What all channels together add to a side.

        Args:
            side: 'excitation' or 'inhibition'.
        """
        values = self.excitation if Side.single(side) is Side.EXCITATION else self.inhibition
        return float(values.sum(dtype=np.float64))

    def covered(self, side: Side | str) -> float | None:
        """The share of a side that the channels listed on it add; None where the side is empty.

        Args:
            side: 'excitation' or 'inhibition'.
        """
        whole = self.whole(side)
        return sum(x.of(side) for x in self.listed(side)) / whole if whole else None

    def facts(self) -> list[tuple[str, str]]:
        """The shares covered, and that of the tension within channels, as name and value."""
        facts = []
        for side in SIDES:
            covered = self.covered(side)
            if covered is not None:
                name = f"{side} by the {_counted(len(self.listed(side)), self.kind)}"
                facts.append((name, f"{covered:.1%}"))
        if self.tension_within is not None:
            facts.append((f"tension within single {self.kind}s", f"{self.tension_within:.1%}"))
        return facts

    def to_arrow(self) -> pa.Table:
        """One row a listed channel and side, with its share of the side and the share so far.

        The last row of a side says what the channels listed on it cover.
        """
        rows = []
        for side in SIDES:
            whole, so_far = self.whole(side), 0.0
            for driver in self.listed(side):
                so_far += driver.of(side)
                rows.append(
                    {
                        "side": str(side),
                        "channel": driver.channel,
                        "name": driver.name,
                        "excitation": driver.excitation,
                        "excitation_sd": driver.excitation_sd,
                        "inhibition": driver.inhibition,
                        "inhibition_sd": driver.inhibition_sd,
                        "net": driver.net,
                        "share": driver.of(side) / whole,
                        "covered": so_far / whole,
                    }
                )
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.to_arrow().to_pandas()


_SCHEMA = pa.schema(
    [
        ("side", pa.string()),
        ("channel", pa.int64()),
        ("name", pa.string()),
        *((name, pa.float64()) for name in ("excitation", "excitation_sd")),
        *((name, pa.float64()) for name in ("inhibition", "inhibition_sd")),
        *((name, pa.float64()) for name in ("net", "share", "covered")),
    ]
)


def rank_channels(
    excitation: Float[np.ndarray, "n k"],
    inhibition: Float[np.ndarray, "n k"],
    through: str,
    count: int,
    kind: str = "channel",
) -> Drivers:
    """The channels that add most to excitation, and those that add most to inhibition.

    Each side by itself: a channel that excites as much as it inhibits is not nothing.

    Args:
        excitation: the positive part of S summed over space, of each image and channel.
        inhibition: the negative part, as numbers >= 0.
        through: the layer of the channels.
        count: how many to list on either side; fewer where fewer add anything.
        kind: 'channel', or 'latent' where they are those of a dictionary of the layer.
    Returns:
        The channels; of equals, the first comes first.
    """
    names = through if kind == "channel" else f"{through}/{kind}"
    sides = [x.astype(np.float64) for x in (excitation, inhibition)]
    means, deviations = [x.mean(0) for x in sides], [x.std(0) for x in sides]
    listed = [
        tuple(
            Driver(
                channel=k,
                name=f"{names}:{k}",
                excitation=float(means[0][k]),
                inhibition=float(means[1][k]),
                excitation_sd=float(deviations[0][k]),
                inhibition_sd=float(deviations[1][k]),
            )
            for k in np.argsort(-mean, kind="stable")[:count].tolist()
            if mean[k] > 0
        )
        for mean in means
    ]
    return Drivers(
        excitation=means[0],
        inhibition=means[1],
        exciting=listed[0],
        inhibiting=listed[1],
        tension_within=tension_within_channels(*sides),
        kind=kind,
    )


def tension_within_channels(
    excitation: Float[np.ndarray, "n k"], inhibition: Float[np.ndarray, "n k"]
) -> float | None:
    """How much of the images' tension lies within single channels.

    The tension of an image is min(E+, E-). Of that, min(E+_c, E-_c) lies within channel c, which
    excites at one place and inhibits at another. The sum of these over channels and images, over
    the sum of the tension over images: 0 where each channel of an image has one sign alone, 1 where
    channels need not be told apart to see the tension.

    Args:
        excitation: the positive part of S summed over space, of each image and channel.
        inhibition: the negative part, as numbers >= 0.
    Returns:
        A share from 0 to 1; None where no image has tension.
    Source: ours.
    """
    within = np.minimum(excitation, inhibition).sum(dtype=np.float64)
    plus, minus = (x.sum(1, dtype=np.float64) for x in (excitation, inhibition))
    tension = np.minimum(plus, minus).sum()
    return min(1.0, float(within / tension)) if tension else None


def _counted(count: int, kind: str) -> str:
    return f"one {kind} listed" if count == 1 else f"{count} {kind}s listed"
