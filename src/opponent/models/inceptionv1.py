"""InceptionV1: the paper's network, the one that was trained in Caffe, and one at half width."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Channels of a mixed block: 1x1, 3x3 bottleneck, 3x3, 5x5 bottleneck, 5x5, pool reduce.
# Source: Szegedy et al. (2015), table 1, with the 3x3 branch of 4a as in the released network.
BLOCKS = {
    "mixed3a": (64, 96, 128, 16, 32, 32),
    "mixed3b": (128, 128, 192, 32, 96, 64),
    "mixed4a": (192, 96, 204, 16, 48, 64),
    "mixed4b": (160, 112, 224, 24, 64, 64),
    "mixed4c": (128, 128, 256, 24, 64, 64),
    "mixed4d": (112, 144, 288, 32, 64, 64),
    "mixed4e": (256, 160, 320, 32, 128, 128),
    "mixed5a": (256, 160, 320, 48, 128, 128),
    "mixed5b": (384, 192, 384, 48, 128, 128),
}
STEM = (64, 64, 192)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs between InceptionV1s.

    Args:
        width: factor on all channels, which are rounded to multiples of 8, at least 8.
        classes: number of logits.
        normalise: local response normalisation in the stem.
        bias: biases in the mixed blocks.
        caffe: conv2d0 pads the same on every side, pools of stride 2 do not pad and round up, and
            local response normalisation has the constants of Caffe's GoogLeNet.
        blocks: the channels of blocks that are not those of `BLOCKS`.
    """

    width: float = 1.0
    classes: int = 1008
    normalise: bool = True
    bias: bool = True
    caffe: bool = False
    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def channels(self, full: int) -> int:
        """A layer's channels at this width."""
        return full if self.width == 1 else max(8, round(full * self.width / 8) * 8)


FULL = Variant()
# Source: the Caffe model zoo's bvlc_googlenet, which has the channels of the published table.
BVLC = Variant(
    classes=1000,
    caffe=True,
    blocks={
        "mixed4a": (192, 96, 208, 16, 48, 64),
        "mixed5a": (256, 160, 320, 32, 128, 128),
    },
)
SMALL = Variant(width=0.5, classes=1000, normalise=False, bias=False, caffe=True)


class InceptionV1(nn.Module):
    """InceptionV1 with the literature's layer names: 'mixed3b' is the ReLU that ends the block.

    Convolutions and pools of stride 2 pad as TensorFlow's SAME does for even sizes, more at the
    bottom and right, but where the variant is Caffe's. The state dict has the names of the public
    checkpoint `inception5h.pth`.
    """

    def __init__(self, variant: Variant = FULL) -> None:
        super().__init__()
        self.variant = v = variant
        stem = [v.channels(c) for c in STEM]
        self.conv2d0_pre_relu_conv = nn.Conv2d(3, stem[0], 7, 2)
        self.conv2d0 = nn.ReLU()
        self.maxpool0 = _pool(v)
        self.localresponsenorm0 = _normalisation(v)
        self.conv2d1_pre_relu_conv = nn.Conv2d(stem[0], stem[1], 1)
        self.conv2d1 = nn.ReLU()
        self.conv2d2_pre_relu_conv = nn.Conv2d(stem[1], stem[2], 3, padding=1)
        self.conv2d2 = nn.ReLU()
        self.localresponsenorm1 = _normalisation(v)
        self.maxpool1 = _pool(v)
        inputs = stem[2]
        for name, full in BLOCKS.items():
            c = [v.channels(n) for n in v.blocks.get(name, full)]
            for suffix, layer in {
                "1x1": nn.Conv2d(inputs, c[0], 1, bias=v.bias),
                "3x3_bottleneck": nn.Conv2d(inputs, c[1], 1, bias=v.bias),
                "3x3": nn.Conv2d(c[1], c[2], 3, padding=1, bias=v.bias),
                "5x5_bottleneck": nn.Conv2d(inputs, c[3], 1, bias=v.bias),
                "5x5": nn.Conv2d(c[3], c[4], 5, padding=2, bias=v.bias),
                "pool_reduce": nn.Conv2d(inputs, c[5], 1, bias=v.bias),
            }.items():
                self.add_module(f"{name}_{suffix}_pre_relu_conv", layer)
            self.add_module(f"{name}_3x3_bottleneck", nn.ReLU())
            self.add_module(f"{name}_5x5_bottleneck", nn.ReLU())
            self.add_module(f"{name}_pool", nn.MaxPool2d(3, 1, 1))
            self.add_module(name, nn.ReLU())
            inputs = c[0] + c[2] + c[4] + c[5]
        self.maxpool4 = _pool(v)
        self.maxpool10 = _pool(v)
        self.avgpool0 = nn.AdaptiveAvgPool2d(1)
        self.softmax2_pre_activation_matmul = nn.Linear(inputs, v.classes)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Logits of images in the network's own input range."""
        # TensorFlow's SAME, for even sizes, has a row and a column less at the top and left.
        x = F.pad(x, (3, 3, 3, 3) if self.variant.caffe else (2, 3, 2, 3))
        x = self.conv2d0(self.conv2d0_pre_relu_conv(x))
        x = self.localresponsenorm0(self.maxpool0(x))
        x = self.conv2d1(self.conv2d1_pre_relu_conv(x))
        x = self.conv2d2(self.conv2d2_pre_relu_conv(x))
        x = self.maxpool1(self.localresponsenorm1(x))
        for name, following in pairwise([*BLOCKS, ""]):
            x = self._mixed(name, x)
            if following == "mixed4a":
                x = self.maxpool4(x)
            if following == "mixed5a":
                x = self.maxpool10(x)
        x = self.avgpool0(x).flatten(1)
        logits: Tensor = self.softmax2_pre_activation_matmul(x)
        return logits

    def _mixed(self, name: str, x: Tensor) -> Tensor:
        def submodule(suffix: str, x: Tensor) -> Tensor:
            y: Tensor = getattr(self, f"{name}_{suffix}")(x)
            return y

        def convolve(suffix: str, x: Tensor) -> Tensor:
            return submodule(f"{suffix}_pre_relu_conv", x)

        branches = [
            convolve("1x1", x),
            convolve("3x3", submodule("3x3_bottleneck", convolve("3x3_bottleneck", x))),
            convolve("5x5", submodule("5x5_bottleneck", convolve("5x5_bottleneck", x))),
            convolve("pool_reduce", submodule("pool", x)),
        ]
        y: Tensor = getattr(self, name)(torch.cat(branches, 1))
        return y


class MaxPoolSame(nn.Module):
    """A 3 x 3 maximum of stride 2 that pads below and to the right."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
        """The pooled map, h // 2 by w // 2."""
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)


def _pool(variant: Variant) -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True) if variant.caffe else MaxPoolSame()


def _normalisation(variant: Variant) -> nn.Module:
    if not variant.normalise:
        return nn.Identity()
    if variant.caffe:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    # The constants of the released network; alpha is one ten-thousandth in single precision.
    return nn.LocalResponseNorm(9, alpha=9.99999974738e-05, beta=0.5, k=1.0)
