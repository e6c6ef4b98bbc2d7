"""Which axis of a layer's output is which, and how the output becomes maps and back.

All else in the package works on maps (images, channels, rows, columns). A layer's output may have
its channels last, be a vector, or be a list of tokens. Tokens that lie on the image are put into
their grid. Those that do not, such as the class token, follow in rows below the grid.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.box import Box
from opponent.core.errors import UnknownLayout

_HOW = (
    "write the axes in order, such as 'n c h w', 'n h w c', 't n c', 'n c' or, with one class "
    "token before 14 rows of 14 tokens, 'n 1+14x14 c'"
)
_TOKENS = re.compile(r"(?:(\d+)\+)?(\d+)x(\d+)")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The axes of a layer's output.

    Args:
        axes: one letter an axis: n images, c channels, h rows, w columns, t tokens; 1 is an axis
            of one element that means nothing.
        grid: (rows, columns) of the tokens that lie on the image.
        places: for each place of the grid, row by row, the number of its token.
        extras: the numbers of the tokens that lie nowhere on the image.
        names: what these are called, such as 'cls' and 'reg0'.
    """

    axes: str
    grid: tuple[int, int] | None = None
    places: tuple[int, ...] = ()
    extras: tuple[int, ...] = ()
    names: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of_tokens(
        cls,
        axes: str,
        grid: tuple[int, int],
        places: Sequence[int] | None = None,
        extras: Sequence[int] = (),
        names: Sequence[str] = (),
    ) -> "Layout":
        """The layout of a list of tokens.

        Args:
            axes: as in `Layout`, with a t.
            grid, extras, names: as in `Layout`.
            places: as in `Layout`; default: all tokens but the extras, in order.
        """
        if places is None:
            places = sorted(set(range(grid[0] * grid[1] + len(extras))) - set(extras))
        return cls(
            axes=axes, grid=grid, places=tuple(places), extras=tuple(extras), names=tuple(names)
        )

    @classmethod
    def parse(cls, text: str, shape: Sequence[int]) -> "Layout":
        """The layout that a user says a layer has.

        Args:
            text: the axes in order, such as 'n h w c', or 'n 1+14x14 c' for tokens with a class
                token before a grid. A plain t is a list of tokens without rows and columns.
            shape: of the layer's output.
        Raises:
            ValueError: the text is no layout, or does not fit the shape.
        """
        words = text.split()
        matches = [_TOKENS.fullmatch(word) for word in words]
        letters = "".join("t" if m else w for m, w in zip(matches, words, strict=True))
        rest = letters.replace("1", "")
        if len(letters) != len(words) or len(set(rest)) < len(rest) or "n" not in rest:
            raise ValueError(f"{text!r} is no layout; {_HOW}")
        if set(rest) - set("nchwt") or ("t" in rest and set(rest) & set("hw")):
            raise ValueError(f"{text!r} is no layout; {_HOW}")
        fits = len(shape) == len(letters)
        if fits and "t" not in letters:
            return cls(axes=letters)
        count = shape[letters.index("t")] if fits else 0
        match = next((m for m in matches if m), None)
        said = (0, count, 1) if match is None else (int(x or 0) for x in match.groups())
        before, rows, columns = said
        if not fits or before + rows * columns != count:
            raise ValueError(f"the layout {text!r} does not fit an output of shape {(*shape,)}")
        return cls.of_tokens(
            letters, (rows, columns), extras=range(before), names=names_of_extras(before, True)
        )

    @property
    def text(self) -> str:
        """The axes as a person reads them, 'n c h w' or 'n 1+14x14 c'."""
        before = f"{len(self.extras)}+" if self.extras else ""
        tokens = "t" if self.grid is None else "{}{}x{}".format(before, *self.grid)
        return " ".join(tokens if axis == "t" else axis for axis in self.axes)

    def shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(channels, rows, columns) of the maps that outputs of some shape become."""
        channels, height, width = self.to_map(torch.empty(*shape, device="meta")).shape[1:]
        return channels, height, width

    def grid_box(self, shape: Sequence[int]) -> Box:
        """The box of those maps that lies on the image: all of it, where there are no extras."""
        return Box.full(self.shape(shape)[1:] if self.grid is None else self.grid)

    def to_map(self, tensor: Tensor) -> Float[Tensor, "n c h w"]:
        """A layer's output as maps.

        Raises:
            UnknownLayout: the output has other axes, or another number of tokens.
        """
        if tensor.ndim != len(self.axes):
            raise UnknownLayout(
                f"the output has shape {(*tensor.shape,)}, where {self.text!r} is expected"
            )
        if self.axes == "nchw":
            return tensor
        order = [self.axes.index(axis) for axis in "ncthw" if axis in self.axes]
        order += [number for number, axis in enumerate(self.axes) if axis == "1"]
        moved = tensor.permute(order)
        sizes = {axis: tensor.shape[self.axes.index(axis)] for axis in self.axes}
        plain = [sizes["n"], sizes.get("c", 1)]
        if self.grid is None:
            return moved.reshape(*plain, sizes.get("h", 1), sizes.get("w", 1))
        return self._to_grid(moved.reshape(*plain, sizes["t"]))

    def from_map(self, maps: Float[Tensor, "n c h w"]) -> Tensor:
        """The inverse of `to_map`, with the axes in memory in the order that they have.

        Raises:
            UnknownLayout: the maps have another number of tokens.
        """
        if self.axes == "nchw":
            return maps
        if self.grid is None:
            sizes = dict(zip("nchw", maps.shape, strict=True))
            kept = [axis for axis in "nchw" if axis in self.axes]
            moved = maps.reshape([sizes[axis] for axis in kept])
        else:
            kept = [axis for axis in "nct" if axis in self.axes]
            tokens = self._from_grid(maps)
            moved = tokens if "c" in self.axes else tokens.flatten(1)
        in_order = moved.permute([kept.index(axis) for axis in self.axes if axis != "1"])
        for number, axis in enumerate(self.axes):
            if axis == "1":
                in_order = in_order.unsqueeze(number)
        # A network may look at its tensors as if they lay in memory in their own order.
        return in_order.contiguous()

    def _to_grid(self, tokens: Float[Tensor, "n c t"]) -> Float[Tensor, "n c h w"]:
        assert self.grid is not None
        if tokens.shape[2] != len(self.places) + len(self.extras):
            raise UnknownLayout(
                f"the output has {tokens.shape[2]} tokens, where {self.text!r} is expected"
            )
        on_image: Tensor = _taken(tokens, self.places).unflatten(2, self.grid)
        if not self.extras:
            return on_image
        width = self.grid[1]
        below = _taken(tokens, self.extras)
        empty = below.new_zeros(*below.shape[:2], -len(self.extras) % width)
        rows = torch.cat([below, empty], 2).unflatten(2, (-1, width))
        return torch.cat([on_image, rows], 2)

    def _from_grid(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c t"]:
        assert self.grid is not None
        (height, width), count = self.grid, len(self.extras)
        if tuple(maps.shape[2:]) != (height - (-count // width), width):
            raise UnknownLayout(
                f"maps have {maps.shape[2]} x {maps.shape[3]} positions, where {self.text!r} is "
                "expected"
            )
        listed = torch.cat(
            [maps[:, :, :height].flatten(2), maps[:, :, height:].flatten(2)[..., :count]], 2
        )
        numbers = (*self.places, *self.extras)
        inverse = sorted(range(len(numbers)), key=numbers.__getitem__)
        return _taken(listed, inverse)


def _taken(tokens: Float[Tensor, "n c t"], numbers: Sequence[int]) -> Float[Tensor, "n c s"]:
    """Tokens by their numbers; a view, where they follow each other."""
    first = numbers[0] if numbers else 0
    if tuple(numbers) == tuple(range(first, first + len(numbers))):
        return tokens[..., first : first + len(numbers)]
    return tokens.index_select(2, torch.tensor(numbers, device=tokens.device))


def names_of_extras(count: int, has_class_token: bool) -> tuple[str, ...]:
    """What tokens that lie nowhere on the image are called: 'cls', if there is one, then 'reg0'."""
    registers = tuple(f"reg{k}" for k in range(count - has_class_token))
    return ("cls", *registers)[:count] if has_class_token else registers
