"""Whether S sums to the activation: E against f, through every layer of a network.

DIR/question.json, DIR/checkpoints/   the question, and f and E of each image, 256 images a file
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opponent.attribution.baseline import mean_activation
from opponent.attribution.rules import AttributionRule, Gradient, IntegratedGradients, parse_rule
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.geometry.bottlenecks import ThroughLayer, through_layers
from opponent.geometry.through import bottlenecks_before, check_through
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images, open_images
from opponent.models.network import LOGITS, PIXELS, Network
from opponent.models.registry import load
from opponent.paper.layer_totals import integrated_totals, rule_totals, totals
from opponent.plots import Curve, completeness_figure, save
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.columns import pearson, too_few
from opponent.storage.files import AnyPath, to_path, write_text
from opponent.storage.manifest import versions

# Random units where each takes a pass of its own. Source: paper, section 2, of logits.
UNITS = 20
# All maps of a pass are kept: fewer images at once than a scan takes.
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """E_l and f for k features, l layers and n images.

    Args:
        network: the network's name.
        rule: how S was computed.
        features: k features of one layer.
        layers: the layers that E was measured through.
        images: ids of the images that could be read and gave finite numbers, one a row.
        activation: f.
        total: E, the sum of S.
        question: what determines the numbers.
        unreadable: all other images, with their reasons.
    Source: paper, section 2, figure 3 and appendix E.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return [str(number) for number in range(20)]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     measured = opponent.completeness(
    ...         "inceptionv1-small", Noise(), out=out, features=["mixed3b:189"],
    ...         throughs=["mixed3a"])
    >>> measured.activation.shape, measured.total.shape
    ((20, 1), (20, 1, 1))
    >>> bool(measured.pearson[0, 0] > 0.95)
    True
    """

    network: str
    rule: AttributionRule
    features: tuple[Feature, ...]
    layers: tuple[ThroughLayer, ...]
    images: tuple[str, ...]
    activation: Float[np.ndarray, "n k"]
    total: Float[np.ndarray, "n k l"]
    question: Mapping[str, object]
    unreadable: Mapping[str, str]

    @cached_property
    def pearson(self) -> Float[np.ndarray, "l k"]:
        """Pearson's correlation of E with f; NaN where one is constant, or from few images."""
        return self._compare(lambda f, e: pearson(e, f))

    @cached_property
    def spearman(self) -> Float[np.ndarray, "l k"]:
        """Spearman's correlation, of ranks; NaN where Pearson's is."""
        from scipy.stats import rankdata

        return self._compare(lambda f, e: pearson(rankdata(e), rankdata(f)))

    @cached_property
    def l1(self) -> Float[np.ndarray, "l k"]:
        """The mean of |f - E|, in units of the activation."""
        return self._compare(lambda f, e: float(np.abs(f - e).mean()))

    @cached_property
    def deviation(self) -> Float[np.ndarray, " k"]:
        """The activations' standard deviations over images."""
        deviation: Float[np.ndarray, " k"] = self.activation.astype(np.float64).std(0)
        return deviation

    @property
    def no_r(self) -> str | None:
        """Why there is no correlation at all; None where there is one."""
        return too_few(len(self.activation))

    def _compare(
        self, measure: Callable[[Float[np.ndarray, " n"], Float[np.ndarray, " n"]], float]
    ) -> Float[np.ndarray, "l k"]:
        """A measure of f and E over images, for every layer and feature."""
        f, e = self.activation.T.astype(np.float64), self.total
        layers, units = range(e.shape[2]), range(len(f))
        return np.array(
            [[measure(f[k], e[:, k, i].astype(np.float64)) for k in units] for i in layers]
        )

    def rows(self) -> list[dict[str, str | bool | float | None]]:
        """One row a layer: the layer, and each measure's mean and spread over the features."""
        rows = list[dict[str, str | bool | float | None]]()
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(self.deviation > 0, self.l1 / self.deviation, np.nan)
        for i, through in enumerate(self.layers):
            row = asdict(through)
            for name, values in (
                ("pearson", self.pearson[i]),
                ("spearman", self.spearman[i]),
                ("l1", self.l1[i]),
                ("l1_in_sd", relative[i]),
            ):
                defined = values[np.isfinite(values)]
                row[name] = float(defined.mean()) if len(defined) else None
                row[f"{name}_sd"] = float(defined.std()) if len(defined) else None
            rows.append(row)
        return rows

    def describe(self) -> dict[str, object]:
        """The results and the question, ready for JSON."""
        return {
            "network": self.network,
            "rule": self.rule.label,
            "images": len(self.activation),
            "features": [feature.label for feature in self.features],
            "constant_features": int((self.deviation == 0).sum()),
            "no_r": self.no_r,
            "layers": self.rows(),
            "question": self.question,
            "unreadable": self.unreadable,
        }


