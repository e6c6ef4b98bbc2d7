"""Models that give no tensor, take more than images, or are called otherwise."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.support.odd_network import images, seeded
from tests.support.token_networks import SIZE, small
from torch import Tensor, nn

from opponent import attribute
from opponent.core.errors import UnknownLayout
from opponent.models.outputs import main_tensor, with_main_tensor

Pair = namedtuple("Pair", ["first", "second"])
ONE, TWO = torch.ones(2, 3), torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("output", "main"),
    [
        (ONE, ONE),
        ((ONE, TWO), ONE),
        ([ONE, None], ONE),
        (Pair(ONE, TWO), ONE),
        ({"features": TWO, "logits": ONE}, ONE),
        (OrderedDict(out=ONE, aux=TWO), ONE),
        ({"pooler_output": TWO, "last_hidden_state": ONE}, ONE),
        ({"anything": ONE, "count": 3}, ONE),
        ({"a": ONE, "b": TWO}, None),
        ((), None),
        ("text", None),
        (torch.ones(2, dtype=torch.long), None),
    ],
)
def test_the_main_tensor_of_an_output(output: Any, main: Tensor | None) -> None:
    assert main_tensor(output) is main
    if main is None:
        return
    changed = with_main_tensor(output, main + 1)
    assert type(changed) is type(output)
    found = main_tensor(changed)
    assert found is not None
    assert torch.equal(found, main + 1)
    # The rest stays, and the output itself as well.
    assert main_tensor(output) is main
    if isinstance(output, tuple | list):
        assert list(changed)[1:] == list(output)[1:] or changed[1] is output[1]
    if isinstance(output, dict):
        assert all(changed[k] is output[k] for k in output if output[k] is not main)


class Giving(nn.Module):
    """A convolution, something around it, and an output of any kind."""

    def __init__(self, give: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 4, 3), Inner()
        self.last, self.give = nn.Linear(4, 2), give

    def forward(self, x: Tensor) -> object:
        hidden, _ = self.inner(self.first(x))
        return self.give(self.last(hidden.mean((2, 3))))


class Inner(nn.Module):
    """It gives a pair, as attention does."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.relu() * 2, x


@pytest.mark.parametrize(
    "give",
    [
        lambda x: {"logits": x, "loss": None},
        lambda x: (x, x + 1),
        lambda x: [x],
        lambda x: Pair(x, 2 * x),
        lambda x: OrderedDict(out=x, aux=x * 3),
    ],
    ids=["mapping", "tuple", "list", "named tuple", "ordered"],
)
def test_logits_of_a_model_that_gives_no_tensor(give: Callable[[Tensor], object]) -> None:
    plain = small(seeded(lambda: Giving(lambda x: x)))
    other = small(seeded(lambda: Giving(give)))
    x = images(2, 3, *SIZE)
    for through in ("inner", "first", "pixels"):
        expected = attribute(plain, x, "logits:1", through)
        result = attribute(other, x, "logits:1", through)
        assert torch.equal(result.activation, expected.activation)
        assert torch.equal(result.attribution, expected.attribution)
        assert result.excitation.min() > 0


def test_what_gives_nothing_to_read_is_refused_and_its_layers_are_read() -> None:
    network = small(seeded(lambda: Giving(lambda x: {"a": x, "b": x + 1})))
    with pytest.raises(UnknownLayout, match="'logits' cannot be read: it gives no tensor"):
        network.layer("logits")
    assert attribute(network, images(2, 3, *SIZE), "last:1", "inner").excitation.shape == (2,)


class Asking(nn.Module):
    """It takes its images by name, with something beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, *, pixel_values: Tensor, scale: float) -> dict[str, Tensor]:
        hidden = self.first(pixel_values).relu().mean((2, 3))
        return {"embeddings": self.last(hidden) * scale, "hidden": hidden}


def test_a_model_that_is_called_otherwise() -> None:
    module = seeded(Asking)
    network = small(module, forward=lambda m, x: m(pixel_values=x, scale=3.0)["embeddings"])
    x = images(2, 3, *SIZE)
    h = module.first(x).detach().requires_grad_()
    f = 3 * module.last(h.relu().mean((2, 3)))[:, 1]
    s = torch.autograd.grad(f.sum(), h)[0] * h.detach()
    result = attribute(network, x, "logits:1", "first")
    torch.testing.assert_close(result.activation, f.detach())
    torch.testing.assert_close(result.attribution, s)
    with pytest.raises(ValueError, match=r"does not take one image .* and `forward` how it is"):
        small(module).layer("logits")
