"""Train the small InceptionV1 that the package embeds: it imitates a large one, channel by channel.

    python training/train_small.py FOLDER … --teacher bvlc.safetensors --out small.safetensors

Each FOLDER holds photographs, at any depth. README.md beside this file says what the settings are
and why. After Ctrl-C or a crash the same command goes on from the last checkpoint.
"""

import argparse
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePath
from time import monotonic
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from opponent.core.errors import Unreadable
from opponent.images.decode import Fit
from opponent.images.loader import stream
from opponent.images.sources import open_images
from opponent.models.inceptionv1 import BLOCKS, BVLC, SMALL, InceptionV1
from opponent.models.preprocessing import Preprocessing
from opponent.models.registry import BVLC_INPUT, SMALL_INPUT, imagenet_classes
from opponent.models.weights import load_weights
from opponent.storage.files import atomic_write, write_text

# Photographs are kept as squares of this side, of which the smallest crop is as large as the input.
SIDE = 208
AREA = (0.3, 1.0)
RATIO = (3 / 4, 4 / 3)
BATCH = 32
BETAS = (0.9, 0.99)
DECAY = 0.01
WARM_UP = 200
LARGEST_GRADIENT = 2.0
# The moving average is one over about the last thousand steps.
MEMORY = 0.999
# How much each layer counts: late ones are not to be had at this width, the first is solved for.
FIRST = "conv2d0"
LAYERS = {FIRST: 0.0, "conv2d2": 1.0, "mixed3a": 1.0, "mixed3b": 1.0, "mixed4a": 1.0}
LAYERS |= {"mixed4b": 0.7, "mixed4c": 0.7, "mixed4d": 0.5, "mixed4e": 0.5}
LAYERS |= {"mixed5a": 0.3, "mixed5b": 0.3}
BRANCHES = ("1x1", "3x3", "5x5", "pool_reduce")
# A channel that hardly varies counts as if it had this share of the layer's mean variance.
FLOOR = 0.05
# The logits' Kullback-Leibler divergence, at this temperature, counts so much.
DIVERGENCE, TEMPERATURE = 0.3, 2.0
# One in so many photographs is kept out, to tell errors and accuracy.
HELD_OUT = 10
# Of the batches that tell how much the teacher's channels vary.
STATISTICS = 40
SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training that goes on must have in common with the one that was stopped."""

    seed: int
    rate: float
    images: str
    start: str


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photographs, the index of each one's class (-1: unknown), and how often each is drawn."""

    pixels: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    weights: Float[Tensor, " n"]

    def __getitem__(self, which: Tensor) -> "Photos":
        return Photos(
            pixels=self.pixels[which], labels=self.labels[which], weights=self.weights[which]
        )

    def __len__(self) -> int:
        return len(self.labels)


def draws(*key: int) -> torch.Generator:
    """Random numbers that depend on the key alone, so that a checkpoint need not hold any state."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def augment(
    pixels: UInt8[Tensor, "n 3 h w"], generator: torch.Generator
) -> Float[Tensor, "n 3 side side"]:
    """A random crop of each photograph, half of them mirrored, at the small network's size."""
    count, (side, _) = len(pixels), SMALL_INPUT.size

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, ratio = uniform(*AREA), uniform(math.log(RATIO[0]), math.log(RATIO[1])).exp()
    width, height = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
    mirror = torch.randint(2, (count,), generator=generator) * 2 - 1
    places = torch.zeros(count, 2, 3)
    places[:, 0, 0], places[:, 0, 2] = width * mirror, (1 - width) * uniform(-1, 1)
    places[:, 1, 1], places[:, 1, 2] = height, (1 - height) * uniform(-1, 1)
    grid = F.affine_grid(places, [count, 3, side, side], align_corners=False)
    return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)


