"""Figures 11 and 14: what inversions optimise, and whether they excite and inhibit."""

from dataclasses import replace

from opponent.paper.inversion_check import check_inversions, write_inversion_check
from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction


def inversion_entries(reproduction: Reproduction) -> list[Entry]:
    """The objective, and inversions of random units of several layers."""
    scale, folder = reproduction.scale, reproduction.folder / "inversions"
    check = check_inversions(
        reproduction.network,
        reproduction.images,
        out=folder,
        layers=min(scale.layers, len(reproduction.pairs)),
        units=scale.units,
        images_each=scale.tense,
        settings=replace(reproduction.settings, batch=min(scale.tense, 10)),
        progress=reproduction.progress,
    )
    _, traces, objective = write_inversion_check(check, folder)
    return [
        Entry(
            figure="11",
            title="The objective: dot times cosine",
            caption="The objective of inversions over the plane of h, with the direction "
            "along one axis: computed by the code that the inversions use.",
            pictures=(objective,),
        ),
        Entry(
            figure="14",
            title="Inversions excite and inhibit",
            caption=f"{scale.units} random units in each of {len(check.layers)} layers, "
            f"{scale.tense} tense images each: the activation that inversions of either sign "
            "give, while they are optimised; median and full range.",
            pictures=(traces,),
            claims=(
                Claim(
                    claim="inversions move the activation as they should",
                    paper="they do",
                    ours=f"{check.moved} of {check.count} end beyond their photograph's own "
                    "activation",
                    agrees=check.moved > 0.9 * check.count if check.count else None,
                ),
            ),
        ),
    ]
