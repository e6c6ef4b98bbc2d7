"""Figure 12: the signs of a network's weights."""

from opponent.paper.reproduce.entries import Claim, Entry
from opponent.paper.reproduce.reproduction import Reproduction
from opponent.paper.weight_signs import WeightSigns, weight_signs, write_weights


def weight_entries(reproduction: Reproduction) -> list[Entry]:
    """How many of the network's weights are negative."""
    signs = weight_signs(reproduction.network, seed=reproduction.seed)
    _, figure = write_weights([signs], reproduction.folder / "weights", seed=reproduction.seed)
    return [
        Entry(
            figure="12",
            title="A slight majority of weights is negative",
            caption=f"{signs.count:,} weights of {len(signs.layers)} layers, divided by their "
            "layer's standard deviation.",
            pictures=(figure,),
            claims=(_claim(signs),),
        )
    ]


def _claim(signs: WeightSigns) -> Claim:
    ours, interval = "no weights", signs.interval
    if signs.share is not None:
        ours = f"{signs.share:.2%}"
        if interval:
            ours += f" (95 % interval over layers {interval[0]:.1%} to {interval[1]:.1%})"
        ours += f"; {signs.mostly_negative} of {len(signs.layers)} layers"
    # Undecided where layers drawn anew might say either.
    undecided = not interval or interval[0] <= 0.5 <= interval[1]
    return Claim(
        claim="more weights are negative than positive",
        paper="a slight majority, in all networks",
        ours=ours,
        agrees=None if undecided or not interval else interval[0] > 0.5,
    )
