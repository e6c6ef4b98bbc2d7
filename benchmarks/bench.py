"""How much faster than the plain procedure, in one run, with the equality of results beside it.

    python -m benchmarks.bench [--images 32] [--repeats 3] [--device cuda]

The plain procedure is what a script without this library does: the whole forward pass, hooks that
keep activation and gradient, and `loss.backward()` with gradients for all parameters. Where it
would take hours, it is timed on a part and multiplied; the row says so. The share of the attainable
is the multiply-adds of our passes in our time, over the best rate of a convolution in this run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import decode, icons, toy
from opponent.attribution.all_units import AllUnits, scores
from opponent.attribution.attribute import attribute, attribute_each
from opponent.core.progress import silent
from opponent.geometry.crop import CropPlan
from opponent.geometry.planning import plan_crop
from opponent.images.imageset import ImageEntry
from opponent.models.inceptionv1 import InceptionV1
from opponent.models.network import Network
from opponent.models.registry import INCEPTIONV1_INPUT

FEATURE, THROUGH = "mixed3b:379", "mixed3a"
LOGIT, BEFORE = "logits:254", "mixed5a"
PLAIN_UNITS = 6  # of the layer's 480, that the plain procedure is timed on


def inception(device: str = "cpu") -> Network:
    """InceptionV1 with random weights, which time does not depend on."""
    torch.manual_seed(0)
    module = InceptionV1().eval()
    for name, parameter in module.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
    return Network(module.to(device), preprocessing=INCEPTIONV1_INPUT)


def pixels(count: int, device: str = "cpu") -> Tensor:
    """Inputs as decoded photographs come: rows, columns, channels."""
    noise = torch.rand(count, 224, 224, 3, generator=torch.Generator().manual_seed(0))
    return (noise * 255 - 117).permute(0, 3, 1, 2).to(device)


def plain(
    network: Network, images: Tensor, feature: str, through: str, units: int = 1
) -> dict[str, Tensor]:
    """Attribution of a unit, and of as many after it, as a plain script does it."""
    kept: dict[str, Tensor] = {}
    parts = dict(network.module.named_modules())
    layer, unit = feature.split(":")

    def keep_output(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept["through"] = output

    def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept["target"] = inputs[0]

    hooks = [parts[through].register_forward_hook(keep_output)]
    if layer != "logits":
        hooks.append(parts[layer].register_forward_pre_hook(keep_input))
    logits = network.module(images)
    target = kept.get("target", logits[..., None, None])
    found: dict[str, list[Tensor]] = {"activation": [], "excitation": [], "inhibition": []}
    for number in range(int(unit), int(unit) + units):
        network.module.zero_grad()
        kept["through"].grad = None
        activation = target[:, number, target.shape[2] // 2, target.shape[3] // 2]
        activation.sum().backward(retain_graph=number < int(unit) + units - 1)
        gradient = kept["through"].grad
        assert gradient is not None
        attribution = (gradient * kept["through"]).detach()
        found["activation"].append(activation.detach())
        found["excitation"].append(attribution.clamp(min=0).sum((1, 2, 3)))
        found["inhibition"].append((-attribution).clamp(min=0).sum((1, 2, 3)))
    for hook in hooks:
        hook.remove()
    network.module.zero_grad()
    return {name: torch.stack(values, 1) for name, values in found.items()}


def ours(
    network: Network, images: Tensor, feature: str, through: str, part: CropPlan
) -> dict[str, Tensor]:
    """The same by the library."""
    placed = network.resolve(feature)
    [result] = attribute_each(network, images, [placed], through, plan=part)
    names = ("activation", "excitation", "inhibition")
    return {name: getattr(result, name)[:, None] for name in names}


def called(network: Network, images: Tensor, feature: str, through: str) -> dict[str, Tensor]:
    """The same by the function that people call, which plans and checks the crop at first."""
    result = attribute(network, images, feature, through, progress=silent)
    names = ("activation", "excitation", "inhibition")
    return {name: getattr(result, name)[:, None] for name in names}


def layer(network: Network, images: Tensor, part: CropPlan) -> dict[str, Tensor]:
    """All units of the layer by the library."""
    found = scores(network, images, part)
    names = ("activation", "excitation", "inhibition")
    return {name: found[:, :, i] for i, name in enumerate(names)}


def best(work: Callable[[], object], repeats: int = 1) -> float:
    """The shortest of several runs, in seconds: the one least disturbed by other work."""
    times = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - start)
    return min(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, over the largest value."""
    return max(float((a[k] - b[k]).abs().max() / a[k].abs().max()) for k in a)


