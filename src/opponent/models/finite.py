"""Numbers that are not finite: whose they are, and what in a network is the likely cause."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from opponent.models.network import Network

# How the reasons of images begin that are left out.
NOT_FINITE = "not finite: "
# The largest finite number in half precision.
_HALF = int(torch.finfo(torch.float16).max)


def not_finite(arrays: Mapping[str, Float[np.ndarray, "n ..."]]) -> dict[int, str]:
    """The rows in which a number is NaN or infinite.

    Args:
        arrays: by what they hold; row i of each belongs to the same image.
    Returns:
        By row the names of the arrays that are not finite there, as a reason.
    """
    names: dict[int, list[str]] = {}
    for name, values in arrays.items():
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        for row in np.flatnonzero(~finite).tolist():
            names.setdefault(row, []).append(name)
    return {row: f"{NOT_FINITE}{', '.join(names[row])}" for row in sorted(names)}


def not_finite_weight(network: Network) -> str | None:
    """The name of the first parameter, or buffer, that is not finite; None if all are.

    Args:
        network: the network. Buffers may be infinite, as masks are, but not NaN.
    """
    for name, parameter in network.module.named_parameters():
        if not parameter.isfinite().all():
            return name
    for name, buffer in network.module.named_buffers():
        if buffer.isnan().any():
            return name
    return None


def likely_cause(network: Network) -> str:
    """Why a network's numbers are not finite, as far as the network tells, and what to do.

    Args:
        network: the network.
    """
    weight = not_finite_weight(network)
    if weight is not None:
        return f"the weight {weight!r} of {network.name} holds NaN or infinity; load others"
    if network.dtype == torch.float16:
        return (
            f"in half precision there are no numbers over {_HALF:,}; compute in bfloat16 or float32"
        )
    return (
        f"all weights of {network.name} are finite, so that a sum, power or quotient on the way is "
        "too large or undefined; look at the layers with `Network.activations`"
    )
