"""Random networks of all kinds of layers and layouts, and what the gradient says of them, slowly.

A network is a chain of blocks. After each block it is known how its output lies: as maps, with its
channels last, as tokens with or without class tokens, with its tokens first, or as a vector. The
reference runs the blocks one by one, and takes one backward pass for each feature.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from tests.support.receptive_fields import Function, Parallel
from torch import Tensor, nn
from torch.nn import functional as F


class Sum(nn.Module):
    """A layer added to its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.inner(x)
        return added


class Excite(nn.Module):
    """A gate for each channel that looks at the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        return x * gate[:, :, None, None]


class Attention(nn.Module):
    """Self-attention over tokens, in the first or second axis."""

    def __init__(self, channels: int, first: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(channels, 2, batch_first=not first)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return x + attended


class WindowAttention(nn.Module):
    """Self-attention in windows of 2 x 2, on maps with channels last."""

    def __init__(self, channels: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.inner = Attention(channels, False)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        x = F.pad(x.roll((self.shift, self.shift), (1, 2)), (0, 0, 0, w % 2, 0, h % 2))
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        parts = x.view(n, rows, 2, columns, 2, c).transpose(2, 3).reshape(-1, 4, c)
        parts = self.inner(parts).view(n, rows, columns, 2, 2, c).transpose(2, 3)
        x = parts.reshape(n, 2 * rows, 2 * columns, c)[:, :h, :w]
        return x.roll((-self.shift, -self.shift), (1, 2))


class Mixer(nn.Module):
    """A mixture over tokens, added."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.inner = nn.Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return x + mixed


