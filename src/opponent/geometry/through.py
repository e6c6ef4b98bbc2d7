"""Which layers to explain a target through: those that everything goes through, and no branch."""

import difflib

from opponent.geometry.bottlenecks import is_bottleneck, through_layers
from opponent.models.network import PIXELS, Network

# Names in a message; `opponent layers` lists all.
_NAMED = 8


def bottlenecks_before(network: Network, target: str) -> tuple[str, ...]:
    """The layers before a target that everything goes through, in order, without the pixels.

    Args:
        network: the network.
        target: the layer of the features.
    Returns:
        Names of layers that S is usually taken through; none where only the pixels carry all.
    Raises:
        ValueError: an unknown target.
    """
    return tuple(x.layer for x in through_layers(network, target)[1:] if x.bottleneck)


def check_through(network: Network, target: str, through: str) -> None:
    """Check that a through layer is there and lies before the target.

    Args:
        network: the network.
        target: the layer of the features.
        through: the layer to explain them through, or 'pixels'.
    Raises:
        ValueError: an unknown name, or a through layer at or after the target; the message names
            the bottlenecks before the target.
    """
    network.layer(target)  # it says which are near
    plain = through.partition("#")[0]
    if plain in network.layers.refused:
        network.layer(through)  # it says why
    if through == PIXELS or plain in network.layers:
        try:
            network.layers.check(target, through)
        except ValueError as error:
            raise ValueError(f"{error}; {_named(network, target)}") from error
        return
    near = difflib.get_close_matches(plain, bottlenecks_before(network, target), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ";"
    raise ValueError(f"{network.name} has no layer {plain!r}{hint} {_named(network, target)}")


def branch_note(network: Network, target: str, through: str) -> str | None:
    """What to know of a through layer that a branch goes around; None where nothing does.

    Args:
        network: the network.
        target: the layer of the features.
        through: the layer that they are explained through.
    """
    if is_bottleneck(network, target, through):
        return None
    return (
        f"{through} is one branch of several: what reaches {target} around it is in no attribution "
        f"through it, by any rule; {_named(network, target)}"
    )


def _named(network: Network, target: str) -> str:
    """The bottlenecks before a target, in words; the nearest where they are many."""
    names = bottlenecks_before(network, target)
    if not names:
        return f"everything goes through the {PIXELS} alone before {target}"
    listed = ("…, " if len(names) > _NAMED else "") + ", ".join(names[-_NAMED:])
    return f"everything goes through these on its way to {target}: {listed}"
