"""What the tests of the paper's experiments share."""

from collections.abc import Iterator

import pytest
import torch

from opponent.models.network import Network
from opponent.models.registry import load


@pytest.fixture(scope="session")
def embedded() -> Network:
    """The embedded network; to be read only."""
    return load()


@pytest.fixture
def random_weights() -> Iterator[None]:
    """A seed for the weights that a test's networks begin with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
