"""Every figure of the paper, on one network and one set of images, in one page.

DIR/STEP/     each step's own folder, which goes on where it stopped
DIR/index.html, DIR/reproduce.json
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opponent.atlas.build import AtlasSettings, make_atlas
from opponent.core.feature import Feature
from opponent.directions import Directions, find_directions
from opponent.explain.crops import run_tiles
from opponent.images.sources import ImageSet, open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.paper.completeness import completeness, write_completeness
from opponent.paper.inversion_check import Pair, trunk, verify, write_verification
from opponent.paper.toy import models as toy
from opponent.paper.uniqueness.drawing import write_uniqueness
from opponent.paper.uniqueness.measure import (
    UniquenessSettings,
    assess,
    measure_features,
    sensible_top,
)
from opponent.paper.weight_signs import weight_signs, write_weights
from opponent.plots import ExemplarRow, exemplars_figure, save
from opponent.plots.files import write_atlas, write_figures
from opponent.reports.html import picture, render
from opponent.scan.local import scan_images
from opponent.selection import exciting, inhibiting, tense
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.files import AnyPath, local, write_text
from opponent.storage.run import Run, versions
from opponent.synthesis.inversion import SynthesisSettings

Progress = Callable[[str, int, int], None]

# 'Near ceiling', as a number: the paper gives none. Ours.
CEILING = 0.99
# 'Very early layers', as a relative depth: the first fifth. Ours.
EARLY = 0.2


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is computed.

    Args:
        images: at most so many, drawn at random; None is all.
        logits: of completeness.
        features: units, and k-means directions, of figure 2 and of uniqueness.
        centroids: of k-means.
        atlases: features that an atlas is made of.
        top, grid, least: images of an atlas, cells a side, images that a cell needs.
        layers, units, tense: inversions that are verified: layers, units each, images each.
        steps: of every synthesis.
        seeds: toy models of each width.
    """

    images: int | None
    logits: int
    features: int
    centroids: int
    atlases: int
    top: int
    grid: int
    least: int
    layers: int
    units: int
    tense: int
    steps: int
    seeds: int


