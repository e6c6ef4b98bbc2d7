"""What an attribution gives: S, its excitation and inhibition, norms and maps."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from opponent.core.box import Box, overlap
from opponent.core.feature import Feature
from opponent.dictionaries.dictionary import Dictionary

if TYPE_CHECKING:
    from pandas import DataFrame


def energies(
    attribution: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Excitation and inhibition of each image.

    Args:
        attribution: S, in units of the feature's activation.
    Returns:
        Two non-negative vectors in the same units; their difference is the sum of S.
    Source: paper, eq. 2.
    """
    flat = attribution.flatten(1)
    return flat.clamp(min=0).sum(1), flat.clamp(max=0).sum(1).abs()


def energy_maps(
    attribution: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Excitation and inhibition at each position.

    Args:
        attribution: S, in units of the feature's activation.
    Returns:
        phi+ and phi-, both non-negative, in the same units; over a map they sum to `energies`.
    Source: paper, eq. 3.
    """
    return attribution.clamp(min=0).sum(1), (-attribution).clamp(min=0).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution:
    """What drives one feature in each of n images, through one layer with k channels.

    Only the window of the through layer outside which S is zero is kept: h x w of its H x W
    positions. All values are in units of the activation.

    Args:
        feature: with its position written out.
        through: the layer that the activation is explained through.
        activation: f_v, before the ReLU.
        window_attribution: S within the window.
        hidden: h, the through layer's output, within the window.
        window: the window, a box of the through layer's map.
        map_size: (H, W), rows and columns of the through layer's map.
        tokens: names of tokens that lie nowhere on the image, such as 'cls'. They are in the last
            rows of that map, below the grid of those that do.
        baseline: what S starts from, within the window; None is zero.
        images: the images' ids; None where a tensor was given.
        dictionary: whose latents S is of, instead of channels; None for channels. `hidden` is then
            the code, and k the number of latents.
        bias, rest: with a dictionary, what its bias and the rest add to the sum of S: excitation -
            inhibition + bias + rest is the gradient times h.
    Source: paper, eqs. 1 to 3.

    >>> import opponent, torch
    >>> images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    >>> result = opponent.attribute("inceptionv1-small", images, "mixed3b:189", "mixed3a")
    >>> result.attribution.shape, result.window_attribution.shape
    (torch.Size([2, 128, 14, 14]), torch.Size([2, 128, 5, 5]))
    >>> bool(torch.allclose(result.excitation_map.sum((1, 2)), result.excitation))
    True
    >>> list(result.to_pandas().columns)
    ['image', 'activation', 'excitation', 'inhibition', 'l1', 'l2']
    """

    feature: Feature
    through: str
    activation: Float[Tensor, " n"]
    window_attribution: Float[Tensor, "n k h w"]
    hidden: Float[Tensor, "n k h w"]
    window: Box
    map_size: tuple[int, int]
    tokens: tuple[str, ...] = ()
    baseline: Float[Tensor, "k h w"] | None = None
    images: tuple[str, ...] | None = None
    dictionary: Dictionary | None = None
    bias: Float[Tensor, " n"] | None = None
    rest: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.activation)

    def __repr__(self) -> str:
        count = len(self)
        return (
            f"Attribution({self.feature.label!r} through {self.through!r}: "
            f"{count:,} image{'' if count == 1 else 's'})"
        )

    @cached_property
    def attribution(self) -> Float[Tensor, "n k H W"]:
        """S in the through layer's whole map; it is zero outside the window."""
        return self._in_map(self.window_attribution)

    @property
    def change(self) -> Float[Tensor, "n k h w"]:
        """What S weighs, within the window: h less the baseline."""
        return self.hidden if self.baseline is None else self.hidden - self.baseline

    @property
    def excitation(self) -> Float[Tensor, " n"]:
        """E+, the sum of the positive part of S."""
        return energies(self.window_attribution)[0]

    @property
    def inhibition(self) -> Float[Tensor, " n"]:
        """E-, the sum of the negative part of S, as a number >= 0."""
        return energies(self.window_attribution)[1]

    @property
    def tension(self) -> Float[Tensor, " n"]:
        """The smaller of excitation and inhibition: large only where both are."""
        return torch.minimum(*energies(self.window_attribution))

    @property
    def grid(self) -> Box:
        """The box of the map that lies on the image: all of it, but for the rows of `tokens`."""
        height, width = self.map_size
        return Box.full((height - -(-len(self.tokens) // width), width))

    @property
    def grid_window(self) -> Box:
        """The part of the window that lies on the image."""
        return overlap(self.window, self.grid)

    @property
    def excitation_map(self) -> Float[Tensor, "n H W"]:
        """phi+, the positive part of S summed over channels, on the whole grid."""
        return self._in_map(energy_maps(self.window_attribution)[0])[:, *self.grid.slices]

    @property
    def inhibition_map(self) -> Float[Tensor, "n H W"]:
        """phi-, the negative part of S summed over channels, as numbers >= 0, on the whole grid."""
        return self._in_map(energy_maps(self.window_attribution)[1])[:, *self.grid.slices]

    @property
    def token_excitation(self) -> Float[Tensor, "n t"]:
        """phi+ at each of `tokens`; with the map's they sum to the excitation."""
        return self._of_tokens(energy_maps(self.window_attribution)[0])

    @property
    def token_inhibition(self) -> Float[Tensor, "n t"]:
        """phi- at each of `tokens`, as numbers >= 0; with the map's they sum to the inhibition."""
        return self._of_tokens(energy_maps(self.window_attribution)[1])

    @property
    def l1(self) -> Float[Tensor, " n"]:
        """The L1 norm of S: excitation plus inhibition."""
        return self.window_attribution.flatten(1).abs().sum(1)

    @property
    def l2(self) -> Float[Tensor, " n"]:
        """The L2 norm of S."""
        flat = self.window_attribution.flatten(1)
        # In single precision at least: in half, squares of what is over 256 are infinite.
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        return wide.square().sum(1).sqrt().to(flat.dtype)

    @property
    def channels(self) -> Float[Tensor, "n k"]:
        """S summed over space: what each upstream channel adds to the feature."""
        return self.window_attribution.sum((2, 3))

    @property
    def excitation_channels(self) -> Float[Tensor, "n k"]:
        """The positive part of S summed over space: it does not cancel with the negative part."""
        return self.window_attribution.clamp(min=0).sum((2, 3))

    @property
    def inhibition_channels(self) -> Float[Tensor, "n k"]:
        """The negative part of S summed over space, as numbers >= 0."""
        return (-self.window_attribution).clamp(min=0).sum((2, 3))

    def to_arrow(self) -> pa.Table:
        """One row an image: its id (or number), activation, excitation, inhibition and norms."""
        ids = range(len(self)) if self.images is None else self.images
        names = ("activation", "excitation", "inhibition", "l1", "l2")
        values = {name: getattr(self, name).float().cpu().numpy() for name in names}
        return pa.table({"image": list(ids), **values})

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        from opponent.core import notebook

        rows = self.to_arrow().slice(0, notebook.ROWS).to_pylist()
        names = ("activation", "excitation", "inhibition")
        cells = [(str(row["image"]), *(f"{row[name]:.4g}" for name in names)) for row in rows]
        first = [x[: notebook.PICTURES] for x in (self.excitation_map, self.inhibition_map)]
        box = self.grid_window
        maps = [x[:, *box.slices].cpu().double().numpy() for x in first]
        scale = float(max(x.max(initial=0) for x in maps))
        shown = [
            (notebook.sides_map(plus, minus, scale), str(row["image"]))
            for plus, minus, row in zip(*maps, rows, strict=False)
        ]
        return notebook.section(
            repr(self),
            notebook.table(("image", *names), cells, len(self)),
            notebook.text(f"Excitation red, inhibition blue, both green, in {self._where()}:"),
            notebook.pictures(shown, total=len(self)),
        )

    def _where(self) -> str:
        box, (height, width) = self.grid_window, self.grid.numbers[2:]
        return (
            f"rows {box.top} to {box.top + box.height - 1}, "
            f"columns {box.left} to {box.left + box.width - 1} of "
            f"{self.through}'s {height} x {width}"
        )

    def _of_tokens(self, maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n t"]:
        below = self._in_map(maps)[:, self.grid.height :]
        return below.flatten(1)[:, : len(self.tokens)]

    def _in_map(self, values: Float[Tensor, "n *k h w"]) -> Float[Tensor, "n *k H W"]:
        height, width = self.map_size
        box = self.window
        below, right = height - box.top - box.height, width - box.left - box.width
        return functional.pad(values, (box.left, right, box.top, below))
