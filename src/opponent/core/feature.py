"""Which direction, of which layer, at which position: the thing that every question is about."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_SYNTAX = re.compile(
    r"(?P<layer>[^:@]+):(?P<unit>[^:@]+)(@((?P<row>\d+),(?P<column>\d+)|(?P<token>cls|reg\d+)))?"
)
_HOW = (
    "write LAYER:UNIT, LAYER:UNIT@ROW,COLUMN or LAYER:UNIT@cls, for example 'mixed3b:379' or "
    "'mixed3b:379@7,3'"
)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A direction in a layer's channel space, read at one position.

    Args:
        layer: the layer's name, a `named_modules()` path; 'logits' is the network's output.
        unit: the channel, for a one-hot direction. Give this or `vector`.
        vector: one weight a channel, for any other direction.
        name: what to call the direction in tables and figures.
        position: (row, column) in the layer's map; None is the centre, (H // 2, W // 2), or the
            class token, where the network's answer comes from it.
        token: 'cls' or 'reg0', for a token that lies nowhere on the image. Its position in the
            layer's maps follows from the network: `Network.resolve` writes it out.
        power: p of dot * cos^p, the activation; an even number, so that the sign stays. 0 is the
            dot product; the paper takes 2 for k-means directions.
    Raises:
        ValueError: neither or both of unit and vector; a negative unit or position; a vector that
            is empty, not finite or zero; a power that is odd or negative.
    Source: paper, section 1, notation, and appendix B for the power.

    >>> import opponent, torch
    >>> opponent.Feature.parse("mixed3b:379@7,3")
    Feature('mixed3b:379@7,3')
    >>> feature = opponent.Feature.direction("mixed3b", [1.0, -1.0], name="edge")
    >>> feature.read(torch.tensor([5.0, 2.0]).view(1, 2, 1, 1))
    tensor([3.])
    """

    layer: str
    unit: int | None = None
    vector: tuple[float, ...] | None = None
    name: str | None = None
    position: tuple[int, int] | None = None
    power: int = 0
    token: str | None = None

    def __post_init__(self) -> None:
        if (self.unit is None) == (self.vector is None):
            raise ValueError(
                f"a feature of {self.layer!r} needs either a unit or a vector, not both"
            )
        if self.unit is not None and self.unit < 0:
            raise ValueError(f"unit {self.unit} of {self.layer!r} is negative; units count from 0")
        if self.position is not None and min(self.position) < 0:
            raise ValueError(f"position {self.position} is negative; rows and columns count from 0")
        if self.power < 0 or self.power % 2:
            raise ValueError(f"the cosine's power is 0, 2 or another even number, not {self.power}")
        if self.vector is not None:
            values = torch.tensor(self.vector, dtype=torch.float64)
            if not len(values) or not values.isfinite().all() or not values.any():
                raise ValueError(
                    f"the direction {self.name!r} of {self.layer!r} is empty, zero or not finite"
                )

    @classmethod
    def parse(cls, text: str) -> "Feature":
        """The feature that a text names.

        Args:
            text: LAYER:UNIT, LAYER:UNIT@ROW,COLUMN or LAYER:UNIT@cls, such as 'mixed3b:379',
                'mixed3b:379@7,3' or 'blocks.5:17@cls'.
        Raises:
            ValueError: the text does not have that form.
        """
        match = _SYNTAX.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} does not name a feature; {_HOW}")
        if not match["unit"].isdecimal():
            raise ValueError(
                f"{match['unit']!r} in {text!r} is not a unit's number; {_HOW}; "
                "a direction's name needs its file (--directions, Directions.load)"
            )
        position = (int(match["row"]), int(match["column"])) if match["row"] else None
        return cls(
            layer=match["layer"],
            unit=int(match["unit"]),
            position=position,
            token=match["token"],
        )

    @classmethod
    def of(cls, feature: "Feature | str") -> "Feature":
        """A feature from what a caller gave: itself, or its text.

        Args:
            feature: a feature, or its name as `parse` reads it.
        Raises:
            ValueError: the text does not name a feature.
        """
        return feature if isinstance(feature, Feature) else cls.parse(feature)

    @classmethod
    def direction(
        cls,
        layer: str,
        vector: "Tensor | list[float]",
        *,
        name: str = "direction",
        position: tuple[int, int] | None = None,
        power: int = 0,
    ) -> "Feature":
        """A feature from a vector with one weight a channel.

        Args:
            layer: the layer's name.
            vector: one weight a channel.
            name: what to call the direction in tables and figures.
            position: (row, column) in the layer's map; None is the centre.
            power: p of dot * cos^p, as in `Feature`.
        Raises:
            ValueError: the vector has another number of axes than one, or `Feature` refuses it.
        """
        # Not every device has double precision.
        here = vector.detach().cpu() if isinstance(vector, Tensor) else vector
        values = torch.as_tensor(here, dtype=torch.float64)
        if values.ndim != 1:
            raise ValueError(f"a direction has one axis, channels; got shape {tuple(values.shape)}")
        weights = tuple(values.tolist())
        return cls(layer=layer, vector=weights, name=name, position=position, power=power)

    @property
    def label(self) -> str:
        """The feature's name in tables and figures, 'mixed3b:379@7,3'."""
        what = self.name or "direction" if self.unit is None else str(self.unit)
        where = "" if self.position is None else "@{},{}".format(*self.position)
        where = where if self.token is None else f"@{self.token}"
        return f"{self.layer}:{what}{where}"

    def at(self, position: tuple[int, int] | None) -> "Feature":
        """The same direction at another position, or with none of its own.

        Args:
            position: (row, column) in the layer's map; None is the centre.
        """
        return replace(self, position=position, token=None)

    def placed(self, channels: int, height: int, width: int) -> "Feature":
        """The same feature with its position written out, if the map has more than one.

        Args:
            channels: number of the layer's channels.
            height: rows of its map.
            width: columns of its map.
        Raises:
            ValueError: the feature does not fit a map of that shape.
        """
        position = self.resolve(channels, height, width)
        return replace(self, position=None if height == width == 1 else position)

    def resolve(self, channels: int, height: int, width: int) -> tuple[int, int]:
        """The position in a map of that shape, after checking that the feature fits it.

        Args:
            channels: number of the layer's channels.
            height: rows of its map.
            width: columns of its map.
        Returns:
            (row, column).
        Raises:
            ValueError: the unit, the vector's length or the position does not fit the map.
        """
        if self.unit is not None and self.unit >= channels:
            raise ValueError(
                f"{self.label}: layer {self.layer!r} has {channels} channels, 0 to {channels - 1}"
            )
        if self.vector is not None and len(self.vector) != channels:
            raise ValueError(
                f"{self.label}: the direction has {len(self.vector)} weights, "
                f"but layer {self.layer!r} has {channels} channels"
            )
        if self.token is not None and self.position is None:
            raise ValueError(
                f"{self.label}: where {self.token!r} lies the network knows: `Network.resolve`"
            )
        row, column = self.position or (height // 2, width // 2)
        if row >= height or column >= width:
            raise ValueError(
                f"{self.label}: position {row},{column} lies outside the layer's map of "
                f"{height} rows by {width} columns"
            )
        return row, column

    def read(self, layer: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """The feature's activation in each map of its layer, f_v = h . v at the position.

        With a power p, h . v * cos(h, v)^p.

        Args:
            layer: the layer's maps.
        Returns:
            One value a map, in the layer's own units.
        Raises:
            ValueError: the feature does not fit maps of that shape.
        Source: paper, section 1, notation, and appendix B.
        """
        row, column = self.resolve(*layer.shape[1:])
        hidden = layer[:, :, row, column]
        if self.unit is not None:
            dot, along = hidden[:, self.unit], torch.eye(hidden.shape[1])[self.unit]
        else:
            vector = torch.tensor(self.vector, dtype=layer.dtype, device=layer.device)
            dot, along = hidden @ vector, torch.tensor(self.vector, dtype=torch.float64)
        if not self.power:
            return dot
        along = (along / along.abs().max()).to(layer)
        # Scaled, since squares of very small or large values leave the type's range. Where all is
        # zero there is no direction; the dot product is zero as well.
        largest = hidden.detach().abs().amax(1, keepdim=True)
        scaled = hidden / torch.where(largest > 0, largest, 1)
        norms = scaled.norm(dim=1).clamp(min=0.5) * along.norm()
        weighted: Tensor = dot * (scaled @ along / norms) ** self.power
        return weighted

    def describe(self) -> dict[str, object]:
        """What determines the feature, ready for JSON; `Feature(**...)` gives it back."""
        given = {name: getattr(self, name) for name in ("layer", "unit", "name", "token")}
        given["power"] = self.power or None
        given["vector"] = None if self.vector is None else list(self.vector)
        given["position"] = None if self.position is None else list(self.position)
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def restore(cls, description: Mapping[str, object]) -> "Feature":
        """The feature that `describe` described.

        Args:
            description: what `describe` gave, or the same read from JSON.
        """
        values: dict[str, Any] = dict(description)
        values |= {k: tuple(values[k]) for k in ("vector", "position") if k in values}
        return cls(**values)

    def __repr__(self) -> str:
        return f"Feature({self.label!r})"
