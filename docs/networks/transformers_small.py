"""Transformers of Hugging Face with random weights, small enough to try the commands on."""

import torch

import opponent


def vit() -> opponent.Network:
    """A ViT of four blocks: a class token before 8 x 8 patches."""
    from transformers import ViTConfig, ViTForImageClassification

    settings = ViTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96,
        image_size=64, patch_size=8, num_labels=10,
    )  # fmt: skip
    return _network(ViTForImageClassification, settings, "vit")


def dinov2() -> opponent.Network:
    """DINOv2 of four blocks; its logits come from the class token and the mean of the others."""
    from transformers import Dinov2Config, Dinov2ForImageClassification

    settings = Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8,
        num_labels=10,
    )  # fmt: skip
    return _network(Dinov2ForImageClassification, settings, "dinov2")


def clip() -> opponent.Network:
    """CLIP's side of images, which gives an embedding: `forward` says how it is called."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    settings = CLIPVisionConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96,
        image_size=64, patch_size=8, projection_dim=16,
    )  # fmt: skip
    network = _network(CLIPVisionModelWithProjection, settings, "clip")
    return opponent.Network(
        network.module,
        preprocessing=network.preprocessing,
        name="clip",
        forward=lambda module, images: module(pixel_values=images).image_embeds,
    )


def swin() -> opponent.Network:
    """Swin of two stages, with attention in windows of 4 x 4."""
    from transformers import SwinConfig, SwinForImageClassification

    settings = SwinConfig(
        image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4,
        num_labels=10,
    )  # fmt: skip
    return _network(SwinForImageClassification, settings, "swin")


def convnext() -> opponent.Network:
    """ConvNeXt of four stages, whose blocks have their channels last."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    settings = ConvNextConfig(
        image_size=64, hidden_sizes=[16, 32, 64, 96], depths=[2, 2, 2, 2], num_labels=10
    )
    return _network(ConvNextForImageClassification, settings, "convnext")


def _network(kind: type, settings: object, name: str) -> opponent.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind(settings)
    preprocessing = opponent.Preprocessing(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    return opponent.Network(module, preprocessing=preprocessing, name=name)
