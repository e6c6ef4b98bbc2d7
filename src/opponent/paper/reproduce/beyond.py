"""Beyond the paper: which inhibition is functional, and which is superposition?

Controls for figure 8, dictionaries of hidden layers, toy models whose features are known, and what
features do without their inhibition. The paper asks the question (section 7) and leaves it open.
"""

import numpy as np

from opponent.core.text import file_name
from opponent.dictionaries.dictionary import Dictionary
from opponent.dictionaries.learnt import TrainingSettings
from opponent.dictionaries.train import learn_dictionary
from opponent.explain.disinhibition.measure import SET, disinhibit
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.reproduce.case_study import DEPTH, scan_tense_units
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.paper.toy.interference_results import summarise, write_interference
from opponent.paper.toy.interference_study import InterferenceSettings, study_interference
from opponent.paper.uniqueness.assessment import assess, sensible_top
from opponent.paper.uniqueness.comparisons import Contrast, Contrasts
from opponent.paper.uniqueness.contrasts import contrast
from opponent.paper.uniqueness.measure import UniquenessSettings, measure_features
from opponent.paper.uniqueness.results import write_uniqueness
from opponent.plots.disinhibition import plot_disinhibition
from opponent.plots.layout import save
from opponent.selection import tense
from opponent.storage.files import AnyPath, atomic_write, local

CHAPTER = "beyond the paper"
# Layers that dictionaries are learnt for, by their depth: the case study's, and figure 8b's.
DEPTHS = (DEPTH, 0.7)
# Widths of the toy models: the widest and the narrowest of the paper.
WIDTHS = (12, 6)


def beyond_entries(reproduction: Reproduction) -> list[Entry]:
    """What the paper leaves open: controls, dictionaries, toy models, and a causal test."""
    dictionaries = {
        pair: [_dictionary(reproduction, pair, random=random) for random in (False, True)]
        for pair in dict.fromkeys(reproduction.pair_at(depth) for depth in DEPTHS)
    }
    return [
        *_sharing(reproduction, dictionaries),
        _toys(reproduction),
        _without_inhibition(reproduction, dictionaries[reproduction.pair_at(DEPTH)][0]),
    ]


def _dictionary(reproduction: Reproduction, pair: LayerPair, *, random: bool) -> Dictionary:
    """A dictionary of a pair's through layer; a random one has learnt nothing of it."""
    scale = reproduction.scale
    # Of few images as many latents as they have vectors to learn from.
    grid = reproduction.network.grid(pair.through)
    least = len(reproduction.images) // 2 * grid.height * grid.width
    name = f"{file_name(pair.through)}{'-random' if random else ''}"
    folder = reproduction.folder / "dictionaries"
    file = folder / f"{name}.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        learnt = learn_dictionary(
            reproduction.network,
            reproduction.images,
            pair.through,
            settings=TrainingSettings(
                latents=max(1, min(scale.latents, least)),
                active=max(1, min(scale.active, least)),
                steps=scale.learning,
                batch=1024,
                random=random,
                seed=reproduction.seed,
            ),
            checkpoints=str(folder / name),
            progress=lambda what, done, total: reproduction.progress(
                f"{pair.through}: {what}", done, total
            ),
        )
        with atomic_write(file) as temporary:
            learnt.dictionary.save(temporary)
    with local(file) as path:
        return Dictionary.load(path)


def _sharing(
    reproduction: Reproduction, dictionaries: dict[LayerPair, list[Dictionary]]
) -> list[Entry]:
    """Uniqueness beside its controls, in channels and in dictionaries."""
    scale = reproduction.scale
    settings = UniquenessSettings(
        features=scale.features, kmeans=scale.centroids, seed=reproduction.seed
    )
    # The same question as figure 8's, whose measurements are there.
    plain = measure_features(
        reproduction.network,
        reproduction.images,
        out=reproduction.folder / "uniqueness",
        settings=settings,
        progress=reproduction.progress,
    )
    m = sensible_top(len(plain.images))
    found = contrast(plain, m)
    latents = measure_features(
        reproduction.network,
        reproduction.images,
        out=reproduction.folder / "latents",
        layers=[f"{pair.target}:{pair.through}" for pair in dictionaries],
        dictionaries=[x for of_pair in dictionaries.values() for x in of_pair],
        settings=settings,
        progress=reproduction.progress,
    )
    in_latents = contrast(latents, m)
    paths = write_uniqueness(
        reproduction.network, latents, assess(latents, m), in_latents,
        progress=reproduction.progress,
    )  # fmt: skip
    controls = reproduction.folder / "uniqueness" / f"controls-m{m}.png"
    return [
        Entry(
            chapter=CHAPTER,
            figure="8, controls",
            title="What features share beyond features that were never learnt",
            caption="Uniqueness of figure 8 beside that of the same features with their weights in "
            "another order, and at random: alone, over the norm of h, and matched by it.",
            pictures=(controls,),
            claims=tuple(_sharing_claims(found)),
        ),
        Entry(
            chapter=CHAPTER,
            figure="8, dictionaries",
            title="What a dictionary takes away",
            caption=f"Dictionaries of {scale.latents:,} latents, {scale.active} on, of two layers; "
            "of the one called random the directions have learnt nothing.",
            pictures=tuple(x for x in paths if x.name.startswith("dictionaries-")),
            claims=tuple(_remaining_claims(in_latents)),
        ),
    ]


