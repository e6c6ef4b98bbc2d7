"""Networks: the model comes back as it was, and what a network knows of itself."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.odd_network import SMALL, Odd, images, odd, seeded, untouched
from torch import Tensor, nn
from torch.nn import functional as F

from opponent import Feature, Network, Preprocessing, attribute, open_images
from opponent.core.errors import UnknownGeometry, Unreadable
from opponent.geometry.receptive_field import placement, receptive_field, receptive_fields_by_layer

# What a user can call, on a network and its input.
CALLS: dict[str, Callable[[Network, Tensor], Any]] = {
    "layers": lambda n, x: Network(n.module, preprocessing=SMALL).layers,
    "run": lambda n, x: n.run(x, "logits", "stem").target,
    "to target": lambda n, x: n.run(x, "logits", "block.relu#1", differentiate="target").target,
    "to images": lambda n, x: n.run(x, "logits", "block", differentiate="images").target,
    "activations": lambda n, x: n.activations(x, ["pixels", "block", "logits"]),
    "visit": lambda n, x: n.visit(x, lambda name, output: None),
    "attribute": lambda n, x: attribute(n, x, "logits:1", "block").attribution,
    "pixels": lambda n, x: attribute(n, x, "logits:1", "pixels").attribution,
    "window": lambda n, x: receptive_field(n, "logits:1"),
    "fields": lambda n, x: receptive_fields_by_layer(n),
    "placement": lambda n, x: placement(n, "body"),
    "sha": lambda n, x: n.weights_sha256(),
}


# The model comes back as it was


def in_use(network: Network) -> nn.Module:
    """The model in the midst of a user's training: mixed modes, frozen parts, gradients, hooks."""
    model = network.module.train()
    model.block.bn1.eval()
    model.body.eval()
    model.body[1].train()
    model.stem[0].weight.requires_grad_(False)
    model.last.weight.grad = torch.ones_like(model.last.weight)
    return model


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_model_as_it_was(name: str) -> None:
    network = odd()
    model, x = in_use(network), images()
    given = x.clone()
    seen: list[int] = []
    handle = model.block.register_forward_hook(lambda *_: seen.append(1))
    with untouched(model):
        CALLS[name](network, x)
    assert torch.equal(x, given)
    assert x._version == 0
    assert seen or name == "sha", "a hook of the user's own was not called"
    handle.remove()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "sha"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_the_midst_leaves_the_model_as_it_was(
    name: str, error: type[BaseException]
) -> None:
    network = odd()
    model = in_use(network)
    assert network.layers
    model.fuse.raises = error("the fuse blew")
    call = CALLS[name]
    if name == "placement":  # of a layer that comes after the fuse
        call = lambda n, x: placement(n, "block")  # noqa: E731
        model.stem.insert(1, model.fuse)
    if error is ZeroDivisionError and name in {"window", "fields", "placement"}:
        # Boxes go by coordinates, on which a sound model may fail: their reach is not known.
        with untouched(model), pytest.raises(UnknownGeometry, match="the fuse blew"):
            receptive_fields_by_layer(network)
        with untouched(model):
            assert receptive_field(network, "logits:1").slices == (slice(0, 11), slice(0, 17))
            # Where the layer lies is known from when it was sound.
            assert name != "placement" or call(network, images()) == (1.0, 1.0, 2.0, 2.0)
        return
    # A network that fails as it is traced does not take such images.
    expected = ValueError if name == "layers" and error is ZeroDivisionError else error
    with untouched(model), pytest.raises(expected, match="the fuse blew"):
        call(network, images())


