"""Directions from k-means of a layer's hidden vectors."""

from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from opponent.attribution.attribute import BATCH
from opponent.core.progress import Progress, shown
from opponent.dictionaries.kmeans import clusters, unit_vectors
from opponent.directions.directions import Directions, check_suffix
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.files import AnyPath
from opponent.storage.manifest import versions


def find_directions(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    *,
    count: int = 1000,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    progress: Progress | None = None,
) -> Directions:
    """Cluster the hidden vectors of a layer, one random position of each image: spherical k-means.

    Args:
        network: a network, a module or a name.
        images: a folder, an archive, a data set, arrays: whatever `open_images` takes.
        layer: the layer whose output (after the ReLU) is clustered.
        count: k, the number of directions.
        seed: seed of the positions and of the clustering.
        checkpoints: a folder for the finished parts of the pass over the images. After an
            interruption the next call continues from there, also with another k.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        Directions of unit length, 'kmeans0' and so on.
    Raises:
        ValueError: there are fewer images than directions, no such layer, or a seed out of range.
        RunError: a checkpoint is damaged.
        FileNotFoundError: there is no such folder or file of images.
    Source: paper, appendices B and H.

    >>> import numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> directions = opponent.find_directions("inceptionv1-small", Noise(), "mixed3a", count=2)
    >>> directions.labels, directions.vectors.shape
    (('kmeans0', 'kmeans1'), (2, 128))
    >>> directions.feature("kmeans0", power=2)
    Feature('mixed3a:kmeans0')
    """
    network = load(network)
    grid = network.grid(layer)
    shape = (network.map_shape(layer)[0], grid.height, grid.width)
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of a clustering lies between 0 and 2^32 - 1, got {seed}")
    chosen = open_images(images, size=network.preprocessing.size)
    if not 1 <= count <= len(chosen):
        raise ValueError(
            f"k = {count} directions from {len(chosen)} images, one vector each: give more images "
            "or a smaller k"
        )
    provenance = {
        "method": "spherical k-means",
        "k": count,
        "seed": seed,
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "layer": layer,
        "preprocessing": network.preprocessing.describe(),
        "images": {"count": len(chosen), "sha256": chosen.digest()},
        "versions": {**versions(), "scikit-learn": version("scikit-learn")},
    }
    with shown(progress) as report, TemporaryDirectory(prefix="opponent-") as temporary:
        folder = CheckpointFolder.named(
            Path(checkpoints or temporary), layer, {**provenance, "k": None}
        )
        vectors = _hidden_vectors(network, chosen, layer, shape, seed, folder, report)
        vectors = unit_vectors(vectors[vectors.any(1) & np.isfinite(vectors).all(1)])
        different = len(np.unique(vectors, axis=0))
        if different < count:
            raise ValueError(
                f"only {different} of {len(chosen)} images gave a vector of {layer!r} of its own, "
                f"finite and not zero, too few for k = {count}; give more images or a smaller k"
            )
        report("clustering", 0, 1)
        centres = clusters(vectors, count, seed)[0]
        report("clustering", 1, 1)
    return Directions(
        vectors=unit_vectors(centres).astype(np.float32),
        labels=tuple(f"kmeans{i}" for i in range(count)),
        layer=layer,
        provenance={**provenance, "vectors": len(vectors)},
    )


def find_and_save_directions(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    file: str | Path,
    *,
    count: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Directions:
    """`find_directions`, saved to a file; its checkpoints lie beside the file until then.

    Args:
        network, images, layer, count, seed, progress: as for `find_directions`.
        file: the file, ending .safetensors.
    Returns:
        The directions.
    Raises:
        ValueError: as for `find_directions`, or the suffix is another.
    """
    file = Path(file)
    check_suffix(file)
    checkpoints = file.with_name(f".{file.stem}.checkpoints")
    directions = find_directions(
        network, images, layer, count=count, seed=seed, checkpoints=checkpoints, progress=progress
    )
    directions.save(file)
    rmtree(checkpoints, ignore_errors=True)
    return directions


def load_or_find_directions(
    network: Network | nn.Module | str,
    images: Images,
    layer: str,
    file: AnyPath,
    *,
    count: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Directions:
    """Directions from a file; where there is none, they are computed and saved there first.

    Args:
        network, images, layer, count, seed, progress: as for `find_directions`.
        file: the file, ending .safetensors.
    Returns:
        The directions, as they are read back.
    Raises:
        OSError: the file cannot be read.
        ValueError: as for `find_and_save_directions`.
    """
    if not file.is_file():
        find_and_save_directions(
            network, images, layer, str(file), count=count, seed=seed, progress=progress
        )
    return Directions.load(str(file))


def _hidden_vectors(
    network: Network,
    images: ImageSet,
    layer: str,
    shape: tuple[int, int, int],
    seed: int,
    folder: CheckpointFolder,
    progress: Progress,
) -> Float[np.ndarray, "n c"]:
    """The layer's output at a random position of each image that can be read."""
    generator = np.random.default_rng(seed=seed)
    rows, columns = (generator.integers(n, size=len(images)) for n in shape[1:])

    def compute(
        inputs: Float[Tensor, "n bands h w"], numbers: Int[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, "n c"]]:
        hidden = network.run(inputs, layer, after=True).target
        vectors = hidden[range(len(numbers)), :, rows[numbers], columns[numbers]]
        return {"vectors": vectors.float().cpu().numpy()}

    arrays, _, _ = map_images(
        folder, network, images, compute, until=layer, batch_size=BATCH,
        what="hidden vectors", progress=progress,
    )  # fmt: skip
    return arrays["vectors"]
