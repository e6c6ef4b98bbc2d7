"""A feature of which some images are tense, whatever a network's weights are."""

from pathlib import Path

from opponent import Network
from opponent.selection import BAND


def tensest_unit(network: Network, folder: Path, layer: str) -> str:
    """The unit of a layer, at its middle, of which most images in a folder are in balance."""
    maps = network.run(network.load_inputs(folder)[0], layer).target
    activation = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    deviation = activation.std(0, correction=0)
    count = ((activation < 0) & (activation > -BAND * deviation)).sum(0)
    assert count.max() >= 3
    return f"{layer}:{int(count.argmax())}"
