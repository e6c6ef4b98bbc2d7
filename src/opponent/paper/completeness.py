"""Does S sum to the activation? E against f, through every layer: when the method may be believed.

DIR/asked.json, DIR/parts/   the question, and f and E of each image, 256 images a file
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward
from jaxtyping import Float, Int
from torch import Tensor

from opponent.attribution.attribute import AT_ONCE, Rule, mean_activation
from opponent.core.feature import Feature
from opponent.geometry.bottlenecks import ThroughLayer, through_layers
from opponent.images.sources import ImageSet, open_images
from opponent.models.network import LOGITS, Network
from opponent.models.registry import load
from opponent.plots import Curve, completeness_figure, save
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.files import write_text
from opponent.storage.run import versions

# Logits that the correlation is averaged over. Source: paper, section 2.
UNITS = 20
# All maps of a pass are kept: fewer images at once than a scan takes.
BATCH = 16

Images = str | Path | Sequence[str | Path] | ImageSet


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """E_l and f for k features, l layers and n images.

    Args:
        network: the network's name.
        rule: how S was computed.
        features: k features of one layer.
        cuts: the layers that E was measured through.
        activation: f.
        total: E, the sum of S.
        asked: everything that determined the numbers.
        unreadable: images that could not be read, with their reasons.
    Source: paper, section 2, figure 3 and appendix E.
    """

    network: str
    rule: Rule
    features: tuple[Feature, ...]
    cuts: tuple[ThroughLayer, ...]
    activation: Float[np.ndarray, "n k"]
    total: Float[np.ndarray, "n k l"]
    asked: dict[str, Any]
    unreadable: dict[str, str]

    @cached_property
    def pearson(self) -> Float[np.ndarray, "l k"]:
        """Pearson's correlation of E with f over images; NaN where one of them is constant."""
        return self._each(lambda f, e: _correlation(f, e))

    @cached_property
    def spearman(self) -> Float[np.ndarray, "l k"]:
        """Spearman's correlation, of ranks."""
        from scipy.stats import rankdata

        return self._each(lambda f, e: _correlation(rankdata(f), rankdata(e)))

    @cached_property
    def l1(self) -> Float[np.ndarray, "l k"]:
        """The mean of |f - E|, in units of the activation."""
        return self._each(lambda f, e: float(np.abs(f - e).mean()))

    @cached_property
    def deviation(self) -> Float[np.ndarray, " k"]:
        """The activations' standard deviations over images."""
        deviation: Float[np.ndarray, " k"] = self.activation.astype(np.float64).std(0)
        return deviation

    def _each(
        self, measure: Callable[[Float[np.ndarray, " n"], Float[np.ndarray, " n"]], float]
    ) -> Float[np.ndarray, "l k"]:
        f, e = self.activation.astype(np.float64), self.total.astype(np.float64)
        layers, units = range(e.shape[2]), range(f.shape[1])
        return np.array([[measure(f[:, k], e[:, k, i]) for k in units] for i in layers])

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer: its cut, and each measure's mean and spread over the features."""
        found = []
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(self.deviation > 0, self.l1 / self.deviation, np.nan)
        for i, cut in enumerate(self.cuts):
            row = asdict(cut)
            for name, values in (
                ("pearson", self.pearson[i]),
                ("spearman", self.spearman[i]),
                ("l1", self.l1[i]),
                ("l1_in_sd", relative[i]),
            ):
                defined = values[np.isfinite(values)]
                row[name] = float(defined.mean()) if len(defined) else None
                row[f"{name}_sd"] = float(defined.std()) if len(defined) else None
            found.append(row)
        return found

    def describe(self) -> dict[str, Any]:
        """What came out and what it came from, ready for JSON."""
        return {
            "network": self.network,
            "rule": self.rule.label,
            "images": len(self.activation),
            "features": [feature.label for feature in self.features],
            "constant_features": int((self.deviation == 0).sum()),
            "layers": self.rows(),
            "asked": self.asked,
            "unreadable": self.unreadable,
        }


