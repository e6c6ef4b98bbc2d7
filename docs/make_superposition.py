"""Make the pictures of superposition.md, from a real InceptionV1, SqueezeNet and the embedded one.

    python docs/make_superposition.py INCEPTIONV1 SQUEEZENET PHOTOGRAPHS IMAGENETTE --work FOLDER

INCEPTIONV1 are weights of inceptionv1-bvlc, SQUEEZENET those of torchvision's squeezenet1_1.
PHOTOGRAPHS is a folder with one photograph of each of ImageNet's classes, IMAGENETTE one with
Imagenette's ten folders. It goes on where it was stopped, and takes about three hours on two cores.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image

import opponent
from opponent import Dictionary, Network, TrainingSettings
from opponent.dictionaries.baselines import kmeans_dictionary, nmf_dictionary
from opponent.dictionaries.train import learn_and_save_dictionary
from opponent.explain.interference_images import interference_images
from opponent.paper.uniqueness.assessment import assess
from opponent.paper.uniqueness.contrasts import contrast
from opponent.paper.uniqueness.measure import UniquenessSettings, measure_features
from opponent.paper.uniqueness.measurements import FeatureMeasurements
from opponent.paper.uniqueness.results import write_uniqueness
from opponent.plots import plot_interference, save
from opponent.plots.files import write_disinhibited

OUT = Path(__file__).parent / "superposition"
WIDTH = 1400
# Early to late, each with the layer that it is explained through.
PAIRS = {
    "conv2d2": "conv2d1",
    "mixed3b": "mixed3a",
    "mixed4b": "mixed4a",
    "mixed4d": "mixed4c",
    "mixed5b": "mixed5a",
}
LATENTS, FEWER, ACTIVE, STEPS, BATCH = 2048, 512, 24, 800, 1024
# Layers that a max pool lies before, through that pool instead of the layer before it.
POOLED = {
    "small": ["conv2d1:maxpool0", "mixed3a:maxpool1", "mixed4a:maxpool4", "mixed5a:maxpool10"],
    "squeezenet": [
        f"features.{layer}.squeeze_activation:features.{layer - 1}" for layer in (3, 6, 9)
    ],
}
# Features whose inhibition is taken away, and whether in latents too.
FEATURES = {"mixed3b:379": True, "mixed4b:426": True, "mixed4d:427": True}
# Imagenette's classes among ImageNet's, and photographs of each.
CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
OF_CLASS = 30
TOP = 20


def shrink(path: Path, name: str) -> None:
    """A picture as WebP, as wide as pages show it sharply."""
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, 3 * WIDTH), Image.Resampling.LANCZOS)
        picture.convert("RGB").save(OUT / f"{name}.webp", quality=82, method=6)
    print(OUT / f"{name}.webp", flush=True)


def dictionaries(network: Network, photographs: Path, work: Path) -> list[Dictionary]:
    """Two sizes, one that learns nothing, k-means and NMF, of each layer that is gone through."""
    found = []
    for layer in PAIRS.values():
        # As many factors as channels at most: more of them take hours.
        factors = min(FEWER, 2 * network.layer(layer).shape[0])
        for kind, count in (
            ("topk", LATENTS), ("topk", FEWER), ("random", LATENTS), ("kmeans", FEWER),
            ("nmf", factors),
        ):  # fmt: skip
            file = work / f"{layer}-{kind}-{count}.safetensors"
            if not file.exists():
                learn(network, photographs, layer, file, kind, count)
            found.append(Dictionary.load(file))
    return found


def learn(
    network: Network, photographs: Path, layer: str, file: Path, kind: str, count: int
) -> None:
    """One dictionary."""
    if kind in ("topk", "random"):
        settings = TrainingSettings(
            latents=count, active=ACTIVE, steps=STEPS, batch=BATCH, random=kind == "random"
        )
        learn_and_save_dictionary(network, photographs, layer, file, settings=settings)
        return
    fit = kmeans_dictionary if kind == "kmeans" else nmf_dictionary
    fit(network, photographs, layer, latents=count).dictionary.save(file)


def sharing_of(
    network: Network,
    photographs: Path,
    out: Path,
    layers: list[str] | None = None,
    learnt: list[Dictionary] | None = None,
) -> FeatureMeasurements:
    """Figure 8's measurements with their controls, in channels and in dictionaries."""
    return measure_features(
        network, photographs, out=out, layers=layers, dictionaries=learnt or [],
        settings=UniquenessSettings(),
    )  # fmt: skip


