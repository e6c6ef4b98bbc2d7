"""What the cells of an atlas have in common: their mean S, and the directions that icons take."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from opponent.atlas.atlas import COMMAND
from opponent.core.errors import RunError
from opponent.core.side import Side
from opponent.dictionaries.dictionary import Dictionary
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath, atomic_write, local
from opponent.storage.tables import damage_refused
from opponent.synthesis.targets import decoded

# Images between two checkpoints of the cells' sums.
_SAVED = 2048
_SUMS = "sums"  # the checkpoint
# Largest size in bytes of the sums over latents that are held at once.
_AT_ONCE = 2**29

# From ids of images, what it is for and how many of them are skipped: batches of S and of what S
# weighs (h, or a code), within the window.
Attributions = Callable[
    [Sequence[str], str, int],
    Iterator[tuple[Float[Tensor, "n l y x"], Float[Tensor, "n l y x"]]],
]


@dataclass(frozen=True, kw_only=True)
class Means:
    """The mean S of each cell, and the mean of what S weighs (h), within the window."""

    attribution: Float[Tensor, "m k y x"]
    hidden: Float[Tensor, "m k y x"]

    def __len__(self) -> int:
        return len(self.attribution)


@dataclass(frozen=True, kw_only=True)
class Directions:
    """What the icons of a scan through a dictionary take, in channels, for each cell and side.

    Args:
        both, excitation, inhibition: that side of the cell's mean S_z, at unit norm, decoded; zero
            where the side is empty.
        origin: the dictionary's bias.
        latents: the cells' mean S_z, summed over space.
    """

    both: Float[Tensor, "m k y x"]
    excitation: Float[Tensor, "m k y x"]
    inhibition: Float[Tensor, "m k y x"]
    origin: Float[Tensor, " k"]
    latents: Float[Tensor, "m l"]

    def __len__(self) -> int:
        return len(self.both)

    def of(self, side: Side) -> Float[Tensor, "m k y x"]:
        """The directions of a side.

        Args:
            side: the side.
        """
        sides = {Side.EXCITATION: self.excitation, Side.INHIBITION: self.inhibition}
        return sides.get(side, self.both)


def to_unit(attribution: Float[Tensor, "m l y x"]) -> Float[Tensor, "m l y x"]:
    """Means of S at unit norm, so that all cells weigh alike.

    Args:
        attribution: the means.
    """
    unit: Tensor = attribution / attribution.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return unit


def part_of(unit: Float[Tensor, "m l y x"], side: Side) -> Float[Tensor, "m l y x"]:
    """The part of S that belongs to a side, >= 0; for both S itself.

    Args:
        unit: S.
        side: the side.
    """
    return unit if side is Side.BOTH else (side.sign * unit).clamp(min=0)


def decoded_sides(
    attribution: Float[Tensor, "m l y x"],
    code: Float[Tensor, "m l y x"],
    dictionary: Dictionary,
) -> dict[str, Float[Tensor, "m ..."]]:
    """The directions of cells in channels, and their mean S_z summed over space, by name.

    Args:
        attribution: the cells' mean S_z.
        code: the cells' mean code.
        dictionary: whose latents they are.
    """
    unit, up = to_unit(attribution), code.sign()
    sides = {
        str(side): decoded(up * part_of(unit, side).abs(), dictionary)
        for side in (Side.BOTH, Side.EXCITATION, Side.INHIBITION)
    }
    return {**sides, "latents": attribution.sum((2, 3))}


@dataclass(frozen=True, kw_only=True)
class CellMeans:
    """Computes the means of an atlas' cells, and keeps them in a file.

    Of a scan through a dictionary only the directions are kept, for a mean over thousands of
    latents and all positions is large; so many cells are summed at once as fit.

    Args:
        path: the file.
        checkpoints: where sums are kept that are not finished.
        attributions: gives S of images, in batches.
        shape: latents or channels, rows and columns of S.
        dictionary: whose latents S is of; None for channels.
    """

    path: AnyPath
    checkpoints: CheckpointFolder
    attributions: Attributions
    shape: tuple[int, int, int]
    dictionary: Dictionary | None

    def of(self, ids: Sequence[str], members: Sequence[Sequence[int]]) -> Means | Directions:
        """The means of all cells; computed, where the file is not there.

        Args:
            ids: the ids of the map's images.
            members: for each cell its places among them.
        Raises:
            RunError: the file is damaged.
        """
        groups = self._groups(len(members))
        if not self.path.is_file():
            parts = [self._part(ids, members, group, groups) for group in range(len(groups))]
            tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            done = sum(len(inside) for inside in members)
            with atomic_write(self.path) as file:
                file.write_bytes(save(tensors, {"done": str(done)}))
        # A killed call may have left them.
        for name in (_SUMS, *(_part_name(group) for group in range(len(groups)))):
            self.checkpoints.drop(name)
        return self._read(len(members))

    def _groups(self, cells: int) -> list[range]:
        """The cells that are summed together; of channels all."""
        each = 2 * 8 * self.shape[0] * self.shape[1] * self.shape[2]
        count = cells if self.dictionary is None else max(1, _AT_ONCE // each)
        edges = [*range(0, cells, count), cells]
        return [range(*edge) for edge in pairwise(edges)]

    def _part(
        self, ids: Sequence[str], members: Sequence[Sequence[int]], group: int, groups: list[range]
    ) -> dict[str, Tensor]:
        """What the file holds of some cells."""
        name = _part_name(group)
        if self.checkpoints.has(name):
            with suppress(RunError):  # a damaged checkpoint is computed again
                arrays, _ = self.checkpoints.read(name)
                return {key: torch.from_numpy(array) for key, array in arrays.items()}
        what = "mean attributions"
        if len(groups) > 1:
            what += f", part {group + 1} of {len(groups)}"
        attribution, hidden = self._means(
            ids, [members[cell] for cell in groups[group]], group, what
        )
        if self.dictionary is None:
            return {"attribution": attribution, "hidden": hidden}
        found = decoded_sides(attribution, hidden, self.dictionary)
        if len(groups) > 1:
            self.checkpoints.write(name, {key: x.numpy() for key, x in found.items()})
        return found

    def _means(
        self, ids: Sequence[str], members: Sequence[Sequence[int]], group: int, what: str
    ) -> tuple[Float[Tensor, "m l y x"], Float[Tensor, "m l y x"]]:
        """The mean S and the mean of what it weighs, of some cells."""
        cell_of = {row: cell for cell, rows in enumerate(members) for row in rows}
        rows = sorted(cell_of)
        sums, done = self._sums((2, len(members), *self.shape), group)
        saved = done
        for pair in self.attributions([ids[row] for row in rows], what, done):
            count = len(pair[0])
            where = torch.tensor([cell_of[row] for row in rows[done : done + count]])
            for total, values in zip(sums, pair, strict=True):
                total.index_add_(0, where, values.cpu().double())
            done += count
            if done - saved >= _SAVED:
                about = {"done": done} | ({"group": group} if group else {})
                self.checkpoints.write(_SUMS, {"sums": sums.numpy()}, about)
                saved = done
        counts = torch.tensor([len(inside) for inside in members]).view(-1, 1, 1, 1)
        attribution, hidden = ((total / counts).float() for total in sums)
        return attribution, hidden

    def _sums(self, shape: tuple[int, ...], group: int) -> tuple[Float[Tensor, "2 m l y x"], int]:
        """The sums of S and of h in each cell so far, and the number of images in them."""
        if self.checkpoints.has(_SUMS):
            with suppress(RunError):  # a damaged checkpoint is computed again
                arrays, about = self.checkpoints.read(_SUMS)
                if arrays["sums"].shape == shape and about.get("group", 0) == group:
                    return torch.from_numpy(arrays["sums"]), int(about["done"])
        return torch.zeros(shape, dtype=torch.float64), 0

    def _read(self, cells: int) -> Means | Directions:
        means: Means | Directions
        with (
            damage_refused(self.path, COMMAND),
            local(self.path) as here,
            safe_open(here, framework="pt") as file,
        ):
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            first, *others = arrays.values()
            if any(len(other) != len(first) for other in others) or len(first) != cells:
                raise ValueError(f"it holds {len(first)} of {cells} cells")
            if self.dictionary is None:
                means = Means(attribution=arrays["attribution"], hidden=arrays["hidden"])
                if means.attribution.shape != means.hidden.shape:
                    raise ValueError("its arrays have different shapes")
            else:
                names = ("both", "excitation", "inhibition", "latents")
                means = Directions(
                    **{name: arrays[name] for name in names}, origin=self.dictionary.bias
                )
            return means


def _part_name(group: int) -> str:
    return f"cells-{group:03d}"