def whole(pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 side side"]:
    """The photographs at the small network's size."""
    return F.interpolate(pixels.float(), SMALL_INPUT.size, mode="area")


def as_input(pixels: Float[Tensor, "n 3 h w"], prepared: Preprocessing) -> Float[Tensor, "n 3 h w"]:
    """A network's own input, of pixels in [0, 255]."""
    return prepared.normalise(pixels / 255).contiguous(memory_format=torch.channels_last)


def convolutions() -> dict[str, str]:
    """The convolutions that are compared, and the layer that each belongs to."""
    found = {f"{name}_pre_relu_conv": name for name in (FIRST, "conv2d2")}
    return found | {f"{b}_{branch}_pre_relu_conv": b for b in BLOCKS for branch in BRANCHES}


class Watched:
    """A network, of which a pass gives the convolutions' outputs and the logits."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs = dict[str, Tensor]()
        with ExitStack() as stack:
            for name in convolutions():
                keep = partial(self._keep, outputs, name)
                handle = self.network.get_submodule(name).register_forward_hook(keep)
                stack.callback(handle.remove)
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.network(images)
        return outputs, logits.float()

    @staticmethod
    def _keep(outputs: dict[str, Tensor], name: str, *seen: Any) -> None:
        outputs[name] = seen[-1]


def chosen_channels(small: int, large: int) -> Tensor:
    """Which of the large network's channels each of the small one's stands for."""
    return torch.linspace(0, large - 1, small).round().long()


class Lesson:
    """What the teacher shows, in the small network's channels, and how far from it a pass is."""

    def __init__(self, teacher: nn.Module, small: nn.Module, photos: Photos, seed: int) -> None:
        self.teacher = Watched(teacher)
        self.channels = {
            name: chosen_channels(
                small.get_submodule(name).out_channels, teacher.get_submodule(name).out_channels
            )
            for name in convolutions()
        }
        total, square, count = dict[str, Tensor](), dict[str, Tensor](), 0
        for step in range(STATISTICS):
            for name, maps in self.shown(draw(photos, step, seed, 2)[0])[0].items():
                total[name] = total.get(name, 0) + maps.mean((0, 2, 3), dtype=torch.float64)
                square[name] = square.get(name, 0) + maps.double().square().mean((0, 2, 3))
            count += 1
        self.variance = {
            name: (square[name] / count - (total[name] / count).square()).float() for name in total
        }
        layers = convolutions()
        self.scale = {
            layer: torch.cat([self.variance[n].sqrt() for n in layers if layers[n] == layer]).mean()
            for layer in LAYERS
        }

    @torch.no_grad()
    def shown(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The teacher's maps, in the small network's channels, and its logits."""
        maps, logits = self.teacher(as_input(pixels, BVLC_INPUT))
        return {name: x[:, self.channels[name]].float() for name, x in maps.items()}, logits

    def errors(
        self, maps: dict[str, Tensor], shown: dict[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each layer the loss, and the squared error as a share of the variance."""
        found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in LAYERS}
        for name, layer in convolutions().items():
            error = (maps[name].float() * self.scale[layer] - shown[name]).square().mean((0, 2, 3))
            floor = FLOOR * self.scale[layer].square()
            found[layer].append((error / (self.variance[name] + floor), error, self.variance[name]))
        return {
            layer: (
                torch.cat([x[0] for x in parts]).mean(),
                (sum(x[1].sum() for x in parts) / sum(x[2].sum() for x in parts)).detach(),
            )
            for layer, parts in found.items()
        }


def draw(photos: Photos, step: int, *key: int) -> tuple[Tensor, Tensor]:
    """The crops of a step, with their classes."""
    generator = draws(*key, step)
    chosen = torch.multinomial(photos.weights, BATCH, replacement=True, generator=generator)
    return augment(photos.pixels[chosen], generator), photos.labels[chosen]


def moving_average(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
    """The next average; its memory grows with the steps, so as to forget the first weights."""
    return torch.lerp(weight, average, min(MEMORY, (1 + int(count)) / (10 + int(count))))


def rate(highest: float, step: int, steps: int) -> float:
    """The learning rate of a step: a straight line up, then a cosine to zero."""
    warm_up = min(WARM_UP, max(1, steps // 10))
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


@torch.no_grad()
def solve_first(convolution: nn.Conv2d, lesson: "Lesson", photos: Photos, seed: int) -> None:
    """Set the first convolution to the least squares fit of the teacher's, as both are linear."""
    name = f"{FIRST}_pre_relu_conv"
    kernel, stride = convolution.kernel_size, convolution.stride
    gram, product = torch.zeros(()), torch.zeros(())
    for step in range(STATISTICS):
        pixels, _ = draw(photos, step, seed, 3)
        # The network pads before it convolves.
        images = F.pad(as_input(pixels, SMALL_INPUT), (kernel[0] // 2,) * 4)
        patches = F.unfold(images, kernel, stride=stride).mT.flatten(0, 1).double()
        patches = torch.cat([patches, torch.ones(len(patches), 1)], 1)
        wanted = lesson.shown(pixels)[0][name] / lesson.scale[FIRST]
        gram = gram + patches.T @ patches
        product = product + patches.T @ wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
    solved = torch.linalg.solve(gram, product).T
    convolution.weight.copy_(solved[:, :-1].reshape(convolution.weight.shape))
    assert convolution.bias is not None
    convolution.bias.copy_(solved[:, -1])


def new_network(seed: int) -> nn.Module:
    """The small network with random weights of the size that ReLUs keep."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InceptionV1(SMALL)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


class Pupil:
    """The network in training, the moving average of its weights, and the optimiser."""

    def __init__(self, settings: Settings) -> None:
        network = new_network(settings.seed)
        if settings.start:
            load_weights(network, settings.start)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.first: nn.Conv2d = network.get_submodule(f"{FIRST}_pre_relu_conv")  # type: ignore[assignment]
        self.first.requires_grad_(False)
        self.average = AveragedModel(network, avg_fn=moving_average)
        # Biases have one dimension, and do not decay.
        groups = [
            {"params": [p], "weight_decay": DECAY * (p.ndim > 1)}
            for p in network.parameters()
            if p.requires_grad
        ]
        self.adam = torch.optim.AdamW(groups, betas=BETAS)
        self.watched = Watched(network)
        self.parts: dict[str, Any] = {"net": network, "mean": self.average, "adam": self.adam}

    def learn(self, lesson: Lesson, pixels: Tensor, rate: float) -> dict[str, float]:
        """Take one step; the loss, and each layer's error as a share of the variance."""
        for group in self.adam.param_groups:
            group["lr"] = rate
        shown, wanted = lesson.shown(pixels)
        maps, logits = self.watched(as_input(pixels, SMALL_INPUT))
        errors = lesson.errors(maps, shown)
        divergence = F.kl_div(
            (logits / TEMPERATURE).log_softmax(1), (wanted / TEMPERATURE).log_softmax(1),
            reduction="batchmean", log_target=True,
        )  # fmt: skip
        loss = sum(LAYERS[layer] * error for layer, (error, _) in errors.items())
        loss = loss + DIVERGENCE * TEMPERATURE**2 * divergence
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.adam.step()
        self.average.update_parameters(self.network)
        told = {"loss": loss.item(), "divergence": divergence.item()}
        return told | {layer: float(share) for layer, (_, share) in errors.items()}


@torch.no_grad()
def held_out_errors(network: nn.Module, lesson: Lesson, photos: Photos) -> dict[str, float]:
    """Of photographs that were kept out: each layer's error, and how many logits are right."""
    watched, sums, right = Watched(network.eval()), dict[str, list[float]](), list[Tensor]()
    for some in torch.arange(len(photos)).split(100):
        pixels = whole(photos.pixels[some])
        maps, logits = watched(as_input(pixels, SMALL_INPUT))
        for layer, (_, share) in lesson.errors(maps, lesson.shown(pixels)[0]).items():
            sums.setdefault(layer, []).append(float(share))
        right.append(logits.topk(5).indices == photos.labels[some, None])
    known = photos.labels >= 0
    hits = torch.cat(right)[known].double()
    errors = {layer: float(np.mean(values)) for layer, values in sums.items()}
    if not len(hits):
        return errors
    return errors | {"top1": float(hits[:, 0].mean()), "top5": float(hits.sum(1).mean())}


def train(
    photos: Photos, lesson: Lesson, settings: Settings, steps: int, checkpoint: Path, curve: Path
) -> nn.Module:
    """The network of averaged weights, from the checkpoint on if there is one."""
    pupil, first = Pupil(settings), 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["settings"] != asdict(settings):
            raise ValueError(
                f"{checkpoint} is of a training with {saved['settings']}, not {asdict(settings)}; "
                "go on with the former, or remove the file to begin anew"
            )
        first = saved["step"]
        for name, part in pupil.parts.items():
            part.load_state_dict(saved[name])
    else:
        solve_first(pupil.first, lesson, photos, settings.seed)
    lines = curve.read_text(encoding="utf-8").splitlines() if first else []
    lines = [line for line in lines if json.loads(line)["step"] <= first]
    began = said = monotonic()
    told = list[dict[str, float]]()
    for step in range(first, steps):
        pixels, _ = draw(photos, step, settings.seed, 1)
        told.append(pupil.learn(lesson, pixels, rate(settings.rate, step, steps)))
        if step + 1 < steps and monotonic() - said < SECONDS:
            continue
        means = {key: round(float(np.mean([x[key] for x in told])), 4) for key in told[0]}
        lines.append(json.dumps({"step": step + 1} | means))
        write_text(curve, "\n".join([*lines, ""]))
        state = {name: part.state_dict() for name, part in pupil.parts.items()}
        with atomic_write(checkpoint) as file:
            torch.save(state | {"settings": asdict(settings), "step": step + 1}, file)
        left = (monotonic() - began) / (step + 1 - first) * (steps - step - 1)
        rest = timedelta(seconds=round(left))
        print(f"step {step + 1:,}/{steps:,}, about {rest} left: {lines[-1]}", flush=True)
        said, told = monotonic(), []
    network: nn.Module = pupil.average.module
    return network


def read_photos(folders: Sequence[Path]) -> tuple[str, Photos]:
    """A digest of the lists of images, and the images; of each folder as many are drawn."""
    names = [line.split()[0] for line in imagenet_classes()]
    digests, pixels, labels, weights = list[str](), list[Tensor](), list[int](), list[float]()
    for folder in folders:
        images, before = open_images(folder), len(pixels)
        digests.append(images.digest())
        for entry, image in zip(images, stream(images, Fit(size=(SIDE, SIDE))), strict=True):
            if isinstance(image, Unreadable):
                print(f"{entry.id} is left out: {image.reason}")
                continue
            pixels.append(torch.from_numpy(image).permute(2, 0, 1))
            # A class's WordNet id begins the folder's name, or the file's.
            ids = [part[:9] for part in PurePath(entry.id).parts]
            labels.append(next((names.index(x) for x in ids if x in names), -1))
        weights += [1 / (len(pixels) - before)] * (len(pixels) - before)
    return " ".join(digests), Photos(
        pixels=torch.stack(pixels), labels=torch.tensor(labels), weights=torch.tensor(weights)
    )


def main(arguments: list[str] | None = None) -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description="Train the embedded small InceptionV1.")
    parser.add_argument("folders", type=Path, nargs="+", help="of photographs, drawn equally often")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of inceptionv1-bvlc")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--steps", type=int, default=100_000, help="may change when it goes on")
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest rate of learning")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--start", default="", help="weights to begin with; default: random ones")
    given = parser.parse_args(arguments)
    if given.out.suffix != ".safetensors" or given.steps < 1:
        parser.error("--out must end in .safetensors, and --steps be above 0")
    checkpoint, curve = (given.out.with_suffix(x) for x in (".checkpoint", ".jsonl"))
    try:
        digest, photos = read_photos(given.folders)
        kept_out = torch.arange(len(photos)) % HELD_OUT == 0
        print(f"{len(photos):,} photographs, {int(kept_out.sum()):,} of them kept out", flush=True)
        teacher = InceptionV1(BVLC).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        load_weights(teacher, given.teacher)
        settings = Settings(seed=given.seed, rate=given.rate, images=digest, start=str(given.start))
        seen = photos[~kept_out]
        lesson = Lesson(teacher, new_network(0), seen, given.seed)
        network = train(seen, lesson, settings, given.steps, checkpoint, curve)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from the last checkpoint\n")
    weights = {name: w.contiguous() for name, w in network.half().state_dict().items()}
    with atomic_write(given.out) as file:
        save_file(weights, file)
    print(f"{given.out} is written; of the photographs that were kept out:")
    print(json.dumps(held_out_errors(network.float(), lesson, photos[kept_out])))


if __name__ == "__main__":
    main()
