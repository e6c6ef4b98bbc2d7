"""How a photograph becomes a network's input."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from opponent.images.decode import Fit

# ImageNet's statistics, those of torchvision's classifiers.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes the network's input.

    Args:
        size: (height, width) of the input, in pixels.
        resize: the short side before the centre crop; None is the smallest that covers `size`.
        mean, std: a channel's mean and standard deviation, for pixels in [0, 1].
        draft: decode JPEGs that are far larger than that at fewer pixels. Faster, and activations
            differ a little: by 2 to 7 % where an input saved as JPEG once more differs by 7 to 19.

    >>> import opponent, torch
    >>> preprocessing = opponent.Preprocessing(size=(64, 96), mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> preprocessing.normalise(torch.ones(1, 3, 64, 96)).unique()
    tensor([2.])
    """

    size: tuple[int, int] = (224, 224)
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    draft: bool = False

    @property
    def fit(self) -> Fit:
        """How photographs are decoded and brought to the input's size."""
        return Fit(size=self.size, resize=self.resize, draft=self.draft)

    def normalise(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The network's input from pixels in [0, 1].

        Args:
            images: RGB, in [0, 1].
        """
        mean, std = (images.new_tensor(x).view(3, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std

    def from_bytes(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """The network's input, in float32, from decoded images.

        Args:
            images: RGB bytes.
        """
        return self.normalise(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255)
