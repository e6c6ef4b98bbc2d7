"""Feature directions other than units: k-means centroids of hidden vectors, or from a file."""

from opponent.directions.directions import Directions, check_suffix
from opponent.directions.find import (
    find_and_save_directions,
    find_directions,
    load_or_find_directions,
)

__all__ = [
    "Directions",
    "check_suffix",
    "find_and_save_directions",
    "find_directions",
    "load_or_find_directions",
]
