"""A layout that is quick, where the layout does not matter."""

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain projection in UMAP's place."""
    from opponent.atlas import build

    def project(vectors: np.ndarray, *, seed: int, **_: Any) -> np.ndarray:
        plane = np.random.default_rng(seed).normal(size=(vectors.shape[1], 2))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ plane).astype(np.float32)

    monkeypatch.setattr(build, "lay_out", project)
