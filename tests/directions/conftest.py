"""A small network, seventy pictures, and the directions of one in the other."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from opponent import Directions, Network


@pytest.fixture(scope="session")
def small() -> "Network":
    from tests.support.directions import small

    return small()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy pictures, three batches, of which one cannot be read and two are black."""
    from tests.support.directions import paint_seventy

    return paint_seventy(tmp_path_factory.mktemp("seventy"))


@pytest.fixture(scope="session")
def found(small: "Network", pictures: Path) -> "Directions":
    """Six directions of 'mixed'."""
    from opponent import find_directions

    return find_directions(small, pictures, "mixed", count=6)
