"""Which layers the whole network goes through: found from the graph of one pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from opponent.models.network import ACTIVATIONS, LOGITS, PIXELS, Network

# Activation functions, as autograd names what they leave in the graph.
_NONLINEAR = (
    "ReluBackward", "HardtanhBackward", "LeakyReluBackward", "PreluKernelBackward", "EluBackward",
    "CeluBackward", "GeluBackward", "SiluBackward", "HardswishBackward", "MishBackward",
    "SoftplusBackward",
)  # fmt: skip
_JOINS = ("CatBackward", "AddBackward", "StackBackward")

# What keeps all elements and moves them at most: before and after, a cut is the same.
_SAME = (
    "CloneBackward", "AliasBackward", "ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward",
    "PermuteBackward", "TransposeBackward", "TBackward", "UnsqueezeBackward", "SqueezeBackward",
)  # fmt: skip

_Edge = tuple[Any, int]  # a node of the graph, and which of its outputs


@dataclass(frozen=True, kw_only=True)
class ThroughLayer:
    """A layer that an attribution can be measured through.

    Args:
        layer: its name; 'NAME#2' is the second call in a pass.
        whole: whether all that the images do to the target goes through it. Through one branch of
            a block only, the sum of S leaves out what the others do.
        depth: the share of the network's activation functions that lie before the layer's output,
            its own among them: 0 for the pixels, 1 for the last. Source: paper, appendix E.
        activation: whether an activation function gives it; else it joins branches.
    """

    layer: str
    whole: bool
    depth: float
    activation: bool


def through_layers(network: Network, target: str = LOGITS) -> tuple[ThroughLayer, ...]:
    """The pixels and all layers before a target that S is usually taken through, in order.

    These are the outputs of activation functions and, where a block joins branches (by
    concatenation or sum), the output of the block. A tensor that several layers hand on counts
    once, by the name of the layer that made it.

    Raises:
        ValueError: an unknown target.
    """
    found = _CUTS.setdefault(network, {})
    key = (target, network.preprocessing.size)
    if key not in found:
        found[key] = _cuts(network, target)
    return found[key]


_CUTS: "WeakKeyDictionary[Network, dict[Any, tuple[ThroughLayer, ...]]]" = WeakKeyDictionary()


def is_bottleneck(network: Network, target: str, through: str) -> bool:
    """Whether all that the images do to the target goes through that layer.

    Raises:
        ValueError: an unknown layer, or a through layer that does not lie before the target.
    """
    network.check(target, through)
    found = _WHOLE.setdefault(network, {})
    key = (target, through, network.preprocessing.size)
    if key not in found:
        graph = _Graph(network, target, [through])
        found[key] = through == PIXELS or graph.is_bottleneck(through)
    return found[key]


_WHOLE: "WeakKeyDictionary[Network, dict[Any, bool]]" = WeakKeyDictionary()


def _cuts(network: Network, target: str) -> tuple[ThroughLayer, ...]:
    order = network.target_point(target).order
    names = []
    for layer in network.layers.values():
        calls = range(1, layer.calls + 1)
        names += [layer.name if layer.calls == 1 else f"{layer.name}#{k}" for k in calls]
    points = {name: network.through_point(name) for name in names}
    names = sorted(
        (name for name in names if points[name].order < order), key=lambda x: points[x].order
    )
    graph = _Graph(network, target, names)
    kept: dict[_Edge, str] = {}
    for name in names:
        made = graph.edges[name]
        if made is None or made not in graph.ancestry:
            continue  # the target does not depend on it
        module = points[name].module
        joins = _is(made, _JOINS) and module is not None and any(True for _ in module.children())
        # What wraps a layer hands on the same tensor later: the first gives the name, but for an
        # activation function of its own.
        named = made in kept and not isinstance(module, ACTIVATIONS)
        if (joins or _is(made, _NONLINEAR)) and not named:
            kept[made] = name
    nonlinear = sum(_is(edge, _NONLINEAR) for edge in graph.ancestry) or 1
    found = [ThroughLayer(layer=PIXELS, whole=True, depth=0.0, activation=False)]
    for made, name in kept.items():
        before = sum(_is(edge, _NONLINEAR) for edge in _walk(made))
        found.append(
            ThroughLayer(
                layer=name,
                whole=graph.is_bottleneck(name),
                depth=before / nonlinear,
                activation=_is(made, _NONLINEAR),
            )
        )
    return tuple(found)


class _Graph:
    """The graph of one pass on one image, from the pixels to the target."""

    def __init__(self, network: Network, target: str, throughs: list[str]) -> None:
        size, device, dtype = network.preprocessing.size, network.device, network.dtype
        image = torch.zeros(1, 3, *size, device=device, dtype=dtype)
        record = network.record(
            image, targets=[target], throughs=list(dict.fromkeys([PIXELS, *throughs]))
        )
        self.pixels = record.throughs[PIXELS]
        self.end = _edge(record.targets[target])
        self.edges = {name: _edge(record.throughs[name]) for name in throughs}
        self.ancestry = set(_walk(self.end)) if self.end is not None else set[_Edge]()

    def is_bottleneck(self, name: str) -> bool:
        cut = self.edges[name]
        if self.end is None or cut is None or cut not in self.ancestry:
            return False
        around = _walk(self.end, lambda edge: edge == cut)
        return not any(getattr(node, "variable", None) is self.pixels for node, _ in around)


def _edge(tensor: Tensor) -> _Edge | None:
    """The node that made a tensor, apart from copies and other views of all of it."""
    if tensor.grad_fn is None:
        return None
    return _original((tensor.grad_fn, tensor.output_nr))


def _original(edge: _Edge) -> _Edge:
    while _is(edge, _SAME):
        edge = edge[0].next_functions[0]
    return edge


def _walk(start: _Edge, avoid: Callable[[_Edge], bool] = lambda _: False) -> Iterator[_Edge]:
    """All that a node depends on, itself first."""
    waiting, seen = [start], {start}
    while waiting:
        edge = waiting.pop()
        if avoid(edge):
            continue
        yield edge
        for node, output in edge[0].next_functions:
            if node is not None and (following := _original((node, output))) not in seen:
                seen.add(following)
                waiting.append(following)


def _is(edge: _Edge, kinds: tuple[str, ...]) -> bool:
    return type(edge[0]).__name__.startswith(kinds)