def test_what_does_not_fit_leaves_the_model_as_it_was() -> None:
    network = odd()
    model, x = in_use(network), images()
    for feature, through, match in (
        ("nowhere:1", "stem", "no layer 'nowhere'"),
        ("block:4", "stem", "has 4 channels"),
        ("block:1@5,0", "stem", "lies outside"),
        ("stem:1", "block", "does not lie before"),
        (Feature.direction("block", [1.0, 2.0]), "stem", "2 weights"),
    ):
        with untouched(model), pytest.raises(ValueError, match=match):
            attribute(network, x, feature, through)
    with untouched(model), pytest.raises(ValueError, match=r"does not take one image of .* size"):
        attribute(network, images(2, 3, 2, 2), "block:1", "stem")


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_calls_within_no_grad_and_inference_mode(around: Callable[[], Any]) -> None:
    network = odd()
    model, x = in_use(network), images()
    plain = attribute(network, x, "logits:1", "block")
    everywhere = receptive_fields_by_layer(network)
    for through in ("block", "stem.2", "pixels"):
        expected = attribute(network, x, "logits:1", through)
        with around():
            inside = images()  # in inference mode, a tensor that autograd must not save
            fresh = Network(model, preprocessing=SMALL)
            with untouched(model):
                result = attribute(fresh, inside, "logits:1", through)
        assert torch.equal(result.attribution, expected.attribution)
        assert torch.equal(result.activation, expected.activation)
        # Results are tensors like any other, once the user is outside again.
        result.attribution.mul_(2), result.activation.mul_(2)
        assert not result.attribution.requires_grad
    with around(), untouched(model):
        assert receptive_field(network, "block:1") == receptive_field(odd(), "block:1")
        assert placement(network, "block") == (1.0, 1.0, 2.0, 2.0)
        found = receptive_fields_by_layer(network)
        wanted = images().requires_grad_()
        reading = network.run(wanted, "logits", "stem", differentiate="images")
    assert all(torch.equal(found[name], everywhere[name]) for name in everywhere)
    [gradient] = torch.autograd.grad(reading.through.sum(), wanted)
    assert gradient.count_nonzero()
    assert plain.attribution.count_nonzero()


def test_dropout_and_batch_statistics_do_not_act() -> None:
    network = odd()
    expected = attribute(network, images(), "logits:1", "stem")
    network.module.train()
    for _ in range(3):
        result = attribute(network, images(), "logits:1", "stem")
        assert torch.equal(result.attribution, expected.attribution)
        assert torch.equal(result.activation, expected.activation)


def test_a_module_that_draws_random_numbers_all_the_same_leaves_their_state() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            # It forgets `training=self.training`.
            return self.last(F.dropout(self.conv(x).relu(), 0.5, training=True))

    network = Network(seeded(Noisy), preprocessing=SMALL)
    for call in (
        lambda: network.layers,
        lambda: attribute(network, images(), "conv:1", "pixels"),
        lambda: receptive_field(network, "conv:1"),
        lambda: receptive_fields_by_layer(network),
    ):
        with untouched(network.module):
            call()
    with untouched(network.module), pytest.raises(ValueError, match="or on chance"):
        attribute(network, images(), "logits:1", "conv")


def test_an_input_is_not_written_to_by_a_layer_in_place() -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv = nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.first(x.sub_(0.1)))

    network = Network(seeded(Normalising), preprocessing=SMALL)
    for name in ("first", "pixels"):
        x = images()
        result = attribute(network, x, "logits:1", name)
        assert torch.equal(x, images())
        assert result.attribution.count_nonzero()
    x = images().requires_grad_()
    reading = network.run(x, "logits", differentiate="images")
    [gradient] = torch.autograd.grad(reading.target.sum(), x)
    assert gradient.count_nonzero()
    network.visit(x.detach(), lambda name, output: None)
    assert torch.equal(x, images())


def test_results_are_the_users_own() -> None:
    class Passing(nn.Module):
        """Gives back its input, its own parameter, and a view of its buffer."""

        def __init__(self) -> None:
            super().__init__()
            self.same, self.again = nn.Identity(), nn.Identity()
            self.own = nn.Parameter(torch.ones(1, 3, 11, 17))

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.same(x) * self.own)

    network = Network(seeded(Passing), preprocessing=SMALL)
    x = images()
    for through in ("pixels", "same"):
        result = attribute(network, x, "again:1", through)
        with untouched(network.module):
            for tensor in (result.activation, result.attribution):
                tensor.add_(1)
            for tensor in (result.window_attribution, result.hidden):
                tensor.add_(1)
            for differentiate in (None, "target"):
                reading = network.run(x, "again", through, differentiate=differentiate)
                reading.target.detach().add_(1)
                reading.through.detach().add_(1)
        assert torch.equal(x, images())
    # Nor do a few numbers hold on to a whole layer's map.
    assert result.activation.untyped_storage().nbytes() == 2 * 4


