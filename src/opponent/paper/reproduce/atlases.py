"""Figures 6 and 17 to 19: feature attribution atlases, each of a layer further up."""

from opponent.atlas.atlas import Atlas, AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.paper.reproduce.case_study import DEPTH, scan_tense_units
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.plots.files import write_atlas

# Each with the depth of its layer: in InceptionV1 mixed3b, mixed4b, mixed4d and mixed5a.
FIGURES = {"6": DEPTH, "17": 0.5, "18": 0.7, "19": 0.9}


def atlas_entries(reproduction: Reproduction) -> list[Entry]:
    """An atlas of a tense unit of each of several layers, as many as the scale says."""
    return [
        atlas_entry(reproduction, figure) for figure in [*FIGURES][: reproduction.scale.atlases]
    ]


def atlas_entry(reproduction: Reproduction, figure: str) -> Entry:
    """The atlas of one figure: figure 6 shows how it is made, too.

    Args:
        reproduction: what all figures share.
        figure: one of `FIGURES`.
    """
    scale, whole = reproduction.scale, figure == "6"
    # Figure 6 is of the case study's tensest unit, of which there is a scan.
    run = scan_tense_units(reproduction, FIGURES[figure], 3 if whole else 1)
    settings = AtlasSettings(
        top=min(scale.top, len(reproduction.images)),
        grid=scale.grid,
        min_images=scale.least,
        steps=scale.steps,
        seed=reproduction.seed,
    )
    atlas = make_atlas(
        run,
        run.features[0],
        network=reproduction.network,
        settings=settings,
        progress=reproduction.progress,
    )
    paths = {path.stem: path for path in write_atlas(atlas)}
    names = ["figure6a", "figure6b", "atlas", "atlas-tension"] if whole else ["atlas"]
    return Entry(
        figure=figure,
        title=f"Feature attribution atlas of {run.features[0].label}",
        caption=f"{atlas.about.images:,} images with the largest L2 norm of S, laid "
        f"out by S; {atlas.about.cells} cells with at least {scale.least} images. "
        "Borders: the activation that each icon gives."
        + (" The second C: mean E⁺ and E⁻ of its images (ours)." if whole else ""),
        pictures=tuple(paths[name] for name in names),
        claims=(_claim(atlas),),
    )


def _claim(atlas: Atlas) -> Claim:
    rho = atlas.about.icons_against_images.spearman
    ours = "too few cells"
    if rho is not None:
        trust = atlas.about.trustworthiness
        ours = f"Spearman's ρ = {rho:+.2f}; trustworthiness of the map {trust:.2f}"
    return Claim(
        claim="icons give the activation that their images have",
        paper="shown, without a number",
        ours=ours,
        agrees=None if rho is None else rho > 0.5,
    )
