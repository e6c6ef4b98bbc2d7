"""How many of a network's weights are negative."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from opponent.models.network import LOGITS, PIXELS, Network
from opponent.plots import WeightPanel, save, weights_figure
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath, write_text
from opponent.storage.manifest import versions

# Bins of the histograms, in standard deviations of the layer; 0 lies between two.
EDGES: Float[np.ndarray, " e"] = np.arange(-40, 41) / 10
# Of layers, for the interval. The ends of a 95 % interval then move by less than its hundredth.
RESAMPLES = 10_000
# Where fair coins give the signs with a smaller chance, the weights are not random ones.
FAIR = 0.001


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer's weights.

    Args:
        name, kind: the module's `named_modules()` path and class.
        negative, zero, positive: how many weights are.
        deviation: their standard deviation.
    """

    name: str
    kind: str
    negative: int
    zero: int
    positive: int
    deviation: float

    @property
    def count(self) -> int:
        """How many weights the layer has."""
        return self.negative + self.zero + self.positive

    @property
    def share(self) -> float | None:
        """The share of negative ones among those that are not zero."""
        return _share(self.negative, self.positive)


@dataclass(frozen=True, kw_only=True)
class WeightSigns:
    """The weights of a network's convolutions and linear layers.

    A zero weight neither excites nor inhibits: shares are of the weights that are not zero. Signs
    are those of the weights as stored: a batch norm that follows may turn a filter's.

    Args:
        network: its name.
        weights_sha256: of all parameters and buffers.
        layers: in the order in which the module holds them.
        left_out: convolutions and linear layers that a pass does not call, such as auxiliary heads.
        histogram: how many weights, divided by their layer's standard deviation, lie between
            neighbours of `EDGES`, and (first and last) beyond them; without zeros.
        interval: of `share`, at 95 %, from resampled layers; None for fewer than two layers.
        fair: how likely a fair coin for each weight gives the layers' shares, or such as lie
            farther from a half.
    """

    network: str
    weights_sha256: str
    layers: tuple[LayerWeights, ...]
    left_out: tuple[str, ...]
    histogram: Int[np.ndarray, " b"]
    interval: tuple[float, float] | None
    fair: float

    @property
    def count(self) -> int:
        """How many weights there are."""
        return sum(layer.count for layer in self.layers)

    @property
    def share(self) -> float | None:
        """The share of negative ones among those that are not zero, over all layers."""
        return _share(sum(x.negative for x in self.layers), sum(x.positive for x in self.layers))

    @property
    def mostly_negative(self) -> int:
        """In how many layers more weights are negative than positive."""
        return sum(layer.negative > layer.positive for layer in self.layers)

    @property
    def untrained(self) -> bool:
        """Whether the signs look like those of random weights around zero."""
        return self.fair > FAIR

    def describe(self) -> dict[str, Any]:
        """All results, ready for JSON."""
        layers = [asdict(layer) | {"share": layer.share} for layer in self.layers]
        return {
            "network": self.network,
            "weights_sha256": self.weights_sha256,
            "weights": self.count,
            "share": self.share,
            "interval": self.interval,
            "mostly_negative_layers": self.mostly_negative,
            "fair_coin_p": self.fair,
            "looks_untrained": self.untrained,
            "histogram": self.histogram.tolist(),
            "left_out": self.left_out,
            "layers": layers,
        }


def weight_signs(network: Network, *, seed: int = 0) -> WeightSigns:
    """Count a network's negative weights, and spread all of them over a histogram.

    Only weights of convolutions (transposed ones too) and linear layers count, and only those that
    a pass uses; biases, batch norms, embeddings and what attention multiplies by itself do not.
    Each layer's weights are divided by their standard deviation; the mean is not subtracted, since
    zero is where a weight changes from inhibition to excitation. A weight that the layer computes
    of other parameters (weight norm, spectral norm) is the one that a pass in evaluation mode uses.

    Args:
        network: the network.
        seed: of the resampling.
    Returns:
        The counts by layer, the histogram and the interval of the share.
    Raises:
        ValueError: there is no such layer, or a weight is not finite.
    Source: paper, appendix D and figure 12. The interval is ours: weights of one layer hang
        together, so that layers are drawn anew, with replacement, and not weights.
    """
    used, left_out = _layers_with_weights(network)
    counted = dict[str, tuple[LayerWeights, Int[np.ndarray, " b"]]]()

    def count(name: str, _: object) -> None:
        # In the pass itself: a weight that a layer computes, as by weight norm, is then its own.
        if name in used and name not in counted:
            counted[name] = _count(network, used[name])

    blank = torch.zeros(1, *network.map_shape(PIXELS))
    network.visit(blank.to(network.device, network.dtype), count)
    layers = [counted[name][0] for name in used]
    if not layers:
        raise ValueError(f"{network.name} has no convolution or linear layer that a pass uses")
    negative, positive = (
        np.array([getattr(x, n) for x in layers]) for n in ("negative", "positive")
    )
    return WeightSigns(
        network=network.name,
        weights_sha256=network.weights_sha256(),
        layers=tuple(layers),
        left_out=tuple(left_out),
        histogram=np.sum([counted[name][1] for name in used], 0),
        interval=share_interval(negative, positive, np.random.default_rng(seed)),
        fair=fair_coin(negative, positive),
    )


