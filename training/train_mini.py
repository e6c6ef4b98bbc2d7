"""Train the small InceptionV1 that the package embeds.

    python training/train_mini.py FOLDER --out mini.safetensors

FOLDER has a sub-folder of images for each class. README.md beside this file says what the settings
are and why. After Ctrl-C or a crash the same command goes on where the last line was printed.
"""

import argparse
import math
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from importlib import resources
from pathlib import Path, PurePath
from time import monotonic
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from opponent.core.errors import Unreadable
from opponent.images.imageset import ImageSet
from opponent.images.loader import stream
from opponent.images.sources import open_images
from opponent.models.inceptionv1 import MINI, InceptionV1
from opponent.models.registry import MINI_INPUT
from opponent.storage.files import atomic_write

BATCH = 128
BETAS = (0.9, 0.99)
LARGEST_GRADIENT = 1.0
# The moving average is one over about the last thousand steps.
MEMORY = 0.999
AREA = (0.45, 1.0)
RATIO = (3 / 4, 4 / 3)
# Enough to know the accuracy to a percentage point or two; at most a tenth of the images.
HELD_OUT = 1000
# About sqrt(2 / (1 - 1/pi)): by this a ReLU keeps the variance of a normal variable.
# Source: Brock et al. (2021), "Characterizing signal propagation to close the performance gap".
RELU_GAIN = 1.714
# Between two lines of progress, each with a checkpoint.
SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The settings of a stage."""

    bias: bool  # in the mixed blocks, and standardised convolutions
    rate: float  # the highest
    warm_up: int  # steps, but at most a tenth of the stage
    decay: float  # of weights, per unit of the rate
    smoothing: float  # of labels
    phases: tuple[tuple[float, int], ...]  # epochs, and the side of their images in pixels


STAGES = (
    Stage(
        bias=True, rate=1.5e-3, warm_up=600, decay=0.05, smoothing=0.1, phases=((11, 40), (4, 56))
    ),
    # An epoch of 56 x 56 after four of 40 x 40 takes about 30 % of the time.
    Stage(
        bias=False, rate=1e-3, warm_up=200, decay=0.02, smoothing=0.05, phases=((4, 40), (1, 56))
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training that goes on must have in common with the one that was stopped."""

    seed: int  # of all that is drawn
    epochs_scale: float  # a factor on all epochs
    float32: bool  # no bfloat16 autocast
    limit: int  # images wanted, 0 for all
    images: str  # digest of the list of images


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Decoded images, and the index of each one's class."""

    pixels: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]

    def __getitem__(self, which: slice | Tensor) -> "Photos":
        return Photos(pixels=self.pixels[which], labels=self.labels[which])

    def __len__(self) -> int:
        return len(self.labels)


class Standardised(nn.Module):
    """Makes of any weight one of mean 0 and norm 1.714 times a learned gain, for each output."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(outputs))

    def forward(self, weight: Float[Tensor, "o i h w"]) -> Float[Tensor, "o i h w"]:
        """The weight that the convolution uses."""
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        # This norm is the standard deviation times the root of the fan-in.
        norm: Tensor = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True)
        return centred * (RELU_GAIN * self.gain[:, None, None, None] / norm)


def standardise(network: nn.Module) -> None:
    """Have all convolutions of a network use standardised weights."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            part = Standardised(module.out_channels)
            parametrize.register_parametrization(module, "weight", part)


