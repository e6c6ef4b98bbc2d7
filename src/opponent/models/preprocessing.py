"""How a photograph becomes a network's input."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from opponent.images.fit import Fit
from opponent.images.values import Range

# ImageNet's statistics, those of torchvision's classifiers.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes the network's input.

    Args:
        size: (height, width) of the input, in pixels.
        resize: the short side before the centre crop; None is the smallest that covers `size`.
        mean, std: a channel's mean and standard deviation, for pixels from 0 (black) to 1 (white);
            one value a channel.
        draft: decode JPEGs that are far larger than that at fewer pixels. Faster, and activations
            differ a little: by 2 to 7 % where an input saved as JPEG once more differs by 7 to 19.
        channels: how many bands the network takes: 3 for RGB, 1 for grey, or any other number.
        value_range: the values in files and arrays that are black and white, such as (0, 4095) for
            12-bit images in 16-bit files. Values beyond them are not cut off. None: 0 and 255 of
            bytes, 0 and 1 of floats that lie there, 0 and 65,535 of integers that use all 16 bits;
            other images are unreadable.
        largest: the most pixels that an image may have; larger ones are unreadable. None is
            `PIL.Image.MAX_IMAGE_PIXELS`, 89 megapixels unless you change it.
    Raises:
        ValueError: another number of means or deviations than channels, a range that is none, a
            size or resize below 1.

    >>> import opponent, torch
    >>> preprocessing = opponent.Preprocessing(size=(64, 96), mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> preprocessing.normalise(torch.ones(1, 3, 64, 96)).unique()
    tensor([2.])
    >>> opponent.Preprocessing(channels=1, value_range=(0, 4095), mean=(0.2,), std=(0.1,)).channels
    1
    """

    size: tuple[int, int] = (224, 224)
    resize: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    draft: bool = False
    channels: int = 3
    value_range: Range | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        _ = self.fit  # it refuses sizes, channels and ranges that are none
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"{name} {values} has {len(values)} values for {self.channels} channels: give "
                    "one a channel"
                )

    @property
    def fit(self) -> Fit:
        """How photographs are decoded and brought to the input's size."""
        return Fit(
            size=self.size,
            resize=self.resize,
            draft=self.draft,
            channels=self.channels,
            value_range=self.value_range,
            largest=self.largest,
        )

    def normalise(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The network's input from pixels in [0, 1].

        Args:
            images: RGB, or the bands that the network takes, from 0 (black) to 1 (white).
        """
        mean, std = (images.new_tensor(x).view(-1, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std

    def from_pixels(
        self, images: UInt8[np.ndarray, "n h w 3"] | Float32[np.ndarray, "n h w c"]
    ) -> Float[Tensor, "n c h w"]:
        """The network's input, in float32, from decoded images.

        Args:
            images: RGB bytes, or bands from 0 (black) to 1 (white).
        """
        values = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
        return self.normalise(values / 255 if images.dtype == np.uint8 else values)

    def describe(self) -> dict[str, object]:
        """What determines the inputs, ready for JSON; channels, range and largest only if given."""
        values = asdict(self)
        if self.channels == 3:
            del values["channels"]
        if self.value_range is None:
            del values["value_range"]
        if self.largest is None:
            del values["largest"]
        return values

    def check(self, inputs: Tensor) -> None:
        """Check that a tensor is a network's own input.

        Args:
            inputs: the tensor.
        Raises:
            ValueError: it has another number of axes or channels.
        """
        shape, wanted = (*inputs.shape,), f"(n, {self.channels}, height, width)"
        if inputs.ndim == 3:
            raise ValueError(f"images have shape {wanted}, got {shape}: give one as images[None]")
        if inputs.ndim != 4 or shape[1] != self.channels:
            raise ValueError(
                f"images have shape {wanted}, got {shape}; Preprocessing(channels=...) says how "
                "many channels the network takes"
            )