def completeness(
    network: Network | str,
    images: Images,
    *,
    out: str | AnyPath,
    features: Sequence[Feature | str] | int | None = None,
    layer: str = LOGITS,
    throughs: Sequence[str] | None = None,
    branches: bool = False,
    rule: AttributionRule | str = "gradient",
    batch_size: int = BATCH,
    seed: int = 0,
    progress: Progress | None = None,
) -> Completeness:
    """Measure E against f through the layers of a network.

    An interrupted measurement goes on where it stopped, and ends with the same numbers.

    Args:
        network: a network or its name.
        images: a folder, an archive, a data set, arrays: whatever `open_images` takes.
        out: the folder, new or that of the same question.
        features: which features of one layer, or how many random units of `layer`;
            default: all, and 20 by a rule of the user's own.
        layer: whose units are taken; by default the logits.
        throughs: the layers to measure through; default: the pixels and every bottleneck.
        branches: measure through branches too, which cannot be complete.
        rule: how S is computed: 'gradient', 'integrated-zero', 'integrated-mean', or a rule of the
            user's own. 'integrated-mean' starts from the mean over the first 1,000 images.
        batch_size: images a pass.
        seed: of the random units.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        E and f of each image, and their correlations where there are 20 images or more.
    Raises:
        ValueError: a name or number that does not fit; fewer than two images.
        RunError: the folder holds something else.
        FileNotFoundError: there is no such folder or file of images.
    Source: paper, section 2 and appendix E.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     measured = opponent.completeness(
    ...         "inceptionv1-small", Noise(), out=out, features=2, layer="mixed3b",
    ...         throughs=["conv2d2", "mixed3a"])
    >>> measured.pearson.shape
    (2, 2)
    """
    network, rule = load(network), parse_rule(rule)
    if features is None and not isinstance(rule, Gradient | IntegratedGradients):
        features = min(UNITS, network.layer(layer).shape[0])  # each takes passes of its own
    chosen = choose_features(network, features, layer, seed)
    layers = _choose_layers(network, chosen[0].layer, throughs, branches)
    names = [through.layer for through in layers]
    source = open_images(images, size=network.preprocessing.size)
    if len(source) < 2:
        raise ValueError(f"{source.source!r} has {len(source)} images; a correlation needs some")
    question = question_about("completeness", network, chosen, source)
    question |= {"throughs": names, "rule": rule.label, "batch_size": batch_size, "seed": seed}
    checkpoints = CheckpointFolder(out, question)
    baselines = _baselines(network, source, names, rule, checkpoints)

    def compute(inputs: Float[Tensor, "n bands h w"], _: object) -> dict[str, np.ndarray]:
        if isinstance(rule, Gradient):
            f, e = totals(network, inputs, chosen, names)
        elif isinstance(rule, IntegratedGradients):
            f, e = integrated_totals(network, inputs, chosen, names, rule, baselines)
        else:
            f, e = rule_totals(network, inputs, chosen, names, rule, baselines)
        return {"activation": f.float().cpu().numpy(), "total": e.float().cpu().numpy()}

    with shown(progress) as report:
        arrays, ids, unreadable = map_images(
            checkpoints,
            network,
            source,
            compute,
            until=chosen[0].layer,
            batch_size=batch_size,
            what=f"{network.name}: E of all layers",
            progress=report,
        )
    return Completeness(
        network=network.name,
        rule=rule,
        features=tuple(chosen),
        layers=tuple(layers),
        activation=arrays["activation"],
        total=arrays["total"],
        question=question,
        unreadable=unreadable,
        images=ids,
    )


