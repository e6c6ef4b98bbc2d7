"""The names of models, which are checked without loading anything heavy."""

import pytest
from tests.support.image_files import in_new_interpreter

from opponent.models.catalogue import EMBEDDED, MODELS, check_model


def test_a_name_for_each_kind_of_model() -> None:
    kinds = {name.partition(":")[0] for name in MODELS}
    assert kinds == {
        "inceptionv1-small", "inceptionv1", "inceptionv1-bvlc", "torchvision", "timm", "module",
    }  # fmt: skip
    assert EMBEDDED in MODELS


@pytest.mark.parametrize(
    "name",
    ["inceptionv1", "inceptionv1-small", "torchvision:xyz", "timm:xyz", "module:a.b:c", "module:a"],
)
def test_a_name_of_the_right_form_is_left_to_its_library(name: str) -> None:
    check_model(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("inception", "'inceptionv1'"),
        ("timm:", "'timm:NAME'"),
        ("torchvison:alexnet", None),
        ("modul:a:b", None),
        (":", None),
        ("resnet18", None),
    ],
)
def test_another_name_is_refused_with_the_nearest_and_all(name: str, near: str | None) -> None:
    with pytest.raises(ValueError, match=f"^no model is called '{name}'") as caught:
        check_model(name)
    assert str(caught.value).endswith(" The models: " + ", ".join(MODELS))
    assert near is None or f"did you mean {near}?" in str(caught.value)


def test_it_imports_nothing_heavy() -> None:
    program = """
import sys
from opponent.models.catalogue import MODELS
assert MODELS
assert not {"torch", "numpy", "PIL", "matplotlib"} & set(sys.modules)
"""
    done = in_new_interpreter(program)
    assert (done.returncode, done.stderr) == (0, "")
