"""The layers that an attribution can be taken through, and which of them are bottlenecks.

A layer is a bottleneck if every path from the pixels to the target goes through it. Paths are those
of autograd's graph of one pass.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opponent.models.activations import ACTIVATION_FUNCTIONS
from opponent.models.network import LOGITS, PIXELS, Network

# How the names of autograd's nodes begin: of activation functions that layers are made of,
_ACTIVATION_NODES = tuple(f"{x.node}Backward" for x in ACTIVATION_FUNCTIONS if not x.gate)
# of what joins the branches of a block,
_JOIN_NODES = ("CatBackward", "AddBackward", "StackBackward")
# and of what keeps all elements and at most moves them: its input is a bottleneck if it is one.
_MOVE_NODES = (
    "CloneBackward", "AliasBackward", "ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward",
    "PermuteBackward", "TransposeBackward", "TBackward", "UnsqueezeBackward", "SqueezeBackward",
)  # fmt: skip

_Edge = tuple[Any, int]  # a tensor in autograd's graph: its node, and which output of the node


@dataclass(frozen=True, kw_only=True)
class ThroughLayer:
    """A layer that an attribution can be taken through.

    Args:
        layer: its name; 'NAME#2' is the second call in a pass.
        bottleneck: whether all that the images do to the target goes through it. Through one branch
            of a block only, the sum of S leaves out what the others do.
        depth: of the activation functions that the target depends on, the share that lies before
            the layer's output, its own among them: 0 for the pixels, 1 for the last.
        activation: whether it is the output of an activation function; else it joins branches.
    Source: paper, appendix E, for the depth.

    >>> import opponent
    >>> opponent.through_layers(opponent.load(), "mixed3b")[1]
    ThroughLayer(layer='conv2d0', bottleneck=True, depth=0.125, activation=True)
    """

    layer: str
    bottleneck: bool
    depth: float
    activation: bool


def through_layers(network: Network, target: str = LOGITS) -> tuple[ThroughLayer, ...]:
    """The pixels and all layers before a target that S is usually taken through, in order.

    These are the outputs of activation functions and, where a block joins branches (by
    concatenation or sum), the output of the block. A tensor that several layers hand on counts
    once, by the name of the layer that computes it.

    Args:
        network: the network.
        target: the layer of the features.
    Returns:
        The layers in the order of the pass, the pixels first.
    Raises:
        ValueError: an unknown target.
    Source: paper, appendix E.

    >>> import opponent
    >>> layers = opponent.through_layers(opponent.load(), "mixed3b")
    >>> [layer.layer for layer in layers if layer.bottleneck]
    ['pixels', 'conv2d0', 'conv2d1', 'conv2d2', 'mixed3a']
    """
    key = ("through layers", target)
    return network.cached(key, lambda: _find_through_layers(network, target))


def is_bottleneck(network: Network, target: str, through: str) -> bool:
    """Whether all that the images do to the target goes through a layer.

    Args:
        network: the network.
        target: the layer of the features.
        through: an earlier layer, or 'pixels'.
    Raises:
        ValueError: an unknown layer, or a through layer that does not lie before the target.
    """
    network.layers.check(target, through)
    if through == PIXELS:
        return True

    def compute() -> bool:
        return _Graph(network, target, [through]).is_bottleneck(through)

    return network.cached(("is bottleneck", target, through), compute)


def _find_through_layers(network: Network, target: str) -> tuple[ThroughLayer, ...]:
    end = network.layers.target_point(target).order
    calls = [
        layer.name if layer.calls == 1 else f"{layer.name}#{call}"
        for layer in network.layers.values()
        for call in network.layers.readable_calls(layer.name)
    ]
    points = {name: network.layers.through_point(name) for name in calls}
    names = sorted((x for x in calls if points[x].order < end), key=lambda x: points[x].order)
    graph = _Graph(network, target, names)
    chosen: dict[_Edge, str] = {}
    for name in names:
        edge, module = graph.edges[name], points[name].module
        if edge is None or edge not in graph.ancestors:
            continue  # the target does not depend on it
        has_children = module is not None and any(True for _ in module.children())
        joins = _is(edge, _JOIN_NODES) and has_children
        # A module around a layer hands on the same tensor later: the first gives the name, but for
        # an activation function of its own.
        is_activation = network.layers.is_activation(name.partition("#")[0])
        named = edge in chosen and not is_activation
        if (joins or _is(edge, _ACTIVATION_NODES)) and not named:
            chosen[edge] = name
    total = sum(_is(edge, _ACTIVATION_NODES) for edge in graph.ancestors) or 1
    layers = [ThroughLayer(layer=PIXELS, bottleneck=True, depth=0.0, activation=False)]
    for edge, name in chosen.items():
        before = sum(_is(ancestor, _ACTIVATION_NODES) for ancestor in _ancestors(edge))
        layers.append(
            ThroughLayer(
                layer=name,
                bottleneck=graph.is_bottleneck(name),
                depth=before / total,
                activation=_is(edge, _ACTIVATION_NODES),
            )
        )
    return tuple(layers)


class _Graph:
    """Autograd's graph of one pass on one image, from the pixels to the target.

    Args:
        network: the network.
        target: where the graph ends.
        names: layers whose outputs are to be found in the graph.
    """

    def __init__(self, network: Network, target: str, names: list[str]) -> None:
        shape, device, dtype = network.map_shape(PIXELS), network.device, network.dtype
        image = torch.zeros(1, *shape, device=device, dtype=dtype)
        record = network.record(
            image, targets=[target], throughs=list(dict.fromkeys([PIXELS, *names])), as_maps=False
        )
        self.pixels = record.throughs[PIXELS]
        self.target = _edge_of(record.targets[target])
        self.edges = {name: _edge_of(record.throughs[name]) for name in names}
        self.ancestors = set[_Edge]() if self.target is None else set(_ancestors(self.target))

    def is_bottleneck(self, name: str) -> bool:
        """Whether no path from the target to the pixels avoids a layer."""
        layer = self.edges[name]
        if self.target is None or layer is None or layer not in self.ancestors:
            return False
        around = _ancestors(self.target, avoid=lambda edge: edge == layer)
        return not any(getattr(node, "variable", None) is self.pixels for node, _ in around)


def _edge_of(tensor: Tensor) -> _Edge | None:
    """A tensor in the graph, or the one that it is a copy or a view of; None if it is not there."""
    return None if tensor.grad_fn is None else _before_moves((tensor.grad_fn, tensor.output_nr))


def _before_moves(edge: _Edge) -> _Edge:
    while _is(edge, _MOVE_NODES):
        edge = edge[0].next_functions[0]
    return edge


def _ancestors(start: _Edge, avoid: Callable[[_Edge], bool] = lambda _: False) -> Iterator[_Edge]:
    """A tensor and all that it is computed from, without what lies behind an edge to avoid."""
    waiting, seen = [start], {start}
    while waiting:
        edge = waiting.pop()
        if avoid(edge):
            continue
        yield edge
        for node, output in edge[0].next_functions:
            if node is not None and (before := _before_moves((node, output))) not in seen:
                seen.add(before)
                waiting.append(before)


def _is(edge: _Edge, nodes: tuple[str, ...]) -> bool:
    return type(edge[0]).__name__.startswith(nodes)


def after_activations(network: Network) -> Mapping[str, tuple[str, ...]]:
    """The layers that are no activation functions, and whose output is that of one, or of several.

    Such are blocks that end with a ReLU, batch norms with an activation function in them, and
    blocks that join outputs of ReLUs by concatenation. As a target such a layer is read after the
    ReLU: a feature that is inhibited is 0 there, however much it is.

    Args:
        network: the network.
    Returns:
        By layer the activation functions, which as targets are read at their input; none where the
        network calls a function and no module.

    >>> import opponent, torch
    >>> block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> after_activations(opponent.Network(torch.nn.Sequential(block, torch.nn.Conv2d(8, 2, 1))))
    {'0': ('0.1',)}
    """
    return network.cached(("after activations",), lambda: _find_after_activations(network))


def _find_after_activations(network: Network) -> dict[str, tuple[str, ...]]:
    layers = network.layers
    functions = [
        name if call == layers[name].calls else f"{name}#{call}"
        for name in layers
        if layers.is_activation(name)
        for call in layers.readable_calls(name)
    ]
    blocks = [name for name in layers if name not in functions]
    shape, device, dtype = network.map_shape(PIXELS), network.device, network.dtype
    image = torch.zeros(1, *shape, device=device, dtype=dtype)
    record = network.record(
        image, targets=[], throughs=[PIXELS, *functions, *blocks], as_maps=False
    )
    edges = {name: _edge_of(tensor) for name, tensor in record.throughs.items()}
    # The module itself comes first: what lies around it hands on the same tensor.
    of_edge = {edges[name]: name for name in reversed(functions)}
    nodes = tuple(f"{function.node}Backward" for function in ACTIVATION_FUNCTIONS)
    found = dict[str, tuple[str, ...]]()
    for name in blocks:
        edge = edges[name]
        joined = [] if edge is None else list(_joined(edge))
        if joined and all(each in of_edge or _is(each, nodes) for each in joined):
            named = [of_edge[each] for each in joined if each in of_edge]
            found[name] = tuple(dict.fromkeys(named))
    return found


def _joined(edge: _Edge) -> Iterator[_Edge]:
    """The tensors that a tensor joins by concatenation; itself where it joins none."""
    if not _is(edge, ("CatBackward",)):
        yield edge
        return
    for node, output in edge[0].next_functions:
        if node is not None:
            yield from _joined(_before_moves((node, output)))
