"""k-means of vectors by their direction: pure functions."""

import numpy as np
from jaxtyping import Float, Int


def unit_vectors(vectors: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Scale vectors, of any length but zero, to unit length."""
    scaled = vectors / np.abs(vectors).max(1, keepdims=True)
    unit: Float[np.ndarray, "n c"] = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit


def clusters(
    vectors: Float[np.ndarray, "n c"], count: int, seed: int
) -> tuple[Float[np.ndarray, "k c"], Int[np.ndarray, " n"]]:
    """k-means, on one thread, so that sums have a fixed order.

    Args:
        vectors: what is clustered; of unit length, that is spherical k-means.
        count: k.
        seed: seed of the first centres.
    Returns:
        The centres, and for each vector the number of its cluster.
    Raises:
        ValueError: there are fewer different vectors than clusters.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if len(np.unique(vectors, axis=0)) < count:
        raise ValueError(f"there are fewer than {count} directions that differ: ask for fewer")
    with threadpool_limits(1):
        kmeans = KMeans(n_clusters=count, n_init=1, random_state=seed).fit(vectors)
    return kmeans.cluster_centers_, kmeans.labels_
