"""The images in which a feature fires that it should not: crops, with its maps as it was."""

from collections.abc import Mapping

import numpy as np

from opponent.attribution.attribute import attribute
from opponent.core.box import Box
from opponent.core.text import in_deviations
from opponent.explain.crops import Tile, crop_tile, photographs, zoom_for
from opponent.explain.disinhibition.result import Disinhibited
from opponent.geometry.receptive_field import placement, receptive_field
from opponent.images.imageset import ImageSet
from opponent.models.network import PIXELS, Network
from opponent.selection import top
from opponent.storage.columns import Indices

# Images a group.
SHOWN = 4


def newly_firing(found: Disinhibited, number: int, name: str, k: int = SHOWN) -> Indices:
    """The silent images that are not the feature's own and in which it fires most without.

    Args:
        found: the measurement.
        number: which feature.
        name: which way to take inhibition away; of sets at random the first draw.
        k: how many at most.
    """
    after = found.exact[:, number, found.draws(name)[0]]
    where = (found.activation[:, number] <= 0) & ~found.own[:, number] & (after > 0)
    return top(after, k, where)


def firing_tiles(
    network: Network, images: ImageSet, found: Disinhibited, number: int, k: int = SHOWN
) -> Mapping[str, list[Tile]]:
    """A feature's own images, and for each way those in which it newly fires.

    Args:
        network: the network.
        images: those that were measured.
        found: the measurement.
        number: which feature.
        k: images a group.
    Returns:
        Tiles with the excitation and inhibition of the image as it is, captioned with the
        activation before and after, in standard deviations over all images.
    Raises:
        Unreadable: an image cannot be read any more.
    """
    f = found.activation[:, number]
    groups = {"own": top(f, k, found.own[:, number])}
    groups |= {
        name: newly_firing(found, number, name, k)
        for name in found.names
        if not found.ablations[found.draws(name)[0]].at_random
    }
    return {
        name: _tiles(network, images, found, number, rows, name) if len(rows) else []
        for name, rows in groups.items()
    }


def _tiles(
    network: Network, images: ImageSet, found: Disinhibited, number: int, rows: Indices, name: str
) -> list[Tile]:
    feature, prepared = found.features[number], network.preprocessing
    entries = tuple(images.find(found.images[row]) for row in rows.tolist())
    result = attribute(network, ImageSet(source="", entries=entries), feature, found.through)
    maps = [
        x.detach().float().cpu().numpy() for x in (result.excitation_map, result.inhibition_map)
    ]
    field = receptive_field(network, feature, PIXELS)
    zoom = zoom_for(prepared, field)
    deviation = float(found.activation[:, number].astype(np.float64).std()) or 1.0
    place = found.draws("all" if name == "own" else name)[0]
    tiles = list[Tile]()
    for i, (row, picture) in enumerate(
        zip(rows.tolist(), photographs(entries, prepared, zoom), strict=True)
    ):
        values = (found.activation[row, number], found.exact[row, number, place])
        before, after = (in_deviations(float(x) / deviation) for x in values)
        tiles.append(
            crop_tile(
                picture,
                (maps[0][i], maps[1][i]),
                window=Box.full(maps[0].shape[1:]),
                placement=placement(network, found.through),
                field=field,
                size=prepared.size,
                zoom=zoom,
                caption=f"{before.removesuffix(' sd')} → {after}",
            )
        )
    return tiles