def sharing_of_pairs(
    network: Network, photographs: Path, work: Path, learnt: list[Dictionary]
) -> FeatureMeasurements:
    """The same of all pairs of layers, each in a folder of its own."""
    found = [
        sharing_of(
            network, photographs, work / f"uniqueness-{target}", [f"{target}:{through}"],
            [x for x in learnt if x.layer == through],
        )
        for target, through in PAIRS.items()
    ]  # fmt: skip
    groups = tuple(group for each in found for group in each.groups)
    return replace(found[0], folder=work / "uniqueness", groups=groups)


def draw_sharing(network: Network, measured: FeatureMeasurements, name: str) -> None:
    """Figure 8 beside its controls, and in dictionaries."""
    Path(str(measured.folder)).mkdir(exist_ok=True)
    paths = write_uniqueness(network, measured, assess(measured, TOP), contrast(measured, TOP))
    for path in paths:
        for figure in ("controls", "dictionaries"):
            if path.suffix == ".png" and path.stem.startswith(figure):
                shrink(Path(str(path)), f"{figure}-{name}")


def without_inhibition(network: Network, photographs: Path, imagenette: Path, work: Path) -> None:
    """Features and classes without their inhibition."""
    for feature, latents in FEATURES.items():
        layer, unit = feature.split(":")
        through, out = PAIRS[layer], work / f"without-{layer}-{unit}"
        found = opponent.disinhibit(
            network, photographs, [feature], through, out=out,
            dictionary=work / f"{through}-topk-{LATENTS}.safetensors" if latents else None,
        )  # fmt: skip
        draw(network, found, photographs, out, f"{layer}-{unit}")
    chosen = [
        x for folder in sorted(imagenette.iterdir()) for x in sorted(folder.iterdir())[:OF_CLASS]
    ]
    logits = [f"logits:{unit}" for unit in CLASSES]
    out = work / "without-classes"
    found = opponent.disinhibit(
        network, chosen, logits, PAIRS["mixed5b"], labels="wordnet", out=out
    )
    draw(network, found, chosen, out, "classes")


def draw(
    network: Network,
    found: opponent.Disinhibited,
    images: Path | list[Path],
    out: Path,
    name: str,
) -> None:
    """The figures of one measurement; of classes the confusions alone."""
    for path in write_disinhibited(found, out, network=network, images=images):
        shown = ("confusions",) if name == "classes" else ("before-after", "newly-firing")
        for figure in shown:
            if path.suffix == ".png" and path.stem.startswith(figure):
                shrink(Path(str(path)), f"{figure}-{name}")


def main() -> None:
    """Measure, draw, and keep smaller pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("inceptionv1", "squeezenet", "photographs", "imagenette"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    network = opponent.load("inceptionv1-bvlc", weights=given.inceptionv1)
    learnt = dictionaries(network, given.photographs, given.work)
    work = given.work
    draw_sharing(network, sharing_of_pairs(network, given.photographs, work, learnt), "inceptionv1")
    for name, other in (
        ("small", opponent.load("inceptionv1-small")),
        ("squeezenet", opponent.load("torchvision:squeezenet1_1", weights=given.squeezenet)),
    ):
        draw_sharing(other, sharing_of(other, given.photographs, work / f"uniqueness-{name}"), name)
        found = sharing_of(other, given.photographs, work / f"pools-{name}", POOLED[name])
        write_uniqueness(other, found, assess(found, TOP), contrast(found, TOP))
    without_inhibition(network, given.photographs, given.imagenette, work)
    feature, through = "mixed4d:427", "mixed4c"
    runs = [
        opponent.scan_images(
            network, given.photographs, feature, through, out=work / name, dictionary=given_by
        )
        for name, given_by in (
            ("run", None),
            ("latents", Dictionary.load(work / f"{through}-topk-{LATENTS}.safetensors")),
        )
    ]
    save(plot_interference(interference_images(*runs, k=4)), work / "interference.png")
    shrink(work / "interference.png", "interference")


if __name__ == "__main__":
    main()
