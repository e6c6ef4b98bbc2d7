"""E of all logits by forward differentiation against a few by backward passes, in one run.

    python -m benchmarks.completeness MODEL[=FILE] FOLDER [--images 16] [--backward 20]

Through every layer that the whole network goes through.
"""

import argparse
import time

import numpy as np
import torch

import opponent
from opponent import Feature
from opponent.cli.opening import open_network
from opponent.geometry.bottlenecks import through_layers
from opponent.images.loader import stream
from opponent.models.network import LOGITS
from opponent.paper.layer_totals import totals_by_feature, totals_by_layer


def main() -> None:
    """Print both times, the ratio of logits in equal time, and how far the two differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--backward", type=int, default=20)
    given = parser.parse_args()
    network = open_network(given.model)
    images = opponent.open_images(given.folder, size=network.preprocessing.size)
    some = [images[k] for k in range(0, len(images), max(1, len(images) // given.images))]
    inputs = network.inputs(np.stack(list(stream(some[: given.images], network.preprocessing.fit))))
    names = [x.layer for x in through_layers(network, LOGITS) if x.bottleneck]
    count = network.layer(LOGITS).shape[0]
    every = [network.resolve(Feature(layer=LOGITS, unit=unit)) for unit in range(count)]
    few = every[:: max(1, count // given.backward)][: given.backward]
    times, found = [], []
    for measure, features in ((totals_by_layer, every), (totals_by_feature, few)):
        start = time.perf_counter()
        found.append(measure(network, inputs, features, names)[1])
        times.append(time.perf_counter() - start)
    rows = [every.index(feature) for feature in few]
    apart = float((found[0][:, rows] - found[1]).abs().max() / found[1].abs().max())
    ratio = (count / times[0]) / (len(few) / times[1])
    threads = torch.get_num_threads()
    print(f"{network.name}, {len(inputs)} images, {len(names)} layers, {threads} threads")
    print(f"{count:,} logits by forward differentiation: {times[0]:.2f} s")
    print(f"{len(few)} logits by backward passes: {times[1]:.2f} s")
    print(f"{ratio:.0f} times as many logits in the same time; they differ by {apart:.1e}")


if __name__ == "__main__":
    main()
