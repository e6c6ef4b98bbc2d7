"""A few of the networks that `python -m benchmarks.architectures` compares."""

import pytest

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from benchmarks.architectures import compare, networks

SAMPLE = ["timm:levit_128s", "timm:vit_tiny_patch16_224", "torchvision:swin_t"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_three_pairs_of_layers_are_as_the_reference_says(name: str) -> None:
    [(_, module, size)] = networks([name], set())
    outcomes, _ = compare(name, module, size)
    assert outcomes == ["equal"] * 3