def _sharing_claims(found: Contrasts) -> list[Claim]:
    claims = []
    for by, name in (("l1", "L1"), ("l2", "L2")):
        rows = [
            x
            for x in found.sharing
            if (x.kind, x.basis, x.by, x.control) == ("units", "channels", by, "permuted")
        ]
        alone, matched = ([x for x in rows if x.given == y] for y in ("alone", "matched"))
        claims.append(
            Claim(
                claim=f"units share more images by {name} than with their weights permuted",
                paper="not asked",
                ours=f"{_above(alone)}; with images matched by the norm of h {_above(matched)}",
                agrees=None,
            )
        )
    return claims


def _above(rows: list[Contrast]) -> str:
    above = sum(x.more.low > 0 for x in rows)
    mean = float(np.nanmean([x.more.value for x in rows]))
    return f"in {above} of {len(rows)} layers (mean difference of U {mean:+.3f})"


def _remaining_claims(found: Contrasts) -> list[Claim]:
    rows = {(x.layer, x.basis, x.gradient): x for x in found.remaining if x.kind == "units"}
    claims = []
    for (layer, basis, gradient), row in rows.items():
        if gradient == "learnt":
            permuted = rows[layer, basis, "permuted"]
            claims.append(
                Claim(
                    claim=f"{layer}: tension that remains in the dictionary {basis}",
                    paper="not asked",
                    ours=f"{row.tension.value:.0%}, with permuted weights "
                    f"{permuted.tension.value:.0%}; L1 norm with the rest counted by channels "
                    f"{row.l1_with_rest.value:.0%}",
                    agrees=None,
                )
            )
    return claims


def _toys(reproduction: Reproduction) -> Entry:
    """Toy models, where it is known which inhibition is functional."""
    folder = reproduction.folder / "toy-interference"
    study = study_interference(
        out=folder,
        hidden=WIDTHS,
        settings=InterferenceSettings(seeds=reproduction.scale.known, seed=reproduction.seed),
        progress=reproduction.progress,
    )
    paths = write_interference(study, folder)
    claims = list[Claim]()
    for row in summarise(study):
        areas = row.get("area_opposed")
        if row["task"] == "veto" and areas and areas["models"]:
            known, learnt = (areas[f"remaining, {x}"]["mean"] for x in ("true", "learnt"))
            claims.append(
                Claim(
                    claim=f"tension that remains tells functional inhibition, {row['hidden']} "
                    "hidden units",
                    paper="not asked",
                    ours=f"area {known:.2f} in true features, {learnt:.2f} in learnt latents "
                    "(chance 0.50)",
                    agrees=None,
                )
            )
    return Entry(
        chapter=CHAPTER,
        figure="7, known features",
        title="Toy models whose features are known",
        caption="Attribution in hidden units, in true features and in learnt latents; tension by "
        "width; and how well what remains tells functional inhibition from interference.",
        pictures=tuple(x for x in paths if x.suffix == ".png"),
        claims=tuple(claims),
    )


def _without_inhibition(reproduction: Reproduction, dictionary: Dictionary) -> Entry:
    """The case study's unit when its inhibition is taken away."""
    run = scan_tense_units(reproduction, DEPTH, 3)
    # Of few images few may be tense, or none.
    counts = [len(tense(run.columns(x, maps=False), 20)) for x in run.features]
    feature = run.features[int(np.argmax(counts))]
    if not max(counts):
        return Entry(
            chapter=CHAPTER,
            figure="1, tested",
            title="Without inhibition",
            caption="None of the case study's units has a tense image among these.",
            pictures=(),
        )
    folder: AnyPath = reproduction.folder / "without-inhibition"
    found = disinhibit(
        reproduction.network,
        reproduction.images,
        [feature],
        reproduction.pair_at(DEPTH).through,
        dictionary=dictionary,
        k=min(SET, reproduction.network.map_shape(reproduction.pair_at(DEPTH).through)[0]),
        out=folder,
        seed=reproduction.seed,
        progress=reproduction.progress,
    )
    picture = folder / "before-after.png"
    save(plot_disinhibition(found), picture)
    return Entry(
        chapter=CHAPTER,
        figure="1, tested",
        title=f"{feature.label} without its inhibition",
        caption="Its activation in its own, in tense and in silent images, as they are and without "
        "inhibition; the rest of the network is run on, nothing is estimated.",
        pictures=(picture,),
        claims=tuple(
            Claim(claim=f"without inhibition: {name}", paper="not asked", ours=said, agrees=None)
            for name, said in found.facts()
        ),
    )