def completeness(
    network: Network | str,
    images: Images,
    *,
    out: str | Path,
    features: Sequence[Feature | str] | int = UNITS,
    layer: str = LOGITS,
    throughs: Sequence[str] | None = None,
    branches: bool = False,
    rule: Rule | str = "gradient",
    weights: str | Path | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Completeness:
    """Measure E against f through the layers of a network.

    What was interrupted goes on, and ends with the same numbers.

    Args:
        network: a network or its name.
        images: a folder, files, a text list, or 'photos'.
        out: the folder, new or that of the same question.
        features: which features of one layer, or how many random units of `layer`.
        layer: where random units are drawn from; by default the logits.
        throughs: the layers to measure through; default: the pixels and every whole cut.
        branches: measure through branches too, which cannot be complete.
        rule: how S is computed.
        weights: a file of weights, for a network given by name.
        batch_size: images a pass.
        seed: of the random units.
        progress: called with what is being done, the steps done and the steps in all.
    Raises:
        ValueError: a name or number that does not fit.
        RunError: the folder holds something else.
    Source: paper, section 2 and appendix E.
    """
    network = load(network, weights)
    rule = rule if isinstance(rule, Rule) else Rule.parse(rule)
    chosen = _features(network, features, layer, seed)
    chosen_cuts = _chosen_cuts(network, chosen[0].layer, throughs, branches)
    found = open_images(images, size=network.preprocessing.size)
    if len(found) < 2:
        raise ValueError(f"{found.source!r} has {len(found)} images; a correlation needs some")
    asked = {
        "experiment": "completeness",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": asdict(network.preprocessing),
        "features": [feature.describe() for feature in chosen],
        "throughs": [cut.layer for cut in chosen_cuts],
        "rule": rule.label,
        "images": {"count": len(found), "sha256": found.digest()},
        "batch_size": batch_size,
        "device": network.device.type,
        "seed": seed,
        "versions": versions(),
    }
    parts = CheckpointFolder(out, asked)
    names = [cut.layer for cut in chosen_cuts]
    baselines = _baselines(network, found, names, rule, parts)

    def compute(inputs: Float[Tensor, "n 3 h w"]) -> dict[str, np.ndarray]:
        if rule.kind == "gradient":
            f, e = totals(network, inputs, chosen, names)
        else:
            f, e = integrated_totals(network, inputs, chosen, names, rule, baselines)
        return {"activation": f.float().cpu().numpy(), "total": e.float().cpu().numpy()}

    arrays, _, unreadable = map_images(
        parts,
        network,
        found,
        compute,
        batch_size=batch_size,
        progress=None
        if progress is None
        else lambda done, total: progress(f"{network.name}: E of all layers", done, total),
    )
    return Completeness(
        network=network.name,
        rule=rule,
        features=tuple(chosen),
        cuts=tuple(chosen_cuts),
        activation=arrays["activation"],
        total=arrays["total"],
        asked=asked,
        unreadable=unreadable,
    )


def write_completeness(
    measured: Sequence[Completeness], folder: str | Path, *, suffix: str = "png"
) -> list[Path]:
    """Write what came out: completeness.json, figure 3 and figure 13.

    Returns:
        The files' paths.
    Source: paper, figures 3 and 13.
    """
    folder = Path(folder)
    curves = {name: [_curve(one, name) for one in measured] for name in ("pearson", "spearman")}
    distances = [_curve(one, "l1_in_sd") for one in measured]
    panels = [
        ("Pearson's r of E and f", curves["pearson"]),
        ("Spearman's ρ of E and f", curves["spearman"]),
        ("mean |f − E|, in sd of f", distances),
    ]
    paths = [folder / f"{name}.{suffix}" for name in ("figure3", "figure13")]
    save(completeness_figure(panels[:1]), paths[0])
    save(completeness_figure(panels[1:]), paths[1])
    described = [one.describe() for one in measured]
    write_text(folder / "completeness.json", json.dumps(described, indent=1) + "\n")
    return [folder / "completeness.json", *paths]


def _curve(one: Completeness, name: str) -> Curve:
    rows = one.rows()
    rule = "" if one.rule.kind == "gradient" else f", {one.rule.label}"

    def column(key: str) -> Float[np.ndarray, " l"]:
        return np.array([np.nan if row[key] is None else row[key] for row in rows], float)

    return Curve(
        label=one.network + rule,
        depth=column("depth"),
        mean=column(name),
        spread=column(f"{name}_sd"),
        whole=np.array([cut.bottleneck for cut in one.cuts]),
    )


@torch.inference_mode(False)
def totals(
    network: Network,
    inputs: Float[Tensor, "n 3 h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and E_l of features of one layer, through all layers in one forward pass.

    Each layer is multiplied by a number, one, for each image. The derivative of f by that number is
    the sum of the gradient times the layer: E itself, without S. One backward pass a feature gives
    it for all layers at once.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: of one layer.
        throughs: layers before it, or 'pixels'.
    Source: paper, section 2.
    """
    ones: dict[str, Tensor] = {}

    def times_one(name: str, layer: Tensor) -> Tensor:
        ones[name] = layer.new_ones(len(layer)).requires_grad_()
        return layer * ones[name].view(-1, 1, 1, 1)

    record = network.record(
        inputs, targets=[features[0].layer], throughs=throughs, substitute=times_one
    )
    [target] = record.targets.values()
    by = [ones[name] for name in throughs]
    activations, sums = [], []
    with torch.enable_grad():
        for number, feature in enumerate(features, 1):
            f = feature.read(target)
            # One backward pass for several features, batched, takes longer on a CPU.
            e = torch.autograd.grad(f.sum(), by, retain_graph=number < len(features))
            activations.append(f.detach())
            sums.append(torch.stack(e, 1))
    return torch.stack(activations, 1), torch.stack(sums, 1)


@torch.inference_mode(False)
def integrated_totals(
    network: Network,
    inputs: Float[Tensor, "n 3 h w"],
    features: Sequence[Feature],
    throughs: Sequence[str],
    rule: Rule,
    baselines: dict[str, Float[Tensor, "_ _ _"]],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k l"]]:
    """f and the sums of integrated gradients, through one layer after another.

    The sum of S is the mean derivative of f along the way from the baseline to h: forward
    differentiation gives it for all features in one pass a point.

    Args and result as `totals`; baselines by layer, where they are not zero.
    Source: Sundararajan et al. (2017), eq. 1, summed over the layer.
    """
    target = network.run(inputs, features[0].layer).target
    activation = torch.stack([feature.read(target) for feature in features], 1)
    at_once = max(1, AT_ONCE // rule.steps)
    sums = [
        torch.cat(
            [
                _integrated_total(network, some, features, name, rule, baselines.get(name))
                for some in inputs.split(at_once)
            ]
        )
        for name in throughs
    ]
    return activation, torch.stack(sums, 2)


def _integrated_total(
    network: Network,
    inputs: Tensor,
    features: Sequence[Feature],
    through: str,
    rule: Rule,
    baseline: Tensor | None,
) -> Float[Tensor, "n k"]:
    """E through one layer: all points of the way in one pass."""
    count = len(inputs)
    points = inputs.new_tensor(rule.path()[0]).view(-1, 1, 1, 1, 1)
    weights = inputs.new_tensor(rule.path()[1])

    def along(layer: Tensor) -> Tensor:
        hidden = layer[:count]
        start = torch.zeros_like(hidden[0]) if baseline is None else baseline
        change = hidden - start
        way = start + points * change
        with warnings.catch_warnings():
            # torch's own, about what it does on the first call.
            warnings.simplefilter("ignore", DeprecationWarning)
            dual: Tensor = forward.make_dual(
                way.flatten(0, 1), change.expand(way.shape).flatten(0, 1)
            )
        return dual

    with forward.dual_level():
        # As many copies as points from the start: a network may remember how many images came.
        copies = inputs.repeat(rule.steps, 1, 1, 1)
        reading = network.run(copies, features[0].layer, through, substitute=along)
        totals = []
        for feature in features:
            slope = forward.unpack_dual(feature.read(reading.target)).tangent
            slope = torch.zeros_like(reading.target[:, 0, 0, 0]) if slope is None else slope
            totals.append(weights @ slope.unflatten(0, (-1, count)))
    return torch.stack(totals, 1)


def _features(
    network: Network, features: Sequence[Feature | str] | int, layer: str, seed: int
) -> list[Feature]:
    if isinstance(features, int):
        channels = network.layer(layer).shape[0]
        if not 1 <= features <= channels:
            raise ValueError(f"{features} random units of {layer!r}, which has {channels}")
        generator = np.random.default_rng(seed)
        units: Int[np.ndarray, " k"] = generator.choice(channels, features, replace=False)
        features = [Feature(layer=layer, unit=unit) for unit in sorted(units.tolist())]
    chosen = [network.resolve(feature) for feature in features]
    layers = sorted({feature.layer for feature in chosen})
    if len(layers) != 1:
        raise ValueError(f"the features are of one layer; got {', '.join(layers) or 'none'}")
    return chosen


def _chosen_cuts(
    network: Network, target: str, throughs: Sequence[str] | None, branches: bool
) -> list[ThroughLayer]:
    known = {cut.layer: cut for cut in through_layers(network, target)}
    if throughs is None:
        return [cut for cut in known.values() if cut.bottleneck or branches]
    for name in throughs:
        network.check(target, name)
        if name not in known:
            raise ValueError(
                f"{name!r} is neither the output of an activation function nor of a block that "
                f"joins branches; there are {', '.join(known)}"
            )
    return [known[name] for name in throughs]


def _baselines(
    network: Network, images: ImageSet, throughs: Sequence[str], rule: Rule, parts: CheckpointFolder
) -> dict[str, Tensor]:
    if rule.kind == "gradient" or rule.baseline == "zero":
        return {}
    if not parts.has("baselines"):
        means = {name: mean_activation(network, images, name) for name in throughs}
        parts.write("baselines", {name: mean.cpu().numpy() for name, mean in means.items()})
    arrays, _ = parts.read("baselines")
    return {
        name: torch.from_numpy(mean).to(network.device, network.dtype)
        for name, mean in arrays.items()
    }


def _correlation(f: Float[np.ndarray, " n"], e: Float[np.ndarray, " n"]) -> float:
    if not f.std() or not e.std():
        return float("nan")
    return float(np.corrcoef(f, e)[0, 1])
