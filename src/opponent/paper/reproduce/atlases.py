"""Figures 6 and 17 to 19: feature attribution atlases, each of a layer further up."""

from opponent.atlas.atlas import AtlasSettings
from opponent.atlas.build import make_atlas
from opponent.paper.reproduce.case_study import DEPTH, scan_tense_units
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.plots.files import write_atlas

# Each with the depth of its layer: in InceptionV1 mixed3b, mixed4b, mixed4d and mixed5a.
FIGURES = {"6": DEPTH, "17": 0.5, "18": 0.7, "19": 0.9}


def atlas_entries(reproduction: Reproduction) -> list[Entry]:
    """An atlas of a tense unit of each of several layers, as many as the scale says."""
    scale = reproduction.scale
    settings = AtlasSettings(
        top=min(scale.top, len(reproduction.images)),
        grid=scale.grid,
        min_images=scale.least,
        steps=scale.steps,
        seed=reproduction.seed,
    )
    entries = []
    for number, (figure, depth) in enumerate([*FIGURES.items()][: scale.atlases]):
        # The case study's tensest unit, of which there is a scan.
        run = scan_tense_units(reproduction, depth, 1 if number else 3)
        feature = run.features[0]
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
                figure=figure,
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
