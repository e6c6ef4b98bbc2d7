"""What S would be if the network had learnt nothing: the same h, and gradients of no meaning.

Features may share their tensest images only because some images drive a layer hard. Then features
that the network never learnt share them just as much. Two kinds are made of each feature:

- permuted: its gradient, with the channels in another order, the same one in all images;
- random: directions drawn anew for each position, as long there as its gradient.

Both act on the layer's own outputs. What features share beyond these, the network
has learnt.

Source: ours; Adebayo et al. (2018), "Sanity checks for saliency maps", for the idea.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opponent.attribution.through_dictionary import Written
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop import CropPlan
from opponent.models.network import Network

# Of each feature: its own gradient, and the controls, of which there are several draws each.
CONTROLS = ("permuted", "random")
# What is measured of S in a basis; the rest in a dictionary alone.
SIZES = ("l1", "l2", "tension", "rest")
# Values that are held at once: 256 MB in single precision.
_AT_ONCE = 2**26


@dataclass(frozen=True, kw_only=True, eq=False)
class Controls:
    """The controls of one layer's features.

    Args:
        permutations: an order of the channels for each feature and draw.
        directions: vectors of length 1 for each feature, draw and position of the window.
    """

    permutations: Int[Tensor, "f d k"]
    directions: Float[Tensor, "f d k h w"]

    @classmethod
    def of(cls, network: Network, plan: CropPlan, draws: int, seed: int) -> "Controls":
        """The controls of a plan's features, the same for the same layer, number and seed.

        Args:
            network: the network.
            plan: that knows the features, the through layer and the window.
            draws: how many controls of each kind; 0 for none.
            seed: of the draws.
        """
        assert plan.through is not None
        assert plan.window is not None
        channels = network.map_shape(plan.through)[0]
        shape = channels, plan.window.height, plan.window.width
        orders = np.empty((len(plan.features), draws, channels), np.int64)
        vectors = np.empty((len(plan.features), draws, *shape), np.float32)
        for number, feature in enumerate(plan.features):
            layer = zlib.crc32(feature.layer.encode())
            random = np.random.default_rng([seed, layer, number])
            for draw in range(draws):
                orders[number, draw] = random.permutation(channels)
                vectors[number, draw] = random.standard_normal(shape, np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        return cls(
            permutations=torch.from_numpy(orders).to(network.device),
            directions=torch.from_numpy(vectors).to(network.device),
        )

    @property
    def draws(self) -> int:
        """How many there are of each kind."""
        return self.permutations.shape[1]

    def gradients(
        self, number: int, gradient: Float[Tensor, "n k h w"]
    ) -> Float[Tensor, "n s k h w"]:
        """A feature's gradient, then its permuted ones, then the random ones: s = 1 + 2 draws.

        Args:
            number: of the feature.
            gradient: of its activation by h, in the window.
        """
        permuted = gradient[:, self.permutations[number]]
        length = gradient.norm(dim=1)[:, None, None]
        random = self.directions[number].to(gradient) * length
        return torch.cat([gradient[:, None], permuted, random], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """Hidden vectors in a dictionary, at p positions of all images, with the latents that are on.

    Args:
        rows: the decoder's rows of the latents that are on: of each position, or of all.
        values: what they are multiplied by.
        rest: what the dictionary leaves.
    """

    rows: Float[Tensor, "_ a k"]
    values: Float[Tensor, "p a"]
    rest: Float[Tensor, "n k h w"]

    @classmethod
    def of(cls, hidden: Float[Tensor, "n k h w"], dictionary: Dictionary) -> "Codes":
        """Write hidden vectors.

        Args:
            hidden: the through layer's output, in the window.
            dictionary: of that layer.
        """
        written = Written.of(hidden, dictionary)
        decoder = written.dictionary.decoder
        values = written.codes.movedim(1, 3).flatten(0, 2)
        active = max(1, int((values != 0).sum(1).max()))
        # Where most are on, all rows at once are less than the rows of each position.
        if 4 * active > len(decoder):
            return cls(rows=decoder[None], values=values, rest=written.rest)
        places = values.abs().topk(active, dim=1).indices
        return cls(rows=decoder[places], values=values.gather(1, places), rest=written.rest)

    def sizes(self, gradients: Float[Tensor, "n s k h w"]) -> Float[Tensor, "n s 4"]:
        """The sizes of S over latents; the rest is counted channel by channel, as in channels.

        Args:
            gradients: as `Controls.gradients` gives them.
        """
        n, s = gradients.shape[:2]
        by_position = gradients.permute(0, 3, 4, 2, 1).flatten(0, 2)
        attribution = (self.rows @ by_position) * self.values[:, :, None]
        flat = attribution.view(n, -1, s).transpose(1, 2)
        rest = (gradients * self.rest[:, None]).abs().flatten(2).sum(2)
        return torch.cat([_sizes(flat), rest[:, :, None]], 2)


def channel_sizes(
    gradients: Float[Tensor, "n s k h w"], hidden: Float[Tensor, "n k h w"]
) -> Float[Tensor, "n s 3"]:
    """The sizes of S over channels, as `SIZES` names them, without a rest.

    Args:
        gradients: as `Controls.gradients` gives them.
        hidden: the through layer's output, in the window.
    """
    return _sizes((gradients * hidden[:, None]).flatten(2))


def _sizes(attribution: Float[Tensor, "n s x"]) -> Float[Tensor, "n s 3"]:
    """L1 and L2 norm and tension of S."""
    above = attribution.clamp(min=0).sum(2)
    below = attribution.clamp(max=0).sum(2).abs()
    norm = torch.linalg.vector_norm(attribution, 2, 2)
    return torch.stack([above + below, norm, torch.minimum(above, below)], 2)


def parallel(
    attributions: Sequence[Float[Tensor, "n s k"]],
) -> Float[Tensor, "n f s"]:
    """How far each feature's S points where the others' do, or the opposite way, in one image.

    How large any S is plays no role, so that images that drive the whole layer hard do not either.

    Args:
        attributions: of each feature S summed over space, of its own gradient and the controls.
    Returns:
        The sum over all other features of the squared cosine of both S; 0 where S = 0.
    """
    vectors = torch.stack(list(attributions), 2)  # n s f k
    length = vectors.norm(dim=3, keepdim=True)
    unit = torch.where(length > 0, vectors / length, 0)
    squares = (unit @ unit.transpose(2, 3)).square()
    own = squares.diagonal(dim1=2, dim2=3)
    return (squares.sum(3) - own).movedim(2, 1)


def images_at_once(controls: Controls, dictionaries: Sequence[Dictionary]) -> int:
    """How many images go together, so that what is held stays within bounds.

    Args:
        controls: of the features.
        dictionaries: of their through layer.
    """
    draws, channels, height, width = controls.directions.shape[1:]
    sets, positions = 1 + 2 * draws, height * width
    each = sets * channels * positions
    for dictionary in dictionaries:
        # Where all may be on, as many as are still gathered: a quarter of them.
        active = dictionary.active or -(-dictionary.latents // 4)
        rows = positions * active * channels if 4 * active <= dictionary.latents + 3 else 0
        each = max(each, rows, positions * dictionary.latents, positions * active * sets)
    return max(1, _AT_ONCE // max(1, each))
