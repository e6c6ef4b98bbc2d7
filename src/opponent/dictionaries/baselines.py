"""What dictionaries are compared with: k-means and non-negative factors of hidden vectors."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from opponent.core.progress import Progress, shown
from opponent.dictionaries.dictionary import Dictionary
from opponent.dictionaries.kmeans import clusters, unit_vectors
from opponent.dictionaries.learnt import Learnt
from opponent.dictionaries.stream import measure, question_of, split, vectors_of
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.models.registry import load

# Vectors that factors and clusters are computed of: they are held in memory together.
MOST = 50_000
_Fit = Callable[[Float[np.ndarray, "n k"], int, int], Dictionary]


def kmeans_dictionary(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    *,
    latents: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Learnt:
    """Spherical k-means of a layer's hidden vectors, as a dictionary of which one latent is on.

    Args:
        network: a network, a module or a name.
        images: whatever `open_images` takes.
        layer: whose output it writes.
        latents: how many clusters.
        seed: of the choice of vectors and of the clustering.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The dictionary, and what it leaves of images that were kept out.
    Raises:
        ValueError: too few images or vectors that differ; an unknown layer.
    """
    return _fitted(network, images, layer, latents, seed, "spherical k-means", _kmeans, progress)


def nmf_dictionary(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    *,
    latents: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Learnt:
    """Non-negative matrix factorisation of a layer's hidden vectors, as a dictionary.

    Args:
        network, images, layer, latents, seed, progress: as for `kmeans_dictionary`.
    Returns:
        The dictionary, and what it leaves of images that were kept out.
    Raises:
        ValueError: too few images; an unknown layer, or one whose output is negative.
    Source: Lee & Seung (1999).
    """
    return _fitted(network, images, layer, latents, seed, "non-negative factors", _nmf, progress)


def _fitted(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    latents: int,
    seed: int,
    method: str,
    fit: _Fit,
    progress: Progress | None,
) -> Learnt:
    network = load(network)
    if latents < 1:
        raise ValueError(f"latents must be positive, got {latents}")
    chosen = open_images(images, size=network.preprocessing.size)
    kept_out, taught = split(network, chosen, layer, latents, seed=seed)
    with shown(progress) as report:
        vectors = _sample(network, chosen, layer, taught, latents, seed, report)
        report(method, 0, 1)
        found = fit(vectors, latents, seed)
        report(method, 1, 1)
        left, frequency = measure(found, vectors_of(network, chosen, layer, kept_out))
    about = question_of(network, chosen, layer, method) | {"latents": latents, "seed": seed}
    provenance = {**about, "left": left, "vectors": len(vectors)}
    dictionary = replace(found, layer=layer, provenance=provenance)
    return Learnt(dictionary=dictionary, left=left, curve=(), frequency=frequency)


def _sample(
    network: Network,
    images: ImageSet,
    layer: str,
    taught: np.ndarray,
    latents: int,
    seed: int,
    report: Progress,
) -> Float[np.ndarray, "n k"]:
    """As many vectors of each batch as make `MOST` in all, at random, none of them zero."""
    random, kept, done = np.random.default_rng(seed), list[np.ndarray](), 0
    grid = network.grid(layer)
    share = min(1.0, MOST / (len(taught) * grid.height * grid.width))
    for vectors in vectors_of(network, images, layer, taught):
        values = vectors.cpu().numpy()
        kept.append(values[random.random(len(values)) < share])
        done += len(values) // (grid.height * grid.width)
        report("hidden vectors", min(done, len(taught)), len(taught))
    if not kept:
        raise ValueError("no image could be read; give others")
    found = np.concatenate(kept)
    found = found[found.any(1)]
    if len(found) < latents:
        raise ValueError(
            f"there are {len(found):,} vectors of {layer!r} that are finite and not zero, too few "
            f"for {latents:,} latents; give more images, or fewer latents"
        )
    return found


def _kmeans(vectors: Float[np.ndarray, "n k"], latents: int, seed: int) -> Dictionary:
    centres = unit_vectors(clusters(unit_vectors(vectors), latents, seed)[0])
    decoder = torch.from_numpy(centres.astype(np.float32))
    return Dictionary(
        decoder=decoder, encoder=decoder, bias=torch.zeros(decoder.shape[1]),
        encoder_bias=torch.zeros(latents), kind="topk", active=1,
    )  # fmt: skip


def _nmf(vectors: Float[np.ndarray, "n k"], latents: int, seed: int) -> Dictionary:
    from sklearn.decomposition import MiniBatchNMF
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if vectors.min(initial=0) < 0:
        raise ValueError(
            f"the layer's output is negative in places (down to {vectors.min():.3g}), and "
            "non-negative factors cannot write it; take a layer after a ReLU, or another kind of "
            "dictionary, such as topk"
        )
    with threadpool_limits(1), warnings.catch_warnings():
        # What it leaves is measured; whether it would leave less after more turns is not asked.
        warnings.simplefilter("ignore", ConvergenceWarning)
        factors = MiniBatchNMF(n_components=latents, random_state=seed, max_iter=50).fit(vectors)
    rows = factors.components_.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    decoder = torch.from_numpy(rows / np.where(lengths > 0, lengths, 1))
    return Dictionary(
        decoder=decoder, encoder=None, bias=torch.zeros(decoder.shape[1]),
        encoder_bias=torch.zeros(latents), kind="nonnegative",
    )  # fmt: skip
