"""Figures 3 and 13: whether E, the sum of the attribution, follows the activation."""

from typing import Any

from opponent.paper.completeness import completeness, write_completeness
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction, sample_images
from opponent.storage.files import AnyPath

# 'Near ceiling', as a number: the paper gives none. Ours.
CEILING = 0.99
# 'Very early layers', as a relative depth: the first fifth. Ours.
EARLY = 0.2


def completeness_entries(reproduction: Reproduction) -> list[Entry]:
    """Completeness of all logits through all bottlenecks."""
    folder = reproduction.folder / "completeness"
    measured = completeness(
        reproduction.network,
        sample_images(reproduction.images, reproduction.scale.measured, reproduction.seed),
        out=folder / "measured",
        seed=reproduction.seed,
        progress=reproduction.progress,
    )
    _, figure3, figure13 = write_completeness([measured], folder)
    about = (
        f"{len(measured.features):,} logits, {len(measured.activation):,} images; mean "
        "and standard deviation over the logits, at layers that the whole network goes through."
    )
    rows, undefined = measured.rows(), f"no r: {measured.no_r or 'the logits are constant'}"
    return [
        _pearson_entry(rows, about, undefined, figure3),
        _spearman_entry(rows, about, undefined, figure13),
    ]


def _pearson_entry(
    rows: list[dict[str, Any]], about: str, undefined: str, picture: AnyPath
) -> Entry:
    defined = [row for row in rows if row["pearson"] is not None]
    late = [row["pearson"] for row in defined if row["depth"] >= EARLY]
    pixels = rows[0]["pearson"]
    return Entry(
        figure="3",
        title="E sums to the activation, but through the first layers",
        caption=f"Correlation of E, the sum of the attribution, with the logit. {about}",
        pictures=(picture,),
        claims=(
            Claim(
                claim="E correlates with the logit through most layers",
                paper="close to ceiling",
                ours=f"r from {min(late):.4f} to {max(late):.4f} at depths from {EARLY}, "
                f"mean |E - f| of {_most(rows)} sd at most"
                if late
                else undefined,
                agrees=min(late) >= CEILING if late else None,
            ),
            Claim(
                claim="through the pixels it does not",
                paper="deteriorates drastically",
                ours=undefined
                if pixels is None
                else f"r = {pixels:.3f}, mean |E - f| = {rows[0]['l1_in_sd']:.2g} sd",
                agrees=pixels < min(late) - 0.1 if late and pixels is not None else None,
            ),
        ),
    )


def _most(rows: list[dict[str, Any]]) -> str:
    """The largest mean distance at the depths that the claim is about."""
    distances = [row["l1_in_sd"] for row in rows if row["depth"] >= EARLY]
    return f"{max(distance for distance in distances if distance is not None):.2g}"


def _spearman_entry(
    rows: list[dict[str, Any]], about: str, undefined: str, picture: AnyPath
) -> Entry:
    defined = [row for row in rows if row["pearson"] is not None]
    apart = [abs(row["pearson"] - row["spearman"]) for row in defined]
    return Entry(
        figure="13 A, B",
        title="Other measures of completeness",
        caption=f"Spearman's correlation and the absolute distance. {about} Panel C of the "
        "paper, networks with batch norm, needs such a network: `opponent completeness`.",
        pictures=(picture,),
        claims=(
            Claim(
                claim="Spearman's correlation says the same as Pearson's",
                paper="indistinguishable",
                ours=f"they differ by at most {max(apart):.3f}, at any layer"
                if apart
                else undefined,
                agrees=max(apart) < 0.1 if apart else None,
            ),
        ),
    )
