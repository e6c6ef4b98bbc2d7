"""How much faster atlas icons are made than by the plain procedure, with both results compared.

    python -m benchmarks.icons [--network NAME] [--icons 8] [--steps 20] [--plain-icons 2]

The plain procedure optimises one icon after the other; each step runs the whole network forward,
keeps the through layer's output by a hook, and calls `loss.backward()`. Equal targets, steps, size,
boxes and noise (outside what the feature sees, the plain procedure's noise is its own).
"""

import argparse
import resource
import time

import torch
from torch import Tensor

from opponent.core.box import Box
from opponent.core.feature import Feature
from opponent.geometry.planning import plan_crop
from opponent.geometry.receptive_field import receptive_field
from opponent.models.inceptionv1 import InceptionV1
from opponent.models.network import Network
from opponent.models.registry import INCEPTIONV1_INPUT, load
from opponent.synthesis.inversion import invert_attribution
from opponent.synthesis.objectives import dot_cosine
from opponent.synthesis.parameterisations import Phases
from opponent.synthesis.settings import SynthesisSettings
from opponent.synthesis.transforms import resize

FEATURE, THROUGH = "mixed3b:9", "mixed3a"


def plain(
    network: Network, target: Tensor, feature: Feature, settings: SynthesisSettings
) -> tuple[Tensor, Tensor]:
    """One icon as a plain script makes it, and what its objective was at each step."""
    generator = torch.Generator().manual_seed(settings.seed)
    start = Phases(1, settings.canvas_for(network), generator=generator)
    assert settings.rate is not None
    adam = torch.optim.Adam(start.parameters, lr=settings.rate, eps=1e-16)
    transforms, size = settings.transforms, network.preprocessing.size
    outside = torch.Generator().manual_seed(settings.seed)
    seen = plan_crop(network, [feature], THROUGH).box or Box.of([0, 0, *size])
    rows, columns = receptive_field(network, feature, THROUGH).slices
    kept: dict[str, Tensor] = {}
    layer = dict(network.module.named_modules())[THROUGH]
    hook = layer.register_forward_hook(lambda _m, _i, output: kept.update(output=output))
    objectives = []
    for _ in range(settings.steps):
        adam.zero_grad()
        shown, boxes = transforms.draw(start.size, size, generator)
        images = start.images()[:, :, *shown.slices]
        views = torch.cat([resize(images, size, None, box) for box in boxes])
        noise = transforms.noise((*views.shape,), outside)
        inner = (transforms.draws, 3, seen.height, seen.width)
        noise[:, :, *seen.slices] = transforms.noise(inner, generator)
        views = views + noise
        network.module(network.preprocessing.normalise(views))
        hidden = kept["output"][:, :, rows, columns]
        wanted = target.expand_as(hidden)
        loss = -dot_cosine(hidden, wanted, settings.power).sum() / transforms.draws
        loss.backward()
        adam.step()
        objectives.append(-float(loss.detach()))
    hook.remove()
    return start.images().detach(), torch.tensor(objectives)


def measure(
    network: Network, icons: int, plain_icons: int, steps: int
) -> tuple[float, float, float, SynthesisSettings]:
    """Seconds an icon of both, how far their first objectives are apart, and the settings."""
    feature = network.resolve(FEATURE)
    window = receptive_field(network, feature, THROUGH)
    shape = (network.map_shape(THROUGH)[0], window.height, window.width)
    targets = torch.rand(icons, *shape, generator=torch.Generator().manual_seed(1))
    settings = SynthesisSettings(steps=steps, rate=0.06, power=2.0, batch=8)
    warm = SynthesisSettings(steps=1, rate=0.06, power=2.0)
    plain(network, targets[0], feature, warm)
    invert_attribution(network, targets[:1], feature, THROUGH, side="both", settings=warm)
    begun = time.perf_counter()
    ours = invert_attribution(network, targets, feature, THROUGH, side="both", settings=settings)
    ours_time = (time.perf_counter() - begun) / icons
    begun = time.perf_counter()
    theirs = [plain(network, targets[i], feature, settings)[1] for i in range(plain_icons)]
    plain_time = (time.perf_counter() - begun) / plain_icons
    # Later steps magnify what rounding makes of gradients near zero.
    first = torch.stack(theirs)[:, 0]
    apart = float(((ours.objective[0, :plain_icons] - first) / first).abs().max())
    return plain_time, ours_time, apart, settings


def main() -> None:
    """Measure once, one procedure after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="inceptionv1-small")
    parser.add_argument("--icons", type=int, default=8)
    parser.add_argument("--plain-icons", type=int, default=2, help="how many of them plainly too")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.network == "inceptionv1":  # random weights: time does not depend on them
        network = Network(InceptionV1().eval(), preprocessing=INCEPTIONV1_INPUT)
    else:
        network = load(arguments.network)
    plain_time, ours_time, apart, settings = measure(
        network, arguments.icons, arguments.plain_icons, arguments.steps
    )
    print(
        f"{network.name}, {arguments.steps} steps of {settings.canvas_for(network)} pixels: "
        f"plain {plain_time:.2f} s an icon, here {ours_time:.2f} s, ratio "
        f"{plain_time / ours_time:.2f}; first objective {apart:.0e} apart; "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB"
    )


if __name__ == "__main__":
    main()
