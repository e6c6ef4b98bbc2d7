"""How much faster than the plain procedure, in one run, with the equality of results beside it.

    python -m benchmarks.bench [--images 40] [--repeats 3]

The plain procedure is what a script without this library does: the whole forward pass, hooks that
keep activation and gradient, and `loss.backward()` with gradients for all parameters.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from opponent.attribution import attribute_each
from opponent.features import Feature
from opponent.network import Network
from opponent.zoo.inceptionv1 import InceptionV1
from opponent.zoo.load import INCEPTIONV1_INPUT

FEATURE, THROUGH = "mixed3b:379", "mixed3a"


def plain(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Attribution as a plain script does it."""
    kept: dict[str, Tensor] = {}

    def keep_output(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept["through"] = output

    def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept["target"] = inputs[0]

    parts = dict(module.named_modules())
    layer, unit = FEATURE.split(":")
    hooks = [
        parts[THROUGH].register_forward_hook(keep_output),
        parts[layer].register_forward_pre_hook(keep_input),
    ]
    module.zero_grad()
    module(images)
    height, width = kept["target"].shape[2:]
    activation = kept["target"][:, int(unit), height // 2, width // 2]
    activation.sum().backward()
    for hook in hooks:
        hook.remove()
    gradient = kept["through"].grad
    assert gradient is not None
    attribution = (gradient * kept["through"]).detach()
    return {
        "activation": activation.detach(),
        "excitation": attribution.clamp(min=0).sum((1, 2, 3)),
        "inhibition": (-attribution).clamp(min=0).sum((1, 2, 3)),
    }


def ours(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The same by the library."""
    [result] = attribute_each(network, images, [Feature.parse(FEATURE)], THROUGH)
    return {name: getattr(result, name) for name in ("activation", "excitation", "inhibition")}


def best(work: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, in seconds: the one least disturbed by other work."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    module = InceptionV1()
    for name, parameter in module.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
    network = Network(module, preprocessing=INCEPTIONV1_INPUT)
    images = torch.rand(arguments.images, 3, 224, 224) * 255 - 117
    slow, fast = plain(module, images), ours(network, images)
    error = max(
        float((slow[name] - fast[name]).abs().max() / slow[name].abs().max()) for name in slow
    )
    # Taken in turns, so that whatever else the machine does disturbs both alike.
    rows = [
        (best(lambda: plain(module, images), 1), best(lambda: ours(network, images), 1))
        for _ in range(arguments.repeats)
    ]
    seconds_plain, seconds_ours = (min(column) for column in zip(*rows, strict=True))
    print("what                                        plain s   ours s    ratio   relative error")
    print(
        f"attribute {FEATURE} through {THROUGH}, {arguments.images} images".ljust(44)
        + f"{seconds_plain:7.2f}  {seconds_ours:7.2f}  "
        + f"{seconds_plain / seconds_ours:7.2f}   {error:.1e}"
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, 224 x 224")


if __name__ == "__main__":
    main()
