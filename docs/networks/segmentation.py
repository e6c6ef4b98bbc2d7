"""A segmentation model of torchvision with random weights: it gives a mapping of maps."""

import torch

import opponent


def lraspp() -> opponent.Network:
    """LR-ASPP on MobileNetV3, for 21 classes at each pixel."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    preprocessing = opponent.Preprocessing(size=(96, 128))
    return opponent.Network(module, preprocessing=preprocessing, name="lraspp")
