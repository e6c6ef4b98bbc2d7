"""Excitation, inhibition, or both: which side of an attribution is meant."""

from enum import StrEnum


class Side(StrEnum):
    """A side of what drives a feature; a text of the same value serves wherever one is taken.

    >>> import opponent
    >>> [str(side) for side in opponent.Side]
    ['excitation', 'inhibition', 'both']
    >>> opponent.Side.of("inhibition").sign
    -1
    """

    EXCITATION = "excitation"
    INHIBITION = "inhibition"
    BOTH = "both"

    @classmethod
    def of(cls, side: "Side | str") -> "Side":
        """The side that a caller gave: itself, or its text.

        Args:
            side: a side, 'excitation', 'inhibition' or 'both'.
        Raises:
            ValueError: another text.
        """
        try:
            return cls(side)
        except ValueError:
            raise ValueError(f"a side is excitation, inhibition or both, not {side!r}") from None

    @classmethod
    def single(cls, side: "Side | str") -> "Side":
        """As `of`, where only excitation or inhibition has a meaning.

        Args:
            side: a side, 'excitation' or 'inhibition'.
        Raises:
            ValueError: both, or another text.
        """
        chosen = cls.of(side)
        if chosen is cls.BOTH:
            raise ValueError("give one side here: excitation or inhibition")
        return chosen

    @property
    def sign(self) -> int:
        """+1 for excitation, -1 for inhibition, 0 for both."""
        return {"excitation": 1, "inhibition": -1, "both": 0}[self.value]


SIDES = (Side.EXCITATION, Side.INHIBITION)