class Prefix(nn.Module):
    """Tokens of its own before those of the image."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, count, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)


@dataclass(frozen=True, kw_only=True)
class State:
    """How a block's output lies.

    Args:
        lies: 'maps' (n, c, h, w), 'last' (n, h, w, c), 'tokens' (n, t, c), 'first' (t, n, c) or
            'vector' (n, c).
        channels, rows, columns: of its map.
        prefix: tokens before those of the map.
    """

    lies: str
    channels: int
    rows: int
    columns: int
    prefix: int = 0


@dataclass(frozen=True, kw_only=True)
class RandomNetwork:
    """A chain of blocks, and how the output of each lies.

    Args:
        module: the chain.
        kinds: what each block is.
        states: how its output lies.
        size: (height, width) of the input.
    """

    module: nn.Sequential
    kinds: list[str]
    states: list[State]
    size: tuple[int, int]


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu in place": lambda: nn.ReLU(inplace=True), "relu6": nn.ReLU6,
    "leaky relu": lambda: nn.LeakyReLU(0.2), "elu": nn.ELU, "selu": nn.SELU, "celu": nn.CELU,
    "gelu": nn.GELU, "silu": nn.SiLU, "hardswish": nn.Hardswish, "mish": nn.Mish,
    "softplus": nn.Softplus, "prelu": nn.PReLU,
}  # fmt: skip


# Targets that are read before they act: the functions above, and one of the user's own.
READ_BEFORE = {*ACTIVATIONS, "gate"}


def _resize(state: State, module: nn.Module, **changes: Any) -> State:
    """The state after a layer on maps, by running it."""
    x = torch.zeros(1, state.channels, state.rows, state.columns)
    with torch.no_grad():
        shape = module.eval()(x).shape
    return replace(state, channels=shape[1], rows=shape[2], columns=shape[3], **changes)


def _on_maps(random: Random, c: int, h: int, w: int) -> dict[str, Callable[[], nn.Module]]:
    """Layers that take maps and give maps, by kind."""
    k, stride = random.choice([1, 2, 3]), random.choice([1, 1, 2])
    padding, dilation = random.choice([0, 1]), random.choice([1, 1, 2])
    out = random.choice([c, 4, 6])

    def conv(inside: int = c, outside: int = out, **settings: Any) -> nn.Module:
        return nn.Conv2d(inside, outside, **settings)

    even = {"kernel_size": 3, "padding": 1}
    return {
        "conv": lambda: conv(kernel_size=k, stride=stride, padding=padding),
        "dilated": lambda: conv(kernel_size=2, dilation=dilation, padding=1),
        "grouped": lambda: conv(outside=2 * c, groups=c // 2, **even),
        "depthwise": lambda: conv(outside=c, groups=c, **even),
        "oblong": lambda: conv(kernel_size=(1, 3), padding=(0, 1)),
        "reflecting": lambda: conv(padding_mode="reflect", **even),
        "transposed": lambda: nn.ConvTranspose2d(c, out, 2, stride=2),
        "max pool": lambda: nn.MaxPool2d(k, stride, padding=0, ceil_mode=random.random() < 0.5),
        "padded max pool": lambda: nn.MaxPool2d(3, 2, padding=1),
        "average pool": lambda: nn.AvgPool2d(2, stride, ceil_mode=random.random() < 0.5),
        "adaptive average": lambda: nn.AdaptiveAvgPool2d((max(1, h // 2), max(1, w - 1))),
        "adaptive max": lambda: nn.AdaptiveMaxPool2d((max(1, h // 2), max(1, w // 2))),
        "batch norm": lambda: nn.BatchNorm2d(c),
        "group norm": lambda: nn.GroupNorm(2, c),
        "instance norm": lambda: nn.InstanceNorm2d(c, affine=True),
        "response norm": lambda: nn.LocalResponseNorm(3),
        "both signs": lambda: Function(lambda x: torch.cat([x, -x], 1)),
        "excite": lambda: Excite(c),
        "residual": lambda: Sum(nn.Sequential(conv(outside=c, **even), nn.ReLU())),
        "branches": lambda: Parallel(
            nn.Sequential(conv(outside=2, kernel_size=1), nn.ReLU()), conv(outside=2, **even)
        ),
        "dense": lambda: Parallel(nn.Identity(), nn.Sequential(conv(outside=2, **even), nn.GELU())),
        "crop": lambda: Function(lambda x: x[:, :, 1:, :-1]),
        "zero pad": lambda: nn.ZeroPad2d((1, 0, 2, 1)),
        "replication pad": lambda: nn.ReplicationPad2d(1),
        "circular pad": lambda: nn.CircularPad2d(1),
        "roll": lambda: Function(lambda x: x.roll((1, 2), (2, 3))),
        "flip": lambda: Function(lambda x: x.flip(3)),
        "unshuffle": lambda: nn.PixelUnshuffle(2),
        "nearest": lambda: nn.Upsample(scale_factor=2),
        "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "channel shuffle": lambda: nn.ChannelShuffle(2),
        "gate": lambda: Function(lambda x: x * torch.sigmoid(x)),
        "hook": lambda: Function(_hooked),
    }


def _hooked(x: Tensor) -> Tensor:
    """The same, with a gradient that a hook halves."""
    y = x * 1.0
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient / 2)
    return y


def _fits(kind: str, h: int, w: int, c: int) -> bool:
    if kind in {"unshuffle"}:
        return h % 2 == 0 and w % 2 == 0 and c <= 6
    if kind in {"nearest", "bilinear", "transposed"}:
        return h * w <= 64
    if kind in {"both signs", "grouped", "dense"}:
        return c <= 8
    return c % 2 == 0 and min(h, w) >= 3


def _block(random: Random, state: State) -> tuple[str, nn.Module, State]:
    """A random block that fits what comes before."""
    c, h, w = state.channels, state.rows, state.columns
    if random.random() < 0.3:
        kind = random.choice(list(ACTIVATIONS))
        return kind, ACTIVATIONS[kind](), state
    if state.lies == "maps":
        other = {
            "to channels last": (lambda x: x.permute(0, 2, 3, 1), "last"),
            "to tokens": (lambda x: x.flatten(2).transpose(1, 2), "tokens"),
            "tokens first": (lambda x: x.flatten(2).permute(2, 0, 1), "first"),
        }
        if random.random() < 0.3 and h * w > 1 and c % 2 == 0:
            kind = random.choice(list(other))
            function, lies = other[kind]
            return kind, Function(function), replace(state, lies=lies)
        if random.random() < 0.1:
            mean = Function(lambda x: x.mean((2, 3)))
            return "mean", mean, replace(state, lies="vector", rows=1, columns=1)
        made = _on_maps(random, c, h, w)
        kinds = [kind for kind in made if _fits(kind, h, w, c)]
        if kinds:
            kind = random.choice(kinds)
            module = made[kind]()
            return kind, module, _resize(state, module)
        return "conv", nn.Conv2d(c, 4, 1), replace(state, channels=4)
    if state.lies == "vector":
        return "linear", nn.Linear(c, 5), replace(state, channels=5)
    return _on_others(random, state)


def _on_others(random: Random, state: State) -> tuple[str, nn.Module, State]:
    """A random block for tokens, or for maps with channels last."""
    c, h, w, p = state.channels, state.rows, state.columns, state.prefix
    out = random.choice([c, 4, 8])
    choices: dict[str, Callable[[], tuple[nn.Module, State]]] = {
        "linear": lambda: (nn.Linear(c, out), replace(state, channels=out)),
        "layer norm": lambda: (nn.LayerNorm(c), state),
        "mlp": lambda: (
            Sum(nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))), state,
        ),
    }  # fmt: skip
    if state.lies == "last":
        choices["windows"] = lambda: (WindowAttention(c, random.choice([0, 1])), state)
        choices["to maps"] = lambda: (
            Function(lambda x: x.permute(0, 3, 1, 2)), replace(state, lies="maps"),
        )  # fmt: skip
    else:
        choices["attention"] = lambda: (Attention(c, state.lies == "first"), state)
        axis = 1 if state.lies == "tokens" else 0
        choices["mean of tokens"] = lambda: (
            Function(lambda x: x.mean(axis)),
            replace(state, lies="vector", rows=1, columns=1, prefix=0),
        )
    if state.lies == "tokens":
        choices["mixer"] = lambda: (Mixer(h * w + p), state)
        if not p:
            more = random.choice([1, 1, 2, 3])
            choices["class token"] = lambda: (Prefix(more, c), replace(state, prefix=more))
        else:
            choices["class token alone"] = lambda: (
                Function(lambda x: x[:, 0]),
                replace(state, lies="vector", rows=1, columns=1, prefix=0),
            )
            choices["without class token"] = lambda: (
                Function(lambda x: x[:, p:]), replace(state, prefix=0),
            )  # fmt: skip
    kind = random.choice([*choices])
    module, after = choices[kind]()
    return kind, module, after


def random_network(seed: int) -> RandomNetwork:
    """The network of a seed, with random weights and statistics, in double precision."""
    random = Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = (random.randint(7, 16), random.randint(7, 16))
        state = State(lies="maps", channels=3, rows=size[0], columns=size[1])
        stem = nn.Conv2d(3, random.choice([4, 6]), random.choice([1, 3]), random.choice([1, 2]))
        modules: list[nn.Module] = [stem]
        kinds, states = ["stem"], [_resize(state, stem)]
        for _ in range(random.randint(3, 9)):
            kind, module, state = _block(random, states[-1])
            modules.append(module)
            kinds.append(kind)
            states.append(state)
        network = nn.Sequential(*modules).double().eval()
        for name, value in network.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + ("var" in name) * 0.5)
    return RandomNetwork(module=network, kinds=kinds, states=states, size=size)


def to_map(tensor: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """An output as a map (n, c, h, w), and the tokens before it (n, c, p)."""
    n, nothing = (tensor.shape[1] if state.lies == "first" else len(tensor)), tensor[..., :0]
    if state.lies == "maps":
        return tensor, nothing.reshape(n, state.channels, 0)
    if state.lies == "last":
        return tensor.permute(0, 3, 1, 2), nothing.reshape(n, state.channels, 0)
    if state.lies == "vector":
        return tensor[:, :, None, None], nothing.reshape(n, state.channels, 0)
    tokens = tensor.permute(1, 2, 0) if state.lies == "first" else tensor.transpose(1, 2)
    grid = tokens[:, :, state.prefix :].reshape(n, state.channels, state.rows, state.columns)
    return grid, tokens[:, :, : state.prefix]


@dataclass(frozen=True, kw_only=True)
class Slow:
    """What the gradient says: the activation, and S on the map and at the tokens before it."""

    activation: Tensor
    grid: Tensor
    prefix: Tensor


def slowly(
    network: RandomNetwork, x: Tensor, through: int, target: int, unit: int, place: tuple[int, ...]
) -> Slow:
    """S of one unit, by one backward pass from one block's output to another's.

    Args:
        network: the network.
        x: images.
        through, target: numbers of blocks; an activation function is read before it, as a target.
        unit: the channel.
        place: (row, column), or (token,) of those before the map.
    """
    end = target if network.kinds[target] in READ_BEFORE else target + 1
    h = network.module[: through + 1](x.clone()).detach().requires_grad_()
    raw = network.module[through + 1 : end](h * 1.0)
    grid, prefix = to_map(raw, network.states[target])
    f = prefix[:, unit, place[0]] if len(place) == 1 else grid[:, unit, place[0], place[1]]
    [gradient] = torch.autograd.grad(f.sum(), h, allow_unused=True)
    s = torch.zeros_like(h) if gradient is None else gradient * h.detach()
    on_map, before = to_map(s, network.states[through])
    return Slow(activation=f.detach(), grid=on_map, prefix=before)