def _layers_with_weights(network: Network) -> tuple[dict[str, str], list[str]]:
    """The layers that a pass uses, to the paths of their modules, and the paths of all others.

    Of layers that share their weights the first stands for all.
    """
    paths: dict[bool, list[str]] = {True: [], False: []}
    for path, module in network.module.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            paths[(path or LOGITS) in network.layers].append(path)
    used, left_out, seen = dict[str, str](), list[str](), set[frozenset[nn.Parameter]]()
    for is_used in (True, False):
        for path in paths[is_used]:
            weights = _parameters_of_weight(network.module.get_submodule(path))
            if weights in seen:
                continue
            # A weight that is no parameter is nobody else's.
            seen |= {weights} - {frozenset()}
            if is_used:
                used[path or LOGITS] = path
            else:
                left_out.append(path)
    return used, left_out


def _parameters_of_weight(module: nn.Module) -> frozenset[nn.Parameter]:
    """The parameters that a layer's weight is, or is computed from.

    Reading the weight itself would compute it anew, as another tensor each time.
    """
    return frozenset(x for name, x in module.named_parameters() if "weight" in name)


def _count(network: Network, path: str) -> tuple[LayerWeights, Int[np.ndarray, " b"]]:
    """One layer's weights, and their histogram."""
    module = network.module.get_submodule(path)
    assert isinstance(module.weight, Tensor)
    values = module.weight.detach().cpu().double().numpy().ravel()
    if not np.isfinite(values).all():
        raise ValueError(f"{network.name}: weights of {path} are not finite; load others")
    deviation = float(values.std())
    layer = LayerWeights(
        name=path,
        kind=type(module).__name__,
        negative=int((values < 0).sum()),
        zero=int((values == 0).sum()),
        positive=int((values > 0).sum()),
        deviation=deviation,
    )
    histogram = np.zeros(len(EDGES) + 1, np.int64)
    if deviation > 0:
        bins = np.digitize(values[values != 0] / deviation, EDGES)
        histogram += np.bincount(bins, minlength=len(histogram))
    return layer, histogram


def share_interval(
    negative: Int[np.ndarray, " n"], positive: Int[np.ndarray, " n"], rng: np.random.Generator
) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile of the share of negative weights in resampled layers.

    Args:
        negative, positive: how many of either a layer has.
        rng: draws the layers.
    Returns:
        Low and high; None for fewer than two layers with weights that are not zero.
    """
    kept = negative + positive > 0
    negative, positive = negative[kept], positive[kept]
    if len(negative) < 2:
        return None
    drawn = rng.integers(len(negative), size=(RESAMPLES, len(negative)))
    minus, plus = negative[drawn].sum(1), positive[drawn].sum(1)
    low, high = np.quantile(minus / (minus + plus), [0.025, 0.975])
    return float(low), float(high)


def fair_coin(negative: Int[np.ndarray, " n"], positive: Int[np.ndarray, " n"]) -> float:
    """How likely fair coins give such shares: chi-squared over layers, one degree each.

    Initial weights are drawn around zero, each by itself, so that their signs are fair coins.
    Training leaves a layer's signs far from that.

    Args:
        negative, positive: how many of either a layer has.
    Returns:
        The chance of layers' shares that are as far from a half, or farther.
    """
    count = negative + positive
    kept = count > 0
    statistic = ((negative - positive)[kept] ** 2 / count[kept]).sum()
    halves = torch.tensor([kept.sum() / 2, statistic / 2], dtype=torch.float64)
    # The upper tail of chi-squared is this function.
    return float(torch.special.gammaincc(*halves)) if kept.any() else 1.0


def write_weights(
    signs: Sequence[WeightSigns], folder: str | AnyPath, *, seed: int = 0, suffix: str = "png"
) -> list[AnyPath]:
    """Write the results as a table and as figure 12.

    Args:
        signs: of one or more networks.
        folder: where to.
        seed: of the resampling.
        suffix: png, pdf or svg.
    Returns:
        The files' paths.
    Raises:
        RunError: the folder holds the results of another question.
    """
    question = {
        "experiment": "weights",
        "networks": [[network.network, network.weights_sha256] for network in signs],
        "resamples": RESAMPLES,
        "seed": seed,
        "versions": versions(),
    }
    folder = CheckpointFolder(folder, question).folder
    values = {
        "question": question,
        "edges": EDGES.tolist(),
        "networks": [network.describe() for network in signs],
    }
    table, figure = folder / "weights.json", folder / f"figure12.{suffix}"
    write_text(table, json.dumps(values, indent=1) + "\n")
    save(weights_figure([panel(network) for network in signs], EDGES), figure)
    return [table, figure]


def panel(signs: WeightSigns) -> WeightPanel:
    """One network's panel of figure 12."""
    layers = [layer for layer in signs.layers if layer.share is not None]
    return WeightPanel(
        label=signs.network,
        histogram=signs.histogram,
        share=np.nan if signs.share is None else signs.share,
        interval=signs.interval,
        layer_shares=np.array([layer.share for layer in layers], np.float64),
        layer_sizes=np.array([layer.count for layer in layers], np.int64),
        untrained=signs.untrained,
        layers=tuple(layer.name for layer in layers),
    )


def _share(negative: int, positive: int) -> float | None:
    return negative / (negative + positive) if negative + positive else None
