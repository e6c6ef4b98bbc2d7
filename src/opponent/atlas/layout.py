"""From attributions to places on a map, and from places to cells of a grid: pure functions.

Source: paper, section 5; constants as Carter et al. (2019) where the paper names none.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from opponent.core.compiled import keep_compiled
from opponent.selection import top
from opponent.storage.columns import Indices

# The layout becomes a square from its 1st to its 99th percentile, with a margin of a tenth around.
PERCENTILES, MARGIN = (1.0, 99.0), 0.1
# Trustworthiness compares all pairs; of more images than this, a seeded sample is taken.
TRUSTED = 3000


def largest(l2: Float[np.ndarray, " n"], count: int) -> Indices:
    """The images with the largest L2 norm of S, largest first; never those whose S is zero.

    Args:
        l2: L2 norm of S of each image.
        count: largest number of images.
    Returns:
        Places of the images.
    Source: paper, section 5, image selection.
    """
    return top(l2, count, l2 > 0)


def lay_out(
    vectors: Float[np.ndarray, "n d"], *, neighbours: int = 10, min_dist: float = 0.1, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Lay out vectors in the plane with UMAP, so that those of similar direction lie together.

    Args:
        vectors: S of each image, flat.
        neighbours: UMAP's number of neighbours.
        min_dist: UMAP's smallest distance between places.
        seed: seed of the layout.
    Returns:
        Places in the plane, in units of UMAP's own.
    Raises:
        ValueError: there are too few vectors, or one is zero or not finite.
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
    keep_compiled("umap", "pynndescent")
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
        # UMAP sets the number of threads that PyTorch uses too, and icons round differently with
        # another number.
        torch.set_num_threads(threads)
    return places


def to_square(layout: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Scale a layout to the unit square; places far outside move to the border.

    Args:
        layout: places in the plane.
    Returns:
        Places from 0 to 1.
    """
    low, high = np.percentile(layout.astype(np.float64), PERCENTILES, axis=0)
    margin = MARGIN * (high - low)
    low, span = low - margin, high - low + 2 * margin
    scaled: Float[np.ndarray, "n 2"] = np.clip((layout - low) / np.where(span > 0, span, 1), 0, 1)
    return scaled


def cells_of(square: Float[np.ndarray, "n 2"], grid: int) -> Int[np.ndarray, "n 2"]:
    """The cell of each place; row 0 is at the top, where y is largest.

    Args:
        square: places in the unit square.
        grid: number of cells along each side.
    Returns:
        (row, column) of each place.
    """
    column, up = np.minimum((square * grid).astype(np.int64), grid - 1).T
    return np.stack([grid - 1 - up, column], axis=1)


def occupied(cells: Int[np.ndarray, "n 2"], min_images: int) -> Int[np.ndarray, "m 2"]:
    """The cells that hold enough images, row by row.

    Args:
        cells: (row, column) of each image.
        min_images: smallest number of images.
    Returns:
        (row, column) of each such cell.
    Raises:
        ValueError: there is no such cell.
    """
    different, counts = np.unique(cells, axis=0, return_counts=True)
    if not (counts >= min_images).any():
        raise ValueError(
            f"no cell of the grid holds {min_images} images (the fullest holds {counts.max()} of "
            f"{len(cells)}); take a coarser grid, fewer images a cell, or more images"
        )
    return different[counts >= min_images]


def trustworthiness(
    vectors: Float[np.ndarray, "n d"], square: Float[np.ndarray, "n 2"], neighbours: int, seed: int
) -> float:
    """How far neighbours on the map are neighbours by their vectors, from 0 to 1.

    Args:
        vectors: what was laid out.
        square: places on the map.
        neighbours: how many neighbours are compared.
        seed: seed of the sample that is taken of more than `TRUSTED` images.
    Source: Venna & Kaski (2001), with the cosine distance.
    """
    from sklearn.manifold import trustworthiness as measure

    rows = np.random.default_rng(seed).permutation(len(vectors))[:TRUSTED]
    neighbours = min(neighbours, (len(rows) - 1) // 2)
    return float(measure(vectors[rows], square[rows], n_neighbors=neighbours, metric="cosine"))
