"""Random networks of all kinds of layers and layouts, against a slow reference.

`python -m benchmarks.fuzz --networks 2000` prints how many features agreed, which were refused and
why, and every disagreement; it ends with an error if there is one.
"""

import argparse
import collections
import re
import sys
from pathlib import Path
from random import Random

import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.random_networks import READ_BEFORE, RandomNetwork, random_network, slowly

import opponent
from opponent import Feature, Network, Preprocessing
from opponent.attribution.all_units import AllUnits, scores
from opponent.attribution.attribute import checked_plan
from opponent.core.errors import UnknownGeometry, UnknownLayout

# Largest difference, relative to the largest value, that is rounding in double precision.
ROUNDING = 1e-9


def compare(seed: int) -> tuple[str, str]:
    """Compare one feature of the network of a seed, and all units of its layer.

    Returns:
        'agreed', 'refused' or 'WRONG', and about what.
    """
    random, made = Random(seed), random_network(seed)
    network = Network(made.module, preprocessing=Preprocessing(size=made.size))
    x = torch.randn(
        2, 3, *made.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    target = random.randrange(1, len(made.kinds))
    through = random.randrange(target)
    state = made.states[target]
    unit = random.randrange(state.channels)
    place = (random.randrange(state.rows), random.randrange(state.columns))
    if state.prefix and random.random() < 0.5:
        place = (random.randrange(state.prefix),)
    what = f"seed {seed}: {' > '.join(made.kinds)}; {target}:{unit}@{place} through {through}"
    try:
        return _compare(made, network, x, (through, target), unit, place, what)
    except (UnknownLayout, UnknownGeometry) as error:
        return "refused", re.sub(r"'?\d+'?", "N", str(error).partition("; say")[0])
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return "refused", "PyTorch itself cannot differentiate this network"
    except ValueError as error:
        # Tokens whose grid is not known are a list, with one place in each row.
        told = ("does not depend on", "does not lie before", "rows by 1 columns")
        if any(part in str(error) for part in told):
            return "refused", re.sub(r"[\w@,:]*\d+[\w@,:]*", "N", str(error))
        raise


def _compare(
    made: RandomNetwork,
    network: Network,
    x: torch.Tensor,
    layers: tuple[int, int],
    unit: int,
    place: tuple[int, ...],
    what: str,
) -> tuple[str, str]:
    through, target = layers
    names = network.layer(str(target)).tokens
    if len(place) == 1:
        feature = Feature(layer=str(target), unit=unit, token=names[place[0]])
    else:
        feature = Feature(layer=str(target), unit=unit, position=place)
    ours = opponent.attribute(network, x, feature, str(through))
    slow = slowly(made, x, through, target, unit, place)
    grid = ours.attribution[:, :, *ours.grid.slices]
    below = ours.attribution[:, :, ours.grid.height :].flatten(2)[..., : len(ours.tokens)]
    pairs = [(ours.activation, slow.activation), (grid, slow.grid), (below, slow.prefix)]
    for name, (value, expected) in zip(("activation", "S", "tokens"), pairs, strict=True):
        if not _close(value, expected, slow.grid):
            return "WRONG", f"{name} of {what}"
    # All units of the layer, as a scan of 'LAYER:*' computes them.
    star = AllUnits(layer=str(target), position=feature.position, token=feature.token)
    plan = checked_plan(network, star.probes(network), str(through), x)
    plan = type(plan)(**{**plan.__dict__, "features": plan.features[:1]})
    every = scores(network, x, plan)
    for other in range(min(made.states[target].channels, 3)):
        slow = slowly(made, x, through, target, other, place)
        s = torch.cat([slow.grid.flatten(1), slow.prefix.flatten(1)], 1)
        expected = torch.stack([s.clamp(min=0).sum(1), -s.clamp(max=0).sum(1)], 1)
        if not _close(every[:, other, 1:3], expected, slow.grid):
            return "WRONG", f"all units of {what}"
    kind = "activation" if made.kinds[target] in READ_BEFORE else made.states[target].lies
    return "agreed", f"{made.states[through].lies} to {kind}"


def _close(value: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> bool:
    if value.shape != expected.shape:
        return False
    largest = max(float(expected.abs().amax()) if expected.numel() else 0, float(scale.abs().max()))
    return bool(((value - expected).abs() <= ROUNDING * max(largest, 1e-12)).all())


def main() -> None:
    """Compare as many networks as asked for, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    counts = collections.Counter[tuple[str, str]]()
    for seed in track(range(given.first, given.first + given.networks), "comparing"):
        try:
            result = compare(seed)
        except Exception as error:
            result = ("WRONG", f"seed {seed} failed: {type(error).__name__}: {error}")
        counts[result] += 1
        if result[0] == "WRONG":
            print(*result, flush=True)
    totals = collections.Counter[str]()
    for (outcome, what), count in sorted(counts.items(), key=lambda item: -item[1]):
        totals[outcome] += count
        print(f"{count:6} {outcome}: {what}")
    print(", ".join(f"{count} {outcome}" for outcome, count in totals.items()))
    sys.exit(totals["WRONG"] > 0)


if __name__ == "__main__":
    main()