def fold(network: nn.Module) -> None:
    """Make plain convolutions, of the same output, of a network's standardised ones."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def draws(*key: int) -> torch.Generator:
    """Random numbers that depend on the key alone, so that a checkpoint need not hold any state."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def crops(count: int, generator: torch.Generator) -> Float[Tensor, "n 2 3"]:
    """Random crops, half of them mirrored, as `affine_grid` takes them.

    An area and a ratio of width to height are drawn, relative to the image's, then a place inside
    the image. A side that is longer than the image's lies so that it covers it.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, ratio = uniform(*AREA), uniform(math.log(RATIO[0]), math.log(RATIO[1])).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    mirror = torch.randint(2, (count,), generator=generator) * 2 - 1
    places = torch.zeros(count, 2, 3)
    places[:, 0, 0], places[:, 0, 2] = width * mirror, (1 - width) * uniform(-1, 1)
    places[:, 1, 1], places[:, 1, 2] = height, (1 - height) * uniform(-1, 1)
    return places


def augment(
    pixels: UInt8[Tensor, "n 3 h w"], side: int, generator: torch.Generator
) -> Float[Tensor, "n 3 side side"]:
    """A random crop of each image, scaled to a square; beyond its borders an image is reflected."""
    places = crops(len(pixels), generator)
    grid = F.affine_grid(places, [len(pixels), 3, side, side], align_corners=False)
    return F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)


def normalise(pixels: Tensor) -> Float[Tensor, "n 3 h w"]:
    """The network's input, of pixels in [0, 255]."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MINI_INPUT.mean, MINI_INPUT.std))
    return ((pixels / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def rate(stage: Stage, step: int, steps: int) -> float:
    """The learning rate of a step: a straight line up, then a cosine to zero."""
    warm_up = min(stage.warm_up, steps // 10)
    if step < warm_up:
        return stage.rate * (step + 1) / warm_up
    return stage.rate * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


def sides(stage: Stage, per_epoch: int, scale: float) -> list[int]:
    """The side of the images at every step of a stage; each phase has at least one."""
    phases = ((max(1, round(epochs * scale * per_epoch)), side) for epochs, side in stage.phases)
    return [side for steps, side in phases for _ in range(steps)]


def batch(photos: Photos, step: int, *key: int) -> Photos:
    """The images of a step: another order in each epoch, without those that fill no batch."""
    size = min(BATCH, len(photos))
    epoch, at = divmod(step, len(photos) // size)
    order = torch.randperm(len(photos), generator=draws(*key, epoch))
    return photos[order[at * size : (at + 1) * size]]


def moving_average(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
    """The next average; its memory grows with the steps, so as to forget the first weights."""
    return torch.lerp(weight, average, min(MEMORY, (1 + int(count)) / (10 + int(count))))


class Learner:
    """What a stage trains: the network, the moving average of its weights, and the optimiser."""

    def __init__(
        self, stage: Stage, settings: Settings, classes: int, weights: dict[str, Tensor]
    ) -> None:
        self.stage, self.settings = stage, settings
        # Modules draw their first weights from the global random state, which shall stay as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = InceptionV1(replace(MINI, classes=classes, bias=stage.bias))
        if weights:
            # Here the biases that this network lacks are dropped.
            network.load_state_dict({name: weights[name] for name in network.state_dict()})
        if stage.bias:
            standardise(network)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(network, avg_fn=moving_average)
        # Biases and gains, which do not decay, have one dimension.
        parameters = network.parameters()
        groups = [{"params": [p], "weight_decay": stage.decay * (p.ndim > 1)} for p in parameters]
        self.adam = torch.optim.AdamW(groups, betas=BETAS)
        self.parts: dict[str, Any] = {"net": network, "mean": self.average, "adam": self.adam}

    def learn(self, photos: Photos, side: int, rate: float, generator: torch.Generator) -> float:
        """Take one step; its loss."""
        for group in self.adam.param_groups:
            group["lr"] = rate
        seen = normalise(augment(photos.pixels, side, generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=not self.settings.float32):
            logits = self.network(seen).float()
        loss = F.cross_entropy(logits, photos.labels, label_smoothing=self.stage.smoothing)
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.adam.step()
        self.average.update_parameters(self.network)
        return loss.item()


def train(
    photos: Photos, held_out: Photos, classes: int, settings: Settings, checkpoint: Path
) -> nn.Module:
    """The network of averaged weights after all stages, from the checkpoint on if there is one."""
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {}
    if saved and saved["settings"] != asdict(settings):
        raise ValueError(
            f"{checkpoint} is of a training with {saved['settings']}, not {asdict(settings)}; go "
            "on with the former, or remove the file to begin anew"
        )
    per_epoch = len(photos) // min(BATCH, len(photos))
    plan = [sides(stage, per_epoch, settings.epochs_scale) for stage in STAGES]
    began, said, done, losses = monotonic(), monotonic(), 0, list[float]()
    weights: dict[str, Tensor] = {}
    for number in range(saved.get("stage", 0), len(STAGES)):
        learner, first, steps = Learner(STAGES[number], settings, classes, weights), 0, plan[number]
        if number == saved.get("stage"):
            first = saved["step"]
            for name, part in learner.parts.items():
                part.load_state_dict(saved[name])
        for step in range(first, len(steps)):
            chosen = batch(photos, step, settings.seed, number, 0)
            now = rate(STAGES[number], step, len(steps))
            generator = draws(settings.seed, number, 1, step)
            losses.append(learner.learn(chosen, steps[step], now, generator))
            done += steps[step] ** 2
            is_epoch = (step + 1) % per_epoch == 0 or step + 1 == len(steps)
            if is_epoch or monotonic() - said >= SECONDS:
                left = sum(x**2 for x in sum(plan[number + 1 :], steps[step + 1 :]))
                rest = timedelta(seconds=round((monotonic() - began) * left / done))
                at = f"stage {number + 1}, step {step + 1:,}/{len(steps):,}, {steps[step]} pixels"
                print(f"{at}: loss {np.mean(losses):.3f}, about {rest} left", flush=True)
                state = {name: part.state_dict() for name, part in learner.parts.items()}
                state |= {"settings": asdict(settings), "stage": number, "step": step + 1}
                with atomic_write(checkpoint) as file:
                    torch.save(state, file)
                said, losses = monotonic(), []
            if is_epoch:
                say_accuracy(learner.average.module, held_out)
        fold(learner.average.module)
        weights = learner.average.module.state_dict()
    return learner.average.module


@torch.no_grad()
def say_accuracy(network: nn.Module, photos: Photos) -> None:
    """Print how many images have their class first, or among the first five, of the logits."""
    hits = []
    for pixels, labels in zip(photos.pixels.split(BATCH), photos.labels.split(BATCH), strict=True):
        logits = network(normalise(pixels))
        hits.append(logits.topk(min(5, logits.shape[1])).indices == labels[:, None])
    hit = torch.cat(hits).double()
    top1, top5 = hit[:, 0].mean(), hit.sum(1).mean()
    print(f"held out: {top1:.1%} top-1, {top5:.1%} top-5 of {len(photos):,} images", flush=True)


def read_photos(images: ImageSet, limit: int, seed: int) -> tuple[list[str], Photos]:
    """The classes' names in the order of the logits, and the images in a random order."""
    folders = [PurePath(entry.id).parts[:-1] for entry in images]
    names = sorted({parts[0] for parts in folders if parts})
    if len(names) < 2 or not all(folders):
        wanted = "one sub-folder of images for each of two or more classes, no images beside them"
        raise ValueError(f"{images.source} must have {wanted}; it has {len(names)} sub-folders")
    # The names that the package shows are in the embedded network's order of the logits.
    known = resources.files("opponent.models") / "inceptionv1-mini-classes.txt"
    order = [line.split()[0] for line in known.read_text(encoding="utf-8").splitlines()]
    names = order if sorted(order) == names else names
    chosen = torch.randperm(len(images), generator=draws(seed)).tolist()[: limit or None]
    pixels, labels = torch.empty(len(chosen), 3, *MINI_INPUT.size, dtype=torch.uint8), list[int]()
    loaded = stream([images[i] for i in chosen], MINI_INPUT.fit)
    for i, image in zip(chosen, loaded, strict=True):
        if isinstance(image, Unreadable):
            print(f"{images[i].id} is left out: {image.reason}")
            continue
        pixels[len(labels)] = torch.from_numpy(image).permute(2, 0, 1)
        labels.append(names.index(folders[i][0]))
    return names, Photos(pixels=pixels[: len(labels)], labels=torch.tensor(labels))


def main(arguments: list[str] | None = None) -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description="Train the embedded small InceptionV1.")
    parser.add_argument("folder", type=Path, help="has a sub-folder of images for each class")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="a factor on all epochs")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--limit", type=int, default=0, help="use only so many images, at random")
    parser.add_argument("--float32", action="store_true", help="do without bfloat16 autocast")
    given = vars(parser.parse_args(arguments))
    folder, out = given.pop("folder"), given.pop("out")
    if out.suffix != ".safetensors" or given["epochs_scale"] <= 0:
        parser.error("--out must end in .safetensors, and --epochs-scale be above 0")
    checkpoint = out.with_suffix(".checkpoint")
    try:
        images = open_images(folder)
        settings = Settings(images=images.digest(), **given)
        names, photos = read_photos(images, settings.limit, settings.seed)
        held = min(HELD_OUT, len(photos) // 10)
        if held < 1:
            raise ValueError(f"{len(photos)} images are too few to hold out a tenth; give 10")
        print(f"{len(photos):,} images of {len(names)} classes, {held:,} of them held out")
        network = train(photos[held:], photos[:held], len(names), settings, checkpoint)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on where the last line was printed\n")
    weights = {name: w.contiguous() for name, w in network.half().state_dict().items()}
    with atomic_write(out) as file:
        save_file(weights, file, metadata={"classes": " ".join(names)})
    checkpoint.unlink()
    print(f"{out} is written; from it,")
    say_accuracy(network.float(), photos[:held])


if __name__ == "__main__":
    main()
