"""How much is computed for the page: twenty minutes' worth, or the paper's own sizes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is computed.

    Args:
        images: at most so many, drawn at random; None is all.
        measured: images of completeness, of all logits.
        features: units, and k-means directions, of figure 2 and of uniqueness.
        centroids: of k-means.
        atlases: features that an atlas is made of.
        top, grid, least: images of an atlas, cells a side, images that a cell needs.
        layers, units, tense: inversions that are verified: layers, units each, images each.
        steps: of every synthesis.
        seeds: toy models of each width.
        latents, active, learning: of dictionaries: how many latents, how many on, steps.
        known: toy models of each task and width whose features are known.
    """

    images: int | None
    measured: int
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
    latents: int
    active: int
    learning: int
    known: int


SCALES = {
    # Twenty minutes on two cores with the embedded network.
    "quick": Scale(
        images=800, measured=200, features=10, centroids=50, atlases=1, top=400, grid=7, least=4,
        layers=3, units=3, tense=3, steps=50, seeds=32,
        latents=512, active=16, learning=150, known=2,
    ),
    # Source: paper, sections 2, 5 and 6, appendices F, G and H.
    "paper": Scale(
        images=None, measured=1000, features=20, centroids=1000, atlases=4, top=10_000, grid=20,
        least=6, layers=5, units=20, tense=10, steps=100, seeds=1000,
        latents=4096, active=32, learning=2000, known=6,
    ),
}  # fmt: skip