def test_power_iterations_of_a_model_in_training_do_not_go_on() -> None:
    norm = nn.utils.parametrizations.spectral_norm
    model = seeded(lambda: nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    network = Network(model.train(), preprocessing=SMALL)
    with untouched(model):
        attribute(network, images(), "logits:1", "0")
        receptive_fields_by_layer(network)


# What a network knows of itself


def test_weights_sha256_tells_weights_apart_and_nothing_else() -> None:
    def digest(change: Callable[[nn.Module], Any] = lambda model: None) -> str:
        model = seeded(Odd)
        change(model)
        return Network(model).weights_sha256()

    @torch.no_grad()
    def nudge(tensor: Tensor) -> None:
        tensor.view(-1)[0] += 1e-3

    same = digest()
    assert len(same) == 64
    assert digest(lambda m: m.train()) == same
    assert digest(lambda m: m.to(memory_format=torch.channels_last)) == same
    assert digest(lambda m: m.requires_grad_(False)) == same
    others = [
        digest(lambda m: nudge(m.stem[0].weight)),
        digest(lambda m: nudge(m.stem[1].running_mean)),
        digest(lambda m: m.stem[1].num_batches_tracked.add_(1)),
        digest(lambda m: m.double()),
        digest(lambda m: m.bfloat16()),
        digest(lambda m: setattr(m, "renamed", m._modules.pop("last"))),
        digest(lambda m: m.register_buffer("more", torch.tensor([True, False]))),
        digest(lambda m: m.register_buffer("more", torch.zeros(0, 3))),
        digest(lambda m: m.register_buffer("more", torch.zeros(3, 0))),
        digest(lambda m: m.register_buffer("more", torch.tensor(1 + 2j))),
    ]
    assert len({same, *others}) == len(others) + 1
    # What counts is the state dict: values under their names, not the modules around them.
    flat = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2)))
    other = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=1)))
    assert Network(flat).weights_sha256() == Network(other).weights_sha256()


def test_names_types_and_classes() -> None:
    network = odd(classes=["cat", "dog"])
    assert (network.class_name(0), network.class_name(1)) == ("cat", "dog")
    assert network.class_name(2) is None
    assert odd().class_name(0) is None
    assert repr(network) == "Network('Odd')"
    assert (network.dtype, network.device) == (torch.float32, torch.device("cpu"))
    bare = Network(nn.Sequential(nn.ReLU()), preprocessing=SMALL)
    assert (bare.dtype, bare.device) == (torch.float32, torch.device("cpu"))
    assert list(bare.layers) == ["0", "logits"]
    assert network.map_shape("pixels") == (3, 11, 17)
    double = Network(seeded(Odd).double(), preprocessing=SMALL)
    pixels = np.zeros((2, 11, 17, 3), np.uint8)
    assert double.inputs(pixels).dtype == double.dtype == torch.float64


# Activations by name


def test_activations_are_what_the_layers_give() -> None:
    network = odd()
    x, model = images(), network.module
    maps = network.activations(x, ["logits", "pixels", "stem.2", "block.relu#1", "body.0.0"])
    assert list(maps) == ["logits", "pixels", "stem.2", "block.relu#1", "body.0.0"]
    stem = model.stem[1](model.stem[0](x)).relu()
    assert torch.equal(maps["pixels"], x)
    torch.testing.assert_close(maps["stem.2"], stem.detach())
    first = model.block.bn1(model.block.conv1(stem)).relu()
    torch.testing.assert_close(maps["block.relu#1"], first.detach())
    assert maps["body.0.0"].min() < 0  # a convolution, before what follows it
    torch.testing.assert_close(maps["logits"][:, :, 0, 0], model(x).detach())
    for name, tensor in maps.items():
        assert torch.equal(tensor, network.activations(x, name)[name])
    assert list(network.activations(x, ["stem", "stem"])) == ["stem"]


def test_activations_are_the_users_own_and_have_no_graph() -> None:
    network = odd()
    x = images().requires_grad_()
    given = x.detach().clone()
    for around in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with around():
            maps = network.activations(x, ["pixels", "stem.2", "block", "logits"])
        for tensor in maps.values():
            assert not tensor.requires_grad
            tensor.add_(1)
    assert torch.equal(x.detach(), given)


def test_activations_of_photographs(tmp_path: Path) -> None:
    network = odd()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 11, 17, 3), dtype=np.uint8)
    for number in range(2):
        Image.fromarray(pixels[number]).save(tmp_path / f"{number}.png")
    wanted = network.activations(network.inputs(pixels), ["stem", "logits"])
    for source in (tmp_path, [tmp_path / "0.png", tmp_path / "1.png"], open_images(tmp_path)):
        maps = network.activations(source, ["stem", "logits"])
        assert all(torch.equal(maps[name], wanted[name]) for name in wanted)
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(Unreadable, match=r"2\.png cannot be read: not an image"):
        network.activations(tmp_path, "stem")


def test_activations_that_there_are_not() -> None:
    network = odd()
    with pytest.raises(ValueError, match="no layer 'stom'; did you mean stem"):
        network.activations(images(), ["stem", "stom"])
    with pytest.raises(ValueError, match="at least one"):
        network.activations(images(), [])


# The network's input


