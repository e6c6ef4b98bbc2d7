"""What f - E is made of, over many images: which layers' own parts are missing from S.

DIR/question.json, DIR/checkpoints/   the question, and the shares of each image, 256 images a file
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.geometry.through import check_through
from opponent.images.sources import Images, open_images
from opponent.models.network import LOGITS, PIXELS, Network
from opponent.models.registry import load
from opponent.paper.completeness import BATCH, UNITS, choose_features, question_about
from opponent.paper.shares import shares
from opponent.plots import missing_figure, save
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.files import AnyPath, to_path, write_text

# A module adds something if its share is more than rounding, in standard deviations of f.
ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class Missing:
    """The parts of f - E for k features, m modules and n images.

    Args:
        network: the network's name.
        through: the layer that S was taken through, or 'pixels'.
        features: k features of one layer.
        modules: m modules between them, in the order of the pass.
        activation, total: f and E.
        share: each module's part of f - E, in units of the activation.
        rest: what operations outside of modules add.
    Source: ours; f - E is the paper's, section 2.
    """

    network: str
    through: str
    features: tuple[Feature, ...]
    modules: tuple[str, ...]
    activation: Float[np.ndarray, "n k"]
    total: Float[np.ndarray, "n k"]
    share: Float[np.ndarray, "n k m"]
    rest: Float[np.ndarray, "n k"]

    def rows(self) -> list[dict[str, str | float]]:
        """One row for each module that adds something, and last what no module adds.

        'constant' is the size of the share's mean over images, which moves E alone; 'varying' its
        standard deviation over images, which takes from the correlation. Both are in standard
        deviations of the activation, and means over the features.
        """
        deviation = self.activation.astype(np.float64).std(0)
        alive = deviation > 0
        parts = np.concatenate([self.share, self.rest[:, :, None]], 2)[:, alive]
        parts = parts / deviation[alive, None]
        constant, varying = np.abs(parts.mean(0)).mean(0), parts.std(0).mean(0)
        names = [*self.modules, "outside of modules"]
        return [
            {"module": name, "constant": float(a), "varying": float(b)}
            for name, a, b in zip(names, constant, varying, strict=True)
            if max(a, b) > ROUNDING
        ]

    def describe(self) -> dict[str, object]:
        """The results, ready for JSON."""
        return {
            "through": self.through,
            "features": [feature.label for feature in self.features],
            "images": len(self.activation),
            "modules": self.rows(),
        }


def measure_missing(
    network: Network | str,
    images: Images,
    *,
    out: str | AnyPath,
    features: Sequence[Feature | str] | int = UNITS,
    layer: str = LOGITS,
    through: str = PIXELS,
    batch_size: int = BATCH,
    seed: int = 0,
    progress: Progress | None = None,
) -> Missing:
    """Measure what each module between a layer and some features adds to f and not to E.

    An interrupted measurement goes on where it stopped, and ends with the same numbers.

    Args:
        network: a network or its name.
        images: whatever `open_images` takes.
        out: the folder, new or that of the same question.
        features: which features of one layer, or how many random units of `layer`.
        layer: where random units are drawn from; by default the logits.
        through: the layer; from the pixels on, all modules are there.
        batch_size: images a pass.
        seed: of the random units.
        progress: as for `completeness`.
    Returns:
        The shares, which add up to f - E.
    Raises:
        ValueError: a name or number that does not fit.
        RunError: the folder holds something else.
    """
    network = load(network)
    chosen = choose_features(network, features, layer, seed)
    check_through(network, chosen[0].layer, through)
    source = open_images(images, size=network.preprocessing.size)
    question = question_about("missing", network, chosen, source)
    question |= {"through": through, "batch_size": batch_size, "seed": seed}
    # The modules are the same for all images: one image tells which.
    blank = torch.zeros(1, *network.map_shape(PIXELS), device=network.device, dtype=network.dtype)
    modules = shares(network, blank, chosen[:1], through)[2].modules

    def compute(inputs: Float[Tensor, "n bands h w"], _: object) -> Mapping[str, np.ndarray]:
        f, e, parts = shares(network, inputs, chosen, through)
        arrays = {"activation": f, "total": e, "share": parts.share, "rest": parts.rest}
        return {name: array.float().cpu().numpy() for name, array in arrays.items()}

    with shown(progress) as report:
        arrays, _, _ = map_images(
            CheckpointFolder(out, question), network, source, compute,
            until=chosen[0].layer, batch_size=batch_size,
            what=f"{network.name}: what f - E is made of", progress=report,
        )  # fmt: skip
    return Missing(
        network=network.name, through=through, features=tuple(chosen), modules=modules, **arrays
    )


def write_missing(
    measured: Missing, folder: str | AnyPath, *, suffix: str = "png"
) -> list[AnyPath]:
    """Write missing.json and the figure of the modules that add most.

    Args:
        measured: the shares.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths, in this order.
    """
    folder = to_path(folder)
    about = f"{len(measured.features)} units of {measured.features[0].layer} through "
    about += f"{measured.through}, {len(measured.activation):,} images"
    rows = [(str(x["module"]), float(x["constant"]), float(x["varying"])) for x in measured.rows()]
    paths = [folder / "missing.json", folder / f"missing.{suffix}"]
    write_text(paths[0], json.dumps(measured.describe(), indent=1) + "\n")
    save(missing_figure(f"{measured.network}: what f − E is made of", rows, about), paths[1])
    return paths