SCALES = {
    # Twenty minutes on two cores with the embedded network.
    "quick": Scale(
        images=800, logits=10, features=10, centroids=50, atlases=1, top=400, grid=7, least=4,
        layers=3, units=3, tense=3, steps=50, seeds=32,
    ),
    # Source: paper, sections 2, 5 and 6, appendices F, G and H.
    "paper": Scale(
        images=None, logits=20, features=20, centroids=1000, atlases=3, top=10_000, grid=20,
        least=6, layers=5, units=20, tense=10, steps=100, seeds=1000,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says or shows, and what came out here.

    Args:
        claim: in words.
        paper: its number, or what it shows.
        ours: the number measured here.
        agrees: whether it does; None where that is undecided.
    """

    claim: str
    paper: str
    ours: str
    agrees: bool | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure: its number in the paper, a caption, files and claims."""

    figure: str
    title: str
    caption: str
    pictures: tuple[AnyPath, ...]
    claims: tuple[Claim, ...]


def reproduce(
    network: Network | str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    out: str | Path,
    *,
    scale: str | Scale = "quick",
    weights: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Compute the paper's figures, and write one page of them.

    Every step keeps what it made, so that the same call goes on where it was interrupted.

    Args:
        network: a network or its name.
        images: a folder, files, a text list, or 'photos'.
        out: the folder.
        scale: 'quick', 'paper' or sizes of one's own.
        weights: a file of weights, for a network given by name.
        seed: of everything that is drawn.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The page's path.
    Raises:
        ValueError: another scale, or too few images.
        RunError: the folder holds another network's or other images' results.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"--scale is one of {', '.join(SCALES)}, not {scale!r}")
    sizes = SCALES[scale] if isinstance(scale, str) else scale
    network = load(network, weights)
    found = _some(open_images(images, size=network.preprocessing.size), sizes.images, seed)
    asked = {
        "question": "reproduce",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "images": {"count": len(found), "sha256": found.digest()},
        "scale": asdict(sizes),
        "seed": seed,
        "versions": versions(),
    }
    folder = CheckpointFolder(out, asked).folder
    making = _Making(network, found, folder, sizes, seed, progress or (lambda *_: None))
    steps = (
        making.exemplars, making.complete, making.case_study, making.atlases, making.toys,
        making.shared, making.signs, making.inversions,
    )  # fmt: skip
    entries: list[Entry] = []
    for number, step in enumerate(steps):
        making.tell(f"reproducing: {len(steps)} steps", number, len(steps))
        entries += step()
    making.tell(f"reproducing: {len(steps)} steps", len(steps), len(steps))
    entries.sort(key=lambda entry: int(entry.figure.split()[0].rstrip(",")))
    return _write(entries, folder, asked, found)


def _some(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """At most so many images, drawn at random, in their order."""
    if count is None or len(images) <= count:
        return images
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    entries = tuple(images.entries[i] for i in sorted(chosen.tolist()))
    return ImageSet(source=f"{count:,} of {images.source}", entries=entries)


class _Making:
    """The steps, each of which gives the entries of one or more figures."""

    def __init__(
        self,
        network: Network,
        images: ImageSet,
        folder: Path,
        scale: Scale,
        seed: int,
        tell: Progress,
    ) -> None:
        self.network, self.images, self.folder = network, images, folder
        self.scale, self.seed, self.tell = scale, seed, tell
        self.pairs = trunk(network)
        self.settings = SynthesisSettings(steps=scale.steps, seed=seed)

    def scan(self, name: str, features: Sequence[Feature], through: str) -> Run:
        return scan_images(
            self.network,
            self.images,
            features,
            through,
            out=self.folder / name,
            seed=self.seed,
            progress=lambda done, total: self.tell(f"scanning {features[0].layer}", done, total),
        )

    def pair(self, depth: float) -> Pair:
        """The layer at a share of the way through the network."""
        return self.pairs[round(depth * (len(self.pairs) - 1))]

    def units(self, layer: str, count: int) -> list[Feature]:
        """Random units of a layer."""
        channels = self.network.layer(layer).shape[0]
        chosen = np.random.default_rng(self.seed).choice(channels, min(count, channels), False)
        return [Feature(layer=layer, unit=unit) for unit in sorted(chosen.tolist())]

    def exemplars(self) -> list[Entry]:
        """Figure 2."""
        rows = []
        chosen = list(dict.fromkeys(self.pair(depth) for depth in (0.0, 0.5, 1.0)))
        for pair in chosen:
            features = self.units(pair.target, 2)
            file = self.folder / f"{pair.target}-directions.safetensors"
            if not file.is_file():
                count = min(self.scale.centroids, len(self.images) // 4)
                made = find_directions(
                    self.network,
                    pair.target,
                    self.images,
                    count=count,
                    seed=self.seed,
                    progress=self.tell,
                )
                made.save(file)
            directions = Directions.load(file)
            features.append(directions.feature(directions.labels[0], power=2))
            run = self.scan(f"scan-{pair.target}", features, pair.through)
            for feature in run.features:
                columns = run.columns(feature)
                high, low = (
                    run_tiles(run, feature, columns, choose(columns, 4).tolist())
                    for choose in (exciting, inhibiting)
                )
                rows.append(
                    ExemplarRow(
                        label=feature.label, exciting=high, inhibiting=low, group=feature.layer
                    )
                )
        path = self.folder / "figure2.png"
        save(exemplars_figure(rows), path)
        return [
            Entry(
                figure="2",
                title="Maximally exciting and inhibiting images",
                caption="Two random units and a k-means direction in an early, a middle and a "
                "late layer, with the images that excite (MEIs) and inhibit (MIIs) them most. "
                "Whether the two relate is for people to judge.",
                pictures=(path,),
                claims=(),
            )
        ]

    def complete(self) -> list[Entry]:
        """Figures 3 and 13."""
        folder = self.folder / "completeness"
        measured = completeness(
            self.network,
            self.images,
            out=folder / "measured",
            features=min(self.scale.logits, self.network.layer("logits").shape[0]),
            seed=self.seed,
            progress=self.tell,
        )
        _, first, second = write_completeness([measured], folder)
        rows = measured.rows()
        defined = [row for row in rows if row["pearson"] is not None]
        late = [row["pearson"] for row in defined if row["depth"] >= EARLY]
        pixels = rows[0]["pearson"]
        apart = [abs(row["pearson"] - row["spearman"]) for row in defined]
        about = (
            f"{len(measured.features)} random logits, {len(measured.activation):,} images; mean "
            "and standard deviation over the logits, at layers that the whole network goes through."
        )
        return [
            Entry(
                figure="3",
                title="E sums to the activation, but through the first layers",
                caption=f"Correlation of E, the sum of the attribution, with the logit. {about}",
                pictures=(first,),
                claims=(
                    Claim(
                        claim="E correlates with the logit through most layers",
                        paper="close to ceiling",
                        ours=f"r from {min(late):.4f} to {max(late):.4f} at depths from {EARLY}"
                        if late
                        else "undefined: the logits are constant",
                        agrees=min(late) >= CEILING if late else None,
                    ),
                    Claim(
                        claim="through the pixels it does not",
                        paper="deteriorates drastically",
                        ours="undefined" if pixels is None else f"r = {pixels:.3f}",
                        agrees=pixels < min(late) - 0.1 if late and pixels is not None else None,
                    ),
                ),
            ),
            Entry(
                figure="13 A, B",
                title="Other measures of completeness",
                caption=f"Spearman's correlation and the absolute distance. {about} Panel C of the "
                "paper, networks with batch norm, needs such a network: `opponent completeness`.",
                pictures=(second,),
                claims=(
                    Claim(
                        claim="Spearman's correlation says the same as Pearson's",
                        paper="indistinguishable",
                        ours=f"they differ by at most {max(apart, default=0):.3f}, at any layer",
                        agrees=max(apart) < 0.1 if apart else None,
                    ),
                ),
            ),
        ]

    def case_study(self) -> list[Entry]:
        """Figures 4 and 5."""
        pair = self.pair(0.3)
        run = self.scan(f"scan-case-{pair.target}", self.case_units(), pair.through)
        folder = self.folder / "case-study"
        first = run.features[0]
        paths = write_figures(
            run,
            folder,
            features=run.features,
            network=self.network,
            settings=self.settings,
            progress=self.tell,
        )
        columns = run.columns(first)
        dead = [x.label for x in run.features if not len(tense(run.columns(x), 1))]
        a, b = (next(p for p in paths if p.name.startswith(f"figure4{x}-")) for x in ("a", "b-g"))
        return [
            Entry(
                figure="4",
                title=f"Case study of {first.label}",
                caption=f"A: excitation and inhibition through {pair.through} in each image, "
                "coloured by the activation, with lines of equal E. B to G: images that excite, "
                "inhibit, do neither, and do both, apart and at one place.",
                pictures=(a, b),
                claims=(
                    Claim(
                        claim="E follows the activation, so colours and lines agree",
                        paper="well aligned",
                        ours=f"r = {columns.completeness:.4f} over {len(columns.images):,} images",
                        agrees=columns.completeness >= CEILING,
                    ),
                ),
            ),
            Entry(
                figure="5",
                title="Tense images, accentuated and inverted",
                caption="The three tensest images of three units: photograph, accentuation and "
                "inversion for either sign, and the units' feature visualisations. "
                + (f"Without a tense image: {', '.join(dead)}." if dead else ""),
                pictures=tuple(p for p in paths if p.name.startswith("figure5-")),
                claims=(),
            ),
        ]

    def case_units(self) -> list[Feature]:
        """The three units that most of a few images make tense, among random ones."""
        pair = self.pair(0.3)
        candidates = self.units(pair.target, 12)
        run = self.scan(f"scan-candidates-{pair.target}", candidates, pair.through)
        tension = [float(np.median(run.columns(x, maps=False).tension)) for x in run.features]
        deviation = [float(run.columns(x, maps=False).activation.std()) or 1 for x in run.features]
        order = np.argsort(-np.array(tension) / np.array(deviation), kind="stable")
        return [candidates[i] for i in order[:3]]

    def atlases(self) -> list[Entry]:
        """Figures 6, 18 and 19."""
        pair, scale = self.pair(0.3), self.scale
        run = self.scan(f"scan-case-{pair.target}", self.case_units(), pair.through)
        settings = AtlasSettings(
            top=min(scale.top, len(run.images)),
            grid=scale.grid,
            min_images=scale.least,
            steps=scale.steps,
            seed=self.seed,
        )
        entries = []
        for number, feature in enumerate(run.features[: scale.atlases]):
            made = make_atlas(
                run, feature, network=self.network, settings=settings, progress=self.tell
            )
            paths = {path.stem: path for path in write_atlas(made)}
            rho = made.about["icons_against_images"]["spearman"]
            names = ["figure6a", "figure6b", "atlas", "atlas-tension"] if not number else ["atlas"]
            entries.append(
                Entry(
                    figure=("6", "18", "19")[number],
                    title=f"Feature attribution atlas of {feature.label}",
                    caption=f"{made.about['images']:,} images with the largest L2 norm of S, laid "
                    f"out by S; {made.about['cells']} cells with at least {scale.least} images. "
                    "Borders: the activation that each icon gives."
                    + ("" if number else " The second C: mean E⁺ and E⁻ of its images (ours)."),
                    pictures=tuple(paths[name] for name in names),
                    claims=(
                        Claim(
                            claim="icons give the activation that their images have",
                            paper="shown, without a number",
                            ours="too few cells"
                            if rho is None
                            else f"Spearman's ρ = {rho:+.2f}; trustworthiness of the map "
                            f"{made.about['trustworthiness']:.2f}",
                            agrees=None if rho is None else rho > 0.5,
                        ),
                    ),
                )
            )
        return entries

    def toys(self) -> list[Entry]:
        """Figures 7 and 15."""
        pictures, claims = [], []
        for task, name in (("abs", "absolute value"), ("xor", "XOR")):
            folder = self.folder / f"toy-{task}"
            found = toy.study(
                task,
                out=folder,
                seeds=self.scale.seeds,
                seed=self.seed,
                progress=lambda done, total, name=name: self.tell(  # type: ignore[misc]
                    f"toy models of {name}", done, total
                ),
            )
            pictures.append(next(p for p in toy.write_study(found, folder) if p.suffix == ".png"))
            about = [toy.describe(models) for models in found.models.values()]
            widest, narrowest = about[0], about[-1]
            off = [one["off_diagonal"]["mean"] for one in about]
            claims += [
                Claim(
                    claim=f"{name}: with {widest['hidden']} hidden units the best model is perfect",
                    paper="no loss for any of the inputs",
                    ours=f"at most {widest['largest_loss']:.1e} on any input",
                    agrees=widest["largest_loss"] < 1e-4,
                ),
                Claim(
                    claim=f"{name}: narrower models drive outputs that have nothing to do with it",
                    paper="more off-diagonal attributions",
                    ours="mean off-diagonal over diagonal: "
                    + ", ".join(
                        f"{x:.3f} (m = {one['hidden']})" for x, one in zip(off, about, strict=True)
                    ),
                    agrees=off[0] < off[-1] and off == sorted(off),
                ),
            ]
            by_active = [row["mean"] for row in narrowest["loss_by_active_features"]]
            claims.append(
                Claim(
                    claim=f"{name}: the narrowest model's loss grows with the active features",
                    paper="monotonically",
                    ours=", ".join(f"{x:.2g}" for x in by_active) + " with 0 to 6",
                    agrees=by_active == sorted(by_active),
                )
            )
        return [
            Entry(
                figure="7, 15",
                title="Toy models of superposition",
                caption=f"The best of {self.scale.seeds:,} models of each width: attribution of "
                "every output in inputs with one feature, losses by the number of active "
                "features, and how the seeds spread.",
                pictures=tuple(pictures),
                claims=tuple(claims),
            )
        ]

    def shared(self) -> list[Entry]:
        """Figures 8 and 16."""
        measured = measure_features(
            self.network,
            self.images,
            self.folder / "uniqueness",
            settings=UniquenessSettings(
                features=self.scale.features, kmeans=self.scale.centroids, seed=self.seed
            ),
            progress=self.tell,
        )
        found = assess(measured, sensible_top(len(measured.images)))
        paths = write_uniqueness(measured, found, self.network, progress=self.tell)
        pictures = {path.stem.split("-")[0]: path for path in paths}

        def mean(kind: str, by: str, late: bool) -> float:
            rows = [x.value for x in found.table if (x.kind, x.by) == (kind, by)]
            rows = rows[-max(1, len(rows) // 3) :] if late else rows
            return float(np.nanmean(rows))

        activation, l1, l2 = (mean("units", by, True) for by in ("activation", "l1", "l2"))
        row = found.table[0]
        return [
            Entry(
                figure="8",
                title="Features share tense images, not exciting ones",
                caption=f"A: uniqueness of the top {row.top} of {row.images:,} images of "
                f"{self.scale.features} features, layer by layer; chance gives {row.chance:.3f}. "
                "B: exciting and tense images of random features of a deep layer.",
                pictures=(pictures["figure8a"], pictures["figure8b"]),
                claims=(
                    Claim(
                        claim="exciting images are unique to their features",
                        paper="near ceiling in all layers",
                        ours=f"U = {mean('units', 'activation', False):.2f} over all layers, where "
                        f"chance gives {row.chance:.2f}",
                        agrees=mean("units", "activation", False) > row.chance - 0.1,
                    ),
                    Claim(
                        claim="in deep layers, large attributions are to the same images",
                        paper="decreases substantially",
                        ours=f"U = {l1:.2f} by L1 against {activation:.2f} by activation, in the "
                        "last third of the layers",
                        agrees=l1 < activation - 0.1,
                    ),
                    Claim(
                        claim="the L2 norm shares fewer of them than the L1 norm",
                        paper="less",
                        ours=f"U = {l2:.2f} by L2 against {l1:.2f} by L1",
                        agrees=l2 > l1,
                    ),
                ),
            ),
            Entry(
                figure="16",
                title="Images with large attributions across features",
                caption="Images among the top of at least three in four of a layer's features.",
                pictures=(pictures["figure16"],),
                claims=(),
            ),
        ]

    def signs(self) -> list[Entry]:
        """Figure 12."""
        found = weight_signs(self.network, seed=self.seed)
        _, figure = write_weights([found], self.folder / "weights", seed=self.seed)
        interval = found.interval
        return [
            Entry(
                figure="12",
                title="A slight majority of weights is negative",
                caption=f"{found.count:,} weights of {len(found.layers)} layers, divided by their "
                "layer's standard deviation.",
                pictures=(figure,),
                claims=(
                    Claim(
                        claim="more weights are negative than positive",
                        paper="a slight majority, in all networks",
                        ours="no weights"
                        if found.share is None
                        else f"{found.share:.2%}"
                        + (
                            f" (95 % interval over layers {interval[0]:.1%} to {interval[1]:.1%})"
                            if interval
                            else ""
                        )
                        + f"; {found.mostly_negative} of {len(found.layers)} layers",
                        # Undecided where layers drawn anew might say either.
                        agrees=None
                        if not interval or interval[0] <= 0.5 <= interval[1]
                        else interval[0] > 0.5,
                    ),
                ),
            )
        ]

    def inversions(self) -> list[Entry]:
        """Figures 11 and 14."""
        scale, folder = self.scale, self.folder / "inversions"
        found = verify(
            self.network,
            self.images,
            folder,
            layers=min(scale.layers, len(self.pairs)),
            units=scale.units,
            images_each=scale.tense,
            settings=SynthesisSettings(
                steps=scale.steps, seed=self.seed, batch=min(scale.tense, 10)
            ),
            progress=self.tell,
        )
        _, traces, objective = write_verification(found, folder)
        return [
            Entry(
                figure="11",
                title="The objective: dot times cosine",
                caption="The objective of inversions over the plane of h, with the direction "
                "along one axis: computed by the code that the inversions use.",
                pictures=(objective,),
                claims=(),
            ),
            Entry(
                figure="14",
                title="Inversions excite and inhibit",
                caption=f"{scale.units} random units in each of {len(found.layers)} layers, "
                f"{scale.tense} tense images each: the activation that inversions of either sign "
                "give, while they are optimised; median and full range.",
                pictures=(traces,),
                claims=(
                    Claim(
                        claim="inversions move the activation as they should",
                        paper="they do",
                        ours=f"{found.moved} of {found.count} end beyond their photograph's own "
                        "activation",
                        agrees=found.moved > 0.9 * found.count if found.count else None,
                    ),
                ),
            ),
        ]


# Figures that nothing here computes.
_LEFT_OUT = "figure 1 (a drawing of the question), figures 9 and 10 (the experiment with people)"
# Pictures are 300 dots an inch, and a page's inch is 96: shown half as large again as in print.
_SHOWN = 1.5 * 96 / 300


def _write(entries: Sequence[Entry], folder: Path, asked: dict[str, Any], images: ImageSet) -> Path:
    """The page, and what it says as JSON."""

    def shown(path: AnyPath) -> tuple[str, str, int]:
        with local(path) as file, Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        return picture(pixels, side=1800, quality=90), path.stem, round(_SHOWN * pixels.shape[1])

    claims = [claim for entry in entries for claim in entry.claims]
    compared = [claim for claim in claims if claim.agrees is not None]
    described = [
        {
            **asdict(entry),
            "pictures": [str(Path(str(path)).relative_to(folder)) for path in entry.pictures],
        }
        for entry in entries
    ]
    write_text(
        folder / "reproduce.json",
        json.dumps({"asked": asked, "figures": described}, indent=1) + "\n",
    )
    page = render(
        "reproduce.html.j2",
        title=f"The paper's figures on {asked['network']}",
        network=asked["network"],
        count=f"{len(images):,}",
        source=images.source,
        agreeing=sum(bool(claim.agrees) for claim in compared),
        compared=len(compared),
        entries=[
            {"entry": entry, "pictures": [shown(path) for path in entry.pictures]}
            for entry in entries
        ],
        left_out=_LEFT_OUT,
        facts=[
            ("network", asked["network"]),
            ("weights (SHA-256)", asked["weights_sha256"]),
            ("images", f"{len(images):,}: {images.source}"),
            ("image list (SHA-256)", asked["images"]["sha256"]),
            ("scale", ", ".join(f"{k} {v}" for k, v in asked["scale"].items())),
            ("seed", str(asked["seed"])),
            ("versions", ", ".join(f"{k} {v}" for k, v in asked["versions"].items())),
        ],
    )
    path = folder / "index.html"
    write_text(path, page)
    return path
