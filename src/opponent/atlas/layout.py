"""From attributions to places on a map, and from places to the cells of a grid: pure functions.

Source: paper, section 5; constants as Carter et al. (2019) where the paper names none.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from opponent.selection import top
from opponent.storage.columns import Indices

# How the layout becomes a square: its 1st and 99th percentile, and a margin of a tenth around.
PERCENTILES, MARGIN = (1.0, 99.0), 0.1
# Trustworthiness takes all pairs; beyond so many images it is that of a seeded sample.
TRUSTED = 3000


def largest(l2: Float[np.ndarray, " n"], count: int) -> Indices:
    """The images with the largest L2 norm of S, largest first; images that nothing drives never.

    Source: paper, section 5, image selection.
    """
    return top(l2, count, l2 > 0)


def lay_out(
    vectors: Float[np.ndarray, "n d"], *, neighbours: int = 10, min_dist: float = 0.1, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """A place in the plane for each vector, so that vectors of like direction lie together: UMAP.

    Raises:
        ValueError: too few vectors; one that is zero or not finite.
    Source: paper, section 5, attribution UMAP.
    """
    least = 2 * neighbours
    if len(vectors) < least:
        raise ValueError(
            f"a map of {len(vectors)} images: UMAP with {neighbours} neighbours needs at least "
            f"{least} that drive the feature; scan more images"
        )
    if not np.isfinite(vectors).all() or not vectors.any(1).all():
        raise ValueError("a map needs vectors that are finite and not zero; scan again")
    # Slow to import: only where it is used.
    from umap import UMAP

    # One thread, as the seed asks for.
    mapper = UMAP(
        n_neighbors=neighbours, min_dist=min_dist, metric="cosine", random_state=seed, n_jobs=1
    )
    threads = torch.get_num_threads()
    try:
        places: Float[np.ndarray, "n 2"] = mapper.fit_transform(vectors)
    finally:
        # Its threads are PyTorch's: it sets how many, and with other threads the icons round
        # otherwise.
        torch.set_num_threads(threads)
    return places


def to_square(layout: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """A layout scaled to the unit square; what lies far out is moved to its border."""
    low, high = np.percentile(layout.astype(np.float64), PERCENTILES, axis=0)
    margin = MARGIN * (high - low)
    low, span = low - margin, high - low + 2 * margin
    scaled: Float[np.ndarray, "n 2"] = np.clip((layout - low) / np.where(span > 0, span, 1), 0, 1)
    return scaled


def cells_of(square: Float[np.ndarray, "n 2"], grid: int) -> Int[np.ndarray, "n 2"]:
    """The cell (row, column) of each place, row 0 at the top, where y is largest."""
    column, up = np.minimum((square * grid).astype(np.int64), grid - 1).T
    return np.stack([grid - 1 - up, column], axis=1)


def occupied(cells: Int[np.ndarray, "n 2"], min_images: int) -> Int[np.ndarray, "m 2"]:
    """The cells with enough images, row by row.

    Raises:
        ValueError: there is none.
    """
    found, counts = np.unique(cells, axis=0, return_counts=True)
    if not (counts >= min_images).any():
        raise ValueError(
            f"no cell of the grid holds {min_images} images (the fullest holds {counts.max()} of "
            f"{len(cells)}); take a coarser grid, fewer images a cell, or more images"
        )
    return found[counts >= min_images]


def trustworthiness(
    vectors: Float[np.ndarray, "n d"], square: Float[np.ndarray, "n 2"], neighbours: int, seed: int
) -> float:
    """How far neighbours on the map are neighbours in truth, from 0 to 1; of a sample if large.

    Source: Venna & Kaski (2001), with the cosine distance.
    """
    from sklearn.manifold import trustworthiness as measure

    rows = np.random.default_rng(seed).permutation(len(vectors))[:TRUSTED]
    neighbours = min(neighbours, (len(rows) - 1) // 2)
    return float(measure(vectors[rows], square[rows], n_neighbors=neighbours, metric="cosine"))
