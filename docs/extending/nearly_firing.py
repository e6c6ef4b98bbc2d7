"""A selection: the images in which a feature came nearest to firing, and did not."""

import numpy as np

import opponent


def nearest(columns: opponent.Columns, k: int) -> np.ndarray:
    """Indices of at most k images, the most telling first."""
    order = np.argsort(-columns.activation, kind="stable")
    return order[columns.activation[order] < 0][:k]


nearly_firing = opponent.Selection(
    name="nearly_firing",
    meaning="largest activation below zero",
    rule=nearest,
    colour="#b7791f",
)
