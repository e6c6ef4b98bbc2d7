"""The names of models."""

from opponent.models.catalogue import MODELS


def test_a_name_for_each_kind_of_model() -> None:
    kinds = {name.partition(":")[0] for name in MODELS}
    assert kinds == {"inceptionv1-mini", "inceptionv1", "torchvision", "timm", "module"}