def test_inputs_have_ids_where_images_have(tmp_path: Path) -> None:
    network = odd()
    x, ids = network.load_inputs(images())
    assert torch.equal(x, images())
    assert ids is None
    for name in ("b", "a"):
        Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / f"{name}.png")
    x, ids = network.load_inputs(tmp_path)
    assert (x.shape, ids) == ((2, 3, 11, 17), ("a.png", "b.png"))
    double = odd().to(dtype=torch.float64)
    assert double.load_inputs(images())[0].dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 11, 17), (2, 1, 11, 17), (2, 11, 17, 3), (1, 2, 3, 4, 5)])
def test_a_tensor_that_is_no_input_is_refused(shape: tuple[int, ...]) -> None:
    # Without the check of types that tests have.
    load_inputs = getattr(Network.load_inputs, "__wrapped__", Network.load_inputs)
    with pytest.raises(ValueError, match=r"have shape \(n, 3, height, width\), got \("):
        load_inputs(odd(), torch.zeros(shape))


# Elsewhere, in other numbers, at other sizes


def test_attributes_are_read_only() -> None:
    network = odd()
    for name in [
        "module",
        "preprocessing",
        "name",
        "classes",
        "weights_file",
        "device",
        "dtype",
        "layers",
    ]:
        with pytest.raises(AttributeError, match=name):
            setattr(network, name, getattr(odd(), name))


def test_a_network_is_moved_with_its_module() -> None:
    network = odd()
    assert network.layers
    assert network.to() is network
    assert network.to(torch.device("cpu"), torch.float64) is network
    assert network.dtype == next(network.module.parameters()).dtype == torch.float64
    assert network.run(images().double(), "stem").target.dtype == torch.float64
    assert network.to(dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "cpu:x"])
def test_a_device_that_there_is_not(device: str) -> None:
    network = odd()
    match = f"^device '{device}' cannot be used: ."
    with untouched(network.module), pytest.raises(ValueError, match=match) as caught:
        network.to(device)
    assert "\n" not in str(caught.value)


def test_other_preprocessing_is_a_network_of_its_own_around_the_same_module() -> None:
    file = Path("w.pth")
    network = Network(
        seeded(Odd), preprocessing=SMALL, name="x", classes=["a", "b"], weights_file=file
    )
    other = network.with_preprocessing(Preprocessing(size=(30, 21), draft=True))
    assert other.module is network.module
    assert (other.name, other.classes, other.weights_file) == ("x", ("a", "b"), file)
    assert other.preprocessing == Preprocessing(size=(30, 21), draft=True)
    assert network.preprocessing == SMALL
    assert network.layer("stem").shape == (4, 5, 8)
    assert other.layer("stem").shape == (4, 14, 10)
    assert other.weights_sha256() == network.weights_sha256()


def test_a_network_at_another_size_is_made_once() -> None:
    preprocessing = Preprocessing(size=(11, 17), resize=40, mean=(0.1, 0.2, 0.3), draft=True)
    network = Network(seeded(Odd), preprocessing=preprocessing)
    assert network.at_size((11, 17)) is network
    other = network.at_size((30, 21))
    assert other is network.at_size((30, 21))
    assert other.preprocessing == replace(preprocessing, size=(30, 21))
    assert other.map_shape("pixels") == (3, 30, 21)
    assert other.module is network.module


def test_what_is_cached_is_computed_once_for_each_type_of_numbers() -> None:
    network, calls = odd(), list[str]()

    def compute(name: str) -> Callable[[], object]:
        return lambda: calls.append(name)

    assert network.cached("a", compute("a")) is None
    assert network.cached("a", compute("again")) is None
    network.cached(("a", 1), compute("b"))
    assert calls == ["a", "b"]
    network.to(dtype=torch.float64)
    network.cached("a", compute("a in double"))
    network.to(dtype=torch.float32)
    network.cached("a", compute("again"))
    assert calls == ["a", "b", "a in double"]
    # Another network keeps its own.
    network.with_preprocessing(SMALL).cached("a", compute("other"))
    assert calls[-1] == "other"


def test_what_fails_is_not_cached() -> None:
    network = odd()
    with pytest.raises(ZeroDivisionError, match="division"):
        network.cached("a", lambda: 1 / 0)
    assert network.cached("a", lambda: 7) == network.cached("a", lambda: 8) == 7


def test_a_copy_is_a_network_of_its_own() -> None:
    network = odd()
    stem = network.layer("stem")
    other = deepcopy(network)
    with torch.no_grad():
        other.module.stem[0].weight.zero_()
    assert other.layer("stem") == stem
    assert other.layers.target_point("stem.0").module is other.module.stem[0]
    assert not torch.equal(
        network.run(images(), "stem.0").target, other.run(images(), "stem.0").target
    )
