"""Figures 6, 18 and 19: feature attribution atlases."""

from opponent.atlas.atlas import AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.paper.reproduce.case_study import scan_tense_units
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.plots.files import write_atlas

FIGURES = ("6", "18", "19")


def atlas_entries(reproduction: Reproduction) -> list[Entry]:
    """An atlas of each of the case study's units, as many as the scale says."""
    scale, run = reproduction.scale, scan_tense_units(reproduction)
    settings = AtlasSettings(
        top=min(scale.top, len(run.images)),
        grid=scale.grid,
        min_images=scale.least,
        steps=scale.steps,
        seed=reproduction.seed,
    )
    entries = []
    for number, feature in enumerate(run.features[: scale.atlases]):
        atlas = make_atlas(
            run,
            feature,
            network=reproduction.network,
            settings=settings,
            progress=reproduction.progress,
        )
        paths = {path.stem: path for path in write_atlas(atlas)}
        rho = atlas.about.icons_against_images.spearman
        names = ["figure6a", "figure6b", "atlas", "atlas-tension"] if not number else ["atlas"]
        entries.append(
            Entry(
                figure=FIGURES[number],
                title=f"Feature attribution atlas of {feature.label}",
                caption=f"{atlas.about.images:,} images with the largest L2 norm of S, laid "
                f"out by S; {atlas.about.cells} cells with at least {scale.least} images. "
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
                        f"{atlas.about.trustworthiness:.2f}",
                        agrees=None if rho is None else rho > 0.5,
                    ),
                ),
            )
        )
    return entries