def attainable(device: str) -> float:
    """Multiply-adds a second of the best of some convolutions."""
    rates = []
    for channels, size in ((64, 56), (128, 28), (256, 28), (512, 14)):
        x = torch.rand(16, channels, size, size, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        convolution = nn.Conv2d(channels, channels, 3, padding=1).to(device)
        convolution = convolution.to(memory_format=torch.channels_last)
        with torch.no_grad():
            convolution(x)
            seconds = best(lambda c=convolution, x=x: c(x), 5)  # type: ignore[misc]
        rates.append(16 * channels * channels * 9 * size * size / seconds)
    return max(rates)


def operations(work: Callable[[], object]) -> float:
    """Multiply-adds of a procedure."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def peak(kind: str, images: int) -> float:
    """MiB that one batch takes in a process of its own, over network and images."""
    command = [sys.executable, "-m", "benchmarks.bench", "--peak", kind, "--images", str(images)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _peak(kind: str, count: int) -> None:
    network, images = inception(), pixels(count)
    before = _memory("VmRSS")
    if kind == "plain":
        plain(network, images, FEATURE, THROUGH)
    else:
        part = plan_crop(network, [network.resolve(FEATURE)], THROUGH)
        ours(network, images, FEATURE, THROUGH, part)
    print(_memory("VmHWM") - before)


def _memory(which: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


HEADER = f"{'what':52}{'plain':>11}{'ours':>11}{'ratio':>8}{'difference':>12}{'attained':>10}"


def show(what: str, slow: float, fast: float, equal: str, share: str = "") -> None:
    """One row: milliseconds, their ratio, the equality of results, the share of the attainable."""
    print(
        f"{what:52}{1e3 * slow:>11.4g}{1e3 * fast:>11.4g}{slow / fast:>8.1f}{equal:>12}{share:>10}",
        flush=True,
    )


def scans(count: int, repeats: int, device: str) -> None:
    """One unit, a layer, a logit: rows in ms an image."""
    network, images = inception(device), pixels(count, device)
    rate = attainable(device)
    feature, widest = network.resolve(FEATURE), AllUnits(layer="mixed3b").widest(network)
    one, all_units = (plan_crop(network, [each], THROUGH) for each in (feature, widest))
    logit = plan_crop(network, [network.resolve(LOGIT)], BEFORE)
    rows: list[tuple[str, Callable[[], dict[str, Tensor]], Callable[[], dict[str, Tensor]]]] = [
        (
            f"scan {FEATURE} through {THROUGH}",
            lambda: plain(network, images, FEATURE, THROUGH),
            lambda: ours(network, images, FEATURE, THROUGH, one),
        ),
        (
            f"attribute {FEATURE} through {THROUGH}",
            lambda: plain(network, images, FEATURE, THROUGH),
            lambda: called(network, images, FEATURE, THROUGH),
        ),
        (
            f"scan {LOGIT} through {BEFORE}",
            lambda: plain(network, images, LOGIT, BEFORE),
            lambda: ours(network, images, LOGIT, BEFORE, logit),
        ),
    ]
    for what, slow, fast in rows:
        difference = apart(slow(), fast())
        # In turns, so that whatever else the machine does disturbs both alike.
        times = [(best(slow), best(fast, 3)) for _ in range(repeats)]
        seconds = [min(column) for column in zip(*times, strict=True)]
        share = operations(fast) / seconds[1] / rate
        show(what, seconds[0] / count, seconds[1] / count, f"{difference:.0e}", f"{share:.0%}")
        if what == rows[0][0]:
            single = seconds[1]
    units = network.layer("mixed3b").shape[0]
    some, begin = images[:8], 376
    slow_layer = plain(network, some, f"mixed3b:{begin}", THROUGH, PLAIN_UNITS)
    found = layer(network, some, all_units)
    difference = apart(slow_layer, {k: x[:, begin:][:, :PLAIN_UNITS] for k, x in found.items()})
    alone = best(lambda: plain(network, some, f"mixed3b:{begin}", THROUGH, 1), repeats)
    many = best(lambda: plain(network, some, f"mixed3b:{begin}", THROUGH, PLAIN_UNITS), repeats)
    whole = (alone + (many - alone) / (PLAIN_UNITS - 1) * (units - 1)) / len(some)
    fast_layer = best(lambda: layer(network, images, all_units), repeats)
    work = operations(lambda: layer(network, images, all_units))
    show(
        f"scan all {units} units of mixed3b (plain: from {PLAIN_UNITS})",
        whole,
        fast_layer / count,
        f"{difference:.0e}",
        f"{work / fast_layer / rate:.0%}",
    )
    if device == "cpu":
        small, large = peak("ours", count), peak("plain", count)
        memory = f"memory of one batch {large:.0f} MiB plain, {small:.0f} MiB ours"
    else:
        memory = ""
    print(f"    all units take {fast_layer / single:.1f} times the time of one unit; {memory}")
    print(f"    a convolution attains {rate / 1e9:.0f} billion multiply-adds a second")


def the_rest() -> None:
    """Inversion, atlas icons, toy models, decoding."""
    network = inception()
    for what, count, steps in (
        ("invert an image, 24 steps, InceptionV1", 1, 24),
        ("atlas icons, 8 at once, 8 steps (an icon)", 8, 8),
    ):
        # In turns, so that whatever else the machine does disturbs both alike.
        rounds = [icons.measure(network, count, 1, steps)[:3] for _ in range(5)]
        slow, fast, _ = (min(column) for column in zip(*rounds, strict=True))
        show(what, slow, fast, f"{rounds[0][2]:.0e}")
    for task in ("abs", "xor"):
        slow, fast, difference, moved = toy.measure(task, 12, 8, 1000, 200)
        equal = f"{difference / moved:.0e}"
        show(f"toy {task}, 12 hidden (a step of a model)", slow, fast, equal)
    with tempfile.TemporaryDirectory() as folder:
        entries = decode.saved(Path(folder), 6, 3000)
        _decoding("decode photographs of 3,000 pixels (an image)", entries, draft=False)
        _decoding("the same with --draft; difference: rms", entries, draft=True)


def _decoding(what: str, entries: list[ImageEntry], *, draft: bool) -> None:
    expected, found = decode.plain(entries, 224), decode.threads(entries, 224, draft=draft)
    pairs = zip(expected, found, strict=True)
    gaps = np.stack([a.astype(float) - b for a, b in pairs])
    difference = (
        f"{np.sqrt((gaps**2).mean()):.1f}/255" if draft else f"{np.abs(gaps).max():.0f}/255"
    )
    slow = best(lambda: decode.plain(entries, 224), 3) / len(entries)
    fast = best(lambda: decode.threads(entries, 224, draft=draft), 3) / len(entries)
    show(what, slow, fast, difference)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", choices=("plain", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        _peak(arguments.peak, arguments.images)
        return
    where = "" if arguments.device == "cpu" else torch.cuda.get_device_name()
    print(
        f"{where or f'{torch.get_num_threads()} threads'}, torch {torch.__version__}, float32, "
        f"224 x 224, ms"
    )
    print(HEADER)
    scans(arguments.images, arguments.repeats, arguments.device)
    if arguments.device == "cpu":
        the_rest()


if __name__ == "__main__":
    main()