def question_about(
    experiment: str, network: Network, features: Sequence[Feature], images: ImageSet
) -> dict[str, object]:
    """What determines the numbers of any measurement on a network, ready for JSON.

    Args:
        experiment: what is measured.
        network: the network.
        features: of which features.
        images: in which images.
    """
    return {
        "experiment": experiment,
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": network.preprocessing.describe(),
        "features": [feature.describe() for feature in features],
        "images": {"count": len(images), "sha256": images.digest()},
        "device": network.device.type,
        "versions": versions(),
    }


def choose_features(
    network: Network, features: Sequence[Feature | str] | int | None, layer: str, seed: int
) -> list[Feature]:
    """Features of one layer, resolved.

    Args:
        network: the network.
        features: the features, how many random units, or None for all units.
        layer: of the units.
        seed: of the random units.
    Raises:
        ValueError: a name or number that does not fit, or features of several layers.
    """
    channels = network.layer(layer).shape[0]
    features = channels if features is None else features
    if isinstance(features, int):
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


def _choose_layers(
    network: Network, target: str, throughs: Sequence[str] | None, branches: bool
) -> list[ThroughLayer]:
    known = {through.layer: through for through in through_layers(network, target)}
    whole = (PIXELS, *bottlenecks_before(network, target))
    if throughs is None:
        return [through for through in known.values() if through.bottleneck or branches]
    for name in throughs:
        check_through(network, target, name)
        if name not in known:
            raise ValueError(
                f"{name!r} is neither the output of an activation function nor of a block that "
                f"joins branches; everything goes through {', '.join(whole)}"
            )
    return [known[name] for name in throughs]


def _baselines(
    network: Network,
    images: ImageSet,
    throughs: Sequence[str],
    rule: AttributionRule,
    checkpoints: CheckpointFolder,
) -> dict[str, Tensor]:
    """The layers' mean activations, where the rule takes them; kept as a checkpoint."""
    if not rule.needs_mean:
        return {}
    if not checkpoints.has("baselines"):
        means = {name: mean_activation(network, images, name) for name in throughs}
        checkpoints.write("baselines", {name: mean.cpu().numpy() for name, mean in means.items()})
    arrays, _ = checkpoints.read("baselines")
    return {
        name: torch.from_numpy(mean).to(network.device, network.dtype)
        for name, mean in arrays.items()
    }


def write_completeness(
    measurements: Sequence[Completeness], folder: str | AnyPath, *, suffix: str = "png"
) -> list[AnyPath]:
    """Write completeness.json, figure 3 and figure 13.

    Args:
        measurements: of one or more networks or rules.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The files' paths, in this order.
    Source: paper, figures 3 and 13.
    """
    folder = to_path(folder)
    panels = [
        (label, [_curve(measured, name) for measured in measurements])
        for name, label in (
            ("pearson", "Pearson's r of E with f"),
            ("spearman", "Spearman's ρ of E with f"),
            ("l1_in_sd", "mean |f − E| in sd of f"),
        )
    ]
    paths = [folder / f"{name}.{suffix}" for name in ("figure3", "figure13")]
    save(completeness_figure(panels[:1]), paths[0])
    save(completeness_figure(panels[1:]), paths[1])
    described = [measured.describe() for measured in measurements]
    write_text(folder / "completeness.json", json.dumps(described, indent=1) + "\n")
    return [folder / "completeness.json", *paths]


def _curve(measured: Completeness, name: str) -> Curve:
    rows = measured.rows()
    rule = "" if isinstance(measured.rule, Gradient) else f", {measured.rule.label}"

    def column(key: str) -> Float[np.ndarray, " l"]:
        return np.array([np.nan if row[key] is None else row[key] for row in rows], float)

    return Curve(
        label=measured.network + rule,
        depth=column("depth"),
        mean=column(name),
        spread=column(f"{name}_sd"),
        bottleneck=np.array([through.bottleneck for through in measured.layers]),
        layers=tuple(through.layer for through in measured.layers),
        about=f"{len(measured.features):,} "
        + (LOGITS if (of := measured.features[0].layer) == LOGITS else f"units of {of}")
        + f", {len(measured.activation):,} images; band ±1 sd",
    )
