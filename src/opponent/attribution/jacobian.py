"""The Jacobian of a layer's features at one position by the through layer, in one backward walk.

Plain reverse mode takes one pass for each feature, over whole maps. The walk here carries all
features at once, as blocks: the derivatives of some features by one box of a map. A box grows from
the one position with each convolution, and a block leaves out the branches that its features do not
begin in. What does not depend on the image, such as the derivatives up to the last activation
function, is computed once for all images.

The graph is autograd's own, of the pass from the through layer to the target. What each operation
does to a block is in `opponent.attribution.jacobian_rules`. An operation without a rule is an
error, `NoRule`; the caller then takes one backward pass for each feature.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from opponent.attribution.jacobian_block import (
    Cache,
    JacobianBlock,
    Node,
    NoRule,
    merge_blocks,
)
from opponent.attribution.jacobian_rules import propagate

# Elements of a block that are worked on at once: small enough for a processor's cache.
BLOCK_ELEMENTS = 2**22


@torch.no_grad()
def jacobian_blocks(
    target: Float[Tensor, "n c h w"],
    through: Float[Tensor, "n k y x"],
    directions: Float[Tensor, "u c"],
    position: tuple[int, int],
    cache: Cache | None = None,
) -> list[JacobianBlock]:
    """The derivatives of features at one position by the through layer.

    Args:
        target: the target's map, with the graph from the through layer.
        through: the leaf of that graph.
        directions: of the features, in the target's channels.
        position: row and column of the target's map.
        cache: kept between calls on the same graph, to compute nothing twice.
    Returns:
        Blocks no two of which share a feature. A feature in no block has derivative zero.
    Raises:
        NoRule: an operation between the two layers has no rule.
    """
    cache = {} if cache is None else cache
    start: Node = target.grad_fn
    if start is None:
        return []
    if target.output_nr:
        raise NoRule(f"the walk has no rule for the second output of {start.name()}")
    remaining = dict(_consumers(start, through, cache))
    if start not in remaining:
        return []
    first = JacobianBlock(
        units=torch.arange(len(directions), device=directions.device),
        top=position[0],
        left=position[1],
        derivatives=directions[None, :, None, None, :].clone(),
    )
    blocks: dict[Node, list[JacobianBlock]] = {start: [first]}  # by each node's output
    ready, at_leaf = [start], list[JacobianBlock]()
    while ready:
        node = ready.pop()
        depends = [_is_leaf(n, through) or n in remaining for n, _ in node.next_functions]
        results = propagate(node, merge_blocks(blocks.pop(node, [])), depends, cache)
        for (before, output), used, result in zip(
            node.next_functions, depends, results, strict=True
        ):
            if not used:
                continue
            if _is_leaf(before, through):
                at_leaf += result
                continue
            if output:
                raise NoRule(f"the walk has no rule for the second output of {before.name()}")
            blocks.setdefault(before, []).extend(result)
            remaining[before] -= 1
            if not remaining[before]:  # all that use its output have been
                ready.append(before)
    return merge_blocks(at_leaf)


def _is_leaf(node: Node, leaf: Tensor) -> bool:
    return getattr(node, "variable", None) is leaf


def _consumers(start: Node, leaf: Tensor, cache: Cache) -> Mapping[Node, int]:
    """For each node on a path from target to leaf, how often nodes on such paths use its output."""
    if "consumers" in cache:
        return cast(Mapping[Node, int], cache["consumers"])
    order, seen = list[Node](), set[Node]()
    stack: list[tuple[Node, bool]] = [(start, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(n, False) for n, _ in node.next_functions if n is not None]
    on_path = set[Node]()
    for node in order:  # those that a node depends on come before it
        if _is_leaf(node, leaf) or any(n in on_path for n, _ in node.next_functions):
            on_path.add(node)
    consumers = {
        node: sum(n is node for other in on_path for n, _ in other.next_functions)
        for node in on_path
        if not _is_leaf(node, leaf)
    }
    cache["consumers"] = consumers
    return consumers


@torch.no_grad()
def excitation_inhibition_l2(
    blocks: Sequence[JacobianBlock], hidden: Float[Tensor, "n y x c"], count: int
) -> Float[Tensor, "n u 3"]:
    """Excitation, inhibition and L2 norm of S for each feature, from its derivatives.

    Args:
        blocks: derivatives of features numbered 0 to count - 1 by the through layer.
        hidden: h, the through layer's maps with the channels last.
        count: how many features.
    Returns:
        The three, in units of the features' activations.
    Source: paper, eqs. 1 and 2.
    """
    results = hidden.new_zeros(len(hidden), count, 3)
    for block in blocks:
        h = hidden[:, *block.slices]
        if len(block.derivatives) == 1:
            values = _of_linear_map(block.derivatives[0].flatten(1), h.flatten(1))
        else:
            s = (block.derivatives * h[:, None]).flatten(2)
            norm, excitation = s.norm(dim=2), s.clamp(min=0).sum(2)
            values = torch.stack([excitation, s.clamp_(max=0).sum(2).neg(), norm], 2)
        results[:, block.units] = values
    return results


def _of_linear_map(
    jacobian: Float[Tensor, "u d"], hidden: Float[Tensor, "n d"]
) -> Float[Tensor, "n u 3"]:
    """The three where all images have one Jacobian: positive weights excite, negative inhibit."""
    plus, minus = jacobian.clamp(min=0), (-jacobian).clamp(min=0)
    above = hidden.clamp(min=0)
    excitation, inhibition = above @ plus.T, above @ minus.T
    if hidden.numel() and hidden.min() < 0:
        below = (-hidden).clamp(min=0)
        excitation, inhibition = excitation + below @ minus.T, inhibition + below @ plus.T
    # Squares leave the range of half precision.
    wide = torch.promote_types(hidden.dtype, torch.float32)
    norm = (hidden.to(wide).square() @ jacobian.to(wide).square().T).sqrt().to(hidden)
    return torch.stack([excitation, inhibition, norm], 2)
